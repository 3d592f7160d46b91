"""Open the requested or the fastest engine for a run. The compile engine compiles what the bundle lacks."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from jboost.engine.backends.engine import Engine
from jboost.engine.backends.registry import default_batch, open_engine, pick_engine
from jboost.engine.backends.request import RunRequest
from jboost.engine.bundle import Bundle
from jboost.engine.loop.runner import Runner
from jboost.export.checkpoints.rebuild import rebuilder

_log = logging.getLogger("jboost")


def open_bundle(path: str | Path, *, trust_code: bool = False) -> Bundle:
    """Open a bundle. If its code is not trusted, its network is built from its weights where jboost defines the architecture.

    Args:
        path: the bundle's folder, or ``"hf://user/repo@revision"``, see `jboost.hub`.
        trust_code: run its code, whoever made it.

    Raises:
        BadInputError: see `Bundle` and `jboost.hub.download`.
        FailureError: the Hub cannot be reached.
    """
    if not str(path).startswith("hf:"):
        return Bundle(path, trust_code=trust_code, rebuild=rebuilder)
    from jboost.hub import download, reference

    at = reference(path)
    if at is None:
        return Bundle(path, trust_code=trust_code, rebuild=rebuilder)
    folder, exact = download(at, trust_code=trust_code)
    return Bundle(folder, trust_code=trust_code, rebuild=rebuilder, origin=str(exact))


def open_runner(
    bundle: Bundle, request: RunRequest, engine: Engine | None, update_kind: str
) -> tuple[Runner, dict[str, str]]:
    """Open a runner for `request` and an update kind.

    Args:
        bundle: an opened bundle.
        request: the requirements of the run.
        engine: the requested engine; None: the fastest. The choice and the reason are logged to ``"jboost"``.
        update_kind: the update kind of the run.

    Returns:
        The runner and, with `engine` None, the error of each engine that was passed over because it failed to open, by name.

    Raises:
        BadInputError: `engine` (None: every engine) cannot serve the request; the message says why and what to type.
        FailureError: a package cannot be compiled or does not match autograd.
    """
    if engine is None:
        choice = pick_engine(bundle, request, lambda runner: runner.check_update(update_kind))
        _log.log(logging.WARNING if choice.failed else logging.INFO, choice.note)
        return choice.runner, choice.failed
    runner = _open(bundle, request, engine)
    runner.check_update(update_kind)
    return runner, {}


def _open(bundle: Bundle, request: RunRequest, engine: Engine) -> Runner:
    if engine.name != "compile":
        return open_engine(engine, bundle, request)
    if engine.why_unusable(bundle, request) is None:
        return engine.open(bundle, request)
    return _compile_and_open(bundle, request)


def _compile_and_open(bundle: Bundle, request: RunRequest) -> Runner:
    """Open the compile engine with packages that the bundle lacks, compiled now or by an earlier run."""
    from jboost.engine.backends.compiled.runner import CompiledRunner
    from jboost.engine.backends.torch_device import find_device
    from jboost.export.compiled.first_use import compile_on_first_use

    device = find_device(request.device)
    batch_size = request.batch_size or default_batch(device)
    request = replace(request, device=device, batch_size=batch_size)
    return CompiledRunner(bundle, request, compile_on_first_use(bundle, request, say=_log.info))
