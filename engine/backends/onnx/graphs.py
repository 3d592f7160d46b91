"""The ONNX graphs of a bundle: their names, and whether one can serve a run on this machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnxruntime as ort

from jboost.engine.backends.request import RunRequest, why_no_graph
from jboost.engine.bundle import Bundle
from jboost.engine.system.devices import device_kind
from jboost.engine.system.gpu import find_driver

from .session import CUDA_PROVIDER


def artefact_name(objective: str, dtype: str, resolution: int) -> str:
    """The name of a gradient graph in a bundle's manifest."""
    return f"onnx/{objective}/{dtype}/{resolution}"


def forward_name(dtype: str, resolution: int) -> str:
    """The name of a graph with only the forward pass in a bundle's manifest."""
    return f"onnx/forward/{dtype}/{resolution}"


def weights_name(graph: str) -> str:
    """The name of a graph's weights in a bundle's manifest."""
    return f"{graph}/weights"


def why_unusable(bundle: Bundle, request: RunRequest) -> str | None:
    """Why the bundle cannot serve a request through ONNX Runtime on this machine; None if it can."""
    if settled_device_kind(request.device) == "cuda" and (why := why_no_cuda()) is not None:
        return why
    name = artefact_name(request.objective, request.dtype, request.resolution)
    return why_no_graph(bundle, name, "onnx", request)


def settled_device_kind(device: str) -> str:
    """``"cpu"`` or ``"cuda"``; ``"auto"`` is CUDA if ONNX Runtime can use it.

    Raises:
        BadInputError: `device` is not a device name.
    """
    kind = device_kind(device)
    if kind == "auto":
        return "cpu" if why_no_cuda() else "cuda"
    return kind


def checked_graph(bundle: Bundle, name: str, known: set[str] | None = None) -> Path:
    """Path of a graph after checking it and its weights against the manifest.

    Args:
        bundle: the bundle that holds the graph.
        name: the graph's name in the manifest.
        known: weight files that are already checked and are not hashed again, because hashing takes as long as opening;
            the graph's weight file is added.

    Raises:
        BadInputError: the graph or its weights are missing or changed.
    """
    path, weights = bundle.checked_path(name), weights_name(name)
    file = bundle.artefact(weights).file
    if known is None or file not in known:
        bundle.checked_path(weights)
        if known is not None:
            known.add(file)
    return path


def why_no_cuda() -> str | None:
    """Why ONNX Runtime cannot run on a GPU of this machine, checked without a session; None if nothing is missing."""
    if find_driver().problem is not None:
        return find_driver().problem
    if CUDA_PROVIDER not in ort.get_available_providers():
        return f"onnxruntime {ort.__version__} is built without CUDA; install it: pip install onnxruntime-gpu"
    for module, package in (("pycuda", "pycuda"), ("cuda", "cuda-python")):
        if importlib.util.find_spec(module) is None:
            return f"{package} is not installed; install it: pip install {package}"
    return None
