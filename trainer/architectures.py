"""Build a network from the name of its architecture: one of the project's own, of a registry, or a user's factory."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from jboost.engine.errors import BadInputError

from . import registries
from .architecture_names import OTHERS
from .cifar_wrn import WideResNet
from .factories import call_factory, factory_options
from .folder import FolderFacts, read_folder
from .registries import Usual, hub_folder
from .resnet import RESNETS, ResNet
from .small_resnet import SmallResNet

# The names that messages list; wrn_<depth>_<widen> and small_resnet<width> are accepted with any numbers.
NAMES = (*RESNETS, "wrn_28_10", "wrn_34_10", "small_resnet")
_WRN = re.compile(r"wrn_([1-9]\d{0,3})_([1-9]\d{0,3})")
_SMALL = re.compile(r"small_resnet([1-9]\d{0,3})?")
_SMALL_WIDTH = 24


@dataclass(frozen=True)
class Architecture:
    """A named architecture and its customary settings.

    Attributes:
        name: the name that checkpoints store (``small_resnet24`` is stored as ``small_resnet``, a file without its folder).
        build: ``build(num_classes, in_channels)`` -> network: normalised images [B, in_channels, H, W] -> logits [B,
            num_classes]. None leaves an argument to the network's default; the project's own networks need both.
        options: which of "num_classes" and "in_channels" `build` heeds. It imports the network's module.
        normalization: ``"imagenet"`` or ``"none"``: the normalisation that published weights of the project's own
            architectures expect for three channels; elsewhere it means nothing.
        usual: what a registry says of a network that `build` made; None where nothing says.
        resolution: image size that it is made for, in pixels; None if it is made for any.
        builtin: True if this project defines it.
        registered: True if a registry of timm or torchvision does: its name runs no other code.
    """

    name: str
    build: Callable[[int | None, int | None], nn.Module]
    options: Callable[[], frozenset[str]] = lambda: frozenset({"num_classes", "in_channels"})
    normalization: str = "none"
    usual: Callable[[nn.Module], Usual | None] = registries.usual_of_timm
    resolution: int | None = None
    builtin: bool = True
    registered: bool = False


def find_architecture(name: str) -> Architecture:
    """Find an architecture by name: one of `NAMES`, ``wrn_<depth>_<widen>``, ``small_resnet<width>``, or one of `OTHERS`.

    A factory is called as ``factory(num_classes=...)``, with ``in_channels=...`` or ``in_chans=...`` if it has a parameter
    of that name. `build` imports its module from the Python path, else from the current directory. The name may also lead
    to an instance of a network.

    Raises:
        BadInputError: an unknown name (the message lists the known ones).
    """
    scheme, _, rest = name.partition(":")
    if scheme == "timm":
        return timm_architecture(name, rest, {})
    if scheme == "hf-hub":
        return Architecture(
            name,
            lambda classes, channels: _of_hub(rest).build(classes, channels),
            usual=lambda network: read_folder(hub_folder(rest, weights=False)).usual,
            builtin=False,
        )
    if scheme == "torchvision":
        return Architecture(
            name,
            lambda classes, channels: registries.torchvision_network(rest, classes),
            options=lambda: frozenset({"num_classes"}),
            usual=lambda network: registries.usual_of_torchvision(rest),
            builtin=False,
            registered=True,
        )
    if ":" in name:
        file, attribute = name.rpartition(":")[::2]
        return Architecture(
            f"{Path(file).name}:{attribute}" if file.endswith(".py") else name,
            lambda classes, channels: call_factory(name, classes, channels),
            options=lambda: factory_options(name),
            builtin=False,
        )
    if name in RESNETS:
        shape = RESNETS[name]
        return Architecture(
            name, _of_both(lambda classes, channels: ResNet(shape, classes, channels)), normalization="imagenet"
        )
    if match := _WRN.fullmatch(name):
        depth, widen = int(match[1]), int(match[2])
        return Architecture(
            name, _of_both(lambda classes, channels: WideResNet(depth, widen, classes, channels)), resolution=32
        )
    if match := _SMALL.fullmatch(name):
        width = int(match[1] or _SMALL_WIDTH)
        return Architecture(
            small_resnet_name(width), _of_both(lambda classes, channels: SmallResNet(width, classes, channels))
        )
    raise BadInputError(
        f"unknown architecture {name!r}; choose one of {', '.join(NAMES)} (or small_resnet<width>), or name your own as "
        f"{OTHERS}"
    )


def timm_architecture(name: str, model: str, arguments: dict[str, object]) -> Architecture:
    """The network `model` of timm's registry, built with further arguments of its constructor, under `name`."""
    return Architecture(
        name,
        lambda classes, channels: registries.timm_network(model, classes, channels, arguments),
        builtin=False,
        registered=True,
    )


def described_architecture(facts: FolderFacts, name: str) -> Architecture:
    """The network of timm's registry that a folder describes; `name` is the folder's in messages.

    Raises:
        BadInputError: the folder describes none.
    """
    if facts.architecture is None:
        theirs = "no network of timm's" if facts.transformers is None else f"{facts.transformers} of transformers"
        raise BadInputError(
            f"{name} describes {theirs}; write a factory that builds it and pass --arch file.py:factory"
        )
    # With further arguments the name alone does not build the network again.
    whole = f"timm:{facts.architecture}" + (
        f" with {', '.join(facts.arguments)} of config.json" if facts.arguments else ""
    )
    found = timm_architecture(whole, facts.architecture, dict(facts.arguments))
    # The folder's weights may be trained on other statistics than those of timm's registry.
    return found if facts.usual is None else replace(found, usual=lambda network: facts.usual)


def _of_hub(repository: str) -> Architecture:
    return described_architecture(read_folder(hub_folder(repository, weights=False)), f"hf-hub:{repository}")


def small_resnet_name(width: int) -> str:
    """The name of the small ResNet whose first stage has `width` channels."""
    return "small_resnet" if width == _SMALL_WIDTH else f"small_resnet{width}"


def build_network(arch: str, num_classes: int, in_channels: int = 3) -> nn.Module:
    """Build a network with random weights, float32, on the CPU unless a torch device context says otherwise.

    Args:
        arch: see `find_architecture`.
        num_classes: number of logits, at least 1.
        in_channels: number of image channels, at least 1.

    Returns:
        A module that maps normalised images [B, in_channels, H, W] to logits [B, num_classes].

    Raises:
        BadInputError: an unknown name, a number below 1, a module or factory that is not found, a factory that fails or
            returns no ``torch.nn.Module``.
    """
    architecture = find_architecture(arch)
    for what, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value < 1:
            raise BadInputError(f"{what} must be at least 1, got {value}")
    return architecture.build(num_classes, in_channels)


def _of_both(build: Callable[[int, int], nn.Module]) -> Callable[[int | None, int | None], nn.Module]:
    def built(num_classes: int | None, in_channels: int | None) -> nn.Module:
        assert num_classes is not None
        assert in_channels is not None
        return build(num_classes, in_channels)

    return built
