"""Trace a classifier to one FX graph of its logits and their vector-Jacobian product, and derive gradient graphs.

The network is traced once, as its *trunk*, (x, v) -> (logits, d<logits, v>/dx). An objective adds only a *head*,
(logits, y) -> (loss, class logit, predicted, d loss/d logits), between the trunk's forward and backward halves. So the
graph of a second objective costs milliseconds, and shares the weights and every optimisation with the first.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

# This entry point is private, but it is the only one that traces forward and backward together and functionalises both
# (in-place ReLUs and views included). Every torch since 2.1 has it. Plain torch.export refuses a function that calls
# autograd.grad (torch 2.13).
from torch._functorch.aot_autograd import aot_export_joint_simple
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from jboost.engine.errors import BadInputError, JboostError, first_line
from jboost.engine.method.objectives import class_logit, resolve_objective
from jboost.engine.method.plugins import checked_objective
from jboost.trainer.attack import evaluating

from .constants import fill_caches, keeping_weights, single_numbers
from .dead_code import remove_dead_code
from .decompositions import HEAD, Pooling, decomposition_table
from .passes.batch_sizes import forget_batch_sizes
from .passes.fold_constants import drop_no_ops, fold_constants, merge_duplicates
from .replaced import PlainFunctions
from .rewriter import results
from .unsupported import MODULE_KEY, check_supported

#: Outputs of a gradient graph, in order.
OUTPUTS = ("grad", "class_logit", "loss", "predicted")


def _fake(mode: FakeTensorMode, t: Tensor, dynamic_batch: bool = False) -> FakeTensor:
    if mode.shape_env is None:
        return mode.from_tensor(t)
    sizes = [DimDynamic.DYNAMIC if dynamic_batch and i == 0 else DimDynamic.STATIC for i in range(t.dim())]
    return mode.from_tensor(t, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))


@contextmanager
def _named_nodes(model: nn.Module) -> Iterator[None]:
    """While active, give each traced forward node the name of the innermost module that made it."""
    handles = []
    starts: list[fx.Node | None] = []

    def last() -> fx.Node | None:
        mode = get_proxy_mode()
        return None if mode is None else next(iter(reversed(mode.tracer.graph.nodes)), None)

    def enter(module: nn.Module, args: Any) -> None:
        starts.append(last())

    def leave(name: str, module: nn.Module) -> Any:
        def hook(_module: nn.Module, args: Any, output: Any) -> None:
            start, node = starts.pop(), last()
            while node is not None and node is not start and node.op != "root":
                node.meta.setdefault(MODULE_KEY, f"{name or 'the model'} ({type(module).__name__})")
                node = node.prev

        return hook

    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave(name, module)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """`evaluating`, with attention written in operators that can be differentiated and decomposed."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fast path's fused operator has no derivative
    try:
        # Fused attention kernels' backward operators have no decomposition (torch 2.13); plain attention needs none.
        with evaluating(model), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _check_example(example: Tensor) -> None:
    if example.dim() != 4 or not example.is_floating_point() or example.shape[0] < 1:
        raise BadInputError(
            f"the example must be a floating-point batch [B, C, H, W], got {example.dtype} {list(example.shape)}"
        )


