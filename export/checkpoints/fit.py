"""Fit a file's weights to a network: find the prefix under which they lie, check names and shapes, and load them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from jboost.engine.errors import BadInputError

from .read import some_of
from .recognise import View, normalizer_among

# BatchNorm's batch counter, which only training reads, and what counters of operations leave behind.
_COUNTERS = ("num_batches_tracked", "total_ops", "total_params")
# Beginnings of top-level names that are no layer of a classifier, wherever they stand.
_BESIDE = re.compile(
    r"(?i)(aux|criterion|decoder|discriminator|dummy$|ema|loss|lr$|metric|n_averaged$|optim|projector|projection_head|prototype|queue|"
    r"scaler|seg_?head|step$|teacher|(fc|head|classifier)_?(aux|domain|rot|seg))"
)
# The prefix of a Sequential's second or later module: the first one may be a normaliser.
_AFTER_ANOTHER = re.compile(r"(^|\.)[1-9]\d*\.$")
# The most prefixes to compare. A file has one or two; each one costs a pass over all names.
_MOST_PREFIXES = 32


@dataclass(frozen=True)
class Fit:
    """A view with its names made the network's.

    Attributes:
        view: its weights are those that begin with the prefix, under the network's names.
        whole: the weights under the file's names.
        missing, wrong: names that the network lacks, and shapes that differ.
        unexpected: names of the file's that the network does not have.
        prefix: what was removed from the file's names.
    """

    view: View
    whole: Mapping[str, Tensor]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong: tuple[str, ...]
    prefix: str = ""

    @property
    def faults(self) -> int:
        """How much differs."""
        return len(self.missing) + len(self.unexpected) + len(self.wrong)


def best_fit(path: Path, peeled: Sequence[View], network: nn.Module) -> Fit:
    """The view, and the prefix to remove or add, with the fewest differences from the network.

    Raises:
        BadInputError: two networks in the file fit equally well.
    """
    expected = {n: tuple(t.shape) for n, t in network.state_dict().items() if not _is_counter(n)}
    fits = [fit for view in peeled for fit in _fits(view, expected)]
    best = min(fits, key=lambda fit: fit.faults)
    whole = {fit.prefix: fit for fit in fits if fit.whole is best.whole and not fit.missing and not fit.wrong}
    if len(whole) > 1:
        averaged = [p for p in whole if re.search(r"(?i)ema|average", p)]
        if len(averaged) != 1:
            raise BadInputError(
                f"{path} holds several networks that fit, under {', '.join(sorted(whole))}; save the state_dict() of one of them"
            )
        best, others = whole[averaged[0]], ", ".join(repr(p) for p in whole if p != averaged[0])
        note = f"weights: those under {averaged[0]!r}, not {others} (averaged weights are preferred)"
        best = replace(best, view=replace(best.view, notes=(*best.view.notes, note)))
    return best


def _fits(view: View, expected: Mapping[str, tuple[int, ...]]) -> Iterator[Fit]:
    for removed, added in _prefixes(view.weights, expected):
        renamed = {added + n[len(removed) :]: t for n, t in view.weights.items() if n.startswith(removed)}
        inside = replace(
            view, weights=renamed, lost_normalizer=view.lost_normalizer or _AFTER_ANOTHER.search(removed) is not None
        )
        yield Fit(
            inside,
            view.weights,
            missing=tuple(n for n in expected if n not in renamed),
            unexpected=tuple(
                n
                for n in view.weights
                if not _is_counter(n) and not (n.startswith(removed) and added + n[len(removed) :] in expected)
            ),
            wrong=tuple(
                f"{n} {list(renamed[n].shape)} where {list(shape)} is needed"
                for n, shape in expected.items()
                if n in renamed and tuple(renamed[n].shape) != shape
            ),
            prefix=removed,
        )


def _prefixes(weights: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> list[tuple[str, str]]:
    """Pairs of prefixes, to remove from the file's names and to add: those with which a few names become the network's."""
    found = {("", ""): None}
    ours, theirs = _anchors(list(expected)), _anchors([n for n in weights if not _is_counter(n)])
    for anchor in ours:
        found |= {(n[: len(n) - len(anchor)], ""): None for n in weights if n.endswith(f".{anchor}")}
    for anchor in theirs:
        found |= {("", n[: len(n) - len(anchor)]): None for n in expected if n.endswith(f".{anchor}")}
    return sorted(found, key=lambda pair: len(pair[0]) + len(pair[1]))[:_MOST_PREFIXES]


def _anchors(names: list[str]) -> set[str]:
    return {names[0], names[len(names) // 2], names[-1]} if names else set()


def settled(path: Path, fit: Fit, network: nn.Module, arch: str, *, guessed: bool) -> View:
    """The fit's view, if it holds everything that the network needs; a note lists what else the file holds.

    Args:
        path, arch: the file and the architecture, for messages.
        fit: the best fit.
        network: the network.
        guessed: the architecture was inferred from these names, so that an unknown layer means another network. Where the
            user named it, only a layer inside the network's own modules does (a deeper network, say).

    Raises:
        BadInputError: a tensor is missing or has another shape, or the file holds layers that the network should have.
    """
    view, spare = fit.view, list(fit.unexpected)
    found = normalizer_among({name: fit.whole[name] for name in spare})
    if found is not None and view.mean is None:
        mean, std, remarks, names = found
        view = replace(view, mean=mean, std=std, lost_normalizer=False, notes=(*view.notes, *remarks))
        spare = [name for name in spare if name not in names]
    modules = {name.split(".")[0] for name in network.state_dict()}

    def beside(name: str) -> bool:
        if not name.startswith(fit.prefix):
            return True  # another part of what was trained
        top = name[len(fit.prefix) :].split(".")[0]
        return top not in modules and (not guessed or _BESIDE.match(top) is not None)

    inside = [name for name in spare if not beside(name)] if not (fit.missing or fit.wrong) else spare
    kinds = (("missing", fit.missing), ("unexpected", inside), ("wrong shape", fit.wrong))
    if faults := [f"{kind}: {some_of(names)}" for kind, names in kinds if names]:
        raise BadInputError(f"{path} does not fit {arch}: {'; '.join(faults)}; check --arch and --num-classes")
    # A few numbers outside the network may be a normaliser under names that nobody knows.
    lost = view.mean is None and any(1 < fit.whole[n].numel() <= 4 and fit.whole[n].is_floating_point() for n in spare)
    notes = (f"left out, the network has no such layers: {some_of(spare)}",) if spare else ()
    return replace(view, lost_normalizer=view.lost_normalizer or lost, notes=(*view.notes, *notes))


def fill(path: Path, network: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Load weights of the right names and shapes into a network as float32; return remarks.

    Raises:
        BadInputError: a tensor is not plain, of another kind of number, or holds NaN or infinite values.
    """
    filled: dict[str, Tensor] = {}
    dtypes: set[str] = set()
    for name, needed in network.state_dict().items():
        if name.endswith(_COUNTERS[0]):
            # Only training reads the counter, and old checkpoints lack it.
            filled[name] = torch.zeros((), dtype=torch.int64)
            continue
        tensor = weights[name].detach()
        dense = tensor.layout == torch.strided and not tensor.is_quantized
        if not dense or tensor.is_floating_point() != needed.is_floating_point():
            raise BadInputError(
                f"{name} in {path} is {tensor.dtype}, {tensor.layout}; save the model with plain float32 weights"
            )
        if not tensor.is_floating_point():
            filled[name] = tensor.to(needed.dtype, copy=True)
            continue
        dtypes.add(str(tensor.dtype).removeprefix("torch."))
        filled[name] = tensor.to(torch.float32, copy=True).contiguous()
        if not bool(torch.isfinite(filled[name]).all()):
            raise BadInputError(
                f"{name} in {path} holds NaN or infinite values; use an earlier checkpoint of the training"
            )
    network.load_state_dict(filled, assign=True)
    network.float()
    dtypes.discard("float32")
    return [f"weights: {', '.join(sorted(dtypes))} converted to float32"] if dtypes else []


def _is_counter(name: str) -> bool:
    return name.endswith(_COUNTERS)
