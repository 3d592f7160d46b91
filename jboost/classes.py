"""The classes that a run climbs, as ``--labels`` says; see `jboost.engine.method.labels`."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jboost.engine.backends.request import RunRequest
from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError
from jboost.engine.loop.pipeline import Reader
from jboost.engine.method.labels import DEBIASED, GIVEN, PREDICTED, debiased_labels, labels_used
from jboost.engine.method.settings import Settings

Numpy = np.ndarray[Any, Any]

#: Images of a forward pass for debiased labels. Their last bits depend on it, so it is not the run's batch size.
_BATCH = 32

_log = logging.getLogger("jboost")


class Climbed(NamedTuple):
    """The classes that a set's images climb.

    Attributes:
        labels: int64 [N]; None: the model's predictions, which the loop makes.
        identity: for `jboost.engine.results.identity.run_identity`.
    """

    labels: Numpy | None
    identity: str | None


def climbed_classes(
    settings: Settings,
    labels: Numpy | None,
    read: Reader,
    shape: tuple[int, ...],
    *,
    bundle: Bundle,
    device: str,
    name: object = "the set",
) -> Climbed:
    """The classes of a set's images.

    Args:
        settings: the run's settings.
        labels: int64 [N], those of the set; None: it has none.
        read: reads images uint8 [n, H, W, C] at ascending positions.
        shape: (N, H, W, C).
        bundle, device: what computes debiased labels.
        name: what a message calls the set.

    Raises:
        BadInputError: the set has no labels and they are asked for, or torch is missing for debiased ones.
    """
    used = labels_used(settings.labels, labels is not None, name)
    if used == GIVEN:
        return Climbed(labels, None)
    if used == PREDICTED:
        return Climbed(None, None if labels is None else PREDICTED)
    classes = debiased_labels(_logits_of(bundle, device, read, shape))
    # A resumed run computes them again, and stops here should they differ.
    return Climbed(classes, f"{DEBIASED} {hashlib.sha256(classes.astype('<i8').tobytes()).hexdigest()[:16]}")


def _logits_of(bundle: Bundle, device: str, read: Reader, shape: tuple[int, ...]) -> Callable[[], Iterator[Numpy]]:
    """A function that passes over a set: logits float32 [n, num_classes] of all its images, in order.

    They are the eager engine's in float32, at one batch size, so that every engine, precision and batch size gets the same
    labels. The other engines' graphs have no such output.
    """
    try:
        import torch
    except ImportError as e:
        raise BadInputError(
            "--labels debiased reads the network's logits, which needs torch; install it (pip install torch), or give "
            "--labels predicted"
        ) from e
    from jboost.engine.backends.eager.runner import EagerRunner

    place = device if torch.cuda.is_available() else "cpu"  # an engine without torch may be on a GPU
    runner = EagerRunner(bundle, RunRequest("logit", None, shape[1], place, "fp32", None))
    _log.info(
        f"classes: argmax of f + 1 - mean f over the {shape[0]:,} images, by two passes over them on {runner.device} in float32"
    )

    def passes() -> Iterator[Numpy]:
        for start in range(0, shape[0], _BATCH):
            yield runner.logits(read(np.arange(start, min(start + _BATCH, shape[0]))))

    return passes
