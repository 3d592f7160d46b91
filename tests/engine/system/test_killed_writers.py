"""Whenever a process that writes is killed, the old file is whole or the new one is: for each kind of file and folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from children import do, fork, wait
from killed import MOMENTS, after_the_rename, contents, folder_with, killed, names, size_of
from replacing_cases import KINDS, Case

from jboost.engine.system import replacing as module
from jboost.export.compiled.cache import cached


def put_back(case: Case) -> None:
    """Put the old contents in the place of whatever is there."""
    module._remove(case.target)
    if isinstance(case.old, dict):
        folder_with(case.target, case.old)
    elif case.old is not None:
        case.target.write_bytes(case.old)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_leaves_the_old_contents_or_the_new(kind, tmp_path) -> None:
    """... and the next write finds nothing in its way and leaves nothing beside."""
    do(killed_at_each_moment, kind, tmp_path)


def killed_at_each_moment(kind: str, folder: Path) -> None:
    case = KINDS[kind](folder, pytest.MonkeyPatch())
    put_back(case)
    # All writing here is done in forks: some of it starts threads, and then no fork is safe.
    assert wait(fork(case.write)) == 0
    new, there = contents(case.target), names(case.target.parent)
    assert new is not None
    assert new != case.old
    for moment in MOMENTS:
        put_back(case)
        killed(case.write, moment, size_of(new))
        assert contents(case.target) == (new if moment is after_the_rename else case.old), moment.__name__
    put_back(case)
    assert wait(fork(case.write)) == 0
    assert contents(case.target) == new
    assert names(case.target.parent) == there


def test_a_kill_leaves_no_package_without_its_note(tmp_path, monkeypatch) -> None:
    """Two files: the package that a killed process compiled is used only once its note says that it is whole."""
    monkeypatch.setenv("JBOOST_CACHE", str(tmp_path))
    do(killed_while_it_caches, tmp_path)


def killed_while_it_caches(folder: Path) -> None:
    made = []

    def make(path: Path) -> dict[str, float]:
        made.append(path)
        path.write_bytes(b"package" * 500)
        return {"worst": 0.0}

    def write() -> tuple[Path, dict[str, float]]:
        return cached({"step": "x"}, make, say=lambda: None)

    for moment in MOMENTS:
        killed(write, moment, 3500)
        package, figures = write()
        assert len(made) == 1, moment.__name__
        assert (package.read_bytes(), figures) == (b"package" * 500, {"worst": 0.0})
        assert write() == (package, figures)
        assert len(made) == 1
        assert names(folder) == [package.with_suffix(".json").name, package.name]
        made.clear()
        for file in folder.iterdir():
            file.unlink()
