"""Opening an ONNX Runtime session: the engines, export's verification and the evaluation's extractors all do it here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime as ort

from jboost.engine.errors import BadInputError, one_line

CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"
#: An execution provider's name, alone or with its options.
Provider = str | tuple[str, Mapping[str, str]]


def open_session(
    path: Path,
    what: str,
    *,
    providers: Sequence[Provider] = (CPU_PROVIDER,),
    config: Mapping[str, str] | None = None,
    remedy: str = "",
) -> ort.InferenceSession:
    """A session with as many threads as torch takes, which logs errors only.

    Args:
        path: the ONNX file.
        what: what to call it in an error.
        providers: in order of preference. ONNX Runtime falls back to the CPU without raising: ask the session for its providers.
        config: entries of ONNX Runtime's session configuration.
        remedy: what to type after a failure, where there is something.

    Raises:
        BadInputError: ONNX Runtime cannot read or run the graph.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors; without a GPU there are warnings about it
    # By itself ONNX Runtime takes every core, which is what 0 means.
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    try:
        return ort.InferenceSession(path, options, providers=list(providers))
    except Exception as e:  # onnxruntime raises its own hierarchy, and RuntimeError
        hint = f"; {remedy}" if remedy else ""
        raise BadInputError(f"ONNX Runtime {ort.__version__} cannot run {what} ({one_line(e)}){hint}") from e
