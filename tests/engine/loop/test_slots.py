"""The loop on a model whose every quantity is known in closed form, in numpy alone."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
from bowl import Bowl, NumpyRunner
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from loop_cases import expected, run_slots
from simulated_gpu import fixed_pace

from jboost.engine.backends.array_runner import ArrayFlight, to_float, to_uint8
from jboost.engine.loop.run import run_set
from jboost.engine.loop.runner import Evaluation
from jboost.engine.loop.slots import Slots
from jboost.engine.method.objectives import realness
from jboost.engine.method.settings import Settings
from jboost.engine.method.step import Gradient
from jboost.engine.method.updates import PGD, SGLD
from jboost.engine.results.store import MemoryStore
from jboost.engine.results.summary import image_means

SHAPE = (1, 4, 4)
TARGET = np.linspace(0.2, 0.8, 16, dtype=np.float32).reshape(SHAPE)


@pytest.fixture(autouse=True, scope="module")
def late():
    """Statuses as late as they can be; `test_pace.py` is about how often they are read."""
    with fixed_pace(None):
        yield


class BowlRunner(NumpyRunner):
    def __init__(self, **spoilt):
        super().__init__(Bowl(TARGET, classes=1, **spoilt))


class LaggingRunner(BowlRunner):
    """Its flight gives the status as a GPU's does: every few steps, and the one before if it need not be fresh."""

    def flight(self, update_kind, controls, count, shape, rounding="nearest"):
        return LaggingFlight(self, update_kind, controls, count, shape)


class LaggingFlight(ArrayFlight):
    status_every = 3

    def __init__(self, *args):
        super().__init__(*args)
        self.last = super().status(fresh=True)

    def status(self, *, fresh):
        before, self.last = self.last, copy.deepcopy(super().status(fresh=True))
        return self.last if fresh else before


def settings(update, *, l0=None, early_stop=False) -> Settings:
    return Settings(update=update, objective="logit", l0=l0, early_stop=early_stop, seed=0)


