"""Build an ONNX graph value by value: constants, casts, and the types and shapes that the traced graph knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor, fx

#: torch dtype -> ONNX type, for the dtypes that graphs hold.
TYPES = {
    torch.float32: ir.DataType.FLOAT,
    torch.float64: ir.DataType.DOUBLE,
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.int64: ir.DataType.INT64,
    torch.int32: ir.DataType.INT32,
    torch.bool: ir.DataType.BOOL,
}

#: Name of the open batch size in inputs and shapes.
BATCH = "batch"


# Constants of at most this many numbers are compared: biases of zeros, axes, shapes.
_SMALL = 1 << 13


class NoRuleError(Exception):
    """The table does not write an operator, or not with these arguments."""


Rule = Callable[..., Any]

#: Operator -> its rule.
RULES: dict[Any, Rule] = {}


_Rule = TypeVar("_Rule", bound=Rule)


def rule(*operators: Any) -> Callable[[_Rule], _Rule]:
    """Decorator that makes a function the rule of `operators`."""

    def add(function: _Rule) -> _Rule:
        for operator in operators:
            RULES[operator] = function
        return function

    return add


class Builder:
    """An ONNX graph in the making.

    Args:
        opset: ONNX opset version, 18 or later.

    Attributes:
        opset: the same.
        nodes: the ONNX nodes so far.
        initializers: weights and constants so far, by name.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self._constants: dict[Any, ir.Value] = {}  # by content, large ones by identity
        self._sizes: set[ir.Value] = set()  # sizes, int64 [1], which are no tensors of the traced graph
        self._names: dict[str, int] = {}
        self._written: dict[Any, Sequence[ir.Value]] = {}
        self._symbol = ""

    def unique(self, name: str) -> str:
        """Return `name`, or `name` with a number that makes it new."""
        free = name
        while free in self._names:
            self._names[name] += 1
            free = f"{name}.{self._names[name]}"
        self._names[free] = 0
        return free

    def input(self, node: fx.Node) -> ir.Value:
        """Add an input of the graph, under its node's name."""
        first = node.meta["val"].shape[0]
        if not isinstance(first, int):
            self._symbol = str(first)
        value = ir.Value(name=self.unique(str(node.target)))
        self.describe(value, node.meta["val"])
        return value

    def describe(self, value: ir.Value, like: Tensor) -> None:
        """Give a value the type and shape of a traced tensor."""
        if like.dtype not in TYPES:
            raise NoRuleError(f"tensors of {like.dtype}")
        value.type = ir.TensorType(TYPES[like.dtype])
        value.shape = ir.Shape([s if isinstance(s, int) else str(s).replace(self._symbol, BATCH) for s in like.shape])

    def weight(self, name: str, tensor: Tensor) -> ir.Value:
        """Add a constant under a name of its own, or return an equal small one; its numbers are not copied."""
        numbers = TorchTensor(tensor)
        key = (tensor.dtype, tuple(tensor.shape), numbers.tobytes()) if tensor.numel() <= _SMALL else id(tensor)
        if key not in self._constants:
            numbers.name = self.unique(name)
            value = ir.Value(name=numbers.name, const_value=numbers)
            self.describe(value, tensor)
            self.initializers[numbers.name] = value
            self._constants[key] = value
        return self._constants[key]

    def constant(self, numbers: Any, dtype: torch.dtype) -> ir.Value:
        """Return a small constant, a number or nested lists; equal ones are one."""
        return self.weight("constant", torch.tensor(numbers, dtype=dtype))

    def whole(self, *numbers: int) -> ir.Value:
        """Return a constant, int64 [len(numbers)]: axes, shapes, limits."""
        return self.constant(list(numbers), torch.int64)

    def op(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        like: Tensor | None = None,
    ) -> ir.Value:
        """Add an ONNX operator and return its result.

        Args:
            kind: the operator's ONNX name.
            inputs: its inputs; None for one that is left out.
            attributes: its attributes.
            like: a traced tensor of the result's dtype and shape, where the result is not the rule's own.
        """
        (value,) = self.ops(kind, inputs, attributes, count=1)
        if like is not None:
            self.describe(value, like)
        return value

    def ops(
        self, kind: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any] | None = None, *, count: int
    ) -> Sequence[ir.Value]:
        """`op` for an operator of `count` results; an operator that stands in the graph already is not added again."""
        key = (kind, tuple(inputs), repr(attributes))
        if key not in self._written:
            node = ir.node(kind, inputs, attributes, num_outputs=count)
            self.nodes.append(node)
            self._written[key] = node.outputs
        return self._written[key]

    def name(self, first: int, name: str) -> None:
        """Name the results of the nodes from the one at `first` on; the last one's is `name`."""
        for node in reversed(self.nodes[first:]):
            for value in node.outputs:
                value.name = self.unique(name)

    def tensor(self, value: Any, dtype: torch.dtype) -> ir.Value:
        """Return an argument of an operator as a tensor of `dtype`: cast where its own differs, a constant for a number."""
        if isinstance(value, (bool, int, float)):
            return self.constant(value, dtype)
        if not isinstance(value, ir.Value) or value in self._sizes:
            raise NoRuleError("a size or a list in a tensor's place")
        if value.dtype == TYPES[dtype]:
            return value
        cast = self.op("Cast", [value], {"to": TYPES[dtype]})
        cast.type, cast.shape = ir.TensorType(TYPES[dtype]), value.shape
        return cast

    def size(self, value: ir.Value) -> ir.Value:
        """Mark a value, int64 [1], as a size."""
        value.type, value.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([1])
        self._sizes.add(value)
        return value

    def as_size(self, value: Any) -> ir.Value:
        """Return a size, a number or a value of `size`, as int64 [1]."""
        if isinstance(value, int):
            return self.whole(value)
        if isinstance(value, ir.Value) and value in self._sizes:
            return value
        raise NoRuleError("a size that is neither a number nor a size of a tensor")

    def sizes(self, values: Sequence[Any]) -> ir.Value:
        """Return a list of sizes as int64 [len(values)]."""
        if all(isinstance(value, int) for value in values):
            return self.whole(*values)
        return self.op("Concat", [self.as_size(value) for value in values], {"axis": 0})


def value_of(node: Any) -> Any:
    """Return the traced value of an argument: of a node its fake tensor, of anything else itself."""
    return node.meta["val"] if isinstance(node, fx.Node) else node


def rank(value: ir.Value) -> int:
    """Return a value's number of dimensions."""
    assert value.shape is not None
    return len(value.shape)


def static_size(value: ir.Value, axis: int) -> int:
    """Return one of a value's sizes.

    Raises:
        NoRuleError: it is open.
    """
    assert value.shape is not None
    size = value.shape[axis]
    if not isinstance(size, int):
        raise NoRuleError(f"an open size at axis {axis}")
    return size


def axis_of(axis: int, count: int) -> int:
    """Return an axis counted from the front, of `count` axes."""
    return axis % count if count else 0
