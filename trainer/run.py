"""A training run in a folder: iterations, a log, validations, checkpoints, and a state to resume from.

runs/joint/
  config.json           every value of the run
  log.jsonl             figures by iteration
  tensorboard/          the same for TensorBoard
  state.safetensors     the state that a resumed run continues from
  last.safetensors      the model at the last validation; `jboost export --ckpt` reads it
  best.safetensors      the model at the best validation
  001000.safetensors    the model after an iteration of --keep-at
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from jboost.engine.errors import BadInputError, FailureError, one_line
from jboost.engine.method.updates import PGD
from jboost.engine.system.commands import remove_folder
from jboost.engine.system.locks import only_writer

from .adversarial import Labelled, StepReport, mean_realness
from .checkpoint import ModelInfo, save_checkpoint
from .config import TrainConfig, check_same, save_config
from .data import Augmentation, BatchReader, EpochOrder, ImageData, Order, to_tensor
from .joint import JointModel
from .learner import Learner
from .machine import make_accelerator
from .prepare import TrainingData
from .state import FILE, State, load_state, save_state, saved_iteration
from .validation import Validated, validate
from .watch import Hooks, Log

CONFIG, LAST, BEST = "config.json", "last.safetensors", "best.safetensors"


def kept_name(iteration: int) -> str:
    """The file name of a checkpoint that is kept after an iteration."""
    return f"{iteration:06d}.safetensors"


# Without held-out images, l0 is measured on this many training images.
_L0_IMAGES = 1000


@dataclass(frozen=True)
class Finished:
    """The result of a run.

    Attributes:
        iterations: total number of iterations done.
        last: the final checkpoint.
        best: the best checkpoint; without validation, the same as `last`.
        l0: l0 of the final model.
    """

    iterations: int
    last: Path
    best: Path
    l0: float


def read_stored(out: Path) -> TrainConfig | None:
    """The configuration of the run in `out`; None if there is no run.

    Raises:
        BadInputError: the file is damaged.
    """
    path = out / CONFIG
    if not path.is_file():
        if (out / FILE).exists():
            raise BadInputError(f"{out} holds a run without its {CONFIG}; choose another -o")
        return None
    try:
        return TrainConfig(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as e:
        raise BadInputError(f"{path} is not the configuration of a run ({one_line(e)}); choose another -o") from e


def train(
    config: TrainConfig,
    model: JointModel,
    info: ModelInfo,
    data: TrainingData,
    out: Path,
    *,
    resume: bool = False,
    hooks: Hooks | None = None,
) -> Finished | None:
    """Train `model` in place. The same arguments give the same weights on the same machine, interrupted or not.

    Args:
        config: the configuration; the caller opened `data`, `model` and `info` from its paths and names.
        model: the initial model.
        info: description of the model; the run adds l0.
        data: the images; labels lie below ``info.num_classes``.
        out: the run's folder, made if it is missing.
        resume: continue the run in `out`, if there is one.
        hooks: the caller's callbacks.

    Returns:
        The result; None on processes other than the main one.

    Raises:
        BadInputError: another process trains in `out`; `out` holds a run and `resume` is false, or the run differs; or a
            package or the device is missing.
        FailureError: the loss is no longer finite, or writing failed.
    """
    hooks = hooks or Hooks()
    with ExitStack() as held:
        if int(os.environ.get("RANK", "0")) == 0:  # it writes for all processes
            _make_parent(out)
            held.enter_context(only_writer(out))
        return _train(config, model, info, data, out, resume=resume, hooks=hooks)


def _train(
    config: TrainConfig,
    model: JointModel,
    info: ModelInfo,
    data: TrainingData,
    out: Path,
    *,
    resume: bool,
    hooks: Hooks,
) -> Finished | None:
    stored = read_stored(out)
    if stored is not None:
        if not resume:
            raise BadInputError(
                f"{out} holds a run; continue it with --resume, choose another -o, or delete it with: {remove_folder(out)}"
            )
        check_same(stored, config, out)
        _check_kept(stored, config, out)  # before the folder's configuration names these iterations
    accelerator = make_accelerator(config, out)
    if accelerator.is_main_process:
        _prepare_folder(out, config)
    accelerator.wait_for_everyone()
    run = _Run(config, info, data, out, Learner(model, config, accelerator), hooks)
    try:
        return run.go()
    finally:
        run.close()


class _Run:
    """The parts of a run, and its progress."""

    def __init__(
        self, config: TrainConfig, info: ModelInfo, data: TrainingData, out: Path, learner: Learner, hooks: Hooks
    ):
        self.config, self.info, self.data, self.out, self.learner, self.hooks = config, info, data, out, learner, hooks
        self.accelerator = learner.accelerator
        self.done = 0
        self.best: float | None = None
        self.l0 = math.nan
        self.main = self.accelerator.is_main_process
        self._restore()
        self.log = Log(out, config, self.accelerator, self.done) if self.main else None
        self._held_out = _load_held_out(data, learner) if self.main else None

    def _restore(self) -> None:
        state = load_state(self.out)
        if state is None:
            return
        if state.facts["data"] != self.data.fingerprint:
            raise BadInputError(
                f"the images differ from those of the run in {self.out}; give the same images, or another -o"
            )
        self.learner.restore(state.tensors, state.facts)
        self.done, self.best, self.l0 = state.iteration, state.facts["best"], state.facts["l0"]
        if self.main:
            self.hooks.say(f"resuming after {self.done:,} of {self.config.iterations:,} iterations")

    def go(self) -> Finished | None:
        """Run the remaining iterations."""
        config, world = self.config, self.accelerator.num_processes
        readers = self._readers(config.batch_size // (world * config.accumulate))
        with ExitStack() as streams:
            real, generated = (streams.enter_context(r.batches(start=self.done * config.batch_size)) for r in readers)
            while self.done < config.iterations:
                seen = self.learner.step(self.done, real, generated)
                self.done += 1
                if self._due(config.log_every):
                    self._report(seen)
                if self._due(config.validate_every) or self.done in config.keep_at:
                    self._validate()
                if self._due(config.save_every):
                    self._save()
        if not self.main:
            return None
        best = self.out / BEST
        return Finished(self.done, self.out / LAST, best if best.exists() else self.out / LAST, self.l0)

    def _due(self, every: int) -> bool:
        return self.done % every == 0 or self.done == self.config.iterations

    def _readers(self, batch_size: int) -> tuple[BatchReader, BatchReader]:
        config, accelerator = self.config, self.accelerator

        def reader(data: ImageData, order: Order, augmentation: Augmentation) -> BatchReader:
            return BatchReader(
                data,
                order,
                batch_size=batch_size,
                rank=accelerator.process_index,
                world=accelerator.num_processes,
                augmentation=augmentation,
            )

        changes = Augmentation(
            config.seed,
            resized_crop=config.real_crop,
            resize=config.real_resize,
            flip=config.flip or config.real_flip,
            crop_padding=config.crop_padding,
            rotation=config.real_rotation,
            vertical_flip=config.real_vertical_flip,
        )
        real = reader(self.data.real, EpochOrder(len(self.data.real.labels), config.seed), changes)
        # Another seed, so that the two images of a pair are not always flipped alike.
        changes = Augmentation(config.seed + 2**63, flip=config.flip, crop_padding=config.crop_padding)
        return real, reader(self.data.generated, self.data.generated.order(config.seed), changes)

    def _report(self, seen: Mapping[str, torch.Tensor]) -> None:
        means = {name: self.accelerator.reduce(value, "mean") for name, value in seen.items()}
        report = StepReport.from_tensor(means["report"])
        if not math.isfinite(report.loss):
            raise FailureError(f"the loss is {report.loss} at iteration {self.done}; {self._remedy()}")
        if self.log is not None:
            figures = vars(report) | {"learning_rate": self.config.learning_rate_at(self.done - 1)}
            figures |= {name: float(value) for name, value in means.items() if name != "report"}
            self.log.write(self.done, "train", figures)
            self.hooks.on_log(self.done, figures)

    def _validate(self) -> None:
        """Validate and write checkpoints, on the main process; the others wait."""
        if self.main and self._held_out is not None:
            validated = self._validated(*self._held_out)
            figures = validated.figures
            self.l0 = figures.realness_real
            self._export(LAST)
            if figures.better_than(self.best):
                self.best = figures.merit
                self._export(BEST)
            assert self.log is not None
            self.log.write(self.done, "validation", figures.to_dict())
            self.hooks.on_validation(self.done, validated)
        elif self.main:
            count = min(_L0_IMAGES, len(self.data.real.labels))
            self.l0 = mean_realness(self.learner.kept, *_read(self.data.real, count, self.learner))
            self._export(LAST)
        if self.main and self.done in self.config.keep_at:
            name = kept_name(self.done)
            self._export(name)
            self.hooks.say(f"iteration {self.done:,}: kept as {self.out / name}")
        self.accelerator.wait_for_everyone()

    def _validated(self, real: Labelled, generated: Labelled) -> Validated:
        config = self.config
        return validate(
            self.learner.kept,
            real,
            generated,
            config=config.adversarial,
            steps=config.adversarial.validation_steps(config.iterations),
            boost=PGD(config.boost_steps, config.boost_step_size),
            aim=config.boost_objective,
            frechet=self.hooks.frechet,
            autocast=self.accelerator.autocast,
            batch_size=config.batch_size,
        )

    def _export(self, name: str) -> None:
        save_checkpoint(self.out / name, self.learner.kept, replace(self.info, l0=self.l0))

    def _save(self) -> None:
        """Commit the progress: a run that is killed before this point repeats the iterations since the last save."""
        if self.main:
            tensors, facts = self.learner.state()
            if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
                raise FailureError(f"weights are no longer finite at iteration {self.done}; {self._remedy()}")
            facts |= {"best": self.best, "l0": self.l0, "data": self.data.fingerprint}
            save_state(self.out, State(self.done, tensors, facts))

    def _remedy(self) -> str:
        return "start again in another -o with a lower --learning-rate, or with --clip 1"

    def close(self) -> None:
        """Close the log and end the accelerator's training."""
        if self.log is not None:
            self.log.close()
        self.accelerator.end_training()


