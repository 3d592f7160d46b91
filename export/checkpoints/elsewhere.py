"""Networks that our trainer did not write: which architecture, how many classes and channels, and which weights fit."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from jboost.engine.errors import BadInputError, printable
from jboost.trainer.architecture_names import OTHERS
from jboost.trainer.architectures import NAMES, Architecture, find_architecture
from jboost.trainer.registries import knows
from jboost.trainer.resnet import RESNETS

from .fit import best_fit, settled
from .layers import channels_of_weights, image_channels, outputs
from .read import some_of
from .recognise import Inferred, View, guess_in_channels, guess_num_classes, infer, views
from .source import Source, named_architecture

_UNSEEN = "activations and pooling cannot be read from weights"
# The released checkpoints take 64x64 images.
_RELEASED_RESOLUTION = 64


@dataclass(frozen=True, eq=False)
class Found:
    """A recognised checkpoint: the view to load and the network to load it into. `network` has no weights yet.

    `counted` is False where the number of classes is read off the network's last layer alone.
    """

    view: View
    arch: Architecture
    network: nn.Module
    num_classes: int
    in_channels: int
    resolution: int | None
    resolution_from: str
    notes: tuple[str, ...]
    counted: bool = True


def from_elsewhere(source: Source, num_classes: int | None, in_channels: int | None) -> Found:
    """Infer from the weights whatever the options leave out, then choose the view that fits the network best.

    Raises:
        BadInputError: the architecture or a number cannot be inferred, two sources contradict each other, or the weights
            do not fit.
    """
    path = source.path
    peeled = list(views(source.content.weights))
    inferred = next((found for view in peeled if (found := infer(view.shapes)) is not None), None)
    architecture, how, remarks = _architecture(source, inferred, peeled)
    if architecture.builtin:
        classes, counted = _classes_of_ours(path, peeled, inferred, num_classes), True
        channels = inferred.in_channels if inferred is not None else guess_in_channels(peeled) or 3
        if in_channels not in (None, channels):
            raise BadInputError(
                f"the weights in {path} take {channels} channels, not {in_channels}; leave --in-channels out"
            )
        network = build(architecture, classes, channels)
    else:
        network, classes, channels, counted = _foreign(source, architecture, peeled, num_classes, in_channels)
    guessed = source.asked is None and architecture.builtin
    view = settled(path, best_fit(path, peeled, network), network, architecture.name, guessed=guessed)
    released = view.released and architecture.name in RESNETS
    if released:
        how = "the paper's released checkpoint"
    notes = (f"architecture: {architecture.name}, {classes} classes ({how})", *remarks)
    resolution, resolution_from = architecture.resolution, f"usual image size of {architecture.name}"
    if released:
        resolution, resolution_from = _RELEASED_RESOLUTION, "image size of the released checkpoints"
    else:
        said = source.facts.usual or (None if architecture.builtin else architecture.usual(network))
        if said is not None and said.resolution is not None:
            resolution, resolution_from = said.resolution, said.source
    return Found(view, architecture, network, classes, channels, resolution, resolution_from, notes, counted)


def _architecture(
    source: Source, inferred: Inferred | None, peeled: Sequence[View]
) -> tuple[Architecture, str, tuple[str, ...]]:
    """The architecture, where it comes from, and remarks."""
    path, told = source.path, source.content.arch
    if source.asked is not None:
        asked = source.asked
        if asked.builtin or asked.registered:
            asked = _with_arguments(source, asked)
        if asked.builtin and inferred is not None and inferred.arch != asked.name:
            raise BadInputError(f"the weights in {path} belong to {inferred.arch}, not {asked.name}; leave --arch out")
        named = source.facts.architecture or told
        plain = _plain(asked.name.rpartition(":")[2])
        differs = named is not None and (asked.builtin or asked.registered) and _plain(named) != plain
        remark = (f"the file names its architecture {named}; --arch {asked.name} is taken",) if differs else ()
        return asked, "--arch", remark
    described = named_architecture(source.facts, path, None if inferred is None else inferred.arch)
    if described is not None:
        return described, "config.json", ()
    if inferred is None:
        raise BadInputError(
            f"cannot infer the architecture of {path} from its weights ({some_of(peeled[-1].weights)}); "
            + _how_to_name(source)
        )
    _check_arguments(source, told or inferred.arch)
    if told is not None and _contradicts(told, inferred.arch):
        raise BadInputError(
            f"the weights in {path} have the names and shapes of {inferred.arch}, but the file names {told}: {_arch_for(told)}, or "
            f"--arch {inferred.arch} if it is one"
        )
    remark = ()
    if inferred.arch in RESNETS:
        remark = (f"{_UNSEEN}; torchvision's are assumed (else name the network with --arch)",)
    elif inferred.arch.startswith("wrn_"):
        remark = (
            "activations cannot be read from weights; the ReLU of TRADES' WideResNet is assumed (else use --arch)",
        )
    return find_architecture(inferred.arch), "inferred from the names and shapes of the weights", remark


def _with_arguments(source: Source, asked: Architecture) -> Architecture:
    """The named architecture, built with the arguments that a file beside the weights gives for it."""
    named, arguments = source.facts.architecture, source.facts.arguments
    if asked.registered and named is not None and arguments and _plain(named) == _plain(asked.name.rpartition(":")[2]):
        described = named_architecture(source.facts, source.path, None)
        if described is not None:
            return described
    _check_arguments(source, asked.name)
    return asked


def _check_arguments(source: Source, name: str) -> None:
    """Refuse to build a network without the arguments that its training gave it: they may change what it computes."""
    given = {key: value for key, value in source.content.arguments.items() if value is not None}
    if given:
        shown = printable(", ".join(f"{key}={value!r}" for key, value in given.items())[:200])
        raise BadInputError(
            f"{source.path} was trained as {name} with {shown}, which its name does not say: write a factory that builds it "
            "so and pass --arch file.py:factory"
        )


def _how_to_name(source: Source) -> str:
    told, theirs = source.content.arch, source.facts.transformers
    if theirs is not None:
        call = f"transformers.{theirs}(transformers.AutoConfig.from_pretrained({str(source.path.parent)!r}))"
        return (
            f"config.json names {theirs} of transformers: write a factory that returns it, e.g. def build(): return {call}, and "
            "pass --arch file.py:build"
        )
    if told is not None:
        return f"the file names {told}: {_arch_for(told)}"
    return f"name it: --arch {OTHERS}, or one of {', '.join(NAMES)}"


def _arch_for(told: str) -> str:
    """The option that names an architecture as a training script called it."""
    if knows(told, "timm"):
        return f"use --arch timm:{told}"
    if knows(told, "torchvision"):
        return f"use --arch torchvision:{told.lower()}"
    return "use --arch file.py:factory with a factory that builds it"


def _plain(name: str) -> str:
    """A name without timm's tag, in one spelling."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower().partition(".")[0]).strip("_")


