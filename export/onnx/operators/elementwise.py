"""Rules of operators that compute number by number, and of casts."""

from __future__ import annotations

import math
import operator
from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from jboost.export.graph.operators import relu_mask  # noqa: F401  (registers the operator)

from .builder import Builder, NoRuleError, Rule, rule, value_of

aten = torch.ops.aten

# A ReLU's output times STEEP, clipped to [0, 1], is the ReLU's mask: the smallest normal float32 is above 1 / STEEP.
STEEP = 3e38


def _dtype(node: fx.Node) -> torch.dtype:
    result: torch.dtype = node.meta["val"].dtype
    return result


def _unary(kind: str) -> Rule:
    def write(b: Builder, node: fx.Node, x: Any) -> ir.Value:
        return b.op(kind, [b.tensor(x, _dtype(node))])

    return write


for _operator, _kind in {
    aten.abs.default: "Abs", aten.atan.default: "Atan", aten.ceil.default: "Ceil", aten.cos.default: "Cos",
    aten.erf.default: "Erf", aten.exp.default: "Exp", aten.floor.default: "Floor", aten.log.default: "Log",
    aten.neg.default: "Neg", aten.reciprocal.default: "Reciprocal", aten.relu.default: "Relu", aten.round.default: "Round",
    aten.sigmoid.default: "Sigmoid", aten.sign.default: "Sign", aten.sin.default: "Sin", aten.sqrt.default: "Sqrt",
    aten.tanh.default: "Tanh",
}.items():  # fmt: skip
    rule(_operator)(_unary(_kind))


@rule(torch.ops.jboost.relu_mask.default)
def _relu_mask(b: Builder, node: fx.Node, y: ir.Value) -> ir.Value:
    # HardSigmoid(y) = clip(steep * y, 0, 1) is one vectorised, threaded pass. ONNX Runtime also runs it in its blocked
    # layout and fuses it into convolutions. Where, Greater and Cast take two or three passes, each behind a change of
    # layout.
    if y.dtype == ir.DataType.FLOAT:
        return b.op("HardSigmoid", [y], {"alpha": STEEP, "beta": 0.0})
    return b.op("Sign", [y])  # in half precision no representable slope is steep enough for the smallest activations


@rule(aten.rsqrt.default)
def _rsqrt(b: Builder, node: fx.Node, x: Any) -> ir.Value:
    return b.op("Reciprocal", [b.op("Sqrt", [b.tensor(x, _dtype(node))], like=node.meta["val"])])


@rule(aten.log1p.default)
def _log1p(b: Builder, node: fx.Node, x: Any) -> ir.Value:
    dtype = _dtype(node)
    return b.op("Log", [b.op("Add", [b.tensor(x, dtype), b.constant(1.0, dtype)], like=node.meta["val"])])


@rule(aten.expm1.default)
def _expm1(b: Builder, node: fx.Node, x: Any) -> ir.Value:
    dtype = _dtype(node)
    return b.op("Sub", [b.op("Exp", [b.tensor(x, dtype)], like=node.meta["val"]), b.constant(1.0, dtype)])


@rule(aten.gelu.default)
def _gelu(b: Builder, node: fx.Node, x: Any, *, approximate: str = "none") -> ir.Value:
    if approximate != "none":
        raise NoRuleError("gelu by tanh")
    dtype, like = _dtype(node), node.meta["val"]
    x = b.tensor(x, dtype)
    if b.opset >= 20:
        return b.op("Gelu", [x])
    part = b.op("Erf", [b.op("Mul", [x, b.constant(math.sqrt(0.5), dtype)], like=like)], like=like)
    part = b.op("Add", [part, b.constant(1.0, dtype)], like=like)
    return b.op("Mul", [b.op("Mul", [x, b.constant(0.5, dtype)], like=like), part])


@rule(aten.leaky_relu.default)
def _leaky_relu(b: Builder, node: fx.Node, x: ir.Value, slope: float = 0.01) -> ir.Value:
    return b.op("LeakyRelu", [x], {"alpha": float(slope)})


@rule(aten.elu.default)
def _elu(
    b: Builder, node: fx.Node, x: ir.Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0
) -> ir.Value:
    if scale != 1 or input_scale != 1:
        raise NoRuleError("a scaled elu")
    return b.op("Elu", [x], {"alpha": float(alpha)})


@rule(aten.clamp.default, aten.hardtanh.default)
def _clamp(b: Builder, node: fx.Node, x: Any, least: Any = None, most: Any = None) -> ir.Value:
    if node.target is aten.hardtanh.default:
        least, most = -1.0 if least is None else least, 1.0 if most is None else most
    dtype = _dtype(node)
    limits = [None if limit is None else b.tensor(limit, dtype) for limit in (least, most)]
    return b.op("Clip", [b.tensor(x, dtype), *limits])


