"""Several sets through one flight: each gets what it gets alone, and the slots stay full across them."""

from __future__ import annotations

import gc
import threading
import weakref
from time import sleep

import numpy as np
import pytest
from bowl import Bowl, NumpyRunner
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import jboost
from jboost.engine.errors import BadInputError
from jboost.engine.loop.run import run_set
from jboost.engine.loop.sets import SetWork, run_sets
from jboost.engine.method.settings import Settings
from jboost.engine.method.updates import PGD, SGLD
from jboost.engine.results.store import MemoryStore

TARGET = np.linspace(0.2, 0.8, 16, dtype=np.float32).reshape(1, 4, 4)
SHAPE = (4, 4, 1)
#: Images stop after different numbers of steps, and noise tells numbers apart.
STOPPING = Settings(PGD(steps=6, step_size=0.3), "logit", l0=5.9, early_stop=True, seed=0)
NOISE = Settings(SGLD(steps=3, step_size=0.01, noise=0.05), "logit", l0=None, early_stop=False, seed=7)
WAIT = 20  # seconds after which a test that hangs fails


def runner() -> NumpyRunner:
    return NumpyRunner(Bowl(TARGET))


def made(key: object, count: int, *, labelled: bool = True, snapshots=(), shape=SHAPE) -> SetWork:
    """A set of random images, the same ones for the same key."""
    rng = np.random.default_rng(hash(key) % 2**32)
    images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return SetWork(
        key, lambda at: images[at], rng.integers(0, 8, count) if labelled else None, rng.integers(0, 2**63, count),
        MemoryStore(images.shape, snapshots), shape,
    )  # fmt: skip


def alone(key: object, count: int, how: Settings, **options) -> MemoryStore:
    work = made(key, count, **options)
    run_set(runner(), work.read, work.labels, work.store, how, shape=SHAPE, batch_size=5, numbers=work.numbers)
    return work.store


def assert_same(got: MemoryStore, want: MemoryStore) -> None:
    assert got.records["done"].all()
    np.testing.assert_array_equal(got.images, want.images)
    np.testing.assert_array_equal(got.records, want.records)


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 12), max_size=6), slots=st.integers(1, 9), how=st.sampled_from([STOPPING, NOISE]),
    labelled=st.booleans(), snapshots=st.sampled_from([(), (1, 2)]), written=st.booleans(), order=st.randoms(),
)  # fmt: skip
def test_a_set_gets_what_it_gets_alone(counts, slots, how, labelled, snapshots, written, order) -> None:
    keys = list(enumerate(counts))
    order.shuffle(keys)
    works = [made(key, count, labelled=labelled, snapshots=snapshots) for key, count in keys]
    wrote: list[SetWork] = []
    options = {"write": wrote.append} if written else {}
    got = list(run_sets(runner(), iter(works), how, batch_size=slots, **options))
    assert sorted(work.key for work in got) == list(range(len(counts)))
    assert not written or wrote == got
    for work in got:
        assert work.error is None
        want = alone(work.key, counts[work.key], how, labelled=labelled, snapshots=snapshots)
        assert_same(work.store, want)
        for step, taken in work.store.snapshots.items():
            assert_same(taken, want.snapshots[step])


def test_images_that_are_done_are_not_read_again() -> None:
    half = made(0, 8)
    half.store.records["done"][::2] = True
    read: list[int] = []
    images = half.read
    half.read = lambda at: (read.extend(at), images(at))[1]
    seen = []
    got = list(run_sets(runner(), iter([half]), STOPPING, batch_size=3, on_progress=seen.append))
    assert (got, read) == ([half], [1, 3, 5, 7])
    np.testing.assert_array_equal(half.store.images[1::2], alone(0, 8, STOPPING).images[1::2])
    assert (seen[-1].total, seen[-1].before, seen[-1].finished) == (8, 4, 4)


class Stops(NumpyRunner):
    """Image i stops after `steps[level of its first pixel]` steps; counts the rows that do not move."""

    def __init__(self, steps):
        super().__init__(Bowl(TARGET))
        self.stop_after = steps

    def step(self, update_kind, state, controls, *, in_float32=False):
        self.steps += 1
        kind = np.rint(state.x0[:, 0, 0, 0] * 255).astype(int)
        steps = state.steps + state.moving
        moving = state.moving & (steps < self.stop_after[kind])
        return state._replace(steps=steps, moving=moving, stopped=state.stopped | (state.moving & ~moving))


