"""Verifying a bundle again, on whatever machine it came to: every hash, and every graph against eager autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jboost.engine.bundle import Bundle
from jboost.engine.compiled import machine_target

from .first_use import model_of
from .gradients import tolerance
from .graph import onnx_run, verify_onnx
from .packages import package_run, verify_package
from .program import FORWARD_ATOL, FORWARD_RTOL, verify_forward
from .readout import verify_readout
from .steps import verify_step


def verify_bundle(
    bundle: Bundle,
    *,
    atol: float | None = None,
    rtol: float | None = None,
    say: Callable[[str], Any] = lambda stage: None,
) -> dict[str, dict[str, float]]:
    """Check every hash, reload every graph in its runtime and compare it with eager autograd of the forward program.

    Args:
        bundle: what to verify.
        atol, rtol: as for export; None for the defaults.
        say: told what is being done.

    Returns:
        The figures by file name, of every graph but the compiled ones of another kind of machine, which cannot run here.

    Raises:
        BadInputError: a file is missing, changed or unreadable.
        FailureError: a graph that does not compute what it should.
    """
    config = bundle.config
    say("hashes")
    bundle.check()
    model = model_of(bundle)
    say("forward.pt2")
    figures = {
        "forward.pt2": verify_forward(
            model,
            bundle.checked_path("forward"),
            in_channels=config.in_channels,
            resolutions=config.resolutions,
            atol=FORWARD_ATOL if atol is None else atol,
            rtol=FORWARD_RTOL if rtol is None else rtol,
        )
    }
    for name, artefact in config.artefacts.items():
        if artefact.resolution is None or (artefact.target is not None and artefact.target != machine_target()):
            continue
        say(artefact.file)
        path = bundle.path / artefact.file
        shape = (config.in_channels, artefact.resolution, artefact.resolution)
        bound = tolerance(artefact.dtype, atol, rtol)
        batch = artefact.batch_size
        if name.startswith("compile/step/"):
            found = {"worst": verify_step(path, name.split("/")[2], batch or 1, shape)}
        elif artefact.objective is None:
            run = onnx_run(path)[0] if artefact.target is None else package_run(path)
            found = verify_readout(run, model, shape, tolerance=bound, fixed_batch=batch, name=artefact.file)
        elif artefact.target is not None:
            found = verify_package(
                path, model, artefact.objective, shape, l0=config.l0, batch_size=batch or 1, bound=bound
            )
        else:
            found = verify_onnx(path, model, artefact.objective, shape, l0=config.l0, tolerance=bound).as_dict()
        figures[artefact.file] = found
    return figures
