"""The forward pass alone, out of a gradient graph: half the price of a step."""

from __future__ import annotations

from torch import fx

from .dead_code import remove_dead_code

#: Names of a forward graph's outputs.
OUTPUTS = ("class_logit", "predicted")


def forward_of(gradient: fx.GraphModule) -> fx.GraphModule:
    """The part of a gradient graph that computes (class_logit [B], predicted int64 [B]) from (x, y); `gradient` stays as it is."""
    graph = fx.Graph()
    _, f_c, _, predicted = graph.graph_copy(gradient.graph, {})
    graph.output((f_c, predicted))
    forward = fx.GraphModule(gradient, graph, "Forward")
    remove_dead_code(forward)
    return forward
