"""Philox against the published vectors; the same numbers in numpy, torch and compiled, whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jboost.engine.method.noise import normal, philox, split_seed

# Known-answer vectors of Random123 1.14, kat_vectors: philox4x32 10.
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
SHAPE = (3, 5, 7)  # 105 elements: not a multiple of the block's 4


@pytest.mark.parametrize("backend", [np.array, torch.tensor])
@pytest.mark.parametrize(("counter", "key", "want"), VECTORS)
def test_known_answers(backend, counter, key, want) -> None:
    got = philox(tuple(backend([c]) for c in counter), key)
    assert tuple(int(word[0]) for word in got) == want


def test_compiled_words_are_the_same_to_the_bit() -> None:
    torch.compiler.reset()
    counter = tuple(torch.randint(0, 2**32, (1000,), generator=torch.Generator().manual_seed(i)) for i in range(4))
    key = torch.tensor([0xA4093822, 0x299F31D0])
    compiled = torch.compile(lambda c, k: philox(c, (k[0], k[1])), dynamic=False)
    want = philox(tuple(c.numpy() for c in counter), (0xA4093822, 0x299F31D0))
    for got, word in zip(compiled(counter, key), want, strict=True):
        np.testing.assert_array_equal(got.numpy(), word)


def test_numpy_and_torch_agree() -> None:
    index = np.array([0, 1, 5, 2**33 + 1])
    key, step = np.array(split_seed(2**63 + 7)), np.array([3, 0, 1, 2**31])
    a = normal(SHAPE, key=key, index=index, step=step)
    t = torch.from_numpy
    b = normal(SHAPE, key=t(key), index=t(index), step=t(step))
    assert a.dtype == np.float32
    assert b.dtype == torch.float32
    np.testing.assert_allclose(a, b.numpy(), atol=1e-6)


def test_an_image_has_its_noise_in_any_batch_and_at_any_step() -> None:
    key = np.array(split_seed(1))
    whole = normal(SHAPE, key=key, index=np.arange(8), step=np.arange(8))
    for i in range(8):
        np.testing.assert_array_equal(normal(SHAPE, key=key, index=np.array([i]), step=np.array([i]))[0], whole[i])


def test_seed_index_and_step_all_matter() -> None:
    def draw(seed: int, index: int, step: int) -> np.ndarray:
        return normal(SHAPE, key=np.array(split_seed(seed)), index=np.array([index]), step=np.array([step]))

    base = draw(1, 1, 1)
    others = [draw(2, 1, 1), draw(1 + 2**32, 1, 1), draw(1, 2, 1), draw(1, 1 + 2**32, 1), draw(1, 1, 2)]
    assert all(np.abs(base - other).max() > 0.1 for other in others)


def test_moments_are_those_of_a_normal_distribution() -> None:
    z = (
        normal((3, 64, 64), key=np.zeros(2, int), index=np.arange(64), step=np.zeros(64, int))
        .astype(np.float64)
        .ravel()
    )
    error = 1 / np.sqrt(z.size)
    assert abs(z.mean()) < 4 * error
    assert abs(z.var() - 1) < 4 * np.sqrt(2) * error
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96) * error
    assert abs((z[:-1] * z[1:]).mean()) < 4 * error  # the two of a Box-Muller pair, and neighbours, are uncorrelated
