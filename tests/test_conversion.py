"""Images of every kind go in and come back as that kind; a range or a layout that is not settled is asked for."""

from __future__ import annotations

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

import jboost
from jboost.conversion import take

SHAPE = (4, 6, 5, 3)


@pytest.fixture(scope="module")
def levels() -> np.ndarray:
    """uint8 [4, 6, 5, 3] that holds 0 and 255."""
    images = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    images[0, 0, 0, 0], images[0, 0, 0, 1] = 0, 255
    return images


def kinds(levels: np.ndarray) -> dict:
    """The same images in every kind, with the options that each needs."""
    unit = levels / 255
    chw = torch.from_numpy(levels).permute(0, 3, 1, 2)
    return {
        "uint8": (levels, {}),
        "uint8 NCHW": (levels.transpose(0, 3, 1, 2), {}),
        "not contiguous": (levels[:, ::-1][:, ::-1], {}),
        "float32": (unit.astype(np.float32), {}),
        "float64": (unit, {}),
        "float16": (unit.astype(np.float16), {}),
        "signed": ((unit * 2 - 1).astype(np.float32), {}),
        "signed, told": ((unit * 2 - 1).astype(np.float32), {"value_range": (-1, 1)}),
        "to 255": (levels.astype(np.float32), {"value_range": (0, 255)}),
        "torch uint8 NCHW": (chw, {}),
        "torch uint8 NHWC": (torch.from_numpy(levels), {}),
        "torch NCHW": (chw.contiguous().float() / 255, {}),
        "torch channels last": ((chw.float() / 255).to(memory_format=torch.channels_last), {}),
        "torch signed": (chw.float() / 127.5 - 1, {}),
        "torch float64": (chw.double() / 255, {}),
        "torch bfloat16": ((chw.float() / 255).bfloat16(), {}),
        "torch with a gradient": ((chw.float() / 255).requires_grad_(), {}),
        "PIL": ([Image.fromarray(image) for image in levels], {}),
    }


NAMES = list(kinds(np.zeros(SHAPE, np.uint8)))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_read_right_and_handed_back_as_it_came(levels, name) -> None:
    images, options = kinds(levels)[name]
    given = take(images, channels=3, **options)
    off = 1 if "bfloat16" in name else 0  # 8 bits of mantissa do not hold 256 levels near 1
    assert given.images.dtype == np.uint8
    assert given.images.flags.c_contiguous
    assert np.abs(given.images.astype(int) - levels).max() <= off
    # What did not change comes back bit for bit, the rest within the dtype's rounding.
    changed = given.images.copy()
    changed[1] = 255 - changed[1]
    back = given.back(changed)
    assert type(back) is type(images)
    if name == "PIL":
        assert [image.mode for image in back] == ["RGB"] * 4
        assert np.array_equal(np.stack(back), changed)
        return
    assert (back.dtype, back.shape) == (images.dtype, images.shape)
    again = take(back, channels=3, **({} if "signed" not in name else {"value_range": (-1, 1)}) | options)
    assert np.abs(again.images.astype(int) - changed).max() <= off
    same = np.array([0, 2, 3])
    if isinstance(images, torch.Tensor):
        assert back.device == images.device
        assert not back.requires_grad
        assert back.stride() == images.stride()
        assert torch.equal(back[same], images.detach()[same])
    else:
        assert np.array_equal(back[same], images[same])
    for i in range(4):
        one = given.back_one(i, changed[i])
        assert one.dtype == back.dtype
        assert bool((one == back[i]).all())


