"""The reference loop as the oracle for a whole set, and the slots driven with limits of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jboost.engine.backends.array_runner import ArrayRunner, to_float
from jboost.engine.loop.pipeline import WriteBehind
from jboost.engine.loop.reference import boost_image
from jboost.engine.loop.runner import Runner
from jboost.engine.loop.scorer import Scorer
from jboost.engine.loop.slots import Slots
from jboost.engine.method.objectives import realness
from jboost.engine.method.settings import Settings
from jboost.engine.method.step import Gradient
from jboost.engine.method.updates import l2_norm
from jboost.engine.results.store import MemoryStore


def run_slots(
    runner: Runner,
    images: np.ndarray,
    y: np.ndarray,
    how: Settings,
    *,
    batch_size: int,
    limits: np.ndarray,
    order: Sequence[int] | None = None,
    snapshots: Sequence[int] = (),
    numbers: np.ndarray | None = None,
) -> MemoryStore:
    """`run_set` without its reading: images enter in `order`, by default as they come; image i takes `limits[i]` steps."""
    store = MemoryStore(images.shape, snapshots)
    _, height, width, channels = images.shape
    slots = Slots(runner, how, batch_size, (channels, height, width), snapshots)
    waiting = np.arange(len(images)) if order is None else np.array(order)
    with WriteBehind(store) as behind:
        scorer = Scorer(runner, batch_size, behind)
        while len(waiting) or len(slots.held):
            entering, waiting = waiting[: len(slots.free)], waiting[len(slots.free) :]
            if len(entering):
                own = None if numbers is None else numbers[entering]
                slots.admit(images[entering], y[entering], entering, limits[entering], own)
            slots.step()
            finished = slots.harvest()
            for step, taken in slots.snapshots():
                scorer.add(taken, step)
            if finished is not None:
                scorer.add(finished)
        scorer.flush()
    assert store.records["done"].all()
    return store


def expected(
    runner: ArrayRunner,
    images: np.ndarray,
    y: np.ndarray | None,
    how: Settings,
    *,
    limits: np.ndarray | None = None,
    numbers: np.ndarray | None = None,
) -> MemoryStore:
    """Images and records of a set by the reference loop; gradients that are not finite are tried again in float32.

    Args:
        runner: computes gradients and scores, one image at a time.
        images: uint8 [N, H, W, C].
        y: int64 [N], or None for the predicted classes.
        how: the settings.
        limits: int64 [N], each image's number of steps; None for the settings'.
        numbers: int64 [N], the numbers that key the noise; None for the positions.
    """
    store = MemoryStore(images.shape)
    limits = np.full(len(images), how.update.steps) if limits is None else limits
    for i, limit in enumerate(limits):
        one, gradient = images[i : i + 1], _Gradient(runner)
        label = None if y is None else int(y[i])
        own = replace(how, update=replace(how.update, steps=int(limit)))
        store.images[i], steps = boost_image(
            gradient, images[i], label, own, number=i if numbers is None else int(numbers[i])
        )

        x0 = np.ascontiguousarray(to_float(one))
        c = runner.evaluate_images(one, np.zeros(1, np.int64)).predicted if label is None else y[i : i + 1]
        before = after = runner.evaluate_images(one, c) if limit == 0 else gradient(x0, c)
        reached = np.isfinite(before.class_logit[0]) and realness(before.class_logit)[0] >= (how.l0 or 0)
        stopped = steps < limit and how.early_stop and (steps > 0 or reached)
        failed = steps < limit and not stopped
        if steps or failed:
            after = runner.evaluate_images(store.images[i : i + 1], c)
        values = {
            "done": True, "steps": steps, "stopped": stopped, "failed": failed,
            "retried": gradient.retried and runner.dtype != "fp32",
            "realness_before": realness(before.class_logit)[0], "realness_after": realness(after.class_logit)[0],
            "correct_before": before.predicted[0] == c[0], "correct_after": after.predicted[0] == c[0],
            "l2": l2_norm(to_float(store.images[i : i + 1]) - x0)[0],
        }  # fmt: skip
        store.records[i] = tuple(values[name] for name in store.records.dtype.names)
    return store


class _Gradient:
    """The gradient of numpy arrays: the runner's, or in float32 where that is not finite."""

    def __init__(self, runner: ArrayRunner):
        self._runner, self.retried = runner, False

    def __call__(self, x: np.ndarray, y: np.ndarray) -> Gradient:
        got = self._compute(x, y, in_float32=False)
        if np.isfinite(got.grad).all() and np.isfinite(got.class_logit).all():
            return got
        self.retried = True
        return self._compute(x, y, in_float32=True)

    def _compute(self, x: np.ndarray, y: np.ndarray, *, in_float32: bool) -> Gradient:
        put, get = self._runner.put, self._runner.get
        return Gradient(*(np.array(get(a)) for a in self._runner.gradient(put(x), put(y), in_float32=in_float32)))
