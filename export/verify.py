"""Verify a bundle again, on any machine: check every hash, and compare every graph with eager autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from jboost.engine.backends.compiled.packages import runs_here
from jboost.engine.backends.trt.plans import read_key
from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError
from jboost.engine.method.sources import SEPARATOR, versioned
from jboost.engine.method.updates import MOVES

from .compiled.first_use import model_of
from .compiled.packages import package_run, verify_package
from .compiled.steps import verify_step
from .forward import FORWARD_ATOL, FORWARD_RTOL, verify_forward_program
from .onnx.verify import onnx_run, verify_onnx
from .request import check_tolerances
from .trt.plans import verify_plan
from .trt.targets import target_here
from .verification.forward import verify_forward_graph
from .verification.gradient import Tolerance, tolerance


def verify_bundle(
    bundle: Bundle,
    *,
    atol: float | None = None,
    rtol: float | None = None,
    say: Callable[[str], Any] = lambda stage: None,
) -> dict[str, dict[str, float]]:
    """Check every hash, reload every graph in its runtime and compare it with eager autograd of the forward program.

    The code of a bundle that is not trusted does not run: its graphs are compared with the network built from its weights.

    Args:
        bundle: the bundle to verify.
        atol, rtol: as for export; None for the defaults.
        say: called with a line of progress at each stage.

    Returns:
        The figures by file name. Packages and plans of another kind of machine, and code that is not trusted, do not run here and
        have none.

    Raises:
        BadInputError: a bound is no finite number from 0 up, a file is missing, changed or unreadable, a step's update is not
            registered, or the bundle is not trusted and its network cannot be built from its weights.
        FailureError: a graph does not compute what it should.
    """
    check_tolerances(atol, rtol)
    config = bundle.config
    say("hashes")
    bundle.check()
    model = model_of(bundle)
    figures: dict[str, dict[str, float]] = {}
    if bundle.trusted:
        say("forward.pt2")
        figures["forward.pt2"] = verify_forward_program(
            model,
            bundle.checked_path("forward"),
            in_channels=config.in_channels,
            resolutions=config.resolutions,
            atol=FORWARD_ATOL if atol is None else atol,
            rtol=FORWARD_RTOL if rtol is None else rtol,
        )
    for name, artefact in config.artefacts.items():
        if bundle.why_untrusted(name) is not None:
            continue
        say(artefact.file)
        found = _verify_graph(bundle, name, model, tolerance(artefact.dtype, atol, rtol))
        if found is not None:
            figures[artefact.file] = found
    return figures


def _verify_graph(bundle: Bundle, name: str, model: nn.Module, bound: Tolerance) -> dict[str, float] | None:
    """Return the figures of one graph; None for a file that is not a graph, or a graph for another kind of machine."""
    artefact, l0 = bundle.artefact(name), bundle.config.l0
    if artefact.resolution is None:
        return None
    engine, *parts = name.split("/")
    path, batch, objective = bundle.checked_path(name), artefact.batch_size, artefact.objective
    shape = (bundle.config.in_channels, artefact.resolution, artefact.resolution)
    if engine == "compile":
        device = parts[0]
        if artefact.target is None or not runs_here(artefact.target, device):
            return None
        if parts[1] == "step":
            kind, _, version = parts[2].partition(SEPARATOR)
            if kind not in MOVES:
                raise BadInputError(
                    f"{path} is the step of the update {kind}, which is not registered here; name it: --update NAME of an "
                    "installed package, or --update FILE.py:NAME --trust-code"
                )
            if version and versioned(kind, MOVES[kind]) != parts[2]:
                raise BadInputError(
                    f"{path} is the step of another version of the update {kind}, whose source has changed since; export the "
                    "bundle again"
                )
            return {"worst": verify_step(path, kind, batch or 1, shape, device)}
        if objective is not None:
            return verify_package(
                path, model, objective, shape, l0=l0, batch_size=batch or 1, bound=bound, device=device
            )
        run = package_run(path, device)
    elif engine == "trt":
        target = target_here(read_key(bundle, name))
        if target is None:
            return None
        return verify_plan(path, target, model, objective, shape, l0=l0, batch_size=batch or 1, bound=bound)
    elif objective is not None:
        return verify_onnx(path, model, objective, shape, l0=l0, tolerance=bound).as_dict()
    else:
        run, _ = onnx_run(path)
    return verify_forward_graph(run, model, shape, tolerance=bound, fixed_batch=batch, name=artefact.file)
