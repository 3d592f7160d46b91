"""The names that users and torch give to devices: ``auto``, ``cpu``, ``cuda`` and ``cuda:N``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self, cast

from jboost.engine.errors import BadInputError

DeviceKind = Literal["auto", "cpu", "cuda"]
_NAME = re.compile(r"(?:(auto)|(cpu|cuda)(?::(0|[1-9][0-9]*))?)")


@dataclass(frozen=True)
class DeviceName:
    """A parsed device name. Parsing does not check whether this machine has the device.

    Attributes:
        kind: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        number: N of ``"cuda:N"`` or ``"cpu:N"``; None if the name has no number.
    """

    kind: DeviceKind
    number: int | None = None

    @classmethod
    def parse(cls, name: str) -> Self:
        """The device called `name`.

        Raises:
            BadInputError: `name` is not a device name.
        """
        found = _NAME.fullmatch(name)
        if found is None:
            raise BadInputError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N")
        auto, kind, number = found.groups()
        return cls(cast(DeviceKind, auto or kind), None if number is None else int(number))

    @property
    def index(self) -> int:
        """The number; 0, the first device, if the name has none."""
        return self.number or 0


def device_kind(name: str) -> DeviceKind:
    """The kind of the device called `name`: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises:
        BadInputError: `name` is not a device name.
    """
    return DeviceName.parse(name).kind
