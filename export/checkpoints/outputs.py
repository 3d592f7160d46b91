"""Whether a network's outputs are logits: its first forward pass, before anything is traced or written."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from jboost.engine.errors import BadInputError, first_line
from jboost.trainer.checkpoint import ModelInfo

from .load import LoadedCheckpoint

_BATCH = 4
# Probabilities sum to 1 up to float32's rounding over a thousand classes.
_SUM_ERROR = 1e-3


def check_outputs(loaded: LoadedCheckpoint, sizes: tuple[int, ...]) -> LoadedCheckpoint:
    """Run the model on images of every size, and check what comes out.

    Args:
        loaded: the checkpoint.
        sizes: image sizes in pixels.

    Returns:
        The checkpoint, with the number of classes that the model gives where it was only guessed, and with further notes.

    Raises:
        BadInputError: the model does not take such images, or gives no logits [B, num_classes].
    """
    for size in sizes:
        images = _images(loaded.info.in_channels, size)
        try:
            with torch.no_grad():
                logits = loaded.model(images)
        except BadInputError:
            raise
        except Exception as e:  # the network's own code can raise anything
            raise BadInputError(_no_forward(loaded.info, size, e)) from e
        loaded = _counted(loaded, logits)
        if (note := _looks_wrong(logits)) is not None and note not in loaded.notes:
            loaded = replace(loaded, notes=(*loaded.notes, note))
    return loaded


def _images(channels: int, size: int) -> Tensor:
    """Noise, black, white and a ramp: float32 [4, C, H, W] in [0, 1]."""
    shape = (1, channels, size, size)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(11))
    ramp = torch.linspace(0, 1, size).expand(shape)
    return torch.cat([noise, torch.zeros(shape), torch.ones(shape), ramp])


def _no_forward(info: ModelInfo, size: int, error: Exception) -> str:
    images = f"{info.in_channels}-channel images of {size}x{size}"
    remedy = "pass the size that it is made for with --resolution, and --in-channels if the channels are others"
    if info.resolution not in (None, size):
        remedy = f"it is made for {info.resolution}x{info.resolution}: pass --resolution {info.resolution}"
    return f"{info.arch} fails on {images} ({type(error).__name__}: {first_line(error)}); {remedy}"


def _counted(loaded: LoadedCheckpoint, logits: Tensor) -> LoadedCheckpoint:
    info = loaded.info
    if logits.ndim != 2 or logits.shape[0] != _BATCH or not logits.is_floating_point():
        raise BadInputError(
            f"{info.arch} gives {list(logits.shape)} ({logits.dtype}) for {_BATCH} images where logits [{_BATCH}, "
            f"{info.num_classes}] are needed; pass a factory that returns a module whose forward does"
        )
    if not bool(torch.isfinite(logits[0]).all()):
        raise BadInputError(f"{info.arch} gives NaN or infinite logits; check --normalize and the weights")
    classes = logits.shape[1]
    if classes == info.num_classes:
        return loaded
    if loaded.counted:
        raise BadInputError(
            f"{info.arch} gives {classes} logits where {info.num_classes} classes were expected; check that it has its last "
            f"layer, or pass --num-classes {classes}"
        )
    old, new = (f"architecture: {info.arch}, {n} classes" for n in (info.num_classes, classes))
    notes = tuple(note.replace(old, new) for note in loaded.notes)
    return replace(loaded, info=replace(info, num_classes=classes), notes=notes)


def _looks_wrong(logits: Tensor) -> str | None:
    """Refuse probabilities; return a note on what is odd."""
    if logits.shape[1] < 2:
        return None
    finite = torch.isfinite(logits).all(1)
    if not bool(finite.all()):
        # A network that divides by an image's deviation does this; such images come back as they were.
        return "outputs: NaN or infinite logits for images of one colour or a plain ramp"
    sums = logits.sum(1)
    if bool((logits >= 0).all()) and bool(((sums - 1).abs() < _SUM_ERROR).all()):
        raise BadInputError(
            "the network returns probabilities (every row is non-negative and sums to 1), and realness needs logits: return "
            "them from before the softmax"
        )
    if bool((logits <= 0).all()) and bool((logits.logsumexp(1).abs() < _SUM_ERROR).all()):
        return (
            "outputs: log-probabilities, as of log_softmax; ce is right on them, but realness and energy need logits: "
            "return them from before the log_softmax"
        )
    if bool(((logits >= 0) & (logits <= 1)).all()):
        return (
            "outputs: every one is in 0..1, as of a sigmoid; realness needs logits: return them from before the sigmoid"
        )
    return None
