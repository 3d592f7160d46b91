"""A runner of one's own behind the public API."""

from __future__ import annotations

import jboost
from jboost.engine.backends.request import RunRequest


def boosted(bundle, opened, images, labels, update, batch_size):
    """What a run of the runner `opened` gives."""
    booster = jboost.load(bundle, engine="eager", device="cpu", dtype=opened.dtype)
    booster._batch_size = opened.batch_size or batch_size
    request = RunRequest("joint", 3.0, images.shape[1], "cpu", opened.dtype, booster._batch_size)
    booster._runner, booster._bound = opened, (request, "eager")
    with booster:
        return booster.boost(images, labels, update)
