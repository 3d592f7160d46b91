"""kernels.cu against numpy: on the host, as C++ whose threads take turns, and with `-m gpu` on a device."""

from __future__ import annotations

import numpy as np
import pytest
from host_device import HostDevice
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from kernel_calls import call, step

from jboost.engine.backends.array_runner import ArrayFlight, to_float
from jboost.engine.backends.cuda import kernels
from jboost.engine.method import noise
from jboost.engine.method.rounding import limit_of
from jboost.engine.method.step import CHANGED, Gradient, State, advance
from jboost.engine.method.updates import MOVES, PGD, SGLD, Controls, l2_norm
from jboost.export.compiled.steps import example, unflatten

TOLERANCE = 2e-6  # of two float32 computations of the same lines; an iterate is of order 1


def assert_same(got: State, want: State) -> None:
    for name in CHANGED:
        a, b = getattr(got, name), getattr(want, name)
        if b.dtype == np.float32:
            np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE, err_msg=name)
        else:
            np.testing.assert_array_equal(a, b, err_msg=name)


# The known answers of Random123 1.14 (kat_vectors), philox4x32 with 10 rounds.
KNOWN = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def test_philox_to_the_bit(device) -> None:
    rng = np.random.default_rng(0)
    known, keys, answers = (np.array(column, np.uint32) for column in zip(*KNOWN, strict=True))
    counters = np.concatenate([known, rng.integers(0, 2**32, (500, 4), dtype=np.uint32)])
    keys = np.concatenate([keys, rng.integers(0, 2**32, (500, 2), dtype=np.uint32)])
    got = call(device, "probe_philox", len(counters), ["counters", "keys"], counters=counters, keys=keys)["counters"]
    np.testing.assert_array_equal(got[:3], answers)
    want = noise.philox(tuple(counters.astype(np.int64).T), tuple(keys.astype(np.int64).T))
    np.testing.assert_array_equal(got, np.stack(want, axis=1))


def test_normals_agree_with_numpy(device) -> None:
    shape, key = (3, 64, 64), np.array([0x9E3779B9, 0xFFFFFFFF])
    index, steps = np.array([0, 1, 2**32 - 1, 2**32, 2**40 + 5, 49_999]), np.array([0, 34, 1, 0, 2**31, 7])
    blocks = 3 * 64 * 64 // 4
    out = np.zeros((6, 4 * blocks), np.float32)
    words = ["key", "index", "step", "out", blocks]
    got = call(device, "probe_normals", 6, words, key=key, index=index, step=steps, out=out)["out"]
    want = noise.normal(shape, key=key, index=index, step=steps).reshape(6, -1)
    assert np.abs(want).max() > 4  # far out in the tails too
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("update_kind", MOVES)
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 5, 7), (1, 1, 1), (3, 31, 33)])
def test_a_step_is_numpys(device, update_kind, shape) -> None:
    for seed in range(4):  # with and without a ball, ordinary and in float32
        arrays = example(24, shape, seed)
        if shape == (1, 1, 1) and seed % 2:
            arrays[-2 - 3] = np.float32(0.2)  # a radius that one pixel can leave
        state, gradient, controls, in_float32 = unflatten(arrays)
        assert_same(
            step(device, update_kind, state, gradient, controls, in_float32),
            advance(update_kind, state, gradient, controls, in_float32),
        )


@pytest.mark.parametrize("update_kind", MOVES)
def test_a_whole_block_of_threads_and_any_order_of_them(emulator, update_kind) -> None:
    """The block size of a device, whose sums have the device's own order; and no order of threads changes a bit."""
    state, gradient, controls, in_float32 = unflatten(example(6, (3, 13, 16), 1))
    want = advance(update_kind, state, gradient, controls, in_float32)
    first = None
    for order in range(4):
        device = HostDevice(emulator, threads=kernels.THREADS, order=order)
        got = step(device, update_kind, state, gradient, controls, in_float32)
        assert_same(got, want)
        first = first or got
        for name in CHANGED:
            np.testing.assert_array_equal(getattr(got, name), getattr(first, name), err_msg=name)


@pytest.mark.parametrize("update_kind", ["pgd-l2", "pgd-linf"])
@pytest.mark.parametrize("scale", [0.0, 1e-38, 1e-25, 1e25, 1e37])
def test_gradients_of_any_size(device, update_kind, scale) -> None:
    """Squares neither overflow nor vanish, and a zero gradient moves nothing."""
    state, gradient, _, _ = unflatten(example(8, (3, 6, 6), 2))
    grad = np.clip(np.nan_to_num(gradient.grad), -1, 1) * np.float32(scale)
    state = state._replace(moving=np.ones(8, bool), waiting=np.zeros(8, bool))
    controls, gradient = PGD(5, 0.3, eps=0.4).controls(), gradient._replace(grad=grad)
    want = advance(update_kind, state, gradient, controls, False)
    assert_same(step(device, update_kind, state, gradient, controls, False), want)
    assert (np.abs(want.x - state.x).max() > 0) or scale <= 1e-38


