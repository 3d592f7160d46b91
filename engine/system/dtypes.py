"""The network's dtypes, by their names on the command line and in a bundle's manifest."""

from __future__ import annotations

from typing import Literal, get_args

from jboost.engine.errors import BadInputError

DtypeName = Literal["fp32", "fp16", "bf16"]
DTYPES: tuple[str, ...] = get_args(DtypeName)


def check_dtype(name: str) -> None:
    """Check that `name` is one of `DTYPES`.

    Raises:
        BadInputError: it is not.
    """
    if name not in DTYPES:
        raise BadInputError(f"unknown dtype {name!r}; choose one of {', '.join(DTYPES)}")
