"""Batches for one process, read ahead of the model in threads."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from .augment import Augmentation
from .base import ImageData
from .order import Order


class Batch(NamedTuple):
    """Images float32 [B, C, H, W] in [0, 1] and labels int64 [B], in CPU memory."""

    images: torch.Tensor
    labels: torch.Tensor


def to_tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 [B, H, W, C] -> float32 [B, C, H, W] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float().div_(255)


class BatchReader:
    """One process's share of a set, in a given order.

    Process `rank` of `world` takes every `world`-th position, beginning at `rank`. So all processes together take the
    positions in order.

    Args:
        data: the set.
        order: the image at each position, as an index into `data`.
        batch_size: number of images in a batch of this process, B.
        rank: number of this process, from 0.
        world: number of processes.
        augmentation: random changes to the images, or None.
        ahead: number of batches to read ahead; memory holds this many.
        threads: number of batches to read at the same time.
    """

    def __init__(
        self,
        data: ImageData,
        order: Order,
        *,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        augmentation: Augmentation | None = None,
        ahead: int = 4,
        threads: int = 2,
    ):
        self.data, self.order, self.augmentation = data, order, augmentation
        self.batch_size, self.rank, self.world = batch_size, rank, world
        self.ahead, self.threads = ahead, threads

    def batches(self, start: int = 0) -> BatchStream:
        """Endless batches from the global position `start` on. Close the stream, or use it as a context manager."""
        return BatchStream(self, start)

    def read(self, start: int) -> Batch:
        """Read the batch at the global position `start`: positions start + rank + world * (0 .. B-1)."""
        positions = start + self.rank + self.world * np.arange(self.batch_size, dtype=np.int64)
        indices = self.order.at(positions)
        augmentation = self.augmentation
        if augmentation is not None and augmentation.resized_crop:
            originals = (self.data.original(int(i)) for i in indices)  # one at a time: they may be large
            images = augmentation.crop(originals, self.data.shape[1], positions)
        else:
            images = self.data.read(indices)
        if augmentation is not None:
            images = augmentation.apply(images, positions)
        return Batch(to_tensor(images), torch.from_numpy(self.data.labels[indices]))


class BatchStream:
    """An endless iterator of batches.

    Attributes:
        position: the global position of the next batch; the same for all processes. A resumed run starts there.

    Raises:
        BadInputError: from ``next``, if an image is damaged; the message names its file.
    """

    def __init__(self, reader: BatchReader, start: int):
        self.position = start
        self._reader = reader
        self._step = reader.batch_size * reader.world
        self._threads = ThreadPoolExecutor(reader.threads, thread_name_prefix="jboost-reader")
        self._pending: deque[Future[Batch]] = deque()
        self._next = start
        for _ in range(reader.ahead):
            self._submit()

    def _submit(self) -> None:
        self._pending.append(self._threads.submit(self._reader.read, self._next))
        self._next += self._step

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if not self._pending:
            raise StopIteration  # closed
        batch = self._pending[0].result()
        self._pending.popleft()
        self._submit()
        self.position += self._step
        return batch

    def close(self) -> None:
        """Stop reading ahead and wait for the threads. The position stays readable."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
