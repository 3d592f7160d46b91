from __future__ import annotations

import pytest

from jboost.engine.errors import QUOTED, first_line, one_line


@pytest.mark.parametrize(
    ("said", "whole", "first"),
    [
        (ValueError("  no file\n\n  at all "), "no file at all", "no file"),
        ("from\ta\r\nlog", "from a log", "from\ta"),
        (KeyError(), "KeyError", "KeyError"),
        (RuntimeError(" \n"), "RuntimeError", "RuntimeError"),
        ("", "", ""),
    ],
)
def test_a_message_becomes_one_line(said: Exception | str, whole: str, first: str) -> None:
    assert (one_line(said), first_line(said)) == (whole, first)


def test_a_long_message_is_cut_unless_all_of_it_is_asked_for() -> None:
    long = "x" * 1000
    assert one_line(long) == first_line(ValueError(long)) == "x" * QUOTED
    assert one_line(long, None) == long
