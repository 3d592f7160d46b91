"""Set up Hugging Face Accelerate from a configuration: processes, device and precision."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from jboost.engine.errors import BadInputError
from jboost.engine.system.environment import COMPILER, CUDA, DYNAMO, REPEATABLE, TORCH, TRAINING, check_environment

from .config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(config: TrainConfig, out: Path) -> Accelerator:
    """Make this process's accelerator. `accelerate launch` and `torchrun` set the number of processes.

    Args:
        config: sets device, dtype, accumulation, trackers and determinism.
        out: the run's folder; TensorBoard writes below it.

    Raises:
        BadInputError: accelerate or a tracker is missing, the device or dtype is unavailable, the batch size cannot be
            shared, or the environment overrides the configuration.
    """
    try:
        from accelerate import Accelerator
        from accelerate.utils import GradientAccumulationPlugin, is_tensorboard_available, is_wandb_available
    except ModuleNotFoundError as e:
        raise BadInputError("training needs Hugging Face Accelerate; install it: pip install accelerate") from e
    installed = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}
    for tracker in config.trackers:
        if not installed[tracker]():
            raise BadInputError(
                f"{tracker} is not installed; install it (pip install {tracker}), or give --log-with none"
            )
    if config.device == "cuda" and not torch.cuda.is_available():
        raise BadInputError(
            "--device cuda: torch sees no CUDA device here; install a CUDA build of torch, or give --device cpu"
        )
    on_cpu = config.device == "cpu" or not torch.cuda.is_available()
    if config.dtype == "fp16" and on_cpu:
        raise BadInputError("--dtype fp16 trains on a GPU only: loss scaling needs CUDA; on a CPU give bf16 or fp32")
    check_environment(TRAINING, TORCH, *(() if on_cpu else (CUDA,)))
    if config.compile:
        check_environment(DYNAMO, COMPILER)
    if config.deterministic and not on_cpu:
        check_environment(REPEATABLE)
        # cuBLAS reads this when it makes its first handle; without it, cuBLAS's sums differ from run to run.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision="no" if config.dtype == "fp32" else config.dtype,
        # As a number, ACCELERATE_GRADIENT_ACCUMULATION_STEPS would override it.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=config.accumulate),
        dynamo_backend="no",
        log_with=list(config.trackers) or None,
        project_dir=out,
    )
    parts = accelerator.num_processes * config.accumulate
    if config.batch_size % parts:
        raise BadInputError(
            f"a batch size of {config.batch_size} cannot be shared by {accelerator.num_processes} processes x "
            f"{config.accumulate} accumulated batches; give a multiple of {parts}"
        )
    _check_as_stated(accelerator, config, "cpu" if on_cpu else "cuda")
    return accelerator


def _check_as_stated(accelerator: Accelerator, config: TrainConfig, device: str) -> None:
    """Check that Accelerate took the configuration: it also reads the environment and its own configuration file.

    Raises:
        BadInputError: it did not.
    """
    stated = {
        "--device": (device, accelerator.device.type),
        "--dtype": ("no" if config.dtype == "fp32" else config.dtype, str(accelerator.mixed_precision)),
        "--accumulate": (config.accumulate, accelerator.gradient_accumulation_steps),
    }
    for option, (asked, got) in stated.items():
        if asked != got:
            raise BadInputError(
                f"Accelerate trains with {got} instead of {asked} ({option}); remove what sets it: run "
                "env | grep ACCELERATE_, and unset those variables"
            )
