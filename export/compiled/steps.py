"""Compiled steps: update, noise, early stopping and bookkeeping as one AOTInductor package per update kind.

A step does not know the model: it takes the gradient. So one package serves every objective and dtype of a size. The
bundle holds two units, gradient and step, which run one after the other without synchronising with the host.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jboost.engine.backends.compiled.packages import load_package, machine_target
from jboost.engine.errors import FailureError
from jboost.engine.method.step import CHANGED, READ, Gradient, State, advance
from jboost.engine.method.updates import MOVES, Controls

from .aoti import compile_package
from .cache import cached

# Both sides compute the same lines in float32, and an iterate is of order 1.
_TOLERANCE = 2e-6


class _Step(nn.Module):
    """`advance` on a flat list of tensors: state, gradient, controls and the float32-retry flag."""

    def __init__(self, update_kind: str):
        super().__init__()
        self.update_kind = update_kind

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        state, gradient, controls, in_float32 = unflatten(tensors)
        after = advance(self.update_kind, state, gradient, controls, in_float32)
        return tuple(getattr(after, name) for name in CHANGED)


def unflatten(arrays: Any) -> tuple[State, Gradient, Controls, Any]:
    """Rebuild (state, gradient, controls, float32-retry flag) from the flat list that `CompiledRunner.step` passes."""
    a, b = len(READ), len(READ) + len(Gradient._fields)
    state = dict(zip(READ, arrays[:a], strict=True))
    # The host's keys, which no step reads, may be anything.
    return State(**state, index=state["number"]), Gradient(*arrays[a:b]), Controls(*arrays[b:-1]), arrays[-1]


def example(batch: int, shape: tuple[int, int, int], seed: int) -> list[np.ndarray[Any, Any]]:
    """Return what a step reads, as `unflatten` takes it, as numpy arrays; together the images take every branch of a step."""
    rng = np.random.default_rng(seed)
    images = (batch, *shape)

    def real(size: tuple[int, ...]) -> Any:
        return rng.random(size, dtype=np.float32)

    def flag(share: float) -> Any:
        return rng.random(batch) < share

    steps = rng.integers(0, 6, batch)
    state = State(
        x=real(images), x0=real(images), y=rng.integers(0, 10, batch), number=rng.integers(0, 2**40, batch),
        limit=steps + rng.integers(0, 3, batch), steps=steps, moving=flag(0.8), stopped=flag(0.1), failed=flag(0.1),
        waiting=flag(0.3), retried=flag(0.3), class_logit=real((batch,)), before_logit=real((batch,)),
        before_predicted=rng.integers(0, 10, batch), index=np.arange(batch),
    )  # fmt: skip
    grad = rng.standard_normal(images).astype(np.float32)
    grad[::5, 0, 0, 0] = np.nan
    logit = rng.normal(2.0, 2.0, batch).astype(np.float32)
    gradient = Gradient(grad, logit, -logit, rng.integers(0, 10, batch))
    step_size, ball, noise, stop = (np.array(v, np.float32) for v in (0.3, 4.0 if seed % 2 else np.inf, 0.1, 2.0))
    controls = Controls(step_size, ball, noise, stop, np.array([seed, 7], np.int64))
    read = (getattr(state, name) for name in READ)
    return [*read, *gradient, *controls, np.array(seed % 3 == 0)]


def step_package(
    update_kind: str,
    batch_size: int,
    shape: tuple[int, int, int],
    device: str,
    *,
    say: Callable[[], object] = lambda: None,
) -> tuple[Path, dict[str, float]]:
    """Return the compiled step of an update kind, from this machine's cache or compiled and verified now.

    Args:
        update_kind: a key of `MOVES`.
        batch_size: images per call.
        shape: (C, H, W).
        device: torch device string.
        say: called before a compilation.

    Returns:
        The package, and its largest difference from numpy's step.

    Raises:
        FailureError: the step cannot be compiled, or differs from numpy's.
    """

    def make(path: Path) -> dict[str, float]:
        arguments = tuple(torch.from_numpy(np.asarray(a)) for a in example(batch_size, shape, 0))
        with torch.no_grad():
            program = torch.export.export(_Step(update_kind), arguments)
        compile_package(program, path, device)
        return {"worst": verify_step(path, update_kind, batch_size, shape, device)}

    key = {
        "step": update_kind,
        "move": _digest(update_kind),
        "batch": batch_size,
        "shape": shape,
        "target": machine_target(device),
    }
    return cached(key, make, say=say)


def _digest(update_kind: str) -> str:
    """A hash of what a move computes and of the file that defines it: an update may be registered from anywhere, and be changed."""
    digest = hashlib.sha256()
    for seed in (1, 2, 3):
        digest.update(advance(update_kind, *unflatten(example(8, (3, 4, 4), seed))).x.tobytes())
    file = getattr(sys.modules.get(MOVES[update_kind].__module__), "__file__", None)
    if file is not None:
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def verify_step(path: Path, update_kind: str, batch_size: int, shape: tuple[int, int, int], device: str) -> float:
    """Reload a compiled step and compare it with numpy's, on states new to the trace.

    Returns:
        The largest difference among the float32 results.

    Raises:
        FailureError: that difference is above float32's rounding, or an integer or a flag differs.
    """
    package, worst = load_package(path, device), 0.0
    for seed in (1, 2, 3):
        arrays = example(batch_size, shape, seed)
        got = [o.cpu() for o in package(*(torch.from_numpy(np.asarray(a)).to(device) for a in arrays))]
        after = advance(update_kind, *unflatten(arrays))
        for name, a in zip(CHANGED, got, strict=True):
            want = getattr(after, name)
            if want.dtype != np.float32:
                if not np.array_equal(a.numpy(), want):
                    raise FailureError(f"{path.name}: {name} differs from numpy's; do not use this compiler's packages")
                continue
            worst = max(worst, float(np.abs(a.numpy() - want).max()))
    if not worst <= _TOLERANCE:
        raise FailureError(f"{path.name} differs from numpy's step by {worst:.2g} (bound {_TOLERANCE:g})")
    return worst
