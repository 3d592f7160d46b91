"""The configuration of `jboost train`: check it, layer it (flags > file > preset > defaults), store it."""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from jboost.engine.errors import BadInputError, one_line
from jboost.engine.method.updates import PGD
from jboost.engine.system.dtypes import DtypeName
from jboost.engine.system.replacing import replacing

from .adversarial import AdversarialConfig
from .losses import LossWeights
from .options import flag, without_effect
from .presets import find_preset
from .schedule import learning_rate_at

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Amount = Annotated[float, Field(ge=0.0)]
Length = Annotated[float, Field(gt=0.0)]
#: The radius of a ball; ``"inf"`` for none, because JSON has no infinity.
Radius = Annotated[Amount | Literal["inf"], BeforeValidator(lambda value: "inf" if value == math.inf else value)]


class TrainConfig(BaseModel):
    """The values of a training run. Each field's flag is ``--field-name`` and its key in a file is ``field_name``.

    Attributes:
        preset: the preset that supplied values that were not given; None: no preset.
        real: labelled real images, see `jboost.trainer.data.open_real`.
        generated: labelled sample sets of one or more generators.
        generated_weights: how often each set is drawn, relative to the others; None: in proportion to its size.
        generated_labels: ``"own"``, or ``"paired"``: generated image i takes the label of real image i of its batch, and
            the sets need no labels, because their images are of no class.
        resolution: image size in pixels; None: the real images' size.
        channels: 1 or 3; None: the real images' channels.
        background, class_folders: how to read image files, see `jboost.engine.samples.options`.
        missing_classes: train although a class has only real or only generated images.
        flip, crop_padding: augmentation of real and generated images alike, see `jboost.trainer.data.Augmentation`.
        real_resize, real_crop, real_flip, real_rotation, real_vertical_flip: augmentation of real images alone, in this
            order, see `jboost.trainer.data.Augmentation`.
        generated_size: ``"same"``: generated images have the real images' size; ``"own"``: they may have another one,
            and each half has a forward pass of its own, so BatchNorm takes its statistics per half.
        held_out: number of images of each kind that are held out for validation; 0: no validation.
        validation_real, validation_generated: sets to take these images from, instead of the training sets.
        check_images: decode every image once before training.
        features: extractor for validation's Fréchet distances, which the command line opens; None: no distances.
        arch: see `jboost.trainer.architectures.find_architecture`; None: that of `init`, else ``small_resnet``.
        num_classes: number of classes; None: the real images' number.
        normalize: see `jboost.trainer.joint.parse_normalization`; None: that of `init`, else the architecture's
            customary one.
        init: checkpoint to start from, any that export can load; None: random weights.
        reset_head: initialise the last layer anew even if its number of classes fits.
        batch_norm: ``"train"``: statistics of the (global) batch; ``"frozen"``: keep the statistics of `init`.
        score, attack_score, real_attack_loss, label_smoothing: see `AdversarialConfig`.
        bce_real to clean_ce_generated: weights of the loss's terms, see `jboost.trainer.losses.JointLoss`.
        ema: decay of an exponential moving average of the weights, which validation and checkpoints then use; 0: none.
        ema_warmup: the n-th update of this average uses the decay (1 + n) / (10 + n), as long as that is the smaller one.
        real_steps, real_step_size, real_eps: the attack on real images.
        real_start: radius of the ball that the attack on real images starts in at random; 0: it starts at the image.
        generated_steps, generated_step_size, generated_eps, grow_every: the attack on generated images.
        generated_stop: ``"pair"``: a generated image stops once it is rated above its attacked real image; ``"never"``.
        generated_max_steps: the largest number of steps of this attack; None: no limit.
        grow_auc, grow_images: let this attack grow by AUC, see `AdversarialConfig`.
        iterations: number of optimizer steps.
        batch_size: number of real images per step, over all processes and accumulated batches; a step takes as many
            generated images.
        accumulate: number of batches that each process splits its images of a step into.
        optimizer: ``"adamw"``, ``"adam"`` or ``"sgd"``.
        learning_rate, schedule, warmup, milestones, gamma: see `jboost.trainer.schedule.learning_rate_at`.
        momentum, nesterov: momentum of SGD, and whether it is Nesterov's.
        weight_decay: weight decay of the optimizer; with ``"adam"`` and ``"sgd"`` it is part of the gradient.
        clip: largest norm of the gradient of all weights together; 0: no clipping.
        dtype: precision of the network (mixed precision); weights, images and losses stay float32.
        compile: compile the forward pass and input gradient of the attacks.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        deterministic: choose deterministic kernels where they exist.
        seed: seed of the initial weights, the order of the images and the augmentation.
        log_every, validate_every, save_every: intervals in iterations; the last iteration does all three.
        keep_at: iterations after which a checkpoint is kept under its number, after a validation.
        log_with: trackers: ``"tensorboard"``, ``"wandb"``, both separated by a comma, or ``"none"``.
        boost_steps, boost_step_size, boost_objective: the boosting in validation, by PGD.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    preset: str | None = None
    real: str
    generated: Annotated[tuple[str, ...], Field(min_length=1)]
    generated_weights: tuple[Length, ...] | None = None
    generated_labels: Literal["own", "paired"] = "own"
    resolution: Positive | None = None
    channels: Literal[1, 3] | None = None
    background: str | None = None
    class_folders: Literal["top", "last", "none"] | None = None
    missing_classes: bool = False
    flip: bool = False
    crop_padding: Count = 0
    real_resize: Count = 0
    real_crop: bool = False
    real_flip: bool = False
    real_rotation: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    real_vertical_flip: bool = False
    generated_size: Literal["same", "own"] = "same"
    held_out: Count = 500
    validation_real: str | None = None
    validation_generated: str | None = None
    check_images: bool = True
    features: str | None = None

    arch: str | None = None
    num_classes: Positive | None = None
    normalize: str | None = None
    init: str | None = None
    reset_head: bool = False
    batch_norm: Literal["train", "frozen"] = "train"

    score: Literal["logit", "energy"] = "logit"
    attack_score: Literal["logit", "energy"] | None = None
    real_attack_loss: Literal["bce", "ce"] = "bce"
    label_smoothing: Share = 0.0
    bce_real: Amount = 1.0
    bce_generated: Amount = 1.0
    ce_real: Amount = 1.0
    ce_generated: Amount = 1.0
    clean_bce_real: Amount = 0.0
    clean_bce_generated: Amount = 0.0
    clean_ce_real: Amount = 0.0
    clean_ce_generated: Amount = 0.0
    ema: Share = 0.0
    ema_warmup: bool = False

    real_steps: Count = 4
    real_step_size: Length = 0.25
    real_eps: Amount = 1.0
    real_start: Amount = 0.0
    generated_steps: Count = 1
    generated_step_size: Length = 0.1
    generated_eps: Radius = 10.0
    generated_stop: Literal["pair", "never"] = "pair"
    generated_max_steps: Count | None = None
    grow_every: Positive = 1000
    grow_auc: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    grow_images: Positive = 1000

    iterations: Positive = 10_000
    batch_size: Positive = 64
    accumulate: Positive = 1
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: Length = 1e-3
    momentum: Share = 0.9
    nesterov: bool = False
    weight_decay: Amount = 1e-4
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup: Count = 0
    milestones: tuple[Positive, ...] = ()
    gamma: Length = 0.1
    clip: Amount = 0.0

    dtype: DtypeName = "fp32"
    compile: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    deterministic: bool = True
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    log_every: Positive = 10
    validate_every: Positive = 500
    save_every: Positive = 500
    keep_at: tuple[Positive, ...] = ()
    log_with: str = "tensorboard"
    boost_steps: Count = 15
    boost_step_size: Length = 0.1
    boost_objective: Literal["joint", "logit", "ce", "bce", "ce-bce", "energy"] = "joint"

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        adversarial = self.adversarial
        if not (adversarial.weights.any or adversarial.clean_weights.any):
            raise ValueError("all loss weights are 0; give one of --bce-real, --ce-real, ...")
        if self.generated_weights is not None and len(self.generated_weights) != len(self.generated):
            raise ValueError(
                f"{len(self.generated_weights)} generated weights for {len(self.generated)} sample sets; give one for each"
            )
        if self.real_resize and not self.real_crop:
            raise ValueError(
                f"--real-resize {self.real_resize} is for random crops; give --real-crop too, or --real-resize 0 "
                "(without crops, images are resized to --resolution)"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"a batch size of {self.batch_size} cannot be split into --accumulate {self.accumulate} parts"
            )
        if self.schedule == "step" and not self.milestones:
            raise ValueError("the step schedule needs --milestones, e.g. 300,450")
        if self.warmup >= self.iterations and self.warmup:
            raise ValueError(f"a warm-up of {self.warmup} takes up all {self.iterations} iterations; lower --warmup")
        if self.nesterov and self.optimizer == "sgd" and not self.momentum:
            raise ValueError("--nesterov needs a --momentum above 0, e.g. 0.9")
        if self.generated_max_steps is not None and self.generated_max_steps < self.generated_steps:
            raise ValueError(
                f"the attack on generated images starts at {self.generated_steps} steps, above its limit of "
                f"{self.generated_max_steps}; raise --generated-max-steps, or lower --generated-steps"
            )
        if self.grow_auc is not None and self.generated_max_steps is None:
            raise ValueError(
                "--grow-auc needs --generated-max-steps N: validation attacks with N steps throughout, so that the "
                "figures of a run can be compared"
            )
        if self.grow_auc is not None and self.generated_stop == "pair":
            raise ValueError(
                "--grow-auc measures how well attacked generated images pass for real ones, so none may stop before: give "
                "--generated-stop never"
            )
        if self.grow_auc is not None and self.generated_max_steps == self.generated_steps:
            raise ValueError(
                f"--grow-auc cannot add a step: the attack on generated images starts at {self.generated_steps} steps, its "
                "limit; raise --generated-max-steps, or give --grow-every instead for an attack of that length throughout"
            )
        if self.real_start > self.real_eps:
            raise ValueError(
                f"a random start within {self.real_start:g} leaves the ball of --real-eps {self.real_eps:g}; lower "
                "--real-start or raise --real-eps"
            )
        if late := [kept for kept in self.keep_at if kept > self.iterations]:
            raise ValueError(
                f"--keep-at {late[0]} comes after the last of {self.iterations} iterations; give --keep-at "
                f"{self.iterations} or none, or more --iterations"
            )
        for tracker in self.trackers:
            if tracker not in ("tensorboard", "wandb"):
                raise ValueError(f"unknown tracker {tracker!r} in --log-with; choose tensorboard, wandb, both or none")
        return self

    @property
    def adversarial(self) -> AdversarialConfig:
        """The values that a single step needs."""
        return AdversarialConfig(
            real_attack=PGD(self.real_steps, self.real_step_size, self.real_eps),
            real_start=self.real_start,
            generated_attack=PGD(self.generated_steps, self.generated_step_size, _radius(self.generated_eps)),
            grow_every=self.grow_every,
            grow_auc=self.grow_auc,
            grow_images=self.grow_images,
            max_steps=self.generated_max_steps,
            stop_at_pair=self.generated_stop == "pair",
            score=self.score,
            attack_score=self.attack_score,
            real_attack_loss=self.real_attack_loss,
            weights=LossWeights(self.bce_real, self.bce_generated, self.ce_real, self.ce_generated),
            clean_weights=LossWeights(
                self.clean_bce_real, self.clean_bce_generated, self.clean_ce_real, self.clean_ce_generated
            ),
            label_smoothing=self.label_smoothing,
        )

    @property
    def trackers(self) -> tuple[str, ...]:
        """The trackers' names."""
        return () if self.log_with == "none" else tuple(self.log_with.split(","))

    def learning_rate_at(self, iteration: int) -> float:
        """The learning rate of an iteration, counted from 0."""
        return learning_rate_at(
            iteration,
            peak=self.learning_rate,
            iterations=self.iterations,
            schedule=self.schedule,
            warmup=self.warmup,
            milestones=self.milestones,
            gamma=self.gamma,
        )


