"""A folder to tune in: samples, a reference, an extractor and the shared bundle."""

from __future__ import annotations

import pytest
from tune_cases import Place

from jboost.tuning import curve


@pytest.fixture(scope="module")
def root(tmp_path_factory, bundle) -> Place:
    return Place.make(tmp_path_factory.mktemp("tuning"), bundle)


@pytest.fixture
def place(root, monkeypatch, tmp_path) -> Place:
    monkeypatch.chdir(root.root)
    monkeypatch.setattr(curve, "can_draw", lambda: False)  # drawing takes seconds
    monkeypatch.setenv("JBOOST_CACHE", str(tmp_path / "cache"))
    return root
