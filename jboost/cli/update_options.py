"""Options of `jboost boost` taken from the registry of updates: ``--update``, and one for each field of each update."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import pairwise
from typing import Annotated, Any

import typer


def load_named_updates(arguments: Sequence[str]) -> None:
    """Register the updates that ``--update`` names and jboost does not have, before the options are made from the registry.

    Raises:
        BadInputError: there is no such update, or its code is not trusted or fails.
    """
    names = [after for word, after in pairwise(arguments) if word == "--update"]
    names += [word.removeprefix("--update=") for word in arguments if word.startswith("--update=")]
    if names:
        from jboost.engine.method.plugins import find_update_name

        for name in names:
            find_update_name(name, trust_code="--trust-code" in arguments)


def take_auto(values: dict[str, Any]) -> str | None:
    """Take ``"auto"`` out of the values of updates' fields if it is the step size; None if it is not."""
    from jboost.engine.method.auto_step import AUTO

    if values.get("step_size") != AUTO:
        return None
    values["step_size"] = None
    return AUTO


def _number_or_auto(text: str) -> float | str:
    """The value of ``--step-size``."""
    from jboost.engine.method.auto_step import AUTO

    try:
        return text if text == AUTO else float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number nor {AUTO}") from None


def with_update_options(command: Callable[..., None], *, after: str, panel: str) -> Callable[..., None]:
    """Return `command` with a help text for ``update`` and an option for each field of the registered updates.

    The registry is read when this function is called, not when `command` is defined.

    Args:
        command: takes ``update`` and the fields of updates as keyword arguments; None: not given.
        after: name of the parameter after which the help lists the options.
        panel: panel of the help for the options.
    """
    from jboost.engine.method.settings import DEFAULT_UPDATE
    from jboost.engine.method.updates import UPDATES

    def option(name: str, value_type: type, help: str, default: str) -> inspect.Parameter:
        own: dict[str, Any] = {"parser": _number_or_auto, "metavar": "<float|auto>"} if name == "step_size" else {}
        shown = typer.Option(help=help, show_default=default, rich_help_panel=panel, **own)
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[value_type | None, shown]
        )

    names = dict.fromkeys(name for update in UPDATES.values() for name in update.options)
    options = [option(name, *_described(name)) for name in names]
    *first, last = UPDATES
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        if parameter.name == "update":
            known = f"{', '.join(first)} or {last}" if first else last
            parameters.append(
                option("update", str, f"Update: {known}; one of an installed package; or FILE.py:NAME.", DEFAULT_UPDATE)
            )
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        if parameter.name == after:
            parameters += options

    @wraps(command)
    def wrapper(**values: Any) -> None:
        command(**values)

    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return wrapper


def _described(name: str) -> tuple[type, str, str]:
    """Return a field's type, help and default for the registered updates; text that updates share appears once."""
    from jboost.engine.method.updates import UPDATES, owners

    having = owners(name)
    by_text: dict[str, list[str]] = {}
    defaults: dict[str, None] = {}
    for update, its in having.items():
        field = its.options[name]
        default = field.default
        text = ": ".join(part for part in (field.option.help, " or ".join(field.option.choices)) if part)
        by_text.setdefault(text, []).append(update)
        defaults["none" if default is None else f"{default:g}" if isinstance(default, float) else str(default)] = None
    if len(by_text) == 1 and len(having) == len(UPDATES):
        help = text[:1].upper() + text[1:]
    else:
        help = "; ".join(f"{', '.join(updates)}: {text}" for text, updates in by_text.items())
    return field.type, f"{help}.", "; ".join(defaults)
