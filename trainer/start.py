"""The initial model of a run: random weights, or a robust backbone, with a new head if the classes differ."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from jboost.engine.errors import BadInputError, one_line

from .architectures import build_network, find_architecture
from .attack import evaluating
from .checkpoint import ModelInfo
from .joint import NORMALIZATIONS, JointModel, parse_normalization

DEFAULT_ARCH = "small_resnet"


def initial_model(
    *,
    arch: str | None,
    num_classes: int,
    in_channels: int,
    normalize: str | None,
    seed: int,
    loaded: tuple[JointModel, ModelInfo] | None = None,
    reset_head: bool = False,
) -> tuple[JointModel, ModelInfo]:
    """Build the model and its description; float32, on the CPU.

    Args:
        arch: see `find_architecture`; None: the loaded model's, else `DEFAULT_ARCH`.
        num_classes, in_channels: the data's numbers of classes and channels.
        normalize: see `parse_normalization`; None: the loaded model's, else ImageNet's for ResNets on colour images,
            else none.
        seed: seed of the random weights.
        loaded: the model to take weights from, and its description.
        reset_head: keep the last layer random even if the number of classes fits.

    Raises:
        BadInputError: the loaded model does not fit the data or the architecture, or has no last layer to replace.
    """
    known = loaded[1] if loaded is not None else None
    name = arch or (known.arch if known is not None else DEFAULT_ARCH)
    architecture = find_architecture(name)
    if known is not None and known.in_channels != in_channels:
        raise BadInputError(
            f"the checkpoint of --init takes {known.in_channels} channels, the images have {in_channels}; convert them with "
            f"--channels {known.in_channels}"
        )
    mean, std = _normalization(normalize, known, architecture.normalization, in_channels)
    torch.manual_seed(seed)
    network = build_network(name, num_classes, in_channels)
    if loaded is not None:
        _transfer(loaded[0].network, network, loaded[1].num_classes, keep_head=not reset_head)
    names = known.class_names if known is not None and known.num_classes == num_classes and not reset_head else None
    info = ModelInfo(architecture.name, num_classes, in_channels, mean, std, class_names=names)
    return JointModel(network, mean, std), info


def described(info: ModelInfo, *, class_names: tuple[str, ...] | None, resolution: int) -> ModelInfo:
    """Add the data's class names, if their number fits, and the image size to the description."""
    fits = class_names is not None and len(class_names) == info.num_classes
    return replace(info, class_names=class_names if fits else info.class_names, resolution=resolution)


def check_sizes(model: JointModel, info: ModelInfo, sizes: tuple[int, ...]) -> None:
    """Check that a model takes images of each size in pixels, by one image.

    Raises:
        BadInputError: it does not; some networks are built for one size.
    """
    for size in dict.fromkeys(sizes):
        try:
            with evaluating(model), torch.no_grad():
                model(torch.zeros(1, info.in_channels, size, size))
        except BadInputError:
            raise
        except Exception as e:  # whatever a network of the user's raises
            remedy = "images of one size, or an --arch that takes both" if len(set(sizes)) > 1 else "another --arch"
            raise BadInputError(
                f"{info.arch} does not take images of {size}x{size} ({one_line(e)}); give {remedy}, such as resnet50"
            ) from e


def _normalization(
    asked: str | None, known: ModelInfo | None, customary: str, in_channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if asked is not None:
        return parse_normalization(asked, in_channels)
    if known is not None:
        return known.mean, known.std
    return parse_normalization(customary if in_channels == 3 and customary in NORMALIZATIONS else "none", in_channels)


def _transfer(source: nn.Module, target: nn.Module, source_classes: int, *, keep_head: bool) -> None:
    """Copy weights from `source` to `target`, of the same architecture, except a head that differs or is reset."""
    theirs, ours = source.state_dict(), target.state_dict()
    kept = {name: tensor for name, tensor in theirs.items() if name in ours and ours[name].shape == tensor.shape}
    if not keep_head or len(kept) < len(ours):
        head = _head(source, source_classes)
        if not keep_head:
            kept = {name: tensor for name, tensor in kept.items() if name.rpartition(".")[0] != head}
        lost = [name for name in ours if name not in kept and name.rpartition(".")[0] != head]
    else:
        lost = []
    if lost:
        raise BadInputError(
            f"the checkpoint of --init does not fit the architecture: {', '.join(lost[:4])} differ; leave --arch out"
        )
    target.load_state_dict(kept, strict=False)


def _head(network: nn.Module, num_classes: int) -> str:
    """The name of the last layer that gives one number per class."""
    heads = [
        name
        for name, module in network.named_modules()
        if (isinstance(module, nn.Linear) and module.out_features == num_classes)
        or (isinstance(module, nn.Conv2d) and module.out_channels == num_classes)
    ]
    if not heads:
        raise BadInputError(f"the checkpoint of --init has no last layer of {num_classes} classes to initialise anew")
    return str(heads[-1])
