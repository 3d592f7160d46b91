"""What a command refuses at once: names of devices, and files that are not there. Importing torch takes seconds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def check_early(*, device: str | None = None, samples: Iterable[Path | None] = (), bundle: Path | None = None) -> None:
    """Refuse what the command's own code would refuse later, in the same words.

    Args:
        device: value of ``--device``.
        samples: sample sets to read; None: not given.
        bundle: a bundle to open; one of the Hub is left to the command.

    Raises:
        BadInputError: no such device name, set or bundle.
    """
    from jboost.engine.system.devices import DeviceName

    if device is not None:
        DeviceName.parse(device)
    given = [path for path in samples if path is not None]
    if given:
        from jboost.engine.samples.files import check_there

        for path in given:
            check_there(path)
    if bundle is not None and not str(bundle).startswith("hf:"):
        from jboost.engine.bundle import Bundle

        Bundle(bundle)
