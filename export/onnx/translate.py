"""Translate a gradient graph to ONNX node by node, as it is: nothing is traced or decomposed again."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import onnx_ir as ir
from torch import Tensor, fx

from jboost.export.graph.rewriter import results
from jboost.export.opsets import IR_VERSION

from .operators import RULES, Builder, NoRuleError


def translate(module: fx.GraphModule, opset: int, outputs: Sequence[str]) -> ir.Model:
    """Build the ONNX model of a gradient graph or a forward graph.

    Args:
        module: result of `attach_objective` or `forward_of`. Its weights are not copied.
        opset: ONNX opset version, 18 or later.
        outputs: names of the graph's outputs.

    Raises:
        NoRuleError: the table does not write an operator; the message names it.
    """
    b = Builder(opset)
    for name in outputs:
        b.unique(name)
    constants = _constants(module)
    values: dict[fx.Node, Any] = {}
    inputs = []
    for node in module.graph.nodes:
        if node.op == "placeholder":
            values[node] = b.input(node)
            inputs.append(values[node])
        elif node in constants:
            if any(user not in constants for user in node.users):
                values[node] = b.weight(node.target if node.op == "get_attr" else node.name, constants[node])
        elif node.op == "call_function":
            values[node] = _write(b, node, values)
    ends = []
    for name, node in zip(outputs, results(module), strict=True):
        value = values[node]
        if value.producer() is None or value in ends:  # an input, a constant or another output: a name of its own
            value = b.op("Identity", [value], like=node.meta["val"])
        value.name = name
        ends.append(value)
    nodes = _used(b.nodes, ends)
    graph = ir.Graph(
        inputs,
        ends,
        nodes=nodes,
        initializers=[value for value in b.initializers.values() if value.uses() or value in ends],
        opset_imports={"": opset},
        name="gradient",
    )
    return ir.Model(graph, ir_version=IR_VERSION)


def _constants(module: fx.GraphModule) -> dict[fx.Node, Any]:
    """Evaluate what depends on weights alone, and is at most twice their size.

    Most of it is folded before. What is left is what a head multiplies: one number, traced as a batch of them.
    """
    found: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            found[node] = getattr(module, node.target)
        elif node.op == "call_function" and all(i in found for i in node.all_input_nodes):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), found.__getitem__)
            value = node.target(*args, **kwargs)
            if _numbers(value) <= max(1, 2 * sum(map(_numbers, args))):
                found[node] = value
    return found


def _numbers(value: Any) -> int:
    """Count the numbers of a tensor, or of a list of tensors."""
    if isinstance(value, (tuple, list)):
        return sum(map(_numbers, value))
    return value.numel() if isinstance(value, Tensor) else 0


def _used(nodes: list[ir.Node], ends: list[ir.Value]) -> list[ir.Node]:
    """Return the nodes that a result depends on, and cut the others' inputs."""
    kept = []
    for node in reversed(nodes):
        if any(value.uses() or value in ends for value in node.outputs):
            kept.append(node)
        else:
            for i in range(len(node.inputs)):
                node.replace_input_with(i, None)
    return kept[::-1]


def _write(b: Builder, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    rule = RULES.get(node.target)
    if rule is None:
        raise NoRuleError(f"{node.target}: no rule")
    args, kwargs = fx.node.map_aggregate(
        (node.args, dict(node.kwargs)), lambda value: values[value] if isinstance(value, fx.Node) else value
    )
    try:
        signature(rule).bind(b, node, *args, **kwargs)
    except TypeError as e:  # an argument that the rule does not know
        raise NoRuleError(f"{node.target}: {e}") from e
    first = len(b.nodes)
    try:
        value = rule(b, node, *args, **kwargs)
    except NoRuleError as e:
        raise NoRuleError(f"{node.target}: {e}") from e
    b.name(first, node.name)
    traced = node.meta.get("val")
    if isinstance(value, ir.Value) and value.shape is None and isinstance(traced, Tensor):
        b.describe(value, traced)
    return value
