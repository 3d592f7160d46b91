"""Each row of the table of operators computes in ONNX Runtime what torch does; whole networks, what torch's exporter writes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from graph_models import make
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from jboost.export.graph import attach_objective, lower_precision, optimize, trace_trunk
from jboost.export.onnx import lowering
from jboost.export.onnx.lowering import to_onnx
from jboost.export.onnx.operators import RULES, Builder, NoRuleError
from jboost.export.onnx.translate import translate
from jboost.export.onnx.verify import onnx_run

aten = torch.ops.aten
G = torch.Generator().manual_seed(0)
TRACED, RUN = 2, 3  # the batch is open: traced at one size, run at another


def normal(*shape: int) -> Tensor:
    return torch.randn(RUN, *shape, generator=G)


def positive(*shape: int) -> Tensor:
    return normal(*shape).abs() + 0.1


def flags(*shape: int) -> Tensor:
    return normal(*shape) > 0


def places(most: int, *shape: int) -> Tensor:
    return torch.randint(0, most, (RUN, *shape), generator=G)


class Fixed:
    """A constant of the graph."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def fixed(*shape: int) -> Fixed:
    return Fixed(torch.randn(*shape, generator=G))


def whole(*numbers: Any) -> Fixed:
    return Fixed(torch.tensor(numbers))


def module_of(target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> fx.GraphModule:
    """A graph of one operator, for any batch size."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    graph, root = fx.Graph(), torch.nn.Module()

    def node(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [node(v) for v in value]
        open_batch = isinstance(value, Tensor)
        if isinstance(value, Fixed):
            name = f"constant{len(list(root.buffers()))}"
            root.register_buffer(name, value.tensor)
            new, tensor = graph.get_attr(name), value.tensor
        elif isinstance(value, Tensor):
            new, tensor = graph.placeholder(f"x{len(graph.nodes)}"), value[:TRACED]
        else:
            return value
        sizes = [DimDynamic.DYNAMIC if open_batch and i == 0 else DimDynamic.STATIC for i in range(tensor.dim())]
        new.meta["val"] = mode.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))
        return new

    given = [node(value) for value in args]
    call = graph.call_function(target, tuple(given), kwargs)
    fake = fx.node.map_arg((call.args, call.kwargs), lambda n: n.meta["val"])
    with mode, enable_python_dispatcher():  # without it, C++ operators would fix the batch
        call.meta["val"] = target(*fake[0], **fake[1])
    results = [call]
    if isinstance(call.meta["val"], (list, tuple)):
        results = [graph.call_function(operator.getitem, (call, i)) for i in range(len(call.meta["val"]))]
        for i, part in enumerate(results):
            part.meta["val"] = call.meta["val"][i]
    graph.output(tuple(results))
    return fx.GraphModule(root, graph)


def computed(module: fx.GraphModule, inputs: list[Tensor], opset: int = 20) -> list[np.ndarray]:
    """The graph's results in ONNX Runtime."""
    count = len(module.graph.output_node().args[0])
    proto = ir.serde.serialize_model(translate(module, opset, [f"out{i}" for i in range(count)]))
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})


