"""A single array of images in an npy file. It has no room for labels."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from jboost.engine.errors import BadInputError, one_line

from .base import check_images
from .identity import file_contents
from .keys import NONE, MissingKeyError
from .npz import DAMAGE, check_array_size, read_exactly, read_header, read_rows
from .options import AS_IT_IS, ReadOptions
from .remedies import rows_within


class NpySamples:
    """An npy file, uint8 [N, H, W, C], as a `SampleSet`.

    Raises:
        BadInputError: the file is damaged or holds no images, or a key is given.
    """

    kind = "npy"
    labels: np.ndarray[Any, np.dtype[np.int64]] | None = None
    label_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    label_source = "none: an npy file holds no labels; np.savez(path, images, labels) keeps them"

    def __init__(self, path: Path, options: ReadOptions = AS_IT_IS):
        self.path, self._options = path, options
        self._file: IO[bytes] | None = None
        if options.images_key is not None or options.labels_key not in (None, NONE):
            raise MissingKeyError(
                f"{path} holds one array, so it has no names; leave --images-key and --labels-key out"
            )
        try:
            with path.open("rb") as f:
                shape, fortran, dtype, self._offset = read_header(f)
                if not dtype.hasobject:
                    check_array_size(str(path), path.stat().st_size, shape, dtype, self._offset)
                right = dtype == np.uint8 and len(shape) == 4 and shape[3] in (1, 3)
                part = None
                if not right and not dtype.hasobject and not fortran and shape:
                    first = (rows_within(shape, dtype), *shape[1:])
                    size = int(np.prod(first)) * dtype.itemsize
                    part = np.frombuffer(read_exactly(f, size), dtype).reshape(first)
        except DAMAGE as e:
            raise BadInputError(
                f"{path} is not a readable npy file ({one_line(e)}); it may be truncated: make or copy it again"
            ) from e
        check_images(f"{path}: images", shape, dtype, part)
        if fortran:
            raise BadInputError(f"{path}: images are in Fortran order; save np.ascontiguousarray(images)")
        n, h, w, c = shape
        self.shape: tuple[int, int, int, int] = (n, h, w, c)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the file. It reads all of it, so it is made only when it is asked for."""
        return self._options.apply_to(file_contents(self.path))

    def read(self, indices: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Images uint8 [len(indices), H, W, C] at ascending `indices`."""
        try:
            if self._file is None:
                self._file = self.path.open("rb")
            return read_rows(self._file, self._offset, self.shape, indices)
        except DAMAGE as e:
            raise BadInputError(f"{self.path} is damaged ({one_line(e)}); make or copy it again") from e
