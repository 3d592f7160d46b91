"""The processes that tests start: none can hang a run."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path

import pytest
from children import Child, do, fork, jboost, together

TESTS = Path(__file__).parent


def hang() -> None:
    print("at work", flush=True)
    time.sleep(1000)


def fail() -> None:
    raise ValueError("it cannot be done")


def show_threads() -> None:
    print(len(os.listdir(f"/proc/{os.getppid()}/task")))


def test_a_child_that_does_not_end_is_killed_and_says_where_it_was() -> None:
    child = Child(hang)
    with pytest.raises(
        AssertionError, match=r"(?s)hang did not end in 2 s; killed.*at work.*test_children.py.* in hang"
    ):
        child.wait(2)
    assert not child.running


def test_a_child_that_fails_ends_the_others_and_says_why() -> None:
    other = Child(hang)
    with pytest.raises(AssertionError, match="ValueError: it cannot be done"):
        together(other, Child(fail))
    assert not other.running
    with pytest.raises(AssertionError, match=r"fail ended with 1\n(?s:.*)ValueError: it cannot be done"):
        do(fail)


def test_the_server_has_no_threads() -> None:
    """So its children may use whatever its memory holds; see the top of children.py."""
    assert do(show_threads) == "1\n"


def test_a_process_with_threads_does_not_fork() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        with pytest.raises(AssertionError, match="a process with threads must not fork"):
            fork(fail, patience=0.1)
    finally:
        end.set()
        thread.join()


def test_forks_are_made_in_one_place() -> None:
    made = re.compile(r"os\.fork\(|os\.forkpty\(|get_context\(.fork.\)")
    found = {path for path in TESTS.rglob("*.py") if made.search(path.read_text())}
    assert found == {TESTS / "support" / "children.py"}


def test_a_command_is_the_installed_one(installed, tmp_path) -> None:
    """The same streams, exit code and files."""
    for arguments in (["inspect", "none.npz"], ["boost", "--preset", "list"], ["--version"], ["nonsense"]):
        one, other = installed(*arguments, cwd=tmp_path), jboost(*arguments, cwd=tmp_path)
        assert (other.returncode, other.stdout, other.stderr) == (one.returncode, one.stdout, one.stderr)