@pytest.mark.parametrize("batches", [1, 4, 16])
def test_the_slots_stay_full_across_sets(batches) -> None:
    """Against the ideal, images times steps, with sets of 1, 4 and 16 batches; a loop that drains needs far more."""
    size, total = 16, 128 * 16
    rng = np.random.default_rng(0)
    stop_after = np.minimum(1 + rng.geometric(0.1, 256), 35)  # some 10 of 35 steps
    kinds = rng.integers(0, 256, total)
    how = Settings(PGD(steps=35, step_size=0.3), "logit", l0=5.9, early_stop=True, seed=0)

    def sets():
        for start in range(0, total, batches * size):
            work = made(start, batches * size)
            images = work.read(np.arange(batches * size))
            images[:, 0, 0, 0] = kinds[start : start + batches * size]
            work.read = images.__getitem__
            yield work

    ideal = stop_after[kinds].sum() / size
    counted = Stops(stop_after)

    def at_leisure(progress):
        sleep(0.0005)  # a step takes longer than reading

    assert len(list(run_sets(counted, sets(), how, batch_size=size, on_progress=at_leisure))) == 128 // batches
    tail = stop_after.max()  # the last images find no company
    assert ideal <= counted.steps <= 1.02 * ideal + tail

    drained = Stops(stop_after)
    for work in sets():
        run_set(drained, work.read, work.labels, work.store, how, shape=SHAPE, batch_size=size)
    assert drained.steps > {1: 1.9, 4: 1.25, 16: 1.05}[batches] * ideal


def test_the_loop_does_not_wait_for_the_reader_while_an_image_moves() -> None:
    """The second set's images cannot be read before the first set has gone on for three more turns."""
    long = Settings(PGD(steps=50, step_size=1e-3), "logit", l0=None, early_stop=False, seed=0)
    turns, opened, may_read = [0], threading.Event(), threading.Event()
    first, second = made(0, 4), made(1, 4)
    images = second.read

    def slowly(at):
        opened.set()
        assert may_read.wait(WAIT)
        return images(at)

    second.read = slowly

    def on_progress(progress):
        assert opened.wait(WAIT)
        turns[0] += 1
        if turns[0] == 3:
            may_read.set()
        sleep(0.001)  # a step takes longer than reading

    got = list(run_sets(runner(), iter([first, second]), long, batch_size=8, on_progress=on_progress))
    assert [work.key for work in got] == [0, 1]
    assert_same(second.store, alone(1, 4, long))
    assert 50 <= turns[0] < 100  # they shared the flight


def test_a_source_may_wait_for_the_sets_before() -> None:
    """As a worker that is told its next set once it has delivered the last: what is complete is handed out meanwhile."""
    delivered = threading.Semaphore(0)

    def sets():
        for key in range(4):
            yield made(key, 3)
            assert delivered.acquire(timeout=WAIT)

    for options in ({}, {"write": lambda work: None}):
        keys = []
        for work in run_sets(runner(), sets(), STOPPING, batch_size=8, **options):
            keys.append(work.key)
            delivered.release()
        assert keys == [0, 1, 2, 3]


@pytest.mark.parametrize("after", [0, 1])
def test_a_set_that_cannot_be_read_says_so_and_the_others_go_on(after) -> None:
    works = [made(key, 9) for key in range(4)]
    images, calls = works[1].read, []

    def torn(at):
        calls.append(at)
        if len(calls) > after:
            raise OSError("cut off")
        return images(at)

    works[1].read = torn
    wrote: list[object] = []
    got = list(run_sets(runner(), iter(works), STOPPING, batch_size=4, write=lambda work: wrote.append(work.key)))
    assert sorted(work.key for work in got) == [0, 1, 2, 3]
    assert (str(works[1].error), len(calls)) == ("cut off", after + 1)
    assert sorted(wrote) == [0, 2, 3]
    for key in (0, 2, 3):
        assert works[key].error is None
        assert_same(works[key].store, alone(key, 9, STOPPING))


def test_what_does_not_fit_is_that_sets_error() -> None:
    other_size, few, lying, other_labels = made(1, 3, shape=(5, 5, 1)), made(2, 3), made(3, 3), made(4, 3)
    few.numbers = few.numbers[:2]
    lying.read = lambda at: np.zeros((1, *SHAPE), np.uint8)
    other_labels.labels = np.zeros(4, np.int64)
    works = [made(0, 3), other_size, few, lying, other_labels, made(5, 3, snapshots=(1,)), made(6, 3)]
    got = {work.key: work for work in run_sets(runner(), iter(works), STOPPING, batch_size=2)}
    messages = {key: str(work.error) for key, work in got.items() if work.error is not None}
    assert all(isinstance(got[key].error, BadInputError) for key in messages)
    assert "[5, 5, 1], the first set's [4, 4, 1]" in messages.pop(1)
    assert "2 numbers for 3 images" in messages.pop(2)
    assert "came; check the file" in messages.pop(3)
    assert "4 labels for 3 images" in messages.pop(4)
    assert "[4, 4, 1, 1], the first set's [4, 4, 1]" in messages.pop(5)
    assert messages == {}
    assert_same(got[6].store, alone(6, 3, STOPPING))


