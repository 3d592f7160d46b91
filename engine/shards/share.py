"""Which shards a worker takes: every n-th, from the i-th on. A scheduler's variables are read only where the user asks for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from jboost.engine.errors import BadInputError, printable

_SLURM = "SLURM_ARRAY_TASK_"
_FORMS = "i/n (such as 0/8), slurm, torchrun or kubernetes/n"


@dataclass(frozen=True)
class Share:
    """Worker `index` of `count`: it takes the shards index, index + count, index + 2 count, ..."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def split(self, part: int, parts: int) -> Share:
        """One of the `parts` equal shares of this one."""
        return Share(self.index + self.count * part, self.count * parts)


WHOLE = Share(0, 1)


def parse_share(text: str, environment: Mapping[str, str]) -> Share:
    """The share that ``--shard`` names.

    - ``i/n``: as it says.
    - ``slurm``: the position of this task in the array, by ``SLURM_ARRAY_TASK_ID``, ``_MIN``, ``_MAX`` and ``_COUNT``. The array
      may begin anywhere and have a step (``--array=5-20:5`` is 0/4 to 3/4), but its numbers are evenly spaced.
    - ``torchrun``: ``RANK`` of ``WORLD_SIZE``.
    - ``kubernetes/n``: ``JOB_COMPLETION_INDEX`` of n; an indexed job does not tell its pods how many there are.

    Raises:
        BadInputError: it is none of these, or a variable is missing or no such number; the message names it.
    """
    kind, _, number = text.partition("/")
    if re.fullmatch(r"\d{1,9}/\d{1,9}", text):
        return _checked(int(kind), int(number), f"--shard {text}")
    if text == "slurm":
        return _slurm(environment)
    if text == "torchrun":
        return _checked(_read(environment, "RANK", text), _read(environment, "WORLD_SIZE", text), "RANK/WORLD_SIZE")
    if kind == "kubernetes":
        if not re.fullmatch(r"\d{1,9}", number):
            raise BadInputError(
                "--shard kubernetes needs the number of workers, which the job's pods are not told: give its completions, such "
                "as --shard kubernetes/8"
            )
        index = _read(environment, "JOB_COMPLETION_INDEX", text)
        return _checked(index, int(number), f"JOB_COMPLETION_INDEX={index} of {number}")
    raise BadInputError(f"--shard {printable(text[:60])} is no share; give {_FORMS}")


def _slurm(environment: Mapping[str, str]) -> Share:
    own, first, last, count = (_read(environment, f"{_SLURM}{name}", "slurm") for name in ("ID", "MIN", "MAX", "COUNT"))
    step = 1 if count == 1 else (last - first) // max(count - 1, 1)
    even = count >= 1 and step >= 1 and first + step * (count - 1) == last and (own - first) % step == 0
    if not even or not first <= own <= last:
        raise BadInputError(
            f"the numbers of this SLURM array are not evenly spaced ({count} from {first} to {last}, this one is {own}), so the "
            f"place of a task in it is not known; submit --array=0-{max(count - 1, 0)}, or give the share: "
            '--shard "$SLURM_ARRAY_TASK_ID/n"'
        )
    return _checked((own - first) // step, count, "the SLURM array")


def _read(environment: Mapping[str, str], name: str, kind: str) -> int:
    text = environment.get(name)
    if text is None:
        raise BadInputError(
            f"--shard {kind} reads {name}, which is not set; run it under that scheduler, or give the share: --shard 0/1"
        )
    if not re.fullmatch(r"\d{1,9}", text):
        raise BadInputError(f"--shard {kind} reads {name}, which is {printable(text[:60])!r}, no whole number")
    return int(text)


def _checked(index: int, count: int, what: str) -> Share:
    if not 0 <= index < count:
        raise BadInputError(f"{what}: shares count from 0, so the last of {count} is {max(count - 1, 0)}/{count}")
    return Share(index, count)
