"""Extract the forward pass from a gradient graph; it costs half as much as a step."""

from __future__ import annotations

from torch import fx

from .dead_code import remove_dead_code

#: Names of a forward graph's outputs.
FORWARD_OUTPUTS = ("class_logit", "predicted")


def forward_of(gradient: fx.GraphModule) -> fx.GraphModule:
    """Copy the part of a gradient graph that computes (class_logit [B], predicted int64 [B]) from (x, y)."""
    graph = fx.Graph()
    _, f_c, _, predicted = graph.graph_copy(gradient.graph, {})
    graph.output((f_c, predicted))
    forward = fx.GraphModule(gradient, graph, "Forward")
    remove_dead_code(forward)
    return forward
