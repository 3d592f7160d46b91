"""NVIDIA software on this machine, and the commands that install the rest."""

from __future__ import annotations

import ctypes
import re
import subprocess
from dataclasses import asdict, dataclass
from typing import Any

from jboost.engine.backends.cuda.compiler import find_nvcc
from jboost.engine.backends.registry import installed
from jboost.engine.backends.trt.variant import INSTALL, load_variant
from jboost.engine.errors import BadInputError
from jboost.engine.system.gpu import find_driver


@dataclass(frozen=True)
class Part:
    """A piece of software that an engine needs on a GPU.

    Attributes:
        found: version and further details; None if it is missing or does not work.
        needed_by: the engines and commands that need it.
        remedy: the command or page that installs it.
        why: the reason, if it is installed and does not work.
    """

    found: str | None
    needed_by: str
    remedy: str
    why: str | None = None


def cuda_facts() -> dict[str, Any]:
    """Find the driver, the GPUs and the parts that engines need; returns JSON values."""
    driver = find_driver()
    return {
        "driver": driver.version,
        "driver_cuda": driver.cuda,
        "gpus": [asdict(gpu) for gpu in driver.gpus],
        "problem": driver.problem,
        "parts": {name: asdict(part) for name, part in _parts(driver.cuda).items()},
    }


def cuda_rows(facts: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return the result of `cuda_facts` as rows: name, what is here, needed by, what to do."""
    newest = facts["driver_cuda"]
    driver = newest and f"{facts['driver'] or 'unknown version'}, runs CUDA {newest}"
    rows = [
        ("driver", driver or "missing", "every engine on a GPU", "" if driver else "install it: nvidia.com/drivers")
    ]
    for number, gpu in enumerate(facts["gpus"]):
        about = f"{gpu['name']}, compute capability {gpu['capability']}, {gpu['memory'] / 2**30:.0f} GiB"
        rows.append((f"GPU {number}", about, "", ""))
    if facts["problem"] is not None:
        rows.append(("GPU", f"none: {facts['problem']}", "", ""))
    for name, part in facts["parts"].items():
        missing = part["found"] is None
        rows.append(
            (name, part["found"] or part["why"] or "missing", part["needed_by"], part["remedy"] if missing else "")
        )
    return rows


def _parts(driver_cuda: str | None) -> dict[str, Part]:
    return {
        "PyTorch": _torch(driver_cuda),
        "cuDNN": Part(_cudnn(), "compile, eager, onnx", "pip install nvidia-cudnn-cu13"),
        "nvcc": Part(_nvcc(), "onnx and trt, unless cuda-python provides NVRTC", "apt-get install nvidia-cuda-toolkit"),
        "TensorRT": _tensorrt("tensorrt", "trt"),
        "TensorRT-RTX": _tensorrt("tensorrt_rtx", "trt on RTX cards, export --format trt --gpu"),
        "pycuda": Part(_version("pycuda"), "onnx, trt", "pip install pycuda"),
        "cuda-python": Part(_version("cuda-bindings"), "onnx, trt", "pip install cuda-python"),
        "triton": Part(_version("triton"), "compile", "pip install triton"),
        "ONNX Runtime": _onnxruntime(),
    }


def _version(distribution: str) -> str | None:
    return installed(distribution)[distribution]


def _torch(driver_cuda: str | None) -> Part:
    needed_by, remedy = "compile, eager", "install a build for CUDA: pytorch.org/get-started/locally"
    try:
        import torch
    except Exception as e:  # the package or one of its shared libraries is missing
        return Part(None, needed_by, remedy, None if isinstance(e, ModuleNotFoundError) else str(e))
    built_for = torch.version.cuda
    if built_for is None:
        return Part(None, needed_by, remedy, f"{torch.__version__}, built without CUDA")
    if driver_cuda is not None and int(built_for.split(".")[0]) > int(driver_cuda.split(".")[0]):
        why = f"{torch.__version__}, built for CUDA {built_for}, but the driver is too old for it"
        return Part(None, needed_by, "update the driver: nvidia.com/drivers", why)
    return Part(f"{torch.__version__}, built for CUDA {built_for}", needed_by, remedy)


def _tensorrt(module: str, needed_by: str) -> Part:
    try:
        return Part(load_variant(module).version, needed_by, INSTALL[module])
    except BadInputError as e:
        why = str(e).rpartition("; ")[0]  # the remedy has its own column
        return Part(None, needed_by, INSTALL[module], None if why.endswith("is not installed") else why)


def _onnxruntime() -> Part:
    needed_by, remedy = "onnx; on a GPU with its CUDAExecutionProvider", "pip install onnxruntime-gpu"
    try:
        import onnxruntime
    except Exception as e:  # the package or one of its shared libraries is missing
        return Part(None, needed_by, remedy, None if isinstance(e, ModuleNotFoundError) else str(e))
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
    return Part(f"{onnxruntime.__version__}, built for {providers}", needed_by, remedy)


def _cudnn() -> str | None:
    """Version of the library that the loader finds; else of NVIDIA's package."""
    try:
        number: int = ctypes.CDLL("libcudnn.so.9").cudnnGetVersion()
    except (OSError, AttributeError):
        return _version("nvidia-cudnn-cu13") or _version("nvidia-cudnn-cu12")
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _nvcc() -> str | None:
    path = find_nvcc()
    if path is None:
        return None
    said = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release ([\d.]+)", said)
    return f"{release[1] if release else 'unknown version'} at {path}"