@pytest.mark.parametrize("in_float32", [False, True])
@pytest.mark.parametrize("threshold", [np.inf, 3.0])
def test_every_kind_of_gradient_and_logit(device, in_float32, threshold) -> None:
    """What is not finite, alone and together: the same flags as numpy's."""
    values = np.array([1.0, 5.0, np.nan, np.inf, -np.inf], np.float32)
    bad = np.array([0.5, np.nan, np.inf, -np.inf], np.float32)
    logit, entry = (a.ravel() for a in np.meshgrid(values, bad, indexing="ij"))
    n = len(logit)
    state, gradient, controls, _ = unflatten(example(n, (1, 3, 3), 4))
    grad = gradient.grad.copy()
    grad[:, 0, 0, 0] = 0.25
    grad[:, 0, 2, 2] = entry
    steps = np.arange(n) % 3
    state = state._replace(
        moving=np.ones(n, bool), waiting=np.full(n, in_float32), steps=steps, limit=steps + 1 + steps % 2
    )
    gradient = Gradient(grad, logit, -logit, gradient.predicted)
    controls = controls._replace(threshold=np.float32(threshold))
    with np.errstate(invalid="ignore"):
        want = advance("pgd-l2", state, gradient, controls, in_float32)
    got = step(device, "pgd-l2", state, gradient, controls, in_float32)
    assert_same(got, want)


