"""The options that say how a sample set is read, for every command that reads one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .options import Shared
from .terminal import console

if TYPE_CHECKING:
    from jboost.engine.samples import SampleSet
    from jboost.engine.samples.options import ReadOptions

#: Title of the options' panel in a command's help.
PANEL = "Reading images"

images_key = Shared("Name of the images' array or column.", "--images-key", default="the usual names")
labels_key = Shared("Name of the labels' array or column.", "--labels-key", default="the usual names")
resize = Shared(
    "Resize images to this many pixels and crop the centre (as ADM: halving, then bicubic).",
    "--resize",
    default="never",
)
channels = Shared("Channels of the images: 1 or 3; grey images are repeated.", "--channels", default="the files'")
background = Shared(
    "Colour behind transparent pixels: white, black or #rrggbb.", "--background", default="such images are refused"
)
class_folders = Shared(
    "Folders that name the classes: top, last (the folder an image lies in) or none.",
    "--class-folders",
    default="those that show it",
)


def print_about(samples: SampleSet, class_names: Sequence[str] | None) -> None:
    """Print where a set's labels come from, how many classes there are, and what was done to its images, to stderr.

    Args:
        samples: the set.
        class_names: the model's class names, if known.
    """
    print_labels(samples)
    notes = samples.notes
    if samples.label_names is not None and not set(samples.label_names) <= set(class_names or ()):
        names = ", ".join(f"{i} {name}" for i, name in enumerate(samples.label_names[:3]))
        order = "in the file's order" if samples.kind == "parquet" else "in sorted order"
        notes = (f"assumed: the model's classes are these names {order} ({names}, ...)", *notes)
    for note in notes:
        console(stderr=True).print(f"{samples.path}: {note}", style="dim")


def print_labels(samples: SampleSet) -> None:
    """Print where a set's labels come from and how many classes there are, to stderr."""
    from jboost.engine.samples.about import label_line

    console(stderr=True).print(f"{samples.path}: {label_line(samples)}", style="dim")


def read_options(
    *,
    images_key: str | None = None,
    labels_key: str | None = None,
    channels: int | None = None,
    resize: int | None = None,
    background: str | None = None,
    class_folders: str | None = None,
) -> ReadOptions:
    """The options as `open_samples` takes them.

    Raises:
        BadInputError: an option's value cannot be used.
    """
    from jboost.engine.samples.options import (
        ReadOptions,
        parse_background,
        parse_channels,
        parse_class_folders,
        parse_resize,
    )

    return ReadOptions(
        images_key=images_key,
        labels_key=labels_key,
        channels=parse_channels(channels),
        resize=parse_resize(resize),
        background=parse_background(background),
        class_folders=parse_class_folders(class_folders),
    )
