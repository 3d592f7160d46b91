"""`--on ray` without Ray: its options, the workers for a cluster, kinds of machines, and who imports Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jboost.cli.main import _run
from jboost.engine.errors import BadInputError, FailureError
from jboost.engine.shards.plan import Plan, Shard
from jboost.on_ray.job import Job
from jboost.on_ray.machines import check_kinds, cpu_kind
from jboost.on_ray.run import RayOptions, check_options, plan_layout
from jboost.on_ray.tries import count_try, forget_tries, forget_try
from jboost.shard_work import ShardRun

GPU_NODE, CPU_NODE = {"CPU": 32.0, "GPU": 8.0}, {"CPU": 16.0}
#: A `ray` that cannot be imported, for processes whose path begins with its folder.
NO_RAY = "raise ImportError('no ray here')\n"


@pytest.mark.parametrize(
    ("nodes", "options", "device", "threads", "expected"),
    [
        ([CPU_NODE], {}, "auto", 0, (1, 16, 16, 0.0)),
        ([CPU_NODE, {"CPU": 8.0}], {}, "auto", 0, (3, 8, 8, 0.0)),
        ([CPU_NODE], {"workers": 3}, "auto", 0, (3, 5, 5, 0.0)),
        ([CPU_NODE], {}, "auto", 4, (4, 4, 4, 0.0)),
        ([{"CPU": 2.0}], {"workers": 3}, "auto", 0, (3, 1, 1, 0.0)),
        ([GPU_NODE, GPU_NODE, {"CPU": 4.0}], {}, "auto", 0, (16, 4, 1, 1.0)),
        ([GPU_NODE], {"gpus_per_worker": 0.5}, "cuda", 0, (16, 2, 1, 0.5)),
        ([GPU_NODE], {"gpus_per_worker": 2}, "auto", 0, (4, 8, 1, 2)),
        ([GPU_NODE], {}, "cpu", 0, (1, 32, 32, 0.0)),
        ([GPU_NODE], {"gpus_per_worker": 0, "workers": 2}, "auto", 1, (2, 1, 1, 0.0)),
    ],
)
def test_workers_fill_the_cluster(nodes, options, device, threads, expected) -> None:
    layout = plan_layout(nodes, RayOptions(**options), device, threads)
    assert (layout.workers, layout.threads, layout.cpus, layout.gpus) == expected


@pytest.mark.parametrize(
    ("nodes", "options", "device", "threads", "said"),
    [
        ([CPU_NODE], {}, "cuda", 0, "no machine of the cluster has a GPU"),
        ([CPU_NODE], {"gpus_per_worker": 1}, "auto", 0, "the most is 0; give another --gpus-per-worker"),
        ([GPU_NODE], {"gpus_per_worker": 9}, "auto", 0, "the most is 8"),
        ([CPU_NODE], {}, "auto", 17, "has 17 processors for a worker: the most is 16"),
        ([{}], {}, "auto", 0, "ray start --num-cpus"),
    ],
)
def test_a_cluster_without_room_for_a_worker_is_refused(nodes, options, device, threads, said) -> None:
    with pytest.raises(BadInputError, match=said):
        plan_layout(nodes, RayOptions(**options), device, threads)


@pytest.mark.parametrize(
    ("options", "device", "said"),
    [
        ({"workers": 0}, "auto", "at least one worker"),
        ({"gpus_per_worker": -1}, "auto", "below 0"),
        ({"gpus_per_worker": float("nan")}, "auto", "below 0"),
        ({}, "cuda:1", "give --device cuda, or leave it out"),
        ({"gpus_per_worker": 0}, "cuda", "leave one of them out"),
    ],
)
def test_options_that_cannot_be_are_refused(options, device, said) -> None:
    job = Job(ShardRun(Plan(Path("in"), ()), Path("out")), "bundle", device)
    with pytest.raises(BadInputError, match=said):
        check_options(job, RayOptions(**options))


def test_machines_of_one_kind_are_taken_and_others_refused(tmp_path) -> None:
    kinds = []
    for name, flags in (("old", "fpu avx avx2 fma"), ("new", "fpu avx avx2 fma avx512f amx_bf16")):
        (tmp_path / name).write_text(
            f"processor : 0\nvmx flags : x\nflags\t\t: {flags}\nprocessor : 1\nflags : other\n"
        )
        kinds.append(cpu_kind(tmp_path / name))
    assert kinds[0].endswith(" avx fma avx2")
    check_kinds({"a": kinds[0], "b": kinds[0]})
    check_kinds({})
    with pytest.raises(BadInputError, match=r"\(only c has avx512f amx_bf16\).*--allow-mixed"):
        check_kinds({"a": kinds[0], "b": kinds[0], "c": kinds[1]})
    with pytest.raises(BadInputError, match=r"\(a has NVIDIA H100; b has NVIDIA A100\)"):
        check_kinds({"a": "NVIDIA H100", "b": "NVIDIA A100"})
    with pytest.raises(BadInputError, match="a has NVIDIA H100; b has no GPU"):
        check_kinds({"a": "NVIDIA H100", "b": "no GPU"})


def test_tries_are_counted_across_processes_and_forgotten(tmp_path) -> None:
    one, other = (Shard(name, tmp_path / name, 0) for name in ("a.npz", "b.npz"))
    assert [count_try(tmp_path, one) for _ in range(3)] == [1, 2, 3]
    assert count_try(tmp_path, other) == 1
    forget_try(tmp_path, one)
    assert count_try(tmp_path, one) == 1
    forget_tries(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_the_folder_says_so(tmp_path) -> None:
    job = Job(ShardRun(Plan(Path("in"), ()), Path("out")), "bundle", folder=str(tmp_path / "elsewhere"))
    with pytest.raises(FailureError, match=r"has no folder .*elsewhere.*that all machines of the cluster share"):
        job.enter()


@pytest.fixture
def without_ray(tmp_path) -> dict[str, str]:
    """The environment of a process in which importing Ray fails."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "ray.py").write_text(NO_RAY)
    return os.environ | {"PYTHONPATH": str(tmp_path / "path")}


