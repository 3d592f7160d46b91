"""WebDataset shards: a tar in which files of one sample stand together, ``KEY.jpg``, ``KEY.cls``, ``KEY.json``.

A key is a path up to the first dot of its last part, as the webdataset library has it, and the rest is the file's kind. Images
come in the tar's order. A tar without such samples is a plain archive of images.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from jboost.engine.errors import BadInputError, printable
from jboost.engine.system.typed import as_int, as_mapping, load_json

from .base import labels_of_numbers
from .encode import encode, output_names, singly, suffix_of
from .encoded import FILE_LIMIT, decoded, measure
from .identity import file_contents
from .keys import NONE, chosen, some
from .options import ReadOptions
from .tarball import DAMAGE, Member, tar_members

Sample = dict[str, Member]
#: Kinds of files that are images.
IMAGES = ("png", "jpg", "jpeg", "webp", "bmp")
_CLASS, _JSON, _FIELD = "cls", "json", "label"
_NAME = re.compile(r"^((?:.*/|)[^./]+)[.]([^/]*)$")
_HIDDEN = re.compile(r"(^|/)__[^/]*__($|/)|(^|/)\.")
_COPY = 1 << 20
#: The most bytes of a file that holds a label.
_LABEL_LIMIT = 1 << 20


def samples_of(path: Path, members: Sequence[Member]) -> list[tuple[str, Sample]]:
    """The samples of a shard in its order: key, and members by kind. Neighbours with one key are one sample.

    Raises:
        BadInputError: files of one key stand apart.
    """
    found: dict[str, Sample] = {}
    last = None
    for member in members:
        parts = _NAME.match(member.name)
        if parts is None or _HIDDEN.search(member.name):
            continue
        key, kind = parts[1], parts[2].lower()
        if key in found and (key != last or kind in found[key]):
            raise BadInputError(
                f"{path}: the files of {printable(key)} do not stand together; write the tar again with: tar --sort=name "
                "--create --file NEW.tar FOLDER"
            )
        found.setdefault(key, {})[kind] = member
        last = key
    return list(found.items())


def is_shard(members: Sequence[Member]) -> bool:
    """Whether a tar is a shard: it has a ``.cls`` file, or an image with a companion under its key."""
    last, kinds = None, set[str]()
    for member in members:
        parts = _NAME.match(member.name)
        if parts is None or _HIDDEN.search(member.name):
            continue
        if parts[1] != last:
            last, kinds = parts[1], set()
        kinds.add(parts[2].lower())
        if _CLASS in kinds or (len(kinds) > 1 and kinds & {*IMAGES}):
            return True
    return False


class ShardSamples:
    """A WebDataset shard as a `SampleSet`.

    Attributes:
        names: the images' names in the tar.
        members: all files, in the tar's order.

    Raises:
        BadInputError: the tar is damaged; an image is unreadable or of another size; a sample has several images or no label
            while others have one; or a label is no class number.
    """

    kind = "webdataset"
    label_names: tuple[str, ...] | None = None

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()):  # noqa: B008 (frozen)
        self.path, self._options = path, options
        self._file: IO[bytes] | None = None
        self.members = [member for member in tar_members(path) if not _HIDDEN.search(member.name)]
        samples = samples_of(path, self.members)
        kinds = list(dict.fromkeys(kind for _, sample in samples for kind in sample))
        images = [kind for kind in kinds if kind.rpartition(".")[2] in IMAGES]
        usual = [kind for kind in images if kind in IMAGES] or images
        self._images: list[Member] = []
        with_image: list[tuple[str, Sample]] = []
        beside: list[Member] = []
        for key, sample in samples:
            kind = chosen(path, "images", options.images_key, [k for k in sample if k in usual], kinds)
            others = [k for k in sample if k in images and k != kind]
            beside += [sample[k] for k in others]
            if kind in sample:
                self._images.append(sample[str(kind)])
                with_image.append((key, sample))
            elif others:
                raise BadInputError(
                    f"{path}: {printable(key)} has the images {some(others)}, but not {kind or some(usual)}; every sample "
                    "must have one kind, which --images-key chooses"
                )
        self.names = [member.name for member in self._images]
        if huge := next((m for m in [*self._images] if m.size > FILE_LIMIT), None):
            raise BadInputError(
                f"{path}: {huge.name} has {huge.size:,} bytes, at most {FILE_LIMIT:,} are read; leave it out of the set"
            )
        shape, notes = measure(path, self._files(range(len(self.names))), options)
        self.shape: tuple[int, int, int, int] = (len(self.names), *shape)
        if left := len(samples) - len(with_image):
            notes += (f"{path}: {left:,} samples have no image and are kept as they are",)
        if beside:
            notes += (f"{path}: {len(beside):,} other images are kept as they are (first: {beside[0].name})",)
        self.notes: tuple[str, ...] = notes
        self.labels, self.label_source = self._read_labels(with_image, kinds)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the file. It reads all of it, so it is made only when it is asked for."""
        return self._options.apply_to(file_contents(self.path))

    def read(self, indices: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Images uint8 [len(indices), H, W, C] at `indices`."""
        return decoded(self.path, self._files(indices), len(indices), self.shape[1:], self._options)

    def _files(self, indices: Sequence[int] | np.ndarray[Any, Any]) -> Iterator[tuple[str, bytes]]:
        for i in indices:
            member = self._images[int(i)]
            yield member.name, self._bytes(member)

    def _bytes(self, member: Member) -> bytes:
        try:
            if self._file is None:
                self._file = self.path.open("rb")
            return member.read(self._file)
        except DAMAGE as e:
            raise BadInputError(f"{self.path} is damaged ({e}); make or copy it again") from e

    def _read_labels(
        self, samples: list[tuple[str, Sample]], kinds: list[str]
    ) -> tuple[np.ndarray[Any, np.dtype[np.int64]] | None, str]:
        key = self._options.labels_key
        if key == NONE:
            return None, "none: --labels-key none"
        field = _FIELD
        if key is not None and key not in kinds:  # a field of the JSON files
            if _JSON not in kinds:
                chosen(self.path, "labels", key, [], kinds)
            field, kind = key, _JSON
        else:
            kind = key or (_CLASS if _CLASS in kinds else _JSON)
        found: list[int | None] = []
        for name, sample in samples:
            member = sample.get(kind)
            found.append(None if member is None else self._label(name, member, kind, field))
        missing = [name for (name, _), label in zip(samples, found, strict=True) if label is None]
        where = f"{kind} files" if kind != _JSON else f"{field!r} in the json files"
        if len(missing) == len(samples):
            if key is not None:
                raise BadInputError(f"{self.path} has no label in {where}; leave --labels-key out")
            return None, "none: no .cls files, and no label in json files"
        if missing:
            raise BadInputError(
                f"{self.path}: {len(missing):,} of {len(samples):,} samples have no label (first: {printable(missing[0])}); "
                "give each one, or read the set without labels: --labels-key none"
            )
        return labels_of_numbers(f"{self.path}: {where}", [n for n in found if n is not None]), where

    def _label(self, key: str, member: Member, kind: str, field: str) -> int | None:
        if member.size > _LABEL_LIMIT:
            raise BadInputError(f"{self.path}: {member.name} has {member.size:,} bytes, too many for a label")
        data = self._bytes(member)
        if kind == _JSON:
            try:
                value = as_mapping(load_json(data, allow_nan=True), "it").get(field)
                return None if value is None else as_int(value, field)
            except BadInputError as e:
                raise BadInputError(
                    f'{self.path}: {member.name} holds no label: {e}; write it as {{"label": 3}}'
                ) from e
        text = data[:40].decode("ascii", "replace").strip()
        if not text.isdecimal() or len(data) > 40:
            raise BadInputError(
                f"{self.path}: {member.name} holds {printable(text)!r}, which is no class number; write each sample's class as a "
                "number from 0"
            )
        return int(text)


def write_shard(
    out: IO[bytes],
    batches: Iterator[np.ndarray[Any, Any]],
    names: Sequence[str],
    *,
    channels: int,
    lossy: bool,
    labels: np.ndarray[Any, Any] | None = None,
    source: ShardSamples | None = None,
) -> None:
    """Write a WebDataset shard.

    Args:
        out: binary file, open for writing.
        batches: uint8 [n, H, W, C].
        names: the images' names in the output, see `keys_of`; unused if `source` is given.
        channels: C.
        lossy: whether JPEGs stay JPEGs.
        labels: int64 [N] for ``.cls`` files; unused if `source` is given.
        source: a shard whose names, order and other files the output takes over.
    """
    images = singly(batches)
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        if source is None:
            for i, (name, image) in enumerate(zip(names, images, strict=True)):
                _add(archive, name, encode(image, suffix_of(name)))
                if labels is not None:
                    _add(archive, f"{name[: -len(suffix_of(name))]}.{_CLASS}", str(int(labels[i])).encode())
            return
        renamed = dict(zip(source.names, output_names(source.names, channels, lossy=lossy), strict=True))
        with source.path.open("rb") as f:
            for member in source.members:
                if member.name in renamed:
                    name = renamed[member.name]
                    _add(archive, name, encode(next(images), suffix_of(name)))
                else:
                    info = tarfile.TarInfo(member.name)
                    info.size = member.size
                    f.seek(member.offset)
                    archive.addfile(info, f)


def keys_of(names: Sequence[str]) -> list[str] | None:
    """`names` if each gives a sample of its own in a shard, else None: a dot in a stem would end the key."""
    keys = set()
    for name in names:
        parts = _NAME.match(name)
        if parts is None or _HIDDEN.search(name) or f".{parts[2].lower()}" != suffix_of(name) or parts[1] in keys:
            return None
        keys.add(parts[1])
    return list(names)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # of no time and no owner: the same images give the same bytes
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))
