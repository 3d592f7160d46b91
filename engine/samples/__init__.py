"""Sample sets: reading, checking and writing them."""

from .base import SampleSet, check_against_model, check_fit, check_images, check_labels, labels_of
from .files import check_output, default_output, open_samples, output_kind, snapshot_output, write_samples
from .options import ReadOptions

__all__ = [
    "ReadOptions",
    "SampleSet",
    "check_against_model",
    "check_fit",
    "check_images",
    "check_labels",
    "check_output",
    "default_output",
    "labels_of",
    "open_samples",
    "output_kind",
    "snapshot_output",
    "write_samples",
]
