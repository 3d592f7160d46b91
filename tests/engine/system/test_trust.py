"""The user's record of trusted code."""

from __future__ import annotations

import os
import stat

import pytest

from jboost.engine.system.trust import entries, forget, is_trusted, remember, trust_folder

KEY = "ab" * 32


@pytest.fixture(autouse=True)
def record(tmp_path, monkeypatch):
    monkeypatch.setenv("JBOOST_TRUST", str(tmp_path / "config" / "trusted"))


def test_what_is_remembered_is_trusted_until_it_is_forgotten() -> None:
    assert not is_trusted("bundle", KEY)
    remember("bundle", KEY, {"path": "a"})
    assert is_trusted("bundle", KEY)
    assert not is_trusted("package", KEY)
    assert not is_trusted("bundle", "cd" * 32)
    assert list(entries("bundle")) == [(KEY, {"path": "a"})]
    assert forget("bundle", KEY)
    assert not forget("bundle", KEY)
    assert not is_trusted("bundle", KEY)


def test_only_the_user_may_read_and_write_it() -> None:
    old = os.umask(0)
    try:
        remember("bundle", KEY, {})
    finally:
        os.umask(old)
    (entry,) = trust_folder().iterdir()
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600
    assert stat.S_IMODE(trust_folder().stat().st_mode) == 0o700


@pytest.mark.parametrize("where", ["entry", "folder"])
def test_what_others_may_write_does_not_count(where) -> None:
    remember("bundle", KEY, {})
    (entry,) = trust_folder().iterdir()
    path = entry if where == "entry" else trust_folder()
    path.chmod(path.stat().st_mode | stat.S_IWOTH)
    assert not is_trusted("bundle", KEY)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can give files away")
def test_what_others_own_does_not_count() -> None:
    remember("bundle", KEY, {})
    (entry,) = trust_folder().iterdir()
    os.chown(entry, 12345, 12345)
    assert not is_trusted("bundle", KEY)


def test_a_folder_that_others_may_write_is_no_place_to_record() -> None:
    trust_folder().mkdir(parents=True)
    trust_folder().chmod(0o777)
    with pytest.raises(PermissionError, match="others"):
        remember("bundle", KEY, {})


def test_damaged_entries_do_not_count() -> None:
    remember("bundle", KEY, {})
    (entry,) = trust_folder().iterdir()
    for content in ("", "[]", "{"):
        entry.write_text(content)
        assert not is_trusted("bundle", KEY)


def test_a_name_that_leads_elsewhere_is_no_entry() -> None:
    with pytest.raises(ValueError, match="not the name"):
        is_trusted("bundle", "../../etc/passwd")


def test_where_it_lies(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("JBOOST_TRUST")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert trust_folder() == tmp_path / "jboost" / "trusted"