def starts(n: int = 6, seed: int = 0) -> np.ndarray:
    """uint8 [n, 4, 4, 1], first pixels all different."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 4, 4, 1), dtype=np.uint8)
    images[:, 0, 0, 0] = rng.permutation(256)[:n]
    return images


def level(image: np.ndarray) -> float:
    return float(to_float(image[None])[0, 0, 0, 0])


def iterates(images: np.ndarray, how: Settings) -> np.ndarray:
    """The float iterates after all steps, before rounding."""
    n = len(images)
    slots = Slots(BowlRunner(), how, n, SHAPE)
    slots.admit(images, np.zeros(n, np.int64), np.arange(n), np.full(n, how.update.steps))
    for _ in range(how.update.steps):
        slots.step()
    return slots.flight.state.x


def run(runner, images, how, *, batch_size=4, labels=True, snapshots=(), numbers=None):
    store = MemoryStore(images.shape, snapshots)
    y = np.zeros(len(images), np.int64) if labels else None
    done = run_set(
        runner, lambda i: images[i], y, store, how, shape=images.shape[1:], batch_size=batch_size, numbers=numbers
    )
    assert done == len(images)
    assert store.records["done"].all()
    return store


def assert_equal(got: MemoryStore, want: MemoryStore, *names: str) -> None:
    """The same images and records, to the bit; `names` picks fields of the records."""
    np.testing.assert_array_equal(got.images, want.images)
    for name in names or want.records.dtype.names:
        np.testing.assert_array_equal(got.records[name], want.records[name], err_msg=name)


def test_pgd_is_algorithm_1() -> None:
    images = starts()
    x = to_float(images).astype(np.float64)
    for _ in range(4):
        g = 8 * (x - TARGET)
        x = np.clip(x - 0.1 * g / np.sqrt((g**2).sum(axis=(1, 2, 3), keepdims=True)), 0, 1)
    np.testing.assert_allclose(iterates(images, settings(PGD(4, 0.1))), x, atol=1e-5)


def test_sgld_without_noise_is_gradient_descent_clamped_at_the_end() -> None:
    images = starts()
    x = to_float(images).astype(np.float64)
    for _ in range(3):
        x = x - 0.3 * 8 * (x - TARGET)  # overshoots the cube on the way
    assert x.max() > 1
    how = settings(SGLD(3, 0.3, noise=0.0))
    np.testing.assert_allclose(iterates(images, how), x, rtol=1e-4, atol=1e-4)
    want = np.rint(np.clip(x, 0, 1) * 255).transpose(0, 2, 3, 1)
    assert np.abs(run(BowlRunner(), images, how).images - want).max() <= 1


def test_zero_steps_change_nothing_and_still_report() -> None:
    images = starts()
    store = run(BowlRunner(), images, settings(PGD(0)))
    np.testing.assert_array_equal(store.images, images)
    want = realness(BowlRunner().evaluate(to_float(images), None).class_logit)
    np.testing.assert_allclose(store.records["realness_before"], want, rtol=1e-6)
    np.testing.assert_allclose(store.records["realness_after"], want, rtol=1e-6)
    assert store.records["correct_before"].all()


def test_rounding_is_to_nearest_and_undoes_itself() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
    np.testing.assert_array_equal(to_uint8(to_float(every)), every)
    np.testing.assert_array_equal(to_uint8(np.full((1, 1, 1, 1), 0.4999 / 255, np.float32)), 0)
    np.testing.assert_array_equal(to_uint8(np.full((1, 1, 1, 1), 1.7, np.float32)), 255)


def test_early_stopping_leaves_real_images_alone_and_stops_the_others_when_they_get_there() -> None:
    runner, images, l0 = BowlRunner(), starts(), 5.0
    images[2] = np.rint(TARGET.reshape(4, 4, 1) * 255)  # realness about 6: real from the start
    store = run(runner, images, settings(PGD(50, 0.05), l0=l0, early_stop=True))
    np.testing.assert_array_equal(store.images[2], images[2])
    records = store.records
    assert records["steps"][2] == 0
    assert records["stopped"].all()
    assert (records["realness_after"] >= l0 - 0.05).all()  # of the rounded image
    # One step fewer was not enough, for each image that moved.
    for i in np.flatnonzero(records["steps"]):
        shorter = iterates(images[i : i + 1], settings(PGD(int(records["steps"][i]) - 1, 0.05)))
        assert realness(runner.evaluate(shorter, None).class_logit) < l0
        enough = iterates(images[i : i + 1], settings(PGD(int(records["steps"][i]), 0.05)))
        assert realness(runner.evaluate(enough, None).class_logit) >= l0


UPDATES = {
    "l2": PGD(7, 0.2),
    "ball": PGD(7, 0.2, eps=0.5),
    "linf": PGD(7, 0.03, norm="linf"),
    "cube": PGD(7, 0.03, eps=0.1, norm="linf"),
    "sgld": SGLD(7, 0.01, noise=0.1),
}


@hypothesis_settings(max_examples=30, deadline=None)
@given(
    batch_size=st.integers(1, 13),
    order=st.permutations(range(11)),
    limits=st.lists(st.integers(0, 7), min_size=11, max_size=11).map(np.array),
    update=st.sampled_from(list(UPDATES)),
    labels=st.booleans(),
    runner_class=st.sampled_from([BowlRunner, LaggingRunner]),
    numbers=st.none() | st.lists(st.integers(0, 2**63 - 1), min_size=11, max_size=11).map(np.array),
)
def test_an_image_goes_its_way_in_any_company(batch_size, order, limits, update, labels, runner_class, numbers) -> None:
    """Any number of slots, order of arrival, numbers of steps, numbers for the noise: the reference loop's bytes and records."""
    images, y = starts(11), np.zeros(11, np.int64)
    how = settings(UPDATES[update], l0=5.0, early_stop=True)
    snapshots = (2, 3, 6)
    limited = run_slots(
        runner_class(), images, y, how, batch_size=batch_size, limits=limits, order=order, snapshots=snapshots, numbers=numbers
    )  # fmt: skip
    whole = run(runner_class(), images, how, batch_size=batch_size, labels=labels, snapshots=snapshots, numbers=numbers)
    full = np.full(11, 7)
    for got, most, classes in ((limited, limits, y), (whole, full, y if labels else None)):
        assert_equal(got, expected(BowlRunner(), images, classes, how, limits=most, numbers=numbers))
        for step, taken in got.snapshots.items():
            fewer = np.minimum(most, step)
            shorter = expected(BowlRunner(), images, classes, how, limits=fewer, numbers=numbers)
            assert_equal(taken, shorter, "done", "realness_before", "realness_after", "correct_after", "l2", "steps")


