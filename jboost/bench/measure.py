"""Run the benchmark: first batches, then all contestants by turns in one process, between two peak measurements.

All contestants share one process, so settings that an engine makes for the whole process, such as the allocator's
thresholds, also apply to the baselines: a ratio compares the computations alone. Each first batch is measured in a
fresh process.
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
from jboost.opening import open_bundle

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

# On a GPU a loop queues its steps; waiting for each one would add the waiting to the time.
_CALLS_PER_TURN = {"cpu": 1, "cuda": 10}

Say = Callable[[str], object]


@dataclass(frozen=True)
class Plan:
    """Settings of a benchmark, made by `make_plan`."""

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
    trust_code: bool = False,
) -> Plan:
    """Check the options and choose the contestants, before any heavy work.

    Args:
        path: the bundle's folder.
        engines, dtypes: None for all that the bundle supports here.
        objective: None for the preset's, else joint if the bundle holds l0, else bce.
        resolution: image size in pixels; None for the bundle's first.
        batch_size: images per call; None for the fixed batch of the bundle's packages or plans, else 32 on a CPU and
            256 on a GPU.
        device: "auto", "cpu", "cuda" or "cuda:N".
        preset: preset whose step count converts ms/image-step to images/s.
        rounds: turns per contestant.
        torch_compile: whether plain ``torch.compile`` competes.
        first_batches: whether to measure seconds and memory to the first batch.
        trust_code: run the bundle's code, whoever made it.

    Raises:
        BadInputError: a name is unknown, a number is out of range, or the bundle lacks something requested.
    """
    engines = check_names(engines, tuple(ENGINES), "engine")
    dtypes = check_names(dtypes, DTYPES, "dtype")
    for option, value in (("--rounds", rounds), ("-b", batch_size)):
        if value is not None and value < 1:
            raise BadInputError(f"{option} must be at least 1, got {value}")
    chosen = find_preset(preset)
    assert chosen is not None
    device = find_device(device)
    bundle = open_bundle(path, trust_code=trust_code)
    l0 = bundle.config.l0
    objective = objective or chosen.objective
    if objective in NEEDS_L0 and l0 is None:
        raise BadInputError(
            f"objective {objective!r} needs l0, which bundle {path} does not hold; use another --objective, or export it again "
            "with --real REAL_SAMPLES"
        )
    objective = resolve_objective(objective, l0)
    size = _check_resolution(bundle, resolution)
    dtypes = dtypes or served_dtypes(bundle)
    batch = batch_size or packaged_batch(bundle, objective, size, dtypes) or default_batch(device)
    work = Work(str(bundle.path.resolve()), objective, l0, size, batch, device, trust_code)
    field, skipped = line_up(bundle, work, engines=engines, dtypes=dtypes, torch_compile=torch_compile)
    return Plan(work, preset, chosen.steps, dtypes, tuple(field), tuple(skipped), rounds, first_batches)


def run_plan(plan: Plan, say: Say = lambda stage: None) -> dict[str, Any]:
    """Measure, and return the result that `jboost.bench.result` describes.

    Raises:
        BadInputError: the bundle is damaged.
    """
    set_tf32(False)
    work, device = plan.work, plan.work.device
    kind = device_kind(device)
    wait: Callable[[], object] = (lambda: torch.cuda.synchronize(device)) if kind == "cuda" else lambda: None
    with tempfile.TemporaryDirectory(prefix="jboost-bench-") as scratch, ExitStack() as stack:
        firsts = _first_batches(plan, Path(scratch), say) if plan.first_batches else {}
        say("counting floating-point operations")
        flops = _count_flops(work)
        entrants, gradients, stopping, failed = _open(plan, stack, Path(scratch), say)
        say("measuring the machine's peaks")
        peaks = measure_peaks(device, _peak_dtypes(plan), wait)
        say(f"timing {plan.rounds} rounds of {len(entrants)} contestants")
        seconds = alternate(
            {contestant.label: entrant.step for contestant, entrant in entrants.items()},
            rounds=plan.rounds,
            calls_per_turn=_CALLS_PER_TURN[kind],
            wait=wait,
            pause=PAUSE if kind == "cpu" else 0.0,
        )
        say("measuring the machine's peaks again")
        again = measure_peaks(device, tuple(peaks), wait)
    measured = [
        Measured(
            contestant,
            [taken / work.batch_size * 1e3 for taken in seconds[contestant.label]],
            gradient_difference(gradients[contestant], gradients[YARDSTICK]),
            firsts.get(contestant),
            stopping[contestant],
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
        say(f"first batch of {contestant.label}, in a separate process")
        try:
            cache = _cache_folder(scratch, contestant)
            firsts[contestant] = measure_first_batch(contestant, plan.work, cache) | {"why": None}
        except FailureError as e:
            firsts[contestant] = {"cached": None, "cold": None, "why": str(e)}
    return firsts


def _cache_folder(scratch: Path, contestant: Contestant) -> Path:
    # One folder per dtype, so that the second dtype starts as cold as the first.
    return scratch / contestant.dtype


@contextmanager
def _inductor_cache(folder: Path | None) -> Iterator[None]:
    """Make Inductor keep compiled code in `folder`; None leaves its cache unchanged."""
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
    bundle = work.open()
    with Autograd(bundle, objective=work.objective, l0=work.l0, device=work.device) as eager:
        x, y = (eager.put(array) for array in two.inputs(bundle.config))
        return image_step_flops(lambda x: eager.loss(x, y), x)


def _open(
    plan: Plan, stack: ExitStack, scratch: Path, say: Say
) -> tuple[
    dict[Contestant, Entrant],
    dict[Contestant, np.ndarray[Any, Any]],
    dict[Contestant, dict[str, Any] | None],
    list[Skipped],
]:
    """Open and warm up every contestant; return a gradient and the cost of early stopping of each, and those that failed."""
    entrants: dict[Contestant, Entrant] = {}
    gradients: dict[Contestant, np.ndarray[Any, Any]] = {}
    stopping: dict[Contestant, dict[str, Any] | None] = {}
    failed: list[Skipped] = []
    logging.getLogger("torch").setLevel(logging.ERROR)  # hides torch's messages about compiling
    for contestant in plan.contestants:
        say(f"warming up {contestant.label}")
        try:
            entrant = Entrant(contestant, plan.work)
            stack.callback(entrant.close)
            # Reuse the code that the fresh processes compiled.
            with _inductor_cache(_cache_folder(scratch, contestant) if plan.first_batches else None):
                for _ in range(WARM_UP):
                    entrant.step()
            gradients[contestant] = entrant.gradient()
            stopping[contestant] = entrant.early_stopping(plan.steps)
        except Exception as e:  # compilers, runtimes and drivers can raise anything; the others still compete
            if contestant == YARDSTICK:
                raise
            if isinstance(e, JboostError):
                why = one_line(e, None)
            else:
                why = f"{contestant.label} fails here: {type(e).__name__}: {one_line(e)}"
            failed.append(Skipped(contestant.name, contestant.dtype, why))
        else:
            entrants[contestant] = entrant
    return entrants, gradients, stopping, failed


def _peak_dtypes(plan: Plan) -> tuple[str, ...]:
    used = {contestant.dtype for contestant in plan.contestants}
    return tuple(dtype for dtype in DTYPES if dtype in used)


def _describe_work(plan: Plan, flops: float, calls_per_turn: int) -> dict[str, Any]:
    config = plan.work.open().config
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
