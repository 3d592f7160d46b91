"""Which class each image of a folder or archive belongs to: from ``dataset.json``, or from folders that show it.

A folder's name is a class only where something shows it:

- ``dataset.json`` in the format of StyleGAN and EDM (``{"labels": [[path, class], ...]}``) comes first; ``null`` in place of
  the list says that there are no classes, whatever the folders are called.
- Folders around everything (``train/`` alone) are passed over.
- Two or more folders side by side name classes: by number if all are numbers, else by name, in sorted order.
- Folders of shards, as EDM writes them, are none: ``00000/img00000000.png`` and ``001000/001000.png``.
- A folder alone is none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jboost.engine.errors import BadInputError
from jboost.engine.system.typed import as_int, as_list, as_mapping, as_text, load_json

from .base import labels_of_numbers
from .options import ClassFolders

Labels = np.ndarray[Any, np.dtype[np.int64]]
DATASET_JSON = "dataset.json"
_MOST_LABELS = 100_000_000
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test"})
# EDM's dataset_tool.py, and generate.py --subdirs of EDM and EDM2: a thousand images to a folder, numbered through.
_SHARDS = (re.compile(r"(\d{5})/img\1\d{3}\.[a-z]+"), re.compile(r"(\d{3,})000/\1\d{3}\.[a-z]+"))


@dataclass(frozen=True)
class Classes:
    """The classes of a set.

    Attributes:
        labels: int64 [N], or None.
        names: the folders' names, sorted, if they are not numbers; `labels` index into them.
        source: where the labels come from, or why there are none.
        empty: folders beside the class folders that hold nothing.
    """

    labels: Labels | None
    names: tuple[str, ...] | None
    source: str
    empty: tuple[str, ...] = ()


def find_classes(
    where: str,
    images: Sequence[str],
    folders: Collection[str],
    dataset: tuple[str, bytes] | None,
    choice: ClassFolders | None = None,
) -> Classes:
    """The classes of a set's images.

    Args:
        where: the folder or archive, for messages.
        images: their names, with forward slashes.
        folders: the names of all folders that hold images or nothing.
        dataset: name and contents of a ``dataset.json``, if there is one.
        choice: which folders name the classes, where the user says so.

    Raises:
        BadInputError: ``dataset.json`` does not label every image, or two readings are possible.
    """
    if dataset is not None:
        given = _from_dataset(where, images, *dataset)
        if given is not None:
            return given
    if choice == "none":
        return Classes(None, None, "none: --class-folders none")
    return _from_folders(where, images, folders, choice)


def _from_folders(where: str, images: Sequence[str], folders: Collection[str], choice: ClassFolders | None) -> Classes:
    base = common_folder(images, folders)
    if choice is not None and base and not any("/" in name for name in _below(images, base)):
        base = base.rpartition("/")[0]  # the user says that the lone folder is a class
    inside = _below(images, base)
    tops = [name.split("/")[0] if "/" in name else "" for name in inside]
    lasts = [name.split("/")[-2] if "/" in name else "" for name in inside]
    if not any(tops):
        alone = base.rpartition("/")[2]
        why = f"a single folder ({alone}) is no evidence of a class" if alone else "no folders and no dataset.json"
        return Classes(None, None, f"none: {why}")
    if not all(tops):
        stray = next(name for name, top in zip(images, tops, strict=True) if not top)
        raise BadInputError(
            f"{where} has images both in class folders and beside them ({stray}); put all into folders, or none, or say that "
            "the folders are no classes: --class-folders none"
        )
    if choice is None:
        _check_one_reading(where, base, inside, tops, lasts)
        if any(all(shard.fullmatch(name.lower()) for name in inside) for shard in _SHARDS):
            return Classes(None, None, "none: the folders number the images a thousand at a time (EDM's layout)")
    named = lasts if choice == "last" else tops
    beside = {name.split("/")[0] for name in _below(folders, base)} if choice != "last" else set()
    empty = sorted(beside - set(named) - {""})
    if (
        choice is None
        and len({*named, *empty}) > 1 == len({*named, *filter(_is_number, empty)})
        and _is_number(named[0])
    ):
        return Classes(None, None, f"none: a single numbered folder ({named[0]}) is no evidence of a class")
    return _of_folders(where, named, empty)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()


def _of_folders(where: str, named: Sequence[str], empty: Sequence[str]) -> Classes:
    found = sorted(set(named))
    if all(map(_is_number, found)):
        labels = labels_of_numbers(f"{where}: folder names", [int(name) for name in named])
        numbers = sorted(set(labels.tolist()))
        return Classes(labels, None, f"the folders {_some(list(map(str, numbers)))}", tuple(empty))
    names = tuple(found)
    index = {name: i for i, name in enumerate(names)}
    labels = np.array([index[name] for name in named], np.int64)
    return Classes(labels, names, f"the folders {_some(names)}", tuple(empty))


def _check_one_reading(where: str, base: str, inside: Sequence[str], tops: Sequence[str], lasts: Sequence[str]) -> None:
    """Check that only one reading of the folders is likely."""
    kinds = sorted(set(tops))
    at = f"{where}/{base}" if base else where
    if set(kinds) <= _SPLITS:
        split = next((name for name in kinds if name.startswith("train")), kinds[0])
        raise BadInputError(
            f"{at} holds {_some(kinds)}, which look like splits, not classes; give one of them, such as {at}/{split}, or say "
            "that they are classes: --class-folders top"
        )
    if all(name.count("/") > 1 for name in inside) and len(set(lasts)) > 1 and not _numbered_below(inside):
        raise BadInputError(
            f"{at} holds folders in folders ({tops[0]}/{lasts[0]}), and either may be the classes; say which: "
            "--class-folders top (as torchvision's ImageFolder), last or none"
        )


def _numbered_below(inside: Sequence[str]) -> bool:
    """Whether the folders below the class folders are shards of numbered images."""
    return any(all(shard.fullmatch(name.split("/", 1)[1].lower()) for name in inside) for shard in _SHARDS)


def common_folder(images: Sequence[str], folders: Collection[str]) -> str:
    """The deepest folder that holds all images and has no other folder beside it or above it; ``""`` for none."""
    base = ""
    while True:
        tops = {name.split("/")[0] if "/" in name else "" for name in _below(images, base)}
        tops |= {name.split("/")[0] for name in _below(folders, base)}
        if len(tops) != 1 or "" in tops:
            return base
        base = f"{base}/{tops.pop()}".removeprefix("/")


def _below(names: Collection[str], base: str) -> list[str]:
    return [name[len(base) + 1 :] for name in names if name.startswith(f"{base}/")] if base else list(names)


def _from_dataset(where: str, images: Sequence[str], name: str, text: bytes) -> Classes | None:
    prefix = name.removesuffix(DATASET_JSON)
    try:
        content = as_mapping(load_json(text), "it", most=_MOST_LABELS)
        if "labels" not in content:
            return None
        if content["labels"] is None:
            return Classes(None, None, f'none: {name} says "labels": null')
        by_name = _pairs(content["labels"])
        missing = next((image for image in images if image.removeprefix(prefix) not in by_name), None)
        if missing is not None:
            raise BadInputError(f"it has no label for {missing}")
        labels = labels_of_numbers(DATASET_JSON, [by_name[image.removeprefix(prefix)] for image in images])
    except BadInputError as e:
        raise BadInputError(
            f'{where}/{name} does not label every image: {e}; write it as {{"labels": [["a.png", 3], ...]}}'
        ) from e
    return Classes(labels, None, name)


def _pairs(pairs: object) -> dict[str, int]:
    """The class of each name in a ``dataset.json``."""
    by_name: dict[str, int] = {}
    for i, pair in enumerate(as_list(pairs, "labels", most=_MOST_LABELS)):
        pair = as_list(pair, f"labels[{i}]", most=2)
        if len(pair) != 2:
            raise BadInputError(f"labels[{i}] must be a name and a class")
        name, label = as_text(pair[0], f"labels[{i}][0]"), as_int(pair[1], f"labels[{i}][1]")
        if by_name.setdefault(name.replace("\\", "/"), label) != label:
            raise BadInputError(f"{name} has two labels")
    return by_name


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 5 else f"{names[0]}, {names[1]}, ..., {names[-1]}"
