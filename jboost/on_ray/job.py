"""What a worker on another machine needs to know: plain values, which travel."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jboost.booster import Booster
from jboost.engine.errors import FailureError
from jboost.engine.method.settings import Settings
from jboost.shard_work import ShardRun


@dataclass(frozen=True)
class Job:
    """A run over shards, as the command line states it.

    Attributes:
        run: the shards and how to make them. Its paths are those of `folder`.
        bundle: the bundle's folder.
        device, dtype, trust_code: as for `Booster`.
        update: name of the update as the user typed it; None: the preset's or the default.
        values: values of the update's fields.
        method: the arguments `objective`, `l0`, `early_stop`, `seed`, `rounding` and `labels` of `Booster.settings`.
        preset: name of the preset.
        folder: the folder in which the command runs. All machines share it.
    """

    run: ShardRun
    bundle: str
    device: str = "auto"
    dtype: str = "fp32"
    trust_code: bool = False
    update: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    method: Mapping[str, Any] = field(default_factory=dict)
    preset: str | None = None
    folder: str = field(default_factory=os.getcwd)

    def enter(self) -> None:
        """Make the command's folder this process's.

        Raises:
            FailureError: this machine does not have it.
        """
        try:
            os.chdir(self.folder)
        except OSError as e:
            import socket

            raise FailureError(
                f"{socket.gethostname()} has no folder {self.folder} ({e.strerror}); run the command in a folder that all machines "
                "of the cluster share under the same path"
            ) from e

    def open(self, engine: str, batch_size: int | None) -> Booster:
        """The bundle, opened."""
        return Booster(
            self.bundle, engine=engine, device=self.device, dtype=self.dtype, batch_size=batch_size,
            trust_code=self.trust_code,
        )  # fmt: skip

    def settings(self, booster: Booster) -> Settings:
        """The settings of the run. Loads an update from outside jboost."""
        from jboost.engine.method.plugins import find_update_name
        from jboost.engine.method.settings import find_preset, make_update

        preset = find_preset(self.preset)
        update = self.update
        if update is not None:
            update = find_update_name(update, trust_code=self.trust_code)
        how = make_update(preset, update=update, **self.values)
        return booster.settings(how, preset=preset, **self.method)
