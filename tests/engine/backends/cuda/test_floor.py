"""Fractions cut off, as the released script writes: the same in every kind of flight, and what did not move is kept."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from bowl import SHAPE, Bowl, HostRunner, NumpyRunner
from host_device import HostDevice
from kernel_calls import call
from loop_cases import expected, run_slots

from jboost.engine.backends.array_runner import ArrayFlight, empty_state, to_float
from jboost.engine.backends.compiled.captured import CapturedFlight
from jboost.engine.backends.cuda import kernels
from jboost.engine.errors import BadInputError
from jboost.engine.method.rounding import FLOOR, limit_of
from jboost.engine.method.settings import Settings, resolve_settings
from jboost.engine.method.step import State
from jboost.engine.method.updates import PGD, SGLD

#: All 256 values, in images of the bowl's shape.
EVERY = (np.arange(6 * 45) % 256).astype(np.uint8).reshape(6, *SHAPE[1:], SHAPE[0])


class Torch(NumpyRunner):
    device = "cpu"

    def put(self, array):
        return torch.from_numpy(array)

    def get(self, array):
        return array.numpy()


class Captured(Torch):
    def flight(self, *arguments):
        return CapturedFlight(self, *arguments)


def flights(emulator):
    return {
        "numpy": lambda: NumpyRunner(Bowl()),
        "torch": lambda: Torch(Bowl()),
        "captured": lambda: Captured(Bowl()),
        "kernels": lambda: HostRunner(HostDevice(emulator), Bowl(), 4),
    }


@pytest.mark.parametrize("kind", ["numpy", "torch", "captured", "kernels"])
@pytest.mark.parametrize("update", [PGD(9, 0.2), PGD(9, 0.03, norm="linf"), SGLD(9, 0.01, noise=0.05)], ids=repr)
def test_a_run_is_the_reference_loop(emulator, kind, update) -> None:
    how = Settings(update, "logit", 5.0, True, 3, rounding=FLOOR)
    y, limits = np.zeros(6, np.int64), np.array([3, 0, 9, 1, 5, 0])
    want = expected(NumpyRunner(Bowl()), EVERY, y, how, limits=limits)
    runner = flights(emulator)[kind]()
    with runner if kind == "kernels" else nullcontext():
        got = run_slots(runner, EVERY, y, how, batch_size=4, limits=limits)
    off = np.abs(got.images.astype(int) - want.images)
    assert off.max() <= 1, "one level where a norm's last bit turns a rounding"
    assert (off > 0).mean() < 0.01
    np.testing.assert_array_equal(got.images[limits == 0], EVERY[limits == 0])
    nearest = expected(NumpyRunner(Bowl()), EVERY, y, Settings(update, "logit", 5.0, True, 3), limits=limits)
    lost = nearest.images.astype(int) - want.images
    assert set(np.unique(lost)) == {0, 1}


@pytest.mark.parametrize("kind", ["numpy", "torch", "kernels"])
def test_each_of_256_values_stays_where_it_did_not_move_and_is_cut_where_it_did(device, kind) -> None:
    """Image 0 took steps without moving; image 1 moved up by 0.9 levels, image 2 down by 0.1; image 3 failed."""
    shape = (1, 16, 16)
    levels = np.tile(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), (4, 1, 1, 1))
    x0 = to_float(levels)
    moved = np.array([0, 0.9, -0.1, 7], np.float32).reshape(4, 1, 1, 1) / np.float32(255)
    state = State(*(a.copy() for a in empty_state(4, shape)))
    state = state._replace(x=x0 + moved, x0=x0, steps=np.full(4, 2), failed=np.arange(4) == 3)
    runner = NumpyRunner(Bowl()) if kind == "numpy" else Torch(Bowl())
    flight = ArrayFlight(runner, "pgd-l2", PGD().controls(), 4, shape, FLOOR)
    if kind == "kernels":
        room = {"images": np.zeros((4, 16, 16, 1), np.uint8), "moved": np.zeros(4, np.float32)}
        words = [*State._fields, "row", "images", "moved", 1, 256, *limit_of("pgd-l2", np.inf, FLOOR)]
        got = call(device, kernels.COLLECT, 4, words, **state._asdict(), row=np.arange(4), **room)["images"]
    else:
        flight.state = State(*map(runner.put, state))
        got = flight.collect(np.arange(4)).images
    below = np.maximum(levels[2].astype(int) - 1, 0)
    for image, want in zip(got, [levels[0], levels[1], below, levels[3]], strict=True):
        np.testing.assert_array_equal(image, want)


@pytest.mark.parametrize("update", [PGD(eps=1.5), PGD(eps=0.1, norm="linf")], ids=repr)
def test_a_ball_and_cut_fractions_do_not_go_together(update) -> None:
    how = {"objective": "logit", "l0": None, "early_stop": None, "seed": 0}
    with pytest.raises(BadInputError, match=r"--rounding floor cuts fractions off.* use --rounding nearest"):
        resolve_settings(update, **how, rounding=FLOOR)
    assert resolve_settings(update, **how, rounding="nearest").rounding == "nearest"  # the remedy
    with pytest.raises(BadInputError, match="--rounding up: give nearest or floor"):
        resolve_settings(PGD(), **how, rounding="up")
