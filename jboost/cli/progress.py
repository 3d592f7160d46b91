"""Progress bars for work in several parts."""

from __future__ import annotations

import sys

from jboost.engine.errors import printable

from .terminal import console, is_terminal


class StageBar:
    """One bar over the stages of a command: how many are done, which one is under way, and the time so far.

    Args:
        lines: print each stage as a line that stays, instead of the bar. Without a terminal there is no bar either.
    """

    def __init__(self, *, lines: bool = False) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.console = console(stderr=True)
        self._bar = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=self.console,
            transient=True,
            disable=lines or not is_terminal(sys.stderr),
        )
        self._lines = lines
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> StageBar:
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def say(self, stage: str) -> None:
        """Show the stage that begins."""
        if self._lines:
            self.console.print(stage)
        self._bar.update(self._task, description=printable(stage))

    def move(self, done: int, total: int) -> None:
        """Show that `done` of `total` stages are finished."""
        self._bar.update(self._task, completed=done, total=total)


class Bars:
    """A progress bar for each part of the work; shown only if stderr is a terminal."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(),
            console=console(stderr=True),
            transient=True,
            disable=not is_terminal(sys.stderr),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def show(self, what: str, done: int, total: int) -> None:
        """Move the bar named `what` to `done` of `total`; the first call creates it."""
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(printable(what), total=total, rate="")
        task = self._tasks[what]
        speed = self._bar.tasks[task].speed
        unit = "images/s" if what.startswith("features") else "/s"
        self._bar.update(task, completed=done, rate="" if speed is None else f"{speed:.1f} {unit}")
