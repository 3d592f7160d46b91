"""What was done to the images of a set while they were read: counted, and said in one line for each kind."""

from __future__ import annotations

from collections.abc import Iterable


class Notes:
    """Counts conversions that are alike.

    Example: after ``add("palette converted to RGB", "a/b.png")``, `lines` gives
    ``("1 image: palette converted to RGB (a/b.png)",)``.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._firsts: dict[str, str] = {}

    def add(self, sentence: str, name: str) -> None:
        """Count one image to which `sentence` applies."""
        self._counts[sentence] = self._counts.get(sentence, 0) + 1
        self._firsts.setdefault(sentence, name)

    def add_all(self, sentences: Iterable[str], name: str) -> None:
        """Count one image to which each of `sentences` applies."""
        for sentence in sentences:
            self.add(sentence, name)

    def lines(self) -> tuple[str, ...]:
        """One line for each sentence, in the order in which they were first added."""
        return tuple(
            f"{n:,} image{'s' if n > 1 else ''}: {sentence} ({'first: ' if n > 1 else ''}{self._firsts[sentence]})"
            for sentence, n in self._counts.items()
        )
