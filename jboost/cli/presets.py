"""``--preset list``: every preset with its values."""

from __future__ import annotations

import typer

from .tables import print_columns

#: Given instead of a preset's name.
LIST = "list"


def list_presets(value: str | None) -> str | None:
    """Print the presets and end, if `value` asks for that; a callback of the option."""
    if value == LIST:
        from jboost.engine.method.settings import PRESETS, Preset, make_update

        def row(name: str, preset: Preset) -> tuple[str, str, str]:
            update = make_update(preset)
            eps, noise = update.strengths().radius, update.strengths().noise
            values = [
                f"{update.name} {update.steps} x {update.step_size:.4g}",
                *([f"eps {eps:g}"] if eps < float("inf") else []),
                *([f"noise {noise:g}"] if noise else []),
                *([f"objective {preset.objective}"] if preset.objective else []),
                *(["no early stopping"] if preset.early_stop is False else []),
                *([f"labels {preset.labels}"] if preset.labels else []),
            ]
            return name, ", ".join(values), preset.about

        print_columns([("preset", "values", "for"), *(row(name, preset) for name, preset in PRESETS.items())])
        raise typer.Exit
    return value
