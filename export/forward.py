"""Export the forward pass as a torch.export program and verify that it matches the model."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from jboost.engine.backends.archive import rebuilt
from jboost.engine.backends.batch_of_one import at_least_two
from jboost.engine.backends.program import load_program
from jboost.engine.errors import BadInputError, FailureError, first_line
from jboost.engine.method.compare import relative_error
from jboost.engine.system.memory import lacks_memory

from .graph.constants import WithConstants, fill_caches
from .graph.replaced import PlainFunctions
from .verification.float64 import in_float64
from .verification.gradient import check_images

#: Default tolerances of `verify_forward_program`. They are tight because the program runs the model's own operators.
FORWARD_ATOL, FORWARD_RTOL = 1e-4, 1e-3

# Traced at one batch size, checked at two others: a size frozen by tracing then shows as an error.
_TRACE_BATCH = 2
_CHECK_BATCHES = (1, 3)


def save_forward_program(model: nn.Module, path: Path, *, in_channels: int, resolutions: tuple[int, ...]) -> None:
    """Write ``forward.pt2``, for any batch size, and for any image size where the model allows it.

    Args:
        model: float32 [B, C, H, W] in [0, 1] -> logits [B, num_classes], in eval mode, float32.
        path: file to write.
        in_channels: C.
        resolutions: image sizes that the program must take; the model is traced at the first.

    Raises:
        BadInputError: the model cannot be traced, or its program holds what `rebuilt` does not know.
    """
    size = resolutions[0]
    example = torch.rand(_TRACE_BATCH, in_channels, size, size)
    fill_caches(model, example)
    try:
        # AUTO fixes the image size of a model that needs one size (position embeddings).
        content = _archive(model, example, {2: Dim.AUTO, 3: Dim.AUTO}, path.name)
    except Exception as e:  # the model's own code, the tracer and torch's writer can raise anything
        if lacks_memory(e):
            raise
        # AUTO cannot solve every model's sizes: pooling by 4 and then view(-1, channels), for instance. And torch cannot write
        # every expression of open sizes: interpolation by a factor, for instance.
        content = _at_one_size(model, example, path.name)
    path.write_bytes(content.getbuffer())


def _at_one_size(model: nn.Module, example: torch.Tensor, name: str) -> io.BytesIO:
    size = example.shape[2]
    try:
        return _archive(model, example, {}, name)
    except BadInputError as e:  # the check of the archive; its own remedy is to do what is being done here
        raise BadInputError(
            f"the model cannot be exported at {size}x{size}: {first_line(e.__cause__ or e)}; replace the layer that brings this in"
        ) from e
    except Exception as e:
        if lacks_memory(e):
            raise
        raise BadInputError(
            f"the model cannot be traced at {size}x{size} ({type(e).__name__}: {first_line(e)}); torch.export needs a forward "
            "without data-dependent Python branches, and an image size that the model takes"
        ) from e


def _archive(model: nn.Module, example: torch.Tensor, sizes: dict[int, Any], name: str) -> io.BytesIO:
    """Trace the model and return its program as a checked archive; `name` stands in errors."""
    program = _traced(model, example, sizes)
    # torch stores sample inputs as a pickle, which nothing here reads.
    program.example_inputs = None
    # Save to memory first: torch's own file writer aborts the process when the disk is full (torch 2.13).
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    # The user's paths and source lines, which torch keeps for every operator, are left out.
    return rebuilt(buffer.getvalue(), name)


def _traced(model: nn.Module, example: torch.Tensor, sizes: dict[int, Any]) -> torch.export.ExportedProgram:
    """Trace the model for any batch size; `sizes` says which of the other sizes of [B, C, H, W] are open."""
    # What is not replaced here cannot be when an engine traces the program.
    with PlainFunctions():
        return torch.export.export(
            WithConstants(model), (example,), dynamic_shapes=({0: Dim("batch"), **sizes},), strict=False
        )


def verify_forward_program(
    model: nn.Module, path: Path, *, in_channels: int, resolutions: tuple[int, ...], atol: float, rtol: float
) -> dict[str, float]:
    """Reload ``forward.pt2`` and compare its logits and input gradients with the model's, on inputs new to the trace.

    Args:
        model: the exported model.
        path: the program.
        in_channels: C.
        resolutions: image sizes to check.
        atol: largest absolute error of a logit, divided by the largest logit where that exceeds 1.
        rtol: largest relative L2 error of an image's gradient.

    Returns:
        The worst figures: ``logits_worst`` and ``eager_worst`` (gradient) against eager autograd in float32, and
        ``grad_worst`` against float64. ``grad_worst`` includes the model's own rounding.

    Raises:
        BadInputError: the program does not take one of the sizes.
        FailureError: an error is above the tolerance, or a value is not finite.
    """
    program = load_program(path, "cpu")
    exact = in_float64(model)
    worst = dict.fromkeys(("logits_worst", "eager_worst", "grad_worst"), 0.0)
    for size in resolutions:
        for batch in _CHECK_BATCHES:
            for x in check_images(batch, (in_channels, size, size), seed=batch):
                try:
                    logits, grad = _logits_and_gradient(program, x)
                except Exception as e:  # generated code raises its own errors for a size that it does not support
                    raise BadInputError(
                        f"the exported program does not take {batch} image(s) of {size}x{size} ({first_line(e)}); "
                        f"export one size at a time with --resolution {resolutions[0]}"
                    ) from e
                want_logits, want_grad = _logits_and_gradient(model, x)
                _, exact_grad = _logits_and_gradient(exact, x.double())
                scale = max(1.0, float(want_logits.abs().max()))
                errors = {
                    "logits_worst": float((logits - want_logits).abs().max()) / scale,
                    "eager_worst": float(relative_error(grad, want_grad).max()),
                    "grad_worst": float(relative_error(grad, exact_grad).max()),
                }
                worst = {key: _worse(worst[key], errors[key]) for key in worst}
    # Written as "not <=" so that NaN fails.
    if not (worst["logits_worst"] <= atol and worst["eager_worst"] <= rtol):
        raise FailureError(
            f"{path.name} does not match the model: logits differ by {worst['logits_worst']:.1e} (allowed {atol:.0e}), "
            f"gradients by {worst['eager_worst']:.1e} (allowed {rtol:.0e}); if the model is meant to be this "
            "sensitive, raise --atol or --rtol"
        )
    return worst


def _logits_and_gradient(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.detach().requires_grad_()
    images = at_least_two(x)
    logits = model(images)[: len(x)]
    # Each logit has its own weight, so an error in any of them changes the gradient.
    weight = torch.linspace(-1, 1, logits.shape[1], dtype=logits.dtype)
    (grad,) = torch.autograd.grad((torch.log_softmax(logits, 1) * weight).sum(), x)
    if images is not x:  # the logits are those of the batch itself
        with torch.no_grad():
            logits = model(x)
    return logits.detach(), grad


def _worse(a: float, b: float) -> float:
    return b if b != b or b > a else a
