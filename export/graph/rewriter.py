"""Shared tools of the passes: read constants, and insert nodes with known shapes and dtypes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext

from .dead_code import remove_dead_code


def fake_mode(module: fx.GraphModule) -> FakeTensorMode:
    """Return the fake-tensor mode in which the graph was traced, from its inputs' metadata."""
    mode: FakeTensorMode = next(node for node in module.graph.nodes if node.op == "placeholder").meta["val"].fake_mode
    return mode


class Rewriter:
    """Edit one graph. Every new node carries its fake value in ``meta["val"]``, so passes can run in any order.

    Attributes:
        changed: number of places that `replace` has changed.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.module, self.graph = module, module.graph
        self.mode = fake_mode(module)
        self.changed = 0

    def value(self, node: Any) -> Tensor | None:
        """Return the tensor of a constant node; None for anything else."""
        if isinstance(node, fx.Node) and node.op == "get_attr":
            tensor: Tensor = getattr(self.module, str(node.target))
            return tensor
        return None

    def constant(self, tensor: Tensor, name: str) -> fx.Node:
        """Add a constant, stored as a buffer of the graph."""
        name = name.removesuffix("_")
        unique, i = name, 0
        while hasattr(self.module, unique):
            i += 1
            unique = f"{name}_{i}"
        tensor = tensor.detach().contiguous()
        self.module.register_buffer(unique, tensor)
        node = self.graph.create_node("get_attr", unique)
        static: StatelessSymbolicContext[Any, Any] = StatelessSymbolicContext(
            dynamic_sizes=[DimDynamic.STATIC] * tensor.dim()
        )
        node.meta["val"] = self.mode.from_tensor(tensor, symbolic_context=static if self.mode.shape_env else None)
        return node

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Add an operator node at the insertion point, with its fake value."""
        node = self.graph.call_function(target, args, kwargs)
        fake_args, fake_kwargs = fx.node.map_arg((args, kwargs), lambda n: n.meta["val"])
        node.meta["val"] = self.fake_call(target, fake_args, fake_kwargs)
        return node

    def fake_call(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return a fake tensor with the shape and dtype of an operator's result."""
        # Without the Python dispatcher, C++ operators would fix a dynamic batch at the example's size (torch 2.13).
        with self.mode, enable_python_dispatcher() if self.mode.shape_env else nullcontext():
            return target(*args, **kwargs)

    @contextmanager
    def before(self, node: fx.Node) -> Iterator[None]:
        """Insert in front of `node`."""
        with self.graph.inserting_before(node):
            yield

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Make every user of `old` read `new`; `done` removes `old`."""
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        self.changed += 1

    def done(self) -> int:
        """Clean up after a pass.

        Returns:
            The number of places changed.
        """
        remove_dead_code(self.module)
        return self.changed


def arguments(node: fx.Node) -> tuple[Any, ...]:
    """Return a node's positional arguments as Any, instead of torch's union of all argument types."""
    return node.args


def results(module: fx.GraphModule) -> tuple[Any, ...]:
    """Return a graph's output nodes, in order."""
    flat: Any = module.graph.output_node().args[0]
    return tuple(flat)


def sizes(node: fx.Node) -> list[int]:
    """Return the shape of a node's value (symbolic entries stay symbolic)."""
    return list(node.meta["val"].shape)


def dtype(node: fx.Node) -> torch.dtype:
    """Return the dtype of a node's value."""
    result: torch.dtype = node.meta["val"].dtype
    return result
