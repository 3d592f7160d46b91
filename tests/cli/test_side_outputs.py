"""Every reason why a file beside the main output cannot be written is refused before the work starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jboost.cli.options import check_side_outputs
from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError
from jboost.engine.method.objectives import resolve_objective


def test_a_side_output_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    with pytest.raises(BadInputError, match="is a folder; name a file"):
        check_side_outputs(str(tmp_path), {})
    with pytest.raises(BadInputError, match="does not exist; make it with: mkdir -p"):
        check_side_outputs(None, {"--grid": tmp_path / "no" / "grid.png"})
    check_side_outputs(str(tmp_path / "a.json"), {"--grid": tmp_path / "a.png"})
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(BadInputError, match="is not writable; name another file"):
        check_side_outputs(str(tmp_path / "a.json"), {})
    check_side_outputs("/dev/null", {})


def test_a_negative_l0_is_refused():
    with pytest.raises(BadInputError, match="l0 must be a finite number of at least 0, got -3"):
        resolve_objective("joint", -3.0)


def test_the_remedy_for_a_folder_that_is_not_a_bundle_names_another_folder(tmp_path):
    with pytest.raises(BadInputError, match=r"export --ckpt FILE -o bundle$"):
        Bundle(tmp_path)
    with pytest.raises(BadInputError, match=r"export --ckpt FILE -o .*missing$"):
        Bundle(Path(tmp_path / "missing"))