MAP = (4, 6, 6)
CASES: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    *(
        (getattr(aten, name).default, (normal(3, 5),), {})
        for name in (
            "abs",
            "atan",
            "ceil",
            "clone",
            "cos",
            "erf",
            "exp",
            "expm1",
            "floor",
            "neg",
            "relu",
            "round",
            "sigmoid",
            "sign",
            "sin",
            "tanh",
            "detach",
            "alias",
        )
    ),
    *((getattr(aten, name).default, (positive(5),), {}) for name in ("log", "log1p", "reciprocal", "rsqrt", "sqrt")),
    (aten.contiguous.default, (normal(5),), {}),
    (torch.ops.jboost.relu_mask.default, (torch.tensor([[0.0, 1e-38, 2.0]] * RUN),), {}),
    (torch.ops.jboost.relu_mask.default, (torch.tensor([[0.0, 6e-8, 2.0]] * RUN).half(),), {}),
    (aten.gelu.default, (normal(5),), {}),
    (aten.leaky_relu.default, (normal(5), 0.3), {}),
    (aten.elu.default, (normal(5), 0.7), {}),
    (aten.clamp.default, (normal(5), -0.5), {}),
    (aten.clamp.default, (places(9, 4), 2, 6), {}),
    (aten.hardtanh.default, (normal(5),), {}),
    (aten.hardtanh.default, (normal(5), 0.0, 0.5), {}),
    *(
        (getattr(aten, name).Tensor, (normal(4, 5), positive(1, 5)), {})
        for name in ("add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge")
    ),
    *(
        (getattr(aten, name).Scalar, (places(4, 5), 2), {})
        for name in ("add", "sub", "mul", "eq", "ne", "lt", "le", "gt", "ge")
    ),
    (aten.div.Scalar, (places(4, 5), 2), {}),
    (aten.mul.Tensor, (normal(5), places(4, 5)), {}),
    (aten.le.Scalar, (places(4, 5), 1.5), {}),
    (aten.rsub.Scalar, (normal(5), 2), {}),
    (aten.maximum.default, (normal(5), normal(5)), {}),
    (aten.minimum.default, (normal(5), normal(5)), {}),
    (aten.pow.Tensor_Scalar, (positive(5), 3), {}),
    (aten.pow.Tensor_Tensor, (positive(5), normal(5)), {}),
    (aten.pow.Scalar, (2.0, normal(5)), {}),
    *((op, (flags(5), flags(5)), {}) for op in (aten.bitwise_and.Tensor, aten.bitwise_or.Tensor)),
    *((getattr(aten, f"logical_{name}").default, (flags(5), flags(5)), {}) for name in ("and", "or", "xor")),
    *((op, (flags(5),), {}) for op in (aten.logical_not.default, aten.bitwise_not.default)),
    (aten.where.self, (flags(5), normal(5), fixed(1)), {}),
    (aten._to_copy.default, (normal(5),), {"dtype": torch.float16}),
    (aten.scalar_tensor.default, (2.5,), {}),
    *((op, (normal(4, 6), [-1], True), {}) for op in (aten.sum.dim_IntList, aten.mean.dim)),
    (aten.sum.dim_IntList, (flags(4, 6), [0, 2]), {}),
    *((getattr(aten, name).default, (normal(4, 6),), {}) for name in ("sum", "mean")),
    *(
        (getattr(aten, name).default, (normal(4, 6), [1], keep), {})
        for name in ("amax", "amin")
        for keep in (True, False)
    ),
    *((getattr(aten, name).dim, (flags(4), 1, True), {}) for name in ("any", "all")),
    *((getattr(aten, name).dims, (flags(4, 3), [1, 2]), {}) for name in ("any", "all")),
    *((getattr(aten, name).default, (normal(4, 6), -1), {}) for name in ("argmax", "argmin")),
    (aten.cumsum.default, (normal(4, 6), -1), {}),
    (aten.linalg_vector_norm.default, (normal(4, 6), 2, [-1], True), {}),
    (
        aten.convolution.default,
        (normal(*MAP), fixed(8, 2, 3, 2), fixed(8), [2, 1], [1, 0], [1, 2], False, [0, 0], 2),
        {},
    ),
    (aten.convolution.default, (normal(*MAP), fixed(4, 3, 3, 2), None, [2, 1], [1, 0], [1, 2], True, [1, 0], 2), {}),
    (aten.convolution.default, (normal(4, 9), fixed(8, 4, 3), fixed(8), [2], [1], [1], False, [0], 1), {}),
    (aten.mm.default, (normal(5), fixed(5, 4)), {}),
    (aten.bmm.default, (normal(4, 5), normal(5, 3)), {}),
    (aten.addmm.default, (fixed(4), normal(5), fixed(5, 4)), {"beta": 0.5, "alpha": 2}),
    (aten.baddbmm.default, (normal(1, 3), normal(4, 5), normal(5, 3)), {"beta": 0.5, "alpha": 2}),
    *(
        (op, (normal(4, 6), [-1, 8, 3]), {})
        for op in (aten.reshape.default, aten.view.default, aten._unsafe_view.default)
    ),
    (aten.reshape.default, (normal(4, 6), [-1, 6]), {}),
    (aten.expand.default, (normal(1, 6), [-1, 4, 6]), {}),
    (aten.expand.default, (fixed(1, 6), [5, -1, 6]), {}),
    (aten.permute.default, (normal(4, 6), [-1, 0, 1]), {}),
    (aten.transpose.int, (normal(4, 6), -1, 1), {}),
    (aten.t.default, (normal(6),), {}),
    (aten.unsqueeze.default, (normal(6), -1), {}),
    (aten.squeeze.dim, (normal(1, 6), 1), {}),
    (aten.squeeze.dims, (normal(1, 6, 1), [1, -1, 2]), {}),
    (aten.cat.default, ([normal(2, 3), normal(4, 3)], -2), {}),
    (aten.slice.Tensor, (normal(7), 1, 1, -1, 2), {}),
    (aten.slice.Tensor, (normal(7), -1, -3), {}),
    (aten.select.int, (normal(7, 2), 1, -2), {}),
    (aten.slice_scatter.default, (normal(7), normal(3), 1, 2, 5), {}),
    (aten.slice_scatter.default, (normal(7), normal(2), 1, 5), {}),
    (aten.slice_scatter.default, (normal(7), normal(3), 1, 1, 7, 2), {}),
    (aten.slice_scatter.default, (normal(7), normal(7), 0), {}),
    (aten.select_scatter.default, (normal(4, 7), normal(7), 1, -1), {}),
    (aten.split_with_sizes.default, (normal(7), [2, 5], -1), {}),
    (aten.constant_pad_nd.default, (normal(4, 7), [1, 2, 0, 3], -0.5), {}),
    (aten.constant_pad_nd.default, (normal(4, 7), [-1, 2]), {}),
    (aten.full.default, ([2, 3], 1.5), {}),
    (aten.full_like.default, (normal(3), 2.5), {}),
    (aten.repeat.default, (normal(3), [1, 2]), {}),
    (aten.gather.default, (normal(6), 1, places(6, 2)), {}),
    (aten.index_select.default, (normal(6), 1, whole(3, 0, 5)), {}),
    (aten.index.Tensor, (normal(4, 6), [None, None, whole(3, 0, 5)]), {}),
    (aten.index.Tensor, (fixed(4, 6), [places(4, 2)]), {}),
    (aten._unsafe_index.Tensor, (normal(4, 6), [None, whole([3], [0]), whole(5, 1, 1)]), {}),
    (aten.pixel_shuffle.default, (normal(8, 3, 2), 2), {}),
    (aten.arange.start_step, (2, 9, 3), {}),
]
# The three functions of sizes, and the size itself, are rows of `test_a_size_that_is_read`.
OF_SIZES = {operator.add, operator.sub, operator.mul, aten.sym_size.int}