def test_values_between_two_levels_are_rounded_to_the_nearest_and_that_is_said() -> None:
    x = np.full((1, 2, 2, 1), 0.5, np.float32)
    x[0, 0, 0, 0], x[0, 1, 1, 0] = 1.02, 100.4 / 255
    given = take(x, channels=1)
    assert given.images.ravel().tolist() == [255, 128, 128, 100]
    assert given.notes == (
        "images: float32 in [0, 1] (no value is negative), rounded to 256 levels",
        "images: 1 values outside [0, 1] were clipped",
    )
    assert (
        take(x.astype(np.float16), channels=1, value_range=(0, 1))
        .notes[0]
        .startswith("images: float16 in [0, 1] (value_")
    )
    assert take(torch.from_numpy(x).bfloat16(), channels=1).notes[0].startswith("images: bfloat16 in [0, 1]")


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.full((1, 4, 4, 3), 200.0), {}, r"from 200 to 200, far outside \[0, 1\].*value_range=\(0, 1\), \(-1, 1\) or \(0, 255\)"),
        (np.linspace(0, 1.6, 48).reshape(1, 4, 4, 3), {}, "far outside"),
        (np.linspace(-1.6, 1, 48).reshape(1, 4, 4, 3), {}, r"far outside \[-1, 1\]"),
        (np.linspace(-1, 1, 48).reshape(1, 4, 4, 3), {"value_range": (0, 1)}, r"far outside \[0, 1\]"),
        (np.linspace(-0.1, 1, 48).reshape(1, 4, 4, 3), {}, r"may be of \[0, 1\] or of \[-1, 1\]; say which: value_range"),
        (np.full((1, 4, 4, 3), np.nan), {}, "NaN or infinite"),
        (np.zeros((1, 4, 4, 3), np.uint8), {"value_range": (0, 1)}, "leave value_range out"),
        (np.zeros((2, 3, 8, 3), np.uint8), {}, r'\[N, C, H, W\] or \[N, H, W, C\]; say which: layout="NHWC" or layout="NCHW"'),
        (torch.zeros(2, 3, 8, 3), {}, "say which: layout"),
        (torch.zeros(2, 3, 8, 8), {"layout": "CHWN"}, "unknown layout 'CHWN'; choose one of NHWC, NCHW"),
        (np.zeros((1, 4, 4, 3)), {"value_range": (1, 0)}, "value_range must be"),
        (np.zeros((1, 4, 4, 3), np.int64), {}, "images has dtype int64, images must be uint8"),
        (np.zeros((4, 4, 3), np.uint8), {}, r"shape \[4, 4, 3\], which looks like a single image.*images\[None\]"),
        (np.zeros((0, 4, 4, 3), np.float32), {}, "holds no images"),
        ([], {}, "holds no images"),
        (Image.new("RGB", (4, 4)), {}, r"one PIL image; give a list of them: \[image\]"),
        ([Image.new("RGBA", (4, 4))], {}, r"images\[0\] has mode RGBA, .* lay it over a background"),
        ([Image.new("P", (4, 4))], {}, r'images\[0\] has mode P, .* convert it: image.convert\("RGB"\)'),
        ([Image.new("RGB", (4, 4)), Image.new("L", (4, 4))], {}, r"images\[1\] has mode L, the bundle takes 3"),
        ([Image.new("RGB", (4, 4)), Image.new("RGB", (4, 5))], {}, r"images\[1\] has 4x5 pixels, images\[0\] 4x4"),
        ([Image.new("RGB", (4, 4)), np.zeros((4, 4, 3))], {}, r"images\[1\] is of type ndarray"),
    ],
)  # fmt: skip
def test_what_is_not_settled_or_not_images_is_refused_in_one_line(images, options, message) -> None:
    with pytest.raises(jboost.BadInputError, match=message) as e:
        take(images, channels=3, **options)
    assert "\n" not in str(e.value)


def test_the_options_that_the_messages_name_help() -> None:
    x = np.linspace(-0.1, 1, 48).reshape(1, 4, 4, 3)
    assert take(x, channels=3, value_range=(0, 1)).images[0, 0, 0, 0] == 0
    assert take(x, channels=3, value_range=(-1, 1)).images[0, 0, 0, 0] == round(0.45 * 255)
    both = np.zeros((2, 3, 8, 3), np.uint8)
    assert take(both, channels=3, layout="NHWC").images.shape == (2, 3, 8, 3)
    assert take(both, channels=3, layout="NCHW").images.shape == (2, 8, 3, 3)
    turned = Image.new("L", (4, 6))
    turned.getexif()[0x0112] = 6
    with pytest.raises(jboost.BadInputError, match=r"rotated.*PIL\.ImageOps\.exif_transpose"):
        take([turned], channels=1)
    assert take([Image.new("L", (4, 6), 7)], channels=1).images.shape == (1, 6, 4, 1)


def test_what_a_message_says_of_a_picture_is_right() -> None:
    deep = Image.fromarray(np.full((4, 4), 257 * 7, np.uint16))
    clear = Image.new("RGBA", (4, 4), (10, 200, 30, 0))
    for picture, want in ((deep, 7), (clear, 255)):
        with pytest.raises(jboost.BadInputError) as e:
            take([picture], channels=3)
        expression = str(e.value).partition("PIL.")[2]
        made = eval(f"PIL.{expression}", {"PIL": PIL, "numpy": np, "image": picture})
        assert made.mode == "RGB"
        assert (np.asarray(made) == want).all()