def _binary(kind: str, logical: bool = False) -> Rule:
    def write(b: Builder, node: fx.Node, x: Any, other: Any, *, alpha: float = 1) -> ir.Value:
        dtype = _dtype(node)
        if logical and dtype is not torch.bool:
            raise NoRuleError("operators on bits")
        if alpha != 1:
            raise NoRuleError("a sum with a factor")
        return b.op(kind, [b.tensor(x, torch.bool if logical else dtype), b.tensor(other, dtype)])

    return write


for _operators, _kind in (
    ((aten.add.Tensor, aten.add.Scalar), "Add"),
    ((aten.sub.Tensor, aten.sub.Scalar), "Sub"),
    ((aten.mul.Tensor, aten.mul.Scalar), "Mul"),
    ((aten.div.Tensor, aten.div.Scalar), "Div"),
    ((aten.maximum.default,), "Max"),
    ((aten.minimum.default,), "Min"),
):
    rule(*_operators)(_binary(_kind))

for _operators, _kind in (
    ((aten.bitwise_and.Tensor, aten.logical_and.default), "And"),
    ((aten.bitwise_or.Tensor, aten.logical_or.default), "Or"),
    ((aten.logical_xor.default,), "Xor"),
):
    rule(*_operators)(_binary(_kind, logical=True))


@rule(aten.rsub.Scalar)
def _rsub(b: Builder, node: fx.Node, x: Any, other: Any) -> ir.Value:
    dtype = _dtype(node)
    return b.op("Sub", [b.tensor(other, dtype), b.tensor(x, dtype)])


@rule(aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.pow.Scalar)
def _pow(b: Builder, node: fx.Node, x: Any, exponent: Any) -> ir.Value:
    dtype = _dtype(node)
    return b.op("Pow", [b.tensor(x, dtype), b.tensor(exponent, dtype)])


@rule(aten.logical_not.default, aten.bitwise_not.default)
def _not(b: Builder, node: fx.Node, x: ir.Value) -> ir.Value:
    if x.dtype != ir.DataType.BOOL:
        raise NoRuleError("not, of numbers")
    return b.op("Not", [x])


def _comparison(kind: str, negated: bool = False) -> Rule:
    def write(b: Builder, node: fx.Node, x: Any, other: Any) -> ir.Value:
        dtype = torch.result_type(*map(value_of, node.args))
        result = b.op(kind, [b.tensor(x, dtype), b.tensor(other, dtype)], like=node.meta["val"])
        return b.op("Not", [result]) if negated else result

    return write


for _name, _kind, _negated in (
    ("eq", "Equal", False),
    ("ne", "Equal", True),
    ("lt", "Less", False),
    ("le", "LessOrEqual", False),
    ("gt", "Greater", False),
    ("ge", "GreaterOrEqual", False),
):
    _packet = getattr(aten, _name)
    rule(_packet.Tensor, _packet.Scalar)(_comparison(_kind, _negated))


@rule(aten.where.self)
def _where(b: Builder, node: fx.Node, condition: Any, x: Any, other: Any) -> ir.Value:
    dtype = _dtype(node)
    return b.op("Where", [b.tensor(condition, torch.bool), b.tensor(x, dtype), b.tensor(other, dtype)])


@rule(aten._to_copy.default)
def _cast(b: Builder, node: fx.Node, x: ir.Value, **how: Any) -> ir.Value:
    return b.tensor(x, _dtype(node))


@rule(aten.clone.default, aten.alias.default, aten.detach.default, aten.contiguous.default)
def _same(b: Builder, node: fx.Node, x: ir.Value, **how: Any) -> ir.Value:
    return x


@rule(aten.scalar_tensor.default)
def _scalar_tensor(b: Builder, node: fx.Node, number: Any, **how: Any) -> ir.Value:
    if not isinstance(number, (bool, int, float)):
        raise NoRuleError("a tensor of a size")
    return b.constant(number, _dtype(node))


def _of_sizes(kind: str) -> Rule:
    def write(b: Builder, node: fx.Node, x: Any, other: Any) -> ir.Value:
        return b.size(b.op(kind, [b.as_size(x), b.as_size(other)]))

    return write


for _function, _kind in ((operator.add, "Add"), (operator.sub, "Sub"), (operator.mul, "Mul")):
    rule(_function)(_of_sizes(_kind))
