"""Write a bundle's ONNX graphs: per image size and dtype, one gradient per objective and the forward pass.

The network is traced once per image size and lowered once per dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
from torch import nn

from jboost.engine.backends.onnx.graphs import artefact_name, forward_name, weights_name
from jboost.engine.bundle import Artefact, artefact_of
from jboost.export.graph import attach_objective, lower, optimize, trace_trunk
from jboost.export.graph.forward import FORWARD_OUTPUTS, forward_of
from jboost.export.opsets import DEFAULT_OPSET
from jboost.export.request import ExportRequest
from jboost.export.verification.forward import verify_forward_graph
from jboost.export.verification.gradient import PROBE_SEED, References, check_images, tolerance

from .lowering import to_onnx
from .verify import onnx_run, verify_onnx
from .weights import share_weights


def write_gradients(
    folder: Path,
    model: nn.Module,
    request: ExportRequest,
    *,
    in_channels: int,
    l0: float | None,
    metadata: dict[str, str],
    say: Callable[[str], None],
) -> dict[str, tuple[Artefact, float]]:
    """Write and verify every requested graph.

    Args:
        folder: folder to write to.
        model: float32 [B, C, H, W] in [0, 1] -> logits [B, num_classes], in eval mode.
        request: the export request.
        in_channels: C.
        l0: mean realness of real images; becomes a constant of the graphs whose objective needs it.
        metadata: stored inside each file, next to the file's objective, l0, dtype and loss scale.
        say: called with a line of progress at each stage.

    Returns:
        Manifest name -> (entry, seconds it took).

    Raises:
        BadInputError: the model has an operator without a rule, or cannot be lowered.
        FailureError: a graph does not match autograd.
    """
    written: dict[str, tuple[Artefact, float]] = {}
    opset = DEFAULT_OPSET if request.opset is None else request.opset
    references = References(model)
    for size in request.resolutions:
        shape = (in_channels, size, size)
        say(f"tracing the gradient at {size}x{size}")
        start = perf_counter()
        trunk = trace_trunk(model, torch.rand(2, *shape), dynamic_batch=True)
        optimize(trunk, "onnx")
        tracing = perf_counter() - start
        for dtype in request.dtypes:
            lowered = lower(trunk, dtype, check_images(4, shape, PROBE_SEED))
            low = lowered.trunk
            files = [a.file for name, (a, _) in written.items() if name.endswith("/weights")]
            common = {"dtype": dtype, "resolution": size}
            for objective in request.objectives:
                start = perf_counter() - tracing  # the first graph of a size includes the tracing time
                tracing = 0.0
                say(f"gradient of {objective}, {dtype}, {size}x{size}")
                path = folder / f"gradient.{objective}.{size}.{dtype}.onnx"
                says = {"objective": objective, "l0": str(l0), "dtype": dtype, "loss_scale": str(lowered.loss_scale)}
                gradient = attach_objective(low, objective, l0)
                to_onnx(gradient, path, opset=request.opset, metadata=metadata | says)
                files.append(share_weights(path, files))
                figures = verify_onnx(
                    path,
                    model,
                    objective,
                    shape,
                    l0=l0,
                    dtype=dtype,
                    tolerance=tolerance(dtype, request.atol, request.rtol),
                    references=references,
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
                forward_of(gradient),
                path,
                opset=request.opset,
                metadata=metadata | {"dtype": dtype},
                outputs=FORWARD_OUTPUTS,
            )
            files.append(share_weights(path, files))
            run, _ = onnx_run(path)
            bound = tolerance(dtype, request.atol, request.rtol)
            errors = verify_forward_graph(
                run, model, shape, tolerance=bound, fixed_batch=None, name=path.name, references=references
            )
            name = forward_name(dtype, size)
            written[name] = artefact_of(folder, path.name, opset=opset, errors=errors, **common), perf_counter() - start
            written[weights_name(name)] = artefact_of(folder, files[-1], dtype=dtype), 0.0
    return written
