"""Each protocol gives the numbers of the program it follows: of torch-fidelity and pytorch-fid by calling them, of OpenAI's
evaluator, which needs TensorFlow 1, by a transcription of its arithmetic into numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from foreign_networks import declare_operators
from PIL import Image

from jboost.engine.errors import BadInputError
from jboost.evaluation import evaluate
from jboost.evaluation.extractors.base import Identity
from jboost.evaluation.extractors.inception import Inception
from jboost.evaluation.extractors.open import open_extractor
from jboost.evaluation.metrics.moments import RunningMoments
from jboost.evaluation.sets import Features, save_features

INCEPTION = Identity("Inception (2015-12-05)", "inception", "weights.pth", "0" * 64, input_max=255.0)


@pytest.fixture(scope="module")
def torch_fidelity():
    declare_operators()
    return pytest.importorskip("torch_fidelity")


@pytest.fixture(scope="module")
def pytorch_fid():
    declare_operators()
    pytest.importorskip("pytorch_fid")
    from pytorch_fid import fid_score, inception

    return fid_score, inception


# --- the network -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)  # 48 x 40: the axes are told apart


@pytest.fixture(scope="module")
def weights(tmp_path_factory, pictures) -> Path:
    """Random weights under the published names; the batch statistics are those of pictures, so that features tell them apart."""
    torch.manual_seed(0)
    network = Inception().train()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network(torch.from_numpy(pictures).permute(0, 3, 1, 2).float())
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(state, path)
    return path


def assert_equal_rows(found: np.ndarray, expected: np.ndarray) -> None:
    """Within 1e-3 of what the images differ by, which is stricter than of the numbers themselves."""
    spread = np.linalg.norm(expected - expected.mean(0))
    assert spread > 0.1 * np.linalg.norm(expected)  # the pictures are told apart
    assert np.linalg.norm(found - expected) < 1e-3 * spread


def test_features_and_logits_are_torch_fidelitys(torch_fidelity, weights, pictures) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    theirs = FeatureExtractorInceptionV3("i", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights))
    features, logits = theirs(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    found = open_extractor(str(weights), "cpu")(pictures)
    assert_equal_rows(found.features, features.numpy())
    assert_equal_rows(found.logits, logits.numpy())


def test_features_are_pytorch_fids_with_its_resize_and_scale(pytorch_fid, weights, pictures, monkeypatch) -> None:
    _, inception = pytorch_fid
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda url, progress: torch.load(weights))
    with torch.no_grad():
        (maps,) = inception.InceptionV3().eval()(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255)
    expected = maps.squeeze(3).squeeze(2).numpy()
    found = open_extractor(str(weights), "cpu", tensorflow=False)(pictures).features
    assert_equal_rows(found, expected)
    other = open_extractor(str(weights), "cpu")(pictures).features  # TensorFlow's resize is another
    assert np.linalg.norm(other - expected) > 0.02 * np.linalg.norm(expected - expected.mean(0))


# --- the formulas, on the same features -----------------------------------------------------------------------------------------


def inception_like(n: int, dimensions: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Features float32 [n, dimensions] as Inception's: not negative, correlated, with norms around 20."""
    rng, shared = np.random.default_rng(seed), np.random.default_rng(1)
    mix = shared.normal(size=(40, dimensions)) / 40**0.5
    x = rng.normal(size=(n, 40)) @ mix + 0.4 * rng.normal(size=(n, dimensions)) + 1
    return (np.maximum(0, x + shift * shared.normal(size=dimensions)) * (500 / dimensions) ** 0.5).astype(np.float32)


