"""Whether an image's gradient depends on its row in the batch.

    python moved_rows.py eager|compile|everything

checks the engines of torch in a process of its own: MKL reads its environment at a process's first product.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Run = Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]]


class Head(nn.Module):
    """The images are the logits, so the gradient graph is an objective's head."""

    def forward(self, x: Tensor) -> Tensor:
        return 4 * x.flatten(1) - 1


class Edges(nn.Module):
    """Odd sizes everywhere: sums, functions and products that end in the middle of a vector."""

    def __init__(self, classes: int = 37) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.tokens, self.fc = nn.Conv2d(3, 5, 3), nn.Linear(49, 49), nn.Linear(35, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.group_norm(self.conv(x), 1)
        x = F.elu(x) + F.instance_norm(F.mish(x)) + torch.sin(x) + torch.atan(x)
        tokens = F.layer_norm(self.tokens(x.flatten(2)), (49,))
        tokens = torch.softmax(tokens @ tokens.transpose(1, 2), -1) @ tokens
        x = tokens.reshape(x.shape) * torch.log(1 + x.mean((1, 2, 3), keepdim=True) ** 2)
        return self.fc(x.mean(2).flatten(1))


def graph(model: nn.Module, shape: tuple[int, ...], objective: str, batch: int | None) -> torch.fx.GraphModule:
    from jboost.export.graph import attach_objective, optimize, trace_trunk

    trunk = trace_trunk(model.eval(), torch.rand(batch or 2, *shape), dynamic_batch=batch is None)
    optimize(trunk, "onnx" if batch is None else "inductor")
    return attach_objective(trunk, objective, 1.5)


def moved_rows(run: Run, shape: tuple[int, ...], classes: int, batches: Iterable[int]) -> dict[int, int]:
    """Batch size -> rows that change when they are shifted or permuted, where there are any."""
    rng, found = np.random.default_rng(0), {}
    for batch in batches:
        x, y = rng.random((batch, *shape), dtype=np.float32), rng.integers(0, classes, batch)
        want = [np.array(part) for part in run(x, y)]
        orders = [np.roll(np.arange(batch), 1), np.arange(batch)[::-1], rng.permutation(batch)]
        changed = 0
        for order in orders:
            got = run(np.ascontiguousarray(x[order]), y[order])
            rows = [(np.asarray(a) != b[order]).reshape(batch, -1).any(1) for a, b in zip(got, want, strict=True)]
            changed += int(np.any(rows, 0).sum())
        if changed:
            found[batch] = changed
    return found


def eager(model: nn.Module, objective: str) -> Run:
    """What the eager engine computes, without a bundle."""
    from jboost.engine.backends.batch_of_one import at_least_two
    from jboost.engine.method.objectives import OBJECTIVES

    def run(x: np.ndarray, y: np.ndarray) -> Sequence[np.ndarray]:
        images = torch.from_numpy(x).requires_grad_()
        logits = model(at_least_two(images))[: len(x)]
        loss = OBJECTIVES[objective](logits, torch.from_numpy(y), 1.5)
        (grad,) = torch.autograd.grad(loss.sum(), images)
        return grad.numpy(), loss.detach().numpy()

    return run


def compiled(model: nn.Module, shape: tuple[int, ...], objective: str, batch: int) -> Run:
    from jboost.export.compiled.aoti import compile_package
    from jboost.export.compiled.packages import package_run
    from jboost.export.graph.program import export_program

    with TemporaryDirectory() as folder:
        path = Path(folder, "p.pt2")
        compile_package(export_program(graph(model, shape, objective, batch)), path, "cpu")
        return package_run(path, "cpu")


class Products(nn.Module):
    """Products whose rows MKL adds in an order that depends on where they lie, unless it is told not to."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(33, 17), nn.Linear(17, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x.flatten(1))))


def main(engine: str) -> None:
    from graph_models import make

    from jboost.engine.backends.torch_device import find_device

    torch.set_num_threads(1)
    find_device("cpu")
    if engine == "eager":
        for classes in (2, 10, 37, 1000, 1001):
            assert not (bad := moved_rows(eager(Head(), "joint"), (1, 1, classes), classes, range(1, 34))), bad
        assert not (bad := moved_rows(eager(Products(), "joint"), (3, 1, 11), 10, range(1, 34))), bad
        assert not (bad := moved_rows(eager(make("vit"), "ce"), (3, 16, 16), 10, (5, 33))), bad
    elif engine == "compile":
        run = compiled(Head(), (1, 1, 37), "joint", 33)
        assert not (bad := moved_rows(run, (1, 1, 37), 37, [33] * 5)), bad
        run = compiled(Products(), (3, 1, 11), "joint", 7)
        assert not (bad := moved_rows(run, (3, 1, 11), 10, [7] * 5)), bad
    else:
        for classes in (2, 10, 37, 1000, 1001):
            for batch in (1, 2, 3, 5, 8, 16, 31, 33):
                run = compiled(Head(), (1, 1, classes), "joint", batch)
                assert not (bad := moved_rows(run, (1, 1, classes), classes, [batch] * 5)), (classes, bad)
        for name, size in (("resnet", 19), ("preactivation", 19), ("convnext", 27), ("vit", 16)):
            for batch in (7, 33):
                run = compiled(make(name), (3, size, size), "joint", batch)
                assert not (bad := moved_rows(run, (3, size, size), 10, [batch] * 3)), (name, bad)


if __name__ == "__main__":
    main(sys.argv[1])
