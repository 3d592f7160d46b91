"""Random crops and rotations of real images, against torchvision's."""

from __future__ import annotations

from pathlib import Path

import foreign_networks
import numpy as np
import pytest
import torch
from data_cases import save_npz, save_png
from PIL import Image

from jboost.engine.errors import BadInputError
from jboost.engine.method.noise import philox, split_seed
from jboost.trainer.data import Augmentation, BatchReader, EpochOrder, Subset, open_generated, open_real
from jboost.trainer.data.order import Stream
from jboost.trainer.data.resized_crop import Box, choose_box, resized, resized_crop, words_of
from jboost.trainer.data.rotation import angle, rotated

foreign_networks.declare_operators()
pytest.importorskip("torchvision")
from torchvision.transforms import (  # noqa: E402
    Compose,
    InterpolationMode,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
    Resize,
)
from torchvision.transforms import functional as F  # noqa: E402


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def torchvision_box(
    height: int, width: int, words: list[tuple[int, int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> Box:
    """RandomResizedCrop's own choice, where torch draws the given words."""
    tries = iter(words)
    ahead: list[int] = []
    places: list[int] = []

    def uniform(self: torch.Tensor, low: float, high: float) -> torch.Tensor:
        if not ahead:
            area, ratio, *rest = next(tries)
            ahead.extend([area, ratio])
            places[:] = rest
        return self.fill_(float(low) + (float(high) - float(low)) * (ahead.pop(0) / 2**32))

    def randint(low: int, high: int, size: tuple[int, ...]) -> torch.Tensor:
        return torch.tensor([low + places.pop(0) * (high - low) // 2**32])

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "uniform_", uniform)
        patch.setattr(torch, "randint", randint)
        crop = RandomResizedCrop(224)
        return Box(*crop.get_params(Image.new("RGB", (width, height)), list(crop.scale), list(crop.ratio)))


def test_boxes_are_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    later = 0
    for case in range(300):
        height, width = (int(v) for v in rng.integers(1, 600, 2))
        words = [words_of(case, position=2**40 + case)(attempt) for attempt in range(10)]
        box = choose_box(height, width, lambda attempt, words=words: words[attempt])
        assert box == torchvision_box(height, width, words, monkeypatch), (case, height, width)
        later += box != choose_box(height, width, lambda _, words=words: words[0])
        assert 0 <= box.top <= height - box.height
        assert 0 <= box.left <= width - box.width
    assert later > 30  # the first try often does not fit


@pytest.mark.parametrize(("height", "width"), [(40, 700), (700, 40), (50, 50), (3, 4)])
def test_after_ten_tries_comes_the_centre(height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    never = (2**32 - 1, 0 if height < width else 2**32 - 1, 5, 5)  # as large as the image, and of the other shape
    if 3 * width > 4 * height or 4 * width < 3 * height:
        assert choose_box(height, width, lambda _: never) == torchvision_box(height, width, [never] * 10, monkeypatch)
    high = (2**32 - 1, 2**32 - 1, 0, 0)
    assert choose_box(height, width, lambda _: high) == torchvision_box(height, width, [high] * 10, monkeypatch)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_torchvisions(channels: int) -> None:
    pixels = picture(37, 53, channels)
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    for box, side in ((Box(3, 5, 30, 22), 16), (Box(0, 0, 37, 53), 24), (Box(30, 40, 7, 9), 32)):
        theirs = np.asarray(F.resized_crop(image, *box, [side, side], InterpolationMode.BILINEAR, antialias=True))
        np.testing.assert_array_equal(resized_crop(pixels, box, side), theirs.reshape(side, side, channels))
    for word in (0, 2**31, 3 * 2**30, 2**32 - 1, 123456789):
        turn = RandomRotation(30)
        degrees = angle(30, word)
        assert -30 <= degrees < 30
        turn.get_params = lambda _, degrees=degrees: degrees
        np.testing.assert_array_equal(rotated(pixels, degrees), np.asarray(turn(image)).reshape(pixels.shape))


@pytest.mark.parametrize(("height", "width"), [(37, 53), (53, 37), (20, 20), (5, 99), (16, 40)])
def test_the_size_before_the_crop_is_torchvisions(height: int, width: int) -> None:
    for channels in (1, 3):
        pixels = picture(height, width, channels)
        image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        for side in (16, 47):
            theirs = np.asarray(Resize(side)(image))
            np.testing.assert_array_equal(resized(pixels, side).reshape(theirs.shape), theirs)


def test_a_strip_is_resized_in_its_middle_alone() -> None:
    """A pixel of height and 60,000 of width would be 256 times 15 million. The crop is the middle anyway."""
    strip = picture(2, 2000, seed=7)
    for image, wide in ((strip, True), (strip.transpose(1, 0, 2), False)):
        small = resized(image, 8)
        assert small.shape == ((8, 256, 3) if wide else (256, 8, 3))
        whole = np.asarray(Resize(8)(Image.fromarray(np.ascontiguousarray(image))))
        crops = [resized_crop(pixels, choose_box(*pixels.shape[:2], words_of(3, 4)), 6) for pixels in (small, whole)]
        np.testing.assert_array_equal(*crops)


def test_the_released_scripts_chain_is_torchvisions() -> None:
    """Resize, crop, horizontal flip, rotation within a half turn, vertical flip, with torchvision's draws set to ours."""
    ours = Augmentation(5, resized_crop=True, resize=20, flip=True, rotation=180.0, vertical_flip=True)
    seen = []
    for position in range(12):
        pixels, at = picture(30, 41, seed=position), np.array([position])
        box = choose_box(20, 27, words_of(5, position))
        # What each draw was, from the augmentation one change at a time; each change has random words of its own.
        probe = picture(9, 9, seed=99)[None]
        across = not (Augmentation(5, flip=True).apply(probe, at) == probe).all()
        down = not (Augmentation(5, flip=False, vertical_flip=True).apply(probe, at) == probe).all()
        word = philox((at, at * 0, np.int64(0), np.int64(Stream.AUGMENT)), split_seed(5))[3]
        degrees = angle(180.0, int(word[0]))
        seen.append((across, down, abs(degrees) > 90))
        crop, turn = RandomResizedCrop(16), RandomRotation(180)
        crop.get_params = lambda *_, box=box: tuple(box)
        turn.get_params = lambda *_, degrees=degrees: degrees
        chain = Compose([Resize(20), crop, RandomHorizontalFlip(float(across)), turn, RandomVerticalFlip(float(down))])
        theirs = np.asarray(chain(Image.fromarray(pixels)))
        np.testing.assert_array_equal(ours.apply(ours.crop([pixels], 16, at), at)[0], theirs)
    assert {pair[:2] for pair in seen} == {(a, b) for a in (False, True) for b in (False, True)}
    assert {pair[2] for pair in seen} == {False, True}


def test_a_batch_is_cropped_mirrored_and_rotated_by_position_alone() -> None:
    augmentation = Augmentation(9, resized_crop=True, resize=14, flip=True, rotation=15.0, vertical_flip=True)
    originals = [picture(20 + i, 30 - i, seed=i) for i in range(8)]
    positions = np.array([5, 2**35, 6, 7, 8, 9, 10, 11])
    whole = augmentation.apply(augmentation.crop(originals, 12, positions), positions)
    assert whole.shape == (8, 12, 12, 3)
    for i in range(8):
        part = positions[i : i + 1]
        np.testing.assert_array_equal(
            augmentation.apply(augmentation.crop(originals[i : i + 1], 12, part), part), whole[i : i + 1]
        )
    same = augmentation.crop([originals[0]] * 50, 12, np.arange(50))
    assert len(np.unique(same.reshape(50, -1), axis=0)) == 50
    assert (augmentation.crop([originals[0]] * 50, 12, np.arange(50)) == same).all()
    turned = Augmentation(9, flip=False, rotation=15.0).apply(same, np.arange(50))
    assert (turned[:, 0, 0] == 0).all(1).mean() > 0.3  # black corners


def test_crops_come_from_the_image_as_its_file_has_it(tmp_path: Path) -> None:
    """... not from the resized square: a crop of the whole of a wide image shows both its ends."""
    wide = picture(16, 48, seed=3)
    tall, square = wide.transpose(1, 0, 2).copy(), picture(16, 16, seed=4)
    for name, image in (("a/0.png", wide), ("b/0.png", tall), ("b/1.png", square)):
        save_png(tmp_path / "set" / name, image)
    data = open_real(tmp_path / "set", resolution=8, channels=3)
    for i, image in enumerate((wide, tall, square)):
        np.testing.assert_array_equal(data.original(i), image)
    np.testing.assert_array_equal(Subset(data, np.array([2, 0])).original(1), wide)
    reader = BatchReader(
        data, EpochOrder(3, 1), batch_size=6, augmentation=Augmentation(1, resized_crop=True, flip=False)
    )
    batch = reader.read(30)
    order = EpochOrder(3, 1).at(np.arange(30, 36))
    for row, (i, position) in enumerate(zip(order, range(30, 36), strict=True)):
        image = (wide, tall, square)[i]
        box = choose_box(*image.shape[:2], words_of(1, position))
        expected = resized_crop(image, box, 8)
        np.testing.assert_array_equal((batch.images[row] * 255).round().permute(1, 2, 0).numpy(), expected)
    halves = [
        BatchReader(
            data, EpochOrder(3, 1), batch_size=3, rank=rank, world=2, augmentation=reader.augmentation
        ).read(30).images
        for rank in (0, 1)
    ]  # fmt: skip
    assert torch.equal(torch.stack(halves, 1).flatten(0, 1), batch.images)


def test_arrays_are_cropped_at_their_own_size_and_in_the_channels_asked_for(tmp_path: Path) -> None:
    pixels, labels = np.stack([picture(6, 10, 1, seed=i) for i in range(4)]), np.arange(4) % 2
    data = open_real(save_npz(tmp_path / "a.npz", pixels, labels), resolution=4, channels=3)
    np.testing.assert_array_equal(data.original(3), pixels[3].repeat(3, 2))
    mixed = open_generated([data.path, data.path], None, num_classes=2, resolution=None, channels=None)
    np.testing.assert_array_equal(mixed.original(5), pixels[1])


def test_a_set_that_gives_one_size_only_is_refused(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import io

    import pyarrow as pa

    buffer = io.BytesIO()
    Image.fromarray(picture(9, 12)).save(buffer, "PNG")
    rows = {"image": [{"bytes": buffer.getvalue(), "path": f"{i}.png"} for i in range(2)], "label": [0, 1]}
    parquet.write_table(pa.table(rows), tmp_path / "set.parquet")
    data = open_real(tmp_path / "set.parquet", resolution=8, channels=3)
    with pytest.raises(BadInputError, match=r"set\.parquet gives images at one size only.*leave out --real-crop"):
        data.original(0)
