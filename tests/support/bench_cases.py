"""A benchmark's result, made up."""

from __future__ import annotations

from jboost.bench.contestants import YARDSTICK, Contestant, Skipped
from jboost.bench.machine import Machine
from jboost.bench.peaks import Peak
from jboost.bench.result import Measured, assemble

MACHINE = Machine("a CPU", 2, 2, "AVX512", "cpu", None, None, "an OS", "3.11", {"torch": "2.13"})
WORK = {
    "architecture": "net", "resolution": 64, "batch_size": 32, "objective": "joint", "rounds": 3, "preset": "cd1", "steps": 15,
    "flops_per_image_step": 1.2e9,
}  # fmt: skip


def result_of() -> dict:
    measured = [
        Measured(YARDSTICK, [11.0, 12.0, 10.0, 30.0, 12.0], 0.0, None),
        Measured(Contestant("onnx", "fp32"), [4.0, 5.0, 3.0], 1e-6, None),
        Measured(Contestant("eager", "bf16"), [24.0], 0.1, None),
    ]
    peaks = {"fp32": Peak(500.0, 400.0).or_better(Peak(450.0, 600.0))}
    return assemble(
        machine=MACHINE, work=WORK, peaks=peaks, measured=measured, skipped=[Skipped("trt", None, "absent")]
    )
