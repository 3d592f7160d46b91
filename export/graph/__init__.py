"""jboost.export.graph: a classifier's input gradient as one plain forward graph, optimised, lowered and verified.

trunk = trace_trunk(model, example)                      # (x, v) -> (logits, d<v, logits>/dx), once per model and size
optimize(trunk)                                          # in place
half = lower(trunk, "fp16", probes).trunk                # some products stay in float32 where they must
optimize_for_cpu(trunk)                                  # in place, if that is where it will run, in float32
gradient = attach_objective(trunk, "joint", l0)          # (x, y) -> (grad, class_logit, loss, predicted), once per objective
to_onnx(gradient, path)
figures = verify_onnx(path, model, "joint", shape, l0=l0)
"""

from .decompositions import Pooling, register
from .mixed import Lowered, lower
from .onnx_lowering import DEFAULT_OPSET, export_program, to_onnx
from .optimize import optimize, optimize_for_cpu
from .precision import DTYPES, Scale, choose_scale, lower_precision
from .trace import OUTPUTS, attach_objective, trace_gradient, trace_trunk
from .verify import TOLERANCES, Figures, Tolerance, check_images, graph_run, judge, measure, onnx_run, verify_onnx

__all__ = [
    "DEFAULT_OPSET", "DTYPES", "OUTPUTS", "TOLERANCES", "Figures", "Lowered", "Pooling", "Scale", "Tolerance", "attach_objective",
    "check_images", "choose_scale", "export_program", "graph_run", "judge", "lower", "lower_precision", "measure", "onnx_run",
    "optimize", "optimize_for_cpu", "register", "to_onnx", "trace_gradient", "trace_trunk", "verify_onnx",
]  # fmt: skip
