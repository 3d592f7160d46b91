"""Writing a bundle's compiled packages: the gradient graph, compiled ahead of time by AOTInductor for this kind of machine."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from jboost.engine.bundle import Artefact, artefact_of
from jboost.engine.compiled import artefact_name, load_package, machine_target
from jboost.engine.errors import BadInputError, FailureError
from jboost.engine.program import first_line

from .gradients import PROBE_SEED, Wanted, tolerance
from .graph import (
    DTYPES,
    attach_objective,
    check_images,
    choose_scale,
    export_program,
    judge,
    lower_precision,
    measure,
    optimize,
    trace_trunk,
)
from .graph.verify import Figures, Run

FOLDER = "compile"


def check_compiler() -> None:
    """Check that Inductor can compile here.

    Raises:
        BadInputError: there is no C++ compiler.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        compiler = get_cpp_compiler()
    except Exception as e:  # InvalidCxxCompiler, which torch does not export
        compiler = first_line(e)
    if shutil.which(compiler) is None:
        raise BadInputError(
            f"--format compile needs a C++ compiler and finds none ({compiler}); install one, e.g.: apt-get install g++, or set CXX"
        )


def package_run(path: Path) -> Run:
    """A compiled package in its runtime, as a function of numpy arrays."""
    package = load_package(path)

    def run(x: NDArray[np.float32], y: NDArray[np.int64]) -> Sequence[NDArray[np.generic]]:
        return [o.numpy() for o in package(torch.from_numpy(x), torch.from_numpy(y))]

    return run


def write_packages(
    folder: Path,
    model: nn.Module,
    wanted: Wanted,
    *,
    batch_size: int,
    in_channels: int,
    l0: float | None,
    say: Callable[[str], None],
) -> dict[str, tuple[Artefact, float]]:
    """Compile and verify every package that is wanted.

    Args:
        folder: the bundle; packages go into its folder ``compile``.
        model: float32 [B, C, H, W] in [0, 1] -> logits [B, num_classes], in eval mode.
        wanted: which graphs.
        batch_size: images a call; fixed, so that Inductor knows every size.
        in_channels: C.
        l0: mean realness of real images; becomes a constant of the packages whose objective needs it.
        say: told what is being done.

    Returns:
        By name in the manifest: the entry, and the seconds that it took.

    Raises:
        FailureError: a package that cannot be compiled or does not match autograd.
    """
    (folder / FOLDER).mkdir()
    written: dict[str, tuple[Artefact, float]] = {}
    for size in wanted.resolutions:
        shape = (in_channels, size, size)
        start = perf_counter()
        say(f"tracing the gradient at {size}x{size}, batch {batch_size}")
        trunk = trace_trunk(model, torch.rand(batch_size, *shape), pooling="scatter")
        optimize(trunk, "inductor")
        for dtype in wanted.dtypes:
            scale = choose_scale(trunk, check_images(4, shape, PROBE_SEED)).loss_scale if dtype == "fp16" else 1.0
            low = lower_precision(trunk, DTYPES[dtype], scale)
            for objective in wanted.objectives:
                say(f"compiling {objective}, {dtype}, {size}x{size}, batch {batch_size}")
                file = f"{FOLDER}/{objective}.{size}.{dtype}.b{batch_size}.pt2"
                program = export_program(attach_objective(low, objective, l0))
                _compile(program, folder / file)
                figures = verify_package(
                    folder / file,
                    model,
                    objective,
                    shape,
                    l0=l0,
                    dtype=dtype,
                    batch_size=batch_size,
                    atol=wanted.atol,
                    rtol=wanted.rtol,
                )
                entry = artefact_of(
                    folder,
                    file,
                    dtype=dtype,
                    objective=objective,
                    resolution=size,
                    batch_size=batch_size,
                    target=machine_target(),
                    errors=figures.as_dict(),
                )
                written[artefact_name(objective, dtype, size)] = entry, perf_counter() - start
                start = perf_counter()
    return written


def verify_package(
    path: Path,
    model: nn.Module,
    objective: str,
    shape: tuple[int, int, int],
    *,
    l0: float | None,
    dtype: str,
    batch_size: int,
    atol: float | None,
    rtol: float | None,
) -> Figures:
    """Reload a package and compare it with autograd of `model`, filled to its batch and in part.

    Raises:
        FailureError: it is off by more than the tolerance.
    """
    sizes = tuple(dict.fromkeys((min(4, batch_size), 1)))
    figures = measure(package_run(path), model, objective, shape, l0=l0, batch_sizes=sizes, fixed_batch=batch_size)
    judge(figures, tolerance(dtype, atol, rtol), path.name)
    return figures


def _compile(program: torch.export.ExportedProgram, path: Path) -> None:
    try:
        # Freezing packs the weights into the layout that the convolutions want, once, at compile time. Through memory: torch's
        # own writer ends the whole process when the disk is full (torch 2.13).
        buffer = io.BytesIO()
        torch._inductor.aoti_compile_and_package(program, package_path=buffer, inductor_configs={"freezing": True})
    except Exception as e:  # Inductor and the C++ compiler raise their own
        raise FailureError(
            f"{path.name} could not be compiled ({type(e).__name__}: {first_line(e)}); see it with --debug"
        ) from e
    path.write_bytes(buffer.getbuffer())
