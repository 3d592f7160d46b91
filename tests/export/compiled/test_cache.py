"""Processes that need the same package at once: one makes it, the others wait for it."""

from __future__ import annotations

from pathlib import Path

from killed import names
from processes import wait_until
from train_cases import fork, wait

from jboost.export.compiled.cache import cached


def test_a_package_is_made_once_by_processes_that_need_it_at_the_same_time(tmp_path, monkeypatch) -> None:
    cache, made = tmp_path / "cache", tmp_path / "made"
    made.mkdir()
    monkeypatch.setenv("JBOOST_CACHE", str(cache))

    def work(name: str) -> None:
        def make(path: Path) -> dict[str, float]:
            (made / name).touch()
            wait_until(lambda: len(names(started)) == 3)
            path.write_bytes(b"package")
            return {"worst": 0.5}

        (started / name).touch()
        package, errors = cached({"step": "x"}, make, say=lambda: None)
        assert (package.read_bytes(), errors) == (b"package", {"worst": 0.5})

    started = tmp_path / "started"
    started.mkdir()
    assert [wait(child) for child in [fork(lambda n=n: work(n)) for n in "abc"]] == [0] * 3
    assert len(names(made)) == 1
    assert len(names(cache)) == 2