class TwoBowls(BowlRunner):
    """Class 0 has its optimum at the target, class 1 at its negative image; the predicted class is the nearer one."""

    def evaluate(self, x, y):
        logits = np.stack([6 - 4 * ((x - t) ** 2).sum(axis=(1, 2, 3)) for t in (TARGET, 1 - TARGET)], axis=1)
        return Evaluation(logits[np.arange(len(x)), y].astype(np.float32), logits.argmax(axis=1))

    def gradient(self, x, y, *, in_float32=False):
        f_c, predicted = self.evaluate(x, y)
        target = np.where((y == 0)[:, None, None, None], TARGET, 1 - TARGET)
        return Gradient((8 * (x - target)).astype(np.float32), f_c, -f_c, predicted)


@pytest.mark.parametrize("labels", [True, False])
def test_missing_labels_are_what_the_model_predicts(labels) -> None:
    images, how = starts(11), settings(PGD(4, 0.2))
    got = run(TwoBowls(), images, how, batch_size=4, labels=labels)
    by_prediction = expected(TwoBowls(), images, None, how)
    by_label = expected(TwoBowls(), images, np.zeros(11, np.int64), how)
    assert_equal(got, by_label if labels else by_prediction)
    changed = (by_label.images != by_prediction.images).any(axis=(1, 2, 3))
    assert changed.any()
    assert not changed.all()


@pytest.mark.parametrize("runner_class", [BowlRunner, LaggingRunner])
@pytest.mark.parametrize("recovers", [True, False])
def test_snapshots_where_gradients_overflow_on_the_way(runner_class, recovers) -> None:
    """Above a class logit of 3 gradients are not finite in low precision, or in none: a snapshot is what fewer steps give."""

    def broken(runner):
        class Overflowing(runner):
            def __init__(self):
                super().__init__()
                self.dtype = "fp16"

            def gradient(self, x, y, *, in_float32=False):
                out = super().gradient(x, y, in_float32=in_float32)
                lost = (out.class_logit > 3) & (not (in_float32 and recovers))
                return out._replace(grad=np.where(lost[:, None, None, None], np.float32(np.nan), out.grad))

        return Overflowing()

    images, how, y = starts(), settings(PGD(9, 0.1)), np.zeros(6, np.int64)
    got = run(broken(runner_class), images, how, batch_size=4, snapshots=(1, 4, 5, 8))
    assert_equal(got, expected(broken(BowlRunner), images, y, how))
    assert (got.records["retried"] if recovers else got.records["failed"]).any()
    for step, taken in got.snapshots.items():
        shorter = expected(broken(BowlRunner), images, y, how, limits=np.full(6, step))
        assert_equal(taken, shorter, "realness_after")
    moved = [(taken.images != images).any((1, 2, 3)) for taken in got.snapshots.values()]
    assert moved[0].all()
    assert moved[-1].all() == recovers


def test_a_late_status_costs_no_step_where_no_image_stops_early() -> None:
    lagging, prompt = LaggingRunner(), BowlRunner()
    for runner in (lagging, prompt):
        run(runner, starts(12), settings(PGD(5, 0.1)), batch_size=4)
    assert lagging.steps == prompt.steps == 3 * 5


