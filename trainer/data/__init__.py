"""The training data of the joint model: real and generated images, read from disk as they are needed.

    real = open_real(Path("train/"), resolution=64, channels=3)
    generated = open_generated([Path("samples.npz")], None, num_classes=count_classes(real), resolution=64, channels=3)
    notes = check_pair(real, generated, num_classes=count_classes(real))

    order = EpochOrder(len(real.labels), seed)
    augmentation = Augmentation(seed, crop_padding=4)
    reader = BatchReader(real, order, batch_size=64, rank=rank, world=world, augmentation=augmentation)
    with reader.batches(start=position) as batches:
        for images, labels in batches:  # endless: float32 [B, C, H, W] in [0, 1], int64 [B]
            ...
    batches.position  # global position of the next batch: all that a resumed run needs

Every choice (which image, whether flipped, where cropped) depends only on the seed and the global position. R processes
with batches of B images together see exactly the images that one process with batches of R x B images sees.
"""

from .augment import Augmentation
from .base import ImageData, Subset, count_classes, hold_out
from .check import check_pair, decode_all
from .generated import MixedData, open_generated
from .order import EpochOrder, MixedOrder, Order
from .reader import Batch, BatchReader, BatchStream, to_tensor
from .real import open_real

__all__ = [
    "Augmentation",
    "Batch",
    "BatchReader",
    "BatchStream",
    "EpochOrder",
    "ImageData",
    "MixedData",
    "MixedOrder",
    "Order",
    "Subset",
    "check_pair",
    "count_classes",
    "decode_all",
    "hold_out",
    "open_generated",
    "open_real",
    "to_tensor",
]