def trace_trunk(
    model: nn.Module, example: Tensor, *, dynamic_batch: bool = False, pooling: Pooling = "shifted"
) -> fx.GraphModule:
    """Trace the network and its input gradient as one graph of forward operators.

    Args:
        model: classifier, [B, C, H, W] in [0, 1] -> logits [B, K]; traced in evaluation mode. Its mode is restored.
        example: [B, C, H, W], gives shapes and dtype; its values do not matter. A float64 example, with a model
            converted by ``.double()``, gives a float64 graph, which the tests compare with autograd.
        dynamic_batch: leave B open; every other size is fixed. torch treats sizes 0 and 1 as constants, so the example
            needs B of 2 or more. The graph then also runs at 1, unless the model has a special case for it.
        pooling: how max-pooling and its gradient are written; see `Pooling`.

    Returns:
        fx.GraphModule, (x [B, C, H, W], v [B, K]) -> (logits [B, K], grad [B, C, H, W]), grad = d sum(v * logits) / dx.
        Its buffers are the weights; they share memory with the model.

    Raises:
        BadInputError: the model cannot be traced, is not differentiable with respect to x, or uses an operator without a rule.
    """
    _check_example(example)
    if dynamic_batch and example.shape[0] < 2:
        raise BadInputError(
            "a dynamic batch needs an example of two images or more: torch treats a batch of one as a constant"
        )
    example = example.detach()
    numbers = single_numbers(model)
    state: dict[str, Tensor] = {k: p.detach() for k, p in model.named_parameters()}
    state |= {k: b.detach() for k, b in model.named_buffers() if k not in numbers}
    names = list(state)
    mode = FakeTensorMode(shape_env=ShapeEnv() if dynamic_batch else None, allow_non_fake_inputs=True)

    def forward(*args: Tensor) -> tuple[Tensor]:
        weights = dict(zip(names, args[:-1], strict=True)) | {name: make() for name, make in numbers.items()}
        logits = torch.func.functional_call(model, weights, (args[-1],))
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise BadInputError(f"the model must return logits [B, classes], got {got}")
        return (logits.clone(),)  # the tracer refuses an output that is a view, such as x.flatten(1)

    try:
        with _evaluating(model):
            fill_caches(model, example)
            with keeping_weights(model), _named_nodes(model), mode, PlainFunctions():
                x = _fake(mode, example, dynamic_batch).requires_grad_()
                joint: Any = aot_export_joint_simple(
                    forward,
                    (*(_fake(mode, state[name]) for name in names), x),
                    trace_joint=True,
                    decompositions=decomposition_table(pooling),
                )
    except JboostError:
        raise
    except Exception as e:
        # The model's own code can raise anything under tracing (data-dependent branches, .item(), numpy).
        raise BadInputError(
            f"{type(model).__name__} cannot be traced: {type(e).__name__}: {first_line(e)}; the forward pass must be made of torch "
            "operators, without branches on values, .item() or numpy, and its logits must depend on the input differentiably"
        ) from e
    trunk = _lift(joint, state, names)
    check_supported(trunk)
    return trunk


def _lift(joint: fx.GraphModule, state: dict[str, Tensor], names: list[str]) -> fx.GraphModule:
    """Turn weights from placeholders into buffers, name the inputs x and v, and return (logits, grad)."""
    graph = joint.graph
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    if len(placeholders) != len(names) + 2:
        raise BadInputError(
            "the model's logits do not depend on its input differentiably, so there is no gradient to export"
        )
    for node in graph.nodes:  # constants that the model keeps outside its state dict
        if node.op == "get_attr":
            state = {**state, node.target: getattr(joint, node.target)}
    root = nn.Module()
    for name, value in state.items():
        root.register_buffer(attribute_name(name), value)
    for name, node in zip(names, placeholders, strict=False):
        with graph.inserting_before(node):
            attribute = graph.create_node("get_attr", attribute_name(name))
        attribute.meta.update(node.meta)
        node.replace_all_uses_with(attribute)
        graph.erase_node(node)
    for node in graph.nodes:
        if node.op == "get_attr":
            node.target = attribute_name(node.target)
    for name, node in zip("xv", placeholders[-2:], strict=True):
        node.target = node.name = name
    output = graph.output_node()
    flat = torch.utils._pytree.tree_leaves(output.args)
    logits, grad = flat[0], flat[-1]
    if grad is None:
        raise BadInputError(
            "the model's logits do not depend on its input differentiably, so there is no gradient to export"
        )
    output.args = ((logits, grad),)
    graph.set_codegen(fx.graph.CodeGen())  # drop torch's pytree calling convention
    trunk = fx.GraphModule(root, graph, "Trunk")
    remove_dead_code(trunk)
    return trunk


def attribute_name(name: str) -> str:
    """Convert a state-dict key to a flat attribute name: ``layer1.0.conv1.weight`` -> ``layer1_0_conv1_weight``."""
    flat = "".join(c if c.isalnum() else "_" for c in name)
    return flat if flat[:1].isalpha() else f"w_{flat}"


