"""Extractors that ONNX Runtime runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from jboost.engine.backends.onnx.session import CPU_PROVIDER, CUDA_PROVIDER, Provider, open_session
from jboost.engine.bundle import sha256_file
from jboost.engine.errors import BadInputError, one_line
from jboost.engine.system.devices import DeviceName

from .base import OUTPUTS, Extractor, Identity, Numpy, Outputs, fix_batch, read_outputs


def open_onnx(path: Path, device: str, full: float = 1.0) -> Extractor:
    """Open the extractor in an ONNX file; if its batch size is fixed, it gets batches of that size.

    Raises:
        BadInputError: see `OnnxExtractor`.
    """
    extractor = OnnxExtractor(path, device, full)
    return fix_batch(extractor, extractor.batch)


class OnnxExtractor:
    """An ONNX file with one input, float32 [B, C, H, W] in [0, `full`].

    Outputs are found by their names (see `read_outputs`); if no name is known, the first output is the features.

    Args:
        path: the file.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; a GPU needs ONNX Runtime's CUDA provider.
        full: the value of white.

    Raises:
        BadInputError: ONNX Runtime cannot run it, or it does not take images.
    """

    def __init__(self, path: Path, device: str = "auto", full: float = 1.0):
        self._session = _open(path, device)
        self.identity = Identity("ONNX", "onnx", str(path), sha256_file(path), input_max=full)
        self._divisor = np.float32(255 / full)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
            found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
            raise BadInputError(f"--features {path} must take one input, float32 [B, C, H, W]; it takes {found}")
        self._input: str = inputs[0].name
        self._shape: list[Any] = inputs[0].shape
        self.batch: int | None = self._shape[0] if isinstance(self._shape[0], int) else None
        names = [o.name for o in self._session.get_outputs()]
        self._outputs = [name for name in names if name in OUTPUTS] or names[:1]

    def __call__(self, images: Numpy) -> Outputs:
        """Features of `images` uint8 [B, H, W, C]."""
        x = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / self._divisor
        for axis, what in ((1, "channels"), (2, "rows"), (3, "columns")):
            if isinstance(self._shape[axis], int) and self._shape[axis] != x.shape[axis]:
                raise BadInputError(
                    f"the extractor {self.identity.source} takes images of {self._shape[axis]} {what}, these have {x.shape[axis]}"
                )
        try:
            found = self._session.run(self._outputs, {self._input: x})
        except Exception as e:  # onnxruntime raises its own classes of errors, and RuntimeError
            reason = one_line(e)
            raise BadInputError(
                f"the extractor {self.identity.source} failed on images {list(x.shape)} ({reason})"
            ) from e
        named = dict(zip(self._outputs, found, strict=True))
        return read_outputs(named if set(OUTPUTS) & set(named) else found[0], self.identity, len(images))


def _open(path: Path, device: str) -> Any:
    name = DeviceName.parse(device)
    providers: list[Provider] = [CPU_PROVIDER]
    if name.kind != "cpu" and CUDA_PROVIDER in ort.get_available_providers():
        providers.insert(0, (CUDA_PROVIDER, {"device_id": str(name.index)}))
    session = open_session(path, f"--features {path}", providers=providers)
    if name.kind == "cuda" and session.get_providers()[0] != CUDA_PROVIDER:
        raise BadInputError(
            f"ONNX Runtime {ort.__version__} cannot use {device} here (its CUDA libraries are missing); use --device cpu"
        )
    return session
