"""From a checkpoint to a bundle: written aside, verified, and renamed."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from safetensors.torch import save

from jboost.engine.bundle import CONFIG, Artefact, Bundle, BundleConfig, Timing, artefact_of, is_bundle
from jboost.engine.errors import BadInputError
from jboost.engine.machine import machine_name
from jboost.engine.objectives import resolve_objective
from jboost.engine.registry import DEFAULT_BATCH, ENGINES
from jboost.engine.samples import open_samples
from jboost.engine.samples.files import cannot_write
from jboost.engine.torch_device import find_device
from jboost.engine.trial import time_runners

from .aoti import check_compiler
from .checkpoint import LoadedCheckpoint, load_checkpoint
from .gradients import Wanted, check_dtypes, write_gradients
from .l0 import mean_realness
from .packages import write_packages
from .plans import Target, find_targets, remark_on_plans, write_plans
from .program import FORWARD_ATOL, FORWARD_RTOL, save_forward, verify_forward

FORMATS = ("onnx", "compile", "trt")
_PACKAGES = ("jboost", "torch", "numpy", "safetensors", "onnx", "onnxscript")


@dataclass(frozen=True)
class Exported:
    """What `export_bundle` made: the bundle, remarks on what was assumed, and the seconds that each file took."""

    bundle: Bundle
    notes: tuple[str, ...]
    seconds: dict[str, float]


def export_bundle(
    checkpoint: Path,
    out: Path,
    *,
    arch: str | None = None,
    num_classes: int | None = None,
    normalization: str | None = None,
    resolutions: tuple[int, ...] | None = None,
    formats: tuple[str, ...] = ("onnx",),
    objectives: tuple[str, ...] | None = None,
    dtypes: tuple[str, ...] = ("fp32",),
    batch_size: int | None = None,
    gpus: tuple[str, ...] = (),
    opset: int | None = None,
    real: Path | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    device: str = "auto",
    on_stage: Callable[[str], None] | None = None,
) -> Exported:
    """Write a verified bundle.

    Args:
        checkpoint: any file that `load_checkpoint` reads.
        out: the bundle's folder. A bundle that is already there is replaced, anything else is left alone.
        arch, num_classes, normalization: what the checkpoint does not tell.
        resolutions: image sizes in pixels; by default the checkpoint's own.
        formats: gradient graphs to write: ``"onnx"``, ``"compile"`` (for this kind of machine, a minute or so each), ``"trt"`` (for
            a kind of GPU, built from the ONNX graphs, which are then written as well), several, or nothing for the forward program
            alone.
        objectives: whose gradients; by default ``joint`` where l0 is known, else ``bce``.
        dtypes: of the network inside the gradient graphs, ``"fp32"``, ``"fp16"`` or, compiled only, ``"bf16"``.
        batch_size: of compiled packages and TensorRT plans; None for 32 on a CPU and 256 on a GPU.
        gpus: compute capabilities to build TensorRT plans for, like ``"sm_86"``; by default the GPU at hand.
        opset: ONNX opset; None for the default.
        real: labelled real images, from which l0 is computed (eq. 13); without, the checkpoint's own l0 is kept.
        atol, rtol: largest error of a logit and largest relative error of an image's gradient; None for the dtype's own.
        device: that packages are compiled for: ``"auto"`` (CUDA where there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        on_stage: told what is being done.

    Raises:
        BadInputError: something about the input, the options or the place; nothing is written.
        FailureError: the artefacts do not compute what the model does; nothing is written.
    """
    say = on_stage or (lambda stage: None)
    _check_place(out)
    for name in formats:
        if name not in FORMATS:
            raise BadInputError(f"unknown format {name!r}; choose from {', '.join(FORMATS)}")
    if gpus and "trt" not in formats:
        raise BadInputError("--gpu says what TensorRT plans are built for; pass --format trt with it")
    device = find_device(device)
    targets = find_targets(gpus, device) if "trt" in formats else ()
    built_from: tuple[str, ...] = ()
    if targets and "onnx" not in formats:
        formats += ("onnx",)
        built_from = ("trt: the ONNX graphs are written as well; plans are built from them",)
    onnx_dtypes, remarks = check_dtypes(dtypes, formats)
    if "compile" in formats:
        check_compiler()
    if batch_size is not None and batch_size < 1:
        raise BadInputError(f"batch size must be at least 1, got {batch_size}")
    samples = None if real is None else open_samples(real)
    say(f"reading {checkpoint}")
    loaded = load_checkpoint(checkpoint, arch=arch, num_classes=num_classes, normalization=normalization)
    sizes = _resolutions(loaded, resolutions)
    l0 = loaded.info.l0
    if samples is not None:
        say(f"l0 over {samples.shape[0]:,} real images")
        if samples.shape[1:3] not in {(s, s) for s in sizes}:
            raise BadInputError(
                f"{real} holds {samples.shape[1]}x{samples.shape[2]} images, the bundle is for {_sizes(sizes)}; use real images "
                "of that size"
            )
        info = loaded.info
        l0 = mean_realness(loaded.model, samples, num_classes=info.num_classes, in_channels=info.in_channels)

    chosen = tuple(resolve_objective(name, l0) for name in dict.fromkeys(objectives or (None,)))
    wanted = Wanted(chosen, tuple(dict.fromkeys(dtypes)), sizes, opset, atol, rtol)

    aside = out.with_name(f".{out.name}.writing")
    try:
        if aside.exists():
            shutil.rmtree(aside)
        aside.mkdir(parents=True)
        seconds = _write(
            aside, loaded, checkpoint, sizes, l0, wanted, formats, onnx_dtypes, targets, batch_size, device, say
        )
        _replace(aside, out)
    except OSError as e:
        raise cannot_write(out, e) from e
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    bundle = Bundle(out)
    unverified = remark_on_plans(bundle.config.artefacts.values())
    return Exported(bundle, (*loaded.notes, *built_from, *remarks, *unverified), seconds)


def _write(
    folder: Path,
    loaded: LoadedCheckpoint,
    checkpoint: Path,
    sizes: tuple[int, ...],
    l0: float | None,
    wanted: Wanted,
    formats: tuple[str, ...],
    onnx_dtypes: tuple[str, ...],
    targets: tuple[Target, ...],
    batch_size: int | None,
    device: str,
    say: Callable[[str], None],
) -> dict[str, float]:
    info, model = loaded.info, loaded.model
    seconds: dict[str, float] = {}
    artefacts: dict[str, Artefact] = {}

    start = perf_counter()
    say("writing model.safetensors")
    # Contiguous copies: safetensors refuses views and shared storage, both of which checkpoints may hold.
    state = {k: v.detach().clone().contiguous() for k, v in model.state_dict().items()}
    # Not save_file, whose file only its owner may read (safetensors 0.8): a bundle is meant to be passed on.
    (folder / "model.safetensors").write_bytes(save(state))
    artefacts["weights"] = artefact_of(folder, "model.safetensors")
    seconds["weights"] = perf_counter() - start

    start = perf_counter()
    say("tracing and verifying forward.pt2")
    save_forward(model, folder / "forward.pt2", in_channels=info.in_channels, resolutions=sizes)
    errors = verify_forward(
        model,
        folder / "forward.pt2",
        in_channels=info.in_channels,
        resolutions=sizes,
        atol=FORWARD_ATOL if wanted.atol is None else wanted.atol,
        rtol=FORWARD_RTOL if wanted.rtol is None else wanted.rtol,
    )
    artefacts["forward"] = artefact_of(folder, "forward.pt2", errors=errors)
    seconds["forward"] = perf_counter() - start

    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    # The manifest says more; these are for whoever meets the file alone. Nothing that changes from run to run.
    metadata = {"architecture": info.arch, "checkpoint_sha256": loaded.sha256, "jboost": versions["jboost"]}
    common: dict[str, Any] = {"in_channels": info.in_channels, "l0": l0, "say": say}
    graphs: dict[str, tuple[Artefact, float]] = {}
    here, on_gpu = batch_size or DEFAULT_BATCH[device.split(":")[0]], batch_size or DEFAULT_BATCH["cuda"]
    if "onnx" in formats:
        graphs |= write_gradients(folder, model, replace(wanted, dtypes=onnx_dtypes), metadata=metadata, **common)
    if "trt" in formats:
        plans, onnx = replace(wanted, dtypes=onnx_dtypes), {name: artefact for name, (artefact, _) in graphs.items()}
        graphs |= write_plans(folder, model, plans, onnx, targets=targets, batch_size=on_gpu, **common)
    if "compile" in formats:
        graphs |= write_packages(folder, model, wanted, batch_size=here, device=device, **common)
    artefacts |= {name: artefact for name, (artefact, _) in graphs.items()}
    seconds |= {name: taken for name, (_, taken) in graphs.items()}

    config = BundleConfig(
        architecture=info.arch,
        num_classes=info.num_classes,
        in_channels=info.in_channels,
        resolutions=sizes,
        mean=tuple(info.mean),
        std=tuple(info.std),
        l0=l0,
        class_names=None if info.class_names is None else tuple(info.class_names),
        source={"file": checkpoint.name, "sha256": loaded.sha256},
        versions=versions,
        artefacts=artefacts,
    )
    (folder / CONFIG).write_text(config.to_json(), encoding="utf-8")
    if graphs:
        say("timing the engines")
        config = replace(config, timings=_timings(Bundle(folder), wanted, here))
        (folder / CONFIG).write_text(config.to_json(), encoding="utf-8")
    return seconds


def _timings(bundle: Bundle, wanted: Wanted, batch_size: int) -> tuple[Timing, ...]:
    """Every engine that can run what was just exported, for a moment each. The objective makes no difference to the time."""
    config, found = bundle.config, []
    machine = machine_name()
    for size in wanted.resolutions:
        for dtype in wanted.dtypes:
            run: dict[str, Any] = {
                "objective": wanted.objectives[0], "l0": config.l0, "resolution": size, "device": "auto", "dtype": dtype,
            }  # fmt: skip
            runners = {
                name: engine.open(bundle, **run)
                for name, engine in ENGINES.items()
                if engine.probe().available and engine.why_unusable(bundle, batch_size=None, **run) is None
            }
            shape = (config.in_channels, size, size)
            times = time_runners(runners, shape=shape, num_classes=config.num_classes, batch_size=batch_size)
            for name, runner in runners.items():
                count = runner.batch_size or batch_size
                found.append(Timing(machine, name, dtype, size, count, times[name]))
                runner.__exit__(None, None, None)
    return tuple(found)


def _check_place(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise BadInputError(f"{out} is a file; name the bundle's folder with -o")
    if out.is_dir() and any(out.iterdir()) and not is_bundle(out):
        raise BadInputError(f"{out} exists and is no bundle; it is left alone: name another folder with -o")
    parent = out.resolve().parent
    if not parent.is_dir():
        raise BadInputError(f"{parent} does not exist; make it with: mkdir -p {parent}")


def _replace(aside: Path, out: Path) -> None:
    """Put the finished folder in place; an old bundle goes only once the new one is whole."""
    if not out.exists():
        aside.rename(out)
        return
    old = out.with_name(f".{out.name}.old")
    if old.exists():
        shutil.rmtree(old)
    out.rename(old)
    aside.rename(out)
    shutil.rmtree(old)


def _resolutions(loaded: LoadedCheckpoint, asked: tuple[int, ...] | None) -> tuple[int, ...]:
    if asked:
        if min(asked) < 1:
            raise BadInputError(f"--resolution must be in pixels, above 0, got {_sizes(asked)}")
        return tuple(dict.fromkeys(asked))
    if loaded.info.resolution is None:
        raise BadInputError(
            "the checkpoint does not say which image size it is for; pass --resolution, e.g. --resolution 64"
        )
    return (loaded.info.resolution,)


def _sizes(sizes: tuple[int, ...]) -> str:
    return ", ".join(f"{s}x{s}" for s in sizes)
