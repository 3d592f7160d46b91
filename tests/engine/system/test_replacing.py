"""Replacing files and folders: whole or not at all, permissions kept, nothing left behind."""

from __future__ import annotations

import errno
import os
import resource
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from children import Child, do, together
from killed import contents, die, dying_after, folder_with, killed, names
from processes import wait_until

from jboost.engine.system import locks
from jboost.engine.system import replacing as module
from jboost.engine.system.replacing import replacing, replacing_folder

# --- files -----------------------------------------------------------------------------------------------------------------------


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_temporary_is_beside_the_file_and_has_its_suffix(tmp_path) -> None:
    for name in ("a.npz", "a.b.png", "plain", "ü" * 100 + ".json", "x" * 250 + ".npz", "[a]*?.zip"):
        path = tmp_path / name
        with replacing(path) as aside:
            assert (aside.parent, aside.suffix) == (path.parent, path.suffix)
            assert aside.name.startswith(".")
            assert not path.exists()
            aside.write_text(name)
        assert path.read_text() == name
        with replacing_folder(path.with_name(name[1:])) as aside:
            assert (aside.parent, aside.suffix) == (path.parent, path.with_name(name[1:]).suffix)
            assert names(aside) == []
    assert len(names(tmp_path)) == 12


def test_a_replaced_file_keeps_its_mode_and_a_new_one_has_the_umasks(tmp_path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.touch()
    old.chmod(0o604)
    with umask(0o027):
        with replacing(old) as aside:
            assert mode(aside) == 0o600  # the old one may be private
            aside.write_text("text")
        with replacing(new) as aside:
            aside.write_text("text")
        with replacing_folder(tmp_path / "folder"):
            pass
    assert (mode(old), mode(new), mode(tmp_path / "folder")) == (0o604, 0o640, 0o750)
    (tmp_path / "folder").chmod(0o705)
    for overwrite in (False, True):
        with replacing_folder(tmp_path / "folder", overwrite=overwrite):
            pass
        assert mode(tmp_path / "folder") == 0o705


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_failure_leaves_the_old_one_and_nothing_beside(error, tmp_path) -> None:
    (tmp_path / "file").write_text("old")
    folder_with(tmp_path / "folder", {"file": b"old"})
    for manager in (replacing(tmp_path / "file"), replacing(tmp_path / "other"), replacing_folder(tmp_path / "third")):
        with pytest.raises(type(error)) as raised, manager:
            raise error
        assert raised.value is error

    def fail() -> None:
        with replacing_folder(tmp_path / "folder", overwrite=True) as aside:
            (aside / "file").write_text("new")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert names(tmp_path) == ["file", "folder"]
    assert (contents(tmp_path / "file"), contents(tmp_path / "folder")) == (b"old", {"file": b"old"})


def test_a_full_disk_is_noticed_at_the_latest_by_the_flush(tmp_path, monkeypatch) -> None:
    """Some file systems find room only when the data leave memory."""
    path = tmp_path / "file"
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # as a full disk, at a size that a test can reach
    try:
        with pytest.raises(OSError, match="too large"), replacing(path) as aside:
            aside.write_bytes(bytes(200))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"), replacing(path) as aside:
        aside.write_text("new")
    with pytest.raises(OSError, match="No space"), replacing_folder(tmp_path / "folder") as aside:
        (aside / "file").write_text("new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_an_error_names_the_file_and_not_the_temporary(tmp_path, monkeypatch) -> None:
    for path, kind in ((tmp_path / "no" / "file", FileNotFoundError), (tmp_path, IsADirectoryError)):
        with pytest.raises(kind) as raised, replacing(path) as aside:
            aside.write_text("new")
        assert str(raised.value).endswith(f": {str(path)!r}")
    assert names(tmp_path) == []


def test_data_reach_the_disk_before_the_name_and_then_the_folder_does(tmp_path, monkeypatch) -> None:
    events: list[tuple[str, str]] = []

    def noting(name: str, call: Callable[..., Any], place: Callable[..., str]) -> Callable[..., Any]:
        return lambda *arguments: (events.append((name, place(arguments[0]))), call(*arguments))[1]

    monkeypatch.setattr(os, "fsync", noting("fsync", os.fsync, lambda handle: os.readlink(f"/proc/self/fd/{handle}")))
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, noting("rename", getattr(os, name), str))
    monkeypatch.setattr(module, "_exchange", noting("rename", module._exchange, str))
    with replacing(tmp_path / "file") as aside:
        aside.write_text("text")
    assert events == [("fsync", str(aside)), ("rename", str(aside)), ("fsync", str(tmp_path))]
    for _ in range(2):
        events.clear()
        with replacing_folder(tmp_path / "folder", overwrite=True) as aside:
            folder_with(aside / "sub", {"file": b"text"})
        order = [aside / "sub" / "file", aside / "sub", aside]
        assert events == [*(("fsync", str(p)) for p in order), ("rename", str(aside)), ("fsync", str(tmp_path))]


def test_a_link_stays_and_its_target_is_replaced(tmp_path) -> None:
    (tmp_path / "data").mkdir()
    folder_with(tmp_path / "data" / "bundle", {"file": b"old"})
    for name in ("old.npz", "none.npz", "bundle"):
        (tmp_path / name).symlink_to(Path("data") / name)
    (tmp_path / "data" / "old.npz").write_text("old")
    for name in ("old.npz", "none.npz"):
        with replacing(tmp_path / name) as aside:
            assert aside.parent == tmp_path / "data"  # a rename does not leave its file system
            aside.write_text("new")
    with replacing_folder(tmp_path / "bundle", overwrite=True) as aside:
        (aside / "file").write_text("new")
    assert all((tmp_path / name).is_symlink() for name in ("old.npz", "none.npz", "bundle"))
    assert contents(tmp_path / "data") == {"old.npz": b"new", "none.npz": b"new", "bundle/file": b"new"}


def test_a_pipe_is_written_itself(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    heard: list[str] = []
    reader = threading.Thread(target=lambda: heard.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    with replacing(tmp_path / "pipe") as aside:
        (tmp_path / "pipe").write_text("text")
    reader.join(60)
    assert aside == tmp_path / "pipe"
    assert heard == ["text"]
    assert names(tmp_path) == ["pipe"]


# --- folders ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_with_contents_is_replaced_only_if_told(exchanges, tmp_path, monkeypatch) -> None:
    if not exchanges:
        monkeypatch.setattr(module, "_exchange", lambda *_: False)
    target = folder_with(tmp_path / "folder", {"file": b"old"})
    with pytest.raises(OSError, match="not empty"), replacing_folder(target) as aside:
        (aside / "other").write_text("new")
    assert contents(target) == {"file": b"old"}
    with replacing_folder(target, overwrite=True) as aside:
        (aside / "other").write_text("new")
    assert contents(target) == {"other": b"new"}
    assert names(tmp_path) == ["folder"]


def test_a_kill_between_two_renames_is_undone_by_the_next_writer(tmp_path) -> None:
    """Where the file system cannot exchange two folders."""
    do(killed_between_two_renames, tmp_path)


def killed_between_two_renames(folder: Path) -> None:
    module._exchange = lambda *_: False
    target = folder / "bundle"
    folder_with(target, {"file": b"old"})

    def write() -> None:
        with replacing_folder(target, overwrite=True) as aside:
            (aside / "file").write_text("new")

    def after_the_first(size: int) -> None:
        os.rename = dying_after(os.rename)

    killed(write, after_the_first)
    assert not target.exists()
    with pytest.raises(KeyboardInterrupt), replacing_folder(target, overwrite=True):
        raise KeyboardInterrupt
    assert contents(target) == {"file": b"old"}
    write()
    assert contents(target) == {"file": b"new"}
    assert names(folder) == ["bundle"]


def test_a_second_rename_that_fails_undoes_the_first(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_exchange", lambda *_: False)
    target, rename = folder_with(tmp_path / "folder", {"file": b"old"}), os.rename

    def refuse_the_new(source: Path, place: Path) -> None:
        if "new" in source.name:
            raise PermissionError
        rename(source, place)

    monkeypatch.setattr(os, "rename", refuse_the_new)
    with pytest.raises(PermissionError), replacing_folder(target, overwrite=True) as aside:
        (aside / "file").write_text("new")
    assert contents(target) == {"file": b"old"}
    assert names(tmp_path) == ["folder"]


def test_linux_exchanges_two_folders_in_one_step(tmp_path) -> None:
    a, b = folder_with(tmp_path / "a", {"file": b"1"}), folder_with(tmp_path / "b", {"file": b"2"})
    if not module._exchange(a, b):
        pytest.skip("not on this system or file system")
    assert (contents(a), contents(b)) == ({"file": b"2"}, {"file": b"1"})


# --- several writers -------------------------------------------------------------------------------------------------------------


def test_a_killed_writers_temporary_goes_and_a_live_ones_stays(tmp_path) -> None:
    do(killed_beside_a_live_writer, tmp_path)
    # Another file's, and what only looks like one, are nobody's business.
    others = [".a.npz", ".b~jboost-new-0123456789ab.npz", ".a~jboost-new-0123456789ab.png", ".a~jboost-new-x.npz"]
    for name in others:
        (tmp_path / name).touch()
    with replacing(tmp_path / "a.npz"):
        pass
    assert set(others) <= set(names(tmp_path))


def killed_beside_a_live_writer(folder: Path) -> None:
    for manager, path in ((replacing, folder / "a.npz"), (replacing_folder, folder / "folder")):
        with manager(path) as live:

            def write(manager: Any = manager, path: Path = path) -> None:
                with manager(path):
                    die()

            killed(write, lambda size: None)
            left = set(names(folder))
            with manager(path) as second, suppress(KeyboardInterrupt):
                assert second != live
                assert left & set(names(folder)) >= {live.name}
                assert len(left - set(names(folder))) == 1
            assert live.exists()
            module._remove(path)


def test_a_temporary_that_is_removed_before_it_is_locked_is_made_anew(tmp_path, monkeypatch) -> None:
    """Another writer may see it in between, and take it for a killed one's."""
    lock, tries = module._lock, []

    def late(path: Path) -> int:
        tries.append(path)
        if len(tries) == 1:
            path.unlink()
        if len(tries) == 2:
            raise BlockingIOError
        handle = lock(path)
        if len(tries) == 3:
            path.unlink()
        return handle

    monkeypatch.setattr(module, "_lock", late)
    with replacing(tmp_path / "file") as aside:
        aside.write_text("text")
    assert len(set(tries)) == 4
    assert aside == tries[3]
    assert (tmp_path / "file").read_text() == "text"


def test_without_locks_files_are_replaced_and_nothing_is_taken_for_left_behind(tmp_path, monkeypatch) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with replacing(tmp_path / "file") as first, replacing(tmp_path / "file") as second:
        assert first.exists()
        second.write_text("text")
    assert names(tmp_path) == ["file"]


def test_writers_at_the_same_time_do_not_disturb_each_other(tmp_path) -> None:
    """Each replaces the whole; the last one stays."""
    path, stop, size = tmp_path / "file", tmp_path / "stop", 50_000
    path.write_bytes(bytes(size))
    writers = [Child(write_again_and_again, path, bytes([letter]) * size, stop) for letter in range(1, 5)]
    seen: list[int] = []

    def all_seen() -> bool:
        found = path.read_bytes()
        assert len(found) == size
        assert len(set(found)) == 1
        seen.append(found[0])
        return len(seen) > 50 and set(seen) >= {1, 2, 3, 4}

    try:
        wait_until(all_seen)
    finally:
        stop.touch()
        together(*writers)
    assert names(tmp_path) == ["file", "stop"]


def write_again_and_again(path: Path, content: bytes, stop: Path) -> None:
    while not stop.exists():
        with replacing(path) as aside:
            aside.write_bytes(content)
