"""JSON without NaN, and typed reading of JSON that anyone may have written: types are checked, and lengths are bounded.

A reader takes the value and what to call it in a message. Each reader raises `BadInputError` with a short reason, such as
"num_classes must be a whole number from 1 on, it is -3"; whoever calls it adds the file and the remedy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from jboost.engine.errors import BadInputError, printable

#: The most entries of a list or an object, unless the caller says otherwise.
MOST = 100_000
#: Figures beyond this are not shown: their squares and differences must not overflow.
LARGEST_FIGURE = 1e30
_LONGEST_TEXT = 10_000
_INT64 = 2**63 - 1
T = TypeVar("T")


def load_json(text: str | bytes, *, allow_nan: bool = False) -> Any:
    """Parse JSON strictly: a name that an object has twice is refused, as are NaN and infinities unless they are allowed.

    Raises:
        BadInputError: it is not JSON, or nested too deep.
    """

    def constant(name: str) -> Any:
        if allow_nan:
            return float(name)
        raise BadInputError(f"it holds {name}, which is no JSON number")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise BadInputError("an object in it has one name twice")
        return found

    try:
        return json.loads(text, parse_constant=constant, object_pairs_hook=unique)
    except BadInputError:
        raise
    except RecursionError as e:
        raise BadInputError("it is nested too deep") from e
    except (ValueError, MemoryError) as e:
        raise BadInputError(f"it is not valid JSON ({e})") from e


def dump_json(content: Any, *, indent: int | None = None) -> str:
    """JSON that every parser reads: null for a number that is not finite, for which JSON has no word."""
    return json.dumps(_plain(content), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def as_mapping(value: Any, name: str, *, most: int = MOST) -> dict[str, Any]:
    """An object with at most `most` entries."""
    if not isinstance(value, dict):
        raise _wrong(name, "an object", value)
    _few_enough(value, name, most)
    return value


def as_list(value: Any, name: str, *, most: int = MOST) -> list[Any]:
    """A list with at most `most` entries."""
    if not isinstance(value, list):
        raise _wrong(name, "a list", value)
    _few_enough(value, name, most)
    return value


def as_text(value: Any, name: str) -> str:
    """A string of at most 10,000 characters."""
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        raise _wrong(name, f"text of at most {_LONGEST_TEXT:,} characters", value)
    return value


def as_bool(value: Any, name: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise _wrong(name, "true or false", value)
    return value


def as_int(value: Any, name: str, *, least: int = 0, most: int = _INT64) -> int:
    """A whole number from `least` to `most`; true and false are none."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        limit = f"from {least} on" if most == _INT64 else f"from {least} to {most}"
        raise _wrong(name, f"a whole number {limit}", value)
    return value


def as_float(value: Any, name: str, *, least: float = -math.inf) -> float:
    """A finite number of at least `least`."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not _finite(value) or value < least:
        raise _wrong(name, "a finite number" + ("" if math.isinf(least) else f" of at least {least:g}"), value)
    return float(value)


def as_figure(value: Any, name: str) -> float:
    """A measured number; NaN, which means that it is missing, for one that is not finite or beyond `LARGEST_FIGURE`."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _wrong(name, "a number", value)
    return float(value) if _finite(value) and abs(value) <= LARGEST_FIGURE else math.nan


def or_none(value: Any, read: Callable[[Any], T]) -> T | None:
    """None for null, else what `read` makes of the value."""
    return None if value is None else read(value)


def check_keys(found: Mapping[str, Any], needed: Iterable[str], optional: Iterable[str] | None = ()) -> None:
    """Check the names of an object's entries; `optional` None: any others may be there."""
    needed = list(needed)
    missing = [key for key in needed if key not in found]
    unknown = [] if optional is None else [key for key in found if key not in {*needed, *optional}]
    for what, keys in (("lacks", missing), ("has the unknown entry", unknown)):
        if keys:
            raise BadInputError(f"it {what} {printable(', '.join(keys)[:100])}")


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _few_enough(value: Any, name: str, most: int) -> None:
    if len(value) > most:
        raise BadInputError(f"{name} has {len(value):,} entries, at most {most:,} are read")


def _wrong(name: str, what: str, value: Any) -> BadInputError:
    try:
        shown = json.dumps(value)
    except ValueError:  # a whole number with more digits than Python prints
        shown = "a huge number"
    return BadInputError(
        f"{printable(name)} must be {what}, it is {printable(shown[:60])}{'...' if len(shown) > 60 else ''}"
    )
