"""The Python API: a bundle opened for one engine, which boosts arrays and files."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from jboost.calibration import calibrated, probe_of
from jboost.classes import climbed_classes
from jboost.conversion import Range, class_labels, image_numbers, take
from jboost.engine.backends.engine import Engine
from jboost.engine.backends.registry import default_batch, find_engine
from jboost.engine.backends.request import RunRequest
from jboost.engine.errors import BadInputError
from jboost.engine.loop.pipeline import Reader
from jboost.engine.loop.run import ProgressCallback, run_set
from jboost.engine.loop.runner import Runner
from jboost.engine.method.auto_step import find_first_step
from jboost.engine.method.labels import check_not_debiased
from jboost.engine.method.plugins import find_objective
from jboost.engine.method.rounding import NEAREST, why_nothing_moves
from jboost.engine.method.settings import Preset, Settings, resolve_settings
from jboost.engine.method.updates import PGD, Update
from jboost.engine.results.identity import partial_folder, run_identity
from jboost.engine.results.moved import warn_if_little_moved
from jboost.engine.results.run_file import write_run
from jboost.engine.results.store import DiskStore, MemoryStore, Store, check_snapshots, check_unfinished
from jboost.engine.results.summary import RECORD, Summary
from jboost.engine.samples import (
    ReadOptions,
    SampleSet,
    check_fit,
    check_labels,
    check_output,
    labels_of,
    snapshot_output,
    write_samples,
)
from jboost.engine.samples.naming import LOSSY_TEXT
from jboost.engine.samples.numbers import KEYED, sample_numbers
from jboost.engine.samples.options import AS_IT_IS
from jboost.engine.system.devices import DeviceName
from jboost.engine.system.dtypes import check_dtype
from jboost.engine.system.locks import only_writer
from jboost.opening import open_bundle, open_runner
from jboost.out_of_memory import out_of_memory
from jboost.streaming import Source, boosted_stream

_log = logging.getLogger("jboost")


@dataclass(frozen=True)
class Boosted:
    """Result of boosting.

    Attributes:
        images: of the input's kind and order; uint8 [N, H, W, C] for uint8 arrays.
        summary: the run in numbers.
        records: structured [N], one per image: steps taken, realness before and after, ...; see
            `jboost.engine.results.summary.RECORD`.
        snapshots: by step count, the images after that many steps, of the same kind.
        notes: what was assumed about the images and rounded, a line each.
    """

    images: Any
    summary: Summary
    records: np.ndarray[Any, Any] = field(repr=False)
    snapshots: Mapping[int, Any] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()


class Booster:
    """A bundle opened for one engine. `jboost.load` makes one; as a context manager it frees the device's memory.

    Args:
        bundle: the bundle's folder.
        engine: ``"compile"``, ``"eager"``, ``"onnx"``, ``"trt"`` or ``"auto"``. ``"auto"`` picks the fastest engine that
            runs here and that the bundle has the graph for, by the times measured at export or in a trial of two
            seconds. It logs the choice and the reason to ``"jboost"``. ``"compile"`` compiles what the bundle lacks and
            keeps it in the cache.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        dtype: precision of the network: ``"fp32"``, ``"fp16"`` or ``"bf16"``. The iterate is always float32.
        batch_size: images in flight; None: that of the compiled package or TensorRT plan, else 32 on a CPU and 256 on a
            GPU. It does not change the results.
        trust_code: run the bundle's code (forward program, compiled packages, TensorRT plans), whoever made it. A bundle
            that you exported, or ran `jboost trust` on, needs no such word. Others run from ONNX graphs and weights alone.

    Raises:
        BadInputError: no such bundle, engine or dtype, or `batch_size` is below 1, or `device` is no
            device name. The first run checks that the device is here.
    """

    def __init__(
        self,
        bundle: str | Path,
        *,
        engine: str = "auto",
        device: str = "auto",
        dtype: str = "fp32",
        batch_size: int | None = None,
        trust_code: bool = False,
    ):
        check_dtype(dtype)
        DeviceName.parse(device)
        if batch_size is not None and batch_size < 1:
            raise BadInputError(f"batch size must be at least 1, got {batch_size}")
        self._engine = find_engine(engine)
        self.bundle = open_bundle(bundle, trust_code=trust_code)
        self._device, self._dtype, self._batch_size, self._trust_code = device, dtype, batch_size, trust_code
        self._runner: Runner | None = None
        self._bound: tuple[RunRequest, str] | None = None
        self._failed: dict[str, str] = {}
        self._stream: object | None = None  # of the `boost_iter` under way

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the engine and its memory."""
        if self._runner is not None:
            self._runner.__exit__(None, None, None)
        self._runner = self._bound = self._stream = None

    def settings(
        self,
        update: Update | None = None,
        *,
        objective: str | None = None,
        l0: float | None = None,
        early_stop: bool | None = None,
        seed: int = 0,
        preset: Preset | None = None,
        rounding: str = NEAREST,
        labels: str | None = None,
        step_size: str | None = None,
        first_step: float | None = None,
    ) -> Settings:
        """Resolve the settings of a run: l0 from the bundle unless given, and the defaults that depend on l0.

        `labels` is ``"given"``, ``"predicted"`` or ``"debiased"``; None: the set's labels if there are any, else predictions.
        The step size of ``step_size="auto"`` follows when a run begins. The other arguments are those of `boost`.
        """
        l0 = self.bundle.config.l0 if l0 is None else l0
        if objective is not None:
            objective = find_objective(objective, trust_code=self._trust_code)
        settings = resolve_settings(
            update or PGD(), objective=objective, l0=l0, early_stop=early_stop, seed=seed, preset=preset, rounding=rounding,
            labels=labels,
        )  # fmt: skip
        return replace(settings, first_step=find_first_step(settings.update, step_size, first_step))

    def boost(
        self,
        images: Any,
        labels: Any = None,
        update: Update | None = None,
        *,
        objective: str | None = None,
        l0: float | None = None,
        early_stop: bool | None = None,
        seed: int = 0,
        preset: Preset | None = None,
        value_range: Range | None = None,
        layout: str | None = None,
        numbers: Any = None,
        step_size: str | None = None,
        first_step: float | None = None,
        snapshots: Sequence[int] = (),
        rounding: str = NEAREST,
        on_progress: ProgressCallback | None = None,
    ) -> Boosted:
        """Make images look more real.

        Args:
            images: uint8 [N, H, W, C], or any other kind that `jboost.conversion.take` reads: float arrays, torch tensors,
                lists of PIL images; of the bundle's resolution and channels.
            labels: integers [N], each image's class: array, tensor or list; ``"predicted"`` or None: the model's prediction
                (algorithm 1); ``"debiased"``: argmax of f + 1 - mean f over these images, for generators without classes.
            update: `PGD` (the default: 15 steps of 0.1), `SGLD`, or another registered update.
            objective: ``"logit"``, ``"ce"``, ``"bce"``, ``"ce-bce"``, ``"joint"`` ``"energy"``, one of an installed
                package, or ``"FILE.py:NAME"`` with `trust_code`; None: ``"joint"`` if l0 is known, else ``"bce"``.
            l0: mean realness of real images; None: the bundle's.
            early_stop: whether an image stops once its realness reaches l0; None: on for ``"joint"``.
            seed: seed of SGLD's noise.
            preset: gives defaults for `objective` and `early_stop`, and for `labels` if that is None.
            value_range: lowest and highest value of float images; None: told by the values, see `jboost.conversion.take`.
            layout: ``"NHWC"`` or ``"NCHW"``; None: told by the channels.
            numbers: whole numbers [N] in [0, 2^63) that key the noise, with the seed: an image keeps its noise wherever it
                stands; None: positions, from 0.
            step_size: ``"auto"`` sets the step size of an update that scales with the gradient (`SGLD`) by the gradients of at
                most 128 of the images; None: the update's own.
            first_step: mean length of the first step with ``"auto"``, in grey levels: the root mean square of an image's
                changes; None: `jboost.engine.method.auto_step.DEFAULT_FIRST_STEP`.
            snapshots: step counts; for each, the result also has the images that a run of that many steps would give.
            rounding: how levels are made: ``"nearest"``, or ``"floor"`` as the released script does.
            on_progress: called again and again with the `jboost.engine.loop.run.Progress` of the run.

        Returns:
            The images in the input's kind and order, and the run's figures. The engines start from 8 bits: float images are
            rounded to 256 levels, which `Boosted.notes` says. An image that does not change comes back bit for bit.

        Raises:
            BadInputError: the images, labels or options cannot be used.
        """
        given = take(images, channels=self.bundle.config.in_channels, value_range=value_range, layout=layout)
        images = given.images
        asked, labels = (labels, None) if isinstance(labels, str) else (None, labels)
        if labels is not None:
            labels = check_labels("labels", class_labels(labels), len(images))
        self._check_fit(labels, images.shape)
        if numbers is not None:
            numbers = image_numbers(numbers, len(images))
        settings = self.settings(
            update, objective=objective, l0=l0, early_stop=early_stop, seed=seed, preset=preset, rounding=rounding,
            labels=asked, step_size=step_size, first_step=first_step,
        )  # fmt: skip
        if labels is not None:  # they win over the preset
            settings = replace(settings, labels=None)
        store = MemoryStore(images.shape, check_snapshots(snapshots, settings.update.steps))
        runner = self._open_runner(settings, images.shape[1], self._engine)
        runner.check_update(settings.update.kind)
        start = perf_counter()
        read: Reader = images.__getitem__
        climbed = climbed_classes(settings, labels, read, images.shape, bundle=self.bundle, device=self._device)
        settings = calibrated(runner, settings, [probe_of(read, climbed.labels, len(images))], self._slots(runner))
        finished, batch_size = self._run(
            runner, settings, read, images.shape[1:], climbed.labels, store, on_progress, numbers
        )
        summary = self._summary(
            runner, settings, store, labelled=labels is not None, finished=finished, batch_size=batch_size,
            seconds=perf_counter() - start,
        )  # fmt: skip
        warn_if_little_moved(summary.to_dict(), math.prod(images.shape[1:]))
        taken_images = {step: given.back(kept.images) for step, kept in store.snapshots.items()}
        return Boosted(given.back(store.images), summary, store.records, taken_images, given.notes)

    def boost_iter(
        self,
        chunks: Iterable[Any],
        update: Update | None = None,
        *,
        objective: str | None = None,
        l0: float | None = None,
        early_stop: bool | None = None,
        seed: int = 0,
        preset: Preset | None = None,
        value_range: Range | None = None,
        layout: str | None = None,
        numbers: Iterable[int] | None = None,
        ordered: bool = True,
        rounding: str = NEAREST,
        labels: str | None = None,
    ) -> Iterator[Any]:
        """Boost a stream of images; images of later chunks enter as earlier ones leave, so the slots stay full.

        The results are those of `boost` on all chunks put together, to the bit. The chunks are read in the caller's thread,
        when slots are free and a result is asked for, so a chunk must not depend on results to come. Memory does not grow with
        the stream: at most 18 batches are read or held at a time, besides the chunks that they came in.

        Args:
            chunks: images of any kind that `boost` takes, or (images, labels), in chunks of any size; or single images. The
                kinds may differ.
            update, objective, l0, early_stop, seed, preset: as for `boost`.
            value_range: lowest and highest value of float images; None: told by the first chunk and kept to.
            layout: as for `boost`.
            numbers: for each image in the stream's order, the number that keys its noise, such as ``itertools.count(5000)``;
                read as the images are; None: positions in the stream.
            ordered: yield in the stream's order; False: yield (position, image) as images finish.
            rounding: as for `boost`.
            labels: ``"given"``: every chunk must have labels; ``"predicted"``: none are used; None: those given, else predictions.

        Yields:
            One image after another, each of its chunk's kind: an array [H, W, C], a tensor, a PIL image.

        Raises:
            BadInputError: the options cannot be used; or, while iterating, a chunk cannot, or another run of this `Booster` is
                under way. An error of `chunks` passes through.
        """
        settings = self.settings(
            update, objective=objective, l0=l0, early_stop=early_stop, seed=seed, preset=preset, rounding=rounding,
            labels=labels,
        )  # fmt: skip
        check_not_debiased(settings.labels, "a stream has no end to take it over; boost the images with jboost.boost")
        source = Source(chunks, self.bundle.config, value_range, layout, settings.labels)
        return self._streamed(source, settings, ordered, numbers)

    def _streamed(
        self, source: Source, settings: Settings, ordered: bool, numbers: Iterable[int] | None
    ) -> Iterator[Any]:
        mine = object()

        def opened(resolution: int) -> Runner:
            runner = self._open_runner(settings, resolution, self._engine)
            self._stream = mine
            return runner

        try:
            with closing(
                boosted_stream(source, settings, opened, self._slots, ordered=ordered, numbers=numbers)
            ) as images:
                for image in images:
                    yield image
                    if self._stream is not mine:
                        raise BadInputError("the Booster was closed before its boost_iter had finished; load it again")
        finally:
            if self._stream is mine:
                self._stream = None

    def boost_file(
        self,
        samples: SampleSet,
        out: Path,
        settings: Settings,
        *,
        numbers: np.ndarray[Any, Any] | None = None,
        resume: bool = False,
        snapshots: Sequence[int] = (),
        run_file: Path | None = None,
        lossy: bool = False,
        reading: ReadOptions = AS_IT_IS,
        on_progress: ProgressCallback | None = None,
    ) -> Summary:
        """Boost a sample set into a new file; memory does not grow with the set.

        While the run lasts, its results are in ``OUT.partial``. `out` is written atomically at the end. A second run into
        the same `out` is refused meanwhile.

        Args:
            samples: the input; see `jboost.engine.samples.open_samples`.
            out: the output; its suffix determines the format.
            settings: made by `settings`.
            numbers: int64 [N], the numbers that key the noise, as for `boost`; None: see
                `jboost.engine.samples.numbers.sample_numbers`.
            resume: continue a killed run.
            snapshots: step counts; `snapshot_output` names the file for the set that a run of that many steps would give.
            run_file: file for the per-image records; see `jboost.engine.results.run_file.write_run`.
            lossy: whether the input's JPEGs stay JPEGs; otherwise they become PNGs, and no pixel changes.
            reading: how `samples` was opened, which the file of records keeps.
            on_progress: called again and again with the `jboost.engine.loop.run.Progress` of the run.

        Returns:
            The run in numbers.

        Raises:
            BadInputError: the input, the output or the settings cannot be used; nothing is written.
        """
        start = perf_counter()
        config = self.bundle.config
        labels = labels_of(samples, class_names=config.class_names, num_classes=config.num_classes)
        self._check_fit(labels, samples.shape)
        if numbers is None and samples.kind in KEYED:
            numbers = sample_numbers(samples)
        snapshots = check_snapshots(snapshots, settings.update.steps)
        files = {step: snapshot_output(out, step) for step in snapshots}
        size = int(np.prod(samples.shape))
        # Room for two sets: the partial results, and the output written from them at the end.
        sets = (1 if partial_folder(out).exists() else 2) * size + samples.shape[0] * RECORD.itemsize
        if run_file is not None and run_file.resolve() in {p.resolve() for p in (samples.path, out, *files.values())}:
            raise BadInputError(f"--run {run_file} is the input or an output of this run; name another file")
        with only_writer(out, *files.values()):
            for path in (out, *files.values()):
                check_output(path, samples, bytes_needed=(1 + len(files)) * sets, lossy=lossy)
            # A run that cannot go on, and errors of the bundle or the device, must be noticed before anything is written.
            old = check_unfinished(out, resume=resume)
            # A resumed run keeps the engine that a trial picked: another engine may differ by a grey level.
            begun = str(old.get("engine")) if old is not None and self._engine is None else None
            runner = self._open_runner(settings, samples.shape[1], find_engine(begun) if begun else self._engine)
            runner.check_update(settings.update.kind)
            climbed = climbed_classes(
                settings, labels, samples.read, samples.shape, bundle=self.bundle, device=self._device, name=samples.path,
            )  # fmt: skip
            settings = calibrated(
                runner,
                settings,
                [probe_of(samples.read, climbed.labels, samples.shape[0])],
                self._slots(runner),
                begun=old,
            )
            identity = run_identity(
                settings, fingerprint=samples.fingerprint, images=samples.shape[0], bundle=self.bundle.digest,
                engine=runner.name, dtype=runner.dtype, snapshots=snapshots, numbers=numbers,
                labels=climbed.identity,
            )  # fmt: skip
            store = DiskStore(out, samples.shape, identity, resume=resume, snapshots=snapshots)
            try:
                finished, batch_size = self._run(
                    runner, settings, samples.read, samples.shape[1:], climbed.labels, store, on_progress, numbers
                )
                for step, taken in store.snapshots.items():
                    write_samples(
                        files[step], samples.shape, taken.batches(), labels=labels, source=samples, lossy=lossy
                    )
                # After the snapshots: if the output exists, so do they.
                write_samples(out, samples.shape, store.batches(), labels=labels, source=samples, lossy=lossy)
                summary = self._summary(
                    runner, settings, store, labelled=labels is not None, finished=finished, batch_size=batch_size,
                    seconds=perf_counter() - start, files=files, redone=store.redone,
                    lossy=LOSSY_TEXT if lossy else None,
                )  # fmt: skip
                warn_if_little_moved(summary.to_dict(), math.prod(samples.shape[1:]))
                if run_file is not None:
                    model = {"architecture": config.architecture, "sha256": config.source["sha256"]}
                    write_run(
                        run_file, store.records, summary.to_dict(), samples=samples.path, boosted=out,
                        class_names=config.class_names, model=model, reading=reading,
                    )  # fmt: skip
            finally:
                store.close()
            store.remove()
        return summary

    def open_for(self, settings: Settings, resolution: int) -> tuple[Runner, int, Mapping[str, str]]:
        """Open the engine for a run of many sets; it stays open until another run or `close`.

        Args:
            settings: made by `settings`.
            resolution: image size in pixels.

        Returns:
            The engine, the number of images in flight, and by name why faster engines were passed over.

        Raises:
            BadInputError: the engine cannot be used.
        """
        if (why := why_nothing_moves(settings.update)) is not None:
            _log.warning(why)
        runner = self._open_runner(settings, resolution, self._engine)
        runner.check_update(settings.update.kind)
        return runner, self._slots(runner), self._failed

    def _check_fit(self, labels: np.ndarray[Any, Any] | None, shape: tuple[int, ...]) -> None:
        config = self.bundle.config
        check_fit(
            labels, shape, num_classes=config.num_classes, in_channels=config.in_channels, resolutions=config.resolutions
        )  # fmt: skip

    def _open_runner(self, settings: Settings, resolution: int, engine: Engine | None) -> Runner:
        if self._stream is not None:
            raise BadInputError(
                "a boost_iter of this Booster is not finished; exhaust or close() it first, or load a second Booster"
            )
        request = RunRequest(settings.objective, settings.l0, resolution, self._device, self._dtype, self._batch_size)
        # The fastest engine may have no step for another update.
        wanted = request, engine.name if engine else f"auto, {settings.update.kind}"
        if self._runner is None or self._bound != wanted:
            self.close()
            try:
                self._runner, self._failed = open_runner(self.bundle, request, engine, settings.update.kind)
            finally:
                self.bundle.check_unreplaced()  # else files may be missing, or another bundle's
            self._bound = wanted
        return self._runner

    def _slots(self, runner: Runner) -> int:
        """The number of images in flight, unless a set has fewer and the runner takes any number."""
        return runner.batch_size or self._batch_size or default_batch(runner.device)

    def _run(
        self,
        runner: Runner,
        settings: Settings,
        read: Reader,
        shape: tuple[int, int, int],
        labels: np.ndarray[Any, Any] | None,
        store: Store,
        on_progress: ProgressCallback | None,
        numbers: np.ndarray[Any, Any] | None = None,
    ) -> tuple[int, int]:
        """Boost the remaining images; returns the number of images finished and the batch size used."""
        if (why := why_nothing_moves(settings.update)) is not None:
            _log.warning(why)
        batch_size = self._slots(runner)
        if runner.batch_size is None:
            batch_size = min(batch_size, len(store.records))
        remedy = f"continue with a smaller batch: --resume -b {batch_size // 2}"
        if batch_size == 1:
            remedy = "free the GPU's memory, or continue with --resume --device cpu"
        with out_of_memory(batch_size, remedy):
            done = run_set(
                runner, read, labels, store, settings, shape=shape, batch_size=batch_size, numbers=numbers,
                on_progress=on_progress,
            )  # fmt: skip
        return done, batch_size

    def _summary(
        self,
        runner: Runner,
        settings: Settings,
        store: Store,
        *,
        labelled: bool,
        finished: int,
        batch_size: int,
        seconds: float,
        files: Mapping[int, Path] = MappingProxyType({}),
        redone: int = 0,
        lossy: str | None = None,
    ) -> Summary:
        return Summary.of_run(
            settings, np.asarray(store.records), labelled=labelled, engine=runner.name, dtype=runner.dtype,
            device=runner.device, batch_size=batch_size, finished=finished, seconds=seconds, redone=redone, lossy=lossy,
            engines_failed=self._failed,
            snapshots={step: kept.records for step, kept in store.snapshots.items()}, files=files,
        )  # fmt: skip
