"""Which protocol an evaluation follows, and that numbers of two protocols never meet; every remedy is followed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jboost.cli.main import main
from jboost.engine.errors import BadInputError
from jboost.evaluation import evaluate
from jboost.evaluation.extractors.base import Identity, Outputs
from jboost.evaluation.extractors.inception import Inception
from jboost.evaluation.sets import Features, save_features
from jboost.report.metrics import Yardstick, measure_run

OWN = """
import torch

def make():
    def features(x):
        f = torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return {"features": f, "logits": 8 * f[:, :5]}
    return features
"""
INCEPTION = Identity("Inception (2015-12-05)", "inception", "weights.pth", "0" * 64, input_max=255.0)
QUICK = ("--bootstrap", "0", "--metrics", "fid,is", "--device", "cpu")


def keep(path: Path, protocol: str | None, seed: int) -> None:
    """Features as --save-features writes them of Inception's; without a protocol, as it did before files named one."""
    rows = torch.randn(30, 6, generator=torch.Generator().manual_seed(seed))
    save_features(path, Features(30, (8, 8, 3), INCEPTION, rows, rows, protocol=protocol or "torch-fidelity"))
    if protocol is None:
        with np.load(path) as data:
            arrays = dict(data)
        about = json.loads(str(arrays["about"]))
        del about["protocol"]
        np.savez(path, **arrays | {"about": np.array(json.dumps(about))})


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("desk")
    (root / "own.py").write_text(OWN)
    rng = np.random.default_rng(0)
    real, made = (rng.integers(0, white, (n, 8, 8, 3), dtype=np.uint8) for n, white in ((40, 256), (30, 200)))
    np.savez(root / "ref.npz", real)
    np.savez(root / "set.npz", made)
    (root / "folder").mkdir()
    for i, image in enumerate(real):
        Image.fromarray(image).save(root / "folder" / f"{i:02d}.png")
    for protocol in ("openai", "torch-fidelity", "pytorch-fid"):
        keep(root / f"{protocol}.npz", protocol, 1)
    keep(root / "old.npz", None, 2)
    x = rng.normal(size=(200, 6))
    own = {"mu": x.mean(0), "sigma": np.cov(x.T)}
    spatial = {"mu_s": own["mu"], "sigma_s": own["sigma"]}
    np.savez(root / "published.npz", **own, **spatial)
    np.savez(root / "plain.npz", **own)
    large = {"mu": np.full(2048, 0.4), "sigma": 0.1 * np.eye(2048)}
    large |= {"mu_s": np.full(2023, 0.4), "sigma_s": 0.1 * np.eye(2023)}
    np.savez(root / "virtual.npz", real[:3], **large)
    return root


@pytest.fixture
def there(desk, monkeypatch) -> Path:
    monkeypatch.chdir(desk)
    return desk


def followed(ref: str, *sets: str, protocol: str | None = None, features: str | None = None) -> str:
    how = {"metrics": ["is"], "resamples": 0, "device": "cpu"}
    return evaluate(ref, list(sets), protocol=protocol, features=features, **how).protocol


def test_npz_references_follow_openai_and_others_torch_fidelity(there) -> None:
    assert followed("ref.npz", "set.npz", features="own:make") == "openai"
    assert followed("folder", "set.npz", features="own:make") == "torch-fidelity"
    assert followed("published.npz", "openai.npz") == "openai"
    for protocol in ("openai", "torch-fidelity", "pytorch-fid"):  # a file of features says it
        assert followed(f"{protocol}.npz", f"{protocol}.npz") == protocol
        assert followed("folder", "set.npz", protocol=protocol, features="own:make") == protocol
    assert followed("old.npz", "torch-fidelity.npz") == "torch-fidelity"


def test_help_and_docs_say_that_files_of_features_decide_the_default(jboost) -> None:
    shown = " ".join(re.sub(r"[│|]", " ", jboost("eval", "--help").stdout).split())
    assert "that of features or statistics among the files, else openai for an npz REF, else torch-fidelity" in shown
    docs = (Path(__file__).parents[2] / "docs" / "eval.md").read_text()
    assert "Without `--protocol`, jboost follows the first file of features, REF before SAMPLES." in docs