class _PlainGather(TorchFunctionMode):
    """Replace take_along_dim by gather: take_along_dim reads the batch size as an integer and fixes it (torch 2.13)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.take_along_dim:
            given: list[Any] = [*args, *(kwargs or {}).values()]
            return torch.gather(given[0], given[2], given[1])  # shapes differ only along `dim`, so nothing broadcasts
        return func(*args, **(kwargs or {}))


def _trace_head(objective: str, l0: float | None, logits: FakeTensor) -> fx.GraphModule:
    """Trace a head.

    (logits [B, K], y int64 [B], ones [B]) -> (loss [B], class_logit [B], predicted int64 [B], d loss/d logits [B, K]).
    """
    function = checked_objective(resolve_objective(objective, l0), logits.shape[1])

    def head(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loss = function(logits, y, 0.0 if l0 is None else l0)
        constant = logits.detach()
        return loss, class_logit(constant, y), constant.argmax(dim=1)

    with logits.fake_mode, _PlainGather():
        labels = torch.zeros(logits.shape[:1], dtype=torch.int64)
        table = decomposition_table("shifted") | HEAD
        arguments = (torch.empty_like(logits).requires_grad_(), labels)
        joint: Any = aot_export_joint_simple(head, arguments, trace_joint=True, decompositions=table)
    assert isinstance(joint, fx.GraphModule)
    return joint


def attach_objective(trunk: fx.GraphModule, objective: str, l0: float | None = None) -> fx.GraphModule:
    """Derive an objective's gradient graph from a trunk, optimised or not.

    Args:
        trunk: result of `trace_trunk`. It is not changed; the result shares its weights.
        objective: a name in `jboost.engine.method.objectives.OBJECTIVES`.
        l0: mean realness of real images, for the objectives that need it; becomes a constant of the graph.

    Returns:
        fx.GraphModule, (x [B, C, H, W], y int64 [B]) -> (grad [B, C, H, W], class_logit [B], loss [B], predicted int64 [B]).

    Raises:
        BadInputError: the objective is unknown, or needs l0 and has none.
    """
    nodes = list(trunk.graph.nodes)
    x, v = (node for node in nodes if node.op == "placeholder")
    logits, grad = results(trunk)
    head = _trace_head(objective, l0, logits.meta["val"])
    after_v: set[fx.Node] = {v}
    for node in nodes:
        if any(i in after_v for i in node.all_input_nodes):
            after_v.add(node)

    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    copied[x] = graph.placeholder("x")
    copied[x].meta = copy.copy(x.meta)
    y = graph.placeholder("y")
    for node in nodes:
        if node not in after_v and node is not x:
            copied[node] = graph.node_copy(node, copied.__getitem__)
    head_logits, head_y, head_ones = (node for node in head.graph.nodes if node.op == "placeholder")
    y.meta = copy.copy(head_y.meta)
    in_head: dict[fx.Node, Any] = {head_logits: copied[logits], head_y: y}
    # Differentiate the sum of the losses, never their mean: an image's step must not depend on its neighbours. The
    # cotangent of a loss [B] is ones of the same shape, here one number that broadcasts.
    in_head[head_ones] = graph.call_function(
        torch.ops.aten.full.default, ([1], 1.0), {"dtype": head_ones.meta["val"].dtype}
    )
    in_head[head_ones].meta["val"] = head_ones.meta["val"]
    root = dict(trunk.named_buffers())
    for node in head.graph.nodes:
        if node.op == "get_attr":
            name = f"head_{node.target}"
            root[name] = getattr(head, node.target)
            in_head[node] = graph.get_attr(name)
            in_head[node].meta = copy.copy(node.meta)
        elif node.op == "call_function":
            in_head[node] = graph.node_copy(node, in_head.__getitem__)
    flat = [n for n in torch.utils._pytree.tree_leaves(head.graph.output_node().args) if n is not None]
    loss, class_logit_, predicted, cotangent = (in_head[n] for n in flat)
    copied[v] = cotangent
    for node in nodes:
        if node in after_v and node is not v and node.op != "output":
            copied[node] = graph.node_copy(node, copied.__getitem__)
    graph.output((copied[grad], class_logit_, loss, predicted))
    module = nn.Module()
    for name, value in root.items():
        module.register_buffer(name, value)
    gradient = fx.GraphModule(module, graph, "Gradient")
    for tidy in (drop_no_ops, forget_batch_sizes, fold_constants, merge_duplicates):
        tidy(gradient)
    return gradient
