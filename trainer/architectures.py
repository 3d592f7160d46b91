"""Build a network from the name of its architecture: one of the project's own, or a user's factory."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from jboost.engine.errors import BadInputError, one_line

from .cifar_wrn import WideResNet
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
        name: the name that checkpoints store (``small_resnet24`` is stored as ``small_resnet``).
        build: ``build(num_classes, in_channels)`` -> network: normalised images [B, in_channels, H, W] -> logits [B,
            num_classes].
        normalization: ``"imagenet"`` or ``"none"``: the normalisation that published weights expect for three channels.
        resolution: image size that it is made for, in pixels; None if it is made for any.
        builtin: True if this project defines it, False if a user's factory does.
    """

    name: str
    build: Callable[[int, int], nn.Module]
    normalization: str = "none"
    resolution: int | None = None
    builtin: bool = True


def find_architecture(name: str) -> Architecture:
    """Find an architecture by name: one of `NAMES`, ``wrn_<depth>_<widen>``, ``small_resnet<width>`` or a factory.

    A factory is named as ``package.module:factory`` and called as ``factory(num_classes=...)``, with
    ``in_channels=...`` if it has a parameter of that name. `build` imports its module from the Python path, else from
    the current directory.

    Raises:
        BadInputError: an unknown name (the message lists the known ones).
    """
    if ":" in name:
        return Architecture(name, lambda classes, channels: _call_factory(name, classes, channels), builtin=False)
    if name in RESNETS:
        shape = RESNETS[name]
        return Architecture(name, lambda classes, channels: ResNet(shape, classes, channels), normalization="imagenet")
    if match := _WRN.fullmatch(name):
        depth, widen = int(match[1]), int(match[2])
        return Architecture(name, lambda classes, channels: WideResNet(depth, widen, classes, channels), resolution=32)
    if match := _SMALL.fullmatch(name):
        width = int(match[1] or _SMALL_WIDTH)
        return Architecture(small_resnet_name(width), lambda classes, channels: SmallResNet(width, classes, channels))
    raise BadInputError(
        f"unknown architecture {name!r}; choose one of {', '.join(NAMES)} (or small_resnet<width>), or name your own "
        "factory as package.module:factory"
    )


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


def _call_factory(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """Import ``package.module:factory`` and call it."""
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise BadInputError(f"cannot read the architecture {name!r}; write it as package.module:factory")
    # The factory is called inside the context too, because it may import its neighbours only then.
    with current_directory_on_path():
        factory = find_factory(module_name, attribute)
        arguments: dict[str, int] = {"num_classes": num_classes}
        if _takes(factory, "in_channels"):
            arguments["in_channels"] = in_channels
        try:
            network = factory(**arguments)
        except Exception as error:
            call = ", ".join(f"{key}={value}" for key, value in arguments.items())
            raise BadInputError(
                f"{name} called with ({call}) failed: {type(error).__name__}: {one_line(error)}"
            ) from error
    if not isinstance(network, nn.Module):
        raise BadInputError(f"{name} returned {_describe(network)} where a torch.nn.Module was expected")
    return network


def find_factory(module_name: str, attribute: str) -> Callable[..., Any]:
    """Import `module_name` (dots allowed) and return its callable `attribute`.

    Raises:
        BadInputError: no such module or attribute, the import fails, or the attribute cannot be called.
    """
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A missing module and an existing module that lacks a dependency need different remedies.
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise BadInputError(
                f"no module {module_name!r} on the Python path or in {os.getcwd()}; run from the directory that holds "
                "it, or set PYTHONPATH"
            ) from error
        raise BadInputError(
            f"importing {module_name} failed: {type(error).__name__}: {one_line(error)}; install what it needs"
        ) from error
    except Exception as error:
        raise BadInputError(f"importing {module_name} failed: {type(error).__name__}: {one_line(error)}") from error
    factory = getattr(module, attribute, None)
    if factory is None:
        where = getattr(module, "__file__", None) or module_name
        raise BadInputError(f"module {module_name!r} ({where}) has no {attribute!r}; check the name after the colon")
    if not callable(factory):
        raise BadInputError(f"{module_name}:{attribute} is {_describe(factory)}, which cannot be called")
    found: Callable[..., Any] = factory
    return found


@contextlib.contextmanager
def current_directory_on_path() -> Iterator[None]:
    """Put the current directory last on the Python path: its modules can be imported but hide no installed ones."""
    here = os.getcwd()
    importlib.invalidate_caches()
    sys.path.append(here)
    try:
        yield
    finally:
        # The first entry of that name may have been there before: remove the one added last.
        for i in range(len(sys.path) - 1, -1, -1):
            if sys.path[i] == here:
                del sys.path[i]
                break


def _takes(factory: Callable[..., Any], parameter: str) -> bool:
    """Whether `factory` names `parameter`. ``**kwargs`` does not count: its receiver may not accept the name."""
    try:
        return parameter in inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return False


def _describe(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"
