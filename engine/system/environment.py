"""Environment variables that override what a command or a bundle states, each with what it does and what jboost does about it.

Libraries read these on their own. A variable that would change numbers, the device or the method is refused in one line, or the
stated value is passed so that it wins. `jboost doctor` shows those that are set.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from jboost.engine.errors import BadInputError

_OFF = ("", "0", "false", "no", "off")

#: What reads the variables. `check_environment` takes these.
TORCH, CUDA, COMPILER, DYNAMO, ONNX, TRAINING, REPEATABLE = (
    "torch", "cuda", "compiler", "torch.compile", "onnx", "training", "deterministic training",
)  # fmt: skip
PINNED, SHOWN = "pinned", "shown"


@dataclass(frozen=True)
class Variable:
    """An environment variable that overrides something.

    Attributes:
        name: the variable.
        effect: what it does, as the end of "NAME=VALUE ...".
        scope: `TORCH` and the like: refused where this is in use. `PINNED`: the stated value wins. `SHOWN`: it does what it
            says, and `jboost doctor` shows it.
        harmless: values, in lower case, with which it overrides nothing.
    """

    name: str
    effect: str
    scope: str
    harmless: tuple[str, ...] = _OFF

    @property
    def value(self) -> str | None:
        """Its value, if it overrides something; else None."""
        value = os.environ.get(self.name)
        return None if value is None or value.strip().lower() in self.harmless else value

    @property
    def action(self) -> str:
        """What jboost does about it, in words."""
        if self.scope == PINNED:
            return "no effect: jboost states its own value"
        return "used" if self.scope == SHOWN else f"refused ({self.scope}); remove it: unset {self.name}"


_LOW = "lets float32 convolutions and products run in a lower precision; ask for that with --dtype"
_TF32 = "lets a GPU compute float32 products in TF32, with 10 bits of mantissa"
_SHARDED = "makes Accelerate train with {}, which jboost does not support"

VARIABLES = (
    Variable("ONEDNN_DEFAULT_FPMATH_MODE", _LOW, TORCH, ("", "strict")),
    Variable("DNNL_DEFAULT_FPMATH_MODE", _LOW, TORCH, ("", "strict")),
    Variable("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", _TF32, TORCH),
    Variable("NVIDIA_TF32_OVERRIDE", _TF32, CUDA, ("", "0")),
    Variable("TORCHINDUCTOR_USE_FAST_MATH", "makes Inductor compile with inexact functions", COMPILER),
    Variable("TORCHINDUCTOR_CPP_ENABLE_UNSAFE_MATH_OPT_FLAG", "makes Inductor compile with inexact arithmetic", COMPILER),
    Variable("TORCH_COMPILE_DISABLE", "turns torch.compile into eager PyTorch", DYNAMO),
    Variable("TORCHDYNAMO_DISABLE", "turns torch.compile into eager PyTorch", DYNAMO),
    Variable("ORT_LOAD_CONFIG_FROM_MODEL", "lets an ONNX file set ONNX Runtime's options", ONNX),
    Variable("ACCELERATE_USE_FSDP", _SHARDED.format("FSDP"), TRAINING),
    Variable("ACCELERATE_USE_DEEPSPEED", _SHARDED.format("DeepSpeed"), TRAINING),
    Variable("ACCELERATE_USE_MEGATRON_LM", _SHARDED.format("Megatron-LM"), TRAINING),
    Variable("ACCELERATE_USE_PARALLELISM_CONFIG", _SHARDED.format("sharded parallelism"), TRAINING),
    Variable("ACCELERATE_USE_SAGEMAKER", _SHARDED.format("SageMaker"), TRAINING),
    Variable("ACCELERATE_USE_CPU", "makes Accelerate train on the CPU; say --device cpu instead", TRAINING),
    Variable("ACCELERATE_TORCH_DEVICE", "makes Accelerate train on another device; say --device instead", TRAINING, ("",)),
    Variable("CUBLAS_WORKSPACE_CONFIG", "may make cuBLAS's sums differ from run to run", REPEATABLE, ("", ":4096:8", ":16:8")),
    Variable("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "would set --accumulate", PINNED, ("",)),
    Variable("ACCELERATE_MIXED_PRECISION", "would set --dtype", PINNED, ("",)),
    Variable("ACCELERATE_DYNAMO_BACKEND", "would compile the network that is trained", PINNED, ("", "no")),
    Variable("CUDA_VISIBLE_DEVICES", "hides GPUs and numbers the others anew", SHOWN, ()),
    Variable("OMP_NUM_THREADS", "sets the number of CPU threads", SHOWN, ("",)),
    Variable("TMPDIR", "is where compiled packages are unpacked", SHOWN, ("",)),
    Variable("JBOOST_CACHE", "is where compiled packages are kept", SHOWN, ("",)),
    Variable("JBOOST_TRUST", "is where trusted bundles are noted", SHOWN, ("",)),
)  # fmt: skip


def set_variables() -> list[tuple[Variable, str]]:
    """The variables of `VARIABLES` that are set and override something, with their values."""
    return [(variable, value) for variable in VARIABLES if (value := variable.value) is not None]


def check_environment(*scopes: str) -> None:
    """Refuse variables that override what was stated.

    Args:
        scopes: what is about to be used: `TORCH`, `CUDA` and the like.

    Raises:
        BadInputError: a variable overrides something there; the message says what and how to remove it.
    """
    for variable, value in set_variables():
        if variable.scope in scopes:
            raise BadInputError(
                f"the environment variable {variable.name}={value} {variable.effect}; remove it: unset {variable.name}"
            )


def thread_count() -> int:
    """The number of threads that ``OMP_NUM_THREADS`` asks for, of its outermost level (``4,2`` asks for 4); 0 if it is unset.

    Raises:
        BadInputError: it is not a number, which every library would understand differently.
    """
    text = os.environ.get("OMP_NUM_THREADS", "").strip()
    first = text.partition(",")[0].strip()
    if not text:
        return 0
    if not first.isdecimal() or not 1 <= int(first) <= 65536:
        raise BadInputError(
            f"OMP_NUM_THREADS={text} is no number of threads; set it, for example: export OMP_NUM_THREADS=4"
        )
    return int(first)
