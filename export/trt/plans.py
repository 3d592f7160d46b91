"""TensorRT plans: a bundle's ONNX graphs, built for a kind of GPU and a batch size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from jboost.engine.backends.cuda.pycuda_device import open_device
from jboost.engine.backends.onnx.graphs import artefact_name as onnx_name
from jboost.engine.backends.onnx.graphs import forward_name as onnx_forward_name
from jboost.engine.backends.onnx.graphs import weights_name
from jboost.engine.backends.trt.network import FORWARD, GRADIENT, TensorRTNetwork, network_run
from jboost.engine.backends.trt.plans import PlanKey, artefact_name, check_name, forward_name, key_name
from jboost.engine.bundle import Artefact, artefact_of
from jboost.export.request import ExportRequest
from jboost.export.verification.float64 import in_float64
from jboost.export.verification.forward import verify_forward_graph
from jboost.export.verification.gradient import Tolerance, autograd, check_images, judge, measure, tolerance

from .builder import build_plan
from .targets import Target

FOLDER = "trt"
_UNVERIFIED = "built without its GPU: it could not be run, and is checked whenever it is opened"
_CHECK_IMAGES = 4  # of each kind, random and smooth


@dataclass(frozen=True)
class _Job:
    """One plan to build: a graph for a target. `objective` is None for the forward pass."""

    objective: str | None
    dtype: str
    size: int
    batch_size: int
    target: Target

    @property
    def source(self) -> str:
        """Manifest name of the ONNX graph that the plan is built from."""
        if self.objective is None:
            return onnx_forward_name(self.dtype, self.size)
        return onnx_name(self.objective, self.dtype, self.size)

    @property
    def name(self) -> str:
        """Manifest name of the plan."""
        if self.objective is None:
            return forward_name(self.dtype, self.size, self.target.machine)
        return artefact_name(self.objective, self.dtype, self.size, self.target.machine)

    @property
    def stem(self) -> str:
        """The plan's file in the bundle, without its suffix."""
        what = self.objective or "forward"
        return f"{FOLDER}/{what}.{self.size}.{self.dtype}.b{self.batch_size}.{self.target.machine}"

    def __str__(self) -> str:
        what = "the forward pass" if self.objective is None else self.objective
        return f"{what}, {self.dtype}, {self.size}x{self.size}, batch {self.batch_size}, for {self.target.machine}"


def write_plans(
    folder: Path,
    model: nn.Module,
    request: ExportRequest,
    graphs: dict[str, Artefact],
    *,
    targets: Iterable[Target],
    batch_size: int,
    in_channels: int,
    l0: float | None,
    say: Callable[[str], None],
) -> dict[str, tuple[Artefact, float]]:
    """Build every requested plan, and verify those whose GPU is in this machine.

    Args:
        folder: the bundle; plans go into its folder ``trt``.
        model: float32 [B, C, H, W] in [0, 1] -> logits [B, num_classes], in eval mode.
        request: the export request; the bundle must hold each of its graphs as ONNX.
        graphs: the bundle's ONNX graphs and their weights, by manifest name.
        targets: GPUs to build for, from `find_targets`.
        batch_size: images per call; fixed.
        in_channels: C.
        l0: mean realness of real images, for objectives that need it.
        say: called with a line of progress at each stage.

    Returns:
        Manifest name -> (entry, seconds it took).

    Raises:
        FailureError: a plan cannot be built or does not match autograd.
    """
    (folder / FOLDER).mkdir()
    written: dict[str, tuple[Artefact, float]] = {}
    for size in request.resolutions:
        shape = (in_channels, size, size)
        start = perf_counter()
        file = f"{FOLDER}/check.{size}.npz"
        write_reference(folder / file, model, request.objectives, shape, l0)
        written[check_name(size)] = artefact_of(folder, file), perf_counter() - start
        for target in targets:
            for dtype in request.dtypes:
                bound = tolerance(dtype, request.atol, request.rtol)
                for objective in (*request.objectives, None):
                    start = perf_counter()
                    job = _Job(objective, dtype, size, batch_size, target)
                    say(f"building {job}")
                    plan, sidecar = _write(folder, job, graphs, bound)
                    errors: dict[str, float] = {}
                    if target.gpu is not None:
                        say(f"verifying {job}")
                        errors = verify_plan(
                            folder / plan, target, model, objective, shape,
                            l0=l0, batch_size=batch_size, bound=bound,
                        )  # fmt: skip
                    facts: dict[str, Any] = {"dtype": dtype, "batch_size": batch_size, "target": sidecar.target}
                    entry = artefact_of(
                        folder, plan, objective=objective, resolution=size, errors=errors,
                        unverified=None if errors else _UNVERIFIED, **facts,
                    )  # fmt: skip
                    written[job.name] = entry, perf_counter() - start
                    written[key_name(job.name)] = artefact_of(folder, f"{job.stem}.json", **facts), 0.0
    return written


