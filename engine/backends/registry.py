"""The engines by name, and how one is chosen: the requested one, or the fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError, JboostError, one_line
from jboost.engine.loop.runner import Runner
from jboost.engine.system.devices import device_kind
from jboost.engine.system.machine import machine_name

from .compiled.engine import CompileEngine
from .eager.engine import EagerEngine
from .engine import Engine, installed_version
from .onnx.engine import OnnxEngine
from .request import RunRequest
from .trial import time_runners
from .trt.engine import TrtEngine

_DEFAULT_BATCH = {"cpu": 32, "cuda": 256}


def default_batch(device: str) -> int:
    """The default number of images in flight on `device`: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``."""
    return _DEFAULT_BATCH[device_kind(device)]


#: All engines. ``--engine auto`` picks the fastest one that can run on this machine and that the bundle supports.
ENGINES: dict[str, Engine] = {
    engine.name: engine for engine in (TrtEngine(), CompileEngine(), EagerEngine(), OnnxEngine())
}


def installed(*distributions: str) -> dict[str, str | None]:
    """Version of each distribution; None for one that is not installed."""
    return {name: installed_version(name) for name in distributions}


def find_engine(name: str) -> Engine | None:
    """The engine called `name`; None for ``"auto"``, which is resolved when the bundle and the run are known.

    Raises:
        BadInputError: the engine is unknown, or not available on this machine.
    """
    if name == "auto":
        return None
    if name not in ENGINES:
        raise BadInputError(f"unknown engine {name!r}; choose one of auto, {', '.join(ENGINES)}")
    found = ENGINES[name].probe()
    if not found.available:
        raise BadInputError(f"engine {name!r} cannot run here: {found.why}; {found.remedy}")
    return ENGINES[name]


def open_engine(engine: Engine, bundle: Bundle, request: RunRequest) -> Runner:
    """A runner of `engine` for `request`.

    Raises:
        BadInputError: the engine cannot serve the request from this bundle; the message says why and what to type.
    """
    why = engine.why_unusable(bundle, request)
    if why is not None:
        raise BadInputError(f"engine {engine.name!r} cannot run this: {why}")
    return engine.open(bundle, request)


class Choice(NamedTuple):
    """What `pick_engine` chose.

    Attributes:
        runner: the engine, opened.
        note: which engine was picked and why, and on a line of its own why each other engine was not.
        failed: by engine name, the error of each engine that could serve the request but did not open or failed in its trial.
    """

    runner: Runner
    note: str
    failed: dict[str, str]


def pick_engine(bundle: Bundle, request: RunRequest, check: Callable[[Runner], None] = lambda runner: None) -> Choice:
    """The fastest engine for a request, opened. An engine that fails to open is passed over for the next one.

    The times come from the bundle if its export timed all candidates on this machine; otherwise each candidate gets a
    short trial.

    Args:
        bundle: an opened bundle.
        request: what to compute; its batch size, if set, rules out packages with another batch size.
        check: called with an opened runner; if it raises, the engine counts as one that does not open.

    Raises:
        BadInputError: no engine can serve the request on this machine; the message says why not, engine by engine.
        JboostError: the error of the only engine that can.
    """
    passed_over: list[str] = []
    failed: dict[str, str] = {}
    candidates: list[Engine] = []
    for engine in ENGINES.values():
        found = engine.probe()
        why = found.why if not found.available else engine.why_unusable(bundle, request)
        if why is None:
            candidates.append(engine)
        else:
            passed_over.append(f"not {engine.name}: {why}")

    errors: list[Exception] = []

    def pass_over(name: str, e: Exception) -> None:
        errors.append(e)
        failed[name] = one_line(e) if isinstance(e, JboostError) else f"{type(e).__name__}: {one_line(e)}"
        passed_over.append(f"not {name}, which failed: {failed[name]}")

    known = _known_times(bundle, request)
    if len(candidates) < 2 or all(engine.name in known for engine in candidates):
        times, when = (
            {engine.name: known.get(engine.name, 0.0) for engine in candidates},
            "when the bundle was exported here",
        )
        runners = _open_first(
            sorted(candidates, key=lambda engine: times[engine.name]), bundle, request, check, pass_over
        )
    else:
        when, batch_size = "in a trial just now", request.batch_size or default_batch("cpu")
        runners, times = time_engines(
            bundle, candidates, request, batch_size=batch_size, on_failure=pass_over, check=check
        )
    for name in failed:
        times.pop(name, None)
    best = min(times, key=times.__getitem__, default=None)
    for name, other in runners.items():
        if name != best:
            other.__exit__(None, None, None)
    if best is None:
        if len(candidates) == 1 and isinstance(errors[0], JboostError):
            raise errors[0]
        raise BadInputError(
            f"no engine can run this ({'; '.join(passed_over)}); see what is missing with: jboost doctor"
        )
    others = ", ".join(
        f"{name} {ms:.3g}" for name, ms in sorted(times.items(), key=lambda item: item[1]) if name != best
    )
    chosen = (
        f"engine {best}: the only one that can run this"
        if not others
        else f"engine {best}: {times[best]:.3g} ms an image-step {when} ({others})"
    )
    return Choice(runners[best], _note(chosen, passed_over), failed)


def _open_first(
    engines: Iterable[Engine],
    bundle: Bundle,
    request: RunRequest,
    check: Callable[[Runner], None],
    on_failure: Callable[[str, Exception], None],
) -> dict[str, Runner]:
    """The first of `engines` that opens, by name; empty if none does."""
    for engine in engines:
        try:
            return {engine.name: _open_checked(engine, bundle, request, check)}
        except Exception as e:  # a backend raises its own types; the other engines can still be used
            on_failure(engine.name, e)
    return {}


def _open_checked(engine: Engine, bundle: Bundle, request: RunRequest, check: Callable[[Runner], None]) -> Runner:
    runner = engine.open(bundle, request)
    try:
        check(runner)
    except BaseException:
        runner.__exit__(None, None, None)
        raise
    return runner


def _note(chosen: str, passed_over: Iterable[str]) -> str:
    """What was chosen, and on a line of its own each engine that was not."""
    return "\n".join([chosen, *(f"  {one_line(why, None)}" for why in passed_over)])


def time_engines(
    bundle: Bundle,
    engines: Iterable[Engine],
    request: RunRequest,
    *,
    batch_size: int,
    on_failure: Callable[[str, Exception], None],
    check: Callable[[Runner], None] = lambda runner: None,
) -> tuple[dict[str, Runner], dict[str, float]]:
    """Open engines for a request and time them against each other.

    Args:
        bundle: an opened bundle.
        engines: engines that can run on this machine and whose `why_unusable` accepted the request.
        request: what to compute.
        batch_size: images in flight, for runners that take any number.
        on_failure: called with the name and the error of an engine that cannot be opened or fails in its trial.
        check: called with an opened runner; if it raises, the engine counts as one that cannot be opened.

    Returns:
        Two dicts by engine name: the opened runners, which the caller closes, and the milliseconds per image-step of
        each runner that did not fail.
    """
    runners: dict[str, Runner] = {}
    for engine in engines:
        try:
            runners[engine.name] = _open_checked(engine, bundle, request, check)
        except Exception as e:  # a backend raises its own types; the other engines can still be used
            on_failure(engine.name, e)
    config, size = bundle.config, request.resolution
    times = time_runners(
        runners, shape=(config.in_channels, size, size), num_classes=config.num_classes, batch_size=batch_size,
        on_failure=on_failure,
    )  # fmt: skip
    return runners, times


def _known_times(bundle: Bundle, request: RunRequest) -> dict[str, float]:
    """Milliseconds per image-step by engine, if the bundle was exported on this machine."""
    wanted = request.dtype, request.resolution
    timings = [t for t in bundle.config.timings if (t.dtype, t.resolution) == wanted]
    here = machine_name() if timings else ""
    return {t.engine: t.ms for t in timings if t.machine == here}
