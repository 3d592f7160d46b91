"""Open the extractor that ``--features`` names."""

from __future__ import annotations

from pathlib import Path

from jboost.engine.errors import BadInputError

from .base import INCEPTION_URL, Extractor


def open_extractor(
    spec: str, device: str = "auto", *, trust_code: bool = False, full: int | None = None, tensorflow: bool = True
) -> Extractor:
    """Open the extractor that ``--features`` names.

    Args:
        spec: Inception's weights, an ONNX, TorchScript or torch.export file, ``package.module:factory``, a bundle's
            folder, or ``bundle:DIR``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        trust_code: open TorchScript, torch.export programs and the code of bundles, whoever made them. A factory needs no
            such word: naming it asks for its code.
        full: the value of white in the extractor's input, 1 or 255; None: 255 for Inception's weights, else 1.
        tensorflow: how Inception's input is resized; see `jboost.evaluation.extractors.inception.prepare`.

    Raises:
        BadInputError: the extractor does not exist or cannot be used, or has another range of its own.
    """
    if full not in (None, 1, 255):
        raise BadInputError(f"--features-range must be 1 or 255, got {full}")
    extractor = _open(spec, device, trust_code, float(full or 1), tensorflow)
    if full is not None and extractor.identity.input_max != full:
        raise BadInputError(
            f"--features {spec} takes 0 to {extractor.identity.input_max:g} by definition; leave --features-range out"
        )
    return extractor


def _open(spec: str, device: str, trust_code: bool, full: float, tensorflow: bool) -> Extractor:
    from . import torch as torch_kinds

    path = Path(spec.removeprefix("bundle:"))
    if spec.startswith("bundle:") or path.is_dir():
        return torch_kinds.open_bundle_model(path, spec, device, trust_code)
    if not path.exists():
        if ":" in spec:
            return torch_kinds.open_factory(spec, device, full)
        raise BadInputError(
            f"--features {spec} does not exist; give Inception's weights ({INCEPTION_URL}), an .onnx, TorchScript or .pt2 file, "
            "package.module:factory, or a bundle's folder"
        )
    if path.suffix.lower() == ".onnx":
        from .onnx import open_onnx

        return open_onnx(path, device, full)
    return torch_kinds.open_file(path, device, trust_code, full, tensorflow=tensorflow)
