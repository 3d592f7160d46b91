"""What to save instead of an array that holds no images or no labels: Python expressions that are right when followed.

An expression depends on the values, of which the callers pass a part: labels of shape [N, K] are one-hot or they are not,
floats lie in [0, 1] or in [-1, 1].
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
#: The most bytes of an array that are read to tell what it holds.
PART_LIMIT = 64 << 20


def rows_within(shape: tuple[int, ...], dtype: np.dtype[Any], limit: int = PART_LIMIT) -> int:
    """How many leading rows of an array take at most `limit` bytes; 0 if one takes more."""
    row = dtype.itemsize
    for size in shape[1:]:
        row *= size
    return min(shape[0] if shape else 1, limit // max(1, row))


def variable(name: str) -> str:
    """The expression for an array that a message calls ``FILE: NAME``."""
    return name.rpartition(" ")[2]


def image_fault(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], part: Array | None) -> str | None:
    """Why an array is no set of images uint8 [N, H, W, C], and what to save instead; None if it is one.

    Args:
        name: the array, for the message; its last word is its variable.
        shape, dtype: the array's.
        part: some of its values, at least one; None if they are unknown.
    """
    x = variable(name)
    if 0 in shape:
        return f"{name} holds no images (shape {list(shape)})" if shape[0] == 0 else (
            f"{name} has shape {list(shape)}: its images have no pixels"
        )  # fmt: skip
    if dtype.hasobject:
        return (
            f"{name} is an array of Python objects, which jboost never unpickles; save it as plain uint8: "
            f"np.stack([np.asarray(image) for image in {x}])"
        )
    laid_out, doubt = _layout(x, shape)
    if laid_out is None:
        return f"{name} has shape {list(shape)}{doubt}"
    if dtype == np.uint8:
        if laid_out == x:
            return None
        return f"{name} has shape {list(shape)}{doubt}, images must be [N, H, W, C]; save {laid_out}"
    values, expression = _levels(laid_out, dtype, part)
    return (
        f"{name} has dtype {dtype}{doubt}, images must be uint8 in [0, 255]"
        f"{' and [N, H, W, C]' if laid_out != x else ''}; {values}{expression}"
    )


def _layout(x: str, shape: tuple[int, ...]) -> tuple[str | None, str]:
    """The expression that makes `x` [N, H, W, C], and what the shape looks like; None if it cannot be told."""
    if len(shape) == 4:
        _, h, _, c = shape
        if c in (1, 3):
            return x, ""
        if h in (1, 3):
            return f"{x}.transpose(0, 2, 3, 1)", ", which looks like NCHW"
        if 4 in (c, h):
            opaque = f"{x}[..., :3]" if c == 4 else f"{x}[:, :3].transpose(0, 2, 3, 1)"
            return None, (
                ": 4 channels; images must have 1 or 3, as [N, H, W, C]; if the fourth is alpha and opaque everywhere, "
                f"save {opaque}"
            )
        return None, f": {c} channels; images must have 1 or 3, as [N, H, W, C]"
    if len(shape) == 3:
        if shape[2] in (1, 3):
            return f"{x}[None]", ", which looks like a single image"
        if shape[0] in (1, 3):
            return None, (
                f", images must be [N, H, W, C]; save {x}[..., None] if these are {shape[0]} grey images, or "
                f"{x}.transpose(1, 2, 0)[None] if they are the channels of one"
            )
        return f"{x}[..., None]", ", which looks like grey images"
    return None, ", images must be [N, H, W, C] with C 1 or 3; reshape it"


def _levels(x: str, dtype: np.dtype[Any], part: Array | None) -> tuple[str, str]:
    """The range of the values, and the expression that makes them uint8."""
    if dtype == np.bool_:
        return "save ", f"{x}.astype(np.uint8) * np.uint8(255)"
    if dtype.kind not in "iuf":
        return "save numbers: ", f"{x} must hold grey levels"
    unit = f"np.clip(np.round({x} * 255.0), 0, 255).astype(np.uint8)"
    centred = f"np.clip(np.round(({x} + 1.0) * 127.5), 0, 255).astype(np.uint8)"
    whole = f"np.clip(np.round({x}), 0, 255).astype(np.uint8)"
    if part is None or part.size == 0:
        return "save ", f"{unit} if it lies in [0, 1], {centred} if in [-1, 1], {whole} if in [0, 255]"
    low, high = float(part.min()), float(part.max())
    if not np.isfinite([low, high]).all():
        return "", "it has values that are not finite (NaN or infinity); make the images again"
    found = f"its values lie in [{low:.4g}, {high:.4g}]; save "
    if dtype.kind == "f" and low >= -0.05 and high <= 1.05:
        return found, unit
    if dtype.kind == "f" and low >= -1.1 and high <= 1.1:
        return found, centred
    if low >= -0.5 and high <= 255.5:
        return found, whole
    if dtype == np.uint16:
        return found, f"np.round({x} / 257.0).astype(np.uint8) if they are 16-bit grey levels"
    return found, "them as grey levels from 0 to 255 (undo the normalisation by a mean and a deviation first)"


def label_fault(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], part: Array | None, count: int) -> str | None:
    """Why an array is not the class number of each of `count` images, and what to save instead; None if it is.

    Args:
        name: the array, for the message; its last word is its variable.
        shape, dtype: the array's.
        part: its first rows; None if they are unknown. Their values are not checked if the shape and dtype are right.
        count: number of images.
    """
    x = variable(name)
    if dtype.hasobject:
        return (
            f"{name} is an array of Python objects, which jboost never unpickles; save np.array({x}.tolist(), np.int64)"
        )
    single, doubt = _one_per_image(x, shape, dtype, part, count)
    if single is None:
        return f"{name} has shape {list(shape)}, labels must be [N]{doubt}"
    if single == x and shape[0] != count:
        return f"{name} has {shape[0]} labels for {count} images; they must match"
    whole, wrong = ("", "") if single.endswith("argmax(1)") else _whole(single, dtype, part)
    if single == x and not whole and not wrong:
        return None
    what = f"dtype {dtype}" if single == x else f"shape {list(shape)}"
    must = "whole numbers" if single == x else "[N]"
    return f"{name} has {what}, labels must be {must}{doubt}; {wrong or 'save ' + (whole or single)}"


def _one_per_image(
    x: str, shape: tuple[int, ...], dtype: np.dtype[Any], part: Array | None, count: int
) -> tuple[str | None, str]:
    """The expression for one number an image, and what the array looks like; None if it cannot be told."""
    if len(shape) == 1:
        return x, ""
    size = 1
    for n in shape:
        size *= n
    if len(shape) == 2 and shape == (count, 1):
        return f"{x}[:, 0]", ""
    if len(shape) == 2 and shape == (1, count):
        return f"{x}[0]", ""
    if len(shape) == 2 and shape[0] == count and shape[1] > 1:
        if part is not None and part.ndim == 2 and dtype.kind in "iufb" and len(part):
            sums = np.abs(part.astype(np.float64).sum(1) - 1)
            if np.isin(part, (0, 1)).all() and not sums.any():
                return f"{x}.argmax(1)", ", these are one-hot"
            if dtype.kind == "f" and bool((part >= 0).all()) and bool((sums < 1e-2).all()):
                return f"{x}.argmax(1)", ", these look like probabilities, whose likeliest class is one number"
        return None, f"; save the column that holds the class, such as {x}[:, 0]"
    if size == count:
        return f"{x}.reshape(-1)", ""
    return None, f" with N = {count}"


def _whole(x: str, dtype: np.dtype[Any], part: Array | None) -> tuple[str, str]:
    """The expression for whole numbers, "" if they are; or why there is none."""
    if dtype.kind in "iu":
        return "", ""
    if dtype.kind == "b":
        return f"{x}.astype(np.int64)", ""
    if dtype.kind == "f":
        if part is not None:
            odd = ~(np.isfinite(part) & (part == np.round(part)))
            if odd.any():
                return (
                    "",
                    f"it holds {part[odd].flat[0]:.6g}, which is no class number: save each image's class, from 0",
                )
        return f"{x}.astype(np.int64)", ""
    if dtype.kind in "US":
        if part is not None and all(str(v).strip().isdecimal() for v in part.astype(str).flat):
            return f"{x}.astype(np.int64)", ""
        return f"np.unique({x}, return_inverse=True)[1], which numbers the names in sorted order from 0", ""
    return "", "save each image's class number, from 0"
