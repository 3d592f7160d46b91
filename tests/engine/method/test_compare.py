"""The figures of a comparison against numbers known by hand, and in both array libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jboost.engine.method.compare import class_logit_error, cosine, relative_error

WANT = np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
GOT = np.array([[3.0, 4.5], [0.0, 1.0], [0.0, -2.0]])


@pytest.mark.parametrize("as_array", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_image_has_its_own_error_and_cosine(as_array, dtype) -> None:
    got, want = (as_array(v.astype(dtype).reshape(3, 1, 1, 2)) for v in (GOT, WANT))
    np.testing.assert_allclose(np.asarray(relative_error(got, want)), [0.1, 2**0.5, 2.0], rtol=1e-15)
    np.testing.assert_allclose(np.asarray(cosine(got, want)), [27 / 5 / 29.25**0.5, 0.0, -1.0], rtol=1e-15)
    assert str(relative_error(got, want).dtype).endswith("float64")


@pytest.mark.parametrize("as_array", [np.asarray, torch.from_numpy])
def test_the_smallest_gradients_have_an_angle_and_zeros_are_no_nan(as_array) -> None:
    tiny, zero = as_array(WANT * 1e-40), as_array(np.zeros_like(WANT))
    np.testing.assert_allclose(np.asarray(cosine(tiny, tiny)), 1.0, rtol=1e-15)
    np.testing.assert_array_equal(np.asarray(cosine(zero, zero)), 1.0)
    assert np.asarray(relative_error(zero, zero)).tolist() == np.asarray(cosine(zero, tiny)).tolist() == [0.0] * 3
    assert np.isnan(np.asarray(relative_error(as_array(WANT * np.nan), as_array(WANT)))).all()


@pytest.mark.parametrize("as_array", [np.asarray, torch.from_numpy])
def test_class_logits_are_judged_by_the_spread_and_predictions_by_the_largest(as_array) -> None:
    logits = np.array([[0.0, 3.0, 6.0], [0.0, 3.0, 6.0], [1.0, 0.6, -2.0], [6.0, 3.0, 0.0]])  # spreads 3, 3, 1.6, 3
    labels, predicted = np.array([1, 2, 0, 0]), np.array([2, 1, 1, -1])
    got = (logits[np.arange(4), labels] + [0.3, 0.0, 0.0, 0.0]).astype(np.float32)
    error, wrong = class_logit_error(*map(as_array, (got, predicted, logits, labels)))
    np.testing.assert_allclose(np.asarray(error), [0.1, 0.0, 0.0, 0.0], rtol=1e-6)
    assert wrong == 2  # row 1 by its logit, row 3 is no class; row 2 is a near-tie
    exact = (logits[np.arange(4), labels], logits.argmax(1), logits, labels)
    assert class_logit_error(*map(as_array, exact))[1] == 0
