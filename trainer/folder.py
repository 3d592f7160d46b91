"""What the files beside a network's weights say of it: timm's and Hugging Face's ``config.json``, ``preprocessor_config.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jboost.engine.errors import BadInputError, printable
from jboost.engine.system.typed import load_json

from .registries import Usual, usual_of

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
# Steps of some processors beside rescaling and normalising, which change what a network is given.
_FURTHER = ("rescale_offset", "do_flip_channel_order", "include_top")
_MOST_BYTES = 4 << 20
_MOST_CLASSES = 1_000_000


@dataclass(frozen=True)
class FolderFacts:
    """What a folder says of the weights in it.

    Attributes:
        architecture: name in timm's registry; None unless ``config.json`` is timm's.
        arguments: further arguments of its constructor, plain JSON values.
        num_classes: number of logits; None if nothing says.
        usual: normalisation and image size; None if nothing says.
        transformers: the class of Hugging Face's transformers, if the folder is one's.
        notes: remarks on what was not understood.
    """

    architecture: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    num_classes: int | None = None
    usual: Usual | None = None
    transformers: str | None = None
    notes: tuple[str, ...] = ()


def read_folder(folder: Path) -> FolderFacts:
    """Read the descriptions in a folder. Files that are no description of a network are left aside; damaged ones are noted."""
    config, notes = _object(folder / CONFIG)
    processor, more = _object(folder / PREPROCESSOR)
    usual, remark = _processing(processor)
    notes = (*notes, *more, *remark)
    if _is_timms(config):
        # Older uploads hold the entries of pretrained_cfg beside the architecture.
        cfg = config["pretrained_cfg"] if isinstance(config.get("pretrained_cfg"), dict) else config
        return FolderFacts(
            architecture=config["architecture"],
            arguments=_arguments(config.get("model_args")),
            num_classes=_classes(config.get("num_classes", cfg.get("num_classes"))),
            usual=usual_of(cfg, CONFIG) or usual,
            notes=notes,
        )
    names = config.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str) and names[0].isidentifier():
        labels = config.get("id2label")
        classes = config.get("num_labels", len(labels) if isinstance(labels, dict) else None)
        return FolderFacts(
            num_classes=_classes(classes), usual=usual, transformers=printable(names[0][:100]), notes=notes
        )
    return FolderFacts(usual=usual, notes=notes)


def _arguments(kept: Any) -> dict[str, Any]:
    """What a constructor is given beside the two numbers that the weights tell."""
    if not isinstance(kept, dict):
        return {}
    return {printable(name[:100]): value for name, value in kept.items() if name not in ("num_classes", "in_chans")}


def _is_timms(config: Mapping[str, Any]) -> bool:
    # A bundle's config.json names an architecture too; only timm's has these entries beside it.
    theirs = any(entry in config for entry in ("pretrained_cfg", "num_features", "input_size"))
    return isinstance(config.get("architecture"), str) and theirs


def _object(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A file's JSON object, and a remark if it cannot be read; an empty object if there is no such file."""
    try:
        if not path.is_file():
            return {}, ()
        if path.stat().st_size > _MOST_BYTES:
            return {}, (f"{path.name} beside the weights is larger than {_MOST_BYTES >> 20} MiB and not read",)
        found = load_json(path.read_bytes())
    except (BadInputError, OSError) as error:
        return {}, (f"{path.name} beside the weights cannot be read ({error}); nothing is taken from it",)
    return (found, ()) if isinstance(found, dict) else ({}, ())


def _processing(config: Mapping[str, Any]) -> tuple[Usual | None, tuple[str, ...]]:
    """What ``preprocessor_config.json`` says, in units of images in [0, 1]."""
    if not config:
        return None, ()
    factor = config.get("rescale_factor", 1 / 255)
    scaled = (
        config.get("do_rescale", True) is True
        and isinstance(factor, float)
        and math.isclose(factor, 1 / 255, rel_tol=1e-4)
    )
    if not scaled or config.get("do_normalize", True) not in (True, False):
        return None, (f"{PREPROCESSOR} rescales images in another way than by 1/255, so its values are not taken",)
    if further := [entry for entry in _FURTHER if config.get(entry)]:
        return None, (f"{PREPROCESSOR} does more with images ({', '.join(further)}), so its values are not taken",)
    crop = config.get("crop_size") if config.get("do_center_crop") else config.get("size")
    sides = {crop.get("height"), crop.get("width")} if isinstance(crop, dict) else {crop}
    side = next(iter(sides)) if len(sides) == 1 else None
    size = side if type(side) is int and 0 < side < 1 << 16 else None
    values = {"mean": config.get("image_mean"), "std": config.get("image_std")}
    if config.get("do_normalize", True) is False:
        values = {"mean": [0.0] * 3, "std": [1.0] * 3}
    found = usual_of(values, PREPROCESSOR)
    return None if found is None else Usual(found.mean, found.std, size, PREPROCESSOR), ()


def _classes(value: Any) -> int | None:
    return value if type(value) is int and 1 <= value <= _MOST_CLASSES else None
