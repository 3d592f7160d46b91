"""How often a shard was begun: one that kills its workers, for lack of memory for example, must not be tried for ever."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from jboost.engine.shards.plan import Shard

#: How often a shard is begun at most.
MOST = 10
_SUFFIX = "~jboost-tries"


def _file(out: Path, shard: Shard) -> Path:
    return out / f".{shard.name}{_SUFFIX}"


def count_try(out: Path, shard: Shard) -> int:
    """Note that a shard is begun; returns how often that was. A worker that is killed cannot note how it ended."""
    with _file(out, shard).open("ab") as f:
        f.write(b".")
        return f.tell()


def forget_try(out: Path, shard: Shard) -> None:
    """Forget it, because the shard has ended."""
    with suppress(OSError):
        _file(out, shard).unlink()


def forget_tries(out: Path) -> None:
    """Forget those of all shards of a folder."""
    with suppress(OSError):
        for name in os.listdir(out):
            if name.startswith(".") and name.endswith(_SUFFIX):
                with suppress(OSError):
                    (out / name).unlink()
