"""Opening an ONNX Runtime session, for the engines, export's verification and the evaluation's extractors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime as ort

from jboost.engine.errors import BadInputError, FailureError, one_line
from jboost.engine.system.environment import CUDA, ONNX, check_environment, thread_count
from jboost.engine.system.memory import lacks_memory

CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"
#: An execution provider's name, alone or with its options.
Provider = str | tuple[str, Mapping[str, str]]


def _name(provider: Provider) -> str:
    return provider if isinstance(provider, str) else provider[0]


def open_session(
    path: Path,
    what: str,
    *,
    providers: Sequence[Provider] = (CPU_PROVIDER,),
    config: Mapping[str, str] | None = None,
    remedy: str = "",
) -> ort.InferenceSession:
    """A session that uses as many threads as torch does and logs only errors.

    Args:
        path: the ONNX file.
        what: the file's name in an error message.
        providers: in order of preference. ONNX Runtime falls back to the CPU without raising: ask the session for its
            providers.
        config: entries of ONNX Runtime's session configuration.
        remedy: what to type after a failure, if anything.

    Raises:
        BadInputError: ONNX Runtime cannot read or run the graph, or the environment overrides its options.
        FailureError: there is no memory for it.
    """
    check_environment(ONNX, *((CUDA,) if any(_name(p) == CUDA_PROVIDER for p in providers) else ()))
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only: without a GPU ONNX Runtime warns that there is none
    # 0 is ONNX Runtime's default: every core.
    options.intra_op_num_threads = thread_count()
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    try:
        return ort.InferenceSession(path, options, providers=list(providers))
    except Exception as e:  # onnxruntime raises its own hierarchy, and RuntimeError
        if lacks_memory(e):
            raise FailureError(f"there is no memory for {what} ({one_line(e)}); free some") from e
        hint = f"; {remedy}" if remedy else ""
        raise BadInputError(f"ONNX Runtime {ort.__version__} cannot run {what} ({one_line(e)}){hint}") from e
