"""The ONNX opsets that can be written here: by the onnx package, for the ONNX Runtime that is installed. Needs no torch."""

from __future__ import annotations

from functools import cache

from jboost.engine.errors import BadInputError

#: Default opset: TensorRT 10 and later and ONNX Runtime 1.17 and later read it in full.
DEFAULT_OPSET = 20

#: The lowest opset that torch's exporter and the translation write.
LEAST_OPSET = 18

#: The version of ONNX's file format that torch's exporter writes as well.
IR_VERSION = 10


def check_opset(opset: int) -> None:
    """Refuse an opset that cannot be written or read here.

    Raises:
        BadInputError: it is too old or too new.
    """
    import onnx
    import onnxruntime as ort

    newest = _newest()
    if not LEAST_OPSET <= opset <= newest:
        raise BadInputError(
            f"opset {opset} cannot be used with onnx {onnx.__version__}, which writes up to {onnx.defs.onnx_opset_version()}, and "
            f"ONNX Runtime {ort.__version__}, which reads up to {newest}; choose one from {LEAST_OPSET} to {newest} "
            f"(default {DEFAULT_OPSET})"
        )


@cache
def _newest() -> int:
    """The newest opset that onnx writes and ONNX Runtime loads: it is tried, because ONNX Runtime does not say."""
    import onnx

    return next(
        (opset for opset in range(onnx.defs.onnx_opset_version(), LEAST_OPSET, -1) if _loads(opset)), LEAST_OPSET
    )


def _loads(opset: int) -> bool:
    """Whether ONNX Runtime loads a graph of one operator at this opset; it takes milliseconds."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION)
    try:
        ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception:  # ONNX Runtime has a class for every kind of error, none of them for this
        return False
    return True
