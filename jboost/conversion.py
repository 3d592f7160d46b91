"""Images as a pipeline holds them: read into uint8 [N, H, W, C] for the engine, and handed back in the kind that came.

Four kinds: uint8 and float arrays of numpy, tensors of torch, and lists of PIL images. Nothing is guessed in silence: a range
or a layout that the values do not settle is refused, and the option that settles it is named.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from jboost.engine.errors import BadInputError
from jboost.engine.samples import check_images

Numpy = np.ndarray[Any, Any]

#: Values of the options ``layout`` and ``value_range``.
LAYOUTS = ("NHWC", "NCHW")
Range = tuple[float, float]

# A lowest value between this and 0 may be a [0, 1] image that resampling took below 0, or a bright [-1, 1] image.
_SURELY_SIGNED = -0.25
# Values this far outside the range, or a quarter of its width, show that the range is another one.
_OVERSHOOT = 0.5
_ORIENTATION = 0x0112  # of EXIF


class Given(Protocol):
    """Images that a caller gave.

    Attributes:
        images: uint8 [N, H, W, C], for the engine.
        notes: what was assumed and rounded, a line each.
        value_range: of float images, as given or told; None for uint8 and PIL images.
    """

    images: Numpy
    notes: tuple[str, ...]
    value_range: Range | None

    def back(self, images: Numpy) -> Any:
        """All results, uint8 [N, H, W, C], in the kind that came."""
        ...

    def back_one(self, position: int, image: Numpy) -> Any:
        """The result of one image, uint8 [H, W, C], in the kind that came."""
        ...


def take(images: Any, *, channels: int, value_range: Range | None = None, layout: str | None = None) -> Given:
    """Read images of any kind.

    Args:
        images: one of

            * a numpy array or torch tensor, uint8 in [0, 255] or float in [0, 1] or [-1, 1], as [N, H, W, C] or [N, C, H, W];
            * a list or tuple of PIL images of one size, all of mode RGB or all of mode L.
        channels: the channels that the bundle takes; the axis of that length is the channels.
        value_range: (lowest, highest) value of float images; None: (0, 1) if no value is negative, (-1, 1) if values reach
            below -0.25. Values a little outside are clipped, with a note.
        layout: ``"NHWC"`` or ``"NCHW"``; None: told by the channels.

    Returns:
        The images. Float values are rounded to 256 levels, because a bundle's engines start from uint8; a note says so.

    Raises:
        BadInputError: the kind, dtype, layout or range is none of these, or not settled by the values.
    """
    if layout is not None and layout not in LAYOUTS:
        raise BadInputError(f"unknown layout {layout!r}; choose one of {', '.join(LAYOUTS)}")
    if value_range is not None and not (
        np.shape(value_range) == (2,) and np.isfinite(value_range).all() and value_range[0] < value_range[1]
    ):
        raise BadInputError(f"value_range must be (lowest, highest), two finite numbers, got {value_range!r}")
    if _is_pil(images):
        raise BadInputError("images is one PIL image; give a list of them: [image]")
    if isinstance(images, (list, tuple)) and any(_is_pil(image) for image in images):
        return _Pil(images, channels)
    if _is_tensor(images):
        return _Torch(images, channels, value_range, layout)
    return _Array(np.asarray(images), channels, value_range, layout)


def is_one_image(item: Any) -> bool:
    """Whether `item` is a single image: a PIL image, or an array or tensor of three axes."""
    return _is_pil(item) or ((isinstance(item, np.ndarray) or _is_tensor(item)) and item.ndim == 3)


def is_float(images: Any) -> bool:
    """Whether `images` is an array or tensor of floats, or a list of them."""
    if isinstance(images, (list, tuple)):
        return bool(images) and is_float(images[0])
    if _is_tensor(images):
        return bool(images.is_floating_point())
    return np.asarray(images).dtype.kind == "f" if hasattr(images, "dtype") else False


def class_labels(labels: Any) -> Numpy:
    """Labels of any kind (list, numpy, torch on any device) as a numpy array, unchecked."""
    return labels.detach().cpu().numpy() if _is_tensor(labels) else np.asarray(labels)


def image_numbers(numbers: Any, count: int, *, first: int = 0) -> Numpy:
    """The numbers that key the images' noise, of any kind that `class_labels` takes, as int64 [count].

    Args:
        numbers: whole numbers in [0, 2^63).
        count: number of images.
        first: the position of the first one, for the message.

    Raises:
        BadInputError: not one whole number for each image, or one that is negative or does not fit.
    """
    given = class_labels(numbers)
    if given.shape != (count,):
        raise BadInputError(
            f"numbers has shape {list(given.shape)}; give one for each of the {count} images, such as np.arange({count})"
        )
    if given.dtype.kind not in "iu":  # a list with a number of 2^64 is an array of objects
        raise BadInputError(
            f"numbers has dtype {given.dtype}; give whole numbers from 0 to 2**63 - 1, such as np.arange({count})"
        )
    wrong = np.flatnonzero((given < 0) | (given > np.iinfo(np.int64).max))
    if len(wrong):
        at = int(wrong[0])
        raise BadInputError(f"the number of image {first + at} is {given[at]}; numbers are from 0 to 2**63 - 1")
    return given.astype(np.int64)


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # who holds a tensor has imported it
    return torch is not None and isinstance(value, torch.Tensor)


def _is_pil(value: Any) -> bool:
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(value, pil.Image)


class _Array:
    """A numpy array."""

    def __init__(self, array: Numpy, channels: int, value_range: Range | None, layout: str | None):
        self._given = array
        self._dtype = array.dtype
        self._channels_first = _channels_first(array.shape, channels, layout)
        self.value_range, notes = _levels_of(array, value_range)
        seen = _to_levels(array, *self.value_range) if self.value_range else array
        if self._channels_first:
            seen = seen.transpose(0, 2, 3, 1)
            notes = (*notes, f"images: shape {list(array.shape)} is [N, C, H, W]")
        check_images("images", seen.shape, seen.dtype)
        self.images, self.notes = np.ascontiguousarray(seen), notes

    def back(self, images: Numpy) -> Any:
        """An array of the same dtype and layout; an image that did not change comes back bit for bit."""
        made = self._made(images)
        same = (images == self.images).all(axis=(1, 2, 3))
        made[same] = self._given[same]
        return made

    def back_one(self, position: int, image: Numpy) -> Any:
        """The same for one image."""
        if np.array_equal(image, self.images[position]):
            return self._given[position].copy()
        return self._made(image[None])[0]

    def _made(self, images: Numpy) -> Numpy:
        seen = images.transpose(0, 3, 1, 2) if self._channels_first else images
        if self.value_range is None:
            return np.array(seen, order="C")
        low, high = self.value_range
        return np.ascontiguousarray(seen / 255.0 * (high - low) + low).astype(self._dtype)


class _Torch:
    """A torch tensor of any device, strides and float dtype. Gradients do not flow through it."""

    def __init__(self, tensor: Any, channels: int, value_range: Range | None, layout: str | None):
        self._given = tensor.detach()
        plain = self._given.cpu()
        # numpy has no bfloat16; float32 holds its values.
        array = (plain.float() if plain.is_floating_point() and plain.element_size() < 4 else plain).numpy()
        if tensor.is_floating_point() and array.dtype != np.float64:
            array = array.astype(np.float32)
        self._inner = _Array(array, channels, value_range, layout)
        self.images, self.value_range = self._inner.images, self._inner.value_range
        name = str(tensor.dtype).removeprefix("torch.")
        self.notes = tuple(note.replace(f"images: {array.dtype} ", f"images: {name} ") for note in self._inner.notes)

    def back(self, images: Numpy) -> Any:
        """A tensor of the same dtype, layout and strides, on the same device."""
        import torch

        made = torch.empty_like(self._given)
        made.copy_(torch.from_numpy(self._inner.back(images)))
        same = torch.from_numpy((images == self.images).all(axis=(1, 2, 3))).to(made.device)
        made[same] = self._given[same]
        return made

    def back_one(self, position: int, image: Numpy) -> Any:
        """The same for one image."""
        import torch

        if np.array_equal(image, self.images[position]):
            return self._given[position].clone()
        made = torch.empty_like(self._given[position])
        made.copy_(torch.from_numpy(self._inner.back_one(position, image)))
        return made


class _Pil:
    """A list of PIL images of one mode and size."""

    def __init__(self, pictures: Sequence[Any], channels: int):
        self.notes: tuple[str, ...] = ()
        self.value_range: Range | None = None
        for i, picture in enumerate(pictures):
            _check_pil(i, picture, pictures[0], channels)
        seen = np.stack([np.asarray(picture, np.uint8) for picture in pictures])
        self.images = seen if seen.ndim == 4 else seen[..., None]

    def back(self, images: Numpy) -> Any:
        """A list of new images of the same mode."""
        return [self.back_one(i, image) for i, image in enumerate(images)]

    def back_one(self, position: int, image: Numpy) -> Any:
        """One new image of the same mode."""
        from PIL import Image

        return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def _check_pil(position: int, picture: Any, first: Any, channels: int) -> None:
    name = f"images[{position}]"
    if not _is_pil(picture):
        raise BadInputError(f"{name} is of type {type(picture).__name__}, others are PIL images; give one kind")
    mode = {1: "L", 3: "RGB"}.get(channels, "RGB")
    if picture.mode != mode:
        # A conversion of alpha or 16 bits has more than one answer, so the caller makes it.
        raise BadInputError(
            f"{name} has mode {picture.mode}, the bundle takes {channels} channel(s); {_to_mode(picture, mode)}"
        )
    if picture.size != first.size:
        raise BadInputError(
            f"{name} has {picture.width}x{picture.height} pixels, images[0] {first.width}x{first.height}; resize them to one size"
        )
    if picture.getexif().get(_ORIENTATION, 1) != 1:
        raise BadInputError(f"{name} is stored rotated (EXIF); turn it upright: PIL.ImageOps.exif_transpose(image)")


def _to_mode(picture: Any, mode: str) -> str:
    """How to convert a picture to `mode`, for a message."""
    if picture.mode[-1:] in "Aa" or "transparency" in picture.info:
        return (
            'lay it over a background: PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), '
            f'image.convert("RGBA")).convert("{mode}")'
        )
    if picture.mode.startswith("I;16"):
        return f"scale it to 8 bits: PIL.Image.fromarray((numpy.asarray(image) / 257).round().astype('uint8')).convert(\"{mode}\")"
    if picture.mode in ("I", "F"):
        return f'scale its values to 0..255, which convert would clip, then image.convert("{mode}")'
    return f'convert it: image.convert("{mode}")'


def _channels_first(shape: tuple[int, ...], channels: int, layout: str | None) -> bool:
    """Whether axis 1 holds the channels."""
    if len(shape) != 4:
        return False  # `check_images` refuses it
    if layout is not None:
        return layout == "NCHW"
    first, last = shape[1] == channels, shape[3] == channels
    if first and last:
        raise BadInputError(
            f"images has shape {list(shape)}, which may be [N, C, H, W] or [N, H, W, C]; say which: "
            f'layout="{LAYOUTS[0]}" or layout="{LAYOUTS[1]}"'
        )
    return first


def _levels_of(array: Numpy, value_range: Range | None) -> tuple[Range | None, tuple[str, ...]]:
    """The range of float images, or None for uint8; and what to say about it."""
    if array.dtype.kind != "f":
        if value_range is not None and tuple(value_range) != (0, 255):
            raise BadInputError(
                f"images has dtype {array.dtype} in [0, 255]; leave value_range out, it is for float images"
            )
        return None, ()
    if not array.size:
        return (0.0, 1.0), ()  # `check_images` refuses it
    least, most = float(array.min()), float(array.max())
    if not (np.isfinite(least) and np.isfinite(most)):
        raise BadInputError(
            "images holds values that are NaN or infinite; leave those images out, or replace the values"
        )
    asked = value_range is not None
    if value_range is None:
        value_range = _told_range(least, most)
    low, high = map(float, value_range)
    beyond = max(_OVERSHOOT, (high - low) / 4)
    if least < low - beyond or most > high + beyond:
        raise BadInputError(
            f"images holds values from {least:g} to {most:g}, far outside [{low:g}, {high:g}]; give the range they lie in: "
            "value_range=(0, 1), (-1, 1) or (0, 255), or give uint8"
        )
    why = "value_range" if asked else "no value is negative" if low == 0 else f"the lowest value is {least:g}"
    notes = [f"images: {array.dtype} in [{low:g}, {high:g}] ({why}), rounded to 256 levels"]
    if outside := int(((array < low) | (array > high)).sum()):
        notes.append(f"images: {outside:,} values outside [{low:g}, {high:g}] were clipped")
    return (low, high), tuple(notes)


def _told_range(least: float, most: float) -> Range:
    """[0, 1] or [-1, 1] by the lowest value, where that settles it."""
    if _SURELY_SIGNED < least < 0:
        raise BadInputError(
            f"images holds values from {least:g} to {most:g}, which may be of [0, 1] or of [-1, 1]; say which: "
            "value_range=(0, 1) or value_range=(-1, 1)"
        )
    return (0.0, 1.0) if least >= 0 else (-1.0, 1.0)


def _to_levels(array: Numpy, low: float, high: float) -> Numpy:
    """Floats in [low, high] as uint8 in [0, 255], rounded to nearest; in double precision, as float16 lacks the digits."""
    levels: Numpy = np.rint(np.clip((array.astype(np.float64) - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return levels
