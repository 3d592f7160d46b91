"""Exporting the forward pass as a torch.export program and proving that it is the model."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim

from jboost.engine.backends.program import load_program
from jboost.engine.errors import BadInputError, FailureError, first_line
from jboost.engine.method.compare import relative_error

from .verification.gradient import check_images

#: Tolerances of `verify_forward` unless told otherwise: the program runs the model's own operators.
FORWARD_ATOL, FORWARD_RTOL = 1e-4, 1e-3

# Traced at one batch size, checked at two others: what was frozen while tracing shows.
_TRACE_BATCH = 2
_CHECK_BATCHES = (1, 3)


def save_forward(model: nn.Module, path: Path, *, in_channels: int, resolutions: tuple[int, ...]) -> None:
    """Write ``forward.pt2``: any batch size, and any image size where the model allows it.

    Args:
        model: float32 [B, C, H, W] in [0, 1] -> logits [B, num_classes], in eval mode, float32.
        path: where to.
        in_channels: C.
        resolutions: image sizes that the program must take.

    Raises:
        BadInputError: the model cannot be traced, or not at one of the sizes.
    """
    size = resolutions[0]
    example = torch.rand(_TRACE_BATCH, in_channels, size, size)
    try:
        # AUTO lets a model that is tied to one size (position embeddings) have it; the batch must stay free.
        program = torch.export.export(
            model, (example,), dynamic_shapes=({0: Dim("batch"), 2: Dim.AUTO, 3: Dim.AUTO},), strict=False
        )
    except Exception as e:  # whatever the model's own code or the tracer raises
        raise BadInputError(
            f"the model cannot be traced at {size}x{size} ({type(e).__name__}: {first_line(e)}); torch.export needs a forward "
            "without data-dependent Python branches, and an image size that the model takes"
        ) from e
    # Sample inputs would be stored as a pickle, which a reader has no reason to trust.
    program.example_inputs = None
    # Through memory: torch's own writer ends the whole process when the disk is full (torch 2.13).
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getbuffer())


def verify_forward(
    model: nn.Module, path: Path, *, in_channels: int, resolutions: tuple[int, ...], atol: float, rtol: float
) -> dict[str, float]:
    """Reload ``forward.pt2`` and compare logits and input gradients with the model's, on inputs other than the traced ones.

    Args:
        model: what was exported.
        path: the program.
        in_channels: C.
        resolutions: image sizes to check.
        atol: largest absolute error of a logit, over the largest logit where that exceeds 1.
        rtol: largest relative L2 error of an image's gradient.

    Returns:
        The worst figures: ``logits_worst`` and ``eager_worst`` (gradient) against eager autograd in float32, and ``grad_worst``
        against float64, which is the model's own rounding.

    Raises:
        FailureError: an error above the tolerance, or values that are not finite.
    """
    program = load_program(path, "cpu")
    exact = copy.deepcopy(model).double()
    worst = dict.fromkeys(("logits_worst", "eager_worst", "grad_worst"), 0.0)
    for size in resolutions:
        for batch in _CHECK_BATCHES:
            for x in check_images(batch, (in_channels, size, size), seed=batch):
                try:
                    logits, grad = _logits_and_gradient(program, x)
                except Exception as e:  # a size the program was not made for raises from generated code
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
    # Written so that NaN fails.
    if not (worst["logits_worst"] <= atol and worst["eager_worst"] <= rtol):
        raise FailureError(
            f"{path.name} does not compute what the model does: logits differ by {worst['logits_worst']:.1e} (allowed {atol:.0e}), "
            f"gradients by {worst['eager_worst']:.1e} (allowed {rtol:.0e}); nothing was written. If the model is meant to be this "
            "sensitive, raise --atol or --rtol"
        )
    return worst


def _logits_and_gradient(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.detach().requires_grad_()
    logits = model(x)
    # Every logit takes part, with its own weight.
    weight = torch.linspace(-1, 1, logits.shape[1], dtype=logits.dtype)
    (grad,) = torch.autograd.grad((torch.log_softmax(logits, 1) * weight).sum(), x)
    return logits.detach(), grad


def _worse(a: float, b: float) -> float:
    return b if b != b or b > a else a
