"""The whole of a tuning: subset, reference, runs, growth at the edges, choice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from jboost.booster import Booster
from jboost.engine.samples import SampleSet, open_samples
from jboost.engine.samples.identity import file_contents
from jboost.engine.system.locks import only_writer
from jboost.evaluation.sets import open_source

from .choice import Choice, choose
from .grid import Combination, Family, Setting, best_of, edges, grow
from .holdout import split
from .marks import reference_digest
from .request import Request, families_of
from .result import Tuning
from .runs import Run, measure
from .store import KEPT, Folder, read_identity
from .subset import Subset, pick
from .yardstick import Progress, Ruler, Yardstick


def tune(
    booster: Booster,
    request: Request,
    ruler: Ruler,
    *,
    on_open: Callable[[SampleSet], None] = lambda samples: None,
    on_progress: Progress = lambda what, done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> Tuning:
    """Measure every setting of a grid on a subset, let the grid grow at its edges, and choose.

    Args:
        booster: the opened bundle.
        request: what to try, and where to write.
        ruler: reference and features.
        on_open: called with the samples once they are open.
        on_progress: called as the work proceeds, see `jboost.evaluation.evaluate.Progress`.
        say: called with a line about each finished run and each growth of the grid.

    Raises:
        BadInputError: something cannot be used; before anything is boosted, if it can be known then.
    """
    reading = replace(ruler.reading, channels=booster.bundle.config.in_channels)
    ruler = replace(ruler, reading=reading)
    read_identity(request.out, resume=request.resume)
    samples = open_samples(request.samples, reading)
    on_open(samples)
    subset = pick(samples, request.images, booster.bundle.config)
    with only_writer(request.out):
        folder = Folder(request.out, _identity(samples, subset, booster, request, ruler), resume=request.resume)
        try:
            return _tune(booster, request, ruler, samples, subset, folder, on_progress, say)
        except BaseException:
            folder.discard_if_empty()
            raise


def _tune(
    booster: Booster,
    request: Request,
    ruler: Ruler,
    samples: SampleSet,
    subset: Subset,
    folder: Folder,
    on_progress: Progress,
    say: Callable[[str], None],
) -> Tuning:
    held_out: Path | None = None
    if request.holdout is not None:
        tuned_on, held_out = split(ruler.reference, request.holdout, folder.path, ruler.reading)
        ruler = replace(ruler, reference=tuned_on)
    with TemporaryDirectory() as aside:
        unboosted = Path(aside) / "subset.npz"
        np.savez(unboosted, subset.images)
        yardstick = Yardstick(ruler, unboosted, subset.images.shape[1:], on_progress)
    families = families_of(request, booster, subset, trust_code=ruler.trust_code)
    runner = _Runs(booster, request, subset, yardstick, folder, families, on_progress, say)
    runner.run()
    left = request.grow
    while left > 0 and runner.grow([best_of(runner.settings([family])) for family in families]):
        runner.run()
        left -= 1

    def chosen() -> Choice:
        return choose(
            runner.settings(families), runner.features(), yardstick, resamples=request.resamples,
            seed=request.rules.seed, on_progress=on_progress,
        )  # fmt: skip

    choice = chosen()
    # The chosen setting may lie on an edge where its family's best does not.
    while left > 0 and runner.grow([choice.chosen]):
        runner.run()
        left -= 1
        choice = chosen()
    ends = [
        (setting, edge)
        for setting in dict.fromkeys((choice.chosen, choice.best))
        for family in families
        if setting.combination.family == (family.update, family.objective)
        for edge in edges(family, setting)
    ]
    return Tuning(
        request, ruler, booster, samples, subset, yardstick, families, runner.runs, runner.settings(families), choice, ends,
        held_out,
    )  # fmt: skip


class _Runs:
    """The runs of a tuning, those of the folder among them."""

    def __init__(
        self,
        booster: Booster,
        request: Request,
        subset: Subset,
        yardstick: Yardstick,
        folder: Folder,
        families: list[Family],
        on_progress: Progress,
        say: Callable[[str], None],
    ):
        self._booster, self._request, self._subset, self._yardstick = booster, request, subset, yardstick
        self._folder, self._families, self._on_progress, self._say = folder, families, on_progress, say
        self.runs: dict[Combination, Run] = {}

    def run(self) -> None:
        """Make the runs of the families that are not there yet."""
        todo = [(c, steps) for family in self._families for c, steps in family.runs() if not self._has(c, steps)]
        for i, (combination, steps) in enumerate(todo, 1):
            self._on_progress("runs", i - 1, len(todo))
            run = self._folder.load(combination, steps)
            how = "kept from before"
            if run is None:
                run = measure(
                    self._booster, self._subset, self._yardstick, combination, steps, self._request.rules,
                    self._on_progress,
                )  # fmt: skip
                self._folder.save(run, min(self._lowest(), *(s.fid for s in run.settings)))
                how = f"{run.seconds:.1f} s"
            self.runs[combination] = run
            for kept in self.runs.values():
                for setting in kept.settings:
                    if setting.fid > KEPT * self._lowest():
                        kept.features.pop(setting.steps, None)
            best = best_of(run.settings)
            self._say(f"run {i} of {len(todo)}: {combination}: FID {best.fid:.4g} after {best.steps} steps ({how})")

    def grow(self, settings: Iterable[Setting]) -> bool:
        """Let the families grow where these settings lie on an edge; returns whether one did."""
        grown = False
        for setting in settings:
            (family,) = (f for f in self._families if (f.update, f.objective) == setting.combination.family)
            for edge in grow(family, setting):
                grown = True
                more = ", ".join(f"{value:g}" for value in edge.beyond)
                self._say(
                    f"{family.update}, {family.objective}: on the grid's edge ({edge}); adding {edge.option} {more}"
                )
        return grown

    def settings(self, families: Iterable[Family]) -> list[Setting]:
        """The settings that families ask for; a kept run may have more."""
        return [
            setting
            for family in families
            for combination, steps in family.runs()
            for setting in self.runs[combination].settings
            if setting.steps in steps
        ]

    def features(self) -> dict[tuple[Combination, int], Any]:
        """The features of the settings that may be chosen."""
        return {(c, steps): kept for c, run in self.runs.items() for steps, kept in run.features.items()}

    def _has(self, combination: Combination, steps: tuple[int, ...]) -> bool:
        run = self.runs.get(combination)
        return run is not None and set(steps) <= {s.steps for s in run.settings}

    def _lowest(self) -> float:
        return min((s.fid for run in self.runs.values() for s in run.settings), default=float("inf"))


def _identity(samples: SampleSet, subset: Subset, booster: Booster, request: Request, ruler: Ruler) -> dict[str, Any]:
    """Everything that a run's figures depend on, except its own values."""
    source = open_source(ruler.reference, ruler.reading, reference=True)
    rules = request.rules
    return {
        "input": samples.fingerprint,
        "images": len(subset.positions),
        "positions": hashlib.sha256(subset.positions.astype("<i8").tobytes()).hexdigest(),
        "bundle": booster.bundle.digest,
        "reference": reference_digest(ruler.reference, source.images),
        "holdout": request.holdout,
        "features": _features_digest(ruler.features),
        "features_range": ruler.features_range,
        "protocol": ruler.protocol,
        "dtype": request.dtype,
        "l0": rules.l0,
        "early_stop": rules.early_stop,
        "seed": rules.seed,
    }


def _features_digest(spec: str | None) -> str | None:
    """What ``--features`` names: a hash of a file, of a bundle's manifest, else the words."""
    if spec is None:
        return None
    path = Path(spec.removeprefix("bundle:"))
    for file in (path, path / "config.json"):
        if file.is_file():
            return file_contents(file)
    return spec
