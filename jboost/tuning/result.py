"""The result of a tuning: every setting, the choice, and what is needed to use and to report it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jboost.booster import Booster
from jboost.engine.bundle import sha256_file
from jboost.engine.method.objectives import typed
from jboost.engine.samples import SampleSet, default_output
from jboost.evaluation.protocols import PROTOCOLS

from .choice import RULE, RULE_WITHOUT, Choice
from .grid import Combination, Edge, Family, Setting
from .marks import reference_digest
from .request import Request
from .runs import Run
from .subset import Subset
from .yardstick import Ruler, Yardstick


@dataclass(frozen=True)
class Tuning:
    """Everything that `jboost tune` shows.

    Attributes:
        request, ruler: what was asked; `ruler.reference` is the part tuned on, if a part was held out.
        booster: the opened bundle.
        samples: the whole set.
        subset: the images tuned on.
        yardstick: the reference and the unboosted subset's FID.
        families: the values tried, grown.
        runs: by combination.
        settings: every setting asked for.
        choice: the best and the chosen one.
        edges: lists at whose end the chosen or the best setting still lies.
        held_out: the part of the reference to report on; None if none was held out.
    """

    request: Request
    ruler: Ruler
    booster: Booster
    samples: SampleSet
    subset: Subset
    yardstick: Yardstick
    families: Sequence[Family]
    runs: dict[Combination, Run]
    settings: Sequence[Setting]
    choice: Choice
    edges: Sequence[tuple[Setting, Edge]]
    held_out: Path | None

    @property
    def images(self) -> int:
        """Number of images tuned on."""
        return len(self.subset.images)

    def command(self, bundle: Path, extra: Sequence[str] = ()) -> str:
        """The `jboost boost` command with the chosen setting.

        Args:
            bundle: as the user named it.
            extra: further arguments, such as how the images are read.
        """
        chosen, rules = self.choice.chosen.combination, self.request.rules
        words = ["jboost", "boost", _path(self.request.samples), "--bundle", _path(bundle), "--update", chosen.update]
        words += ["--objective", typed(chosen.objective), "--steps", str(self.choice.chosen.steps)]
        words += ["--step-size", exact(chosen.step_size)]
        if chosen.noise is not None:
            words += ["--noise", exact(chosen.noise), "--seed", str(rules.seed)]
        if rules.l0 is not None:
            words += ["--l0", exact(rules.l0)]
        if rules.early_stop is not None:
            words.append("--early-stop" if rules.early_stop else "--no-early-stop")
        if self.request.dtype != "fp32":
            words += ["--dtype", self.request.dtype]
        return shlex.join([*words, *extra])

    def report_command(self, extra: Sequence[str] = ()) -> str:
        """The `jboost eval` command that reports on other real images."""
        reference = "OTHER_REAL" if self.held_out is None else _path(self.held_out)
        words = ["jboost", "eval", reference, _path(self.request.samples), _path(default_output(self.samples))]
        words += ["--features", str(self.ruler.features)]
        start, stated = self.yardstick.start, self.ruler.protocol
        # Unless the reference was of another protocol, eval's default resizes as this tuning did, whatever OTHER_REAL is.
        if stated is not None or (start.extractor.kind == "inception" and not PROTOCOLS[start.protocol].tensorflow):
            words += ["--protocol", start.protocol]
        return shlex.join([*words, *extra])

    def mark(self) -> dict[str, Any]:
        """What identifies the reference; see `jboost.tuning.marks.mark`. The sketch is added by whoever computes it."""
        return {
            "digest": reference_digest(self.ruler.reference, self.yardstick.source.images),
            "sketch": [],
            "tuning": str(self.request.out.resolve()),
        }

    def to_dict(self, command: str) -> dict[str, Any]:
        """The tuning as ``--json`` writes it."""
        start, choice, reference = self.yardstick.start, self.choice, self.ruler.reference
        return {
            "samples": {
                "path": str(self.request.samples),
                "images": self.samples.shape[0],
                "fingerprint": self.samples.fingerprint,
                "tuned_on": self.subset.positions.tolist(),
            },
            "reference": {
                "path": str(reference),
                "kind": start.reference_kind,
                "images": start.reference_images,
                "fingerprint": self.mark()["digest"],
                "sha256": sha256_file(reference) if reference.is_file() else None,
                "held_out": None if self.held_out is None else str(self.held_out),
            },
            "protocol": start.protocol,
            "extractor": start.extractor.to_dict() | {"dimensions": start.dimensions},
            "bundle": self.booster.bundle.digest,
            "dtype": self.request.dtype,
            "seed": self.request.rules.seed,
            "l0": self.booster.bundle.config.l0 if self.request.rules.l0 is None else self.request.rules.l0,
            "unboosted": self.yardstick.unboosted,
            "settings": [self._setting(s) for s in self.settings],
            "best": self._setting(choice.best) | {"interval": choice.interval},
            "chosen": self._setting(choice.chosen) | {"difference_interval": choice.difference},
            "rule": RULE if self.request.resamples else RULE_WITHOUT,
            "bootstrap": {"resamples": self.request.resamples, "seed": self.request.rules.seed, "level": 0.95},
            "edges": [
                {"setting": self._setting(s), "option": e.option, "value": e.value, "try": list(e.beyond)}
                for s, e in self.edges
            ],
            "seconds": sum(run.seconds for run in self.runs.values()),
            "command": command,
        }

    def _setting(self, setting: Setting) -> dict[str, Any]:
        combination = setting.combination
        run = self.runs[combination]
        return {
            "update": combination.update, "objective": combination.objective, "step_size": combination.step_size,
            "noise": combination.noise, "steps": setting.steps, "fid": setting.fid, "gradients": setting.gradients,
            "realness": setting.realness, "early_stop": run.early_stop, "engine": run.engine, "failed": run.failed,
            "like_the_best": setting in self.choice.inside,
        }  # fmt: skip


def exact(value: float) -> str:
    """A number that reads back as the same one, as short as it goes."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _path(path: Path) -> str:
    text = str(path)
    return f"./{text}" if text.startswith("-") else text
