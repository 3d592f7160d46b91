"""Opening the onnx engine on the device that was asked for."""

from __future__ import annotations

from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError
from jboost.engine.loop.runner import Runner

from .cpu import OnnxRunner
from .graphs import _kind, why_unusable


def open_runner(
    bundle: Bundle, *, objective: str, l0: float | None, resolution: int, device: str = "auto", dtype: str = "fp32"
) -> Runner:
    """The runner for `device`; see `OnnxRunner` and `jboost.engine.backends.onnx.gpu.OnnxCudaRunner`.

    Raises:
        BadInputError: the bundle has no such graph, or it cannot run on that device.
    """
    if _kind(device) == "cpu":
        return OnnxRunner(bundle, objective=objective, l0=l0, resolution=resolution, dtype=dtype)
    from .gpu import OnnxCudaRunner

    why = why_unusable(bundle, objective=objective, l0=l0, resolution=resolution, device=device, dtype=dtype)
    if why is not None:
        raise BadInputError(f"engine 'onnx' cannot run this: {why}")
    where = "cuda" if device == "auto" else device
    return OnnxCudaRunner(bundle, objective=objective, resolution=resolution, device=where, dtype=dtype)
