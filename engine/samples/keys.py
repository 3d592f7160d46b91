"""Which of a file's arrays or columns holds the images, and which the labels: by name, or a question, never a guess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jboost.engine.errors import BadInputError, printable

from .options import ReadOptions

#: The names that are recognised, with the labels' name beside each. `np.savez` gives the first pair.
PAIRS = {"arr_0": "arr_1", "images": "labels", "samples": "y", "x": "y"}
_LABELS = ("labels", "y")
#: What `--labels-key` takes for no labels.
NONE = "none"


class MissingKeyError(BadInputError):
    """A file has no array or column of the name that the user chose."""


def choose_arrays(
    path: Path, shapes: Mapping[str, tuple[int, ...]], options: ReadOptions, *, save: str
) -> tuple[str, str | None]:
    """The names of the images' and the labels' array; None for the labels if there are none.

    Args:
        path: the file, for messages.
        shapes: of each array that the file holds, by name.
        options: `images_key` and `labels_key` settle what the names leave open.
        save: how to save a file whose names are recognised, for messages.

    Raises:
        BadInputError: there is no such array, or there are several candidates; the message names them.
    """
    known = [name for name in PAIRS if name in shapes]
    if len(known) > 1:  # an array that cannot be images is something else
        known = [name for name in known if len(shapes[name]) == 4] or known
    images = chosen(path, "images", options, known, list(shapes))
    if images is None:
        likely = [name for name, shape in shapes.items() if len(shape) == 4]
        ask = (
            f"name its images with --images-key {printable(likely[0])}, or "
            if likely and options.keys_are_flags
            else ""
        )
        raise BadInputError(
            f"{path} has none of the arrays {', '.join(PAIRS)} (it has {some(shapes) or 'nothing'}); {ask}save it with: {save}"
        )
    beside = [PAIRS.get(images), *_LABELS]
    candidates = [name for name in shapes if name in beside and name != images]
    return images, chosen(path, "labels", options, candidates, list(shapes))


def chosen(path: Path, what: str, options: ReadOptions, candidates: Sequence[str], names: Sequence[str]) -> str | None:
    """The array or column of `what` ("images" or "labels"); None if there is none.

    Args:
        path: the file, for messages.
        what: what is looked for, which also names the option.
        options: the user's choice; for labels, "none" means that there are none.
        candidates: the names that are recognised.
        names: all names in the file.

    Raises:
        MissingKeyError: the choice is no name in the file.
        BadInputError: there are several candidates and no choice.
    """
    option = f"--{what}-key"
    key = options.images_key if what == "images" else options.labels_key
    if key is not None:
        if key in names:
            return key
        if what == "labels" and key == NONE:
            return None
        raise MissingKeyError(f"{path} has no {printable(key)} for {option} (it has {some(names) or 'nothing'})")
    if len(candidates) > 1:
        named = [printable(name) for name in candidates]
        raise BadInputError(
            f"{path} has several candidates for the {what} ({', '.join(named)}); "
            + (
                f"choose with {option} {named[0]}, for example"
                if options.keys_are_flags
                else "write it again with one of them"
            )
        )
    return candidates[0] if candidates else None


def some(names: Sequence[str] | Mapping[str, object]) -> str:
    """The first eight names, for a message."""
    shown = [printable(name[:60]) for name in list(names)[:8]]
    return ", ".join(shown) + (", ..." if len(names) > 8 else "")
