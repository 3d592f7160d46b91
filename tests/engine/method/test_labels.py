"""The classes that a run climbs: BIGROC's debiased ones against its formula in exact numbers, and what is asked for in vain."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jboost.engine.errors import BadInputError
from jboost.engine.method.labels import check_not_debiased, debiased_labels, labels_used
from jboost.engine.method.settings import resolve_settings
from jboost.engine.method.updates import PGD

#: Multiples of 1/8: their sums are exact in float64, so the fractions below say what must come out.
logits = hnp.arrays(np.int64, st.tuples(st.integers(1, 9), st.integers(1, 6)), elements=st.integers(-80, 80)).map(
    lambda a: (a / 8).astype(np.float32)
)


def in_parts(rows: np.ndarray, size: int) -> np.ndarray:
    return debiased_labels(lambda: (rows[i : i + size] for i in range(0, len(rows), size)))


@given(rows=logits, size=st.integers(1, 9))
def test_it_is_argmax_of_f_plus_1_minus_mean_f_whatever_the_batches(rows, size) -> None:
    exact = [[Fraction(float(v)) for v in row] for row in rows]
    mean = [sum(column) / len(exact) for column in zip(*exact, strict=True)]
    scores = [[f + 1 - m for f, m in zip(row, mean, strict=True)] for row in exact]
    got = in_parts(rows, size)
    for row, label in zip(scores, got, strict=True):
        assert row[label] >= max(row) - Fraction(1, 10**9)
        close = [c for c, value in enumerate(row) if value >= max(row) - Fraction(1, 10**9)]
        assert label in close
    np.testing.assert_array_equal(got, in_parts(rows, len(rows)))
    assert got.dtype == np.int64


def test_a_class_that_the_classifier_prefers_on_all_images_is_not_preferred() -> None:
    rows = np.array([[9, 1, 0], [9, 0, 1], [9, 0, 0], [10, 0, 0]], np.float32)
    assert rows.argmax(1).tolist() == [0, 0, 0, 0]
    assert in_parts(rows, 2).tolist() == [1, 2, 0, 0]


def test_ties_go_to_the_lowest_class_and_one_image_is_a_tie_of_all() -> None:
    assert in_parts(np.array([[1, 5, 5]], np.float32), 1).tolist() == [0]
    assert in_parts(np.array([[0, 2, 2], [0, 0, 0]], np.float32), 1).tolist() == [1, 0]


def test_logits_that_are_not_finite_do_not_spoil_the_mean_of_the_others() -> None:
    rows = np.array([[9, 1, 0], [9, 0, 1], [9, 0, 0], [10, 0, 0]], np.float32)
    bad = np.insert(rows, 2, [[np.nan, 0, 0]], axis=0)
    bad = np.insert(bad, 0, [[0, np.inf, 0]], axis=0)
    assert in_parts(bad, 2)[[1, 2, 4, 5]].tolist() == in_parts(rows, 4).tolist()
    assert len(in_parts(np.full((2, 3), np.nan, np.float32), 1)) == 2


def test_what_is_used_and_what_is_refused() -> None:
    assert [labels_used(None, there) for there in (True, False)] == ["given", "predicted"]
    assert labels_used("predicted", labelled=True) == "predicted"
    assert labels_used("debiased", labelled=False) == "debiased"
    with pytest.raises(
        BadInputError, match=r"x\.npz has no labels, but --labels given takes them; give --labels predicted"
    ):
        labels_used("given", labelled=False, name="x.npz")
    with pytest.raises(BadInputError, match="whole set: read it, or take --labels predicted"):
        check_not_debiased("debiased", "read it")
    how = {"l0": None, "early_stop": None, "seed": 0}
    for choice in ("given", "predicted", "debiased"):
        assert resolve_settings(PGD(), objective="ce", **how, labels=choice).labels == choice
        with pytest.raises(BadInputError, match=f"energy uses no labels; leave out --labels {choice}"):
            resolve_settings(PGD(), objective="energy", **how, labels=choice)
    with pytest.raises(BadInputError, match="--labels true: give given, predicted or debiased"):
        resolve_settings(PGD(), objective="ce", **how, labels="true")
