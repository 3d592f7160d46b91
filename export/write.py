"""Write a bundle's files: weights, the forward program, gradient graphs of every format, and the manifest."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from jboost.engine.backends.registry import ENGINES, default_batch, time_engines
from jboost.engine.backends.request import RunRequest
from jboost.engine.bundle import CONFIG, Artefact, Bundle, BundleConfig, Timing, artefact_of
from jboost.engine.errors import one_line
from jboost.engine.system.machine import machine_name

from .checkpoints.load import LoadedCheckpoint
from .compiled.workers import Workers, worker_count
from .compiled.writing import PackageWriter
from .forward import FORWARD_ATOL, FORWARD_RTOL, save_forward_program, verify_forward_program
from .onnx.graphs import write_gradients
from .request import ExportRequest
from .stages import Stages, graph_stages, package_stages
from .trt.plans import write_plans
from .trt.targets import Target

_PACKAGES = ("jboost", "torch", "numpy", "safetensors", "onnx", "onnxscript")


def write_artefacts(
    folder: Path,
    loaded: LoadedCheckpoint,
    source: str,
    request: ExportRequest,
    *,
    l0: float | None,
    formats: tuple[str, ...],
    onnx_dtypes: tuple[str, ...],
    targets: tuple[Target, ...],
    batch_size: int | None,
    device: str,
    say: Callable[[str], None],
    on_progress: Callable[[int, int], None],
) -> dict[str, float]:
    """Write and verify every requested file in `folder`; the manifest comes last.

    Args:
        folder: an empty folder.
        loaded: the checkpoint.
        source: the checkpoint's file name.
        request: the export request.
        l0: mean realness of real images; None if unknown.
        formats: ``"onnx"``, ``"compile"``, ``"trt"``; with ``"trt"``, ``"onnx"`` too: plans are built from ONNX graphs.
        onnx_dtypes: the request's dtypes that are written as ONNX.
        targets: GPUs to build TensorRT plans for.
        batch_size: batch size of packages and plans; None for the device's default.
        device: torch device string to compile packages for.
        say: called with a line of progress at each stage.
        on_progress: called with the number of finished stages and of all stages whenever one ends.

    Returns:
        Manifest name -> seconds.

    Raises:
        BadInputError: the model has an operator without a rule.
        FailureError: an artefact does not match the model.
        OSError: a file cannot be written.
    """
    stages = Stages(_stage_count(request, formats, onnx_dtypes, targets), say, on_progress)
    count = worker_count(_weight_bytes(loaded.model), device) if "compile" in formats else 0
    here = batch_size or default_batch(device)
    with Workers(count) as workers, _threads_beside(count):
        artefacts, seconds = _write(
            folder,
            loaded,
            request,
            l0=l0,
            formats=formats,
            onnx_dtypes=onnx_dtypes,
            targets=targets,
            batch_size=here,
            on_gpu=batch_size or default_batch("cuda"),
            device=device,
            workers=workers,
            stages=stages,
        )
    info = loaded.info
    config = BundleConfig(
        architecture=info.arch,
        num_classes=info.num_classes,
        in_channels=info.in_channels,
        resolutions=request.resolutions,
        mean=tuple(info.mean),
        std=tuple(info.std),
        l0=l0,
        class_names=None if info.class_names is None else tuple(info.class_names),
        source={"file": source, "sha256": loaded.sha256},
        versions=_versions(),
        artefacts=artefacts,
    )
    (folder / CONFIG).write_text(config.to_json(), encoding="utf-8")
    if formats:
        say("timing the engines")  # last, when no worker disturbs it
        config = replace(config, timings=_timings(Bundle(folder, trust_code=True), request, here))
        (folder / CONFIG).write_text(config.to_json(), encoding="utf-8")
        stages.end()
    return seconds


@contextmanager
def _threads_beside(workers: int) -> Iterator[None]:
    """While active, torch leaves a core to each worker: its threads wait for each other, so one without a core delays all."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before - workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def _stage_count(
    request: ExportRequest, formats: tuple[str, ...], onnx_dtypes: tuple[str, ...], targets: tuple[Target, ...]
) -> int:
    """Weights, forward program and timings, and the stages of each format."""
    as_onnx = replace(request, dtypes=onnx_dtypes)
    return (
        2
        + bool(formats)
        + ("onnx" in formats) * graph_stages(as_onnx)
        + ("trt" in formats) * len(targets) * graph_stages(as_onnx)
        + ("compile" in formats) * package_stages(request)
    )


def _weight_bytes(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())


