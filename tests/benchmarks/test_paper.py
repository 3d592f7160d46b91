"""The quality benchmark's bookkeeping: steps that survive being killed, numbers over seeds, verdicts that follow the numbers."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from processes import alive, wait_until

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "paper"))

import claims
import page
import tuning
from plan import Plan
from printed import read_printed
from steps import Runner, Step
from tables import TABLES, Cell, Results, render
from variants import MODELS, NONE, PGD, SGLD, SOURCES, VARIANTS

QUALITY = Path(page.__file__).parent


def quiet(line: str) -> None:
    pass


def steps_that_count(calls: list[str]) -> list[Step]:
    def work(name: str):
        def action(folder: Path) -> dict[str, str]:
            calls.append(name)
            (folder / "product").write_text(name)
            return {"name": name}

        return action

    return [
        Step("a", {"n": 1}, work("a")),
        Step("seed0/b", {"n": 2}, work("seed0/b"), ("a",)),
        Step("c", {"n": 3}, work("c")),
    ]


def test_finished_steps_are_not_repeated(tmp_path):
    calls: list[str] = []
    for _ in range(2):
        runner = Runner(tmp_path, steps_that_count(calls), say=quiet)
        runner.run()
    assert calls == ["a", "seed0/b", "c"]
    assert runner.record("seed0/b")["facts"] == {"name": "seed0/b"}
    assert runner.record("seed0/b")["seconds"] >= 0
    assert not list(tmp_path.rglob("*.partial"))


def test_a_change_redoes_the_step_and_what_needs_it(tmp_path):
    calls: list[str] = []
    steps = steps_that_count(calls)
    Runner(tmp_path, steps, say=quiet).run()
    runner = Runner(tmp_path, [replace(steps[0], settings={"n": 9}), *steps[1:]], say=quiet)
    assert runner.record("seed0/b") is None
    runner.run()
    assert calls == ["a", "seed0/b", "c", "a", "seed0/b"]


def test_only_takes_what_is_needed_along(tmp_path):
    calls: list[str] = []
    Runner(tmp_path, steps_that_count(calls), say=quiet).run(["seed0"])
    assert calls == ["a", "seed0/b"]
    with pytest.raises(ValueError, match="no step is called d"):
        Runner(tmp_path, steps_that_count(calls), say=quiet).run(["d"])


def test_steps_out_of_order_are_refused(tmp_path):
    steps = steps_that_count([])
    with pytest.raises(ValueError, match="seed0/b needs a"):
        Runner(tmp_path, [steps[1], steps[0]])
    with pytest.raises(ValueError, match="two steps are called a"):
        Runner(tmp_path, [steps[0], steps[0]])


@pytest.mark.parametrize("resumes", [True, False])
def test_a_killed_step_goes_on_or_starts_anew(tmp_path, resumes):
    """The next process finds what the killed one left, if the step can use that, and an empty folder if not."""
    script = textwrap.dedent(f"""
        import os, signal, sys
        sys.path.insert(0, {str(QUALITY)!r})
        from pathlib import Path
        from steps import Runner, Step

        def action(folder):
            found = sorted(path.name for path in folder.iterdir() if path.name != "begun.json")
            if sys.argv[1] == "die":
                (folder / "half").write_text("half")
                os.kill(os.getpid(), signal.SIGKILL)
            return {{"found": found}}

        Runner(Path({str(tmp_path)!r}), [Step("a", {{}}, action, resumes={resumes})]).run()
    """)
    assert subprocess.run([sys.executable, "-c", script, "die"]).returncode == -signal.SIGKILL
    assert not (tmp_path / "a").exists()
    subprocess.run([sys.executable, "-c", script, "live"], check=True)
    record = json.loads((tmp_path / "a" / "record.json").read_text())
    assert record["facts"] == {"found": ["half"] if resumes else []}
    assert record["attempts"] == 2


def test_a_partial_product_of_other_settings_is_thrown_away(tmp_path):
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("stop")

    def look(folder: Path) -> dict[str, bool]:
        return {"half": (folder / "half").exists()}

    with pytest.raises(RuntimeError):
        Runner(tmp_path, [Step("a", {"n": 1}, fail, resumes=True)], say=quiet).run()
    runner = Runner(tmp_path, [Step("a", {"n": 2}, look, resumes=True)], say=quiet)
    runner.run()
    assert runner.record("a")["facts"] == {"half": False}


PARALLEL = """
    import os, signal, sys, time
    sys.path.insert(0, {quality!r})
    from functools import partial
    from pathlib import Path
    from parallel import run_parallel
    from steps import Runner, Step

    OUT, KIND = Path(sys.argv[1]), sys.argv[2]

    def meet(other, folder):
        (OUT / f"{{folder.name}}.pid").write_text(str(os.getpid()))
        while not (OUT / f"{{other}}.partial.pid").exists():  # only a step that runs beside this one writes it
            time.sleep(0.01)

    def last(folder):
        return {{"seen": [(OUT / name / "record.json").exists() for name in "ab"]}}

    def fail(folder):
        meet("b", folder)
        raise RuntimeError("step a cannot be done")

    def hang(folder):
        meet("a", folder)
        time.sleep(600)

    def make(out):
        a, b = (fail, hang) if KIND == "fail" else (hang, hang) if KIND == "hang" else (partial(meet, "b"), partial(meet, "a"))
        return Runner(out, [Step("a", {{}}, a), Step("b", {{}}, b), Step("c", {{}}, last, ("a", "b"))])

    if __name__ == "__main__":
        run_parallel(make(OUT), partial(make, OUT), 2)