@pytest.mark.parametrize(("target", "args", "kwargs"), CASES, ids=lambda value: str(value) if callable(value) else "")
def test_an_operator(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    module = module_of(target, args, kwargs)
    inputs = [leaf for leaf in torch.utils._pytree.tree_leaves(args) if isinstance(leaf, Tensor)]
    wanted = module(*inputs)
    for got, want in zip(computed(module, inputs), wanted, strict=True):
        assert got.dtype == want.numpy().dtype
        np.testing.assert_allclose(got, want.numpy(), rtol=2e-6, atol=2e-6)


def test_every_operator_is_a_case() -> None:
    covered = {target for target, _, _ in CASES} | OF_SIZES | {operator.getitem}  # getitem reads the parts of a split
    assert set(RULES) == covered


def test_a_size_that_is_read() -> None:
    """expand(c, [(B + 2) * 3 - 1, 4]): a constant of as many rows as the batch says."""
    module = module_of(aten.neg.default, (normal(3),), {})
    graph = module.graph
    x, neg, output = graph.nodes
    with graph.inserting_before(output):
        size = graph.call_function(aten.sym_size.int, (x, 0))
        batch = x.meta["val"].shape[0]
        rows = graph.call_function(operator.add, (size, 2))
        rows = graph.call_function(operator.mul, (rows, 3))
        rows = graph.call_function(operator.sub, (rows, 1))
        module.register_buffer("c", torch.arange(4.0))
        c = graph.get_attr("c")
        c.meta["val"] = neg.meta["val"].fake_mode.from_tensor(module.c)
        wide = graph.call_function(aten.expand.default, (c, [rows, 4]))
        wide.meta["val"] = c.meta["val"].expand((batch + 2) * 3 - 1, 4)
    output.args = ((neg, wide),)
    module.recompile()
    _, got = computed(module, [normal(3)])
    assert got.tolist() == [[0, 1, 2, 3]] * 14


def test_gelu_before_opset_20() -> None:
    x = normal(5)
    (got,) = computed(module_of(aten.gelu.default, (x,), {}), [x], opset=18)
    np.testing.assert_allclose(got, torch.nn.functional.gelu(x).numpy(), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("target", "args", "kwargs"),
    [
        (aten.cumprod.default, (normal(3), 1), {}),  # no rule
        (aten.gelu.default, (normal(3),), {"approximate": "tanh"}),
        (aten.add.Tensor, (normal(3), normal(3)), {"alpha": 2}),
        (aten.bitwise_and.Tensor, (places(9, 3), places(9, 3)), {}),
        (aten.div.Tensor_mode, (normal(3), normal(3)), {"rounding_mode": "floor"}),
        (aten.index.Tensor, (normal(4, 6), [None, whole(3, 0), whole(5, 1)]), {}),  # places one by one
        (aten.linalg_vector_norm.default, (normal(4), 1, [1]), {}),
    ],
    ids=lambda value: str(value) if callable(value) else "",
)
def test_what_the_table_does_not_write_is_refused(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with pytest.raises(NoRuleError, match=str(target).replace(".", r"\.")):
        translate(module_of(target, args, kwargs), 20, ["out"])


@pytest.mark.parametrize(("name", "dtype"), [("resnet", torch.float16), ("vit", torch.float32)])
def test_networks_compute_what_torchs_exporter_writes(
    name: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes them where the table refuses; the batch is open, and the forms of ReLU masks and padding are the same."""
    trunk = trace_trunk(make(name), torch.zeros(2, 3, 16, 16), dynamic_batch=True)
    optimize(trunk)
    gradient = attach_objective(lower_precision(trunk, dtype, 8.0), "joint", 1.5)
    to_onnx(gradient, tmp_path / "own.onnx")

    def refuse(*args: Any) -> None:
        raise NoRuleError

    monkeypatch.setattr(lowering, "translate", refuse)
    to_onnx(gradient, tmp_path / "torch.onnx")
    written = [onnx.load(tmp_path / file, load_external_data=False).graph for file in ("own.onnx", "torch.onnx")]
    assert len(written[0].node) <= 1.05 * len(written[1].node)
    x, y = torch.rand(3, 3, 16, 16, generator=G).numpy(), np.arange(3)
    bound = 1e-6 if dtype is torch.float32 else 5e-3
    own, theirs = (onnx_run(tmp_path / file)[0](x, y) for file in ("own.onnx", "torch.onnx"))
    for got, want in zip(own, theirs, strict=True):
        assert np.abs(got - want).max() <= bound * np.abs(want).max()


def test_equal_constants_are_one_and_names_do_not_mix_them_up() -> None:
    b = Builder(20)
    zeros = b.weight("a", torch.zeros(8))
    assert b.weight("b", torch.zeros(8)) is zeros
    assert b.weight("c", torch.zeros(8, dtype=torch.float16)) is not zeros
    assert b.weight("d", torch.zeros(8, 1)) is not zeros
    large, other = torch.ones(1 << 14), torch.zeros(1 << 14)
    first, second = b.weight("e", large), b.weight("e", other)
    assert b.weight("e", large) is first
    assert first.name != second.name
    assert not second.const_value.numpy().any()