def _write(
    folder: Path,
    loaded: LoadedCheckpoint,
    request: ExportRequest,
    *,
    l0: float | None,
    formats: tuple[str, ...],
    onnx_dtypes: tuple[str, ...],
    targets: tuple[Target, ...],
    batch_size: int,
    on_gpu: int,
    device: str,
    workers: Workers,
    stages: Stages,
) -> tuple[dict[str, Artefact], dict[str, float]]:
    """Every file but the manifest: manifest name -> entry, and -> seconds."""
    info, model, sizes, say = loaded.info, loaded.model, request.resolutions, stages.say
    seconds: dict[str, float] = {}
    artefacts: dict[str, Artefact] = {}

    start = perf_counter()
    say("writing model.safetensors")
    # Contiguous copies: safetensors refuses views and shared storage, and checkpoints may hold both.
    state = {k: v.detach().clone().contiguous() for k, v in model.state_dict().items()}
    # Not save_file: only the owner may read its file (safetensors 0.8), and a bundle is meant to be shared.
    (folder / "model.safetensors").write_bytes(save(state))
    artefacts["weights"] = artefact_of(folder, "model.safetensors")
    seconds["weights"] = perf_counter() - start
    stages.end()

    common: dict[str, Any] = {"in_channels": info.in_channels, "l0": l0}

    start = perf_counter()
    say("tracing forward.pt2")
    save_forward_program(model, folder / "forward.pt2", in_channels=info.in_channels, resolutions=sizes)
    seconds["forward"] = perf_counter() - start

    packages = None
    if "compile" in formats:  # early, because the workers need nothing of what follows
        packages = PackageWriter(
            folder, model, request, batch_size=batch_size, device=device, workers=workers, stages=stages, **common
        )
        packages.begin()

    start = perf_counter()
    say("verifying forward.pt2")
    errors = verify_forward_program(
        model,
        folder / "forward.pt2",
        in_channels=info.in_channels,
        resolutions=sizes,
        atol=FORWARD_ATOL if request.atol is None else request.atol,
        rtol=FORWARD_RTOL if request.rtol is None else request.rtol,
    )
    artefacts["forward"] = artefact_of(folder, "forward.pt2", errors=errors)
    seconds["forward"] += perf_counter() - start
    stages.end()

    # Metadata for a graph that travels without its manifest. Nothing here may change from run to run.
    metadata = {"architecture": info.arch, "checkpoint_sha256": loaded.sha256, "jboost": _versions()["jboost"]}
    graphs: dict[str, tuple[Artefact, float]] = {}
    if "onnx" in formats:
        as_onnx = replace(request, dtypes=onnx_dtypes)
        with stages.several(graph_stages(as_onnx)) as begin:
            graphs |= write_gradients(folder, model, as_onnx, metadata=metadata, say=begin, **common)
    if "trt" in formats:
        plans, onnx = replace(request, dtypes=onnx_dtypes), {name: artefact for name, (artefact, _) in graphs.items()}
        with stages.several(len(targets) * graph_stages(plans)) as begin:
            graphs |= write_plans(folder, model, plans, onnx, targets=targets, batch_size=on_gpu, say=begin, **common)
    if packages is not None:
        graphs |= packages.finish()
    artefacts |= {name: artefact for name, (artefact, _) in graphs.items()}
    seconds |= {name: taken for name, (_, taken) in graphs.items()}

    return artefacts, seconds


def _timings(bundle: Bundle, request: ExportRequest, batch_size: int) -> tuple[Timing, ...]:
    """Time briefly every engine that can run the new bundle. One objective suffices: it does not affect the time."""
    config, found = bundle.config, []
    machine = machine_name()

    def skip(name: str, e: Exception) -> None:
        logging.getLogger("jboost").warning("engine %s is not timed: %s: %s", name, type(e).__name__, one_line(e))

    for size in request.resolutions:
        for dtype in request.dtypes:
            run_request = RunRequest(request.objectives[0], config.l0, size, dtype=dtype)
            engines = [
                engine
                for engine in ENGINES.values()
                if engine.probe().available and engine.why_unusable(bundle, run_request) is None
            ]
            # The export is verified by now, so an engine that fails here is skipped.
            runners, times = time_engines(bundle, engines, run_request, batch_size=batch_size, on_failure=skip)
            for name, runner in runners.items():
                if name in times:
                    count = runner.batch_size or batch_size
                    found.append(Timing(machine, name, dtype, size, count, times[name]))
                runner.__exit__(None, None, None)
    return tuple(found)
