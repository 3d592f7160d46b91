"""docs/architecture.md names the files that an image passes through, and the rest that takes part."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import indent

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def named(title: str) -> list[str]:
    """The files in the tables of a section."""
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [file for row in rows for file in re.findall(r"`([a-z_/]+\.py)`", row)]


def test_a_reader_follows_an_image_through_eighteen_files_at_most() -> None:
    path = named("The path")
    assert 10 < len(path) == len(set(path)) <= 18


def test_the_page_names_what_exists() -> None:
    files = {file for title in ("The path", "What the path calls on", "Other engines") for file in named(title)}
    assert [file for file in files if not (ROOT / file).is_file()] == []
    # The diagram shows the path, by whole names or a folder's.
    diagram = PAGE.split("```mermaid\n")[1].split("```")[0]
    assert [file for file in named("The path") if Path(file).name not in diagram] == []


def test_the_loop_that_the_docs_show_is_the_reference() -> None:
    shown = (ROOT / "docs" / "engine.md").read_text().split("```python\n")[1].split("```")[0]
    assert indent(shown, "    ") in (ROOT / "engine" / "loop" / "reference.py").read_text()


def test_what_runs_is_what_the_page_names(bundle, samples, tmp_path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    script, arguments = ROOT / "tests" / "support" / "traced.py", ["boost", samples, "--bundle", bundle]
    done = subprocess.run(
        [sys.executable, script, *arguments, "--engine", "onnx", "--device", "cpu", "--steps", "3"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ran = {Path(file) for file in json.loads(done.stdout.splitlines()[-1])}
    ours = {str(file.relative_to(ROOT)) for file in ran if file.is_relative_to(ROOT)}
    ours = {file for file in ours if file.split("/")[0] in ("engine", "export", "jboost", "trainer")}
    ours.discard("jboost/cli/train.py")  # builds its options whatever the command
    path, rest = set(named("The path")), set(named("What the path calls on"))
    assert path - ours == set(), "on the path, and not run"
    assert ours - path - rest == set(), "run, and not on the page"
