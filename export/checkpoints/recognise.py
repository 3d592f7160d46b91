"""Recognise a state dict by its names and shapes: wrappers, normalisation, architecture, classes, channels.

Published checkpoints wrap the network in other modules (DataParallel's ``module.``, the Madry lab's attacker, a
normaliser before the model). `views` removes them one by one; the loader takes the view that fits best.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from jboost.engine.errors import BadInputError
from jboost.trainer.architectures import small_resnet_name
from jboost.trainer.joint import NORMALIZATIONS
from jboost.trainer.resnet import RESNETS, ResNetShape
from jboost.trainer.small_resnet import BLOCKS_PER_STAGE

Shapes = Mapping[str, tuple[int, ...]]
Values = tuple[float, ...]

# A prefix names a wrapper when every entry of the file has it. `1.`: Sequential(normaliser, network).
_WRAPPERS = ("module.", "model.", "network.", "net.", "1.")

# The most wrappers to remove. Published checkpoints have up to five; each one costs a pass over all names.
_MOST_WRAPPERS = 32

# Names of normalisers' values: the Madry lab's two, then RobustBench's kinds and the usual hand-written ones.
_NORMALIZERS = (
    ("normalizer.new_mean", "normalizer.new_std"),
    ("attacker.normalize.new_mean", "attacker.normalize.new_std"),
    ("normalize.mean", "normalize.std"),
    ("normalizer.mean", "normalizer.std"),
    ("0.mean", "0.std"),
    ("mu", "sigma"),
    ("mean", "std"),
    ("pixel_mean", "pixel_std"),
)

# Usual names of the last and the first layer in networks from elsewhere (torchvision, timm).
_HEAD = re.compile(r"(?:fc|linear|head|head\.fc|heads\.head|classifier(?:\.\d+)?)\.weight")
_STEM = re.compile(r"(?:conv1|conv_stem|stem\.0|features\.0(?:\.0)?|patch_embed\.proj|conv_proj)\.weight")


@dataclass(frozen=True)
class View:
    """A state dict with some of its wrappers removed.

    Attributes:
        weights: name -> tensor.
        mean, std: values of a removed normaliser, as stored (one per channel, or one for all); None if there was none.
        lost_normalizer: whether a ``1.`` was removed and no normaliser with it: the values of the ``0.`` before it are unknown.
        released: whether it has the marks of the paper's released checkpoints: ``model.*`` and a scalar ``dummy``.
        notes: one-line remarks on everything left out.
    """

    weights: Mapping[str, Tensor]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    released: bool = False
    lost_normalizer: bool = False
    notes: tuple[str, ...] = ()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """name -> shape."""
        return {name: tuple(tensor.shape) for name, tensor in self.weights.items()}


@dataclass(frozen=True)
class Inferred:
    """One of our architectures, recognised by its weights.

    Attributes:
        arch: the architecture's name.
        num_classes: number of logits; None where the last layer is missing.
        in_channels: number of image channels.
    """

    arch: str
    num_classes: int | None
    in_channels: int


def views(weights: Mapping[str, Tensor]) -> Iterator[View]:
    """Yield `weights` unchanged, then with one more wrapper removed each time, until none is left.

    Raises:
        BadInputError: removing a wrapper's name would merge two entries, or there are more than `_MOST_WRAPPERS`.
    """
    view = View(weights)
    for _ in range(_MOST_WRAPPERS + 1):
        yield view
        peeled = _peel(view)
        if peeled is None:
            return
        view = peeled
    raise BadInputError(
        f"the checkpoint's weights lie in more than {_MOST_WRAPPERS} wrappers (such as module.); save the plain network's "
        "state_dict()"
    )


def _peel(view: View) -> View | None:
    """Remove one wrapper; return None if there is none."""
    names = view.weights.keys()
    if any("_orig_mod" in name.split(".") for name in names):
        return replace(view, weights=_without_compile(view.weights))
    has_model = any(name.startswith("model.") for name in names)
    has_module = any(name.startswith("module.") for name in names)
    # The Madry lab's attacker holds a second copy of the network; torch's AveragedModel holds a counter.
    spare = {n for n in names if (has_model and n.startswith("attacker.model.")) or (has_module and n == "n_averaged")}
    if spare:
        return replace(view, weights=_without(view.weights, spare))
    unused = {n for n in names if n.startswith("sub_block1.")}
    if unused and any(n.startswith("block1.layer.") for n in names):
        note = f"left out sub_block1.* ({len(unused)} tensors): TRADES' code defines that block and never runs it"
        return replace(view, weights=_without(view.weights, unused), notes=(*view.notes, note))
    if has_model and "dummy" in names and view.weights["dummy"].numel() == 1:
        rest = _without(view.weights, {"dummy"})
        return replace(view, weights=rest, released=all(n.startswith("model.") for n in rest))
    for mean_name, std_name in _NORMALIZERS:
        if mean_name in names and std_name in names:
            found = _normalizer(view.weights[mean_name], view.weights[std_name])
            if found is None:
                continue
            rest = _without(view.weights, {mean_name, std_name})
            # Keep the outermost normaliser; a second one (the attacker's) repeats it.
            if view.mean is not None:
                return replace(view, weights=rest)
            mean, std, remark = found
            return replace(view, weights=rest, mean=mean, std=std, notes=(*view.notes, *remark))
    for prefix in _WRAPPERS:
        if names and all(name.startswith(prefix) for name in names):
            lost = view.lost_normalizer or prefix == "1."
            rest = {name[len(prefix) :]: tensor for name, tensor in view.weights.items()}
            return replace(view, weights=rest, lost_normalizer=lost)
    return None


def normalizer_among(
    weights: Mapping[str, Tensor],
) -> tuple[Values, Values, tuple[str, ...], tuple[str, str]] | None:
    """Return mean, std, remarks and names of the one normaliser among tensors that no network needs; None without one."""
    found = []
    for mean_name, std_name in _NORMALIZERS:
        for name in weights:
            if name == mean_name or name.endswith(f".{mean_name}"):
                other = name[: len(name) - len(mean_name)] + std_name
                if other in weights and (values := _normalizer(weights[name], weights[other])) is not None:
                    found.append((*values, (name, other)))
    return found[0] if len({values[:2] for values in found}) == 1 else None


def _normalizer(mean: Tensor, std: Tensor) -> tuple[Values, Values, tuple[str, ...]] | None:
    """Return a normaliser's mean and std for images in [0, 1], and remarks; None if these are no such values."""
    means, stds = _values(mean), _values(std)
    if means is None or stds is None:
        return None
    blue_first = tuple(reversed(NORMALIZATIONS["imagenet"][0]))
    scale = 255 if max(means) > 1 else 1
    odd: tuple[str, ...] = ()
    if len(means) == 3 and all(abs(m - scale * b) < 0.002 * scale for m, b in zip(means, blue_first, strict=True)):
        odd = (
            "normalisation: the checkpoint's means are ImageNet's in the order blue, green, red; jboost passes red, green, blue: "
            "if the network wants the former, flip the channels in a factory",
        )
    # No mean of images in [0, 1] is above 1, and no spread is near 2: these are of images in 0-255.
    if max(means) > 1 or max(stds) >= 2:
        means, stds = (tuple(round(v / 255, 9) for v in values) for values in (means, stds))
        return means, stds, (*odd, "normalisation: the checkpoint's values are for images in 0-255 and divided by 255")
    return means, stds, odd