def test_neither_the_package_nor_a_plain_run_imports_ray(jboost, without_ray, bundle, samples, tmp_path) -> None:
    code = "import sys, jboost, jboost.cli.main; assert 'ray' not in sys.modules, 'imported'"
    assert subprocess.run([sys.executable, "-c", code], env=without_ray).returncode == 0
    out = tmp_path / "out.npz"
    options = ("--bundle", bundle, "--engine", "eager", "--device", "cpu", "--steps", 1)
    done = jboost("boost", samples, "-o", out, *options, environment=without_ray)
    assert done.returncode == 0, done.stderr


def test_without_the_package_one_line_says_what_to_install(jboost, without_ray, bundle, samples, tmp_path) -> None:
    done = jboost("boost", samples, "-o", tmp_path / "out", "--bundle", bundle, "--on", "ray", environment=without_ray)
    assert done.returncode == 2
    assert 'pip install "jboost[ray]"' in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--on", "dask"), "give --on ray"),
        (("--workers", 2), "--workers is of a run on Ray; add --on ray"),
        (("--address", "auto"), "--address is of a run on Ray"),
        (("--allow-mixed",), "--allow-mixed is of a run on Ray"),
        (("--on", "ray", "--shard", "0/2"), "leave out --shard"),
        (("--on", "ray", "--devices", "cpu,cpu"), "leave out --devices"),
        (("--on", "ray", "--workers", 0), "at least one worker"),
        (("--on", "ray", "--address", "ray://head:10001"), "--address auto"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(options, said, bundle, samples, tmp_path, capsys) -> None:
    code = _run([str(a) for a in ("boost", samples, "-o", tmp_path / "out", "--bundle", bundle, *options)])
    err = capsys.readouterr().err
    assert code == 2, err
    assert said in err
    assert len(err.splitlines()) == 1
