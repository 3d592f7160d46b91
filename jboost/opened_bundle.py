"""A bundle and the engine that it is opened for: opening, closing, one run through the slots, and its summary."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from jboost.engine.backends.engine import Engine
from jboost.engine.backends.registry import default_batch, find_engine
from jboost.engine.backends.request import RunRequest
from jboost.engine.errors import BadInputError
from jboost.engine.loop.pipeline import Reader
from jboost.engine.loop.run import ProgressCallback, run_set
from jboost.engine.loop.runner import Runner
from jboost.engine.method.rounding import why_nothing_moves
from jboost.engine.method.settings import Settings
from jboost.engine.results.store import Store
from jboost.engine.results.summary import Summary
from jboost.engine.samples import check_fit
from jboost.engine.system.devices import DeviceName
from jboost.engine.system.dtypes import check_dtype
from jboost.opening import open_bundle, open_runner
from jboost.out_of_memory import out_of_memory

_log = logging.getLogger("jboost")


class OpenedBundle:
    """A bundle and at most one open engine; as a context manager it frees the device's memory.

    The arguments are those of `jboost.booster.Booster`.
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
