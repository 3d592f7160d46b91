"""The folder of a tuning: what it measures, and a pair of files for each finished run, so that an interruption loses one run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jboost.engine.errors import BadInputError
from jboost.engine.samples.files import cannot_write
from jboost.engine.system.commands import remove_folder
from jboost.engine.system.replacing import discard, replacing, replacing_folder
from jboost.engine.system.typed import as_bool, as_float, as_int, as_list, as_mapping, as_text, load_json, or_none

from .grid import Combination, Setting
from .runs import Run

#: Increased when this version would misread an older folder.
FORMAT = 2
ABOUT, RUNS = "about.json", "runs"
#: Features of settings up to this many times the lowest FID are kept: only those can be chosen.
KEPT = 1.5


#: What is said of the parts of an identity that are hashes.
_HASHED = {
    "input": "SAMPLES had other contents, or were read with other options",
    "positions": "other images of SAMPLES were tuned on",
    "bundle": "--bundle was another one, or this one before it was exported again",
    "reference": "--ref was another one, or had other contents",
    "features": "--features was another one, or had other contents",
}


def differences(old: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """What differs between two tunings' identities, in terms of the options; empty if nothing does."""
    differ = [key for key in {**identity, **old} if old.get(key) != identity.get(key)]
    if "positions" in differ and {"images", "input"} & set(differ):
        differ.remove("positions")  # they follow from both
    said = [_HASHED[key] for key in differ if key in _HASHED]
    for key in differ:
        if key not in _HASHED:
            said.append(f"--{key.replace('_', '-')} was {_given(old.get(key))}, is {_given(identity.get(key))}")
    return "; ".join(said)


def _given(value: Any) -> str:
    return "not given" if value is None else "on" if value is True else "off" if value is False else str(value)


class Folder:
    """A tuning's folder.

    Args:
        path: the folder; made if it does not exist.
        identity: what every figure depends on but the combination, as JSON values.
        resume: whether the folder may hold an earlier tuning, whose finished runs are taken over.

    Raises:
        BadInputError: it holds something else, or another tuning, or `resume` is needed; or it cannot be written.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], *, resume: bool):
        self.path = path
        old = read_identity(path, resume=resume)
        self._new = old is None
        if old is not None:
            if said := differences(old, identity):
                raise BadInputError(
                    f"{path} holds another tuning ({said}); go on with what it began with, or name another -o"
                )
            return
        try:
            with replacing_folder(path) as aside:
                (aside / RUNS).mkdir()
                (aside / ABOUT).write_text(json.dumps({"format": FORMAT, "identity": identity}, indent=2) + "\n")
        except OSError as e:
            raise cannot_write(path, e) from e

    def load(self, combination: Combination, steps: tuple[int, ...]) -> Run | None:
        """The finished run of a combination; None if there is none with these step counts, or it is damaged."""
        file = self._file(combination, ".json")
        try:
            run = _read_run(load_json(file.read_bytes()), combination)
            if not set(steps) <= {s.steps for s in run.settings}:
                return None
            with np.load(file.with_suffix(".npz"), allow_pickle=False) as arrays:
                run.features.update({int(name): torch.from_numpy(arrays[name]) for name in arrays.files})
        except Exception:  # damaged in one of many ways, or not there: it is run again
            return None
        return run

    def save(self, run: Run, lowest: float) -> None:
        """Write a finished run; features only of settings whose FID is near `lowest`.

        Raises:
            BadInputError: the folder cannot be written.
        """
        combination = run.settings[0].combination
        file = self._file(combination, ".json")
        near: dict[str, Any] = {
            str(s.steps): run.features[s.steps].numpy() for s in run.settings if s.fid <= KEPT * lowest
        }
        content = {
            "update": combination.update, "objective": combination.objective, "step_size": combination.step_size,
            "noise": combination.noise, "engine": run.engine, "early_stop": run.early_stop, "failed": run.failed,
            "seconds": run.seconds,
            "settings": [
                {"steps": s.steps, "fid": s.fid, "gradients": s.gradients, "realness": s.realness} for s in run.settings
            ],
        }  # fmt: skip
        try:
            with replacing(file.with_suffix(".npz")) as aside, aside.open("wb") as f:
                np.savez(f, **near)
            # Last, because it says that the run is finished.
            with replacing(file) as aside:
                aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        except OSError as e:
            raise cannot_write(file, e) from e

    def discard_if_empty(self) -> None:
        """Remove the folder if this object made it and no run has finished."""
        if self._new and not any((self.path / RUNS).glob("*.json")):
            with suppress(OSError):
                discard(self.path)

    def _file(self, combination: Combination, suffix: str) -> Path:
        name = re.sub(r"[^a-z0-9.]+", "-", str(combination).lower())[:60].strip("-")
        # The hash tells apart names that are equal after that.
        unique = hashlib.sha256(repr(combination).encode()).hexdigest()[:8]
        return self.path / RUNS / f"{name}-{unique}{suffix}"


def read_identity(path: Path, *, resume: bool) -> dict[str, Any] | None:
    """The identity of the tuning that a folder holds; None if the folder is new or empty.

    Raises:
        BadInputError: it holds a tuning and `resume` is false, something else, or a tuning of another version.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    try:
        about = as_mapping(load_json((path / ABOUT).read_bytes()), ABOUT)
        identity = as_mapping(about["identity"], "identity")
    except (OSError, KeyError, BadInputError):
        raise BadInputError(f"{path} exists and is no tuning's folder; name another with -o") from None
    if about.get("format") != FORMAT:
        raise BadInputError(
            f"{path} was begun by another version of jboost; name another -o, or remove it: {remove_folder(path)}"
        )
    if not resume:
        raise BadInputError(
            f"{path} holds a tuning; go on with it with --resume (finished runs are kept, the lists may change), name another -o, "
            f"or remove it: {remove_folder(path)}"
        )
    return identity


def _read_run(content: Any, combination: Combination) -> Run:
    found = as_mapping(content, "the run")
    stated = (found["update"], found["objective"], found["step_size"], found["noise"])
    if stated != (combination.update, combination.objective, combination.step_size, combination.noise):
        raise BadInputError("it is another combination's")
    settings = tuple(
        Setting(
            combination,
            as_int(s["steps"], "steps", least=1),
            as_float(s["fid"], "fid"),
            as_float(s["gradients"], "gradients"),
            or_none(s["realness"], lambda value: as_float(value, "realness")),
        )
        for s in (as_mapping(s, "a setting") for s in as_list(found["settings"], "settings"))
    )
    features: dict[int, Tensor] = {}
    return Run(
        settings, features, as_text(found["engine"], "engine"), as_bool(found["early_stop"], "early_stop"),
        as_int(found["failed"], "failed"), as_float(found["seconds"], "seconds"),
    )  # fmt: skip
