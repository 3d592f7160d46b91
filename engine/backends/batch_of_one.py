"""A workaround for torch's wrong input gradient of a single image on a CPU.

Seen with torch 2.13.0, the newest release in November 2026. BatchNorm2d in evaluation mode gives a wrong input gradient for a
batch of one on a CPU when the incoming gradient is in channels-last order and the images are not, or the reverse: the relative
error is 1.4. Networks meet this where a map becomes tokens and back, as in LeViT. InstanceNorm2d has the same fault. Batches of
two are right, so every gradient that autograd computes here goes through `at_least_two`. `tests/engine/backends/
test_batch_of_one.py` fails once torch is right; then this module and its callers' lines can go.
"""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_two(x: Tensor) -> Tensor:
    """Return a batch that autograd can differentiate: one image on a CPU becomes the same image twice.

    The copy is differentiable. Take the first ``len(x)`` rows of the network's output; the second row then gets no gradient.

    Args:
        x: images [B, C, H, W], or their classes [B].

    Returns:
        Two rows for one image on a CPU, else `x` itself.
    """
    return torch.cat([x, x]) if x.device.type == "cpu" and x.shape[0] == 1 else x
