"""The benchmark: the command as a user runs it, and the arithmetic behind its figures. Nothing depends on how fast anything is."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_cases import result_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import jboost as package
from jboost.bench import measure, plot
from jboost.bench.baselines import Autograd
from jboost.bench.contestants import YARDSTICK, Contestant, Entrant, Work
from jboost.bench.first_batch import FirstBatch
from jboost.bench.flops import image_step_flops
from jboost.bench.machine import Machine
from jboost.bench.measure import gradient_difference, make_plan, run_plan
from jboost.bench.peaks import Peak
from jboost.bench.result import notes, table_rows
from jboost.bench.timing import alternate, best_of, spread
from jboost.engine.bundle import Bundle
from jboost.engine.system.machine import cpu_model

KEYS = {
    "name", "kind", "dtype", "about", "ms_per_image_step", "q1_ms", "q3_ms", "ratio", "images_per_second", "gflops",
    "peak_fraction", "gradient_difference", "first_batch", "early_stopping",
}  # fmt: skip


def test_every_figure_comes_with_its_machine_in_json(installed, bundle) -> None:
    done = installed(
        "bench", "--bundle", bundle, "--engine", "onnx,trt", "--dtype", "fp32,bf16", "-b", "4", "--rounds", "3",
        "--no-torch-compile", "--preset", "cd2", "--threads", "1", "--device", "cpu", "--json", "-",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) == {"schema", "machine", "work", "peaks", "contestants", "skipped"}
    assert set(result["machine"]) == set(Machine.__dataclass_fields__)
    # The package's version need not name the build, as torch's own does: 2.11.0+cu130.
    assert result["machine"]["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert result["machine"]["threads"] == 1
    assert result["work"]["steps"] == 7
    assert set(result["peaks"]) == {"fp32"}  # of bf16 nothing runs
    assert [c["name"] for c in result["contestants"]] == ["autograd", "onnx"]
    # Asked for and not served: said, not dropped.
    assert {(s["name"], s["dtype"]) for s in result["skipped"]} == {("trt", None), ("onnx", "bf16")}
    assert "not run: onnx bf16: " in done.stderr
    assert "autograd (baseline)" in done.stderr
    for c in result["contestants"]:
        assert set(c) == KEYS
        assert c["q1_ms"] <= c["ms_per_image_step"] <= c["q3_ms"]
        assert c["gradient_difference"] < 1e-4
        first = c["first_batch"]["cached"]
        assert set(first) == set(FirstBatch.__dataclass_fields__)
        parts = first["import_seconds"] + first["load_seconds"] + first["first_call_seconds"]
        assert first["seconds"] == pytest.approx(parts)
        assert c["first_batch"]["cold"] is None
    # Its own memory: the process that started it has torch loaded, onnx's has not.
    autograd, onnx = (c["first_batch"]["cached"] for c in result["contestants"])
    assert onnx["peak_mib"] < autograd["peak_mib"] / 2


@pytest.mark.slow
def test_torch_compile_starts_cold_once(bundle) -> None:
    result = run_plan(make_plan(bundle, engines=["eager"], dtypes=["bf16"], batch_size=4, rounds=2, device="cpu"))
    found = {(c["name"], c["dtype"]): c for c in result["contestants"]}
    assert set(found) == {
        ("autograd", "fp32"), ("torch.compile", "fp32"), ("torch.compile", "bf16"), ("eager", "bf16"),
    }  # fmt: skip
    for dtype in ("fp32", "bf16"):
        first = found["torch.compile", dtype]["first_batch"]
        assert first["cached"]["first_call_seconds"] < first["cold"]["first_call_seconds"]


def test_bad_input_is_one_line_and_exit_code_2(jboost, bundle) -> None:
    for arguments, word in ((("--engine", "cuda"), "choose from"), (("--plot", "no/folder/b.png"), "--plot")):
        done = jboost("bench", "--bundle", bundle, *arguments)
        assert done.returncode == 2
        assert word in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stdout == ""


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"engines": ["eager", "tensorflow"]}, "unknown engine 'tensorflow'"),
        ({"dtypes": ["fp8"]}, "unknown dtype 'fp8'"),
        ({"resolution": 999}, "--resolution 999"),
        ({"batch_size": 0}, "-b must be"),
        ({"rounds": 0}, "--rounds must be"),
        ({"preset": "gan"}, "unknown preset"),
        ({"objective": "mse"}, "unknown objective"),
        ({"device": "tpu"}, "device"),
    ],
)
def test_a_plan_is_refused_before_any_work(bundle, options, word) -> None:
    with pytest.raises(package.BadInputError, match=word):
        make_plan(bundle, **options)


def test_what_is_not_said_follows_from_the_bundle(bundle) -> None:
    plan = make_plan(bundle, torch_compile=False, device="cpu")
    assert (plan.work.objective, plan.work.l0, plan.work.resolution, plan.work.batch_size) == ("joint", 3.0, 16, 32)
    assert (plan.dtypes, plan.steps) == (("fp32",), 35)
    assert plan.contestants[0] == YARDSTICK
    assert {c.label for c in plan.contestants} >= {"autograd fp32", "eager fp32", "onnx fp32"}
    assert ("compile", "fp32") in {(s.name, s.dtype) for s in plan.skipped}
    assert make_plan(bundle, torch_compile=False, preset="released-sgld", device="cpu").work.objective == "logit"


def test_torch_compile_without_a_compiler_is_said(bundle, monkeypatch) -> None:
    def no_compiler() -> str:
        raise RuntimeError("none")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", no_compiler)
    plan = make_plan(bundle, engines=["eager"], device="cpu")
    assert [c.label for c in plan.contestants] == ["autograd fp32", "eager fp32"]
    assert "C++ compiler" in next(s.why for s in plan.skipped if s.name == "torch.compile")


def test_an_engine_that_fails_to_open_leaves_the_others(bundle, monkeypatch) -> None:
    opened = Entrant.__init__

    def fail(self: Entrant, contestant: Contestant, work: Work) -> None:
        if contestant.name == "onnx":
            raise package.BadInputError("the graph is damaged")
        opened(self, contestant, work)

    monkeypatch.setattr(Entrant, "__init__", fail)
    monkeypatch.setattr(measure, "measure_peaks", lambda *_: {})
    plan = make_plan(
        bundle,
        engines=["eager", "onnx"],
        batch_size=2,
        rounds=1,
        device="cpu",
        torch_compile=False,
        first_batches=False,
    )
    result = run_plan(plan)
    assert [c["name"] for c in result["contestants"]] == ["autograd", "eager"]
    assert result["skipped"] == [{"name": "onnx", "dtype": "fp32", "why": "the graph is damaged"}]
    assert result["contestants"][0]["peak_fraction"] is None


def test_the_baselines_compute_the_engines_gradient(bundle) -> None:
    work = Work(str(bundle), "joint", 3.0, 16, 3, "cpu")
    entrants = [Entrant(contestant, work) for contestant in (Contestant("eager", "fp32"), YARDSTICK)]
    want, got = (entrant.gradient() for entrant in entrants)
    assert want.shape == (3, 3, 16, 16)
    assert gradient_difference(got, want) < 1e-6
    assert gradient_difference(2 * want, want) == pytest.approx(1)


def test_flops_are_those_counted_by_hand() -> None:
    # 3x3 convolution 3 -> 8 at 10x10, stride-2 one 8 -> 4 (5x5 out), and a linear layer 100 -> 7.
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(100, 7)
    ).requires_grad_(False)  # fmt: skip
    products = 100 * 8 * 3 * 9 + 25 * 4 * 8 * 9 + 100 * 7
    # A product and a sum each, once forward and once for the input's gradient; none for the weights'.
    for batch in (1, 5):
        assert image_step_flops(lambda x: net(x).square().sum(), torch.rand(batch, 3, 10, 10)) == 2 * 2 * products


def test_flops_of_a_bundle_are_the_forward_twice(bundle) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    with Autograd(Bundle(bundle), objective="joint", l0=3.0, device="cpu") as eager:
        x, y = torch.rand(2, 3, 16, 16), torch.tensor([0, 1])
        with FlopCounterMode(display=False) as forward:
            eager.loss(x, y)
        assert image_step_flops(lambda x: eager.loss(x, y), x) == forward.get_total_flops()  # of two images


@settings(deadline=None)
@given(names=st.sets(st.text(max_size=3), min_size=1, max_size=6), rounds=st.integers(1, 9), calls=st.integers(1, 3))
def test_everyone_gets_one_turn_a_round_and_none_always_goes_first(names, rounds, calls) -> None:
    now, said = 0.0, []

    def call(name: str, cost: float) -> None:
        nonlocal now
        now += cost
        said.append(name)

    costs = {name: 1.0 + i for i, name in enumerate(sorted(names))}
    taken = alternate(
        {name: lambda name=name: call(name, costs[name]) for name in costs},
        rounds=rounds,
        calls_per_turn=calls,
        clock=lambda: now,
        pause=1.0,
        sleep=lambda _: None,
    )
    assert len(said) == rounds * len(costs) * calls
    per_round = len(said) // rounds
    firsts = []
    for i in range(rounds):
        part = said[i * per_round : (i + 1) * per_round]
        assert sorted(part) == sorted(list(costs) * calls)
        assert len([name for name, _ in itertools.groupby(part)]) == len(costs)  # a turn is not split
        firsts.append(part[0])
    assert max(firsts.count(name) for name in costs) - min(firsts.count(name) for name in costs) <= 1
    for name, cost in costs.items():
        assert taken[name] == pytest.approx([cost] * rounds)  # each is charged for its own time alone


def test_resting_and_waiting_are_where_they_belong() -> None:
    now, order = 0.0, []

    def advance(what: str, seconds: float) -> None:
        nonlocal now
        now += seconds
        order.append(what)

    taken = alternate(
        {"a": lambda: advance("call", 1)},
        rounds=1,
        calls_per_turn=2,
        wait=lambda: advance("wait", 10),
        pause=100,
        clock=lambda: now,
        sleep=lambda seconds: advance("rest", seconds),
    )
    assert order == ["rest", "wait", "call", "call", "wait"]
    assert taken == {"a": [6.0]}  # two calls and the wait for both, over two


def test_best_of_is_the_shortest_and_keeps_to_its_time() -> None:
    costs = iter([9.0, 3.0, 2.0, 4.0, 1.0])
    now = 0.0

    def call() -> None:
        nonlocal now
        now += next(costs)

    assert (
        best_of(call, at_most=10, seconds=15.0, clock=lambda: now) == 2.0
    )  # 9 + 3 + 2 + 4 > 15: the last is not tried


def test_ratios_and_fractions() -> None:
    result = result_of()
    assert result["peaks"] == {"fp32": asdict(Peak(500.0, 600.0))}
    eager, onnx, bf16 = result["contestants"]
    assert (eager["ms_per_image_step"], eager["ratio"]) == (12.0, 1.0)  # a median: 30 moves nothing
    assert (onnx["ms_per_image_step"], onnx["q1_ms"], onnx["q3_ms"]) == (4.0, 3.5, 4.5)
    assert onnx["ratio"] == pytest.approx(3)
    assert onnx["images_per_second"] == pytest.approx(1000 / (4 * 15))
    assert onnx["gflops"] == pytest.approx(1.2 / 0.004)
    assert onnx["peak_fraction"] == pytest.approx(300 / 600)  # of the convolution, of its dtype
    assert (bf16["ratio"], bf16["peak_fraction"]) == (0.5, None)
    assert json.loads(json.dumps(result)) == result


def test_the_table_says_who_did_not_run() -> None:
    rows = table_rows(result_of())
    assert {len(row) for row in rows} == {8}
    assert rows[2][:2] == ("onnx", "fp32")
    assert {"3.00", "50%"} <= set(rows[2])
    assert notes(result_of()) == ["not run: trt: absent"]


def test_quartiles() -> None:
    assert asdict(spread([1.0, 2.0, 3.0, 4.0, 5.0])) == {"median": 3.0, "q1": 2.0, "q3": 4.0}
    assert asdict(spread([7.0])) == {"median": 7.0, "q1": 7.0, "q3": 7.0}


def test_the_cpu_has_a_name_everywhere(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Some CPU: 2 GHz\n")
    assert cpu_model(tmp_path / "cpuinfo") == "Some CPU: 2 GHz"
    assert cpu_model(tmp_path / "none")


def test_a_picture_of_every_contestant(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    plot.draw(result_of(), tmp_path / "bench.png")
    with Image.open(tmp_path / "bench.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for colour in ("#9aa5b1", "#2563a8"):  # a baseline's bar and an engine's
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == rgb).all(axis=1).sum() > 1000
    with pytest.raises(package.BadInputError, match="--plot"):
        plot.draw(result_of(), tmp_path)


def test_a_picture_needs_matplotlib(monkeypatch) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    with pytest.raises(package.BadInputError, match="pip install matplotlib"):
        plot.check_matplotlib()


def test_the_cost_of_early_stopping_is_measured_where_a_status_costs_time(bundle, monkeypatch) -> None:
    work = Work(str(bundle), "bce", None, 16, 4, "cpu")
    with monkeypatch.context() as patch:
        patch.setattr("jboost.bench.contestants.device_kind", lambda device: "cuda")  # with a flight, on this machine
        entrant = Entrant(Contestant("eager", "fp32"), work)
    found = entrant.early_stopping(35)
    entrant.close()
    assert (set(found), found["mean_steps"]) == ({"mean_steps", "status_every", "waits", "relative_time"}, 10.5)
    assert found["relative_time"] >= 1
    result = result_of()
    assert notes(result) == ["not run: trt: absent"]  # a CPU's status costs nothing
    result["contestants"][1]["early_stopping"] = {
        "mean_steps": 4.5,
        "status_every": 1,
        "waits": True,
        "relative_time": 1.034,
    }
    assert notes(result)[1] == (
        "onnx fp32: images that stop after 4.5 of 15 steps take 1.03 times the time of their steps, with the row status read "
        "every step"
    )