def _write(folder: Path, job: _Job, graphs: dict[str, Artefact], bound: Tolerance) -> tuple[str, PlanKey]:
    """Build a plan and write it with its sidecar; return the plan's file in the bundle and the sidecar's contents."""
    source, variant, capability = graphs[job.source], job.target.variant, job.target.capability
    key = PlanKey(
        flavour=variant.name,
        version=variant.version,
        gpu=job.target.model,
        compute_capability=capability,
        dtype=job.dtype,
        batch_size=job.batch_size,
        sources={name: graphs[name].sha256 for name in (job.source, weights_name(job.source))},
        bounds=_bounds(bound, source.errors),
    )
    path = folder / source.file
    if variant.name == "tensorrt_rtx":
        plan = build_plan(path, variant, capability=capability, batch=job.batch_size)
    else:
        timings = f"tensorrt/{key.version}.{key.machine}.timings"
        plan = build_plan(path, variant, capability=None, batch=job.batch_size, timings=timings)
    (folder / f"{job.stem}.plan").write_bytes(plan)
    (folder / f"{job.stem}.json").write_text(key.to_json(), encoding="utf-8")
    return f"{job.stem}.plan", key


def _bounds(bound: Tolerance, errors: dict[str, float]) -> dict[str, float]:
    """Return the bounds that a plan must meet whenever it is opened: `judge`'s, with the floors of its ONNX graph."""
    median, worst = (bound.slack * errors.get(key, 0.0) for key in ("floor_median", "floor_worst"))
    return {
        "grad_median": max(bound.median, median),
        "grad_worst": max(bound.worst, worst),
        "cosine_worst": max(1 - bound.cosine, worst**2),
        "logits_worst": bound.logits,
    }


def write_reference(
    path: Path, model: nn.Module, objectives: Sequence[str], shape: tuple[int, int, int], l0: float | None
) -> None:
    """Write check images with float64 autograd's logits and gradients, for `jboost.engine.backends.trt.check`."""
    x = torch.cat(check_images(_CHECK_IMAGES, shape))
    reference = in_float64(model)
    with torch.no_grad():
        logits = reference(x.double())
    y = torch.randint(0, logits.shape[1], (len(x),), generator=torch.Generator().manual_seed(101))
    arrays: dict[str, Any] = {"x": x.numpy(), "y": y.numpy(), "logits": logits.float().numpy()}
    arrays |= {f"grad.{name}": autograd(reference, name, x.double(), y, l0)[0].float().numpy() for name in objectives}
    np.savez(path, **arrays)


def verify_plan(
    path: Path,
    target: Target,
    model: nn.Module,
    objective: str | None,
    shape: tuple[int, int, int],
    *,
    l0: float | None,
    batch_size: int,
    bound: Tolerance,
) -> dict[str, float]:
    """Run a plan on its GPU, compare it with autograd of `model` on batches of two sizes, and return the figures.

    Batches smaller than the plan's are padded. The forward pass is compared with `model` itself.

    Args:
        path: the plan.
        target: the TensorRT variant that built the plan, and the GPU's number.
        model: float32 [B, C, H, W] in [0, 1] -> logits [B, num_classes], in eval mode.
        objective: objective of the gradient; None for the forward pass.
        shape: (C, H, W).
        l0: mean realness of real images, for objectives that need it.
        batch_size: the plan's batch size.
        bound: the tolerance.

    Raises:
        FailureError: an error is above the tolerance.
    """
    device, tensors = open_device(target.index), FORWARD if objective is None else GRADIENT
    with ExitStack() as stack:
        stack.callback(device.close)
        network = TensorRTNetwork(
            path.read_bytes(), target.variant, tensors, batch_size=batch_size, shape=shape, name=path.name
        )
        stack.callback(network.close)
        run = stack.enter_context(network_run(device, network, tensors, shape))
        if objective is None:
            return verify_forward_graph(run, model, shape, tolerance=bound, fixed_batch=batch_size, name=path.name)
        sizes = tuple(dict.fromkeys((min(4, batch_size), 1)))
        figures = measure(run, model, objective, shape, l0=l0, batch_sizes=sizes, fixed_batch=batch_size)
        judge(figures, bound, path.name)
        return figures.as_dict()
