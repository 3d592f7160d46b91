"""Runs as `jboost boost --run` leaves them, and the page made of one taken apart."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from jboost.engine.results.run_file import write_run
from jboost.engine.results.summary import RECORD, Summary, image_means

NAMES = ["<script>alert(1)</script>", 'b & "c"', "plain"]


def make_run(
    folder: Path,
    *,
    count: int = 60,
    size: int = 16,
    labelled: bool = True,
    steps: int = 20,
    names: list[str] | None = NAMES,
    snapshots: tuple[int, ...] = (1, 5),
    stem: str = "samples",
    noise: bool = False,
) -> SimpleNamespace:
    """A run as `jboost boost --run` leaves it, with some images stopped early, retried, failed and unmoved."""
    rng = np.random.default_rng(3)
    cell = 1 if noise else 4
    before = (
        rng.integers(0, 200, (count, size // cell, size // cell, 3)).repeat(cell, 1).repeat(cell, 2).astype(np.uint8)
    )
    change = rng.integers(-40, 41, before.shape) * rng.random((count, 1, 1, 1))
    change[[3, 4, 7]] = 0
    after = (before + change).clip(0, 255).round().astype(np.uint8)
    labels = rng.integers(0, len(NAMES), count)
    records = np.zeros(count, RECORD)
    records["done"] = True
    records["steps"] = rng.integers(0, steps + 1, count)
    records["stopped"] = records["steps"] < steps
    records["retried"][[3, 9]] = records["failed"][[3, 4]] = True
    records["realness_before"] = rng.gamma(1, 0.2, count)
    records["realness_after"] = rng.gamma(9, 0.3, count)
    records["correct_before"], records["correct_after"] = rng.random((2, count)) < [[0.6], [0.9]]
    records["l2"] = np.sqrt((((after.astype(float) - before) / 255) ** 2).sum((1, 2, 3)))
    folder.mkdir(exist_ok=True)
    samples, boosted = folder / f"{stem}.npz", folder / f"{stem}.boosted.npz"
    given = (labels,) if labelled else ()
    np.savez(samples, before, *given)
    np.savez(boosted, after, *given)
    taken = []
    for step in snapshots:
        file = folder / f"{stem}.boosted.step{step}.npz"
        np.savez(file, (before + change * step / steps).clip(0, 255).astype(np.uint8), *given)
        accuracy = 0.5 + step / 100 if labelled else None
        taken.append({"step": step, "file": str(file), "realness": 0.3 + step / 10, "accuracy": accuracy})
    summary = Summary(
        **image_means(records, labelled), steps=steps, seconds=12.5, images_per_second=4.8, engine="onnx", dtype="bf16",
        device="cpu", batch_size=32, update="pgd", step_size=0.15, eps=3.0, norm="l2",
        noise=None, objective="joint", l0=2.75, early_stop=True, seed=7,
        labels="given" if labelled else "predicted", peak_memory=2**28, snapshots=taken,
    ).to_dict()  # fmt: skip
    run = folder / "run.npz"
    write_run(
        run, records, summary, samples=samples, boosted=boosted, class_names=names,
        model={"architecture": "small_resnet8", "sha256": "0123456789abcdef" * 4},
    )  # fmt: skip
    return SimpleNamespace(
        run=run, samples=samples, boosted=boosted, before=before, after=after, labels=labels, records=records, summary=summary
    )  # fmt: skip


class Page(HTMLParser):
    """A page taken apart: tables by heading, thumbnails, links, texts."""

    def __init__(self, text: str):
        super().__init__()
        self.text = text
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.facts: dict[str, str] = {}
        self.captions: list[str] = []
        self.tooltips: list[str] = []
        self.items: list[str] = []
        self._open: list[str] = []
        self._heading = self._term = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag in ("meta", "link", "img", "input", "br"):
            return
        self._open.append(tag)
        if tag == "tr":
            self.tables.setdefault(self._heading, []).append([])
        elif tag in ("th", "td"):
            self.tables[self._heading][-1].append("")
        for kind, texts in (("figcaption", self.captions), ("title", self.tooltips), ("li", self.items)):
            if tag == kind:
                texts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        text, inside = " ".join(data.split()), self._open
        if not inside or not text:
            return
        if inside[-1] in ("h2", "h3"):
            self._heading = text
        elif inside[-1] == "dt":
            self._term = text
        elif inside[-1] == "dd":
            self.facts[self._term] = text
        elif "th" in inside or "td" in inside:
            self.tables[self._heading][-1][-1] += text
        elif "figcaption" in inside:
            self.captions[-1] += text + " "
        elif inside[-1] == "title":
            self.tooltips[-1] += text
        elif inside[-1] == "li":
            self.items[-1] += text

    def images(self, kind: str) -> dict[int, np.ndarray[Any, Any]]:
        """Images of one kind in the thumbnails, by index."""
        found = {}
        for tag, attributes in self.attributes:
            if tag == "img" and attributes["class"] == kind:
                index = int(re.search(r"image (\d+)", attributes["alt"] or "")[1])  # type: ignore[index]
                data = base64.b64decode((attributes["src"] or "").removeprefix("data:image/png;base64,"))
                found[index] = np.asarray(Image.open(io.BytesIO(data)))
        return found
