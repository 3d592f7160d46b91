"""Boosting a sample set into a file: what is checked, kept in the partial results, and written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from jboost.calibration import calibrated
from jboost.classes import climbed_classes
from jboost.engine.backends.registry import find_engine
from jboost.engine.errors import BadInputError
from jboost.engine.loop.run import ProgressCallback
from jboost.engine.method.settings import Settings
from jboost.engine.results.identity import partial_folder, run_identity
from jboost.engine.results.moved import warn_if_little_moved
from jboost.engine.results.run_file import write_run
from jboost.engine.results.store import DiskStore, check_snapshots, check_unfinished
from jboost.engine.results.summary import RECORD, Summary
from jboost.engine.samples import (
    ReadOptions,
    SampleSet,
    check_output,
    labels_of,
    snapshot_output,
    write_samples,
)
from jboost.engine.samples.naming import LOSSY_TEXT
from jboost.engine.samples.numbers import KEYED, sample_numbers
from jboost.engine.samples.options import AS_IT_IS
from jboost.engine.system.locks import only_writer
from jboost.opened_bundle import OpenedBundle
from jboost.probing import probe_of


class FileBooster(OpenedBundle):
    """An opened bundle that boosts files."""

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