"""


def parallel(folder: Path, kind: str) -> subprocess.Popen[str]:
    script = folder / "go.py"
    script.write_text(textwrap.dedent(PARALLEL.format(quality=str(QUALITY))))
    command = [sys.executable, str(script), str(folder), kind]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_steps_run_side_by_side_once_what_they_need_is_done(tmp_path):
    process = parallel(tmp_path, "meet")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert json.loads((tmp_path / "c" / "record.json").read_text())["facts"] == {"seen": [True, True]}


@pytest.mark.parametrize("how", ["fail", "SIGTERM", "SIGKILL"])
def test_no_step_goes_on_alone(tmp_path, how):
    """Whatever ends the run ends all of its steps: the next run works in the same folders."""
    process = parallel(tmp_path, "fail" if how == "fail" else "hang")
    files = [tmp_path / f"{name}.partial.pid" for name in "ab"]
    wait_until(lambda: all(file.exists() and file.read_text() for file in files))
    pids = [int(file.read_text()) for file in files]
    if how != "fail":
        process.send_signal(getattr(signal, how))
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert how != "fail" or "step a cannot be done" in said
    wait_until(lambda: not any(map(alive, pids)))
    assert not (tmp_path / "a").exists()


def test_scaling_keeps_what_steps_need():
    full, small = Plan.scaled((0, 1, 2), 1.0), Plan.scaled((0,), 0.001)
    assert full == Plan()
    assert small.samples > 64  # features have 64 dimensions
    assert all(
        getattr(small, name) <= getattr(full, name) for name in ("samples", "model_iterations", "training_images")
    )
    with pytest.raises(ValueError, match="scale"):
        Plan.scaled((0,), 0)


def test_variants_speak_of_models_and_of_each_other():
    for source, variants in VARIANTS.items():
        assert source in SOURCES
        for variant in variants:
            assert variant.model in MODELS
            if variant.steps_of:
                there, name = variant.steps_of.split(".", 1)
                assert any(other.name == name and other.grid for other in VARIANTS[there])
    known = {(source, v.name) for source, vs in VARIANTS.items() for v in vs} | {(s, NONE) for s in SOURCES}
    for table in TABLES:
        for line in table.lines:
            assert any((source or line.source, line.variant) in known for source, _ in table.columns), line


def test_cells_over_seeds():
    assert Cell({0: 1.0, 1: 2.0, 2: 6.0}).show(2) == "3.00 ± 2.65"
    assert Cell({0: 1.5}).show(2) == "1.50"
    assert Cell({}).show(2) == "-"


def made_up(distances: dict[tuple[str, str], list[float | None]], **more) -> dict:
    """Results of as many seeds as there are distances."""
    seeds = list(range(len(next(iter(distances.values())))))
    measurements = [
        {
            "seed": seed,
            "source": source,
            "variant": variant,
            "fid": values[seed],
            "fid_interval": [0.0, 99.0],
            "steps_used": 10.0,
        }
        for (source, variant), values in distances.items()
        for seed in seeds
        if values[seed] is not None
    ]
    return {
        "plan": Plan(seeds=tuple(seeds)).to_dict(),
        "machine": {
            "cpu": "a CPU",
            "cores": 2,
            "system": "Linux",
            "python": "3",
            "torch": "2",
            "jboost": "0",
            "bf16": False,
        },
        "steps": {"seed0/boost/flow1.joint": {"seconds": 90.0, "attempts": 1}},
        "missing": [],
        "yardsticks": {"yardstick.28": 0.9},
        "models": [],
        "tuning": {},
        "pixels": [],
        "measurements": measurements,
    } | more


def test_a_missing_seed_is_left_out_of_mean_and_comparison():
    results = Results(made_up({("flow1", "joint"): [1.0, 2.0, None], ("flow1", NONE): [5.0, 5.0, 5.0]}))
    assert results.cell("flow1", "joint", "fid").mean == 1.5
    assert claims.less(results, ("flow1", "joint"), ("flow1", NONE)).seeds == 2


@pytest.mark.parametrize(
    ("joint", "answer"),
    [([1.0, 1.0, 1.0], "yes"), ([1.0, 1.0, 9.0], "partly"), ([9.0, 9.0, 1.0], "no"), ([9.0, 9.0, 9.0], "no")],
)
def test_verdicts_follow_the_numbers(joint, answer):
    values = made_up({
        ("flow1", "joint"): joint, ("flow2", "joint"): joint,
        ("flow1", "classifier"): [5.0] * 3, ("flow2", "classifier"): [5.0] * 3,
    })  # fmt: skip
    verdicts = {verdict.claim: verdict for verdict in claims.judge(Results(values), read_printed())}
    verdict = verdicts["a robust joint model does better than a robust classifier alone"]
    assert verdict.answer == answer
    won = sum(value < 5 for value in joint)
    assert f"lower in {won} of 3 seeds" in verdict.comparisons[0].text
    assert verdicts["a wider model does better"].answer == "not measured"


def test_sameness_has_two_sides():
    def compared(value: float) -> int:
        results = Results(made_up({("flow2", "bf16"): [value], ("flow2", "joint"): [2.0]}))
        return claims.same(results, ("flow2", "bf16"), ("flow2", "joint")).won

    assert [compared(value) for value in (1.5, 1.95, 2.0, 2.05, 2.5)] == [0, 1, 1, 1, 0]


def test_the_best_of_a_column_is_bold_whether_less_or_more_is_better():
    values = made_up({("flow2", NONE): [5.0, 6.0], ("flow2", "joint"): [1.0, 2.0], ("flow2", "ce"): [3.0, 3.0]})
    for row in values["measurements"]:
        row["recall"] = row["fid"] / 10
    table = next(table for table in TABLES if table.key == "objectives")
    lines = {line.split("|")[1].strip(): line for line in render(table, Results(values))}
    assert "**1.50 ± 0.71**" in lines["`joint`"]
    assert "**0.550 ± 0.071**" in lines["no boosting"]
    assert "**" not in lines["`ce`"]


def test_the_page_says_what_was_found_and_what_was_not(tmp_path):
    values = made_up({("flow1", NONE): [5.0] * 3, ("flow1", "joint"): [1.0] * 3}, missing=["seed2/eval.large"])
    results, out = tmp_path / "results.json", tmp_path / "docs"
    results.write_text(json.dumps(values))
    subprocess.run(
        [sys.executable, str(QUALITY / "page.py"), "--results", str(results), "--out", str(out)],
        check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    text = (out / "quality.md").read_text()
    assert "5.00 ± 0.00" in text
    assert "not run: 1, among them seed2/eval.large" in text
    assert "| boost | 1 | 90 | 1.5 |" in text
    assert "quality_models.png" in text
    assert (out / "quality_models.png").stat().st_size < 150_000
    assert "quality_samples.png" not in text
    trial = page.write_page(values | {"plan": values["plan"] | {"scale": 0.01}}, read_printed(), {})
    assert "numbers mean nothing" in trial
    assert "numbers mean nothing" not in text


def test_the_claim_of_table_3_is_that_sgld_surpasses_pgd():
    """Both rules lower the FID here, SGLD less than PGD: the paper's claim does not hold, and the page must say so."""
    values = made_up({
        ("flow1", NONE): [9.0], ("flow1", "joint"): [2.0], ("flow1", "sgld"): [3.0],
        ("flow2", NONE): [9.0], ("flow2", "joint"): [2.0], ("flow2", "sgld"): [3.0],
    })  # fmt: skip
    verdicts = {verdict.claim: verdict for verdict in claims.judge(Results(values), read_printed())}
    verdict = verdicts["SGLD surpasses PGD"]
    assert verdict.answer == "no"
    assert (
        "Wide-RN +SGLD 8.71, 7.64, 4.65, 3.58 against Wide-RN +PGD 8.83, 7.98, 4.84, 3.78, lower in 4 of 4"
        in verdict.source
    )


