"""Kernels as functions of numpy arrays, on any device."""

from __future__ import annotations

import numpy as np

from jboost.engine.backends.cuda import kernels
from jboost.engine.backends.cuda.buffers import CONTROLS
from jboost.engine.backends.cuda.layout import Layout
from jboost.engine.backends.cuda.transfers import Mirror
from jboost.engine.method.step import CHANGED, State


def call(device, kernel, blocks, words, **arrays):
    """Launch a kernel on copies of `arrays`; the arrays afterwards. In `words`, a name stands for an array's address."""
    arrays = {name: np.asarray(a) for name, a in arrays.items()}
    mirror = Mirror(device, Layout({name: (a.dtype, a.shape) for name, a in arrays.items()}))
    for name, a in arrays.items():
        mirror.views[name][...] = a
    stream = device.stream()
    mirror.upload(stream)
    device.launch(kernel, blocks, [mirror.at[w] if isinstance(w, str) else w for w in words], stream)
    mirror.download(stream)
    stream.synchronize()
    after = {name: mirror.views[name].copy() for name in arrays}
    mirror.free()
    return after


def step(device, update_kind, state, gradient, controls, in_float32):
    """The fields in `CHANGED` after the step kernel."""
    packed = np.zeros(1, CONTROLS)
    for name, value in controls._asdict().items():
        packed[name] = value
    count, size = len(state.x), state.x[0].size
    words = [*State._fields, "grad", "logit", "predicted", "controls", "in_float32", size]
    after = call(
        device, kernels.step_kernel(update_kind), count, words, **state._asdict(), grad=gradient.grad, logit=gradient.class_logit,
        predicted=gradient.predicted, controls=packed, in_float32=np.array([in_float32], np.uint8),
    )  # fmt: skip
    for name in set(State._fields) - set(CHANGED):
        np.testing.assert_array_equal(after[name], getattr(state, name), err_msg=name)
    return state._replace(**{name: after[name] for name in CHANGED})
