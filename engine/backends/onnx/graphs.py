"""The ONNX graphs of a bundle: their names, and whether one serves a run here."""

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
    """The name of a graph of the forward pass alone in a bundle's manifest."""
    return f"onnx/forward/{dtype}/{resolution}"


def weights_name(graph: str) -> str:
    """The name of a graph's weights in a bundle's manifest."""
    return f"{graph}/weights"


def why_unusable(bundle: Bundle, request: RunRequest) -> str | None:
    """Why the bundle's graph, if any, cannot serve a request; None if it can."""
    if settled_device_kind(request.device) == "cuda" and (why := why_no_cuda()) is not None:
        return why
    name = artefact_name(request.objective, request.dtype, request.resolution)
    return why_no_graph(bundle, name, "onnx", request)


def settled_device_kind(device: str) -> str:
    """``"cpu"`` or ``"cuda"``; ``"auto"`` is CUDA where ONNX Runtime can use it.

    Raises:
        BadInputError: no device has such a name.
    """
    kind = device_kind(device)
    if kind == "auto":
        return "cpu" if why_no_cuda() else "cuda"
    return kind


def checked_graph(bundle: Bundle, name: str, known: set[str] | None = None) -> Path:
    """Path of a graph that, like its weights, matches the manifest.

    Args:
        bundle: where it is.
        name: in the manifest.
        known: weights that need no second look, since hashing them takes as long as opening them; the graph's are added.

    Raises:
        BadInputError: one is missing or changed.
    """
    path, weights = bundle.checked_path(name), weights_name(name)
    file = bundle.artefact(weights).file
    if known is None or file not in known:
        bundle.checked_path(weights)
        if known is not None:
            known.add(file)
    return path


def why_no_cuda() -> str | None:
    """Why ONNX Runtime cannot run on a GPU here, as far as can be told without trying; None if it may."""
    if find_driver().problem is not None:
        return find_driver().problem
    if CUDA_PROVIDER not in ort.get_available_providers():
        return f"onnxruntime {ort.__version__} is built without CUDA; install it: pip install onnxruntime-gpu"
    for module, package in (("pycuda", "pycuda"), ("cuda", "cuda-python")):
        if importlib.util.find_spec(module) is None:
            return f"{package} is not installed; install it: pip install {package}"
    return None
