"""``out/run.json``: what a run over shards is. The first worker to come writes it, the others obey it."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jboost.engine.errors import BadInputError
from jboost.engine.results.identity import differences, digest, remove_it
from jboost.engine.samples.files import KINDS, cannot_write
from jboost.engine.samples.patterns import MOST, RUN
from jboost.engine.system.replacing import create_once
from jboost.engine.system.typed import as_int, as_list, as_mapping, as_text, check_keys, dump_json, load_json, or_none

from .plan import Plan, Shard

#: The format of the file; increased when this version would misread an older one.
FORMAT = 1
_WHAT = "jboost shards"


@dataclass(frozen=True)
class RunRecord:
    """A run over shards.

    Attributes:
        identity: everything that an output depends on, as JSON values.
        plan: the shards.
        facts: what the merged summary and run file say besides: see `jboost.engine.shards.merge`.
    """

    identity: dict[str, Any]
    plan: Plan
    facts: dict[str, Any]

    @property
    def digest(self) -> str:
        """A hash of the identity, hex."""
        return digest(self.identity)


def settle(out: Path, record: RunRecord) -> RunRecord:
    """Write the record of a run unless another worker has; returns the one that holds.

    Raises:
        BadInputError: it cannot be written, or what is there cannot be read.
    """
    home = out.resolve()
    content = {
        "format": [_WHAT, FORMAT],
        "run": record.identity,
        "digest": record.digest,
        "source": _relative(record.plan.source, home),
        "facts": record.facts,
        "shards": [[s.name, s.size, s.first, s.stop, _relative(s.path, home)] for s in record.plan.shards],
    }
    try:
        create_once(out / RUN, (dump_json(content, indent=None) + "\n").encode())
    except OSError as e:
        raise cannot_write(out / RUN, e) from e
    found = read_record(out)
    assert found is not None
    return found


def _relative(path: Path, home: Path) -> str:
    return os.path.relpath(os.path.abspath(path), home)


def read_record(out: Path) -> RunRecord | None:
    """The run that a folder holds; None if it holds none.

    Raises:
        BadInputError: it is damaged, or of another version of jboost.
    """
    path = out / RUN
    try:
        content = load_json(path.read_bytes())
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise BadInputError(f"{path} cannot be read ({e.strerror or e}); make it readable") from e
    except BadInputError as e:
        raise _damaged(out, str(e)) from e
    try:
        found = as_mapping(content, "it")
        check_keys(found, ("format", "run", "digest", "source", "facts", "shards"))
        kind, version = as_list(found["format"], "format")
        if kind != _WHAT:
            raise BadInputError("it is no run over shards")
        if version != FORMAT:
            raise _damaged(out, "another version of jboost wrote it")
        identity = as_mapping(found["run"], "run")
        if found["digest"] != digest(identity):
            raise BadInputError("its digest does not fit")
        shards = tuple(_shard(out, value) for value in as_list(found["shards"], "shards", most=MOST))
        source = Path(os.path.normpath(out / as_text(found["source"], "source")))
        return RunRecord(identity, Plan(source, shards), as_mapping(found["facts"], "facts"))
    except (BadInputError, ValueError, TypeError) as e:
        raise e if str(path) in str(e) else _damaged(out, str(e)) from e


def _shard(out: Path, value: Any) -> Shard:
    name, size, first, stop, path = as_list(value, "a shard")
    if Path(as_text(name, "a shard's name")).name != name or name.startswith("."):
        raise BadInputError("a shard's name is no file name")
    edges = [or_none(edge, lambda v: as_int(v, "a shard's range")) for edge in (first, stop)]
    return Shard(
        name, Path(os.path.normpath(out / as_text(path, "a shard's path"))), as_int(size, "a shard's size"), *edges
    )


def _damaged(out: Path, why: str) -> BadInputError:
    return BadInputError(
        f"{out / RUN} does not say what the run is ({why}); name another -o, or remove the folder: {remove_it(out)}"
    )


def check_same(out: Path, old: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Check that a folder's run is the one to go on with.

    Raises:
        BadInputError: it is not; the message says what differs.
    """
    if said := differences(old, identity):
        raise BadInputError(
            f"{out} holds another run ({said}); go on with what it began with, name another -o, or remove it: {remove_it(out)}"
        )


def check_folder(out: Path, plan: Plan) -> None:
    """Check, before anything is written, that the outputs may go into a folder; makes it.

    Raises:
        BadInputError: it is a file; its parent is missing; it holds the input; or it holds files that are no run's.
    """
    parent = Path(os.path.realpath(out)).parent
    named_as_file = not out.exists() and out.name.lower().endswith(tuple(filter(None, KINDS)))
    if named_as_file or (out.exists() and not out.is_dir()):
        what = "a file's name" if named_as_file else "a file"
        raise BadInputError(
            f"-o {out} is {what}, but {len(plan.shards):,} shard(s) need a folder: name one, such as -o out/"
        )
    if not parent.is_dir():
        from jboost.engine.system.commands import make_folder

        raise BadInputError(f"the folder {parent} does not exist; make it with: {make_folder(parent)}")
    real = Path(os.path.realpath(out))
    for shard in plan.shards:
        home = Path(os.path.realpath(shard.path)).parent
        if home == real:
            raise BadInputError(f"-o {out} is the folder of the input {shard.path}; name another folder")
    try:
        out.mkdir(exist_ok=True)
        if not (out / RUN).exists():
            foreign = sorted(entry.name for entry in os.scandir(out) if not entry.name.startswith("."))
            if foreign and not (out / RUN).exists():
                raise BadInputError(
                    f"{out} holds files, but no run over shards (first: {foreign[0]}); name an empty or new folder with -o"
                )
    except OSError as e:
        with suppress(ValueError):
            raise cannot_write(out, e) from e
