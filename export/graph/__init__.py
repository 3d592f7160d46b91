"""jboost.export.graph: a classifier's input gradient as one plain forward graph, optimised and lowered.

trunk = trace_trunk(model, example)              # (x, v) -> (logits, d<v, logits>/dx), once per model and size
optimize(trunk)                                  # in place
half = lower(trunk, "fp16", probes).trunk        # products that need it stay in float32
optimize_for_cpu(trunk)                          # in place; only for a trunk that runs on a CPU, after its precision is chosen
gradient = attach_objective(trunk, "joint", l0)  # (x, y) -> (grad, class_logit, loss, predicted), once per objective
"""

from .decompositions import Pooling, register
from .mixed import Lowered, lower
from .optimize import optimize, optimize_for_cpu
from .precision import Scale, choose_scale, lower_precision
from .program import export_program
from .trace import OUTPUTS, attach_objective, trace_trunk

__all__ = [
    "OUTPUTS", "Lowered", "Pooling", "Scale", "attach_objective", "choose_scale", "export_program", "lower",
    "lower_precision", "optimize", "optimize_for_cpu", "register", "trace_trunk",
]  # fmt: skip
