"""WebDataset shards: a tar in which files of one sample stand together, ``KEY.jpg``, ``KEY.cls``, ``KEY.json``.

A key is a path up to the first dot of its last part, as the webdataset library has it, and the rest is the file's kind. Images
come in the tar's order. A tar without such samples is a plain archive of images.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from jboost.engine.errors import BadInputError, printable
from jboost.engine.system.typed import as_int, as_mapping, load_json

from .archives import Tar
from .base import labels_of_numbers
from .classes import find_classes
from .encode import encode, singly
from .encoded import decoded, measure
from .identity import file_contents
from .keys import NONE, chosen, some
from .naming import suffix_of, written_names
from .options import AS_IT_IS, ReadOptions

Sample = dict[str, str]
Labels = np.ndarray[Any, np.dtype[np.int64]]
#: Kinds of files that are images.
IMAGES = ("png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp")
_CLASS, _JSON, _FIELD = "cls", "json", "label"
_NAME = re.compile(r"^((?:.*/|)[^./]+)[.]([^/]*)$")
_META = re.compile(r"__[^/]*__($|/)")
#: The most bytes of a file that holds a label.
_LABEL_LIMIT = 1 << 20


def split_name(name: str) -> tuple[str, str] | None:
    """A file's key and kind; None if it belongs to no sample."""
    parts = _NAME.match(name)
    return None if parts is None or _META.match(name) else (parts[1], parts[2].lower())


def is_shard(names: Iterable[str]) -> bool:
    """Whether a tar is a shard, by its names in order: it has a ``.cls`` file, or an image with a companion under its key."""
    last, kinds = None, set[str]()
    for parts in map(split_name, names):
        if parts is None:
            continue
        if parts[0] != last:
            last, kinds = parts[0], set()
        kinds.add(parts[1])
        if _CLASS in kinds or (len(kinds) > 1 and kinds & {*IMAGES}):
            return True
    return False


