"""What may stand in a bundle's ``config.json``: the type and the limits of each entry.

The digest in it has no key, so a stranger's configuration may be consistent and hold anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .errors import BadInputError
from .system.names import check_names
from .system.typed import as_float, as_int, as_list, as_mapping, as_text, check_keys, or_none

#: The most bytes of ``config.json``. A thousand class names take about 20 kB.
SIZE_LIMIT = 64 << 20
_MOST_CLASSES = 1_000_000
_MOST_PIXELS = 65_536  # of an image's side
_MOST_FILES = 10_000
_SHA256 = re.compile(r"[0-9a-f]{64}")

_ENTRIES = (
    "architecture", "num_classes", "in_channels", "resolutions", "mean", "std", "l0", "class_names", "source", "versions",
    "artefacts", "timings", "schema",
)  # fmt: skip
_OF_ARTEFACT = (
    "file", "sha256", "size", "dtype", "batch_size", "objective", "resolution", "opset", "target", "errors", "unverified",
)  # fmt: skip
_OF_TIMING = ("machine", "engine", "dtype", "resolution", "batch_size", "ms")


def check_manifest(content: Mapping[str, Any]) -> None:
    """Check every entry of a configuration, without its digest.

    Raises:
        BadInputError: an entry is missing, unknown, of the wrong type or out of range; the message names the first one,
            without file or remedy.
    """
    check_keys(content, _ENTRIES)
    as_text(content["architecture"], "architecture")
    classes = as_int(content["num_classes"], "num_classes", least=1, most=_MOST_CLASSES)
    channels = as_int(content["in_channels"], "in_channels", least=1, most=1024)
    sizes = [_pixels(r, "resolutions") for r in as_list(content["resolutions"], "resolutions", most=1000)]
    means = [as_float(v, "mean") for v in as_list(content["mean"], "mean", most=1024)]
    stds = [as_float(v, "std", least=0) for v in as_list(content["std"], "std", most=1024)]
    if not sizes:
        raise BadInputError("resolutions is empty")
    if not len(means) == len(stds) == channels or 0.0 in stds:
        raise BadInputError("mean and std must have a value for each channel, std above 0")
    or_none(content["l0"], lambda v: as_float(v, "l0", least=0))
    if content["class_names"] is not None:
        names = [as_text(v, "class_names") for v in as_list(content["class_names"], "class_names", most=_MOST_CLASSES)]
        if len(names) != classes:
            raise BadInputError(f"class_names has {len(names):,} names for {classes:,} classes")
    source = as_mapping(content["source"], "source")
    check_keys(source, ("file", "sha256"), None)
    for what, found in (("source", source), ("versions", as_mapping(content["versions"], "versions"))):
        for key, text in found.items():
            as_text(text, f"{what}.{key}")
    artefacts = as_mapping(content["artefacts"], "artefacts", most=_MOST_FILES)
    files = [_check_artefact(entry, f"artefacts.{name}") for name, entry in artefacts.items()]
    check_names("it", dict.fromkeys(files))
    for entry in as_list(content["timings"], "timings", most=_MOST_FILES):
        _check_timing(as_mapping(entry, "timings"))


def _check_artefact(value: Any, name: str) -> str:
    """Check an entry of ``artefacts``; returns its file."""
    entry = as_mapping(value, name)
    check_keys(entry, _OF_ARTEFACT)
    file = as_text(entry["file"], f"{name}.file")
    if not _SHA256.fullmatch(as_text(entry["sha256"], f"{name}.sha256")):
        raise BadInputError(f"{name}.sha256 must be 64 hexadecimal digits")
    as_int(entry["size"], f"{name}.size")
    _dtype(entry["dtype"], f"{name}.dtype")
    for key in ("objective", "target", "unverified"):
        or_none(entry[key], lambda v, key=key: as_text(v, f"{name}.{key}"))  # type: ignore[misc]
    for key in ("batch_size", "opset"):
        or_none(entry[key], lambda v, key=key: as_int(v, f"{name}.{key}", least=1))  # type: ignore[misc]
    or_none(entry["resolution"], lambda v: _pixels(v, f"{name}.resolution"))
    for key, figure in as_mapping(entry["errors"], f"{name}.errors").items():
        as_float(figure, f"{name}.errors.{key}")
    return file


def _check_timing(entry: Mapping[str, Any]) -> None:
    check_keys(entry, _OF_TIMING)
    for key in ("machine", "engine"):
        as_text(entry[key], f"timings.{key}")
    _dtype(entry["dtype"], "timings.dtype")
    _pixels(entry["resolution"], "timings.resolution")
    as_int(entry["batch_size"], "timings.batch_size", least=1)
    as_float(entry["ms"], "timings.ms", least=0)


def _pixels(value: Any, name: str) -> int:
    return as_int(value, name, least=1, most=_MOST_PIXELS)


def _dtype(value: Any, name: str) -> None:
    if value not in ("fp32", "fp16", "bf16"):
        raise BadInputError(f"{name} must be fp32, fp16 or bf16")