@st.composite
def situations(draw):
    seed, batch = draw(st.integers(0, 999)), draw(st.integers(1, 7))
    shape = (draw(st.sampled_from([1, 3])), draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    state, gradient, controls, in_float32 = unflatten(example(batch, shape, seed))
    step_size, radius = draw(st.floats(2**-10, 3, width=32)), draw(st.sampled_from([0.0, 0.05, 0.5, np.inf]))
    x0 = state.x0
    x = np.clip(x0 + np.float32(min(radius, 1)) * (state.x - x0) / max(1, np.sqrt(x0[0].size)), 0, 1)  # inside the ball
    controls = controls._replace(step_size=np.float32(step_size), radius=np.float32(radius))
    return draw(st.sampled_from(list(MOVES))), state._replace(x=x.astype(np.float32)), gradient, controls, in_float32


@hypothesis_settings(max_examples=60, deadline=None)
@given(situation=situations(), threads=st.sampled_from([1, 2, 7, 32]), order=st.integers(0, 3), data=st.data())
def test_rows_are_independent_and_stay_where_they_may(emulator, situation, threads, order, data) -> None:
    update_kind, state, gradient, controls, in_float32 = situation
    device = HostDevice(emulator, threads=threads, order=order)
    after = step(device, update_kind, state, gradient, controls, in_float32)
    assert_same(after, advance(update_kind, state, gradient, controls, in_float32))

    still = ~(state.moving & (state.waiting == in_float32))
    for name in CHANGED:
        np.testing.assert_array_equal(getattr(after, name)[still], getattr(state, name)[still], err_msg=name)

    row = data.draw(st.integers(0, len(state.x) - 1))
    alone = step(
        device, update_kind, State(*(a[row : row + 1] for a in state)), Gradient(*(a[row : row + 1] for a in gradient)), controls,
        in_float32,
    )  # fmt: skip
    for name in CHANGED:
        np.testing.assert_array_equal(getattr(alone, name)[0], getattr(after, name)[row], err_msg=name)

    if update_kind != "sgld":
        assert after.x.min() >= 0
        assert after.x.max() <= 1
        moved = after.x.astype(np.float64) - state.x0
        far = np.sqrt((moved**2).sum((1, 2, 3))) if update_kind == "pgd-l2" else np.abs(moved).max((1, 2, 3))
        assert (far[~still] <= controls.radius + 1e-6).all()


def test_noise_depends_on_the_image_its_step_and_the_seed_alone(device) -> None:
    state, gradient, _, _ = unflatten(example(4, (3, 5, 5), 3))
    same = {name: np.broadcast_to(a[:1], a.shape).copy() for name, a in state._asdict().items()}
    state = State(**same)._replace(
        moving=np.ones(4, bool), waiting=np.zeros(4, bool), number=np.array([5, 6, 5, 5]), steps=np.array([0, 0, 1, 0]),
        limit=np.full(4, 9),
    )  # fmt: skip
    gradient = gradient._replace(grad=np.zeros_like(gradient.grad), class_logit=np.zeros(4, np.float32))

    def noise_of(seed):
        after = step(device, "sgld", state, gradient, SGLD(3, 0.1, noise=0.1).controls(seed=seed), False)
        return after.x - state.x

    n, other = noise_of(1), noise_of(2**40)
    np.testing.assert_array_equal(n[0], n[3])
    for a, b in ((n[0], n[1]), (n[0], n[2]), (n[0], other[0])):
        assert np.abs(a - b).max() > 0.01


def test_images_enter_as_numpy_lets_them(device) -> None:
    rng = np.random.default_rng(0)
    shape, count = (3, 7, 5), 6
    rows, images = np.array([4, 0, 3]), rng.integers(0, 256, (3, 7, 5, 3), dtype=np.uint8)
    images[0, 0, 0] = [0, 255, 128]
    y, limit = rng.integers(0, 9, 3), np.array([2, 0, 5])
    index, numbers = rng.integers(0, 2**40, 3), rng.integers(2**62, 2**63, 3)
    flight = ArrayFlight(_Identity(), "pgd-l2", PGD().controls(), count, shape)
    flight.state = State(*(a.copy() for a in unflatten(example(count, shape, 5))[0]))
    before = flight.state._asdict() | {name: a.copy() for name, a in flight.state._asdict().items()}
    flight.admit(rows, images, y, index, limit, numbers)
    words = [*State._fields, *(f"new_{name}" for name in ("row", "y", "index", "limit", "number", "images")), 3, 35]
    after = call(
        device, kernels.ADMIT, 3, words, **before, new_row=rows, new_y=y, new_index=index, new_limit=limit, new_number=numbers,
        new_images=images,
    )  # fmt: skip
    for name in State._fields:
        np.testing.assert_array_equal(after[name], getattr(flight.state, name), err_msg=name)


@pytest.mark.parametrize(
    "how", [PGD(), PGD(eps=0.03, norm="linf"), PGD(eps=0.001, norm="linf"), PGD(eps=1.0), PGD(eps=0.02), PGD(eps=0.001)]
)
def test_images_leave_as_numpy_lets_them(device, how) -> None:
    shape, count = (3, 7, 5), 6
    state = State(*(np.asarray(a).copy() for a in unflatten(example(count, shape, 6))[0]))
    x = state.x * 1.4 - 0.2  # outside of the cube, as SGLD leaves it
    x[0, 0, 0, :3] = np.array([0.5, 1.5, 2.5], np.float32) / 255  # half-way: to the even neighbour
    failed, steps = np.array([False, True, False, False, False, True]), np.array([1, 1, 0, 3, 4, 0])
    levels = np.rint(state.x0 * 255).astype(np.float32)
    state = state._replace(x=x.astype(np.float32), x0=levels / np.float32(255), failed=failed, steps=steps)
    if how.eps is not None:  # as the step left it: inside the ball
        state = state._replace(x=how.move(state.x, state.x0, state.x0, index=state.number, step=steps))
    flight = ArrayFlight(_Identity(), how.kind, how.controls(), count, shape)
    flight.state = state
    rows = np.array([5, 0, 2, 1, 4])
    want = flight.collect(rows)
    limit = limit_of(how.kind, how.strengths().radius)
    words = [*State._fields, "row", "images", "moved", 3, 35, *limit]
    room = {"images": np.zeros((5, 7, 5, 3), np.uint8), "moved": np.zeros(5, np.float32)}
    after = call(device, kernels.COLLECT, 5, words, **state._asdict(), row=rows, **room)
    np.testing.assert_array_equal(after["images"], want.images)
    np.testing.assert_allclose(after["moved"], want.moved, rtol=1e-6, atol=0)
    assert (want.moved == 0).tolist() == [True, how.eps == 0.001, True, True, how.eps == 0.001]
    np.testing.assert_allclose(want.moved, l2_norm(to_float(want.images) - state.x0[rows]))
    for name in State._fields:
        np.testing.assert_array_equal(after[name], getattr(state, name), err_msg=name)


def test_images_become_float(device) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 9, 3), dtype=np.uint8)
    after = call(
        device, kernels.TO_FLOAT, 2, ["images", "x", 3, 144], images=images, x=np.zeros((2, 3, 16, 9), np.float32)
    )
    np.testing.assert_array_equal(after["x"], to_float(images))


def test_controls_are_laid_out_as_the_kernel_reads_them() -> None:
    from jboost.engine.backends.cuda.buffers import CONTROLS

    assert CONTROLS.names == Controls._fields
    assert CONTROLS.itemsize == 4 * 4 + 2 * 8


class _Identity:
    def put(self, array):
        return array

    def get(self, array):
        return array
