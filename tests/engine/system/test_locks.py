"""One writer at a time; a lock goes with its process."""

from __future__ import annotations

import errno
import re
import signal
from pathlib import Path

import pytest
from children import Child, together
from processes import wait_until

from jboost.engine.errors import BadInputError
from jboost.engine.system import locks
from jboost.engine.system.locks import check_no_writer, only_writer


def hold(target: Path, ready: Path) -> Child:
    """A process that writes `target` until `ready` goes or it is killed."""
    child = Child(_hold, target, ready)
    wait_until(ready.exists)
    return child


def _hold(target: Path, ready: Path) -> None:
    with only_writer(target):
        ready.touch()
        wait_until(lambda: not ready.exists())


def test_the_second_writer_is_told_who_the_first_is_and_what_to_do(tmp_path) -> None:
    target, ready = tmp_path / "out.npz", tmp_path / "ready"
    child = hold(target, ready)
    for refused in (lambda: check_no_writer(target), lambda: only_writer(tmp_path / "other.npz", target).__enter__()):
        with pytest.raises(BadInputError) as raised:
            refused()
        said = re.fullmatch(
            rf"{re.escape(str(target))} is being written by process (\d+) since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d; "
            "wait for it, or name another -o",
            str(raised.value),
        )
        assert said
        assert int(said[1]) == child.pid
    with only_writer(tmp_path / "other.npz"):
        pass
    ready.unlink()
    together(child)
    with only_writer(target):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writers_lock_is_gone(tmp_path) -> None:
    target, ready = tmp_path / "bundle", tmp_path / "ready"
    child = hold(target, ready)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2  # what says who wrote stays, without a lock
    check_no_writer(target)
    with only_writer(target):
        pass
    assert list(tmp_path.iterdir()) == [ready]


def test_links_lead_to_one_lock_and_long_names_to_their_own(tmp_path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with only_writer(tmp_path / "out"), pytest.raises(BadInputError, match=f"{tmp_path}/link is being written"):
        check_no_writer(tmp_path / "link")
    long = "x" * 250
    with only_writer(tmp_path / f"{long}1", tmp_path / f"{long}2", tmp_path / f"{long}1"):
        pass
    for name in (".a", "..b", "a.npz", "ü" * 100, "a.boosted.step5.npz"):
        with only_writer(tmp_path / name), pytest.raises(BadInputError):
            check_no_writer(tmp_path / name)


def test_waiting_is_said_once_and_ends_with_the_other(tmp_path, monkeypatch) -> None:
    target, ready = tmp_path / "a.pt2", tmp_path / "ready"
    child, told = hold(target, ready), []

    def on_wait(what: str) -> None:
        told.append(what)
        ready.unlink()

    with only_writer(target, on_wait=on_wait):
        together(child)
    assert len(told) == 1
    assert told[0].startswith(f"waiting: {target} is being written by process {child.pid} since ")


def test_a_lock_file_that_says_nothing_still_locks(tmp_path) -> None:
    target = tmp_path / "out.npz"
    with only_writer(target):
        (file,) = tmp_path.iterdir()
        for text in ("", "{", '{"process": "x"}', "[]"):
            file.write_text(text)
            with pytest.raises(BadInputError, match="is being written by another process; wait"):
                check_no_writer(target)
        file.write_text('{"process": 7, "host": "elsewhere\\u001b[31m", "since": "then"}')
        with pytest.raises(BadInputError, match=r"process 7 of 'elsewhere\\x1b\[31m' since"):
            check_no_writer(target)


def test_where_nothing_can_be_locked_the_writer_goes_on(tmp_path, monkeypatch) -> None:
    with only_writer(tmp_path / "no" / "such" / "folder"):
        pass

    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with only_writer(tmp_path / "out"), only_writer(tmp_path / "out"):
        pass


def test_many_writers_take_turns(tmp_path) -> None:
    """Removing the lock's file lets no two in: each adds one, and none is lost."""
    count = tmp_path / "count"
    count.write_text("0")
    together(*(Child(_add, tmp_path / "sum", count) for _ in range(4)))
    assert count.read_text() == "80"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]


def _add(target: Path, count: Path) -> None:
    locks._POLL = 0.001
    for _ in range(20):
        with only_writer(target, on_wait=lambda said: None):
            count.write_text(str(int(count.read_text()) + 1))
