"""A stream gives what the set that it spells out gives, to the bit, and holds no more than it must."""

from __future__ import annotations

import gc
import itertools
import logging
import weakref

import numpy as np
import pytest
import torch
from bowl import Bowl, NumpyRunner
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

import jboost
from jboost.engine.loop.run import run_set
from jboost.engine.loop.stream import grouped, run_stream
from jboost.engine.method.settings import Settings
from jboost.engine.method.updates import PGD, SGLD
from jboost.engine.results.store import MemoryStore

TARGET = np.linspace(0.2, 0.8, 16, dtype=np.float32).reshape(1, 4, 4)
SHAPE = (4, 4, 1)
#: Images stop after different numbers of steps, and noise tells positions apart.
STOPPING = Settings(PGD(steps=6, step_size=0.3), "logit", l0=5.9, early_stop=True, seed=0)
NOISE = Settings(SGLD(steps=3, step_size=0.01, noise=0.05), "logit", l0=None, early_stop=False, seed=7)


def cut(images, labels, sizes):
    """(images, labels) in chunks of these sizes, the rest as the last one."""
    bounds = np.cumsum([0, *sizes, len(images)]).clip(max=len(images))
    for a, b in itertools.pairwise(bounds):
        yield images[a:b], None if labels is None else labels[a:b]


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40), sizes=st.lists(st.integers(0, 12), max_size=8), slots=st.integers(1, 9), ordered=st.booleans(),
    how=st.sampled_from([STOPPING, NOISE]), labelled=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_chunks_give_the_bits_of_the_whole_set(n, sizes, slots, ordered, how, labelled, seed) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, *SHAPE), dtype=np.uint8)
    labels = rng.integers(0, 8, n) if labelled else None
    runner, store = NumpyRunner(Bowl(TARGET)), MemoryStore(images.shape)
    run_set(runner, lambda i: images[i], labels, store, how, shape=SHAPE, batch_size=slots)
    steps, runner = runner.steps, NumpyRunner(Bowl(TARGET))
    groups = grouped(cut(images, labels, sizes), slots)
    got = list(run_stream(runner, groups, how, shape=SHAPE, batch_size=slots, ordered=ordered))
    if ordered:
        assert [result.position for result in got] == list(range(n))
    assert sorted(result.position for result in got) == list(range(n))
    for result in got:
        assert np.array_equal(result.image, store.images[result.position])
    assert runner.steps == steps  # the slots were as full


def test_it_reads_no_more_than_a_batch_ahead_and_frees_everything_when_closed() -> None:
    read: list[int] = []

    def endless():
        while True:
            read.append(len(read))
            yield np.full((1, *SHAPE), len(read) % 256, np.uint8), None

    runner = NumpyRunner(Bowl(TARGET))
    stream = run_stream(runner, grouped(endless(), 4), STOPPING, shape=SHAPE, batch_size=4, ordered=True)
    for taken in range(50):
        next(stream)
        assert len(read) <= taken + 1 + 18 * 4
    slots = weakref.ref(stream.gi_frame.f_locals["slots"])
    stream.close()
    gc.collect()
    assert slots() is None


def test_results_that_wait_for_one_before_them_are_bounded() -> None:
    """The first image takes 400 steps; the others stop at once, and may not fill the memory meanwhile."""
    first = np.zeros((1, *SHAPE), np.uint8)
    done = np.rint(TARGET.transpose(1, 2, 0)[None] * 255).astype(np.uint8)
    read = [0]

    def chunks():
        yield first, np.zeros(1, np.int64)
        for _ in range(5000):
            read[0] += 1
            yield done, np.zeros(1, np.int64)

    slow = Settings(PGD(steps=400, step_size=1e-4), "logit", l0=5.9, early_stop=True, seed=0)
    groups = grouped(chunks(), 2)
    stream = run_stream(NumpyRunner(Bowl(TARGET)), groups, slow, shape=SHAPE, batch_size=2, ordered=True)
    assert next(stream).position == 0
    assert read[0] <= 2 * 18
    assert sum(1 for _ in stream) == 5000


@pytest.fixture(scope="module")
def booster(bundle):
    with jboost.load(bundle, engine="eager", device="cpu", batch_size=4) as opened:
        yield opened


@pytest.mark.parametrize("how", [PGD(steps=4, step_size=0.3), SGLD(steps=3, step_size=0.01, noise=0.02)])
@pytest.mark.parametrize("labelled", [True, False])
def test_a_real_bundle_gives_the_same_bits(booster, images, labels, how, labelled) -> None:
    y = labels if labelled else None
    before = booster.boost(images, y, PGD(steps=0)).records["realness_after"]
    options = {"objective": "logit", "early_stop": True, "l0": float(np.quantile(before, 0.7)), "seed": 3}
    result = booster.boost(images, y, how, **options)
    want = result.images
    assert len(set(result.records["steps"])) > 1
    chunks = (chunk if labelled else chunk[0] for chunk in cut(images, y, (5, 0, 1, 9)))
    got = list(booster.boost_iter(chunks, how, **options))
    assert np.array_equal(np.stack(got), want)
    assert not np.array_equal(want, images)
    pairs = dict(booster.boost_iter(cut(images, y, (7,)), how, **options, ordered=False))
    assert np.array_equal(np.stack([pairs[i] for i in range(len(images))]), want)


