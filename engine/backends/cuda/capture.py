"""CUDA graphs on a pycuda stream, through NVIDIA's cuda-python: pycuda itself does not support CUDA graphs."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

from jboost.engine.errors import BadInputError, FailureError


def _driver() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError as e:
        raise BadInputError(f"CUDA graphs need cuda-python ({e}); install it with: pip install cuda-python") from e
    return driver


def _call(function: Any, *arguments: Any) -> Any:
    """Make a driver call, check its status and return its other result, if any."""
    try:
        status, *results = function(*arguments)
    except RuntimeError as e:  # cuda-python looks a function up in the driver when it is first called
        raise BadInputError(f"the NVIDIA driver is too old for cuda-python ({e}); update the driver") from e
    if int(status) != 0:
        raise FailureError(f"{function.__name__} failed: {getattr(status, 'name', status)}")
    return results[0] if results else None


class CapturedGraph:
    """Work captured on a stream as an instantiated CUDA graph.

    Args:
        stream: a CUstream as an integer, with no work queued.
        work: queues the work on that stream; the stream's context is current.

    Raises:
        BadInputError: cuda-python is missing.
        FailureError: some of the work cannot be captured.
    """

    def __init__(self, stream: int, work: Callable[[], None]):
        self._driver = driver = _driver()
        handle = driver.CUstream(stream)
        # Other threads may use the device meanwhile. Garbage collection is off because it could free device memory,
        # which breaks a capture.
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        collecting = gc.isenabled()
        gc.disable()
        try:
            _call(driver.cuStreamBeginCapture, handle, mode)
            try:
                work()
            except BaseException:
                driver.cuStreamEndCapture(handle)  # so the stream takes work again; only the first error is reported
                raise
            graph = _call(driver.cuStreamEndCapture, handle)
        finally:
            if collecting:
                gc.enable()
        try:
            self._executable = _call(driver.cuGraphInstantiate, graph, 0)
        finally:
            driver.cuGraphDestroy(graph)
        # Destroy the graph with this object, but not at the end of the process, when the context may be gone.
        weakref.finalize(self, driver.cuGraphExecDestroy, self._executable).atexit = False

    def launch(self, stream: int) -> None:
        """Queue the graph on a stream."""
        _call(self._driver.cuGraphLaunch, self._executable, self._driver.CUstream(stream))
