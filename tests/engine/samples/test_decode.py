"""The decoder of image files against arithmetic on what was put into them, torchvision's decoder, and Pillow's own functions."""

from __future__ import annotations

import io

import numpy as np
import pytest
from image_cases import chunk, png, saved
from PIL import Image, ImageOps

from jboost.engine.errors import BadInputError
from jboost.engine.samples.decode import decode, probe
from jboost.engine.samples.notes import Notes
from jboost.engine.samples.options import ReadOptions, parse_background
from jboost.engine.samples.resize import resize

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)
GREY = RNG.integers(0, 256, (6, 9, 1), np.uint8)
DEEP = RNG.integers(0, 65536, (6, 9, 4))
DEEP[0, 0] = 65535
DEEP[0, 1] = 0x80FF  # the high byte is 128, and 129 is nearer


def read(data: bytes, **options) -> tuple[np.ndarray, tuple[str, ...]]:
    notes, how = Notes(), ReadOptions(**options)
    pixels = decode(data, "a.png", how, notes)
    assert pixels.shape == probe(data, "a.png", how)
    assert pixels.dtype == np.uint8
    return pixels, notes.lines()


def scaled(values: np.ndarray) -> np.ndarray:
    return np.rint(values * 255 / 65535).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP"])
def test_plain_images_are_read_as_they_are_and_nothing_is_said(kind) -> None:
    pixels, said = read(saved(RGB, kind, **({"lossless": True} if kind == "WEBP" else {})))
    np.testing.assert_array_equal(pixels, RGB)
    assert said == ()
    if kind != "WEBP":
        np.testing.assert_array_equal(read(saved(GREY[..., 0], kind))[0], GREY)