def test_a_short_stream_is_a_short_set(bundle, images, labels) -> None:
    how = PGD(steps=3)
    with jboost.load(bundle, engine="eager", device="cpu") as booster:
        want = booster.boost(images[:3], labels[:3], how).images
        assert np.array_equal(np.stack(list(booster.boost_iter([(images[:3], labels[:3])], how))), want)
        assert list(booster.boost_iter([])) == [] == list(booster.boost_iter(iter([images[:0]])))


def test_each_image_leaves_in_the_kind_of_its_chunk(booster, images, labels, caplog) -> None:
    how = PGD(steps=2, step_size=0.3)
    want = booster.boost(images[:7], labels[:7], how).images
    unit = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    chunks = [
        (images[:2], labels[:2].tolist()),
        ([Image.fromarray(images[2])], labels[2:3]),
        (unit[3:5] * 2 - 1, torch.from_numpy(labels[3:5])),
        (unit[5] * 0 + unit[5] * 2 - 1, int(labels[5])),
        (Image.fromarray(images[6]), labels[6]),
    ]
    with caplog.at_level(logging.INFO, "jboost"):
        got = list(booster.boost_iter(chunks, how))
    assert [type(image) for image in got] == [np.ndarray] * 2 + [Image.Image] + [torch.Tensor] * 3 + [Image.Image]
    assert np.array_equal(got[0], want[0])
    assert np.array_equal(got[2], want[2])
    assert np.array_equal(got[6], want[6])
    for i in (3, 4, 5):
        assert np.array_equal(((got[i].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy(), want[i])
    assert caplog.text.count("rounded to 256 levels") == 1


def test_one_range_holds_for_the_whole_stream(booster, images) -> None:
    unit = images[:6].astype(np.float32) / 255
    how = PGD(steps=0)
    bright = unit[4:] * 0.5 + 0.5  # of [-1, 1], though nothing is negative
    got = list(booster.boost_iter([unit[:4] * 2 - 1, bright], how))
    assert np.array_equal(np.stack(got[4:]), bright)  # no step was taken
    with pytest.raises(
        jboost.BadInputError, match=r"chunk 1 of the stream: its values are of \[-1, 1\].*value_range=\(-1, 1\)"
    ):
        list(booster.boost_iter([unit[:4], unit[4:] * 2 - 1], how))
    got = list(booster.boost_iter([bright, unit[:4] * 2 - 1], PGD(steps=1, step_size=0.3), value_range=(-1, 1)))
    want = booster.boost(np.concatenate([bright, unit[:4] * 2 - 1]), None, PGD(steps=1, step_size=0.3)).images
    assert np.array_equal(np.stack(got), want)


def test_what_goes_wrong_on_the_way(booster, images, labels) -> None:
    class OwnError(Exception):
        pass

    def failing():
        yield images[:5], labels[:5]
        raise OwnError

    with pytest.raises(OwnError):
        list(booster.boost_iter(failing()))
    for chunks, message in (
        ([(images, labels), (images[:2], labels[:3])], "chunk 1 of the stream: labels has 3 labels for 2 images"),
        ([images[:2, :8, :8]], r"chunk 0 of the stream: the images are 8x8, the bundle was exported .* for 16x16"),
        ([(images[:1], [9])], "label 9 of image 0 is out of range"),
    ):
        with pytest.raises(jboost.BadInputError, match=message) as e:
            list(booster.boost_iter(chunks))
        assert "\n" not in str(e.value)
    with pytest.raises(jboost.BadInputError, match="unknown objective"):
        booster.boost_iter([], objective="other")  # before the first image is asked for
    # None of these left anything behind that would stop a run.
    assert len(booster.boost(images[:2], labels[:2], PGD(steps=1)).images) == 2


def test_one_run_at_a_time(bundle, images, labels) -> None:
    with jboost.load(bundle, engine="eager", device="cpu", batch_size=2) as booster:
        stream = booster.boost_iter([(images, labels)], PGD(steps=1))
        next(stream)
        with pytest.raises(jboost.BadInputError, match=r"boost_iter of this Booster is not finished; .*close\(\) it"):
            booster.boost(images, labels)
        with pytest.raises(jboost.BadInputError, match="is not finished"):
            next(booster.boost_iter([images]))
        next(stream)
        stream.close()
        booster.boost(images[:1], labels[:1], PGD(steps=1))
        stream = booster.boost_iter([(images, labels)], PGD(steps=1))
        next(stream)
    with pytest.raises(jboost.BadInputError, match="closed before its boost_iter had finished"):
        next(stream)
