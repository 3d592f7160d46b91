"""An export says how far it is: every stage is counted once, in order, and the last one is the total."""

from __future__ import annotations

import pytest

from jboost.export.bundle import export_bundle
from jboost.export.request import ExportRequest
from jboost.export.stages import Stages, graph_stages, package_stages

TWO = ExportRequest(("joint", "logit"), ("fp32", "fp16"), (16, 32))


def test_every_graph_and_package_is_a_stage() -> None:
    assert graph_stages(TWO) == 2 * (1 + 2 * 3)  # a trace per size; per dtype two gradients and a forward pass
    assert package_stages(TWO) == 2 * (2 * 3 + 3)  # and the three steps


@pytest.mark.parametrize("said", [0, 2, 3, 5])
def test_a_part_ends_where_it_was_planned_to_end(said) -> None:
    """Also if it says less or more than planned."""
    done: list[int] = []
    stages = Stages(4, lambda line: None, lambda n, total: done.append(n))
    with stages.several(3) as begin:
        for _ in range(said):
            begin("a stage")
    stages.end()
    assert done == sorted(done)
    assert done[-2:] == [3, 4]


def test_an_export_counts_to_its_total(checkpoint, tmp_path) -> None:
    moves: list[tuple[int, int]] = []
    lines: list[str] = []
    export_bundle(
        checkpoint,
        tmp_path / "bundle",
        on_stage=lines.append,
        on_progress=lambda done, total: moves.append((done, total)),
    )
    assert {total for _, total in moves} == {2 + 1 + 3}  # weights, forward program, timings; a trace and two graphs
    assert [done for done, _ in moves] == sorted(done for done, _ in moves)
    assert moves[-1] == (6, 6)
    assert lines[-1] == "timing the engines"
