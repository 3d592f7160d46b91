"""Whole runs through a device's buffers: the images and records of the loop on numpy arrays, however late the device works."""

from __future__ import annotations

import gc

import host_device
import numpy as np
import pytest
from bowl import SHAPE, Bowl, HostRunner, KernelRunner, NumpyRunner
from host_device import SCHEDULES, HostDevice
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from loop_cases import expected, run_slots
from simulated_gpu import fixed_pace

from jboost.engine.errors import BadInputError, FailureError
from jboost.engine.loop import slots
from jboost.engine.loop.pace import Distance, Pace
from jboost.engine.loop.run import run_set
from jboost.engine.loop.slots import Slots
from jboost.engine.method.settings import Settings
from jboost.engine.method.updates import PGD, SGLD
from jboost.engine.results.store import MemoryStore

COUNT = 11
LIMITS = np.array([3, 7, 0, 12, 5, 1, 9, 6, 2, 7, 4])


@pytest.fixture(autouse=True, scope="module")
def late():
    """Statuses as late as they can be; `test_pace.py` is about how often they are read."""
    with fixed_pace(None):
        yield


def starts(count=COUNT, seed=0) -> np.ndarray:
    """uint8 [n, H, W, C], first pixels all different."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, *SHAPE[1:], SHAPE[0]), dtype=np.uint8)
    images[:, 0, 0, 0] = rng.permutation(256)[:count]
    return images


def level(image) -> np.float32:
    return np.float32(image[0, 0, 0]) / np.float32(255)


def settings(update, *, l0=None) -> Settings:
    return Settings(update=update, objective="logit", l0=l0, early_stop=l0 is not None, seed=3)


UPDATES = {
    "pgd": PGD(12, 0.2, eps=1.5),
    "linf": PGD(12, 0.03, eps=0.2, norm="linf"),
    "sgld": SGLD(12, 0.01, noise=0.05),
}


def run(runner, images, how, *, batch_size, labels=True, limits=None, snapshots=(), numbers=None) -> MemoryStore:
    """A whole run; with `limits`, numbers of steps by image, its slots alone."""
    y = np.zeros(len(images), np.int64)
    if limits is not None:
        options = {"limits": limits, "snapshots": snapshots, "numbers": numbers}
        return run_slots(runner, images, y, how, batch_size=batch_size, **options)
    store = MemoryStore(images.shape, snapshots)
    options = {"shape": images.shape[1:], "batch_size": batch_size, "numbers": numbers}
    assert run_set(runner, lambda i: images[i], y if labels else None, store, how, **options) == len(images)
    return store


def in_numpy(bowl, images, how, *, limits) -> MemoryStore:
    return expected(NumpyRunner(bowl), images, np.zeros(len(images), np.int64), how, limits=limits)


def on_host(emulator, bowl, images, how, *, batch_size=4, schedule="eager", capturable=True, retries=True, **options):
    device = HostDevice(emulator, schedule=schedule)
    with HostRunner(device, bowl, batch_size, capturable=capturable, retries=retries) as runner:
        store = run(runner, images, how, batch_size=batch_size, **options)
    assert device.closed
    assert not device.buffers
    return store


def assert_close(got: MemoryStore, want: MemoryStore) -> None:
    """The same but for the last bits of a norm, which may turn a rounding."""
    off = np.abs(got.images.astype(int) - want.images)
    assert off.max() <= 1
    assert (off > 0).mean() < 0.005
    for name in want.records.dtype.names:
        if want.records[name].dtype.kind == "f":
            np.testing.assert_allclose(got.records[name], want.records[name], atol=0.03, rtol=0, err_msg=name)
        else:
            np.testing.assert_array_equal(got.records[name], want.records[name], err_msg=name)


def assert_equal(got: MemoryStore, want: MemoryStore) -> None:
    np.testing.assert_array_equal(got.images, want.images)
    np.testing.assert_array_equal(got.records, want.records)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("batch_size", [1, 4, COUNT])
def test_a_run_on_numpy_arrays_is_the_reference_loop(update, batch_size) -> None:
    images, how, bowl = starts(), settings(UPDATES[update], l0=5.0), Bowl()
    got = run(NumpyRunner(bowl), images, how, batch_size=batch_size, limits=LIMITS)
    assert_equal(got, in_numpy(bowl, images, how, limits=LIMITS))


@pytest.mark.parametrize("update", UPDATES)
def test_a_run_is_numpys_whatever_the_schedule(emulator, update) -> None:
    images, how = starts(), settings(UPDATES[update], l0=5.0)
    want = in_numpy(Bowl(), images, how, limits=LIMITS)
    first = on_host(emulator, Bowl(), images, how, limits=LIMITS)
    assert_close(first, want)
    assert len(set(first.records["steps"])) > 3
    for schedule in SCHEDULES:
        assert_equal(on_host(emulator, Bowl(), images, how, schedule=schedule, limits=LIMITS), first)


@hypothesis_settings(max_examples=25, deadline=None)
@given(
    update=st.sampled_from(list(UPDATES)),
    batch_size=st.integers(1, 13),
    schedule=st.sampled_from(SCHEDULES) | st.integers(0, 99),
    limits=st.lists(st.integers(0, 9), min_size=COUNT, max_size=COUNT).map(np.array),
    labels=st.booleans(),
    capturable=st.booleans(),
    overflow=st.none() | st.integers(0, COUNT - 1),
)
def test_an_image_goes_its_way_in_any_company(
    emulator, update, batch_size, schedule, limits, labels, capturable, overflow
) -> None:
    """Any batch, schedule and limits of the others: the same bytes and the same record as alone with its like."""
    images, how = starts(), settings(UPDATES[update], l0=5.0)
    bowl = Bowl(overflow=None if overflow is None else level(images[overflow]))
    options = {"batch_size": batch_size, "schedule": schedule, "capturable": capturable, "snapshots": (3,)}

    limited = on_host(emulator, bowl, images, how, limits=limits, **options)
    assert_equal(limited, on_host(emulator, bowl, images, how, batch_size=COUNT, limits=limits))
    shorter = on_host(emulator, bowl, images, how, batch_size=COUNT, limits=np.minimum(limits, 3))
    np.testing.assert_array_equal(limited.snapshots[3].images, shorter.images)

    whole = on_host(emulator, bowl, images, how, labels=labels, **options)
    want = on_host(emulator, bowl, images, how, batch_size=COUNT)
    if not labels:
        want.records["correct_before"] = whole.records["correct_before"]  # against the predicted classes instead of 0
        want.records["correct_after"] = whole.records["correct_after"]
    assert_equal(whole, want)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_any_order_of_arrival(emulator, schedule) -> None:
    images, how = starts(), settings(UPDATES["sgld"], l0=5.0)
    numbers, y = np.random.default_rng(9).integers(0, 2**63, COUNT), np.zeros(COUNT, np.int64)
    want = on_host(emulator, Bowl(), images, how, limits=LIMITS, numbers=numbers)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(COUNT)
        with HostRunner(HostDevice(emulator, schedule=schedule), Bowl(), 3) as runner:
            got = run_slots(runner, images, y, how, batch_size=3, limits=LIMITS, order=order, numbers=numbers)
        assert_equal(got, want)
    assert (on_host(emulator, Bowl(), images, how, limits=LIMITS).images != want.images).any()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_arrivals_in_quick_succession_do_not_overwrite_each_other(emulator, schedule) -> None:
    """More of them than there are staging buffers, before the host waits for anything."""
    images = starts(9)
    with HostRunner(HostDevice(emulator, schedule=schedule), Bowl(), 9) as runner:
        flight = runner.flight("pgd-l2", PGD().controls(), 9, SHAPE)
        for row in range(9):
            one = np.array([row])
            flight.admit(one, images[one], one + 1, one + 100, one * 0, one)
        got = flight.collect(np.arange(9)[::-1])
    np.testing.assert_array_equal(got.images, images[::-1])
    assert got.y.tolist() == list(range(9, 0, -1))
    assert got.index.tolist() == list(range(108, 99, -1))


@pytest.mark.parametrize("distance", [None, Distance(1, True), Distance(2, False), Distance(16, True)])
def test_a_run_does_not_depend_on_how_often_the_status_is_read(emulator, distance, monkeypatch) -> None:
    """None: as often as is measured to be best."""
    images, how = starts(), settings(UPDATES["sgld"], l0=5.0)
    bowl = Bowl(overflow=level(images[4]))
    want = on_host(emulator, bowl, images, how, batch_size=COUNT)
    with fixed_pace(distance):
        if distance is None:
            monkeypatch.setattr(slots, "Pace", Pace)
        for schedule in SCHEDULES:
            assert_equal(on_host(emulator, bowl, images, how, batch_size=3, schedule=schedule), want)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_an_overflow_is_retried_in_float32(emulator, schedule) -> None:
    images, how = starts(), settings(UPDATES["pgd"])
    clean = on_host(emulator, Bowl(), images, how)
    got = on_host(emulator, Bowl(overflow=level(images[4])), images, how, schedule=schedule)
    np.testing.assert_array_equal(got.images, clean.images)
    assert np.flatnonzero(got.records["retried"]).tolist() == [4]
    assert not got.records["failed"].any()
    assert np.isfinite(got.records["realness_before"]).all()


@pytest.mark.parametrize("retries", [False, True])
def test_a_gradient_that_is_never_finite_fails_its_own_image(emulator, retries) -> None:
    images, how = starts(), settings(UPDATES["pgd"])
    clean = on_host(emulator, Bowl(), images, how)
    bowl = Bowl(poison=level(images[1])) if retries else Bowl(overflow=level(images[1]))
    got = on_host(emulator, bowl, images, how, schedule="lazy", retries=retries)
    assert np.flatnonzero(got.records["failed"]).tolist() == [1]
    assert got.records["steps"][1] == 0
    np.testing.assert_array_equal(got.images[1], images[1])
    others = np.arange(COUNT) != 1
    np.testing.assert_array_equal(got.images[others], clean.images[others])


def test_a_step_is_one_graph_launch_and_networks_are_bound_once(emulator) -> None:
    device, images, how = HostDevice(emulator), starts(8), settings(PGD(6, 0.1))
    with HostRunner(device, Bowl(), 4) as runner:
        run(runner, images, how, batch_size=4)
        assert device.graphs == 12
        gradient, forward = runner.networks
        assert gradient.runs == 12 + 1  # one to warm up
        assert (gradient.binds, forward.binds) == (1, 1)
        assert not runner.float32
    device = HostDevice(emulator)
    with HostRunner(device, Bowl(), 4, capturable=False) as runner:
        run(runner, images, how, batch_size=4)
        assert device.graphs == 0


def test_a_network_is_bound_again_when_another_has_used_it(emulator) -> None:
    rng, images = np.random.default_rng(0), starts(4)
    how, bowl = settings(PGD(4, 0.1)), Bowl(overflow=0.123)
    want = on_host(emulator, bowl, images, how, capturable=False)
    with HostRunner(HostDevice(emulator, schedule="lazy"), bowl, 4, capturable=False) as runner:
        slots = Slots(runner, how, 4, SHAPE)
        slots.admit(images, np.zeros(4, np.int64), np.arange(4), np.full(4, 4))
        slots.step()
        x = rng.random((4, *SHAPE), dtype=np.float32)
        x[1, 0, 0, 0] = 0.123
        for in_float32 in (False, True):
            for got, expected in zip(
                runner.gradient(x, np.zeros(4, np.int64), in_float32=in_float32),
                bowl.gradient(x, in_float32),
                strict=True,
            ):
                np.testing.assert_array_equal(got, expected)
        finished = None
        while finished is None:
            finished = slots.harvest()
            slots.step()
        np.testing.assert_array_equal(finished.images, want.images)


def test_the_status_waits_only_where_it_must(emulator) -> None:
    device = HostDevice(emulator, schedule="lazy")  # does nothing before somebody waits
    with HostRunner(device, Bowl(), 4) as runner:
        flight = runner.flight("pgd-l2", PGD(9, 0.1).controls(), 4, SHAPE)
        assert (flight.status(fresh=False).index == -1).all()  # an empty row is no image's
        rows = np.array([2, 0])
        flight.admit(rows, starts(2), np.array([1, 2]), np.array([7, 8]), np.array([9, 9]), np.array([0, 1]))
        old = flight.status(fresh=False)
        assert (old.index == -1).all()
        status = flight.status(fresh=False)
        assert status.index[rows].tolist() == [7, 8]
        assert status.moving.tolist() == [True, False, True, False]
        for _ in range(3):
            flight.step()
        before = device.kernels
        status = flight.status(fresh=False)
        assert device.kernels == before
        assert status.steps.tolist() == [0, 0, 0, 0]
        status = flight.status(fresh=True)
        assert status.steps.tolist() == [3, 0, 3, 0]
        flight.step()
        flight.retry()
        assert flight.status(fresh=False).steps.tolist() == [4, 0, 4, 0]  # a retry is seen at once
        assert old.index.tolist() == [-1] * 4  # a status keeps its values


@pytest.mark.parametrize("missing", ["wait", "synchronize"])
def test_the_schedules_show_what_is_not_ordered(emulator, missing, monkeypatch) -> None:
    """The runs above prove something: without a stream's wait, or the host's, some schedule gives other images."""
    images, how = starts(), settings(UPDATES["pgd"], l0=5.0)
    want = on_host(emulator, Bowl(), images, how, limits=LIMITS)
    place = host_device.Stream if missing == "wait" else host_device.Event
    monkeypatch.setattr(place, missing, lambda *_: None)
    wrong = 0
    for schedule in SCHEDULES:
        runner = HostRunner(HostDevice(emulator, schedule=schedule), Bowl(), 4)
        try:
            got = _bounded(runner, images, how)
        except (AssertionError, IndexError, ValueError, OverflowError):
            wrong += 1
            continue
        wrong += not np.array_equal(got, want.images)
    assert wrong


def _bounded(runner, images, how) -> np.ndarray:
    """A run that ends, whatever the status shows."""
    slots, got, waiting = Slots(runner, how, 4, SHAPE), np.zeros_like(images), list(range(COUNT))
    for _ in range(60):
        entering = np.array([waiting.pop(0) for _ in range(min(len(slots.free), len(waiting)))], np.int64)
        if len(entering):
            slots.admit(images[entering], np.zeros(len(entering), np.int64), entering, LIMITS[entering])
        if not len(slots.held):
            break
        slots.step()
        if (finished := slots.harvest()) is not None:
            got[finished.index] = finished.images
    return got


def test_what_does_not_fit_is_said_with_a_smaller_batch(emulator) -> None:
    with HostRunner(HostDevice(emulator, memory=12_000), Bowl(), 64) as runner:
        with pytest.raises(
            BadInputError, match=r"a batch of 64 images does not fit on host: .* use a smaller batch: -b 32"
        ):
            runner.flight("pgd-l2", PGD().controls(), 64, SHAPE)
        with pytest.raises(BadInputError, match="-b 32"):
            runner.evaluate_images(starts(64), np.zeros(64, np.int64))


def test_another_batch_than_the_networks_is_refused(emulator) -> None:
    with (
        HostRunner(HostDevice(emulator), Bowl(), 4) as runner,
        pytest.raises(FailureError, match="batches of 4 was given 5 images"),
    ):
        runner.flight("pgd-l2", PGD().controls(), 5, SHAPE)


def test_an_update_without_a_kernel_is_refused(emulator) -> None:
    with HostRunner(HostDevice(emulator), Bowl(), 4) as runner:
        for ask in (runner.check_update, lambda update_kind: runner.flight(update_kind, PGD().controls(), 4, SHAPE)):
            with pytest.raises(BadInputError, match=r"no-such has no CUDA kernel.* use --engine compile or eager"):
                ask("no-such")


def test_a_flight_that_nobody_holds_is_not_kept(emulator) -> None:
    with HostRunner(HostDevice(emulator), Bowl(), 4) as runner:
        for _ in range(3):
            runner.flight("pgd-l2", PGD().controls(), 4, SHAPE)
        gc.collect()
        assert not len(runner._flights)


def test_runs_on_a_device_agree_with_numpy_and_with_each_other(device) -> None:
    """The one with a network that is a kernel, for a real device too: graphs, transfers, retries, any batch."""
    images = starts()
    overflow = int(images[4, 0, 0, 0])
    for update in UPDATES.values():
        how = settings(update, l0=5.0)
        want = in_numpy(Bowl(overflow=level(images[4])), images, how, limits=LIMITS)
        first = None
        for batch_size in (1, 4, 32):
            got = run(KernelRunner(device, batch_size, overflow), images, how, batch_size=batch_size, limits=LIMITS)
            assert_close(got, want)
            first = first or got
            assert_equal(got, first)
