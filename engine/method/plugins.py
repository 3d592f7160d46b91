"""Objectives and updates from outside jboost: by entry points of installed packages, or from a file that the user names.

A package declares them in its metadata::

    [project.entry-points."jboost.objectives"]
    margin = "my_package.losses:margin"
    [project.entry-points."jboost.updates"]
    tamed = "my_package.updates:TamedLangevin"

A file's are named ``FILE.py:NAME``. An objective's full name is its name and the digest of its source, ``margin@1f2e3d4c``. Graphs,
caches, summaries and unfinished runs carry the full name, so that a function that was changed never gets the graph of the
old one.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from jboost.engine.errors import BadInputError, one_line
from jboost.engine.system.commands import in_shell
from jboost.engine.system.trust import is_trusted

from .objectives import LABEL_FREE, NEEDS_L0, OBJECTIVES, TYPED, Objective
from .probe import check_objective, check_update
from .sources import SEPARATOR, digest_of
from .updates import MOVES, UPDATES, Update, register

OBJECTIVE_GROUP, UPDATE_GROUP = "jboost.objectives", "jboost.updates"
#: The kind of a trusted file in the user's record.
FILE = "file"
_IN_FILE = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_][A-Za-z0-9_]*)")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
#: Updates of files by what the user typed, and the source that was run.
_updates: dict[tuple[str, str], str] = {}


def find_objective(text: str, *, trust_code: bool = False) -> str:
    """The full name of an objective in `OBJECTIVES`, loaded and checked if it is from outside jboost.

    Args:
        text: a registered name; the name of an installed package's entry point, with or without its digest; or
            ``FILE.py:NAME``.
        trust_code: run the file, whoever wrote it.

    Raises:
        BadInputError: there is no such objective, the file is not trusted, its code fails, or it is no objective.
    """
    if text in OBJECTIVES:
        return text
    in_file = _IN_FILE.fullmatch(text)
    if in_file is not None:
        module, source = _run_file(Path(in_file["file"]), text, trust_code)
        function, digest = _member(module, in_file["name"], text), digest_of([source])
        return _add(in_file["name"], digest, function, f"{shlex.quote(text)} --trust-code")
    name, _, wanted = text.partition(SEPARATOR)
    point = _entry_points(OBJECTIVE_GROUP).get(name)
    if point is None:
        if wanted:
            raise BadInputError(
                f"objective {text} is not installed here; install the package that provides {name}, or name its file: "
                f"--objective FILE.py:{name} --trust-code"
            )
        installed = [*OBJECTIVES, *(_entry_points(OBJECTIVE_GROUP).keys() - OBJECTIVES.keys())]
        raise BadInputError(
            f"unknown objective {text!r}; choose one of {', '.join(installed)}, or FILE.py:NAME with --trust-code"
        )
    function, digest = _of_package(point)
    if wanted and wanted != digest:
        raise BadInputError(
            f"objective {name} is installed here in another version ({name}{SEPARATOR}{digest}, not {text}): its source has "
            "changed; export the bundle again, or install the version it was exported with"
        )
    return _add(name, digest, function, name)


def checked_objective(name: str, classes: int) -> Objective:
    """The objective called `name` for logits [B, classes]; one from outside jboost is checked with that many classes.

    Raises:
        BadInputError: it is not registered, or the check fails.
    """
    name = find_objective(name)
    if SEPARATOR in name:
        _check(name, classes)
    return OBJECTIVES[name]


@cache
def _check(name: str, classes: int) -> None:
    check_objective(name, OBJECTIVES[name], classes)


def find_update_name(text: str, *, trust_code: bool = False) -> str:
    """The name of an update in `UPDATES`, loaded and checked if it is from outside jboost.

    Args:
        text: a registered name, the name of an installed package's entry point, or ``FILE.py:NAME``, where NAME is a class
            that `jboost.engine.method.updates.register` has registered.
        trust_code: run the file, whoever wrote it.

    Raises:
        BadInputError: there is no such update, the file is not trusted, its code fails, or it is no update.
    """
    if text in UPDATES:
        return text
    in_file = _IN_FILE.fullmatch(text)
    if in_file is None:
        point = _entry_points(UPDATE_GROUP).get(text)
        if point is None:
            installed = [*UPDATES, *(_entry_points(UPDATE_GROUP).keys() - UPDATES.keys())]
            raise BadInputError(
                f"unknown update {text!r}; choose one of {', '.join(installed)}, or FILE.py:NAME with --trust-code"
            )
        found = _loaded(point)
        return _registered(found, text, f"update {text}")
    path = Path(in_file["file"])
    key = text, read_source(path)
    if key not in _updates:
        module, _ = _run_file(path, text, trust_code)
        found = _member(module, in_file["name"], text)
        _updates[key] = _registered(found, None, text)
    return _updates[key]


def _registered(found: Any, name: str | None, what: str) -> str:
    """The name of an update class, which is registered under `name` if it has not registered itself."""
    if not (isinstance(found, type) and issubclass(found, Update)):
        raise BadInputError(f"{what} is not an update: a class derived from jboost.engine.method.updates.Update")
    if found not in UPDATES.values():
        if name is None:
            raise BadInputError(
                f'{what} is not registered; write @register("name") above the class, see CONTRIBUTING.md'
            )
        try:
            found = register(name)(found)
        except ValueError as e:
            raise BadInputError(f"{what} cannot be registered: {one_line(e)}") from e
    try:
        check_update(found)
    except BadInputError:
        del UPDATES[found.name]
        for kind in found.moves:
            del MOVES[kind]
        raise
    return str(found.name)


def _add(name: str, digest: str, function: Any, typed: str) -> str:
    full = f"{name}{SEPARATOR}{digest}"
    if full not in OBJECTIVES:
        facts = check_objective(name, function)
        OBJECTIVES[full] = function
        (NEEDS_L0.add if facts.needs_l0 else NEEDS_L0.discard)(full)
        (LABEL_FREE.add if facts.label_free else LABEL_FREE.discard)(full)
    TYPED[full] = typed
    return full


def _entry_points(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    """The entry points of installed packages by name.

    Raises:
        BadInputError: two packages give different things one name.
    """
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for point in importlib.metadata.entry_points(group=group):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise BadInputError(
                f"two installed packages provide {point.name!r} for {group} ({other.value} and {point.value}); uninstall one"
            )
    return found


def _loaded(point: importlib.metadata.EntryPoint) -> Any:
    what = f"{point.name} of {point.group} ({point.value})"
    if not _NAME.fullmatch(point.name):
        raise BadInputError(f"{what}: its name must be letters, digits, _ and -")
    return _guarded(what, point.load)


def _of_package(point: importlib.metadata.EntryPoint) -> tuple[Any, str]:
    """An installed objective, and the digest of the files that name and define it."""
    function = _loaded(point)
    files = [getattr(sys.modules.get(module), "__file__", None) for module in (point.module, _module_of(function))]
    try:
        return function, digest_of(Path(file or "").read_text(encoding="utf-8") for file in dict.fromkeys(files))
    except (OSError, ValueError) as e:
        raise BadInputError(
            f"the source of objective {point.name} ({point.value}) cannot be read; install it as .py files"
        ) from e


def _module_of(function: Any) -> str:
    return str(getattr(getattr(function, "func", function), "__module__", ""))  # `func` of functools.partial


def read_source(path: Path) -> str:
    """The text of a Python file.

    Raises:
        BadInputError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else "it is not UTF-8 text"
        raise BadInputError(f"{path} cannot be read ({why}); name a Python file as FILE.py:NAME") from e


