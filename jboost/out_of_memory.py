"""A GPU's lack of memory as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jboost.engine.errors import FailureError


@contextmanager
def out_of_memory(batch_size: int, remedy: str) -> Iterator[None]:
    """Raise torch's error of a GPU without enough memory as ours.

    Args:
        batch_size: images in flight.
        remedy: what to do about it.

    Raises:
        FailureError: the block ran out of memory.
    """
    try:
        yield
    except Exception as e:
        # Match torch's class by name: an engine without torch must not import it for this check.
        if type(e).__name__ != "OutOfMemoryError":
            raise
        images = "one image" if batch_size == 1 else f"{batch_size} images"
        raise FailureError(f"out of GPU memory with {images} in flight; {remedy}") from e