class ShardSamples:
    """A WebDataset shard as a `SampleSet`.

    Args:
        path: the file.
        options: how to read it. `images_key` is a kind of file, `labels_key` one, or an entry of the JSON files.
        archive: the opened file, if it is; its names are in the tar's order.

    Attributes:
        names: the images' names in the tar.
        archive: all files.

    Raises:
        BadInputError: the tar is damaged; an image is unreadable or of another size; a sample has several images, or no label
            while others have one; or a label is no class number.
    """

    kind = "webdataset"

    def __init__(self, path: Path, options: ReadOptions = AS_IT_IS, archive: Tar | None = None):
        self.path, self._options = path, options
        self.archive = archive or Tar(path)
        samples = self._samples()
        kinds = list(dict.fromkeys(kind for _, sample in samples for kind in sample))
        images = [kind for kind in kinds if kind.rpartition(".")[2] in IMAGES]
        usual = [kind for kind in images if kind in IMAGES] or images
        self.names: list[str] = []
        with_image: list[tuple[str, Sample]] = []
        beside: list[str] = []
        for key, sample in samples:
            kind = chosen(path, "images", options, [k for k in sample if k in usual], kinds)
            others = [sample[k] for k in sample if k in images and k != kind]
            beside += others
            if kind in sample:
                self.names.append(sample[str(kind)])
                with_image.append((key, sample))
            elif others:
                raise BadInputError(
                    f"{path} has the image {others[0]}, but {kind or some(usual)} in other samples; "
                    + (
                        "--images-key chooses a kind of file that every sample has"
                        if options.keys_are_flags
                        else "keep one kind"
                    )
                )
        shape, self._decoding, notes = measure(path, ((name, self.archive.read(name)) for name in self.names), options)
        self.shape: tuple[int, int, int, int] = (len(self.names), *shape)
        if left := len(samples) - len(with_image):
            notes += (f"{left:,} samples without an image are kept as they are",)
        if beside:
            notes += (f"{len(beside):,} other images are kept as they are (first: {beside[0]})",)
        self.notes: tuple[str, ...] = (*self.archive.notes, *notes)
        self.label_names: tuple[str, ...] | None = None
        self.labels, self.label_source = self._read_labels(with_image, kinds)

    def _samples(self) -> list[tuple[str, Sample]]:
        """Key, and names by kind, of each sample in order."""
        found: dict[str, Sample] = {}
        last = None
        for name in self.archive.sizes:
            parts = split_name(name)
            if parts is None:
                continue
            key, kind = parts
            if key in found and (key != last or kind in found[key]):
                raise BadInputError(
                    f"{self.path}: the files of {key} do not stand together; unpack it into an empty FOLDER and write it again "
                    "with: tar --sort=name -cf NEW.tar -C FOLDER ."
                )
            found.setdefault(key, {})[kind] = name
            last = key
        return list(found.items())

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the file. It reads all of it, so it is made only when it is asked for."""
        return self._options.apply_to(file_contents(self.path))

    def read(self, indices: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Images uint8 [len(indices), H, W, C] at `indices`, in any order."""
        files = ((self.names[int(i)], self.archive.read(self.names[int(i)])) for i in indices)
        return decoded(self.path, files, len(indices), self.shape[1:], self._decoding)

    def _read_labels(self, samples: list[tuple[str, Sample]], kinds: list[str]) -> tuple[Labels | None, str]:
        key = self._options.labels_key
        if key == NONE:
            return None, "none: --labels-key none"
        field = _FIELD
        if key is not None and key not in kinds:  # an entry of the JSON files
            if _JSON not in kinds:
                chosen(self.path, "labels", self._options, [], kinds)
            field, kind = key, _JSON
        else:
            kind = key or (_CLASS if _CLASS in kinds else _JSON)
        found = [self._label(sample[kind], kind, field) if kind in sample else None for _, sample in samples]
        missing = [name for (name, _), label in zip(samples, found, strict=True) if label is None]
        where = f"{kind} files" if kind != _JSON else f"{field!r} in json files"
        if len(missing) == len(samples):
            if key is not None:
                raise BadInputError(f"{self.path} has no label in {where}; leave --labels-key out")
            classes = find_classes(str(self.path), self.names, self.archive.folders, None, self._options.class_folders)
            self.label_names = classes.names
            return classes.labels, classes.source
        if missing:
            raise BadInputError(
                f"{self.path}: {len(missing):,} of {len(samples):,} samples have no label in {where} (first: {missing[0]}); give "
                f"each one{self._options.or_no_labels}"
            )
        return labels_of_numbers(f"{self.path}: {where}", [n for n in found if n is not None]), where

    def _label(self, name: str, kind: str, field: str) -> int | None:
        if self.archive.sizes[name] > _LABEL_LIMIT:
            raise BadInputError(f"{self.path}: {name} has {self.archive.sizes[name]:,} bytes, too many for a label")
        data = self.archive.read(name)
        if kind == _JSON:
            try:
                value = as_mapping(load_json(data, allow_nan=True), "it").get(field)
                return None if value is None else as_int(value, field)
            except BadInputError as e:
                raise BadInputError(f"{self.path}: {name} holds no label: {e}; write it as {{{field!r}: 3}}") from e
        text = data[:40].decode("ascii", "replace").strip()
        if not text.isdecimal() or len(data) > 40:
            raise BadInputError(
                f"{self.path}: {name} holds {printable(text)!r}, which is no class number; write each sample's class as a number "
                f"from 0{self._options.or_no_labels}"
            )
        return int(text)


def write_shard(
    out: IO[bytes],
    batches: Iterator[np.ndarray[Any, Any]],
    names: Sequence[str],
    *,
    lossy: bool,
    labels: np.ndarray[Any, Any] | None = None,
    source: ShardSamples | None = None,
) -> None:
    """Write a WebDataset shard.

    Args:
        out: binary file, open for writing.
        batches: uint8 [n, H, W, C].
        names: the images' names in the output, see `shard_names`; unused if `source` is given.
        lossy: whether JPEGs stay JPEGs.
        labels: int64 [N] for ``.cls`` files; unused if `source` is given.
        source: a shard whose names, order and other files the output takes over.
    """
    images = singly(batches)
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:

        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)  # of no time and no owner: the same images give the same bytes
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))

        if source is None:
            for i, (name, image) in enumerate(zip(names, images, strict=True)):
                add(name, encode(image, suffix_of(name)))
                if labels is not None:
                    add(f"{name[: -len(suffix_of(name))]}.{_CLASS}", str(int(labels[i])).encode())
            return
        renamed = dict(zip(source.names, written_names(source, lossy=lossy) or (), strict=True))
        for name in source.archive.sizes:
            new = renamed.get(name)
            add(new or name, source.archive.read(name) if new is None else encode(next(images), suffix_of(new)))


def shard_names(names: Sequence[str] | None, count: int) -> list[str]:
    """`names` if each gives a sample of its own in a shard, else numbers: a dot in a stem would end the key."""
    keys: set[str] = set()
    for name in names or ():
        parts = split_name(name)
        if parts is None or f".{parts[1]}" != suffix_of(name) or parts[0] in keys:
            break
        keys.add(parts[0])
    width = max(6, len(str(count - 1)))
    return list(names) if names and len(keys) == count else [f"{i:0{width}d}.png" for i in range(count)]
