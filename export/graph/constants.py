"""What a network computes once: tensors that it caches, and numbers that it branches on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from jboost.engine.errors import BadInputError, JboostError, first_line

# BatchNorm's batch counter: no forward pass in evaluation mode reads it.
_COUNTER = "num_batches_tracked"

# A real forward pass on more images than these would cost time and tell nothing more.
_IMAGES = 2


@torch.no_grad()
def fill_caches(model: nn.Module, example: Tensor) -> None:
    """Run one real forward pass, so that tensors the network caches in evaluation mode are real when it is traced.

    LeViT, EfficientFormer and TinyViT keep their attention biases at the first forward pass. Under a tracer they would keep the
    tracer's fake tensors, which the tracer then refuses.

    Args:
        model: [B, C, H, W] -> logits, in evaluation mode.
        example: [B, C, H, W], gives the image size, the dtype and the device.

    Raises:
        BadInputError: the forward pass fails.
    """
    try:
        model(example[:_IMAGES])
    except JboostError:
        raise
    except Exception as e:  # the model's own code can raise anything
        shape = "x".join(map(str, example.shape[2:]))
        raise BadInputError(
            f"the model's forward pass fails on images of {shape} with {example.shape[1]} channels ({type(e).__name__}: "
            f"{first_line(e)}); check --resolution and --arch"
        ) from e


@contextmanager
def keeping_weights(model: nn.Module) -> Iterator[None]:
    """Put the model's own weights and buffers back on exit.

    ``functional_call`` leaves the tracer's tensors in a module that stands in several places (torch 2.13).
    """
    owned = [(module, dict(module._parameters), dict(module._buffers)) for module in model.modules()]
    try:
        yield
    finally:
        for module, parameters, buffers in owned:
            module._parameters.update(parameters)
            module._buffers.update(buffers)


def single_numbers(model: nn.Module) -> dict[str, Callable[[], Tensor]]:
    """Return functions that make the model's buffers of one number anew: thresholds, flags, counters.

    A forward pass may branch on such buffers, as in ``if self.threshold == 0``. A tracer knows no values of a network's
    buffers, so this fails under it. It does know the value of a tensor that is made from a Python number while it traces.

    Returns:
        Buffer name -> a function that makes a tensor of its value, dtype and shape.
    """

    def maker(buffer: Tensor) -> Callable[[], Tensor]:
        value, dtype, shape = buffer.item(), buffer.dtype, buffer.shape
        return lambda: torch.tensor(value, dtype=dtype).reshape(shape)

    return {
        name: maker(buffer)
        for name, buffer in model.named_buffers()
        if buffer.numel() == 1 and not name.endswith(_COUNTER)
    }


class WithConstants(nn.Module):
    """A network to trace, whose buffers of one number are constants; see `single_numbers`."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self._numbers = single_numbers(model)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        constants = {name: make() for name, make in self._numbers.items()}
        logits: Tensor = torch.func.functional_call(self.model, constants, (x,))
        return logits