def sorted_logits(n: int, classes: int, seed: int) -> np.ndarray:
    """Logits float32 [n, classes] of a set that is sorted by class."""
    z = np.random.default_rng(seed).normal(size=(n, classes))
    z[np.arange(n), np.arange(n) * classes // n] += 5
    return z.astype(np.float32)


def save(path: Path, features: np.ndarray, logits: np.ndarray, spatial: np.ndarray, protocol: str) -> str:
    moments = RunningMoments()
    moments.add(torch.from_numpy(spatial))
    kept = (torch.from_numpy(features), torch.from_numpy(logits), moments.finish(), protocol)
    save_features(path, Features(len(features), (64, 64, 3), INCEPTION, *kept))
    return str(path)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return {
        "ref": inception_like(1300, 96, 2),
        "set": inception_like(1200, 96, 3, 0.1),
        "logits": sorted_logits(1200, 12, 4),
        "ref spatial": inception_like(1300, 14, 5),
        "set spatial": inception_like(1200, 14, 6, 0.2),
    }


def measured(folder: Path, arrays: dict[str, np.ndarray], protocol: str, *metrics: str) -> dict[str, float]:
    ref = save(folder / "ref.npz", arrays["ref"], arrays["logits"].repeat(2, 0)[:1300], arrays["ref spatial"], protocol)
    samples = save(folder / "set.npz", arrays["set"], arrays["logits"], arrays["set spatial"], protocol)
    result = evaluate(ref, [samples], resamples=0, device="cpu", metrics=metrics)
    assert result.protocol == protocol  # the files say it
    found = {key: number.value for key, number in result.samples[0].metrics.items()}
    return found | {f"{key} deviation": number.deviation for key, number in result.samples[0].metrics.items()}


def test_formulas_are_torch_fidelitys(torch_fidelity, arrays, tmp_path, monkeypatch) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    x, y, z = (torch.from_numpy(arrays[name]) for name in ("set", "ref", "logits"))
    fid = fid_statistics_to_metric(fid_features_to_statistics(x), fid_features_to_statistics(y), False)
    kid = kid_features_to_metric(x, y, kid_subsets=20, verbose=False)
    monkeypatch.setattr("jboost.evaluation.metrics.kid.SUBSETS", 20)
    isc, prc = isc_features_to_metric(z), prc_features_to_metric(x, y, verbose=False)
    found = measured(tmp_path, arrays, "torch-fidelity", "fid", "kid", "is", "precision", "recall")
    expected = {
        "fid": fid["frechet_inception_distance"],
        "kid": kid["kernel_inception_distance_mean"],
        "is": isc["inception_score_mean"],
        "is deviation": isc["inception_score_std"],
        "precision": prc["precision"],
        "recall": prc["recall"],
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-3)
    assert 0.1 < expected["recall"] < 0.9


class _Hollow:
    """Pickled as an array of this shape, without its numbers."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def __reduce__(self) -> tuple[object, ...]:
        return np.empty(0).__reduce__()[0], (np.ndarray, self.shape, "d")


def test_statistics_in_torch_fidelitys_cache_are_a_reference(torch_fidelity, arrays, tmp_path) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.utils_torch import torch_atomic_save

    x, y = (fid_features_to_statistics(torch.from_numpy(arrays[name])) for name in ("set", "ref"))
    torch_atomic_save(y, tmp_path / "ref-inception-v3-compat-stat-fid-2048.pt")
    samples = save(tmp_path / "set.npz", arrays["set"], arrays["logits"], arrays["set spatial"], "torch-fidelity")
    ref, how = tmp_path / "ref-inception-v3-compat-stat-fid-2048.pt", {"metrics": ["fid"], "device": "cpu"}
    result = evaluate(ref, [samples], resamples=0, **how)
    assert (result.protocol, result.reference_kind) == ("torch-fidelity", "statistics")
    expected = fid_statistics_to_metric(x, y, False)["frechet_inception_distance"]
    assert result.samples[0].metrics["fid"].value == pytest.approx(expected, rel=1e-3)
    with pytest.raises(BadInputError, match="were made by torch-fidelity, and this evaluation follows pytorch-fid"):
        evaluate(ref, [samples], protocol="pytorch-fid", **how)
    torch.save({"mu": [1], "sigma": torch.ones}, tmp_path / "code.pt")  # code is never loaded
    torch.save({"mu": _Hollow(10**5), "sigma": _Hollow(10**5, 10**5)}, tmp_path / "hollow.pt")
    for forged in ("code.pt", "hollow.pt"):
        with pytest.raises(BadInputError, match="never loads"):
            evaluate(tmp_path / forged, [samples], **how)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_distance_is_pytorch_fids(pytorch_fid, arrays, tmp_path) -> None:
    fid_score, _ = pytorch_fid
    x, y = arrays["set"].astype(np.float64), arrays["ref"].astype(np.float64)
    expected = fid_score.calculate_frechet_distance(
        x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False)
    )
    assert measured(tmp_path, arrays, "pytorch-fid", "fid")["fid"] == pytest.approx(expected, rel=1e-3)


def openai_frechet(a: np.ndarray, b: np.ndarray) -> float:
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(s.dot(t)).real
    difference = a.mean(0) - b.mean(0)
    return float(difference.dot(difference) + np.trace(s) + np.trace(t) - 2 * np.trace(root))


def openai_inception_score(logits: np.ndarray, size: int = 5000) -> float:
    scores = []
    for start in range(0, len(logits), size):
        z = logits[start : start + size].astype(np.float64)
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        scores.append(np.exp(np.mean(np.sum(p * (np.log(p) - np.log(p.mean(0, keepdims=True))), 1))))
    return float(np.mean(scores))


def openai_distances(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Of one block: in float16 if all of them are finite, else in float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        for dtype in (np.float16, np.float32):
            a, b = u.astype(dtype), v.astype(dtype)
            norm_a, norm_b = np.sum(np.square(a), 1), np.sum(np.square(b), 1)
            product = (a.astype(np.float32) @ b.astype(np.float32).T).astype(dtype)
            found = np.maximum(norm_a[:, None] - dtype(2) * product + norm_b[None], dtype(0))
            if np.isfinite(found).all():
                return found.astype(np.float32)
    raise AssertionError


def openai_precision_recall(ref: np.ndarray, samples: np.ndarray) -> tuple[float, float]:
    """Of sets below 10,000 images, which are one block."""
    of_ref, of_samples = (np.partition(openai_distances(x, x), 3, axis=1)[:, 3] for x in (ref, samples))
    between = openai_distances(ref, samples)
    return (between <= of_ref[:, None]).any(0).mean(), (between <= of_samples[None]).any(1).mean()


def test_formulas_are_openais(arrays, tmp_path) -> None:
    found = measured(tmp_path, arrays, "openai", "fid", "sfid", "is", "precision", "recall", "density")
    precision, recall = openai_precision_recall(arrays["ref"], arrays["set"])
    expected = {
        "fid": openai_frechet(arrays["set"], arrays["ref"]),
        "sfid": openai_frechet(arrays["set spatial"], arrays["ref spatial"]),
        "is": openai_inception_score(arrays["logits"]),
        "precision": precision,
        "recall": recall,
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-3)
    assert found["is deviation"] is None  # the evaluator prints none
    exact = measured(tmp_path, arrays, "torch-fidelity", "precision", "density")
    assert abs(exact["precision"] - precision) > 2e-3  # float16 shows
    assert exact["density"] == found["density"]  # not the evaluator's: as ever


def test_features_that_overflow_float16_are_compared_in_float32(arrays, tmp_path) -> None:
    large = {name: x * 40 if name in ("ref", "set") else x for name, x in arrays.items()}
    found = measured(tmp_path, large, "openai", "precision", "recall")
    expected = openai_precision_recall(large["ref"], large["set"])
    assert (found["precision"], found["recall"]) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("count", [4999, 5000, 12_000])
def test_parts_of_the_inception_score_are_openais(tmp_path, count) -> None:
    """The last part may be shorter; a set sorted by class loses most of its score, which is said."""
    arrays = {
        "ref": inception_like(20, 4, 1),
        "set": inception_like(count, 4, 2),
        "logits": sorted_logits(count, 12, 3),
    }
    arrays |= {"ref spatial": inception_like(20, 3, 4), "set spatial": inception_like(20, 3, 5)}
    ref = save(tmp_path / "ref.npz", arrays["ref"], arrays["logits"][:20], arrays["ref spatial"], "openai")
    samples = save(tmp_path / "set.npz", arrays["set"], arrays["logits"], arrays["set spatial"], "openai")
    options = {"resamples": 20, "metrics": ["is"], "device": "cpu"}
    number = evaluate(ref, [samples], **options).samples[0].metrics["is"]
    assert number.value == pytest.approx(openai_inception_score(arrays["logits"]), rel=1e-3)
    assert number.interval[0] < number.value < number.interval[1]
    if count <= 5000:
        assert number.warning is None
        return
    shuffled = openai_inception_score(np.random.default_rng(0).permutation(arrays["logits"]))
    assert number.value < 0.8 * shuffled
    assert "the set is sorted" in number.warning
    assert f"score {shuffled:.1f}" in number.warning


@pytest.mark.parametrize(("count", "in_order"), [(10_003, True), (10_003, False), (5003, False)])
def test_a_sorted_set_with_a_short_last_part_has_both_faults(tmp_path, count, in_order) -> None:
    """Parts of three images differ by chance: they do not make a shuffled set a sorted one."""
    logits = sorted_logits(count, 12, 3)
    if not in_order:
        logits = np.random.default_rng(0).permutation(logits)
        logits[-3:] = logits[-1]  # a last part of one class
    features, spatial = inception_like(count, 4, 2), inception_like(20, 3, 5)
    samples = save(tmp_path / "set.npz", features, logits, spatial, "openai")
    result = evaluate(samples, [samples], resamples=0, metrics=["is"], device="cpu")
    said = result.samples[0].metrics["is"].warning
    parts = 3 if count > 10_000 else 2
    assert f"the last of {parts} parts has 3 images for 12 classes: the score is too low" in said
    assert ("the set is sorted: shuffled, its parts of 5,000 images score" in said) == in_order


# --- whole programs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # matrix roots of 2,048 dimensions
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_command_prints_what_the_programs_print(
    jboost, torch_fidelity, pytorch_fid, weights, pictures, tmp_path, monkeypatch
) -> None:
    fid_score, inception = pytorch_fid
    rng = np.random.default_rng(1)
    for name, count in (("real", 14), ("made", 12)):
        (tmp_path / name).mkdir()
        coarse = rng.integers(0, 256 if name == "real" else 200, (count, 6, 5, 3), dtype=np.uint8)
        for i, image in enumerate(coarse.repeat(8, 1).repeat(8, 2)):
            Image.fromarray(image).save(tmp_path / name / f"{i:02d}.png")
    folders = [str(tmp_path / "real"), str(tmp_path / "made")]

    def printed(protocol: str) -> dict[str, float]:
        out = tmp_path / f"{protocol}.json"
        how = ("--features", weights, "--metrics", "fid,is", "--bootstrap", 0, "--device", "cpu", "--json", out)
        done = jboost("eval", *folders, "--protocol", protocol, *how)
        assert done.returncode == 0, done.stderr
        return {key: n["value"] for key, n in json.loads(out.read_text())["samples"][0]["metrics"].items()}

    theirs = torch_fidelity.calculate_metrics(
        input1=folders[1], input2=folders[0], fid=True, isc=True, cuda=False, cache=False, verbose=False, save_cpu_ram=True,
        feature_extractor_weights_path=str(weights), batch_size=4,
    )  # fmt: skip
    found = printed("torch-fidelity")
    assert found["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert found["is"] == pytest.approx(theirs["inception_score_mean"], rel=1e-3)
    assert printed("openai")["fid"] == pytest.approx(found["fid"])
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda url, progress: torch.load(weights))
    expected = fid_score.calculate_fid_given_paths(folders, 4, "cpu", 2048, num_workers=0)
    assert printed("pytorch-fid")["fid"] == pytest.approx(expected, rel=1e-3)
    assert abs(expected - found["fid"]) > 2e-3 * expected  # the programs differ