def _contradicts(told: str, inferred: str) -> bool:
    """Whether a file's own name for its architecture is another one's than the inferred: a variant, or one of a registry."""
    plain = _plain(told)
    if re.search(r"silu|swish|gelu|mish|blur", plain):
        return True
    known = inferred.replace("_", "")
    if inferred not in RESNETS or plain.replace("_", "") in (known, f"tv{known}"):
        return False
    return re.search(r"res_?net|resnext", plain) is not None or knows(told, "timm") or knows(told, "torchvision")


def _classes_of_ours(path: Path, peeled: Sequence[View], inferred: Inferred | None, num_classes: int | None) -> int:
    told = inferred.num_classes if inferred is not None else guess_num_classes(peeled)
    _agree(path, told, num_classes)
    if told is None and inferred is not None:
        told = 1  # the last layer is missing: `settled` reports it
    classes = num_classes if num_classes is not None else told
    if classes is None:
        raise BadInputError(f"cannot infer the number of classes of {path} from its weights; give --num-classes")
    return classes


def _agree(path: Path, told: int | None, num_classes: int | None) -> None:
    if num_classes is not None and told is not None and num_classes != told:
        raise BadInputError(f"the last layer in {path} has {told} classes, not {num_classes}; leave --num-classes out")


def _foreign(
    source: Source, architecture: Architecture, peeled: Sequence[View], num_classes: int | None, in_channels: int | None
) -> tuple[nn.Module, int, int, bool]:
    """Build a network that others define; return it, its classes and channels, and whether the classes are more than a guess."""
    path, options = source.path, architecture.options()
    told = guess_num_classes(peeled)
    told = source.facts.num_classes if told is None else told
    if "num_classes" in options:
        _agree(path, told, num_classes)
    classes = num_classes if num_classes is not None else told
    hint = in_channels if in_channels is not None else guess_in_channels(peeled)
    network = architecture.build(classes, hint)
    fit = best_fit(path, peeled, network)
    stored = channels_of_weights(network, fit.view.weights)
    if in_channels is None and "in_channels" in options and stored not in (None, image_channels(network)):
        network = architecture.build(classes, stored)
    channels = in_channels
    if channels is None:
        mean = fit.view.mean or peeled[-1].mean
        channels = len(mean) if mean is not None and len(mean) > 1 else image_channels(network)
    if channels is None:
        raise BadInputError(
            f"the first layer of {architecture.name} does not tell the number of image channels; give --in-channels"
        )
    built = outputs(network)
    if num_classes is None and built is not None and "num_classes" not in options:
        return network, built, channels, False
    if classes is None:
        if built is None:
            raise BadInputError(f"cannot infer the number of classes of {path} from its weights; give --num-classes")
        return network, built, channels, False
    return network, classes, channels, True


def build(architecture: Architecture, num_classes: int, in_channels: int) -> nn.Module:
    """Build a network to load weights into.

    Our own networks are built on the meta device and take no memory until then. A factory runs normally, because it may
    compute buffers that no file stores.
    """
    with torch.device("meta") if architecture.builtin else contextlib.nullcontext():
        return architecture.build(num_classes, in_channels)
