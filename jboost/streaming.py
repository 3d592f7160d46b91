"""`boost_iter`: an iterator of chunks in, an iterator of boosted images out, with the slots full across chunks."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np

from jboost.conversion import Given, Range, class_labels, image_numbers, is_float, is_one_image, take
from jboost.engine.bundle import BundleConfig
from jboost.engine.errors import BadInputError
from jboost.engine.loop.runner import Runner
from jboost.engine.loop.stream import grouped, run_stream
from jboost.engine.method.labels import GIVEN, labels_used
from jboost.engine.method.settings import Settings
from jboost.engine.results.moved import MovedTally
from jboost.engine.samples import check_fit, check_labels

Numpy = np.ndarray[Any, Any]

_log = logging.getLogger("jboost")


class _Chunk:
    """A chunk of the stream until its last image has left."""

    def __init__(self, given: Given, start: int):
        self.given, self.start, self.left = given, start, len(given.images)


class Source:
    """The caller's chunks as uint8 arrays; remembers each one's kind until its images have left.

    Args:
        chunks: see `jboost.boost_iter`.
        config: the bundle's configuration, which the images must fit.
        value_range: the range of float images; None: told by the first chunk, and the same from there on.
        layout: see `jboost.conversion.take`.
        labels: ``"given"``, ``"predicted"`` or None; see `Booster.boost_iter`.
    """

    def __init__(
        self,
        chunks: Iterable[Any],
        config: BundleConfig,
        value_range: Range | None,
        layout: str | None,
        labels: str | None = None,
    ):
        self._choice = labels
        self._chunks, self._config, self._range, self._layout = chunks, config, value_range, layout
        self._alive: list[_Chunk] = []
        self._read = 0
        self._shape: tuple[int, ...] | None = None
        self._told: Range | None = None
        self._said: set[str] = set()

    def __iter__(self) -> Iterator[tuple[Numpy, Numpy | None]]:
        """(images uint8 [n, H, W, C], classes int64 [n] or None) of each chunk; empty chunks are passed over."""
        for number, chunk in enumerate(self._chunks):
            images, labels = chunk if isinstance(chunk, tuple) and len(chunk) == 2 else (chunk, None)
            if is_one_image(images):
                images = [images] if not hasattr(images, "ndim") else images[None]
                labels = None if labels is None else np.reshape(class_labels(labels), -1)
            if hasattr(images, "__len__") and len(images) == 0:
                continue
            try:
                yield self._taken(images, labels)
            except BadInputError as e:
                raise BadInputError(f"chunk {number} of the stream: {e}") from e

    def _taken(self, images: Any, labels: Any) -> tuple[Numpy, Numpy | None]:
        config = self._config
        given = take(images, channels=config.in_channels, value_range=self._range_for(images), layout=self._layout)
        shape = given.images.shape
        y = None if labels is None else check_labels("labels", class_labels(labels), len(given.images))
        check_fit(
            y, shape, num_classes=config.num_classes, in_channels=config.in_channels, resolutions=config.resolutions
        )  # fmt: skip
        if shape[1:] != (self._shape or shape[1:]):
            raise BadInputError(
                "its images have another size than the earlier ones; use one size, or a stream for each"
            )
        self._shape = shape[1:]
        self._settle(given)
        self._alive.append(_Chunk(given, self._read))
        self._read += len(given.images)
        return given.images, y if labels_used(self._choice, y is not None, "it") == GIVEN else None

    def _range_for(self, images: Any) -> Range | None:
        if self._range is not None or self._told != (-1.0, 1.0):
            return self._range
        return self._told if is_float(images) else None  # a bright chunk may have no negative value

    def _settle(self, given: Given) -> None:
        """Keep to one range for the whole stream, and log what was assumed, once."""
        if given.value_range is not None:
            if given.value_range != (self._told or given.value_range):
                raise BadInputError(
                    "its values are of [-1, 1], but earlier ones had none below 0 and were taken for [0, 1]; say which: "
                    "value_range=(-1, 1) or value_range=(0, 1)"
                )
            self._told = given.value_range
        for note in given.notes:
            what = note.split()[-1]  # the same remark on other numbers need not be made again
            if what not in self._said:
                self._said.add(what)
                _log.info("%s", note)

    def back(self, index: int, image: Numpy) -> Any:
        """The result at `index`, uint8 [H, W, C], in the kind of its chunk. Called once for each."""
        at = bisect_right(self._alive, index, key=lambda chunk: chunk.start) - 1
        chunk = self._alive[at]
        made = chunk.given.back_one(index - chunk.start, image)
        chunk.left -= 1
        if not chunk.left:
            del self._alive[at]
        return made


def _checked(numbers: Iterable[int]) -> Iterator[int]:
    """The numbers of the stream's images.

    Raises:
        BadInputError: a number cannot be used, or there are fewer than images.
    """
    at = -1
    for at, number in enumerate(numbers):
        yield int(image_numbers([number], 1, first=at)[0])
    raise BadInputError(
        f"numbers ended after {at + 1}, but the stream has more images; give one for each, such as itertools.count()"
    )


def boosted_stream(
    source: Source,
    settings: Settings,
    open_runner: Callable[[int], Runner],
    batch_of: Callable[[Runner], int],
    *,
    ordered: bool,
    numbers: Iterable[int] | None = None,
) -> Generator[Any, None, None]:
    """Boost a stream; see `jboost.boost_iter`.

    Args:
        source: the caller's chunks.
        settings: the update, early stopping and the seed.
        open_runner: opens the engine for an image size.
        batch_of: the number of slots of a runner.
        ordered: yield images in the stream's order; else (position, image) as they finish.
        numbers: of the images, one after another; None for positions.

    Returns:
        An iterator that opens the engine when it is first asked.
    """
    chunks = iter(source)
    first = next(chunks, None)
    if first is None:
        return
    _, height, width, channels = first[0].shape
    runner = open_runner(height)
    runner.check_update(settings.update.kind)
    size = batch_of(runner)
    groups = grouped(chain([first], chunks), size)
    beginning = next(groups)
    if runner.batch_size is None:  # a short stream needs no more slots than images, like a set of that size
        size = min(size, len(beginning.images))
    failed, tally = 0, MovedTally(settings)
    results = run_stream(
        runner, chain([beginning], groups), settings, shape=(height, width, channels), batch_size=size, ordered=ordered,
        numbers=None if numbers is None else _checked(numbers),
    )  # fmt: skip
    for result in results:
        failed += result.failed
        tally.add(result.moved, steps=result.steps, stopped=result.stopped, failed=result.failed)
        image = source.back(result.position, result.image)
        yield image if ordered else (result.position, image)
    if failed:
        _log.warning("%d images came back unchanged: their gradient was not finite", failed)
    tally.warn(height * width * channels)
