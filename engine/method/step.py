"""One step of algorithms 1 to 3 for the images in flight, given the gradient: one unit that never waits for the host.

The code uses the array API: eager PyTorch, numpy and Inductor run the same lines. A row depends on its own image alone:
no line mixes rows.
"""

from __future__ import annotations

from typing import NamedTuple

from .arrays import Array, namespace, per_image
from .objectives import realness
from .updates import MOVES, Controls


class Gradient(NamedTuple):
    """The objective's input gradient and the results of the forward pass.

    Attributes:
        grad: float32 [B, C, H, W], the gradient of the sum of `loss` with respect to the input.
        class_logit: float32 [B], f_c at the input.
        loss: float32 [B], the objective per image.
        predicted: int64 [B], argmax of the logits.
    """

    grad: Array
    class_logit: Array
    loss: Array
    predicted: Array


class State(NamedTuple):
    """The state of the slots: row i of every array belongs to the image in slot i.

    Attributes:
        x, x0: float32 [B, C, H, W], the iterate and the input in [0, 1].
        y: int64 [B], the class.
        number: int64 [B], the number that keys the image's noise, in [0, 2^63).
        limit: int64 [B], the maximum number of steps.
        steps: int64 [B], steps taken.
        moving: bool [B], the image takes part in the next step; False if it has finished or the slot is empty.
        stopped: bool [B], the image ended because its realness reached the threshold.
        failed: bool [B], the image ended because its gradient or class logit was not finite.
        waiting: bool [B], the gradient or class logit was not finite and must be computed again in float32 before the image moves.
        retried: bool [B], the image has waited for a float32 retry.
        class_logit: float32 [B], f_c where the gradient was last computed.
        before_logit: float32 [B], f_c at the input; NaN until known.
        before_predicted: int64 [B], the predicted class at the input.
        index: int64 [B], the host's key of the image; no step reads it.
    """

    x: Array
    x0: Array
    y: Array
    number: Array
    limit: Array
    steps: Array
    moving: Array
    stopped: Array
    failed: Array
    waiting: Array
    retried: Array
    class_logit: Array
    before_logit: Array
    before_predicted: Array
    index: Array


#: The fields that a step reads, in the order in which a compiled step takes them.
READ = tuple(name for name in State._fields if name != "index")

#: The fields that a step changes, in the order in which a compiled step returns them.
CHANGED = (
    "x", "steps", "moving", "stopped", "failed", "waiting", "retried", "class_logit", "before_logit", "before_predicted",
)  # fmt: skip


def advance(update_kind: str, state: State, gradient: Gradient, controls: Controls, in_float32: Array | bool) -> State:
    """The state after one step.

    Args:
        update_kind: the update kind, a key of `MOVES`.
        state: the slots.
        gradient: the objective's gradient at ``state.x``.
        controls: the step size and the run's other numbers.
        in_float32: bool, or a 0-d bool array. False: an ordinary step for the moving images that do not wait; an image
            whose gradient or class logit is not finite starts waiting. True: a step with float32 gradients for the waiting
            images; an image whose gradient or class logit is not finite fails.
    """
    xp = namespace(state.x)
    here = state.moving & (state.waiting == in_float32)
    known = xp.isfinite(gradient.class_logit)
    # The logit as well: some runtimes turn a NaN inside the network into zeros of the gradient.
    finite = known & xp.all(xp.reshape(xp.isfinite(gradient.grad), (state.x.shape[0], -1)), axis=1)
    waiting = here & ~finite & (in_float32 ^ True)  # `not in_float32`, for a bool and for an array
    here = here & ~waiting

    first = here & (state.steps == 0)
    # An infinite threshold never stops an image, and neither does an infinite class logit.
    reached = known & (realness(gradient.class_logit) >= controls.threshold)
    stopped = here & reached & (controls.threshold < xp.inf)
    failed = here & ~finite & ~stopped
    go = here & ~stopped & ~failed
    # Zeros in place of a gradient that is not finite: no image moves by it, and numpy does not warn about it.
    grad = xp.where(per_image(finite, gradient.grad), gradient.grad, xp.zeros_like(gradient.grad))
    moved = MOVES[update_kind](state.x, state.x0, grad, state.number, state.steps, controls)
    steps = state.steps + xp.astype(go, state.steps.dtype)
    return state._replace(
        x=xp.where(per_image(go, state.x), moved, state.x),
        steps=steps,
        moving=xp.where(here, go & (steps < state.limit), state.moving),
        stopped=state.stopped | stopped,
        failed=state.failed | failed,
        waiting=xp.where(here, xp.zeros_like(waiting), state.waiting | waiting),
        retried=state.retried | waiting,
        class_logit=xp.where(here, gradient.class_logit, state.class_logit),
        before_logit=xp.where(first, gradient.class_logit, state.before_logit),
        before_predicted=xp.where(first, gradient.predicted, state.before_predicted),
    )