def _check_kept(stored: TrainConfig, config: TrainConfig, out: Path) -> None:
    """Check that a resumed run newly keeps only checkpoints that it still can write, or has.

    Raises:
        BadInputError: --keep-at names an iteration that has passed.
    """
    done = saved_iteration(out)
    for kept in sorted(set(config.keep_at) - set(stored.keep_at)):
        if kept <= done and not (out / kept_name(kept)).is_file():
            raise BadInputError(
                f"--keep-at {kept}: the run in {out} is at iteration {done} of {config.iterations} and did not keep "
                f"iteration {kept}; leave {kept} out, or train again in another -o"
            )


def _make_parent(out: Path) -> None:
    """Make the folder that the run's folder lies in; the run's lock is there."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise BadInputError(f"cannot write to {out}: {e.strerror}; choose another -o") from e


def _prepare_folder(out: Path, config: TrainConfig) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        save_config(out / CONFIG, config)
    except OSError as e:
        raise BadInputError(f"cannot write to {out}: {e.strerror}; choose another -o") from e


def _load_held_out(data: TrainingData, learner: Learner) -> tuple[Labelled, Labelled] | None:
    if data.held_out is None:
        return None
    count = min(part.shape[0] for part in data.held_out)
    real, generated = (_read(part, count, learner) for part in data.held_out)
    if learner.config.generated_labels == "paired":
        generated = (generated[0], real[1])
    return real, generated


def _read(data: ImageData, count: int, learner: Learner) -> Labelled:
    """The first `count` images, on the learner's device."""
    indices = np.arange(count)
    device = learner.accelerator.device
    return to_tensor(data.read(indices)).to(device), torch.from_numpy(data.labels[indices]).to(device)
