"""Draw the result as a picture, one bar per contestant."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jboost.engine.errors import BadInputError
from jboost.engine.system.replacing import replacing

from .result import work_text

_COLOURS = {"baseline": "#9aa5b1", "engine": "#2563a8"}


def check_matplotlib() -> None:
    """Check that matplotlib is installed, before the work begins.

    Raises:
        BadInputError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise BadInputError("--plot draws with matplotlib, which is not installed; install it: pip install matplotlib")


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw milliseconds per image-step as horizontal bars, each with its ratio to eager float32.

    Args:
        result: see `jboost.bench.result`.
        path: the PNG to write.

    Raises:
        BadInputError: `path` cannot be written.
    """
    # Not pyplot: it looks for a screen and keeps every figure.
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = result["contestants"]
    figure = Figure(figsize=(9, 1.9 + 0.42 * len(rows)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    times = [c["ms_per_image_step"] for c in rows]
    places = range(len(rows))
    axes.barh(places, times, color=[_COLOURS[c["kind"]] for c in rows], height=0.65)
    # Error bars from the first to the third quartile around the median, the end of the bar.
    reach = [[c["ms_per_image_step"] - c["q1_ms"] for c in rows], [c["q3_ms"] - c["ms_per_image_step"] for c in rows]]
    axes.errorbar(times, places, xerr=reach, fmt="none", ecolor="#333333", elinewidth=1, capsize=3)
    for place, c in zip(places, rows, strict=True):
        text = f"{c['ms_per_image_step']:.3g} ms, {c['ratio']:.2f}x"
        axes.annotate(text, (c["q3_ms"], place), xytext=(8, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(places, [f"{c['name']} {c['dtype']}" for c in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * max(c["q3_ms"] for c in rows))  # room for the labels
    axes.set_xlabel("ms per image-step: median and quartiles, with the ratio to eager float32 autograd")
    axes.spines[["top", "right"]].set_visible(False)
    m, w = result["machine"], result["work"]
    where = m["gpu"] or f"{m['cpu']}, {m['threads']} thread{'' if m['threads'] == 1 else 's'}, {m['instruction_set']}"
    axes.set_title(f"{work_text(w)}\n{where}, torch {m['versions']['torch']}", fontsize=10, loc="left")
    # Below the axes, where the legend covers no bar.
    handles = [
        Patch(color=_COLOURS[kind], label=text) for kind, text in (("baseline", "plain PyTorch"), ("engine", "jboost"))
    ]
    figure.legend(handles=handles, loc="outside lower right", ncols=2, frameon=False, fontsize=9)
    try:
        with replacing(path) as aside:
            figure.savefig(aside, format="png")
    except OSError as e:
        raise BadInputError(f"--plot {path} cannot be written ({e.strerror or e}); give another path") from e
