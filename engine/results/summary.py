"""The record of each image in a run, and the summary made from the records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from jboost.engine.method.labels import GIVEN, labels_used
from jboost.engine.method.rounding import NEAREST
from jboost.engine.method.settings import Settings, ignores_labels
from jboost.engine.system.memory import peak_memory

Records = np.ndarray[Any, Any]
#: One record per image. `correct_*` is valid only if labels were given; `l2` is in units of the image's range [0, 1].
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
#: The most images that a summary names.
MOST_NAMED = 20


@dataclass(frozen=True)
class Summary:
    """A run in numbers; `to_dict` gives the stable keys of ``--json``.

    Attributes:
        images: images in the set.
        steps: the maximum number of steps per image.
        steps_used: mean number of steps taken.
        stopped_early: images whose realness reached l0 before the last step.
        seconds: wall-clock time of this run's compute, reading and writing; a resumed run counts its own part.
        images_per_second: images finished by this run over `seconds`.
        realness_before, realness_after: mean of softplus(f_c) over the images that did not fail and whose realness is
            finite before and after; None if there is none. "After" means the uint8 images as written.
        accuracy_before, accuracy_after: share of the same images that the model assigns to their class; None unless it was given.
        l2_moved: mean L2 distance between input and output, in units of the image's range [0, 1].
        fallbacks: images whose low-precision gradient was not finite and that were retried in float32.
        eps, norm, noise: the update's values; None for a field that the update does not have.
        peak_memory: the process's peak memory so far in bytes; None if the system does not report it.
        engines_failed: with ``--engine auto``, the error of each engine that was passed over because it failed, by name.
        redone: images that an interrupted run had begun or finished, and that were done again because what it left of
            them was damaged.
        unchanged_after_failure: images returned unchanged because their gradient or class logit was not finite, even in
            float32.
        lossy: how the output compresses images, if that changed pixels after the figures above were measured; else None.
        not_finite: other images whose realness is not finite before or after.
        not_finite_at: positions of the first images counted in one of the last two, at most `MOST_NAMED`.
        unmoved: images that took steps and came back as they were, because no value changed by half a grey level or because
            the ball around them holds no other image.
        first_step, straightness: with ``--step-size auto``, what `step_size` was set to: a mean length of the first step, in
            grey levels, or the median cosine of the gradients before and after a step. None: the other one, or the step size was
            stated.
        snapshots: one entry per snapshot, ascending: ``step``; ``file``, None if it is in memory; mean ``realness`` and
            ``accuracy`` as above.
        rounding: how the iterate became whole levels: ``"nearest"`` or ``"floor"``.
        labels: the classes that the images climbed: ``"given"``, ``"predicted"`` or ``"debiased"``; ``"unused"`` if the
            objective ignores those given.
        options: the update's fields that are not named above; `to_dict` gives each its own entry.
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
    realness_before: float | None
    realness_after: float | None
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
    rounding: str = NEAREST
    engines_failed: Mapping[str, str] = field(default_factory=dict)
    redone: int = 0
    lossy: str | None = None
    not_finite: int = 0
    not_finite_at: list[int] = field(default_factory=list)
    unmoved: int = 0
    first_step: float | None = None
    straightness: float | None = None
    snapshots: list[dict[str, Any]] = field(default_factory=list)
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_run(
        cls,
        settings: Settings,
        records: Records,
        *,
        labelled: bool,
        engine: str,
        dtype: str,
        device: str,
        batch_size: int,
        finished: int,
        seconds: float,
        engines_failed: Mapping[str, str] = MappingProxyType({}),
        redone: int = 0,
        lossy: str | None = None,
        snapshots: Mapping[int, Records] = MappingProxyType({}),
        files: Mapping[int, Path] = MappingProxyType({}),
    ) -> Self:
        """The summary of a finished run.

        Args:
            settings: the run's settings.
            records: [N] of `RECORD`.
            labelled: whether the set has labels.
            engine, dtype, device, batch_size: those of the run.
            finished: images that this run finished; fewer than N if the run was resumed.
            seconds: wall-clock time.
            engines_failed: by name, the errors of engines that were passed over because they failed.
            redone: images done again because what an earlier run left of them was damaged.
            lossy: see the attribute.
            snapshots: by number of steps, ascending: the records [N] of the images after that many steps.
            files: the file of each snapshot; empty if the snapshots are in memory.
        """
        update = {name: getattr(settings.update, name) for name in settings.update.options}
        classes = labels_used(settings.labels, labelled)
        labelled = classes == GIVEN
        return cls(
            seconds=seconds,
            images_per_second=finished / seconds,
            engine=engine,
            dtype=dtype,
            device=device,
            batch_size=batch_size,
            update=settings.update.name,
            **{name: update.pop(name, None) for name in _OF_UPDATE},
            options=update,
            objective=settings.objective,
            l0=settings.l0,
            early_stop=settings.early_stop,
            seed=settings.seed,
            peak_memory=peak_memory(),
            engines_failed=dict(engines_failed),
            redone=redone,
            lossy=lossy,
            first_step=settings.first_step,
            straightness=settings.straightness,
            rounding=settings.rounding,
            labels="unused" if labelled and ignores_labels(settings.objective) else classes,
            snapshots=[
                {"step": step, "file": str(files[step]) if files else None, **model_means(kept, "after", labelled)}
                for step, kept in snapshots.items()
            ],
            **image_means(records, labelled),
        )

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> Self:
        """The summary whose `to_dict` gave `values`."""
        own = {f.name for f in fields(cls)}
        return cls(
            **{name: value for name, value in values.items() if name in own},
            options={name: value for name, value in values.items() if name not in own},
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        plain = asdict(self)
        options: dict[str, Any] = plain.pop("options")
        return plain | options


#: The update's fields that every summary has; None if the update has no such field.
_OF_UPDATE = ("steps", "step_size", "eps", "norm", "noise")


def update_values(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The update's values in a `Summary.to_dict`, except steps and step size; None if the update has no such field."""
    own = {f.name for f in fields(Summary)} - {"eps", "norm", "noise"}
    return {name: value for name, value in summary.items() if name not in own}


def image_means(records: Records, labelled: bool) -> dict[str, Any]:
    """The entries of `Summary` that come from the images' records ([N] of `RECORD`)."""
    failed, known = records["failed"], counted(records)
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
        "not_finite": int((~known & ~failed).sum()),
        "not_finite_at": np.flatnonzero(~known)[:MOST_NAMED].tolist(),
        "unmoved": int(((records["steps"] > 0) & (records["l2"] == 0)).sum()),
    }


def model_means(records: Records, when: str, labelled: bool) -> dict[str, float | None]:
    """Mean realness and accuracy ``"before"`` or ``"after"`` of the images ([N] of `RECORD`) that the means count."""
    known = records[counted(records)]
    if not len(known):
        return {"realness": None, "accuracy": None}
    return {
        "realness": float(known[f"realness_{when}"].astype(np.float64).mean()),
        "accuracy": float(known[f"correct_{when}"].mean()) if labelled else None,
    }


def counted(records: Records) -> Records:
    """bool [N]: the means of realness and accuracy count the image: it did not fail, and its realness is finite before and after.

    Failed images are left out even if their realness is finite: engines differ in what they make of a NaN inside a network.
    """
    finite: Records = np.isfinite(records["realness_before"]) & np.isfinite(records["realness_after"])
    which: Records = finite & ~records["failed"]
    return which
