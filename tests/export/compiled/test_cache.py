"""The cache of packages that first use compiled: only what the user's own record knows is loaded, and each is made once."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest
from children import Child, together
from killed import names
from processes import wait_until

from jboost.engine.system.cache import cache_folder
from jboost.engine.system.trust import trust_folder
from jboost.export.compiled.cache import cached


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Makes the package of a key unless the cache holds it; returns its content."""
    monkeypatch.setenv("JBOOST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JBOOST_TRUST", str(tmp_path / "trusted"))

    def made(key: str) -> tuple[bytes, list[str]]:
        said: list[str] = []

        def make(path):
            path.write_bytes(key.encode())
            return {"worst": 0.0}

        package, _ = cached({"key": key}, make, say=lambda: said.append(key))
        return package.read_bytes(), said

    return made


def test_a_package_is_made_once_and_kept_private(made) -> None:
    assert made("a") == (b"a", ["a"])
    assert made("a") == (b"a", [])
    assert stat.S_IMODE(cache_folder().stat().st_mode) == 0o700
    (entry,) = trust_folder().iterdir()
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600


def test_a_planted_package_is_made_again(made) -> None:
    """With the right hash in the note beside it, and even if it is a package of another key."""
    made("a")
    (package,), (note,) = cache_folder().glob("*.pt2"), cache_folder().glob("*.json")
    made("b")
    for planted in (b"planted", b"b"):
        package.write_bytes(planted)
        content = json.loads(note.read_text()) | {"sha256": hashlib.sha256(planted).hexdigest()}
        note.write_text(json.dumps(content))
        assert made("a") == (b"a", ["a"])
    assert made("a") == (b"a", [])


def test_without_a_record_nothing_in_the_cache_counts(made, tmp_path, monkeypatch, caplog) -> None:
    made("a")
    monkeypatch.setenv("JBOOST_TRUST", str(tmp_path / "elsewhere"))
    assert made("a") == (b"a", ["a"])
    monkeypatch.setenv("JBOOST_TRUST", "/proc/none")  # cannot be written: it works, and says so
    for _ in range(2):
        caplog.clear()
        assert made("a") == (b"a", ["a"])
        assert "set JBOOST_TRUST" in caplog.text


def test_a_package_is_made_once_by_processes_that_need_it_at_the_same_time(tmp_path, monkeypatch) -> None:
    cache, started, made = (tmp_path / name for name in ("cache", "started", "made"))
    started.mkdir()
    made.mkdir()
    monkeypatch.setenv("JBOOST_CACHE", str(cache))
    together(*(Child(make_it, name, started, made) for name in "abc"))
    assert len(names(made)) == 1
    assert len(names(cache)) == 2


def make_it(name: str, started: Path, made: Path) -> None:
    """Want the package once three processes do."""

    def make(path: Path) -> dict[str, float]:
        (made / name).touch()
        wait_until(lambda: len(names(started)) == 3)
        path.write_bytes(b"package")
        return {"worst": 0.5}

    (started / name).touch()
    package, errors = cached({"step": "x"}, make, say=lambda: None)
    assert (package.read_bytes(), errors) == (b"package", {"worst": 0.5})
