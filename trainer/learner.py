"""The model in training: take optimizer steps of adversarial training on this process's share of each batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from jboost.engine.errors import BadInputError, one_line

from .adversarial import Labelled, Raters, attack, growth_scores, make_raters, objective
from .attack import Rater, compiled_forward
from .config import TrainConfig
from .growth import AttackLength, roc_auc
from .joint import JointModel
from .random_start import random_start
from .state import pack_optimizer, unpack_optimizer
from .sync_norm import synchronise_batch_norm

if TYPE_CHECKING:
    from accelerate import Accelerator

_Tensors = tuple[Tensor, ...] | list[Tensor]

# float16 gradients of one image's logit fall below 6e-5, where float16 loses bits.
_FP16_SCALE = 256.0


class _Forward(nn.Module):
    """The module that accelerate wraps for mixed precision and many processes; the attacks use the model inside."""

    def __init__(self, model: JointModel):
        super().__init__()
        self.model = model

    def forward(self, *sizes: Tensor) -> Tensor:
        """Images of each size, [B_i, C, H_i, W_i] -> the logits of all, in order; a pass for each size."""
        return torch.cat([self.model(x) for x in sizes])


class Learner:
    """A model, its optimizer, the average of its weights, and the attacks on it.

    Args:
        model: trained in place; moved to the accelerator's device.
        config: the run's configuration.
        accelerator: from `make_accelerator`.

    Attributes:
        model: the model in training.
        kept: the model to validate and to write to checkpoints: the average of the weights if there is one, else
            `model`.
    """

    def __init__(self, model: JointModel, config: TrainConfig, accelerator: Accelerator):
        self.config, self.accelerator = config, accelerator
        self._adversarial = config.adversarial
        self._length = AttackLength(self._adversarial, config.batch_size)
        # Convolutions are fastest in channels-last memory, with tensor cores and in oneDNN on CPUs (a third less time).
        placed = model.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model: JointModel = placed.requires_grad_(True)
        if accelerator.num_processes > 1 and config.batch_norm == "train":
            synchronise_batch_norm(self.model, accelerator.device)
        # The average includes BatchNorm's statistics: they belong to the weights.
        self._average = _make_average(self.model, config.ema, warmup=config.ema_warmup) if config.ema else None
        self.kept = self.model if self._average is None else cast(JointModel, self._average.module)
        self._raw_optimizer = _make_optimizer(self.model, config)
        self._forward, self._optimizer = accelerator.prepare(_Forward(self.model), self._raw_optimizer)
        self._raters = self._make_raters()

    def _make_raters(self) -> Raters:
        config = self.config
        compiled = compiled_forward(self.model) if config.compile else None
        scale = _FP16_SCALE if config.dtype == "fp16" else 1.0

        autocast = self.accelerator.autocast
        rater = partial(Rater, self.model, compiled=compiled, autocast=autocast, loss_scale=scale)
        return make_raters(self._adversarial, rater)

    def step(self, iteration: int, real: Iterator[Labelled], generated: Iterator[Labelled]) -> dict[str, Tensor]:
        """Take one optimizer step.

        Args:
            iteration: counted from 0.
            real, generated: the step takes ``accumulate`` batches from each; row i of one is paired with row i of the
                other, and with ``generated_labels`` ``"paired"`` takes its label.

        Returns:
            ``report``: float32 [9], the values of this process's `StepReport`. If gradients are clipped, also
            ``gradient_norm``: their norm before clipping. If the attack grows by AUC, also ``auc``: that of the batch
            of all processes.
        """
        accelerator, config = self.accelerator, self.config
        # Random numbers of the network (dropout) then depend only on the iteration, and a resumed run draws the same.
        torch.manual_seed(_stream_seed(config.seed, iteration, accelerator.process_index))
        for group in self._raw_optimizer.param_groups:
            group["lr"] = config.learning_rate_at(iteration)
        self._training_mode()
        seen: dict[str, Tensor] = {}
        reports, scores = [], []
        steps = self._length.at(iteration)
        for part in range(config.accumulate):
            ours, theirs = self._place(next(real)), self._place(next(generated))
            if config.generated_labels == "paired":
                theirs = (theirs[0], ours[1])
            start = self._start(ours[0], iteration, part)
            batch = attack(self._raters, ours, theirs, self._adversarial, steps, start)
            if config.grow_auc is not None:
                scores.append(growth_scores(self._raters, batch))
            with accelerator.accumulate(self._forward):
                loss, report = objective(self._forward, batch, self._adversarial)
                accelerator.backward(loss)
                if accelerator.sync_gradients and config.clip:
                    seen["gradient_norm"] = accelerator.clip_grad_norm_(self.model.parameters(), config.clip)
                self._optimizer.step()
                self._optimizer.zero_grad()
            reports.append(report)
        if scores:
            seen["auc"] = self._grow(torch.cat(scores, dim=1))
        if self._average is not None:
            self._average.update_parameters(self.model)
        return seen | {"report": torch.stack(reports).mean(0)}

    def _grow(self, scores: Tensor) -> Tensor:
        """Let the attack grow by the AUC of the whole batch; `scores` [2, B] are those of this process."""
        # Every process computes the same AUC from the same scores, so all attack with as many steps.
        real, attacked = self.accelerator.gather(scores[None]).transpose(0, 1).flatten(1).cpu().numpy()
        auc = roc_auc(real, attacked)
        self._length.see(auc)
        return torch.tensor(auc, device=scores.device)

    def _start(self, images: Tensor, iteration: int, part: int) -> Tensor | None:
        """The random start of the attack on the real images of one part of an iteration; None if there is none."""
        radius, world = self._adversarial.real_start, self.accelerator.num_processes
        if not radius:
            return None
        # The images' positions in the global order, as `BatchReader` counts them.
        first = iteration * self.config.batch_size + part * len(images) * world + self.accelerator.process_index
        positions = first + world * torch.arange(len(images), device=images.device)
        return random_start(images, radius, positions, self.config.seed)

    def _training_mode(self) -> None:
        self.model.train()
        if self.config.batch_norm == "frozen":
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _place(self, batch: Labelled) -> Labelled:
        device = self.accelerator.device
        images, labels = batch
        return images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that `restore` needs: tensors by name, and JSON values."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self._average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self._average.state_dict().items()}
        scaler = self.accelerator.scaler
        facts = {"scaler": scaler.state_dict() if scaler else None, "growth": self._length.facts()}
        return tensors | pack_optimizer(self._raw_optimizer), facts

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Continue from the output of `state`.

        Raises:
            BadInputError: the state belongs to another model.
        """
        try:
            self.model.load_state_dict(_below("model.", tensors))
            if self._average is not None:
                self._average.load_state_dict(_below("average.", tensors))
            unpack_optimizer(self._raw_optimizer, tensors)
        except (RuntimeError, ValueError) as e:
            raise BadInputError(f"the run's state belongs to another model ({one_line(e)})") from e
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(dict(facts["scaler"]))
        if "growth" in facts:  # states of earlier versions lack it, and their runs grow with the iterations
            self._length.restore(facts["growth"])


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _make_average(model: JointModel, decay: float, *, warmup: bool) -> AveragedModel:
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    def warming(averages: _Tensors, weights: _Tensors, count: Tensor | int) -> None:
        share = min(decay, (1 + int(count)) / (10 + int(count)))
        get_ema_multi_avg_fn(share)(averages, weights, count)  # type: ignore[no-untyped-call]

    return AveragedModel(model, multi_avg_fn=warming if warmup else average, use_buffers=True).requires_grad_(False)


def _make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
        )
    if config.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)


def _stream_seed(seed: int, iteration: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, iteration, rank]).generate_state(1, np.uint64)[0])
