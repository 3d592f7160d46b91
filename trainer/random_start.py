"""The random start of an attack: a point drawn uniformly from the L2 ball around each image.

The draw is keyed by the seed and the image's position in the global order, so it is the same after a resume, for any
number of processes and for any number of accumulated batches.
"""

from __future__ import annotations

import numpy as np
import torch

from jboost.engine.method.arrays import per_image
from jboost.engine.method.noise import normal, philox, split_seed

_MASK32 = 0xFFFFFFFF
# Steps in the counter of the noise: the direction and the length are drawn apart.
_DIRECTION, _LENGTH = 0, 1


def random_start(images: torch.Tensor, radius: float, positions: torch.Tensor, seed: int) -> torch.Tensor:
    """Draw one displacement for each image.

    Args:
        images: float32 [B, C, H, W]; only their shape and device matter.
        radius: of the ball, at least 0.
        positions: int64 [B], each image's position in the global order, on the images' device.
        seed: in [0, 2^63): the run's seed.

    Returns:
        float32 [B, C, H, W], uniform in the ball.
    """
    # A key of its own: the order and the augmentation draw from the same generator with the seed itself.
    low, high = split_seed(int(np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0]))
    _, *shape = images.shape
    channels, height, width = shape
    key = torch.tensor([low, high], device=images.device)
    direction = normal((channels, height, width), key=key, index=positions, step=torch.full_like(positions, _DIRECTION))
    zero = torch.zeros_like(positions)
    word, _, _, _ = philox((zero, zero + _LENGTH, positions & _MASK32, positions >> 32), (low, high))
    # The share of the ball's volume that lies nearer to the middle is uniform in (0, 1).
    share = (word.double() + 0.5) / 2**32
    length = radius * share ** (1 / (channels * height * width)) / direction.flatten(1).double().norm(dim=1)
    start: torch.Tensor = direction * per_image(length.float(), direction)
    return start
