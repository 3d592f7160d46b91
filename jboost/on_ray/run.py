"""The driver: settles the run, hands shards' names to workers through Ray Data, and counts what comes back."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

from jboost.engine.errors import BadInputError, FailureError, JboostError, one_line
from jboost.engine.shards.done import RECORDS, clear, is_done
from jboost.engine.shards.plan import Shard
from jboost.engine.shards.record import RunRecord, read_record
from jboost.engine.system.devices import DeviceName
from jboost.engine.system.environment import thread_count
from jboost.engine.system.machine import usable_cores
from jboost.shard_work import Outcome

from .cluster import cluster, load_ray
from .job import Job
from .machines import check_kinds
from .tries import forget_tries
from .worker import AT_ONCE, Settled, ShardWorker, node_kind, settle

#: How often the run is settled again after its worker died.
_RETRIES = 5
#: Variables that workers on other machines need as the command has them.
_PASSED_ON = ("JBOOST_CACHE", "JBOOST_TRUST")
#: Seconds in which killed workers leave the files that they were writing.
_PATIENCE = 10.0


@dataclass(frozen=True)
class RayOptions:
    """Where a run takes place.

    Attributes:
        address: the cluster's; None: this machine alone.
        workers: the number of workers; None: as many as the cluster has room for.
        gpus_per_worker: GPUs of a worker, or a part of one; None: 1 if the cluster has any, else 0.
        allow_mixed: take machines of several kinds.
    """

    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None
    allow_mixed: bool = False


@dataclass(frozen=True)
class Layout:
    """How many workers there are, and what each has.

    Attributes:
        workers: their number.
        threads: CPU threads of each.
        cpus: processors that Ray reserves for each.
        gpus: GPUs of each.
    """

    workers: int
    threads: int
    cpus: int
    gpus: float


def boost_on_ray(
    job: Job,
    options: RayOptions,
    *,
    on_start: Callable[[Layout, Outcome], object],
    on_shard: Callable[[Shard, int, str | None], object],
) -> Outcome:
    """Make all shards of a run on a Ray cluster.

    A worker that dies is started again, and the shards that it had are made again. If this process dies, the same run with
    `resume` goes on.

    Args:
        job: the run.
        options: where.
        on_start: called once with the workers to come and what is done already.
        on_shard: called after each shard with its number of images, and the error if it could not be made.

    Raises:
        BadInputError: the run or the cluster cannot be used.
        FailureError: a worker cannot work, or dies again and again.
    """
    check_options(job, options)
    ray = load_ray(local=options.address is None)
    old = read_record(job.run.out)
    threads = _settled_threads(old) or thread_count()
    at_least = (options.workers or 1) * (threads or max(1, usable_cores() // (options.workers or 1)))
    try:
        with cluster(ray, options.address, cpus=at_least):
            layout = plan_layout(_resources(ray), options, job.device, threads)
            return _run(ray, job, options, layout, on_start, on_shard)
    finally:
        if job.run.out.is_dir():
            _clear(job)


def check_options(job: Job, options: RayOptions) -> None:
    """Refuse options that cannot be.

    Raises:
        BadInputError: there is one.
    """
    if options.workers is not None and options.workers < 1:
        raise BadInputError(f"--workers {options.workers}: at least one worker is needed")
    if options.gpus_per_worker is not None and not options.gpus_per_worker >= 0:
        raise BadInputError(
            f"--gpus-per-worker {options.gpus_per_worker:g} is below 0; give 1, or 0 to compute on CPUs"
        )
    if options.address is not None and "://" in options.address:
        raise BadInputError(
            f"--address {options.address}: Ray Data runs inside the cluster; run the command on one of its machines, with "
            "--address auto"
        )
    device = DeviceName.parse(job.device)
    if device.number is not None:
        raise BadInputError(
            f"--device {job.device}: Ray gives each worker its GPUs; give --device {device.kind}, or leave it out"
        )
    if device.kind == "cuda" and options.gpus_per_worker == 0:
        raise BadInputError("--device cuda needs GPUs, but --gpus-per-worker is 0; leave one of them out")


def _resources(ray: Any) -> list[dict[str, float]]:
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def plan_layout(nodes: list[dict[str, float]], options: RayOptions, device: str, threads: int) -> Layout:
    """The workers for a cluster.

    Args:
        nodes: what each machine has: ``"CPU"`` and ``"GPU"``.
        options: what the user states.
        device: value of ``--device``.
        threads: CPU threads of a worker, as the run's record or ``OMP_NUM_THREADS`` say; 0: those that the machines have.

    Raises:
        BadInputError: no machine has room for a worker.
    """
    gpus = options.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if device != "cpu" and any(node.get("GPU", 0) >= 1 for node in nodes) else 0.0
    if device == "cuda" and gpus == 0:
        raise BadInputError("--device cuda: no machine of the cluster has a GPU; leave it out to compute on CPUs")
    if gpus:
        fits = sum(int(node.get("GPU", 0) / gpus + 1e-6) for node in nodes)
        if not fits:
            most = max((node.get("GPU", 0) for node in nodes), default=0)
            raise BadInputError(
                f"no machine of the cluster has {gpus:g} GPU(s) for a worker: the most is {most:g}; give another "
                "--gpus-per-worker, or 0 to compute on CPUs"
            )
        own = min(node.get("CPU", 1) / (node["GPU"] / gpus) for node in nodes if node.get("GPU", 0) >= gpus)
        return Layout(options.workers or fits, threads or max(1, int(own)), 1, gpus)
    cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if not cores:
        raise BadInputError(
            "no machine of the cluster has a processor for a worker; start one with: ray start --num-cpus N"
        )
    if not threads:
        threads = min(cores) if options.workers is None else max(1, min(min(cores), sum(cores) // options.workers))
    fits = sum(count // threads for count in cores)
    if not fits:
        raise BadInputError(
            f"no machine of the cluster has {threads} processors for a worker: the most is {max(cores)}; set OMP_NUM_THREADS "
            "to that, or begin a new run if this one was begun with more"
        )
    return Layout(options.workers or fits, threads, threads, 0.0)


def _settled_threads(record: RunRecord | None) -> int:
    value = record.identity.get("threads") if record is not None else None
    return value if isinstance(value, int) else 0


def _run(
    ray: Any,
    job: Job,
    options: RayOptions,
    layout: Layout,
    on_start: Callable[[Layout, Outcome], object],
    on_shard: Callable[[Shard, int, str | None], object],
) -> Outcome:
    variables = {name: os.path.abspath(os.environ[name]) for name in _PASSED_ON if name in os.environ}
    remote = {
        "num_cpus": layout.cpus,
        "num_gpus": layout.gpus,
        "runtime_env": {"env_vars": variables | {"OMP_NUM_THREADS": str(layout.threads)}},
    }
    try:
        if not options.allow_mixed:
            _check_machines(ray, layout)
        settled: Settled = ray.get(ray.remote(**remote, max_retries=_RETRIES)(settle).remote(job))
        outcome = settled.outcome
        if outcome.record is None:  # no shard could be opened
            for shard in job.run.plan.shards:
                on_shard(shard, 0, outcome.failed.get(shard.name))
            return outcome
        todo = [shard for shard in job.run.plan.shards if not is_done(job.run.out, shard)]
        outcome.failed.clear()  # the workers meet them again
        on_start(layout, outcome)
        if todo:
            forget_tries(job.run.out)
            same_as = None if options.allow_mixed else (f"{settled.host} (which settled the run)", settled.kind)
            with closing(_rows(ray, job, outcome.record, same_as, todo, layout, remote)) as rows:
                shards = {shard.name: shard for shard in todo}
                for name, images, error in rows:
                    if error:
                        outcome.failed[name] = error
                    else:
                        outcome.done += 1
                        outcome.images += images
                    on_shard(shards[name], images, error or None)
    except Exception as e:
        raise _explained(e) from e
    return outcome


def _rows(
    ray: Any,
    job: Job,
    record: RunRecord,
    same_as: tuple[str, str] | None,
    todo: list[Shard],
    layout: Layout,
    remote: Any,
) -> Generator[tuple[str, int, str], None, None]:
    """What became of each shard, as it becomes known: name, images, error."""
    count = min(layout.workers, len(todo))
    rows = ray.data.from_items([{"shard": shard.name} for shard in todo], override_num_blocks=len(todo))
    pool = ray.data.ActorPoolStrategy(
        size=count,
        max_tasks_in_flight_per_actor=AT_ONCE,
        max_concurrent_calls_per_actor=AT_ONCE,
        enable_true_multi_threading=True,
    )
    made = rows.map_batches(
        ShardWorker, batch_size=1, batch_format="numpy", compute=pool, fn_constructor_args=(job, record, same_as), **remote,
    )  # fmt: skip
    for batch in made.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
        for name, images, error in zip(batch["shard"], batch["images"], batch["error"], strict=True):
            yield str(name), int(images), str(error)


def _check_machines(ray: Any, layout: Layout) -> None:
    """Refuse a cluster of several kinds of machines before any work; each worker looks again at its own."""
    nodes = [
        node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU" if layout.gpus else "CPU", 0) > 0
    ]
    if len(nodes) < 2:
        return
    if layout.gpus:
        types = {str(node["NodeManagerAddress"]): _gpu_type(node["Resources"]) for node in nodes}
        check_kinds({name: kind for name, kind in types.items() if kind})
        return
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = [
        ray.remote(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        )(node_kind).remote()
        for node in nodes
    ]  # fmt: skip
    check_kinds({f"{host} (machine {i})": kind for i, (host, kind) in enumerate(ray.get(asked))})


def _gpu_type(resources: dict[str, float]) -> str:
    """The GPU's type by Ray's name for it: the resource ``accelerator_type:H100``."""
    prefix = "accelerator_type:"
    return " and ".join(f"GPU {name.removeprefix(prefix)}" for name in sorted(resources) if name.startswith(prefix))


def _explained(error: Exception) -> Exception:
    """The error of a worker as the user is told it: jboost's own, else one line with Ray's words."""
    at: BaseException | None = error
    innermost: BaseException = error
    for _ in range(20):
        if at is None:
            break
        if isinstance(at, JboostError):
            return at if type(at).__module__.startswith("jboost.") else _copied(at)
        innermost = at
        at = getattr(at, "cause", None) or at.__cause__ or at.__context__
    if "No module named 'jboost" in str(error):
        return FailureError(
            "a machine of the cluster has no jboost, or another version; install the same on all of them"
        )
    name = type(error).__name__
    if "Died" in name or "Unavailable" in name or "Crashed" in name or "OutOfMemory" in name:
        return FailureError(
            f"a worker died again and again, or its machine is gone ({one_line(error)}); if memory is short, take fewer "
            "--workers or a smaller -b; go on with the same command and --resume"
        )
    return FailureError(
        f"a worker failed ({type(innermost).__name__}: {one_line(innermost)}); go on with the same command and --resume"
    )


def _copied(error: JboostError) -> JboostError:
    """Ray's stand-in for one of our errors is of both classes, and its text is a traceback."""
    kind = BadInputError if isinstance(error, BadInputError) else FailureError
    cause = getattr(error, "cause", None)
    return kind(str(cause if cause is not None else error))


def _clear(job: Job) -> None:
    """Remove what killed workers were writing, and their locks. These end with the workers, so wait a little for that."""
    out, deadline = job.run.out, monotonic() + _PATIENCE
    while True:
        clear(out, job.run.plan.shards)
        forget_tries(out)
        left = [
            name
            for folder in (out, out / RECORDS)
            if folder.is_dir()
            for name in os.listdir(folder)
            if "~jboost-" in name
        ]
        if not left or monotonic() > deadline:
            return
        sleep(0.1)
