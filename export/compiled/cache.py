"""This machine's cache of compiled packages that a bundle does not hold: each is compiled once, then loaded.

Packages are code. One is loaded only if the user's own record (`jboost.engine.system.trust`) says that it was compiled here for its
key, because others may be able to write into the cache's folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jboost.engine
import jboost.export
from jboost.engine.bundle import sha256_file
from jboost.engine.errors import FailureError
from jboost.engine.system.cache import cache_folder
from jboost.engine.system.locks import only_writer
from jboost.engine.system.replacing import replacing
from jboost.engine.system.trust import is_trusted, remember, trust_folder


def cached(
    key: dict[str, Any], make: Callable[[Path], dict[str, float]], *, say: Callable[[], object]
) -> tuple[Path, dict[str, float]]:
    """Return the package for `key`; make it if the cache does not hold it.

    Args:
        key: everything the package depends on, as JSON values; a hash of jboost's sources is added.
        make: writes and verifies the package at a path, and returns the figures.
        say: called before a package is made.

    Returns:
        The package and its figures. A package that does not match its hash, or that the user's record does not know, is made again;
        one that another process is making is waited for.

    Raises:
        FailureError: the cache's folder cannot be written. Errors of `make` pass through.
    """
    text = json.dumps(key | {"sources": _sources()}, sort_keys=True)
    folder = cache_folder()
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    package = folder / f"{name}.pt2"
    note = package.with_suffix(".json")
    if (errors := _known(package)) is not None:
        return package, errors
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Another process that compiles the same package is waited for: minutes of work that need not be done twice.
        with only_writer(package, on_wait=logging.getLogger("jboost").info):
            if (errors := _known(package)) is not None:
                return package, errors
            say()
            # A kill between the two renames does no harm: a package whose note is missing or has another hash is made again.
            with replacing(note) as new_note, replacing(package) as new_package:
                errors = make(new_package)
                sha256 = sha256_file(new_package)
                content = {"sha256": sha256, "errors": errors, "key": key}
                new_note.write_text(json.dumps(content, indent=2))
            _remember(name, sha256, folder)  # before others may look
    except OSError as e:
        raise FailureError(
            f"the cache of compiled packages, {folder}, cannot be written ({e.strerror or e}); "
            "set JBOOST_CACHE to a folder that can be written"
        ) from e
    return package, errors


def _known(package: Path) -> dict[str, float] | None:
    """The figures of a package that the cache holds whole and the user's record knows; None if it does not."""
    try:
        known = json.loads(package.with_suffix(".json").read_text())
        errors: dict[str, float] = known["errors"]
        sha256 = sha256_file(package)
    except (OSError, ValueError, KeyError):
        return None
    return errors if sha256 == known["sha256"] and is_trusted("package", f"{package.stem}-{sha256}") else None


def _remember(name: str, sha256: str, folder: Path) -> None:
    """Record that the package called `name` was compiled here."""
    try:
        remember("package", f"{name}-{sha256}", {"cache": str(folder)})
    except OSError:
        # This run made the package and may load it; the next one makes it again.
        logging.getLogger("jboost").warning(
            "the record of trusted code, %s, cannot be written: the next run compiles again; set JBOOST_TRUST to a folder that "
            "can be written",
            trust_folder(),
        )


@cache
def _sources() -> str:
    """Hash the source code of `jboost.engine` and `jboost.export`, which determines what a package computes."""
    digest = hashlib.sha256()
    for package in (jboost.engine, jboost.export):
        for folder in package.__path__:
            for file in sorted(Path(folder).rglob("*.py")):
                digest.update(file.read_bytes())
    return digest.hexdigest()
