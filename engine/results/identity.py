"""What an unfinished run is: everything that its output depends on, kept in a header that notices any change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jboost.engine.errors import BadInputError
from jboost.engine.method.auto_step import Aim
from jboost.engine.method.labels import DEFAULT
from jboost.engine.method.rounding import NEAREST
from jboost.engine.method.settings import Settings
from jboost.engine.method.sources import versioned
from jboost.engine.method.updates import MOVES
from jboost.engine.system.commands import remove_folder

HEADER = "run.json"
#: The format of an unfinished run; increased when this version would misread an older one.
FORMAT = 2


def run_identity(
    settings: Settings,
    *,
    fingerprint: str,
    images: int,
    bundle: str,
    engine: str,
    dtype: str,
    snapshots: Sequence[int] = (),
    numbers: np.ndarray[Any, Any] | None = None,
    labels: str | None = None,
) -> dict[str, Any]:
    """Everything that a run's output depends on, as JSON values. The batch size is not part of it.

    Args:
        settings: the run's settings.
        fingerprint: the input's fingerprint.
        images: N.
        bundle: the bundle's digest, which covers all of its files.
        engine, dtype: the engine and the network's dtype.
        snapshots: numbers of steps, ascending.
        numbers: int64 [N], the numbers that key the noise; None for positions.
        labels: what the classes are if they are not `DEFAULT`; None if they are.
    """
    identity = {
        "input": fingerprint,
        "images": images,
        "bundle": bundle,
        "engine": engine,
        "dtype": dtype,
        "update": versioned(repr(settings.update), MOVES[settings.update.kind]),
        "objective": settings.objective,
        "l0": settings.l0,
        "early_stop": settings.early_stop,
        "seed": settings.seed,
    }
    if settings.aim != Aim():
        aimed = {name: value for name, value in settings.aim._asdict().items() if value is not None}
        identity |= {**aimed, "step_size": settings.update.step_size}
    # What is at its default is left out, so that runs go on that an earlier version began.
    if settings.rounding != NEAREST:
        identity["rounding"] = settings.rounding
    if labels is not None:
        identity["labels"] = labels
    if numbers is not None:
        identity["numbers"] = hashlib.sha256(np.asarray(numbers, "<i8").tobytes()).hexdigest()
    return identity | ({"snapshots": list(snapshots)} if snapshots else {})


def partial_folder(out: Path) -> Path:
    """The folder in which an unfinished run into `out` keeps its results."""
    return out.with_name(out.name + ".partial")


def remove_it(folder: Path) -> str:
    """The command that removes a folder, as the user types it."""
    return remove_folder(folder)


def header_text(identity: Mapping[str, Any]) -> str:
    """The header's text."""
    return json.dumps({"format": FORMAT, "run": identity, "digest": digest(identity)}, indent=2) + "\n"


def digest(identity: Mapping[str, Any]) -> str:
    """SHA-256 of an identity, hex."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def unfinished_run(out: Path) -> dict[str, Any] | None:
    """The identity of the unfinished run into `out`; None if there is no such run.

    Raises:
        BadInputError: the folder is there, but it is no run, is damaged, or is an earlier version's.
    """
    folder = partial_folder(out)
    if not folder.exists() and not folder.is_symlink():
        return None
    try:
        content = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"{HEADER} is damaged")
        if content.get("format") != FORMAT:
            raise BadInputError(
                f"{folder} was begun by another version of jboost, whose format this one cannot check; finish it with "
                f"that version, or remove it: {remove_it(folder)}"
            )
        identity: dict[str, Any] = content["run"]
        if not isinstance(identity, dict) or content["digest"] != digest(identity):
            raise ValueError(f"{HEADER} is damaged")
    except BadInputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        what = e.strerror if isinstance(e, OSError) else e
        raise BadInputError(f"{folder} is not an unfinished run ({what}); remove it: {remove_it(folder)}") from e
    return identity


#: What is said of the entries that are hashes.
_HASHED = {
    "bundle": "its bundle was another one, or this one before it was exported again",
    "input": "its input's contents were others, or it was read with other options",
    "plan": "its shards were others by name, order or range, or they were read with other options",
    "numbers": "its images had other numbers for the noise",
}


#: The values of entries that `run_identity` leaves out.
_LEFT_OUT = {"rounding": NEAREST, "labels": DEFAULT}


def check_same(out: Path, old: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Check that the unfinished run into `out` is the one to go on with.

    Raises:
        BadInputError: it is not; the message says what differs.
    """
    if said := differences(old, identity):
        folder = partial_folder(out)
        raise BadInputError(
            f"{folder} holds another run ({said}); go on with what it began with, leave out --resume and name another -o, or "
            f"remove it: {remove_it(folder)}"
        )


def differences(old: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """What differs between two identities, for a message; empty if nothing does."""
    old, identity = {**_LEFT_OUT, **old}, {**_LEFT_OUT, **identity}
    differ = [key for key in {**identity, **old} if old.get(key) != identity.get(key)]
    hashed = [text for key, text in _HASHED.items() if key in differ]
    said = {*_HASHED, *(("step_size",) if "update" in differ else ())}  # the update's text has the step size
    plain = [f"{key} was {old.get(key)!r}, is {identity.get(key)!r}" for key in differ if key not in said]
    return "; ".join([*hashed, *plain[:3]])
