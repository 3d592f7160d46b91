"""The flags of the configuration's fields, and the options that have an effect only beside another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jboost.engine.errors import BadInputError


def flag(field: str) -> str:
    """The command-line flag of a field."""
    return "--" + field.replace("_", "-")


@dataclass(frozen=True)
class Needs:
    """An option that does nothing unless another one has a certain value.

    Attributes:
        field: the option.
        other: the option that it needs.
        met: whether a value of `other` lets `field` have an effect.
        give: what to give to that end.
        rivals: further options that may switch `field` off.
    """

    field: str
    other: str
    met: Callable[[Any], bool]
    give: str
    rivals: tuple[str, ...] = ()


def _is(value: str) -> Callable[[Any], bool]:
    return lambda other: bool(other == value)


NEEDS = (
    Needs("grow_images", "grow_auc", lambda auc: auc is not None, "--grow-auc, e.g. 0.7", rivals=("grow_every",)),
    Needs("ema_warmup", "ema", bool, "--ema, e.g. 0.999"),
    Needs("momentum", "optimizer", _is("sgd"), "--optimizer sgd"),
    Needs("nesterov", "optimizer", _is("sgd"), "--optimizer sgd"),
    Needs("milestones", "schedule", _is("step"), "--schedule step"),
    Needs("gamma", "schedule", _is("step"), "--schedule step and --milestones"),
    Needs("reset_head", "init", lambda init: init is not None, "--init"),
)


def without_effect(
    config: object,
    given: Mapping[str, Any],
    from_file: Mapping[str, Any],
    beneath: Mapping[str, Any],
    file: object,
) -> dict[str, Any]:
    """Check that the options that the user gave have an effect.

    An option that is off, and a file's value that is also the one beneath the file, say nothing: a run's config.json
    holds every value. Where a flag switches off what a file's value needs, the value beneath the file takes its place.

    Args:
        config: the `jboost.trainer.config.TrainConfig` of all layers together.
        given, from_file: the values of the flags and of the file.
        beneath: the values of the preset, the resumed run and the defaults.
        file: the file's name.

    Returns:
        The values to replace.

    Raises:
        BadInputError: an option that was given does nothing.
    """
    replaced = {}
    for needs in NEEDS:
        field, value, other = needs.field, getattr(config, needs.field), getattr(config, needs.other)
        if needs.met(other) or value is False or (field not in given and field not in from_file):
            continue
        if field not in given:
            if value == beneath[field]:
                continue
            if any(name in given for name in (needs.other, *needs.rivals)):
                replaced[field] = beneath[field]
                continue
        name = flag(field) if field in given else f"{file}: {field}"
        why = f"with {flag(needs.other)} {other}" if other else f"without {flag(needs.other)}"
        raise BadInputError(f"{name} has no effect {why}; give {needs.give}, or leave {name.split()[-1]} out")
    return replaced
