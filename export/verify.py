"""Verifying a bundle again, on whatever machine it came to: every hash, and every graph against eager autograd."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import nn

from jboost.engine.bundle import Bundle
from jboost.engine.compiled import machine_target
from jboost.engine.program import load_program

from .gradients import tolerance
from .graph import verify_onnx
from .packages import verify_package
from .program import FORWARD_ATOL, FORWARD_RTOL, verify_forward


class _Program(nn.Module):
    """The forward program as a module that can be told to evaluate, which torch.export's refuse (torch 2.13)."""

    def __init__(self, program: nn.Module):
        super().__init__()
        self.program = program

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.program(x)
        return logits

    def train(self, mode: bool = True) -> Self:
        return self


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
    model = _Program(load_program(bundle.checked_path("forward"), "cpu"))
    # Copying an exported module makes torch 2.13 use a class of its own that it has deprecated.
    warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)`", FutureWarning)
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
    for artefact in config.artefacts.values():
        if artefact.objective is None or artefact.resolution is None:
            continue
        shape = (config.in_channels, artefact.resolution, artefact.resolution)
        if artefact.target is not None and artefact.batch_size is not None:
            if artefact.target != machine_target():
                continue
            say(artefact.file)
            figures[artefact.file] = verify_package(
                bundle.path / artefact.file,
                model,
                artefact.objective,
                shape,
                l0=config.l0,
                dtype=artefact.dtype,
                batch_size=artefact.batch_size,
                atol=atol,
                rtol=rtol,
            ).as_dict()
            continue
        say(artefact.file)
        figures[artefact.file] = verify_onnx(
            bundle.path / artefact.file,
            model,
            artefact.objective,
            shape,
            l0=config.l0,
            dtype=artefact.dtype,
            tolerance=tolerance(artefact.dtype, atol, rtol),
        ).as_dict()
    return figures
