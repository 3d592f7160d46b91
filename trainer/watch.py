"""The output of a run in progress: a log of JSON lines, trackers, and the caller's callbacks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jboost.engine.system.replacing import replacing
from jboost.engine.system.typed import dump_json

from .validation import Frechet, Validated

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .config import TrainConfig

LOG = "log.jsonl"


def _silent(*_: object) -> None:
    return None


@dataclass(frozen=True)
class Hooks:
    """The caller's callbacks. They are called on the main process only.

    Attributes:
        say: called with a remark for the user, one sentence.
        on_log: called with the number of iterations done, and figures by name.
        on_validation: called with the number of iterations done, and the figures and images of the validation.
        frechet: a distance between sets of images; None: validation reports no distance.
    """

    say: Callable[[str], object] = _silent
    on_log: Callable[[int, Mapping[str, float]], object] = _silent
    on_validation: Callable[[int, Validated], object] = _silent
    frechet: Frechet | None = None


class Log:
    """Writes figures to ``log.jsonl`` and to the trackers.

    A line is ``{"iteration": n, "kind": "train" | "validation", ...}`` after n iterations. Lines that a killed run
    wrote after its last saved state are dropped, because the resumed run repeats these iterations.

    Args:
        folder: the run's folder.
        config: the configuration; trackers show it.
        accelerator: starts the trackers.
        iteration: number of iterations done.
    """

    def __init__(self, folder: Path, config: TrainConfig, accelerator: Accelerator, iteration: int):
        self._accelerator = accelerator
        path = folder / LOG
        kept = [line for line in _lines(path) if _iteration_of(line) <= iteration]
        with replacing(path) as aside:
            aside.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        if config.trackers:
            plain = {k: v if isinstance(v, bool | int | float) else str(v) for k, v in config.model_dump().items()}
            # TensorBoard then drops the steps that the run is about to repeat.
            options = {"tensorboard": {"purge_step": iteration}} if "tensorboard" in config.trackers else {}
            accelerator.init_trackers("tensorboard", config=plain, init_kwargs=options)

    def write(self, iteration: int, kind: str, figures: Mapping[str, float]) -> None:
        """Write a line to the log and the figures to the trackers."""
        self._file.write(dump_json({"iteration": iteration, "kind": kind, **figures}) + "\n")
        self._file.flush()
        self._accelerator.log({f"{kind}/{name}": value for name, value in figures.items()}, step=iteration)

    def close(self) -> None:
        """Close the file; the trackers end with the accelerator's training."""
        self._file.close()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _iteration_of(line: str) -> float:
    """The number of iterations after which a line was written; infinity for an incomplete line."""
    try:
        record: dict[str, Any] = json.loads(line)
        return float(record["iteration"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
