"""Every kind of file or folder that jboost replaces, small, and the function of jboost that writes it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from report_cases import make_run
from train_cases import configuration

from jboost.cli import bench, boost, main, terminal, train
from jboost.engine.bundle import BundleConfig
from jboost.engine.results.identity import partial_folder
from jboost.engine.results.run_file import write_run
from jboost.engine.results.store import DiskStore
from jboost.engine.results.summary import Summary
from jboost.engine.samples import write_samples
from jboost.engine.system.cache import write_cached
from jboost.engine.system.trust import remember
from jboost.evaluation import evaluate
from jboost.evaluation.extractors.base import Identity
from jboost.evaluation.sets import Features, save_features
from jboost.export.bundle import export_bundle
from jboost.report import write_report
from jboost.trainer.architectures import build_network
from jboost.trainer.checkpoint import ModelInfo, save_checkpoint
from jboost.trainer.config import save_config
from jboost.trainer.data import storage
from jboost.trainer.joint import JointModel
from jboost.trainer.state import FILE, State, save_state
from jboost.trainer.validation import Validated, Validation
from jboost.trainer.watch import LOG, Log


@dataclass
class Case:
    """What is written where.

    Attributes:
        target: the file or folder.
        write: writes it, with the same contents each time.
        old: the contents that are replaced, by file for a folder; None: nothing is there.
    """

    target: Path
    write: Callable[[], object]
    old: bytes | dict[str, bytes] | None = b"old\n"


Maker = Callable[[Path, pytest.MonkeyPatch], Case]
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)


def samples(name: str, old: bytes | None = b"old\n") -> Maker:
    def make(folder: Path, patch: pytest.MonkeyPatch) -> Case:
        out = folder / name
        return Case(out, lambda: write_samples(out, IMAGES.shape, iter(np.split(IMAGES, 3)), labels=np.arange(6)), old)

    return make


def partial_results(folder: Path, patch: pytest.MonkeyPatch) -> Case:
    def write() -> None:
        DiskStore(folder / "out.npz", IMAGES.shape, {"engine": "eager"}, resume=False, snapshots=(1, 2)).close()

    return Case(partial_folder(folder / "out.npz"), write, None)


def run_file(folder: Path, patch: pytest.MonkeyPatch) -> Case:
    made, out = make_run(folder / "made"), folder / "run.npz"
    sets = {"samples": made.samples, "boosted": made.boosted}
    return Case(out, lambda: write_run(out, made.records, made.summary, class_names=None, model={}, **sets))


def report(folder: Path, patch: pytest.MonkeyPatch) -> Case:
    made = make_run(folder / "run")
    return Case(folder / "page.html", lambda: write_report(made.run, folder / "page.html", images=4))


def features(path: Path, rows: int = 20) -> None:
    values = torch.randn(rows, 4, generator=torch.Generator().manual_seed(rows))
    save_features(path, Features(rows, (8, 8, 3), Identity("x", "factory", "x:y", "0"), values))


def kept_features(folder: Path, patch: pytest.MonkeyPatch) -> Case:
    return Case(folder / "features.npz", lambda: features(folder / "features.npz"))


def bundle(folder: Path, patch: pytest.MonkeyPatch) -> Case:
    """Export itself; the tracing, seconds of work before anything is replaced, is left out."""

    def write_artefacts(aside: Path, *_: object, **__: object) -> dict[str, float]:
        config = BundleConfig(
            "x", 3, 3, (8,), (0.5,) * 3, (0.5,) * 3, None, None, {"file": "x", "sha256": "0" * 64}, {}, {}
        )
        (aside / "config.json").write_text(config.to_json())
        (aside / "compiled").mkdir()
        (aside / "compiled" / "gradient.pt2").write_bytes(bytes(5000))
        return {}

    patch.setitem(sys.modules, "jboost.export.write", SimpleNamespace(write_artefacts=write_artefacts))
    # The record of trusted bundles is a file of its own, renamed before the bundle is.
    patch.setattr("jboost.export.bundle.trust_bundle", lambda *_: None)
    source = folder / "source"
    source.mkdir()
    save_checkpoint(source / "joint.safetensors", *model())
    old = {"config.json": b"old", "model.safetensors": b"old"}
    return Case(folder / "bundle", lambda: export_bundle(source / "joint.safetensors", folder / "bundle"), old)


def record_of_trust(folder: Path, patch: pytest.MonkeyPatch) -> Case:
    record = folder / "trusted"
    record.mkdir(mode=0o700)
    patch.setenv("JBOOST_TRUST", str(record))
    return Case(record / "bundle-ab.json", lambda: remember("bundle", "ab", {"path": "x" * 1000}))


def model() -> tuple[JointModel, ModelInfo]:
    torch.manual_seed(0)
    mean = (0.5,) * 3
    network = JointModel(build_network("small_resnet2", 4, 3), mean, mean).eval()
    return network, ModelInfo("small_resnet2", 4, 3, mean, mean, resolution=8)


def checkpoint(folder: Path, patch: pytest.MonkeyPatch) -> Case:
    network, info = model()
    return Case(folder / "best.safetensors", lambda: save_checkpoint(folder / "best.safetensors", network, info))


def training_state(folder: Path, patch: pytest.MonkeyPatch) -> Case:
    state = State(3, {"a": torch.arange(500.0)}, {"best": None})
    return Case(folder / FILE, lambda: save_state(folder, state))


def training_config(folder: Path, patch: pytest.MonkeyPatch) -> Case:
    return Case(folder / "config.json", lambda: save_config(folder / "config.json", configuration()))


def training_log(folder: Path, patch: pytest.MonkeyPatch) -> Case:
    lines = [b'{"iteration": %d, "kind": "train"}\n' % i for i in range(1, 5)]
    return Case(folder / LOG, lambda: Log(folder, configuration(), SimpleNamespace(), 2).close(), b"".join(lines))


def training_grid(folder: Path, patch: pytest.MonkeyPatch) -> Case:
    bar = train._Bar(configuration(), folder, terminal.console(stderr=True), trust_code=False)
    validated = Validated(Validation(1, 1, 1, 1, 1, 1), IMAGES, IMAGES, np.arange(6))
    (folder / "grids").mkdir()
    return Case(folder / "grids" / "000003.png", lambda: bar._on_validation(3, validated))


def cache_entry(folder: Path, patch: pytest.MonkeyPatch) -> Case:
    patch.setenv("JBOOST_CACHE", str(folder))
    (folder / "tensorrt").mkdir()
    return Case(folder / "tensorrt" / "a.timings", lambda: write_cached("tensorrt/a.timings", bytes(1000)))


def decompressed_data(folder: Path, patch: pytest.MonkeyPatch) -> Case:
    patch.setenv("JBOOST_CACHE", str(folder / "cache"))
    patch.setattr(storage, "IN_MEMORY", 0)
    np.savez_compressed(folder / "packed.npz", IMAGES)
    storage.npz_array(folder / "packed.npz", "arr_0")
    (target,) = (folder / "cache" / "data").iterdir()
    return Case(target, lambda: storage.npz_array(folder / "packed.npz", "arr_0"))


def boosted(*wanted: str) -> Maker:
    """The command, with a run that was made beforehand instead of the work itself."""

    def make(folder: Path, patch: pytest.MonkeyPatch) -> Case:
        made = make_run(folder / "run")
        patch.setattr(boost, "_run", lambda *_, **__: Summary(**made.summary))
        patch.setattr("jboost.booster.Booster", _NoBooster)
        option, name = wanted
        arguments = ["boost", str(made.samples), "-o", str(made.boosted), option, str(folder / name)]
        return Case(folder / name, lambda: command(arguments))

    return make


class _NoBooster:
    def __init__(self, *_: object, **__: object):
        self.settings = lambda *_, **__: None
        self.bundle = SimpleNamespace(config=SimpleNamespace(in_channels=3, class_names=None))

    def __enter__(self) -> _NoBooster:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def command(arguments: list[str]) -> None:
    code = main._run(arguments)
    assert code == 0, (arguments, code)


def eval_json(folder: Path, patch: pytest.MonkeyPatch) -> Case:
    (folder / "sets").mkdir()
    features(folder / "sets" / "ref.npz")
    ref = str(folder / "sets" / "ref.npz")
    result = evaluate(ref, [ref], metrics=["fid"], resamples=0, device="cpu")
    patch.setattr("jboost.evaluation.evaluate", lambda *_, **__: result)
    return Case(folder / "eval.json", lambda: command(["eval", ref, ref, "--json", str(folder / "eval.json")]))


def bench_json(folder: Path, patch: pytest.MonkeyPatch) -> Case:
    return Case(folder / "bench.json", lambda: bench._write({"contestants": [1, 2]}, str(folder / "bench.json"), None))


def bench_plot(folder: Path, patch: pytest.MonkeyPatch) -> Case:
    figure = pytest.importorskip("matplotlib.figure").Figure
    from bench_cases import result_of

    patch.setattr(figure, "savefig", lambda self, path, format: path.write_bytes(bytes(1000)))  # drawing takes a second
    return Case(folder / "bench.png", lambda: bench._write(result_of(), None, folder / "bench.png"))


KINDS: dict[str, Maker] = {
    "npz": samples("out.npz"),
    "npy": samples("out.npy"),
    "tensors": samples("out.pt"),
    "parquet": samples("out.parquet"),
    "shard": samples("out.tar"),
    "zip": samples("out.zip"),
    "folder": samples("out", None),
    "partial results": partial_results,
    "run file": run_file,
    "report": report,
    "features": kept_features,
    "record of trust": record_of_trust,
    "bundle": bundle,
    "checkpoint": checkpoint,
    "training state": training_state,
    "training config": training_config,
    "training log": training_log,
    "training grid": training_grid,
    "cache entry": cache_entry,
    "decompressed data": decompressed_data,
    "boost's JSON": boosted("--json", "boost.json"),
    "boost's grid": boosted("--grid", "grid.png"),
    "eval's JSON": eval_json,
    "bench's JSON": bench_json,
    "bench's plot": bench_plot,
}
