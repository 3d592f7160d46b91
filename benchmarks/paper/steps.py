"""Steps whose products stay: a run that is killed, at any moment, goes on with the first step that is not finished.

A step works in ``NAME.partial``. Its record (settings, seconds, what it found) is written there last, and one rename makes the
folder ``NAME``: a folder of that name is a finished step. The record holds a digest of the step's settings and of the digests of
the steps it needs, so that a step is redone when it or anything before it is asked for differently.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jboost.engine.system.replacing import replacing

RECORD, BEGUN = "record.json", "begun.json"
PARTIAL = ".partial"

#: Works in the folder that it is given; what it returns is kept in the record. JSON values.
Action = Callable[[Path], "dict[str, Any] | None"]


@dataclass(frozen=True)
class Step:
    """A piece of work.

    Attributes:
        name: of the step and of its folder; slashes make folders in folders.
        settings: everything that its product depends on, beside the steps it needs. JSON values.
        action: the work.
        needs: names of steps whose products it reads.
        seconds: what it should take.
        resumes: whether `action` goes on from what a killed attempt has left in the folder; else it starts in an empty one.
    """

    name: str
    settings: dict[str, Any]
    action: Action = field(compare=False)
    needs: tuple[str, ...] = ()
    seconds: float = 0.0
    resumes: bool = False


class Runner:
    """Runs steps in order, each once.

    Args:
        out: the folder of all products.
        steps: each after those it needs.
        say: prints a line.

    Raises:
        ValueError: two steps of one name, or one before a step that it needs.
    """

    def __init__(self, out: Path, steps: Sequence[Step], say: Callable[[str], None] = print):
        self.out, self.say = out, say
        self.steps: dict[str, Step] = {}
        self.digests: dict[str, str] = {}
        for step in steps:
            if step.name in self.steps:
                raise ValueError(f"two steps are called {step.name}")
            if late := [name for name in step.needs if name not in self.steps]:
                raise ValueError(f"{step.name} needs {', '.join(late)}, which does not come before it")
            self.steps[step.name] = step
            told = [step.settings, [self.digests[name] for name in step.needs]]
            self.digests[step.name] = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def record(self, name: str) -> dict[str, Any] | None:
        """What a finished step left: ``name``, ``settings``, ``seconds`` (of the last attempt), ``attempts``, ``digest``,
        ``facts``. None if it is not finished or was asked for differently."""
        record = _read(self.out / name / RECORD)
        return record if record is not None and record["digest"] == self.digests[name] else None

    def chosen(self, only: Iterable[str] = ()) -> list[Step]:
        """The steps that match a pattern (``*`` and ``?``) or begin with one, and those they need; without patterns, all.

        Raises:
            ValueError: a pattern that matches nothing.
        """
        patterns = list(only)
        if not patterns:
            return list(self.steps.values())
        wanted: set[str] = set()
        for pattern in patterns:
            found = {name for name in self.steps if fnmatch.fnmatchcase(name, pattern) or name.startswith(pattern)}
            if not found:
                raise ValueError(f"no step is called {pattern}; --list shows their names")
            wanted |= found
        for name in reversed(self.steps):
            if name in wanted:
                wanted |= set(self.steps[name].needs)
        return [step for name, step in self.steps.items() if name in wanted]

    def run(self, only: Iterable[str] = ()) -> None:
        """Do what is not done yet, step by step."""
        todo = [step for step in self.chosen(only) if self.record(step.name) is None]
        for i, step in enumerate(todo):
            left = sum(other.seconds for other in todo[i:])
            self.say(f"[{i + 1}/{len(todo)}, about {left / 60:.0f} min left] {step.name}")
            seconds = self.do(step)
            self.say(f"{seconds:9.1f} s  {step.name}")

    def do(self, step: Step) -> float:
        """Do a step whose needs are done, whether or not it was done before; returns the seconds that it took."""
        final = self.out / step.name
        partial = final.with_name(final.name + PARTIAL)
        digest = self.digests[step.name]
        begun = _read(partial / BEGUN)
        attempts = 1 + (begun["attempts"] if begun is not None and begun["digest"] == digest else 0)
        if attempts == 1 or not step.resumes:
            shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=True)
        write_json(partial / BEGUN, {"digest": digest, "attempts": attempts})
        start = time.perf_counter()
        facts = step.action(partial)
        seconds = time.perf_counter() - start
        record = {
            "name": step.name, "settings": step.settings, "needs": step.needs, "seconds": seconds,
            "attempts": attempts, "digest": digest, "facts": facts or {},
        }  # fmt: skip
        write_json(partial / RECORD, record)
        (partial / BEGUN).unlink()
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        return seconds


def write_json(path: Path, values: Any) -> None:
    """Write JSON; never half."""
    with replacing(path) as aside:
        aside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return values
