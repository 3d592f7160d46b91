"""Opening an engine for a run: the one that was asked for, or the fastest; compiles what the compile engine lacks."""

from __future__ import annotations

import logging
from dataclasses import replace

from jboost.engine.backends.engine import Engine
from jboost.engine.backends.registry import default_batch, open_engine, pick_engine
from jboost.engine.backends.request import RunRequest
from jboost.engine.bundle import Bundle
from jboost.engine.loop.runner import Runner

_log = logging.getLogger("jboost")


def open_runner(bundle: Bundle, request: RunRequest, engine: Engine | None) -> Runner:
    """A runner for `request`.

    Args:
        bundle: an opened bundle.
        request: what the run asks for.
        engine: the engine that was asked for; None for the fastest, whose name and reason go to the logger ``"jboost"``.

    Raises:
        BadInputError: no engine, or not this one, can serve the request; the message says why, and what to type.
        FailureError: a package was compiled and does not match autograd.
    """
    if engine is None:
        runner, choice = pick_engine(bundle, request)
        _log.info(choice)
        return runner
    if engine.name == "compile" and engine.why_unusable(bundle, request) is not None:
        return _compile_and_open(bundle, request)
    return open_engine(engine, bundle, request)


def _compile_and_open(bundle: Bundle, request: RunRequest) -> Runner:
    """The compile engine with what the bundle does not hold: compiled now, or by an earlier run."""
    from jboost.engine.backends.compiled.runner import CompiledRunner
    from jboost.engine.backends.torch_device import find_device
    from jboost.export.compiled.first_use import compile_on_first_use

    device = find_device(request.device)
    batch_size = request.batch_size or default_batch(device)
    request = replace(request, device=device, batch_size=batch_size)
    return CompiledRunner(bundle, request, compile_on_first_use(bundle, request, say=_log.info))