def test_an_error_of_the_source_comes_after_the_sets_before_it() -> None:
    def sets():
        yield made(0, 9)
        raise ValueError("no more")

    stream = run_sets(runner(), sets(), STOPPING, batch_size=4, write=lambda work: None)
    assert next(stream).key == 0
    with pytest.raises(ValueError, match="no more"):
        next(stream)


def test_writing_overlaps_with_boosting_and_holds_reading_up() -> None:
    """Sets are boosted while the first one is written; with two sets unwritten, no further one is opened."""
    opened, wrote, boosted, begun, enough = [0], [], [0.0], [], threading.Event()

    def sets():
        for key in range(9):
            opened[0] += 1
            yield made(key, 4)

    def write(work):
        if not begun:
            assert enough.wait(WAIT)
            sleep(0.3)  # all the others could be opened meanwhile
            begun.extend((boosted[0], opened[0]))
        if work.key == 3:
            raise OSError("disk full")
        wrote.append(work.key)

    def on_progress(progress):
        boosted[0] = progress.finished
        if progress.finished >= 8:
            enough.set()

    got = list(run_sets(runner(), sets(), STOPPING, batch_size=4, write=write, on_progress=on_progress))
    assert sorted(work.key for work in got) == list(range(9))
    assert [str(work.error) for work in got if work.error] == ["disk full"]
    assert len(wrote) == 8
    assert 8 <= begun[0] < 36
    assert (
        2 <= begun[1] <= 2 + 4
    )  # two unwritten; those in flight, scored and read ahead when the second one was complete


def test_memory_holds_a_few_sets_and_batches() -> None:
    alive: weakref.WeakSet[SetWork] = weakref.WeakSet()
    read, most = [0], [0, 0]

    def sets():
        for key in range(40):
            work = made(key, 20)
            images = work.read

            def count(at, images=images):
                read[0] += len(at)
                return images(at)

            work.read = count
            alive.add(work)
            yield work
            del work

    def on_progress(progress):
        most[0] = max(most[0], len(alive))
        most[1] = max(most[1], int(read[0] - progress.finished))

    done = 0
    for work in run_sets(runner(), sets(), STOPPING, batch_size=4, write=lambda work: None, on_progress=on_progress):
        done += 1
        del work
    gc.collect()
    assert done == 40
    assert len(alive) == 0
    assert most[0] <= 6  # in flight, scored, read ahead, two being written, one handed out
    assert most[1] <= 4 + 3 * 4  # in flight, and three batches


def test_leaving_early_ends_the_threads_and_an_error_of_computing_is_raised() -> None:
    def endless():
        key = 0
        while True:
            key += 1
            yield made(key, 5)

    before = threading.active_count()
    wrote: list[object] = []
    stream = run_sets(runner(), endless(), STOPPING, batch_size=4, write=lambda work: wrote.append(work.key))
    assert next(stream).error is None
    stream.close()
    assert threading.active_count() == before
    assert len(wrote) >= 1

    broken = runner()
    broken.gradient = lambda *_, **__: 1 / 0
    with pytest.raises(ZeroDivisionError):
        list(run_sets(broken, endless(), STOPPING, batch_size=4))
    assert threading.active_count() == before
    assert list(run_sets(runner(), iter([]), STOPPING, batch_size=4)) == []


@pytest.mark.parametrize("labelled", [True, False])
def test_a_real_bundle_gives_each_set_its_part_of_the_whole(bundle, images, labels, labelled) -> None:
    how, numbers, work = SGLD(3, 0.01, noise=0.05), np.arange(len(images)) + 2**40, []
    with jboost.load(bundle, engine="eager", device="cpu", batch_size=4) as booster:
        want = booster.boost(images, labels if labelled else None, how, objective="bce", seed=3, numbers=numbers)
        for part in (slice(0, 5), slice(5, 6), slice(6, 17), slice(17, 23)):
            mine, y = images[part], labels[part] if labelled else None
            work.append(SetWork(part, mine.__getitem__, y, numbers[part], MemoryStore(mine.shape), mine.shape[1:]))
        settings = booster.settings(how, objective="bce", seed=3)
        for done in run_sets(booster._runner, iter(work), settings, batch_size=4):
            off = np.abs(done.store.images.astype(int) - want.images[done.key])
            assert off.max() <= 1  # a convolution may sum in another order in other company
            np.testing.assert_array_equal(done.store.records["steps"], want.records["steps"][done.key])