def test_every_claim_quotes_the_paper_or_is_this_projects_own():
    values = made_up({("flow1", NONE): [9.0]})
    for verdict in claims.judge(Results(values), read_printed()):
        assert verdict.source == "this project" or "(abstract)" in verdict.source or "against" in verdict.source


def test_the_papers_figures_are_those_printed():
    printed = read_printed()
    figures = [
        (metric, value) for line in printed.lines.values() for at in line.values() for metric, value in at.items()
    ]
    assert len(figures) == 231
    # Typed from the paper.
    assert printed.figure(1, "no boosting", "CD, 1 step") == 6.20
    assert printed.figure(1, "no boosting", "CT, 2 steps") == 11.12
    assert printed.figure(2, "no boosting", "CT, 2 steps") == 11.10
    assert printed.figure(3, "Wide-RN +SGLD", "CD, 2 steps") == 3.58
    assert printed.figure(4, "Wide-RN +SGLD", "BigGAN, 256x256", "IS") == 275.25
    assert printed.lines[5, "CT"]["1 step"] == {"steps x size": "35 x 0.1"}
    for table in TABLES:
        for line in table.lines:
            assert line.paper is None or (table.paper, line.paper) in printed.lines, line


def test_a_line_of_the_paper_needs_its_source(tmp_path):
    path = tmp_path / "paper.toml"
    head = 'title = "t"\nauthors = "a"\nurl = "u"\ndata = "d"\n'
    path.write_text(head + '[[line]]\ntable = 1\nrow = "a"\nb = { FID = 3.0 }\n')
    with pytest.raises(ValueError, match="lacks source"):
        read_printed(path)


