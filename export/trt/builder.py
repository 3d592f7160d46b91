"""Call TensorRT's builder to turn an ONNX graph into a plan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jboost.engine.backends.trt.variant import Variant, new_log, said
from jboost.engine.errors import FailureError, one_line
from jboost.engine.system.cache import read_cached, write_cached
from jboost.engine.system.gpu import sm_of

# Builder flags, set if the TensorRT version has them.
# STRICT_NANS: 0 times infinity stays not finite, so the loop sees it and computes the gradient again in float32.
# REQUIRE_USER_ALLOCATION: no step allocates memory, so a CUDA graph can record it (TensorRT-RTX).
_FLAGS = ("STRICT_NANS", "REQUIRE_USER_ALLOCATION")


def build_plan(
    path: Path,
    variant: Variant,
    *,
    capability: str | None,
    batch: int | tuple[int, int],
    timings: str | None = None,
) -> bytes:
    """Build a plan that computes in the dtypes of an ONNX graph.

    The build disables TF32: its 10-bit mantissa would defeat the purpose of the products that a graph keeps in float32.

    Args:
        path: the graph; its weights lie beside it.
        variant: the TensorRT variant that builds.
        capability: compute capability to build for with TensorRT-RTX, like ``"8.6"``; None with TensorRT, which builds
            for this machine's GPU.
        batch: the batch size, or (smallest, largest), tuned for the largest. A graph with a fixed batch keeps it.
        timings: name of TensorRT's kernel timings in jboost's cache; they make the next build faster.

    Returns:
        The serialised engine.

    Raises:
        FailureError: TensorRT cannot parse or build the graph.
    """
    trt = variant.trt
    log = new_log(trt)
    where = "on this GPU" if capability is None else f"for {sm_of(capability)}"

    def failed(what: str, why: str) -> FailureError:
        return FailureError(
            f"{variant} cannot {what} {path.name} {where} ({why}); build for another GPU, or leave trt out of --format"
        )

    try:
        builder = trt.Builder(log)
    except TypeError as e:  # the binding raises this for a null pointer
        raise failed("start to build", said(log)) from e
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        why = one_line(parser.get_error(0).desc()) if parser.num_errors else said(log)
        raise failed("parse", why)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    for name in _FLAGS:
        if hasattr(trt.BuilderFlag, name):
            config.set_flag(getattr(trt.BuilderFlag, name))
    if capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, sm_of(capability).replace("sm_", "SM")), 0)
    _set_batch(builder, network, config, batch)
    with _timing_cache(config, timings):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise failed("build", said(log))
    return bytes(memoryview(plan))


def _strongly_typed(trt: Any) -> int:
    """Return the creation flags of a strongly typed network; TensorRT 11 and TensorRT-RTX have no other kind."""
    flag = getattr(getattr(trt, "NetworkDefinitionCreationFlag", None), "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _set_batch(builder: Any, network: Any, config: Any, batch: int | tuple[int, int]) -> None:
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    free = [value for value in inputs if value.shape[0] == -1]
    if isinstance(batch, int):
        for value in free:
            # A fixed shape, not a profile of one size: TensorRT then knows every shape when it chooses kernels, and
            # needs none at run time.
            value.shape = (batch, *tuple(value.shape)[1:])
    elif free:
        least, most = batch
        profile = builder.create_optimization_profile()
        for value in free:
            rest = tuple(value.shape)[1:]
            profile.set_shape(value.name, (least, *rest), (most, *rest), (most, *rest))
        config.add_optimization_profile(profile)


@contextmanager
def _timing_cache(config: Any, name: str | None) -> Iterator[None]:
    """Build with the cached timings `name`, and save the timings that the build adds."""
    if name is None:
        yield
        return
    # TensorRT itself checks that this version measured them on such a GPU.
    cache = config.create_timing_cache(read_cached(name))
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    yield
    write_cached(name, bytes(memoryview(config.get_timing_cache().serialize())))
