"""Progress of a run over shards: a line for each, and a bar."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

from .terminal import console, is_terminal

if TYPE_CHECKING:
    from jboost.engine.shards.plan import Shard


class ShardProgress:
    """A line for each shard, and a bar in a terminal: shards, images/s over all workers, time left."""

    def __init__(self, total: int):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.notes, self._total = console(stderr=True), total
        columns = (
            TextColumn("shards"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
        )  # fmt: skip
        self.bar = Progress(*columns, console=self.notes, transient=True, disable=not is_terminal(sys.stderr))
        self._task = self.bar.add_task("shards", total=total, rate="")
        self._start, self._shards, self._images = perf_counter(), 0, 0

    def begin(self, before: int) -> None:
        """Count the time from now on; `before` shards are done."""
        self._start, self._shards = perf_counter(), before
        self.bar.reset(self._task, total=self._total, completed=before, rate="")

    def say_before(self, before: int) -> None:
        """Say how many shards were done before."""
        if before:
            self.notes.print(f"{before:,} of {self._total:,} shards were done before", style="dim")

    def say(self, text: str) -> None:
        """Print a remark above the bar."""
        self.notes.print(text, style="dim")

    def on_shard(self, shard: Shard, images: int, error: str | None) -> None:
        """Count a shard and print its line."""
        self._shards += 1
        self._images += images
        rate = f"{self._images / max(perf_counter() - self._start, 1e-9):.1f} images/s"
        if error is None:
            self.say(f"{shard.name}: {images:,} images, {rate} ({self._shards:,} of {self._total:,})")
        else:
            self.notes.print(f"{shard.name}: {error}")
        self.bar.update(self._task, advance=1, rate=rate)


@contextmanager
def shard_progress(total: int) -> Iterator[ShardProgress]:
    """The progress of `total` shards, shown while the block lasts."""
    progress = ShardProgress(total)
    with progress.bar:
        yield progress
