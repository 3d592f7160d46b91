"""Describe the machine of a measurement: a speed without its machine means nothing."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import torch

from jboost.engine.backends.registry import installed
from jboost.engine.system.devices import device_kind
from jboost.engine.system.machine import cpu_model, usable_cores


@dataclass(frozen=True)
class Machine:
    """The machine and software of a measurement.

    Attributes:
        cpu: model name.
        cores: CPU cores that this process may use.
        threads: threads within an operator, for every engine.
        instruction_set: widest instruction set that torch uses on this CPU.
        device: torch device of the contestants.
        gpu: name of the GPU; None if `device` is not CUDA.
        tf32: whether TF32 may replace float32; None on a CPU, which has no TF32.
        platform, python: operating system and interpreter.
        versions: versions of the packages that compute; None for packages that are not installed.
    """

    cpu: str
    cores: int
    threads: int
    instruction_set: str
    device: str
    gpu: str | None
    tf32: bool | None
    platform: str
    python: str
    versions: dict[str, str | None]


def describe_machine(device: str) -> Machine:
    """Describe this machine with its current settings; `device` is a torch device string."""
    cuda = device_kind(device) == "cuda"
    return Machine(
        cpu=cpu_model(),
        cores=usable_cores(),
        threads=torch.get_num_threads(),
        instruction_set=torch.backends.cpu.get_cpu_capability(),
        device=device,
        gpu=torch.cuda.get_device_name(torch.device(device)) if cuda else None,
        tf32=bool(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32) if cuda else None,
        platform=platform.platform(),
        python=platform.python_version(),
        versions=installed("jboost", "torch", "onnxruntime-gpu", "onnxruntime", "numpy"),
    )
