"""Users' code by name: ``package.module:factory``, ``file.py:factory``, or an instance of a network."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from torch import nn

from jboost.engine.errors import BadInputError, one_line

#: The names that factories give a parameter for the number of image channels: torchvision's habit, and timm's.
CHANNEL_PARAMETERS = ("in_channels", "in_chans")


def split_factory(name: str) -> tuple[str, str]:
    """Split ``package.module:factory`` or ``path/to/file.py:factory`` at its last colon.

    Raises:
        BadInputError: it is neither.
    """
    module_name, _, attribute = name.rpartition(":")
    parts = (attribute,) if module_name.endswith(".py") else (*module_name.split("."), attribute)
    if not all(part.isidentifier() for part in parts):
        raise BadInputError(
            f"cannot read the architecture {name!r}; write it as package.module:factory, file.py:factory, timm:NAME, "
            "torchvision:NAME or hf-hub:ORG/NAME"
        )
    return module_name, attribute


def factory_options(name: str) -> frozenset[str]:
    """Which of "num_classes" and "in_channels" a factory takes; none for an instance of a network."""
    with current_directory_on_path():
        factory = find_factory(*split_factory(name))
    if isinstance(factory, nn.Module):
        return frozenset()
    taken = {"in_channels"} if any(_takes(factory, p) for p in CHANNEL_PARAMETERS) else set()
    return frozenset(taken | ({"num_classes"} if _takes_classes(factory) else set()))


def is_instance(name: str) -> bool:
    """Whether the name leads to an instance of a network rather than to a factory."""
    with current_directory_on_path():
        return isinstance(find_factory(*split_factory(name)), nn.Module)


def call_factory(name: str, num_classes: int | None, in_channels: int | None) -> nn.Module:
    """Import a factory and call it with the arguments that it takes; an instance is returned as it is.

    Raises:
        BadInputError: it is not found, fails, returns no network, or needs an argument that is None.
    """
    module_name, attribute = split_factory(name)
    # The factory is called inside the context too, because it may import its neighbours only then.
    with current_directory_on_path():
        factory = find_factory(module_name, attribute)
        if isinstance(factory, nn.Module):
            return factory
        arguments: dict[str, int] = {}
        if num_classes is not None and _takes_classes(factory):
            arguments["num_classes"] = num_classes
        channels = next((p for p in CHANNEL_PARAMETERS if _takes(factory, p)), None)
        if channels is not None and in_channels is not None:
            arguments[channels] = in_channels
        for parameter, option in (("num_classes", "--num-classes"), (channels, "--in-channels")):
            if parameter not in arguments and _needs(factory, parameter):
                raise BadInputError(f"{name} needs {parameter}, which the weights do not tell; give {option}")
        try:
            with users_code(name):
                network = factory(**arguments)
        except BadInputError:
            raise
        except Exception as error:
            call = ", ".join(f"{key}={value}" for key, value in arguments.items())
            raise BadInputError(
                f"{name} called with ({call}) failed: {type(error).__name__}: {one_line(error)}"
            ) from error
    if not isinstance(network, nn.Module):
        raise BadInputError(f"{name} returned {_describe(network)} where a torch.nn.Module was expected")
    return network


def find_factory(module_name: str, attribute: str) -> Callable[..., Any]:
    """Import `module_name` (dots allowed, or the path of a file that ends in .py) and return its callable `attribute`.

    Raises:
        BadInputError: no such module or attribute, the import fails or ends the program, or the attribute cannot be
            called.
    """
    try:
        with users_code(module_name):
            module = _import_file(module_name) if module_name.endswith(".py") else importlib.import_module(module_name)
    except BadInputError:
        raise
    except ModuleNotFoundError as error:
        # A missing module and an existing module that lacks a dependency need different remedies.
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise BadInputError(
                f"no module {module_name!r} on the Python path or in {os.getcwd()}; run from the directory that holds "
                "it, or set PYTHONPATH"
            ) from error
        raise BadInputError(
            f"importing {module_name} failed: {type(error).__name__}: {one_line(error)}; install what it needs"
        ) from error
    except Exception as error:
        raise BadInputError(f"importing {module_name} failed: {type(error).__name__}: {one_line(error)}") from error
    factory = getattr(module, attribute, None)
    if factory is None:
        where = getattr(module, "__file__", None) or module_name
        raise BadInputError(f"module {module_name!r} ({where}) has no {attribute!r}; check the name after the colon")
    if not callable(factory):
        raise BadInputError(f"{module_name}:{attribute} is {_describe(factory)}, which cannot be called")
    found: Callable[..., Any] = factory
    return found


@contextlib.contextmanager
def users_code(name: str) -> Iterator[None]:
    """Run code of `name`, a script perhaps: it does not see jboost's command line, and it cannot end the program.

    Raises:
        BadInputError: the code called ``sys.exit`` or its arguments were refused.
    """

    def refuse(self: argparse.ArgumentParser, message: str) -> NoReturn:
        raise SystemExit(message)  # argparse would print its usage first, under jboost's name

    argv, error = sys.argv, argparse.ArgumentParser.error
    sys.argv = [name]
    argparse.ArgumentParser.error = refuse  # type: ignore[method-assign]
    try:
        yield
    except SystemExit as e:
        said = f"sys.exit({one_line(e)})" if e.code is not None else "sys.exit()"
        raise BadInputError(
            f"{name} ends the program when it is imported or called: {said}; put what only a script does under "
            'if __name__ == "__main__":'
        ) from e
    finally:
        sys.argv = argv
        argparse.ArgumentParser.error = error  # type: ignore[method-assign]


def _import_file(name: str) -> ModuleType:
    """Import a file under a name that hides no installed module; its neighbours can be imported while it is."""
    path = Path(name).resolve()
    module_name = f"jboost_file_{path.stem}"
    known = sys.modules.get(module_name)
    if known is not None and known.__file__ == str(path):
        return known
    if not path.is_file():
        raise BadInputError(f"no file {name}; check the path before the colon")
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise BadInputError(f"{name} cannot be imported; name a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up
    # Last, as with the current directory. It stays: a factory may import its neighbours when it is called.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


@contextlib.contextmanager
def current_directory_on_path() -> Iterator[None]:
    """Put the current directory last on the Python path: its modules can be imported but hide no installed ones."""
    here = os.getcwd()
    importlib.invalidate_caches()
    sys.path.append(here)
    try:
        yield
    finally:
        # The first entry of that name may have been there before: remove the one added last.
        for i in range(len(sys.path) - 1, -1, -1):
            if sys.path[i] == here:
                del sys.path[i]
                break


def _parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    try:
        return dict(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        return None


def _takes(factory: Callable[..., Any], parameter: str) -> bool:
    """Whether `factory` names `parameter`. ``**kwargs`` does not count: its receiver may not accept the name."""
    return parameter in (_parameters(factory) or {})


def _takes_classes(factory: Callable[..., Any]) -> bool:
    """Whether to pass ``num_classes``: it is named, or everything is taken, or the signature does not tell."""
    parameters = _parameters(factory)
    if parameters is None or "num_classes" in parameters:
        return True
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def _needs(factory: Callable[..., Any], parameter: str | None) -> bool:
    found = (_parameters(factory) or {}).get(parameter or "")
    return found is not None and found.default is inspect.Parameter.empty and found.kind is not found.VAR_KEYWORD


def _describe(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"