def test_header_and_json_name_the_protocol(jboost, desk, tmp_path) -> None:
    how = ("ref.npz", "set.npz", "--features", "own:make", *QUICK)
    done = jboost("eval", *how, "--json", tmp_path / "r.json", cwd=desk)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^protocol +openai; .*parts of 5,000 images in their order", done.stdout, re.MULTILINE)
    assert json.loads((tmp_path / "r.json").read_text())["protocol"] == "openai"
    done = jboost("eval", *how, "--protocol", "clean-fid", cwd=desk)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "choose from openai, torch-fidelity, pytorch-fid" in done.stderr


def test_a_report_follows_the_protocol(there) -> None:
    how = {"features": "own:make", "metrics": ("is",), "device": "cpu", "resamples": 0}
    for protocol, said in ((None, "openai"), ("torch-fidelity", "torch-fidelity")):
        yardstick = Yardstick(Path("ref.npz"), protocol=protocol, **how)
        head = dict(measure_run(yardstick, {0: Path("set.npz")}, lambda what, done, total: None).head)
        assert head["protocol"].startswith(f"{said};")


def test_own_extractors_give_the_same_distances_and_neighbours_under_every_protocol(there) -> None:
    found = {}
    for protocol in ("openai", "torch-fidelity", "pytorch-fid", None):
        result = evaluate("ref.npz", ["set.npz"], features="own:make", protocol=protocol, resamples=0, device="cpu")
        assert result.warnings == []
        found[protocol] = {key: n.value for key, n in result.samples[0].metrics.items() if key != "is"}
    assert found["openai"] == found["torch-fidelity"] == found["pytorch-fid"] == found[None]