def bowl(best: tuple[float, float, float]) -> Callable[[Sequence[tuning.Path]], dict[tuning.Setting, float]]:
    """A measure whose FID rises from its lowest at a path length, a step size and a noise, in octaves and decades."""

    def fid(at: tuning.Setting) -> float:
        length, size, noise = best
        apart = abs(math.log2(at.steps * at.size / length)), abs(math.log2(at.size / size)) / 3
        return 1 + sum(apart) + abs(math.log10((at.noise or 1e-6) / (noise or 1e-6))) / 5

    return lambda paths: {at: fid(at) for path in paths for at in path.settings()}


@pytest.mark.parametrize(
    ("best", "grows"),
    [
        ((4.0, 0.4, 0.0), False),
        ((8.0, 0.1, 0.0), True),
        ((4.0, 1.6, 0.0), True),
        ((40.0, 0.4, 0.0), True),
        ((4.0, 0.4, 1e-2), True),
    ],
)
def test_a_grid_grows_until_the_best_setting_lies_inside(best, grows):
    grid = tuning.Grid(sizes=(0.1, 0.2, 0.4, 0.8), noises=(0.0, 1e-4, 1e-3))
    found = tuning.search(grid, bowl(best))
    assert (found.growths > 0) == grows
    assert not tuning.beyond(found.setting, found.tried)
    everywhere = [
        tuning.Setting(steps, 0.05 * 2**octave, noise)
        for steps in range(1, 200)
        for octave in range(8)
        for noise in (0.0, 1e-4, 1e-3, 1e-2, 1e-1)
    ]
    least = min(bowl(best)([tuning.Path(at.size, at.noise, (at.steps,))])[at] for at in everywhere)
    assert found.tried[found.setting] < least + 0.5


def test_a_choice_on_the_edge_is_an_error():
    def always_longer(paths: Sequence[tuning.Path]) -> dict[tuning.Setting, float]:
        return {at: 1 / (at.steps * at.size) for path in paths for at in path.settings()}

    with pytest.raises(tuning.EdgeError, match="on the edge of the grid even after 3 growths"):
        tuning.search(tuning.Grid(sizes=(0.1, 0.2)), always_longer)


def test_of_equally_good_settings_the_one_inside_is_chosen():
    def measure(paths: Sequence[tuning.Path]) -> dict[tuning.Setting, float]:
        at_edge = tuning.Setting(40, 0.1)
        return {
            at: 1.0 if at == at_edge else 1.01 if at == tuning.Setting(10, 0.4) else 2.0
            for path in paths
            for at in path.settings()
        }

    found = tuning.search(tuning.Grid(sizes=(0.1, 0.2, 0.4, 0.8)), measure)
    assert (found.setting, found.growths) == (tuning.Setting(10, 0.4), 0)
    assert found.to_dict()["chosen"] == ["--steps", "10", "--step-size", "0.4"]


def test_both_rules_try_the_same_steps_and_as_many_sizes():
    assert PGD.steps == SGLD.steps
    assert len(PGD.sizes) == len(SGLD.sizes)
    assert {0.0, 1e-4, 1e-3} == set(SGLD.noises)
    assert all(v.grid in (None, PGD, SGLD) and "--noise" not in v.flags for vs in VARIANTS.values() for v in vs)
