"""What reaches the terminal: names as they are, no escape sequences, no traceback, whatever becomes of stdout and stderr."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jboost.cli.failures import explained
from jboost.cli.progress import Bars
from jboost.cli.tables import print_columns, print_results
from jboost.cli.terminal import console, print_line
from jboost.engine.errors import printable

NAMES = ["out[1].npz", "[red]x.npz", "[/red].npz", "[link=file:a]x.npz", ":smile:.npz"]
HOSTILE = ["\x1b[31mred.npz", "\x1b]0;title\x07.npz", "a\rb.npz", "a\nb.npz", "\x9b2J.npz", "\u202ezpn.a", "a\x7f.npz"]


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "J": str(Path(sys.executable).with_name("jboost"))}
    return subprocess.run(["bash", "-c", line], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def is_one_line(text: str) -> bool:
    return (
        text.startswith("jboost: ")
        and text.count("\n") == 1
        and "Traceback" not in text
        and "this is a bug" not in text
    )


@pytest.mark.parametrize("name", [*NAMES, *HOSTILE])
def test_every_way_out_prints_a_name_as_it_is(capsys, name) -> None:
    print_line(name)
    print_line(name, stderr=True)
    print_columns([("path", name), (name, "b")])
    print_results([("a", name)], [(name,)], [name], stderr=False)
    notes = console(stderr=True)
    notes.print(name, style="dim")
    with notes.status(name) as status:
        status.update(name)
    out, err = capsys.readouterr()
    assert out.count(printable(name)) == 6
    assert err.count(printable(name)) >= 2
    assert not [c for c in out + err if c != "\n" and printable(c) != c]


def test_a_progress_bar_shows_a_name_as_it_is(monkeypatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Bars() as bars:
        bars.show("features of [/red]\x1b]0;t\x07.npz", 1, 2)
    text = sys.stderr.getvalue()
    assert "[/red]\\x1b]0;t\\x07.npz" in text
    assert "\x1b]0" not in text


def test_printable_leaves_ordinary_text_alone() -> None:
    for text in ("caf\u00e9", "\u4e2d\u6587", "a b", "Fr\u00e9chet 1 -> 2", "\u2013 \u2192", "\U0001f600"):
        assert printable(text) == text
    assert printable("\x1b\x85\u2028\udcff") == "\\x1b\\x85\\u2028\\udcff"


@pytest.mark.parametrize("name", [n for n in NAMES + HOSTILE[:3] if "/" not in n])
def test_the_command_names_such_a_file_in_one_line(tmp_path, jboost, name) -> None:
    (tmp_path / name).write_text("hello")
    done = jboost("inspect", name, cwd=tmp_path)
    assert done.returncode == 2
    assert is_one_line(done.stderr)
    assert printable(name) in done.stderr
    assert "\x1b" not in done.stderr


def test_a_set_with_brackets_in_its_name_is_described(tmp_path, installed, images, labels) -> None:
    np.savez(tmp_path / "out[1].npz", images, labels)
    done = installed("inspect", "out[1].npz", cwd=tmp_path)
    assert done.returncode == 0
    assert "out[1].npz" in done.stdout


def test_each_engine_that_was_passed_over_has_a_line(tmp_path, jboost, bundle, images, labels) -> None:
    np.savez(tmp_path / "x.npz", images, labels)
    done = jboost("boost", "x.npz", "--bundle", str(bundle), "--steps", "1", cwd=tmp_path)
    assert done.returncode == 0
    assert "\\x0a" not in done.stderr
    assert next(line[:9] for line in done.stderr.splitlines() if line.startswith("  not ")) == "  not trt"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("$J doctor > /dev/full", 1),
        ("$J doctor --json > /dev/full", 1),
        ("$J --help > /dev/full", 1),
        ("$J doctor >&-", 0),
        ("$J inspect none.npz 2>&-", 2),
        ("$J inspect none.npz <&- >&- 2>&-", 2),
        ("$J inspect none.npz 2> /dev/full", 2),
        ("$J doctor 2>&-", 0),
        ("{ $J doctor; echo $? > code; } | true; exit $(cat code)", 1),
        ("{ $J inspect none.npz; echo $? > code; } 2>&1 | true; exit $(cat code)", 2),
    ],
)
def test_streams_that_are_full_or_closed_end_in_no_traceback(tmp_path, line, code) -> None:
    done = shell(line, tmp_path)
    assert done.returncode == code, done.stderr
    assert not done.stderr or is_one_line(done.stderr)


def test_a_file_opened_after_stderr_was_closed_does_not_take_its_place(tmp_path, images, labels) -> None:
    code = (
        "import os, sys; from jboost.cli.terminal import open_closed_streams; open_closed_streams(); f = open('out', 'wb'); "
        "sys.exit(f.fileno() < 3)"
    )
    line = f'{sys.executable} -c "{code}" 2>&- >&- <&-'
    assert shell(line, tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("number", "remedy", "exit_code"),
    [
        (errno.ENOSPC, "free some space", 2),
        (errno.EACCES, "permissions", 2),
        (errno.ENOENT, "check the path", 2),
        (errno.EROFS, "can be written", 2),
        (errno.ENAMETOOLONG, "shorter", 2),
        (errno.EIO, "disk", 1),
        (errno.EINTR, "a.npz", 1),
    ],
)
def test_an_error_of_the_system_names_the_path_and_the_remedy(number, remedy, exit_code) -> None:
    found = explained(OSError(number, os.strerror(number), "a.npz"))
    assert found is not None
    assert found.exit_code == exit_code
    assert str(found).startswith("a.npz: ")
    assert remedy in str(found)


def test_missing_memory_is_a_failure_with_a_remedy() -> None:
    for error in (MemoryError("Unable to allocate 8 TiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        found = explained(error)
        assert found is not None
        assert found.exit_code == 1
        assert "out of memory" in str(found)
    assert explained(ValueError("a bug")) is None
    assert explained(OSError("no number: a library that does not load")) is None


def test_a_name_that_is_too_long_is_one_line(tmp_path, jboost) -> None:
    done = jboost("inspect", "a" * 300, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert is_one_line(done.stderr)