def refused(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(["eval", *arguments, *QUICK])
    shown = capsys.readouterr()
    assert (exit_.value.code, shown.out, shown.err.count("\n")) == (2, "", 1), shown.err
    return shown.err


def accepted(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(["eval", *arguments, *QUICK])
    shown = capsys.readouterr()
    assert exit_.value.code in (0, None), shown.err
    return shown.out


def test_features_of_two_protocols_are_refused(there, capsys) -> None:
    said = refused(capsys, "old.npz", "torch-fidelity.npz", "--protocol", "pytorch-fid")
    assert "the features in old.npz were made by torch-fidelity, and this evaluation follows pytorch-fid" in said
    assert "give --protocol torch-fidelity" in said
    accepted(capsys, "old.npz", "torch-fidelity.npz", "--protocol", "torch-fidelity")
    for ref, samples in (("openai", "torch-fidelity"), ("pytorch-fid", "openai"), ("torch-fidelity", "pytorch-fid")):
        said = refused(capsys, f"{ref}.npz", f"{samples}.npz")
        assert f"{samples}.npz were made by {samples}, and this evaluation follows {ref}" in said
        assert "make them all by one protocol" in said


def test_statistics_of_openai_are_refused_by_other_protocols(there, capsys) -> None:
    for protocol in ("torch-fidelity", "pytorch-fid"):
        for stated in ((), ("--protocol", protocol), ("--protocol", "openai")):
            said = refused(capsys, "published.npz", f"{protocol}.npz", *stated)
            assert "published.npz were made by openai" in said or f"{protocol}.npz were made by {protocol}" in said
    accepted(capsys, "published.npz", "openai.npz")


def test_statistics_that_do_not_say_their_program_are_asked_about(there, capsys) -> None:
    said = refused(capsys, "plain.npz", "openai.npz")
    assert "plain.npz does not say which program made its statistics" in said
    for protocol in re.findall(r"--protocol ([\w-]+)", said):
        assert re.search(
            rf"protocol +{protocol};", accepted(capsys, "plain.npz", f"{protocol}.npz", "--protocol", protocol)
        )
        other = "openai" if protocol == "pytorch-fid" else "pytorch-fid"
        refused(capsys, "plain.npz", f"{other}.npz", "--protocol", protocol)


def test_a_file_that_names_no_known_protocol_is_refused(there, capsys) -> None:
    for value in ("other", ["openai"], None):
        with np.load("openai.npz") as data:
            arrays = dict(data)
        about = json.loads(str(arrays["about"])) | {"protocol": value}
        np.savez("strange.npz", **arrays | {"about": np.array(json.dumps(about))})
        assert "write them again" in refused(capsys, "strange.npz", "openai.npz")


def test_own_features_may_be_measured_by_another_protocol(there, tmp_path) -> None:
    """Their features do not depend on it."""
    kept, how = tmp_path / "kept.npz", {"features": "own:make", "metrics": ["is"], "resamples": 0, "device": "cpu"}
    evaluate("ref.npz", ["set.npz"], save=kept, **how)
    assert json.loads(str(np.load(kept)["about"]))["protocol"] == "openai"
    assert followed(str(kept), "set.npz", features="own:make") == "openai"
    assert followed("folder", str(kept), features="own:make") == "openai"  # not a folder's torch-fidelity
    assert followed(str(kept), "set.npz", features="own:make", protocol="torch-fidelity") == "torch-fidelity"


@pytest.fixture(scope="module")
def weights(desk) -> Path:
    torch.manual_seed(0)
    torch.save(dict(Inception().state_dict()), desk / "weights.pth")
    return desk / "weights.pth"


def test_images_are_read_by_the_protocol_and_foreign_statistics_left_aside(there, weights, tmp_path) -> None:
    """A file of statistics and images, as OpenAI's."""
    how = {"features": str(weights), "metrics": ["precision", "kid"], "resamples": 0, "device": "cpu"}
    with pytest.raises(BadInputError, match=r"published\.npz were made by openai.*; give --protocol openai, or"):
        evaluate("published.npz", ["set.npz"], protocol="pytorch-fid", **how)
    kept = {}
    for protocol in ("openai", "pytorch-fid"):
        file = tmp_path / f"{protocol}.npz"
        result = evaluate("virtual.npz", ["virtual.npz"], protocol=protocol, save=file, **how)
        aside = any("left aside for pytorch-fid; its 3 images are used" in w for w in result.warnings)
        assert aside == (protocol == "pytorch-fid")
        foreign = [w for w in result.warnings if "jboost's own" in w]
        assert [w.split(" not among")[0] for w in foreign] == [
            {"openai": "KID is", "pytorch-fid": "KID, precision are"}[protocol]
        ]
        kept[protocol] = np.load(file)["features"]
        assert json.loads(str(np.load(file)["about"]))["protocol"] == protocol
    assert not np.allclose(kept["openai"], kept["pytorch-fid"], rtol=1e-2, atol=0)


class Small:
    """Stands in for Inception: six features and three spatial ones, by which nothing takes long."""

    identity = INCEPTION

    def __call__(self, images: np.ndarray) -> Outputs:
        x = images.reshape(len(images), -1).astype(np.float32) / 255
        return Outputs(x[:, :6], x[:, 6:12], x[:, 12:15])


@pytest.mark.parametrize("spatial", [True, False])
def test_kept_features_of_a_file_with_statistics_are_the_same_reference(there, tmp_path, monkeypatch, spatial) -> None:
    """OpenAI's VIRTUAL files hold a few images and the statistics of far more."""
    monkeypatch.setitem(evaluate.__globals__, "open_extractor", lambda *args, **how: Small())
    rng = np.random.default_rng(3)
    far, apart = rng.normal(0.9, 0.2, (500, 6)), rng.normal(0.2, 0.2, (500, 3))
    arrays = {"mu": far.mean(0), "sigma": np.cov(far.T)}
    if spatial:
        arrays |= {"mu_s": apart.mean(0), "sigma_s": np.cov(apart.T)}
    with np.load("ref.npz") as data:
        np.savez(tmp_path / "virtual.npz", data["arr_0"], **arrays)
    how = {"features": "weights.pth", "protocol": "openai", "resamples": 0, "device": "cpu"}
    kept = tmp_path / "kept.npz"
    first = evaluate(tmp_path / "virtual.npz", ["set.npz", "ref.npz"], save=kept, **how)
    # As samples, the file stands for its images.
    again = evaluate(kept, ["set.npz", kept], **how | {"protocol": None})
    assert (again.protocol, again.reference_kind, again.reference_images) == ("openai", "statistics and features", 40)
    assert any("FID and sFID use the statistics in" in w for w in again.warnings)
    own = evaluate("ref.npz", ["set.npz"], **how).samples[0].metrics
    for one, other in zip(first.samples, again.samples, strict=True):
        for key, number in one.metrics.items():
            if key == "sfid" and not spatial:
                assert (number.value, other.metrics[key].value) == (None, None)
                continue
            assert other.metrics[key].value == pytest.approx(number.value, rel=1e-6), key
    assert first.samples[0].metrics["fid"].value > 2 * own["fid"].value
    for stated in ("torch-fidelity", "pytorch-fid"):
        with pytest.raises(BadInputError, match="were made by openai"):
            evaluate(kept, ["set.npz"], **how | {"protocol": stated})
