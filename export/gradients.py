"""Writing a bundle's ONNX graphs: traced once per image size, lowered per dtype; a gradient per objective, and the forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import torch
from torch import nn

from jboost.engine.bundle import Artefact, artefact_of
from jboost.engine.onnx import artefact_name, forward_name, weights_name

from .graph import (
    DEFAULT_OPSET,
    TOLERANCES,
    Tolerance,
    attach_objective,
    check_images,
    lower,
    onnx_run,
    optimize,
    to_onnx,
    trace_trunk,
    verify_onnx,
)
from .onnx_weights import share_weights
from .readout import OUTPUTS as READOUT
from .readout import forward_of, verify_readout
from .wanted import Wanted

#: Loss scale and precision are chosen on images of this seed; verification draws others.
PROBE_SEED = 1000


def tolerance(dtype: str, atol: float | None, rtol: float | None) -> Tolerance:
    """The dtype's tolerance, with `atol` bounding a class logit's error and `rtol` the worst image's relative gradient error."""
    chosen = TOLERANCES[dtype]
    if atol is not None:
        chosen = replace(chosen, logits=atol)
    if rtol is not None:
        # An error of r leaves a cosine of at least sqrt(1 - r^2).
        cosine = math.sqrt(1 - rtol**2) if rtol < 1 else -1.0
        chosen = replace(chosen, worst=rtol, median=min(chosen.median, rtol), cosine=min(chosen.cosine, cosine))
    return chosen


def write_gradients(
    folder: Path,
    model: nn.Module,
    wanted: Wanted,
    *,
    in_channels: int,
    l0: float | None,
    metadata: dict[str, str],
    say: Callable[[str], None],
) -> dict[str, tuple[Artefact, float]]:
    """Write and verify every graph that is wanted.

    Args:
        folder: where to.
        model: float32 [B, C, H, W] in [0, 1] -> logits [B, num_classes], in eval mode.
        wanted: which graphs.
        in_channels: C.
        l0: mean realness of real images; becomes a constant of the graphs whose objective needs it.
        metadata: kept inside each file, beside what it computes.
        say: told what is being done.

    Returns:
        By name in the manifest: the entry, and the seconds that it took.

    Raises:
        BadInputError: the model has an operator without a rule, or cannot be lowered.
        FailureError: a graph that does not match autograd.
    """
    written: dict[str, tuple[Artefact, float]] = {}
    opset = wanted.opset or DEFAULT_OPSET
    for size in wanted.resolutions:
        shape = (in_channels, size, size)
        say(f"tracing the gradient at {size}x{size}")
        start = perf_counter()
        trunk = trace_trunk(model, torch.rand(2, *shape), dynamic_batch=True)
        optimize(trunk, "onnx")
        tracing = perf_counter() - start
        for dtype in wanted.dtypes:
            lowered = lower(trunk, dtype, check_images(4, shape, PROBE_SEED))
            low = lowered.trunk
            files = [a.file for name, (a, _) in written.items() if name.endswith("/weights")]
            common = {"dtype": dtype, "resolution": size}
            for objective in wanted.objectives:
                start = perf_counter() - tracing  # the first graph of a size pays for its tracing
                tracing = 0.0
                say(f"gradient of {objective}, {dtype}, {size}x{size}")
                path = folder / f"gradient.{objective}.{size}.{dtype}.onnx"
                says = {"objective": objective, "l0": str(l0), "dtype": dtype, "loss_scale": str(lowered.loss_scale)}
                gradient = attach_objective(low, objective, l0)
                to_onnx(gradient, path, opset=wanted.opset, metadata=metadata | says)
                files.append(share_weights(path, files))
                figures = verify_onnx(
                    path,
                    model,
                    objective,
                    shape,
                    l0=l0,
                    dtype=dtype,
                    tolerance=tolerance(dtype, wanted.atol, wanted.rtol),
                )
                name = artefact_name(objective, dtype, size)
                graph = artefact_of(
                    folder,
                    path.name,
                    opset=opset,
                    errors=figures.as_dict() | lowered.figures(),
                    objective=objective,
                    **common,
                )
                written[name] = graph, perf_counter() - start
                written[weights_name(name)] = artefact_of(folder, files[-1], dtype=dtype), 0.0
            start = perf_counter()
            say(f"forward pass, {dtype}, {size}x{size}")
            path = folder / f"forward.{size}.{dtype}.onnx"
            to_onnx(
                forward_of(gradient), path, opset=wanted.opset, metadata=metadata | {"dtype": dtype}, outputs=READOUT
            )
            files.append(share_weights(path, files))
            run, _ = onnx_run(path)
            bound = tolerance(dtype, wanted.atol, wanted.rtol)
            errors = verify_readout(run, model, shape, tolerance=bound, fixed_batch=None, name=path.name)
            name = forward_name(dtype, size)
            written[name] = artefact_of(folder, path.name, opset=opset, errors=errors, **common), perf_counter() - start
            written[weights_name(name)] = artefact_of(folder, files[-1], dtype=dtype), 0.0
    return written
