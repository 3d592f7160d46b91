"""The machine a figure belongs to: a speed without it says nothing."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import torch

from jboost.engine.backends.registry import installed
from jboost.engine.system.devices import device_kind
from jboost.engine.system.machine import cpu_model, usable_cores


@dataclass(frozen=True)
class Machine:
    """What the figures were measured on.

    Attributes:
        cpu: model name.
        cores: CPU cores that this process may use.
        threads: within an operator, of every engine.
        instruction_set: the widest that torch uses on this CPU.
        device: torch device of the contestants.
        gpu: its name, where `device` is CUDA.
        tf32: whether float32 may be computed in TF32; None on a CPU, which has none.
        platform, python: operating system and interpreter.
        versions: of the packages that do the work; None for what is not installed.
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
    """This machine, as it is set up now; `device` is a torch device string."""
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
