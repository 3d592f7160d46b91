"""What a run keeps of each image, and the summary made of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

#: One record an image. `correct_*` counts only where labels were given; `l2` is in units of the image's range [0, 1].
RECORD = np.dtype(
    [
        ("done", "?"),
        ("steps", "<i4"),
        ("stopped", "?"),
        ("retried", "?"),
        ("failed", "?"),
        ("realness_before", "<f4"),
        ("realness_after", "<f4"),
        ("correct_before", "?"),
        ("correct_after", "?"),
        ("l2", "<f4"),
    ]
)


@dataclass(frozen=True)
class Summary:
    """A run in numbers; `to_dict` gives the stable keys of ``--json``.

    Attributes:
        images: images in the set.
        steps: the most steps an image could take.
        steps_used: mean number of steps taken.
        stopped_early: images whose realness reached l0 before the last step.
        seconds: wall-clock time of this run's compute, reading and writing; a resumed run counts its own part.
        images_per_second: images finished by this run over `seconds`.
        realness_before, realness_after: mean of softplus(f_c) over the set; after: of the uint8 images as written.
        accuracy_before, accuracy_after: share of images that the model puts into their class; None without labels.
        l2_moved: mean L2 distance between input and output, in units of the image's range [0, 1].
        fallbacks: images whose low-precision gradient was not finite and that were retried in float32.
        eps, norm, noise: of the update; None where it has none.
        peak_memory: the most memory that this process has held so far, bytes; None where the system does not tell.
        unchanged_after_failure: images returned as they were because their gradient was not finite even in float32.
        snapshots: one a snapshot, ascending: ``step``; ``file``, None where it is in memory; mean ``realness`` and ``accuracy``
            as above.
    """

    images: int
    steps: int
    steps_used: float
    stopped_early: int
    seconds: float
    images_per_second: float
    engine: str
    dtype: str
    device: str
    batch_size: int
    realness_before: float
    realness_after: float
    accuracy_before: float | None
    accuracy_after: float | None
    l2_moved: float
    fallbacks: int
    unchanged_after_failure: int
    update: str
    step_size: float
    eps: float | None
    norm: str | None
    noise: float | None
    objective: str
    l0: float | None
    early_stop: bool
    seed: int
    labels: str
    peak_memory: int | None
    snapshots: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def image_means(records: np.ndarray[Any, Any], labelled: bool) -> dict[str, Any]:
    """The entries of `Summary` that come from the images' records ([N] of `RECORD`)."""
    failed = records["failed"]
    before, after = (model_means(records, when, labelled) for when in ("before", "after"))
    return {
        "images": len(records),
        "steps_used": float(records["steps"].mean()),
        "stopped_early": int(records["stopped"].sum()),
        "realness_before": before["realness"],
        "realness_after": after["realness"],
        "accuracy_before": before["accuracy"],
        "accuracy_after": after["accuracy"],
        "l2_moved": float(records["l2"].astype(np.float64).mean()),
        "fallbacks": int((records["retried"] & ~failed).sum()),
        "unchanged_after_failure": int(failed.sum()),
    }


def model_means(records: np.ndarray[Any, Any], when: str, labelled: bool) -> dict[str, float | None]:
    """What the model says on average of the images ([N] of `RECORD`) ``"before"`` or ``"after"``."""
    return {
        "realness": float(records[f"realness_{when}"].astype(np.float64).mean()),
        "accuracy": float(records[f"correct_{when}"].mean()) if labelled else None,
    }
