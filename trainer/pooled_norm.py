"""One batch normalisation over images of two sizes: the passes for each size run side by side and share statistics.

Images of one size go through the network in one pass, and BatchNorm in training mode normalises all of them by the
statistics of the mixture of real and generated images, which its running statistics describe and the attacks see.
Images of two sizes need two passes. With statistics of its own in each, BatchNorm would show the network which half it
looks at, and the running statistics would describe neither half. So the passes take turns: at each batch normalisation
they put their statistics together, and both normalise by the same mean and variance. Every image counts the same,
whatever its size; with one size this is plain BatchNorm.

The passes are threads of which one runs at a time, in a fixed order, so results repeat. Whatever calls
`torch.nn.functional.batch_norm` takes part. With several processes the statistics are those of all of them.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.overrides import TorchFunctionMode

from jboost.engine.errors import BadInputError

from .sync_norm import sum_over_processes

_UNEQUAL = (
    "the network normalises its batch a different number of times for each image size, so the sizes cannot share "
    "statistics; train with images of one size, or with --batch-norm frozen"
)


def check_norms(model: nn.Module) -> None:
    """Check that the passes can share the statistics of every batch normalisation of a network.

    Raises:
        BadInputError: one averages its running statistics over all batches (``momentum=None``).
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is None:
            raise BadInputError(
                f"--generated-size own does not work with {name}, whose batch normalisation has momentum=None; give images of "
                "one size, or --batch-norm frozen"
            )


def run_together(model: Callable[[Tensor], Tensor], batches: Sequence[Tensor], *, processes: int = 1) -> Tensor:
    """Run a network on batches of different sizes with common statistics.

    Args:
        model: images -> one row per image.
        batches: float [B_i, C, H_i, W_i], one for each size; on one device.
        processes: number of processes whose statistics are shared; all must call this with the same sizes.

    Returns:
        The rows of all batches, in order.

    Raises:
        BadInputError: the network normalises different numbers of times for different sizes.
    """
    turns = _Turns(len(batches), processes)
    results: list[Any] = [None] * len(batches)
    settings = _Settings(batches[0].device)

    def work(party: int) -> None:
        try:
            turns.wait(party)
            with settings.applied(), _Sharing(turns, party):
                results[party] = model(batches[party])
            turns.finish()
        except BaseException as error:
            turns.fail(error)

    threads = [
        threading.Thread(target=contextvars.copy_context().run, args=(work, party), daemon=True)
        for party in range(1, len(batches))
    ]
    for thread in threads:
        thread.start()
    work(0)
    for thread in threads:
        thread.join()
    if turns.error is not None:
        raise turns.error
    return torch.cat(results)


class _Settings:
    """torch's settings of the calling thread that a pass needs."""

    def __init__(self, device: torch.device):
        self._device = device
        self._grad = torch.is_grad_enabled()
        self._autocast = torch.is_autocast_enabled(device.type)
        self._dtype = torch.get_autocast_dtype(device.type)
        self._cache = torch.is_autocast_cache_enabled()
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None

    def applied(self) -> ExitStack:
        """A context in which the current thread has them."""
        stack = ExitStack()
        stack.enter_context(torch.set_grad_enabled(self._grad))
        stack.enter_context(
            torch.autocast(self._device.type, dtype=self._dtype, enabled=self._autocast, cache_enabled=self._cache)
        )
        if self._stream is not None:
            stack.enter_context(torch.cuda.stream(self._stream))
        return stack


class _Brought(NamedTuple):
    """What a pass knows of the values before a normalisation.

    Attributes:
        mean, var: float32 [C], over the images of the pass.
        images: number of images.
        values: number of values of each channel.
    """

    mean: Tensor
    var: Tensor
    images: int
    values: int


class _Turns:
    """Whose turn it is, and the statistics of the current normalisation.

    The passes run one at a time, in order, each from one normalisation to the next. The last to arrive at a
    normalisation pools the statistics and goes on; the others fetch them when their turns come.
    """

    def __init__(self, parties: int, processes: int):
        self.parties, self.processes = parties, processes
        self.error: BaseException | None = None
        self._turn = 0
        self._finished = False
        self._changed = threading.Condition()
        self._brought: dict[int, _Brought] = {}
        self._pooled: _Brought | None = None

    def wait(self, party: int) -> None:
        """Wait for the party's turn; raise what another party raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._turn == party or self.error is not None)
        if self.error is not None:
            raise self.error

    def fail(self, error: BaseException) -> None:
        """Stop all parties."""
        with self._changed:
            self.error = self.error or error
            self._changed.notify_all()

    def finish(self) -> None:
        """The party whose turn it is has come to its end."""
        if self._brought:
            raise BadInputError(_UNEQUAL)
        self._finished = True
        self._pass_on()

    def _pass_on(self) -> None:
        with self._changed:
            self._turn = (self._turn + 1) % self.parties
            self._changed.notify_all()

    def share(self, party: int, brought: _Brought) -> tuple[_Brought, bool]:
        """Give the statistics of one pass; get the pooled ones, and whether this call pooled them."""
        if self._finished:
            raise BadInputError(_UNEQUAL)
        self._brought[party] = brought
        if len(self._brought) < self.parties:
            self._pass_on()
            self.wait(party)
            assert self._pooled is not None
            return self._pooled, False
        self._pooled = _pool([self._brought[p] for p in range(self.parties)], self.processes)
        self._brought = {}
        return self._pooled, True


def _pool(parts: Sequence[_Brought], processes: int) -> _Brought:
    """The statistics over the images of all passes and processes, in which each image counts the same."""
    images = sum(part.images for part in parts)
    mean = torch.stack([part.mean * (part.images / images) for part in parts]).sum(0)
    if processes > 1:
        mean = sum_over_processes(mean) / processes
    around = [(part.var + (part.mean - mean).square()) * (part.images / images) for part in parts]
    var = torch.stack(around).sum(0)
    if processes > 1:
        var = sum_over_processes(var) / processes
    return _Brought(mean, var, processes * images, processes * sum(part.values for part in parts))


class _Sharing(TorchFunctionMode):
    """Batch normalisation of one pass, in training mode, by the pooled statistics."""

    def __init__(self, turns: _Turns, party: int):
        super().__init__()
        self._turns, self._party = turns, party

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is batch_norm:
            return self._normalise(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _normalise(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """As `torch.nn.functional.batch_norm`, whose arguments these are."""
        if not training:
            return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        x = input.float()
        others = [d for d in range(x.ndim) if d != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        mean = x.mean(others)
        var = (x - mean.reshape(shape)).square().mean(others)
        pooled, first = self._turns.share(self._party, _Brought(mean, var, len(x), x.numel() // x.shape[1]))
        if first and running_mean is not None and running_var is not None:
            with torch.no_grad():  # once for all passes; the running variance is unbiased, as in torch
                running_mean.lerp_(pooled.mean.to(running_mean.dtype), momentum)
                unbiased = pooled.var * (pooled.values / max(1, pooled.values - 1))
                running_var.lerp_(unbiased.to(running_var.dtype), momentum)
        scale = (pooled.var + eps).rsqrt()
        if weight is not None:
            scale = scale * weight
        out = (x - pooled.mean.reshape(shape)) * scale.reshape(shape)
        if bias is not None:
            out = out + bias.reshape(shape)
        return out.to(input.dtype)
