"""The Python API: a bundle opened for one engine, which boosts arrays and files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from time import perf_counter
from typing import Any

from jboost.boosted import Boosted
from jboost.calibration import calibrated
from jboost.classes import climbed_classes
from jboost.conversion import Range, class_labels, image_numbers, take
from jboost.engine.errors import BadInputError
from jboost.engine.loop.pipeline import Reader
from jboost.engine.loop.run import ProgressCallback
from jboost.engine.loop.runner import Runner
from jboost.engine.method.auto_step import check_not_auto, find_aim
from jboost.engine.method.labels import check_not_debiased
from jboost.engine.method.plugins import find_objective
from jboost.engine.method.rounding import NEAREST
from jboost.engine.method.settings import Preset, Settings, resolve_settings
from jboost.engine.method.updates import PGD, Update
from jboost.engine.results.moved import warn_if_little_moved
from jboost.engine.results.store import MemoryStore, check_snapshots
from jboost.engine.samples import check_labels
from jboost.file_boosting import FileBooster
from jboost.probing import probe_of
from jboost.streaming import Source, boosted_stream


class Booster(FileBooster):
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
        return replace(settings, **find_aim(settings.update, step_size, first_step)._asdict())

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
            step_size: ``"auto"`` sets the step size by the gradients of at most 128 of the images: that of `PGD` to the length
                over which the gradients keep their direction, that of `SGLD` to a length of the first step. None: the update's
                own.
            first_step: mean length of the first step with ``"auto"``, in grey levels: the root mean square of an image's
                changes; None: as above, `jboost.engine.method.auto_step.DEFAULT_FIRST_STEP` for `SGLD`.
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
        step_size: str | None = None,
        first_step: float | None = None,
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
            step_size, first_step: None; ``"auto"`` is refused with the way to a number, since a stream has no images to probe.

        Yields:
            One image after another, each of its chunk's kind: an array [H, W, C], a tensor, a PIL image.

        Raises:
            BadInputError: the options cannot be used; or, while iterating, a chunk cannot, or another run of this `Booster` is
                under way. An error of `chunks` passes through.
        """
        check_not_auto(update or PGD(), step_size, first_step)
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