def file_key(source: str) -> str:
    """The key of a file in the user's record of trusted code."""
    return hashlib.sha256(source.encode()).hexdigest()


def _run_file(path: Path, text: str, trust_code: bool) -> tuple[ModuleType, str]:
    """A file's module and source. What is run is what was read, whatever happens to the file meanwhile."""
    source = read_source(path)
    if not trust_code and not is_trusted(FILE, file_key(source)):
        raise BadInputError(
            f"{path} is code, which would run as you; if you trust its author: jboost trust {in_shell(path)}, or "
            "--trust-code for one run (which trusts the bundle's code too)"
        )
    name = f"jboost_own_{path.stem}_{digest_of([source])}"
    if name in sys.modules:
        return sys.modules[name], source
    module = ModuleType(name)
    module.__file__ = str(path.resolve())
    sys.modules[name] = module  # dataclasses look their module up

    def run() -> None:
        exec(compile(source, str(path), "exec"), module.__dict__)

    beside = str(path.resolve().parent)
    sys.path.insert(0, beside)
    try:
        _guarded(str(path), run)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(beside)
    return module, source


def _guarded(what: str, run: Any) -> Any:
    """Run somebody else's import; whatever it raises, also by `sys.exit`, is one line."""
    try:
        return run()
    except (Exception, SystemExit) as e:
        raise BadInputError(f"{what} cannot be imported ({type(e).__name__}: {one_line(e)}); mend it") from e


def _member(module: ModuleType, name: str, text: str) -> Any:
    if not hasattr(module, name):
        raise BadInputError(f"{text}: the file has no {name}")
    return getattr(module, name)