def _radius(eps: float | Literal["inf"]) -> float | None:
    """The radius as `PGD` takes it."""
    return None if eps == "inf" else float(eps)


#: The fields that may change when a run is resumed: none of them affects the weights.
CHANGEABLE = frozenset(
    {
        "preset",
        "log_every",
        "validate_every",
        "save_every",
        "keep_at",
        "log_with",
        "boost_steps",
        "boost_step_size",
        "boost_objective",
        "check_images",
    }
)


def resolve_config(
    flags: Mapping[str, Any],
    *,
    file: Path | None = None,
    preset: str | None = None,
    stored: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Merge the layers of a configuration: flags > file > preset > defaults.

    Args:
        flags: values by field; None and an empty `generated` count as not given.
        file: TOML or JSON file with values by field, such as the ``config.json`` of a run.
        preset: see `jboost.trainer.presets`; None: the preset that the file names, if any.
        stored: the configuration of the resumed run; it replaces the defaults.

    Raises:
        BadInputError: an unknown key or preset, a value out of range, or an option without effect; the message names the
            flag, or the file and the key.
    """
    given = {key: value for key, value in flags.items() if value is not None and (value or key != "generated")}
    from_file = {} if file is None else read_config(file)
    preset = preset or from_file.get("preset")
    chosen = find_preset(preset)
    values: dict[str, Any] = dict(stored or {})
    for layer in (chosen, from_file, given):
        # The two rules of growth exclude each other, so a layer that names one of them drops what is below it.
        if layer.get("grow_every") is not None and "grow_auc" not in layer:
            values["grow_auc"] = None
        values |= layer
    if "grow_every" in given and "grow_auc" in given:
        raise BadInputError("--grow-every and --grow-auc are two rules of growth; give one of them")
    if preset is not None:
        values["preset"] = preset
    iterations = values.get("iterations")
    if "keep_at" in chosen and "keep_at" not in from_file | given and isinstance(iterations, int):
        # A preset's checkpoints beyond a shorter run; `preset_remarks` says so.
        values["keep_at"] = tuple(kept for kept in chosen["keep_at"] if kept <= iterations)
    beneath = {key: field.default for key, field in TrainConfig.model_fields.items()} | dict(stored or {}) | chosen
    try:
        config = TrainConfig(**values)
        return TrainConfig(**values | without_effect(config, given, from_file, beneath, file))
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        raise BadInputError(_one_line(first, given, from_file, file)) from None


def read_config(path: Path) -> dict[str, Any]:
    """Read the values in a TOML or JSON file, by field.

    Raises:
        BadInputError: no such file, not TOML or JSON, or a key that is not a field of `TrainConfig`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise BadInputError(f"cannot read the configuration {path}: {e}; check --config") from e
    try:
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as e:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise BadInputError(f"{path} is not {kind}: {one_line(e)}") from e
    if not isinstance(values, dict):
        raise BadInputError(f"{path} must hold a table of values, not {values!r:.60}")
    for key in values:
        if key not in TrainConfig.model_fields:
            near = difflib.get_close_matches(key, TrainConfig.model_fields, 1)
            meant = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(TrainConfig.model_fields)}"
            raise BadInputError(f"{path}: unknown key {key!r}{meant}")
    return values


