from __future__ import annotations

import pytest

from jboost.engine.errors import BadInputError
from jboost.engine.results.store import MOST_SNAPSHOTS, check_snapshots


def test_numbers_of_steps_ascend_and_are_bounded() -> None:
    assert check_snapshots([5, 1, 5], 10) == (1, 5)
    assert len(check_snapshots(range(1, MOST_SNAPSHOTS + 1), 1000)) == MOST_SNAPSHOTS
    with pytest.raises(BadInputError, match="101 snapshots: a run takes at most 100; name fewer"):
        check_snapshots(range(1, MOST_SNAPSHOTS + 2), 1000)
    with pytest.raises(BadInputError, match="no snapshot after 11 steps"):
        check_snapshots([11], 10)
