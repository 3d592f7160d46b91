"""The benchmark itself: first batches, then everything by turns in one process, between two measurements of the peaks.

In one process what an engine sets for the whole of it, the allocator's thresholds for one, holds for the baselines as well: a ratio
is of the computations alone. What the first batch takes is measured in processes where nothing else was.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jboost.engine.backends.registry import ENGINES, default_batch
from jboost.engine.backends.torch_device import find_device, set_tf32
from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError, FailureError, JboostError, one_line
from jboost.engine.method.compare import relative_error
from jboost.engine.method.objectives import NEEDS_L0, resolve_objective
from jboost.engine.method.settings import find_preset
from jboost.engine.system.devices import device_kind
from jboost.engine.system.dtypes import DTYPES

from .baselines import Autograd
from .contestants import (
    YARDSTICK,
    Contestant,
    Entrant,
    Skipped,
    Work,
    check_names,
    line_up,
    packaged_batch,
    served_dtypes,
)
from .first_batch import measure_first_batch
from .flops import image_step_flops
from .machine import describe_machine
from .peaks import measure_peaks
from .result import Measured, assemble
from .timing import PAUSE, WARM_UP, alternate

# On a GPU a loop queues its steps; waiting for each would time the waiting.
_CALLS_PER_TURN = {"cpu": 1, "cuda": 10}

Say = Callable[[str], object]


@dataclass(frozen=True)
class Plan:
    """What is measured and how; made by `make_plan`."""

    work: Work
    preset: str
    steps: int
    dtypes: tuple[str, ...]
    contestants: tuple[Contestant, ...]
    skipped: tuple[Skipped, ...]
    rounds: int
    first_batches: bool


def make_plan(
    path: Path,
    *,
    engines: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    objective: str | None = None,
    resolution: int | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    preset: str = "ct1",
    rounds: int = 9,
    torch_compile: bool = True,
    first_batches: bool = True,
) -> Plan:
    """Settle what is measured, before anything heavy is done.

    Args:
        path: the bundle's folder.
        engines, dtypes: None for all that the bundle serves here.
        objective: None for the preset's, else joint where the bundle knows l0, else bce.
        resolution: image size in pixels; None for the bundle's first.
        batch_size: images a call; None for that of the bundle's compiled package, else 32 on a CPU and 256 on a GPU.
        device: "auto", "cpu", "cuda" or "cuda:N".
        preset: gives the number of steps, for images a second.
        rounds: turns that each contestant gets.
        torch_compile: whether plain ``torch.compile`` competes.
        first_batches: whether seconds and memory to the first batch are measured.

    Raises:
        BadInputError: a name that is unknown, a number out of range, or a bundle that lacks what is asked for.
    """
    engines = check_names(engines, tuple(ENGINES), "engine")
    dtypes = check_names(dtypes, DTYPES, "dtype")
    for option, value in (("--rounds", rounds), ("-b", batch_size)):
        if value is not None and value < 1:
            raise BadInputError(f"{option} must be at least 1, got {value}")
    chosen = find_preset(preset)
    assert chosen is not None
    device = find_device(device)
    bundle = Bundle(path)
    l0 = bundle.config.l0
    objective = objective or chosen.objective
    if objective in NEEDS_L0 and l0 is None:
        raise BadInputError(
            f"objective {objective!r} needs l0, which bundle {path} does not know; use another --objective, or export it again "
            "with --real REAL_SAMPLES"
        )
    objective = resolve_objective(objective, l0)
    size = _check_resolution(bundle, resolution)
    dtypes = dtypes or served_dtypes(bundle)
    batch = batch_size or packaged_batch(bundle, objective, size, dtypes) or default_batch(device)
    work = Work(str(bundle.path.resolve()), objective, l0, size, batch, device)
    field, skipped = line_up(bundle, work, engines=engines, dtypes=dtypes, torch_compile=torch_compile)
    return Plan(work, preset, chosen.steps, dtypes, tuple(field), tuple(skipped), rounds, first_batches)


def run_plan(plan: Plan, say: Say = lambda stage: None) -> dict[str, Any]:
    """Measure; returns what `jboost.bench.result` describes.

    Raises:
        BadInputError: the bundle is damaged.
    """
    set_tf32(False)
    work, device = plan.work, plan.work.device
    kind = device_kind(device)
    wait: Callable[[], object] = (lambda: torch.cuda.synchronize(device)) if kind == "cuda" else lambda: None
    with tempfile.TemporaryDirectory(prefix="jboost-bench-") as scratch, ExitStack() as stack:
        firsts = _first_batches(plan, Path(scratch), say) if plan.first_batches else {}
        say("counting operations")
        flops = _count_flops(work)
        entrants, gradients, failed = _open(plan, stack, Path(scratch), say)
        say("peaks")
        peaks = measure_peaks(device, _peak_dtypes(plan), wait)
        say(f"{plan.rounds} rounds of {len(entrants)}")
        seconds = alternate(
            {contestant.label: entrant.step for contestant, entrant in entrants.items()},
            rounds=plan.rounds,
            calls_per_turn=_CALLS_PER_TURN[kind],
            wait=wait,
            pause=PAUSE if kind == "cpu" else 0.0,
        )
        say("peaks again")
        again = measure_peaks(device, tuple(peaks), wait)
    measured = [
        Measured(
            contestant,
            [taken / work.batch_size * 1e3 for taken in seconds[contestant.label]],
            gradient_difference(gradients[contestant], gradients[YARDSTICK]),
            firsts.get(contestant),
        )
        for contestant in entrants
    ]
    return assemble(
        machine=describe_machine(device),
        work=_describe_work(plan, flops, _CALLS_PER_TURN[kind]),
        peaks={dtype: peak.or_better(again.get(dtype, peak)) for dtype, peak in peaks.items()},
        measured=measured,
        skipped=[*plan.skipped, *failed],
    )


def gradient_difference(got: np.ndarray[Any, Any], want: np.ndarray[Any, Any]) -> float:
    """How far `got` [B, ...] is from `want`: the median over the images of the relative L2 distance."""
    return float(np.median(relative_error(got, want)))


def _check_resolution(bundle: Bundle, resolution: int | None) -> int:
    sizes = bundle.config.resolutions
    if not sizes:
        raise BadInputError(f"bundle {bundle.path} names no resolution; export it again with --resolution N")
    if resolution is not None and resolution not in sizes:
        has = ", ".join(map(str, sizes))
        raise BadInputError(
            f"bundle {bundle.path} was exported and verified for {has}, not {resolution}; use one of these, or export it again "
            f"with --resolution {resolution}"
        )
    return sizes[0] if resolution is None else resolution


def _first_batches(plan: Plan, scratch: Path, say: Say) -> dict[Contestant, dict[str, Any]]:
    firsts: dict[Contestant, dict[str, Any]] = {}
    for contestant in plan.contestants:
        say(f"first batch of {contestant.label}, in a process of its own")
        try:
            cache = _cache_folder(scratch, contestant)
            firsts[contestant] = measure_first_batch(contestant, plan.work, cache) | {"why": None}
        except FailureError as e:
            firsts[contestant] = {"cached": None, "cold": None, "why": str(e)}
    return firsts


def _cache_folder(scratch: Path, contestant: Contestant) -> Path:
    # One each: the second dtype is to start as cold as the first.
    return scratch / contestant.dtype


@contextmanager
def _inductor_cache(folder: Path | None) -> Iterator[None]:
    """Have Inductor keep what it compiles in `folder`; None leaves it where it is."""
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if folder is not None:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    try:
        yield
    finally:
        if folder is not None:
            del os.environ["TORCHINDUCTOR_CACHE_DIR"]
            os.environ |= {} if before is None else {"TORCHINDUCTOR_CACHE_DIR": before}


def _count_flops(work: Work) -> float:
    two = Work(**vars(work) | {"batch_size": 2})  # the count is linear in the batch
    bundle = Bundle(work.bundle)
    with Autograd(bundle, objective=work.objective, l0=work.l0, device=work.device) as eager:
        x, y = (eager.put(array) for array in two.inputs(bundle.config))
        return image_step_flops(lambda x: eager.loss(x, y), x)


def _open(
    plan: Plan, stack: ExitStack, scratch: Path, say: Say
) -> tuple[dict[Contestant, Entrant], dict[Contestant, np.ndarray[Any, Any]], list[Skipped]]:
    """Every contestant opened and warmed up, with a gradient of each, and those that cannot compete after all."""
    entrants: dict[Contestant, Entrant] = {}
    gradients: dict[Contestant, np.ndarray[Any, Any]] = {}
    failed: list[Skipped] = []
    logging.getLogger("torch").setLevel(logging.ERROR)  # its remarks on compiling are no news here
    for contestant in plan.contestants:
        say(f"warming up {contestant.label}")
        try:
            entrant = Entrant(contestant, plan.work)
            stack.callback(entrant.close)
            # What the fresh processes compiled serves this one too.
            with _inductor_cache(_cache_folder(scratch, contestant) if plan.first_batches else None):
                for _ in range(WARM_UP):
                    entrant.step()
            gradients[contestant] = entrant.gradient()
        except Exception as e:  # compilers, runtimes and drivers fail in their own ways, and the others still compete
            if contestant == YARDSTICK:
                raise
            if isinstance(e, JboostError):
                why = one_line(e, None)
            else:
                why = f"{contestant.label} fails here: {type(e).__name__}: {one_line(e)}"
            failed.append(Skipped(contestant.name, contestant.dtype, why))
        else:
            entrants[contestant] = entrant
    return entrants, gradients, failed


def _peak_dtypes(plan: Plan) -> tuple[str, ...]:
    used = {contestant.dtype for contestant in plan.contestants}
    return tuple(dtype for dtype in DTYPES if dtype in used)


def _describe_work(plan: Plan, flops: float, calls_per_turn: int) -> dict[str, Any]:
    config = Bundle(plan.work.bundle).config
    return {
        "bundle": plan.work.bundle,
        "architecture": config.architecture,
        "objective": plan.work.objective,
        "resolution": plan.work.resolution,
        "batch_size": plan.work.batch_size,
        "preset": plan.preset,
        "steps": plan.steps,
        "rounds": plan.rounds,
        "warm_up": WARM_UP,
        "calls_per_turn": calls_per_turn,
        "flops_per_image_step": flops,
    }