#: What the fields that are lists hold, with an example.
_LISTS = {
    "generated": 'paths, e.g. ["samples.npz"]',
    "generated_weights": "numbers, e.g. [2, 1]",
    "milestones": "whole numbers, e.g. [300, 450]",
    "keep_at": "whole numbers, e.g. [1000, 4000]",
}


def _one_line(error: Any, given: Mapping[str, Any], from_file: Mapping[str, Any], file: Path | None) -> str:
    """Format a pydantic error in one line: the flag or the file's key, what is wrong, and the value given."""
    if not error["loc"]:
        return str(error["msg"]).removeprefix("Value error, ")
    field = str(error["loc"][0])
    if error["type"] == "missing":
        return f"no {field} images are given; give {flag(field)} PATH"
    where = f"{file}: {field}" if field in from_file and field not in given else flag(field)
    if error["type"] == "tuple_type":
        return f"{where} must be a list of {_LISTS[field]}, got {error['input']!r}"
    what = str(error["msg"]).replace("Input should be", "must be").replace("Value error, ", "")
    return f"{where} {what}, got {error['input']!r}"


def save_config(path: Path, config: TrainConfig) -> None:
    """Write the configuration atomically as JSON; `read_config` reads it."""
    with replacing(path) as aside:
        aside.write_text(json.dumps(config.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")


def check_same(stored: TrainConfig, config: TrainConfig, out: Path) -> None:
    """Check that a resumed run keeps its settings.

    Raises:
        BadInputError: settings differ; the message names them.
    """
    old, new = stored.model_dump(), config.model_dump()
    differ = [key for key in old if old[key] != new[key] and key not in CHANGEABLE]
    if differ:
        was = ", ".join(f"{flag(key)} was {old[key]!r}, is {new[key]!r}" for key in differ[:3])
        raise BadInputError(f"{out} holds a run with other settings ({was}); leave them out, or choose another -o")
