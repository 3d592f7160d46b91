"""``jboost train``: train a robust joint classifier-discriminator on real and generated images."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jboost.engine.system.replacing import replacing

from . import options
from .early import check_early
from .options import Debug, split_numbers
from .paths import check_paths, if_path
from .tables import print_columns
from .terminal import console, is_terminal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from jboost.trainer.checkpoint import ModelInfo
    from jboost.trainer.config import TrainConfig
    from jboost.trainer.joint import JointModel
    from jboost.trainer.run import Finished
    from jboost.trainer.validation import Frechet, Validated


def _group(panel: str) -> Any:
    """Return a maker of options for one panel: ``option(help, default shown, *names of the flag)``."""

    def option(help: str, default: str | bool = False, *names: str) -> Any:
        return typer.Option(*names, help=help, show_default=default, rich_help_panel=panel)

    return option


_data, _model, _loss, _attack = _group("Data"), _group("Model"), _group("Loss"), _group("Attacks")
_optimizer, _machine, _watch = _group("Optimizer"), _group("Machine"), _group("Monitoring")


def train(
    real: Annotated[str | None, _data("Labelled real images: class folders, npz, downsampled ImageNet or IDX.")] = None,
    generated: Annotated[
        list[str] | None, _data("Labelled generated images; repeat the option for several sets.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Run folder to write.")] = Path("runs/joint"),
    preset: Annotated[
        str | None,
        typer.Option(
            help="Named defaults: paper-rn50, paper-wrn50-2, released-rn50, released-wrn50-2, digits, fashion-mnist, "
            "dat-cifar10 or dat-imagenet256.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML or JSON file of option values; flags override it.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in the output folder.")] = False,
    generated_weights: Annotated[
        str | None, _data("Sampling weights of the generated sets, e.g. 2,1.", "by size")
    ] = None,
    generated_labels: Annotated[
        str | None,
        _data("Labels of generated images: own, or paired: those of the real images they are paired with.", "own"),
    ] = None,
    resolution: Annotated[int | None, _data("Image size in pixels.", "the real images'")] = None,
    channels: Annotated[int | None, _data("Image channels: 1 or 3.", "the real images'")] = None,
    background: Annotated[
        str | None, _data("Colour behind transparent pixels: white, black or #rrggbb.", "such images are refused")
    ] = None,
    class_folders: Annotated[
        str | None,
        _data("Folders that name the classes: top, last (the folder an image lies in) or none.", "those that show it"),
    ] = None,
    missing_classes: Annotated[
        bool | None,
        _data(
            "Train although a class has only real or only generated images.",
            "off",
            "--missing-classes/--no-missing-classes",
        ),
    ] = None,
    flip: Annotated[bool | None, _data("Mirror images at random.", "off", "--flip/--no-flip")] = None,
    crop_padding: Annotated[int | None, _data("Shift images at random by up to this many pixels.", "0")] = None,
    real_resize: Annotated[
        int | None, _data("Resize real images' shorter side to this before --real-crop; 0 for no resizing.", "0")
    ] = None,
    real_crop: Annotated[
        bool | None,
        _data(
            "Crop real images at random, as torchvision's RandomResizedCrop, to --resolution.",
            "off",
            "--real-crop/--no-real-crop",
        ),
    ] = None,
    real_flip: Annotated[
        bool | None, _data("Mirror real images alone at random.", "off", "--real-flip/--no-real-flip")
    ] = None,
    real_rotation: Annotated[
        float | None, _data("Rotate real images at random by up to this many degrees.", "0")
    ] = None,
    real_vertical_flip: Annotated[
        bool | None,
        _data("Mirror real images top to bottom at random.", "off", "--real-vertical-flip/--no-real-vertical-flip"),
    ] = None,
    generated_size: Annotated[
        str | None, _data("Size of generated images: same as the real images', or their own.", "same")
    ] = None,
    held_out: Annotated[
        int | None, _data("Real images held out for validation, and as many generated ones; 0 for none.", "500")
    ] = None,
    validation_real: Annotated[str | None, _data("Set that supplies the real validation images.", "--real")] = None,
    validation_generated: Annotated[
        str | None, _data("Set that supplies the generated validation images.", "--generated")
    ] = None,
    check_images: Annotated[
        bool | None, _data("Decode every image before training.", "on", "--check-images/--no-check-images")
    ] = None,
    features: Annotated[
        str | None, _watch("Feature extractor for validation's Fréchet distances, as in jboost eval.", "none")
    ] = None,
    trust_code: Annotated[bool, options.trust_features("Monitoring")] = False,
    arch: Annotated[
        str | None, _model("Architecture, e.g. resnet50 or package.module:factory.", "small_resnet")
    ] = None,
    num_classes: Annotated[int | None, _model("Number of classes.", "the real images'")] = None,
    normalize: Annotated[
        str | None,
        _model(
            "Normalisation inside the model: imagenet, cifar10, none or m1,m2,m3/s1,s2,s3.",
            "--init's, else by architecture",
        ),
    ] = None,
    init: Annotated[
        str | None, _model("Robust backbone to start from: any checkpoint that export reads.", "none")
    ] = None,
    reset_head: Annotated[
        bool | None, _model("Reinitialise the last layer.", "if classes differ", "--reset-head/--no-reset-head")
    ] = None,
    batch_norm: Annotated[
        str | None, _model("BatchNorm mode: train, or frozen to keep the statistics of --init.", "train")
    ] = None,
    score: Annotated[
        str | None, _loss("Discriminator score: logit, or energy (dual adversarial training).", "logit")
    ] = None,
    attack_score: Annotated[
        str | None, _attack("Score that the attacks move: logit or energy.", "the discriminator's")
    ] = None,
    real_attack_loss: Annotated[
        str | None, _loss("Loss that the attack on real images raises: bce or ce.", "bce")
    ] = None,
    label_smoothing: Annotated[float | None, _loss("Label smoothing of the cross-entropies.", "0")] = None,
    bce_real: Annotated[float | None, _loss("Weight of the BCE of attacked real images (eq. 10).", "1")] = None,
    bce_generated: Annotated[float | None, _loss("Weight of the BCE of attacked generated images.", "1")] = None,
    ce_real: Annotated[float | None, _loss("Weight of the CE of attacked real images.", "1")] = None,
    ce_generated: Annotated[float | None, _loss("Weight of the CE of attacked generated images.", "1")] = None,
    clean_bce_real: Annotated[
        float | None, _loss("Weight of the BCE of real images that are not attacked.", "0")
    ] = None,
    clean_bce_generated: Annotated[
        float | None, _loss("Weight of the BCE of generated images that are not attacked.", "0")
    ] = None,
    clean_ce_real: Annotated[float | None, _loss("Weight of the CE of real images that are not attacked.", "0")] = None,
    clean_ce_generated: Annotated[
        float | None, _loss("Weight of the CE of generated images that are not attacked.", "0")
    ] = None,
    ema: Annotated[
        float | None, _loss("Keep a moving average of the weights with this decay, e.g. 0.999.", "off")
    ] = None,
    ema_warmup: Annotated[
        bool | None,
        _loss("Average over few iterations at first: decay (1+n)/(10+n).", "off", "--ema-warmup/--no-ema-warmup"),
    ] = None,
    real_steps: Annotated[int | None, _attack("Attack steps on real images.", "4")] = None,
    real_step_size: Annotated[float | None, _attack("Length of an attack step on real images.", "0.25")] = None,
    real_eps: Annotated[float | None, _attack("Radius of the ball around a real image.", "1")] = None,
    real_start: Annotated[
        float | None, _attack("Start the attack on real images at random in a ball of this radius.", "0")
    ] = None,
    generated_steps: Annotated[int | None, _attack("Attack steps on generated images at the start.", "1")] = None,
    generated_step_size: Annotated[
        float | None, _attack("Length of an attack step on generated images.", "0.1")
    ] = None,
    generated_eps: Annotated[
        float | None, _attack("Radius of the ball around a generated image; inf for none.", "10")
    ] = None,
    generated_stop: Annotated[
        str | None,
        _attack("When a generated image stops: pair, once rated above its attacked real image; or never.", "pair"),
    ] = None,
    generated_max_steps: Annotated[int | None, _attack("Most attack steps on generated images.", "no limit")] = None,
    grow_every: Annotated[
        int | None, _attack("Iterations between increments of the attack steps on generated images.", "1000")
    ] = None,
    grow_auc: Annotated[
        float | None,
        _attack(
            "Instead of --grow-every: add a step when the AUC of real against attacked images reaches this.", "off"
        ),
    ] = None,
    grow_images: Annotated[
        int | None, _attack("Real images over which --grow-auc averages the AUC, in whole batches.", "1000")
    ] = None,
    iterations: Annotated[int | None, _optimizer("Optimizer steps.", "10000")] = None,
    batch_size: Annotated[
        int | None,
        _optimizer("Real images per step over all processes, and as many generated ones.", "64", "-b", "--batch-size"),
    ] = None,
    accumulate: Annotated[int | None, _optimizer("Gradient accumulation: batches per step and process.", "1")] = None,
    optimizer: Annotated[str | None, _optimizer("Optimizer: adamw, adam or sgd.", "adamw")] = None,
    learning_rate: Annotated[
        float | None, _optimizer("Peak learning rate.", "0.001", "--learning-rate", "--lr")
    ] = None,
    momentum: Annotated[float | None, _optimizer("Momentum of sgd.", "0.9")] = None,
    nesterov: Annotated[bool | None, _optimizer("Nesterov momentum of sgd.", "off", "--nesterov/--no-nesterov")] = None,
    weight_decay: Annotated[float | None, _optimizer("Weight decay.", "0.0001")] = None,
    schedule: Annotated[str | None, _optimizer("Learning-rate schedule: cosine, step or constant.", "cosine")] = None,
    warmup: Annotated[int | None, _optimizer("Iterations over which the learning rate rises.", "0")] = None,
    milestones: Annotated[
        str | None, _optimizer("Iterations at which the step schedule lowers the learning rate, e.g. 300,450.", "none")
    ] = None,
    gamma: Annotated[
        float | None, _optimizer("Factor applied to the learning rate at each of the --milestones.", "0.1")
    ] = None,
    clip: Annotated[float | None, _optimizer("Clip the gradient to this norm.", "off")] = None,
    dtype: Annotated[str | None, _machine("Network precision: fp32, bf16 or fp16 (mixed precision).", "fp32")] = None,
    compile: Annotated[
        bool | None, _machine("Compile the gradient that the attacks use.", "off", "--compile/--no-compile")
    ] = None,
    device: Annotated[str | None, _machine("Device: auto, cpu or cuda.", "auto")] = None,
    deterministic: Annotated[
        bool | None, _machine("Use deterministic kernels on a GPU.", "on", "--deterministic/--no-deterministic")
    ] = None,
    seed: Annotated[
        int | None, _machine("Seed of the initial weights, the image order and the augmentation.", "0")
    ] = None,
    log_every: Annotated[int | None, _watch("Iterations between lines of log.jsonl.", "10")] = None,
    validate_every: Annotated[
        int | None, _watch("Iterations between validations, grids and checkpoints.", "500")
    ] = None,
    save_every: Annotated[int | None, _watch("Iterations between saved states for --resume.", "500")] = None,
    keep_at: Annotated[
        str | None,
        _watch("Iterations whose checkpoints are kept beside the last and the best, e.g. 1000,4000; or none.", "none"),
    ] = None,
    log_with: Annotated[
        str | None, _watch("Trackers: tensorboard, wandb, both with a comma, or none.", "tensorboard")
    ] = None,
    boost_steps: Annotated[int | None, _watch("Boosting steps in validation.", "15")] = None,
    boost_step_size: Annotated[float | None, _watch("Length of a boosting step in validation.", "0.1")] = None,
    boost_objective: Annotated[
        str | None, _watch("Objective of the boosting in validation, as in jboost boost.", "joint")
    ] = None,
    debug: Debug = False,
) -> None:
    """Train a joint model by adversarial training (equations 7 to 10).

    Example: jboost train --real train/ --generated samples.npz -o runs/joint --preset paper-rn50 --init robust.pt

    Then: jboost export --ckpt runs/joint/last.safetensors

    On several GPUs: accelerate launch --multi-gpu $(which jboost) train ...
    """
    flags = {name: value for name, value in locals().items() if name not in _NOT_FIELDS}
    flags["generated_weights"] = _floats(generated_weights, "--generated-weights")
    flags["keep_at"] = () if keep_at == "none" else split_numbers(keep_at, "--keep-at")
    flags["milestones"] = split_numbers(milestones, "--milestones")
    _run(flags, output, config, preset, resume=resume, trust_code=trust_code)


# Images per batch of the feature extractor.
_FEATURE_BATCH = 64

# Fields of the configuration that name a file or a folder besides the training sets.
_OTHER_INPUTS = ("validation_real", "validation_generated", "init", "features")
_NOT_FIELDS = frozenset({"output", "preset", "config", "resume", "trust_code", "debug"})


def _floats(text: str | None, option: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        from jboost.engine.errors import BadInputError

        raise BadInputError(f"{option} takes numbers separated by commas, e.g. 2,1; got {text!r}") from None


def _check_early(flags: Mapping[str, Any], out: Path, file: Path | None, preset: str | None) -> None:
    """Refuse what can be refused without torch, which takes seconds to import, in the words of the code that comes later."""
    from jboost.engine.errors import BadInputError
    from jboost.trainer.presets import find_preset

    find_preset(preset)
    if (device := flags["device"]) not in (None, "auto", "cpu", "cuda"):
        raise BadInputError(f"--device must be 'auto', 'cpu' or 'cuda', got {device!r}")
    if file is None and not out.exists():  # else a configuration may name the sets
        for field in ("real", "generated"):
            if not flags[field]:
                raise BadInputError(f"no {field} images are given; give --{field} PATH")
    check_early(samples=[Path(path) for path in flags["generated"] or ()])


def _run(
    flags: Mapping[str, Any], out: Path, file: Path | None, preset: str | None, *, resume: bool, trust_code: bool
) -> None:
    from jboost.engine.errors import BadInputError

    check_paths(inputs={"--config": file}, folders={"-o": out}, replaced=False)
    _check_early(flags, out, file, preset)
    try:
        import accelerate  # noqa: F401
        import pydantic  # noqa: F401
    except ModuleNotFoundError as e:
        raise BadInputError(
            f"training needs {e.name}, which is not installed; install it: pip install accelerate pydantic tensorboard"
        ) from e
    from jboost.engine.system.commands import remove_folder
    from jboost.engine.system.locks import check_no_writer
    from jboost.trainer.config import resolve_config
    from jboost.trainer.prepare import open_data
    from jboost.trainer.presets import preset_remarks
    from jboost.trainer.run import read_stored, train
    from jboost.trainer.start import check_sizes, described, initial_model

    if os.environ.get("RANK", "0") == "0":  # the first process holds the lock, so the others must not ask
        check_no_writer(out)
    stored = read_stored(out)
    if stored is not None and not resume:
        raise BadInputError(
            f"{out} holds a run; continue it with --resume, choose another -o, or delete it with: {remove_folder(out)}"
        )
    config = resolve_config(flags, file=file, preset=preset, stored=None if stored is None else stored.model_dump())
    generated = {f"--generated {i}": Path(path) for i, path in enumerate(config.generated, 1)}
    others = {f"--{name.replace('_', '-')}": if_path(getattr(config, name)) for name in _OTHER_INPUTS}
    check_paths(inputs={"--real": Path(config.real), **generated, **others}, folders={"-o": out}, replaced=False)
    notes = console(stderr=True)
    notes.quiet = os.environ.get("RANK", "0") != "0"  # only the first process prints notes

    def say(note: str) -> None:
        notes.print(note, style="dim")

    if config.batch_norm == "frozen" and config.init is None and stored is None:
        say(
            "BatchNorm keeps mean 0 and variance 1: --batch-norm frozen without --init; give --init, or --batch-norm train"
        )
    for remark in preset_remarks(config.preset, init=config.init, keep_at=config.keep_at, iterations=config.iterations):
        say(remark)
    data, classes = open_data(config, decode=config.check_images and stored is None, say=say)
    model, info = initial_model(
        arch=config.arch,
        num_classes=classes,
        in_channels=data.real.shape[3],
        normalize=config.normalize,
        seed=config.seed,
        loaded=None if config.init is None else _load(config, notes),
        reset_head=config.reset_head,
    )
    check_sizes(model, info, (data.real.shape[1], data.generated.shape[1]))
    info = described(info, class_names=data.real.class_names, resolution=data.generated.shape[1])
    with _Bar(config, out, notes, trust_code) as bar:
        finished = train(config, model, info, data, out, resume=resume, hooks=bar.hooks(say))
    if finished is not None:
        _show(finished, config.boost_objective)


def _load(config: TrainConfig, notes: Console) -> tuple[JointModel, ModelInfo]:
    from jboost.export.checkpoints.load import load_checkpoint

    assert config.init is not None
    loaded = load_checkpoint(config.init, arch=config.arch, normalization=config.normalize)
    for note in loaded.notes:
        notes.print(note, style="dim")
    return loaded.model, loaded.info


def _frechet(spec: str, device: str, trust_code: bool) -> Frechet:
    """Return a function: Fréchet distance between two sets of images, by the feature extractor `spec`."""
    import torch

    from jboost.evaluation.extractors.open import open_extractor
    from jboost.evaluation.metrics.frechet import Frechet as Distance
    from jboost.evaluation.metrics.moments import Moments, RunningMoments

    extractor = open_extractor(spec, device, trust_code=trust_code)

    def moments(images: NDArray[np.uint8]) -> Moments:
        running = RunningMoments()
        for start in range(0, len(images), _FEATURE_BATCH):
            running.add(torch.from_numpy(extractor(images[start : start + _FEATURE_BATCH]).features))
        return running.finish()

    return lambda real, images: Distance(moments(real))(moments(images))


class _Bar:
    """The progress bar, and the notes and grids of validations."""

    def __init__(self, config: TrainConfig, out: Path, notes: Console, trust_code: bool):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._config, self._out, self._notes, self._trust_code = config, out, notes, trust_code
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[seen]}"),
        )
        self._bar = Progress(*columns, console=notes, transient=True, disable=not is_terminal(sys.stderr))
        self._task = self._bar.add_task("training", total=config.iterations, seen="")

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def hooks(self, say: Any) -> Any:
        from jboost.trainer.watch import Hooks

        features = self._config.features
        frechet = None if features is None else _frechet(features, self._config.device, self._trust_code)
        return Hooks(say=say, on_log=self._on_log, on_validation=self._on_validation, frechet=frechet)

    def _on_log(self, iteration: int, figures: Mapping[str, float]) -> None:
        seen = (
            f"loss {figures['loss']:.2f}, robust {figures['robust_accuracy']:.0%}, realness {figures['realness_real']:.2f} real "
            f"{figures['realness_generated']:.2f} generated, {figures['attack_steps']:.1f} steps"
        )
        self._bar.update(self._task, completed=iteration, seen=seen)

    def _on_validation(self, iteration: int, validated: Validated) -> None:
        from jboost.grid import draw_grid, pick_evenly

        v = validated.figures
        self._notes.print(
            f"{iteration:,}: loss {v.loss:.3f}, accuracy {v.accuracy:.1%}, robust {v.robust_accuracy:.1%}, realness "
            f"{v.realness_real:.2f} real, {v.realness_generated:.2f} generated, {v.realness_boosted:.2f} boosted"
            + ("" if v.frechet_boosted is None else f", Fréchet {v.frechet_generated:.2f} -> {v.frechet_boosted:.2f}")
        )
        picks = pick_evenly(validated.labels, len(validated.labels))
        rows = [("generated", validated.generated[picks]), ("boosted", validated.boosted[picks])]
        folder = self._out / "grids"
        folder.mkdir(exist_ok=True)
        with replacing(folder / f"{iteration:06d}.png") as aside:
            draw_grid(rows, [str(validated.labels[i]) for i in picks]).save(aside, "PNG")


def _show(finished: Finished, objective: str) -> None:
    from jboost.engine.system.commands import in_shell

    # By default an export writes the graph of the objective joint alone.
    export = f"jboost export --ckpt {in_shell(finished.last)}" + (
        "" if objective == "joint" else f" --objective {objective}"
    )
    print_columns(
        [
            ("iterations", f"{finished.iterations:,}"),
            ("l0", f"{finished.l0:.3f}"),
            ("last", str(finished.last)),
            ("best", str(finished.best)),
            ("next", export),
        ]
    )
