"""Which shards a worker takes."""

from __future__ import annotations

import pytest

from jboost.engine.errors import BadInputError
from jboost.engine.shards.share import Share, parse_share


def slurm(own: int, first: int, last: int, count: int) -> dict[str, str]:
    return {f"SLURM_ARRAY_TASK_{k}": str(v) for k, v in (("ID", own), ("MIN", first), ("MAX", last), ("COUNT", count))}


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_are_disjoint_and_cover_all(count: int) -> None:
    shards = list(range(10))
    taken = [shard for i in range(count) for shard in shards[parse_share(f"{i}/{count}", {}).index :: count]]
    assert sorted(taken) == shards


def test_shares_of_shares_cover_it() -> None:
    whole = Share(1, 3)
    parts = [whole.split(i, 4) for i in range(4)]
    assert sorted(n for part in parts for n in range(40)[part.index :: part.count]) == list(range(40)[1::3])


@pytest.mark.parametrize(
    ("array", "want"),
    [
        (slurm(0, 0, 9, 10), Share(0, 10)),
        (slurm(10, 1, 10, 10), Share(9, 10)),  # from 1
        (slurm(15, 5, 20, 4), Share(2, 4)),  # --array=5-20:5
        (slurm(7, 7, 7, 1), Share(0, 1)),  # a task alone takes all that is left
        (slurm(5, 3, 5, 2), Share(1, 2)),  # two tasks again, --array=3,5
    ],
)
def test_slurm(array: dict[str, str], want: Share) -> None:
    assert parse_share("slurm", array) == want


def test_other_schedulers() -> None:
    assert parse_share("torchrun", {"RANK": "2", "WORLD_SIZE": "4"}) == Share(2, 4)
    assert parse_share("kubernetes/8", {"JOB_COMPLETION_INDEX": "7"}) == Share(7, 8)
    # Nobody asked for these.
    assert parse_share("0/2", {"RANK": "1", "WORLD_SIZE": "4", **slurm(1, 0, 9, 10)}) == Share(0, 2)


@pytest.mark.parametrize(
    ("text", "environment", "said"),
    [
        ("slurm", {}, "SLURM_ARRAY_TASK_ID, which is not set"),
        (
            "slurm",
            {k: v for k, v in slurm(0, 0, 3, 4).items() if "COUNT" not in k},
            "SLURM_ARRAY_TASK_COUNT, which is not set",
        ),
        ("slurm", slurm(2, 1, 9, 5) | {"SLURM_ARRAY_TASK_ID": "2"}, "not evenly spaced"),
        ("slurm", slurm(3, 1, 7, 3) | {"SLURM_ARRAY_TASK_MAX": "8"}, "--array=0-2"),
        ("torchrun", {"RANK": "0"}, "WORLD_SIZE, which is not set"),
        ("torchrun", {"RANK": "x", "WORLD_SIZE": "2"}, "no whole number"),
        ("kubernetes", {"JOB_COMPLETION_INDEX": "0"}, "kubernetes/8"),
        ("kubernetes/4", {}, "JOB_COMPLETION_INDEX, which is not set"),
        ("kubernetes/4", {"JOB_COMPLETION_INDEX": "4"}, "the last of 4 is 3/4"),
        ("3/3", {}, "the last of 3 is 2/3"),
        ("0/0", {}, "shares count from 0"),
        ("-1/3", {}, "no share"),
        ("pbs", {}, "no share"),
    ],
)
def test_what_is_no_share(text: str, environment: dict[str, str], said: str) -> None:
    with pytest.raises(BadInputError) as e:
        parse_share(text, environment)
    assert said in str(e.value)
    assert "\n" not in str(e.value)