def test_jpeg_is_decoded_as_libjpeg_does() -> None:
    data = saved(np.kron(RGB, np.ones((8, 8, 1), np.uint8)), "JPEG", quality=95)
    np.testing.assert_array_equal(read(data)[0], np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_scaled_and_rounded_not_cut(channels) -> None:
    values = DEEP[..., :channels]
    pixels, said = read(png(values, bits=16))
    np.testing.assert_array_equal(pixels, scaled(values))
    assert (pixels != values >> 8).any()
    assert said == ("1 image: 16 bits scaled to 8 bits (a.png)",)


@pytest.mark.parametrize("channels", [2, 4])
def test_16_bits_with_an_opaque_alpha_channel(channels) -> None:
    values = DEEP[..., :channels].copy()
    values[..., -1] = 65535
    pixels, said = read(png(values, bits=16))
    np.testing.assert_array_equal(pixels, scaled(values[..., :-1]))
    assert [line.split(": ")[1] for line in said] == [
        "16 bits scaled to 8 bits (a.png)",
        "opaque alpha channel dropped (a.png)",
    ]


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("bits", [8, 16])
def test_transparent_pixels_are_laid_over_the_background_and_refused_without_one(channels, bits) -> None:
    top = 2**bits - 1
    values = DEEP[..., :channels] % (top + 1)
    data = png(values, bits=bits)
    with pytest.raises(BadInputError, match="--background white"):
        read(data)
    pixels, said = read(data, background=(255, 255, 255))
    share = values[..., -1:] / top
    expected = np.rint(255 * (values[..., :-1] / top * share + 1 - share))
    np.testing.assert_array_equal(pixels, expected)
    assert said[-1] == "1 image: transparent pixels laid over #ffffff (a.png)"
    # A colour behind a grey image makes a colour image.
    assert read(data, background=(255, 0, 0))[0].shape[2] == 3


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_one_transparent_grey_value_at_every_depth(bits) -> None:
    values = np.arange(8)[None, :, None] % 2**bits
    data = png(values, bits=bits, before=chunk(b"tRNS", (1).to_bytes(2, "big")))
    pixels, _ = read(data, background=(9, 9, 9))
    expected = np.where(values == 1, 9, np.rint(values * 255 / (2**bits - 1)))
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("bits", [8, 16])
def test_one_transparent_colour(bits) -> None:
    values = DEEP[..., :3] % 2**bits
    marked = values[2, 3]
    data = png(values, bits=bits, before=chunk(b"tRNS", marked.astype(">u2").tobytes()))
    with pytest.raises(BadInputError, match="transparent"):
        read(data)
    pixels, _ = read(data, background=(1, 2, 3))
    assert pixels[2, 3].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(pixels[0], np.rint(values[0] * 255 / (2**bits - 1)))


def test_palettes() -> None:
    palette = RNG.integers(0, 256, (4, 3), np.uint8)
    index = RNG.integers(0, 4, (6, 9, 1))
    table = chunk(b"PLTE", palette.tobytes())
    for bits in (2, 8):
        pixels, said = read(png(index, bits=bits, kind=3, before=table))
        np.testing.assert_array_equal(pixels, palette[index[..., 0]])
        assert said == ("1 image: palette converted to RGB (a.png)",)
    see_through = png(index, bits=2, kind=3, before=table + chunk(b"tRNS", bytes([255, 128, 0])))
    with pytest.raises(BadInputError, match="transparent"):
        read(see_through)
    alpha = np.array([255, 128, 0, 255])[index] / 255
    expected = np.rint(palette[index[..., 0]] * alpha + 255 * (1 - alpha))
    np.testing.assert_array_equal(read(see_through, background=(255, 255, 255))[0], expected)
    grey = chunk(b"PLTE", palette[:, :1].repeat(3, 1).tobytes())
    np.testing.assert_array_equal(
        read(png(index, bits=2, kind=3, before=grey), channels=1)[0], palette[index[..., 0], :1]
    )


def test_one_bit() -> None:
    values = RNG.integers(0, 2, (6, 9, 1))
    pixels, said = read(png(values, bits=1))
    np.testing.assert_array_equal(pixels, values * 255)
    assert "1 bit" in said[0]


def test_webps_transparency() -> None:
    clear = np.concatenate([RGB, GREY], -1)
    expected = np.rint(RGB * (GREY / 255.0) + 255 * (1 - GREY / 255.0))
    data = saved(clear, "WEBP", lossless=True, exact=True)
    np.testing.assert_array_equal(read(data, background=(255, 255, 255))[0], expected)


@pytest.mark.parametrize("ycck", [False, True])
def test_cmyk_jpegs_have_adobes_inverted_values(ycck) -> None:
    ink = np.kron(RNG.integers(64, 192, (3, 4, 4), np.uint8), np.ones((8, 8, 1), np.uint8))
    data = saved(Image.frombytes("CMYK", (32, 24), ink.tobytes()), "JPEG", quality=100, subsampling=0)
    at = data.index(b"Adobe")
    assert data[at + 11] == 0  # Adobe's transform: none
    ink = ink.astype(float)
    if ycck:  # the same stored values, 255 - ink, declared to be YCCK
        data = data[: at + 11] + b"\x02" + data[at + 12 :]
        y, cb, cr = np.moveaxis(255 - ink[..., :3], -1, 0)
        colour = [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)]
        ink[..., :3] = np.clip(np.stack(colour, -1), 0, 255)
    pixels, said = read(data)
    assert said == ("1 image: CMYK converted to RGB, without its colour profile (a.png)",)
    assert np.abs(pixels - (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_rotation_is_applied_as_viewers_do(orientation, kind) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = saved(np.kron(RGB, np.ones((8, 8, 1), np.uint8)), kind, exif=exif, **lossless)
    pixels, said = read(data)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(pixels, np.asarray(ImageOps.exif_transpose(image)))
    assert said == (() if orientation == 1 else ("1 image: turned upright, as its EXIF data says (a.png)",))


def test_exif_behind_a_pngs_pixels_is_seen() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = png(RGB, after=chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    np.testing.assert_array_equal(read(data)[0], np.rot90(RGB, -1))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_passed_over() -> None:
    data = saved(RGB, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read(data)[0].shape == (6, 9, 3)


def test_grey_and_colour_for_models_of_the_other_kind() -> None:
    pixels, said = read(png(GREY), channels=3)
    np.testing.assert_array_equal(pixels, GREY.repeat(3, 2))
    assert said == ("1 image: grey repeated to RGB (a.png)",)
    pixels, said = read(png(GREY.repeat(3, 2)), channels=1)
    np.testing.assert_array_equal(pixels, GREY)
    assert "equal channels" in said[0]
    with pytest.raises(BadInputError, match=r"convert\('RGB'\)\.convert\('L'\)"):
        read(png(RGB), channels=1)
    # The remedy, followed: the image is read, and is what the luma is that training may ask for.
    remedied = saved(Image.open(io.BytesIO(png(RGB))).convert("RGB").convert("L"))
    luma, said = read(png(RGB), channels=1, luma=True)
    np.testing.assert_array_equal(read(remedied, channels=1)[0], luma)
    assert "luma" in said[0]
    assert np.abs(luma[..., 0] - RGB @ np.array([0.299, 0.587, 0.114])).max() <= 1


def test_several_frames_are_refused_and_a_phones_picture_pair_is_its_first() -> None:
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    for kind in ("PNG", "WEBP"):
        with pytest.raises(BadInputError, match=r"animated \(2 frames\)"):
            read(saved(frames[0], kind, save_all=True, append_images=frames[1:]))
    pair = saved(frames[0], "MPO", save_all=True, append_images=frames[1:])
    pixels, said = read(pair)
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(saved(frames[0], "JPEG")))))
    assert said == ("1 image: first picture of several taken (MPO) (a.png)",)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_truncated_files_are_refused_at_every_length(kind) -> None:
    whole = saved(np.kron(RGB, np.ones((4, 4, 1), np.uint8)), kind)
    for length in np.linspace(0, len(whole) * 0.9, 12).astype(int):
        with pytest.raises(BadInputError, match=r"^a\.png is not a readable image"):
            decode(whole[:length], "a.png", ReadOptions(), Notes())


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PPM", "ICO"])
def test_other_kinds_are_refused_whatever_their_name(kind) -> None:
    with pytest.raises(BadInputError, match="not a PNG, JPEG, WebP or BMP"):
        read(saved(RGB, kind))


def test_a_foreign_colour_profile_is_said() -> None:
    from PIL import ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert read(saved(RGB, icc_profile=srgb))[1] == ()
    other = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert "colour profile ignored" in read(saved(RGB, icc_profile=other))[1][0]


def center_crop_arr(pil_image, image_size):
    """guided-diffusion's function, word for word (MIT, OpenAI)."""
    while min(*pil_image.size) >= 2 * image_size:
        pil_image = pil_image.resize(tuple(x // 2 for x in pil_image.size), resample=Image.BOX)
    scale = image_size / min(*pil_image.size)
    pil_image = pil_image.resize(tuple(round(x * scale) for x in pil_image.size), resample=Image.BICUBIC)
    arr = np.array(pil_image)
    crop_y = (arr.shape[0] - image_size) // 2
    crop_x = (arr.shape[1] - image_size) // 2
    return arr[crop_y : crop_y + image_size, crop_x : crop_x + image_size]


@pytest.mark.parametrize("size", [(80, 37), (33, 33), (16, 50), (9, 12)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_is_adms(size, channels) -> None:
    image = RNG.integers(0, 256, (*size, channels), np.uint8)
    expected = center_crop_arr(Image.fromarray(image[..., 0] if channels == 1 else image), 16)
    pixels, said = read(png(image), resize=16)
    np.testing.assert_array_equal(pixels, expected.reshape(16, 16, channels))
    assert said == (
        "1 image: resized to 16x16 (as ADM's center_crop_arr: halved by averaging, then bicubic, then the centre) (a.png)",
    )
    assert resize(pixels, 16) is pixels


def test_backgrounds_by_name_and_number() -> None:
    assert parse_background("white") == (255, 255, 255)
    assert parse_background("#0a0b0c") == parse_background("0A0B0C") == (10, 11, 12)
    for bad in ("", "mauve", "#12345", "1,2,3"):
        with pytest.raises(BadInputError, match="#rrggbb"):
            parse_background(bad)