def test_snapshots_cost_as_many_statuses_for_late_images_as_for_early_ones_and_are_handed_on_once() -> None:
    def statuses(count: int) -> int:
        slots = Slots(LaggingRunner(), settings(PGD(9, 0.1)), 4, SHAPE, snapshots=(3,))
        images, waves, taken = starts(count), np.split(np.arange(count), count // 4), 0
        asked, status = 0, slots.flight.status

        def counted(*, fresh: bool) -> object:
            nonlocal asked
            asked += 1
            return status(fresh=fresh)

        slots.flight.status = counted
        for wave in waves:
            slots.admit(images[wave], np.zeros(4, np.int64), wave, np.full(4, 9))
            while len(slots.held):
                slots.step()
                slots.harvest()
                taken += sum(len(part.index) for _, part in slots.snapshots())
        assert taken == count
        return asked

    assert statuses(12) == 3 * statuses(4)


def test_slots_are_refilled_while_others_go_on() -> None:
    """Half of the images are real already: the run takes about half of the steps, not all of them."""
    images = starts(64)
    images[::2] = np.rint(TARGET.reshape(4, 4, 1) * 255)
    full, half = BowlRunner(), BowlRunner()
    run(full, images, settings(PGD(20, 0.01)), batch_size=8)
    run(half, images, settings(PGD(20, 0.01), l0=5.9, early_stop=True), batch_size=8)
    assert full.steps == 64 // 8 * 20
    assert half.steps <= full.steps / 2 + 64 // 8 + 2


def test_the_results_are_scored_in_full_batches() -> None:
    runner = BowlRunner()
    y, limits = np.zeros(40, np.int64), np.arange(40) % 3 + 1
    run_slots(runner, starts(40), y, settings(PGD(3, 0.1)), batch_size=8, limits=limits)
    assert runner.evaluations == 5


@pytest.mark.parametrize("batch_size", [3, 8])
def test_a_result_is_kept_after_its_snapshots(batch_size) -> None:
    class Ordered(MemoryStore):
        def put(self, indices, images, records):
            for taken in self.snapshots.values():
                assert taken.records["done"][indices].all()
            super().put(indices, images, records)

    images, how = starts(20), settings(PGD(6, 0.2), l0=5.0, early_stop=True)
    store = Ordered(images.shape, (2, 6))
    options = {"shape": images.shape[1:], "batch_size": batch_size}
    assert run_set(BowlRunner(), lambda i: images[i], np.zeros(20, np.int64), store, how, **options) == 20


def test_a_nan_gradient_costs_only_its_own_image() -> None:
    images = starts()
    clean = run(BowlRunner(), images, settings(PGD(3, 0.1)))
    got = run(BowlRunner(poison=level(images[1])), images, settings(PGD(3, 0.1)))
    y = np.zeros(6, np.int64)
    assert_equal(got, expected(BowlRunner(poison=level(images[1])), images, y, settings(PGD(3, 0.1))))
    assert got.records["failed"].tolist() == [False, True, False, False, False, False]
    assert not got.records["retried"].any()  # there is nothing more precise to try
    assert got.records["steps"][1] == 0
    np.testing.assert_array_equal(got.images[1], images[1])
    others = [0, 2, 3, 4, 5]
    np.testing.assert_array_equal(got.images[others], clean.images[others])


def test_an_overflow_in_low_precision_is_retried_in_float32() -> None:
    images = starts()
    clean = run(BowlRunner(), images, settings(PGD(3, 0.1)))
    runner = BowlRunner(overflow=level(images[4]))
    got = run(runner, images, settings(PGD(3, 0.1)))
    assert runner.retries == 1
    assert_equal(got, expected(runner, images, np.zeros(6, np.int64), settings(PGD(3, 0.1))))
    np.testing.assert_array_equal(got.images, clean.images)
    assert got.records["retried"].tolist() == [False] * 4 + [True, False]
    assert not got.records["failed"].any()
    assert np.isfinite(got.records["realness_before"]).all()


def test_progress_counts_images_in_flight_by_their_steps() -> None:
    seen, store = [], MemoryStore((8, 4, 4, 1))
    images = starts(8)
    run_set(
        BowlRunner(), lambda i: images[i], np.zeros(8, int), store, settings(PGD(4, 0.1)), shape=(4, 4, 1),
        batch_size=4, on_progress=seen.append,
    )  # fmt: skip
    assert [p.finished for p in seen] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert {p.total for p in seen} == {8}


def test_a_logit_that_overflows_is_a_failure_and_no_early_stop() -> None:
    class Overflowing(BowlRunner):
        def gradient(self, x, y, *, in_float32=False):
            grad, f_c, loss, predicted = super().gradient(x, y, in_float32=in_float32)
            return Gradient(np.full_like(grad, np.nan), np.full_like(f_c, np.inf), loss, predicted)

    got = run(Overflowing(), starts(), settings(PGD(2, 0.1)))
    assert got.records["failed"].all()
    assert not got.records["stopped"].any()


def test_an_overflow_is_retried_though_the_host_sees_it_late() -> None:
    images = starts()
    clean = run(BowlRunner(), images, settings(PGD(7, 0.1)))
    got = run(LaggingRunner(overflow=level(images[4])), images, settings(PGD(7, 0.1)))
    np.testing.assert_array_equal(got.images, clean.images)
    assert got.records["retried"].tolist() == [False] * 4 + [True, False]


@pytest.mark.parametrize("where", ["read", "compute", "write"])
def test_an_error_anywhere_ends_the_run_and_its_threads(where) -> None:
    images, threads = starts(40), threading.active_count()

    class Full(MemoryStore):
        def put(self, indices, images, records):
            if where == "write" and self.records["done"].sum() > 8:
                raise OSError("disk full")
            super().put(indices, images, records)

    def read(indices):
        if where == "read" and indices[0] >= 16:
            raise OSError("broken image")
        return images[indices]

    runner, store = BowlRunner(), Full(images.shape)
    if where == "compute":
        runner.evaluate = lambda x, y: 1 / 0
    with pytest.raises((OSError, ZeroDivisionError)):
        run_set(runner, read, np.zeros(40, int), store, settings(PGD(2, 0.1)), shape=(4, 4, 1), batch_size=4)
    assert threading.active_count() == threads
    done = store.records["done"]
    if where != "compute":
        assert 0 < done.sum() < 40
    again = MemoryStore(images.shape)
    again.images, again.records = store.images, store.records
    how = settings(PGD(2, 0.1))
    run_set(BowlRunner(), lambda i: images[i], np.zeros(40, int), again, how, shape=(4, 4, 1), batch_size=4)
    np.testing.assert_array_equal(again.images, run(BowlRunner(), images, settings(PGD(2, 0.1))).images)


class Overflowing(BowlRunner):
    """Its class logit is not finite for images whose first pixel is `spoilt`; the gradient is."""

    def __init__(self, spoilt, value):
        super().__init__()
        self.spoilt, self.value = spoilt, value

    def gradient(self, x, y, *, in_float32=False):
        got = super().gradient(x, y, in_float32=in_float32)
        return got._replace(class_logit=self._spoil(x, got.class_logit))

    def evaluate(self, x, y):
        got = super().evaluate(x, y)
        return got._replace(class_logit=self._spoil(x, got.class_logit))

    def _spoil(self, x, logit):
        return np.where(x[:, 0, 0, 0] == np.float32(self.spoilt), np.float32(self.value), logit)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("early_stop", [False, True])
def test_a_class_logit_that_is_not_finite_fails_as_a_gradient_does(value, early_stop) -> None:
    images = starts()
    how = settings(PGD(3, 0.2), l0=100.0, early_stop=early_stop)
    runner = Overflowing(level(images[2]), value)
    store, clean = run(runner, images, how), run(BowlRunner(), images, how)
    fine = np.arange(6) != 2
    assert np.flatnonzero(store.records["failed"]).tolist() == [2]
    assert not store.records["stopped"].any()  # an infinite logit is no realness that reached l0
    np.testing.assert_array_equal(store.images[2], images[2])
    np.testing.assert_array_equal(store.images[fine], clean.images[fine])
    assert_equal(store, expected(runner, images, np.zeros(6, np.int64), how), "steps", "failed", "stopped", "l2")
    means = image_means(store.records, labelled=True)
    assert (means["unchanged_after_failure"], means["not_finite"], means["not_finite_at"]) == (1, 0, [2])
    assert means["realness_after"] == pytest.approx(float(clean.records["realness_after"][fine].mean()))


def test_an_image_without_a_finite_score_is_counted_and_left_out_of_the_means() -> None:
    """The last step may end where the network gives NaN: no gradient is computed there, but the result is scored."""
    images = starts()
    store = run(BowlRunner(), images, settings(PGD(3, 0.2)))
    ends = to_float(store.images)[:, 0, 0, 0]
    spoilt = run(Overflowing(ends[4], np.nan), images, settings(PGD(3, 0.2)))
    np.testing.assert_array_equal(spoilt.images, store.images)
    means = image_means(spoilt.records, labelled=False)
    assert (means["unchanged_after_failure"], means["not_finite"], means["not_finite_at"]) == (0, 1, [4])
    assert means["realness_before"] == pytest.approx(float(np.delete(store.records["realness_before"], 4).mean()))


def test_steps_that_change_no_level_are_counted() -> None:
    images = starts()
    store = run(BowlRunner(), images, settings(PGD(3, 1e-6)))
    np.testing.assert_array_equal(store.images, images)
    assert image_means(store.records, labelled=False)["unmoved"] == 6
    assert image_means(run(BowlRunner(), images, settings(PGD(0))).records, labelled=False)["unmoved"] == 0
