"""Random flips, crops and rotations, each a function of the seed and the image's position in the global order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from jboost.engine.method.noise import philox, split_seed

from .order import Stream
from .resized_crop import choose_box, resized, resized_crop, words_of
from .rotation import angle, rotated

Pixels = NDArray[np.uint8]
_MASK32 = 0xFFFFFFFF


@dataclass(frozen=True)
class Augmentation:
    """The random changes to an image before the model sees it: crops first, then the flip, the rotation, and the
    vertical flip.

    Attributes:
        seed: in [0, 2^64).
        resized_crop: crop the image at its own size as torchvision's RandomResizedCrop does, see
            `jboost.trainer.data.resized_crop`. `BatchReader` then reads images by `crop` instead of `ImageData.read`.
        resize: resize the image's shorter side to this many pixels before that crop; 0: crop the image at its own size.
        flip: mirror each image left to right with probability 1/2.
        crop_padding: pad by this many pixels on each side, then crop the original size at a random place. The padding
            reflects the image, because a black border would mark cropped images.
        rotation: rotate by up to this many degrees, in [0, 180], as torchvision's RandomRotation does, with black
            corners.
        vertical_flip: mirror each image top to bottom with probability 1/2, after all else.
    """

    seed: int
    resized_crop: bool = False
    resize: int = 0
    flip: bool = True
    crop_padding: int = 0
    rotation: float = 0.0
    vertical_flip: bool = False

    def crop(self, originals: Iterable[Pixels], side: int, positions: NDArray[np.int64]) -> Pixels:
        """Crop images at random to one size: each uint8 [h, w, C] -> uint8 [n, side, side, C], by their `positions`."""
        crops = []
        for original, position in zip(originals, positions.tolist(), strict=True):
            image = resized(original, self.resize) if self.resize else original
            box = choose_box(image.shape[0], image.shape[1], words_of(self.seed, position))
            crops.append(resized_crop(image, box, side))
        return np.stack(crops)

    def apply(self, images: NDArray[np.uint8], positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Images uint8 [n, H, W, C] -> the same shape, by their `positions` int64 [n]."""
        zero = np.int64(0)
        counter = (positions & _MASK32, positions >> 32, zero, np.int64(Stream.AUGMENT))
        coin, top, left, turn = philox(counter, split_seed(self.seed))
        if self.crop_padding:
            images = _crop(images, top, left, self.crop_padding)
        if self.flip:
            images = _mirrored(images, coin & 1, images[:, :, ::-1])
        if self.rotation:
            turns = zip(images, turn.tolist(), strict=True)
            images = np.stack([rotated(image, angle(self.rotation, word)) for image, word in turns])
        if self.vertical_flip:
            images = _mirrored(images, coin >> 1 & 1, images[:, ::-1])
        return images


def _mirrored(images: Pixels, coin: NDArray[np.int64], mirrored: Pixels) -> Pixels:
    """The mirrored images where the coin is 1, else the images."""
    return np.where((coin == 1)[:, None, None, None], mirrored, images)


def _crop(images: NDArray[np.uint8], top: NDArray[np.int64], left: NDArray[np.int64], pad: int) -> NDArray[np.uint8]:
    """Crop the padded images to the images' own size, at the places given by the random words `top` and `left`."""
    n, h, w, _ = images.shape
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
    windows = sliding_window_view(padded, (h, w), axis=(1, 2))  # [n, 2 pad + 1, 2 pad + 1, C, H, W], without copies
    choices = 2 * pad + 1
    return windows[np.arange(n), top % choices, left % choices].transpose(0, 2, 3, 1)