def _without(weights: Mapping[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if name not in names}


def _without_compile(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove torch.compile's ``_orig_mod`` from the names, at any depth."""
    plain: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        short = ".".join(part for part in name.split(".") if part != "_orig_mod")
        if short in plain:
            raise BadInputError(
                f"the checkpoint holds {short!r} twice, with and without _orig_mod; save one of the two"
            )
        plain[short] = tensor
    return plain


def _values(tensor: Tensor) -> tuple[float, ...] | None:
    """Return a normaliser's entry ([C], [C, 1, 1], [1, C, 1, 1] or a scalar) as numbers; None for anything else."""
    if (
        not tensor.is_floating_point()
        or not 1 <= tensor.numel() <= 16
        or max(tensor.shape, default=1) != tensor.numel()
    ):
        return None
    # The shortest decimal with the same float32 value: 0.485, not 0.48500001430511475.
    return tuple(float(str(np.float32(v))) for v in tensor.flatten().tolist())


def infer(shapes: Shapes) -> Inferred | None:
    """Return our architecture whose state dict has these names and shapes; None if there is none.

    This reads only the entries that distinguish the architectures; the loader compares every name and shape. The network may
    lie under any prefix, if it is the only one: the rest may be another task's.
    """
    found = {_infer(shapes)} if "conv1.weight" in shapes else set()
    if not found:
        starts = [n.removesuffix("conv1.weight") for n in shapes if n.endswith(".conv1.weight")]
        starts = [
            p for p in starts if f"{p}layer1.0.conv1.weight" in shapes or f"{p}block1.layer.0.conv1.weight" in shapes
        ]
        for start in starts[:_MOST_WRAPPERS]:
            found.add(_infer({n[len(start) :]: shape for n, shape in shapes.items() if n.startswith(start)}))
    return next(iter(found)) if len(found) == 1 else None


def _infer(shapes: Shapes) -> Inferred | None:
    stem = shapes.get("conv1.weight", ())
    if len(stem) != 4:
        return None
    arch = _resnet(shapes) or _small_resnet(shapes) or _cifar_wrn(shapes)
    head = shapes.get("fc.weight", ())
    return None if arch is None else Inferred(arch, head[0] if len(head) == 2 else None, stem[1])


def _blocks(shapes: Shapes, stage: str) -> int:
    """Count the blocks of `stage`: names ``<stage>.<number>.*``."""
    return len({name[len(stage) + 1 :].split(".")[0] for name in shapes if name.startswith(stage + ".")})


def _resnet(shapes: Shapes) -> str | None:
    if shapes["conv1.weight"][2:] != (7, 7):
        return None
    blocks = (
        _blocks(shapes, "layer1"),
        _blocks(shapes, "layer2"),
        _blocks(shapes, "layer3"),
        _blocks(shapes, "layer4"),
    )
    bottleneck = "layer1.0.conv3.weight" in shapes
    inner = shapes.get("layer1.0.conv2.weight", (0, 0))
    if inner[0] != inner[1]:
        return None  # a grouped convolution: ResNeXt
    shape = ResNetShape(bottleneck, blocks, inner[0])
    return next((name for name, known in RESNETS.items() if known == shape), None)


def _small_resnet(shapes: Shapes) -> str | None:
    width, _, *kernel = shapes["conv1.weight"]
    first = shapes.get("layer1.0.conv1.weight")
    stages = [_blocks(shapes, f"layer{i}") for i in (1, 2, 3, 4)]
    if kernel != [3, 3] or first != (width, width, 3, 3) or stages != [BLOCKS_PER_STAGE] * 3 + [0]:
        return None
    return small_resnet_name(width)


def _cifar_wrn(shapes: Shapes) -> str | None:
    first = shapes.get("block1.layer.0.conv1.weight", ())
    if len(first) != 4 or first[0] < 16 or first[0] % 16 != 0:
        return None
    return f"wrn_{6 * _blocks(shapes, 'block1.layer') + 4}_{first[0] // 16}"


def guess_num_classes(peeled: Sequence[View]) -> int | None:
    """Return the number of outputs of the last layer of a network from elsewhere; None if its name is unusual."""
    for view in reversed(peeled):
        heads = [name for name, shape in view.shapes.items() if _HEAD.fullmatch(name) and len(shape) == 2]
        if heads:
            # classifier.6 comes after classifier.3.
            return view.shapes[max(heads, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])][0]
    return None


def guess_in_channels(peeled: Sequence[View]) -> int | None:
    """Return the image channels of a network from elsewhere: from its normaliser, else its first layer; None if unusual."""
    mean = peeled[-1].mean
    if mean is not None and len(mean) > 1:
        return len(mean)
    for view in reversed(peeled):
        for name, shape in view.shapes.items():
            if _STEM.fullmatch(name) and len(shape) == 4:
                return shape[1]
    return None
