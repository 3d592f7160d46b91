"""`jboost report`: what the page says, against the records; what it refuses; and the page in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from report_cases import NAMES, Page, make_run

from jboost.cli.main import main
from jboost.engine.errors import BadInputError
from jboost.engine.results.run_file import write_run
from jboost.engine.results.summary import image_means
from jboost.engine.samples.npz import NpzSamples
from jboost.evaluation import evaluate
from jboost.report import write_report
from jboost.report.axis import round_values, value_texts
from jboost.report.metrics import Yardstick
from jboost.report.selection import over_classes

FACTORY = """
import torch

def make():
    return lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> SimpleNamespace:
    made = make_run(tmp_path_factory.mktemp("desk") / "run", stem="<script>alert(2)&")
    made.html = made.run.with_name("report.html")
    write_report(made.run, made.html)
    made.page = Page(made.html.read_text(encoding="utf-8"))
    return made


def test_the_key_numbers_and_settings_are_the_runs(made) -> None:
    r, page = made.records, made.page
    _, realness, accuracy = page.tables["The run"]
    known = r[~r["failed"]]
    before, after = (float(known[f"realness_{when}"].astype(float).mean()) for when in ("before", "after"))
    assert realness == ["realness, mean", f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}"]
    before, after = (100 * float(known[f"correct_{when}"].mean()) for when in ("before", "after"))
    assert accuracy == ["accuracy", f"{before:.1f}%", f"{after:.1f}%", f"{after - before:+.1f} points"]
    facts = page.facts
    assert facts["steps used"] == f"{r['steps'].mean():.2f} of 20 on average"
    assert facts["stopped early"].startswith(f"{r['stopped'].sum()} (")
    assert f"{r['l2'].mean():.3f} on average" in facts["L2 moved"]
    assert facts["L2 moved"].endswith(f"at most {r['l2'].max():.3f}")
    assert facts["time"] == "12.5 s, 4.8 images/s"
    assert facts["peak memory"] == "256 MiB"
    assert (facts["retried in fp32"], facts["failed, left unchanged"]) == ("1", "2")
    assert (facts["engine"], facts["batch size"], facts["seed"]) == ("onnx, bf16, cpu", "32", "7")
    assert (facts["update"], facts["objective"]) == ("pgd, 20 steps of 0.15 (l2, within 3)", "joint, l0 2.7500")
    assert (facts["model"], facts["checkpoint"]) == ("small_resnet8", "SHA-256 0123456789abcdef")
    head = made.page.text.split("</header>")[0].split("<header>")[1]
    assert "60 images of 16 × 16" in head
    assert "pgd 20 × 0.15, objective joint" in head


def test_the_table_by_class_is_that_of_the_records(made) -> None:
    rows = made.page.tables["By class"][2:]
    assert [row[0] for row in rows] == NAMES
    for c, row in enumerate(rows):
        own = made.records[made.labels == c]
        assert row[1] == str(len(own))
        known = own[~own["failed"]]
        assert [float(x) for x in row[2:4]] == pytest.approx(
            [known["realness_before"].mean(), known["realness_after"].mean()], abs=6e-4
        )
        shares = [float(x.rstrip("%")) / 100 for x in row[4:6]]
        assert shares == pytest.approx([known["correct_before"].mean(), known["correct_after"].mean()], abs=6e-4)
        assert [float(x) for x in row[6:]] == pytest.approx([own["steps"].mean(), own["l2"].mean()], abs=6e-3)


def test_histograms_count_every_image_once(made) -> None:
    bars = [re.fullmatch(r"(\d+) steps: (\d+) images", text) for text in made.page.tooltips]
    counts = {int(bar[1]): int(bar[2]) for bar in bars if bar}
    steps, times = np.unique(made.records["steps"], return_counts=True)
    assert counts == dict(zip(steps.tolist(), times.tolist(), strict=True))
    for when in ("before", "after"):
        bars = [re.fullmatch(rf"(\S+) to (\S+): (\d+) images {when}", text) for text in made.page.tooltips]
        assert sum(int(bar[3]) for bar in bars if bar) == 60
        for bar in filter(None, bars):
            values = made.records[f"realness_{when}"]
            low, high = float(bar[1]), float(bar[2])
            assert ((values >= low - 1e-3) & (values <= high + 1e-3)).sum() >= int(bar[3]) > 0


def test_curves_go_from_the_samples_over_the_snapshots_to_the_end(made) -> None:
    rows = made.page.tables["Over steps and images"]
    assert [row[0] for row in rows] == ["steps", "0", "1", "5", "20"]
    s = made.summary
    expected = [s["realness_before"], 0.4, 0.8, s["realness_after"]]
    assert [float(row[1]) for row in rows[1:]] == pytest.approx(expected, abs=6e-5)
    dots = [text for text in made.page.tooltips if re.fullmatch(r"\d+ steps: [\d.]+", text)]
    assert [float(text.split(": ")[1]) for text in dots] == pytest.approx(expected, rel=1e-3)
    shares = [text for text in made.page.tooltips if re.fullmatch(r"\d+ steps: [\d.]+%", text)]
    assert shares[1:3] == ["1 steps: 51.0%", "5 steps: 55.0%"]


def test_thumbnails_show_the_images_and_their_signed_difference(made) -> None:
    before, after, difference = (made.page.images(kind) for kind in ("before", "after", "difference"))
    assert len(before) > 12
    factor = int(re.search(r"amplified (\d+) times", made.page.text)[1])
    assert factor > 1
    for i in before:
        np.testing.assert_array_equal(before[i], made.before[i])
        np.testing.assert_array_equal(after[i], made.after[i])
        change = made.after[i].astype(int) - made.before[i]
        np.testing.assert_array_equal(difference[i], (128 + factor * change).clip(0, 255))


def test_captions_and_groups_follow_the_records(made) -> None:
    r = made.records
    captions = [text for text in made.page.captions if "image " in text]
    assert len(captions) == 24
    indices = []
    for caption in captions:
        i = int(re.search(r"image (\d+)", caption)[1])
        indices.append(i)
        assert caption.startswith(NAMES[made.labels[i]])
        assert f"realness {r['realness_before'][i]:.3f} → {r['realness_after'][i]:.3f}" in caption
        assert re.search(rf"\b{r['steps'][i]} steps?, L2 {r['l2'][i]:.3f}", caption)
        assert ("stopped early" in caption) == (r["stopped"][i] and not r["failed"][i])
    even, most, least = indices[:12], indices[12:18], indices[18:]
    assert sorted(made.labels[even].tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    assert most == np.argsort(-r["l2"], kind="stable")[:6].tolist()
    moved = np.flatnonzero(r["l2"] > 0)
    assert least == moved[np.argsort(r["l2"][moved], kind="stable")][:6].tolist()


def test_failures_and_retries_are_noted(made) -> None:
    notes = " | ".join(made.page.items)
    assert "2 images (3, 4): the gradient or logit was not finite, even in float32, so they stayed unchanged" in notes
    assert "1 image (9): the gradient was not finite in bf16; retried in float32" in notes
    still = ((made.records["l2"] == 0) & ~made.records["failed"]).sum()
    assert f"{still} of 60 images did not move." in notes


def test_names_are_text_and_the_page_needs_nothing_but_itself(made) -> None:
    page = made.page
    for name in (NAMES[0], "<script>alert(2)"):
        assert name not in page.text
        assert html.escape(name) in page.text
    assert [attributes for tag, attributes in page.attributes if tag == "script"] == [{}, {}]
    for tag, attributes in page.attributes:
        assert tag not in ("iframe", "object", "embed", "form", "base")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                assert (value or "").startswith(("data:", "#"))
    assert not re.search(r"https?://|@import|url\(", page.text)


def test_without_labels_l0_or_finite_numbers(tmp_path) -> None:
    made = make_run(tmp_path, labelled=False, names=None, snapshots=(), steps=0)
    records, summary = made.records, made.summary | {"l0": None, "peak_memory": None, "early_stop": False}
    records["realness_before"][:2] = np.nan
    records["l2"] = 0
    np.savez(made.boosted, made.before)
    summary |= image_means(records, False)
    write_run(
        made.run, records, summary, samples=made.samples, boosted=made.boosted, class_names=None, model={"architecture": "x"}
    )  # fmt: skip
    write_report(made.run, tmp_path / "report.html", images=4)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "By class" not in page.tables
    known = records[np.isfinite(records["realness_before"]) & ~records["failed"]]
    before, after = (known[f"realness_{when}"].astype(float).mean() for when in ("before", "after"))
    assert page.tables["The run"][1:] == [["realness, mean", f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}"]]
    assert any(item.startswith("2 images (0, 1): the network gives no finite logit") for item in page.items)
    assert "accuracy" not in page.text.split("<style>")[1].split("</style>")[1].split("Realness is")[0]
    assert page.text.count("No image moved.") == 2
    assert any("the model's prediction" in item for item in page.items)
    assert "nan" not in page.text.lower().split("</style>")[1].split("base64")[0]


def test_of_a_big_set_only_the_drawn_images_are_read_and_the_page_stays_small(tmp_path, monkeypatch) -> None:
    made = make_run(tmp_path, size=256, noise=True, snapshots=())
    seen: list[int] = []
    read = NpzSamples.read
    monkeypatch.setattr(NpzSamples, "read", lambda self, indices: seen.extend(indices) or read(self, indices))
    out = tmp_path / "report.html"
    write_report(made.run, out, images=16)
    assert 0 < len(seen) <= 2 * 16
    assert out.stat().st_size < 5e6
    text = out.read_text(encoding="utf-8")
    shrunk = int(re.search(r"Images are drawn at 1/(\d+) of their size", text)[1])
    assert shrunk > 1
    for i, image in Page(text).images("before").items():
        blocks = made.before[i].reshape(256 // shrunk, shrunk, 256 // shrunk, shrunk, 3).mean((1, 3))
        assert np.abs(image - blocks).max() <= 0.5


@pytest.fixture
def measured(tmp_path, monkeypatch) -> SimpleNamespace:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report_extractor.py").write_text(FACTORY)
    rng = np.random.default_rng(5)
    real = rng.integers(0, 256, (80, 4, 4, 3)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
    np.savez(tmp_path / "ref.npz", real)
    return make_run(tmp_path / "run")


def test_metrics_are_those_of_eval_and_a_missing_snapshot_is_noted(measured, tmp_path) -> None:
    (tmp_path / "run" / "samples.boosted.step5.npz").unlink()
    asked = {"features": "report_extractor:make", "metrics": ("fid", "precision"), "device": "cpu", "resamples": 20}
    write_report(measured.run, tmp_path / "r.html", yardstick=Yardstick(tmp_path / "ref.npz", **asked))
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    sets = [measured.samples, tmp_path / "run" / "samples.boosted.step1.npz", measured.boosted]
    expected = [sample.metrics for sample in evaluate(tmp_path / "ref.npz", sets, **asked).samples]
    rows = {row[0]: row for row in page.tables["Metrics"]}
    for key, title in (("fid", "FID"), ("precision", "precision")):
        for cell, metrics in ((2, expected[0]), (3, expected[-1])):
            number, low, high = map(float, re.findall(r"\d+\.\d+", rows[title][cell])[:3])
            assert (number, low, high) == pytest.approx(
                (metrics[key].value, *metrics[key].interval), rel=1e-3, abs=6e-5
            )
        assert rows[title][4].startswith(f"{expected[-1][key].change_percent:+.1f}%")
    over = page.tables["Over steps and images"]
    assert [row[0] for row in over] == ["steps", "0", "1", "5", "20"]
    assert over[0][3:] == ["FID", "precision"]
    assert [float(over[i][3]) for i in (1, 2, 4)] == pytest.approx([m["fid"].value for m in expected], rel=1e-4)
    assert over[3][3:] == ["–", "–"]
    assert any("snapshot after 5 steps" in item for item in page.items)
    assert {text for text in page.tooltips if text in ("FID", "precision")} == {"FID", "precision"}


def test_the_command_writes_the_page_where_it_is_told(installed, jboost, made, tmp_path) -> None:
    done = installed("report", made.run, "-o", tmp_path / "page.html", "--images", 8)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "page.html") in done.stdout
    assert len([c for c in Page((tmp_path / "page.html").read_text("utf-8")).captions if "image " in c]) == 8
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    done = jboost("report", tmp_path / "none.npz", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "none.npz does not exist" in done.stderr


@pytest.mark.parametrize(
    ("spoil", "options", "says"),
    [
        (lambda m: m.samples.unlink(), (), "--samples FILE"),
        (lambda m: m.boosted.unlink(), (), "--boosted FILE"),
        (lambda m: np.savez(m.boosted, m.after[:50]), (), "holds 50 images"),
        (lambda m: np.savez(m.boosted, m.after[:, :8]), (), "does not change their size"),
        (lambda m: np.savez(m.boosted, m.after[::-1]), (), "are not the sets of"),
        (lambda m: m.samples.write_text("text"), (), "not an npz"),
        (lambda m: np.savez(m.run, m.after), (), "not a run"),
        (None, ("-o", "no/such/report.html"), "does not exist"),
        (None, ("-o", "run"), ".html"),
        (None, ("-o", "page.html"), "is a folder"),
        (None, ("--images", "3"), "4 to 400"),
        (None, ("--images", "401"), "4 to 400"),
        (None, ("--features", "report_extractor:make"), "needs --ref"),
        (None, ("--metrics", "fid"), "needs --ref"),
        (None, ("--ref", "ref.npz"), "--features is missing"),
        (None, ("--ref", "ref.npz", "--features", "report_extractor:make", "--metrics", "fit"), "unknown metric"),
        (None, ("--ref", "none.npz", "--features", "report_extractor:make"), "none.npz"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_nothing_is_written(
    measured, tmp_path, capsys, spoil, options, says
) -> None:
    if spoil is not None:
        spoil(measured)
    (tmp_path / "page.html").mkdir()
    there = sorted(tmp_path.rglob("*.html*"))
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(measured.run), *options])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*.html*")) == there


def test_moved_sets_are_found_where_the_options_say(tmp_path) -> None:
    made = make_run(tmp_path / "run")
    moved = [path.rename(tmp_path / path.name) for path in (made.samples, made.boosted)]
    with pytest.raises(BadInputError, match="is not there"):
        write_report(made.run, tmp_path / "report.html")
    write_report(made.run, tmp_path / "report.html", samples=moved[0], boosted=moved[1])


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.booleans())
@example(0.0078125, 1e-6, False)
def test_round_values_enclose_the_data_and_are_told_apart(low, span, whole) -> None:
    high = low + span
    values = round_values(low, high, whole=whole)
    steps = np.diff(values)
    slack = 1e-6 * max(1e-3, abs(low), abs(high))
    assert values[0] <= low + slack
    assert values[-1] >= high - slack
    assert 2 <= len(values) <= 9
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)
    if span > 1e-4 * abs(low):
        assert len(set(value_texts(values))) == len(values)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=80), st.integers(2, 30))
def test_classes_are_drawn_as_evenly_as_they_can_be(labels, most) -> None:
    array = np.array(labels)
    chosen = over_classes(array, len(labels), most)
    classes, available = np.unique(array, return_counts=True)
    assert len(set(chosen.tolist())) == len(chosen)
    if len(classes) > most:
        assert len(chosen) == len(np.unique(array[chosen])) == most
        return
    assert len(chosen) == min(most, len(labels))
    counts = np.array([(array[chosen] == c).sum() for c in classes])
    # A class with fewer than the largest share has given all it has, or is one short.
    assert ((counts >= counts.max() - 1) | (counts == available)).all()


PROBE = """
<script>
addEventListener("load", () => {
  console.log("the probe ran");
  const after = [...document.querySelectorAll("img.after")];
  const clips = () => after.map((image) => getComputedStyle(image).clipPath);
  const move = (input, value) => { input.value = value; input.dispatchEvent(new Event("input")); };
  const seen = { start: clips() };
  move(document.querySelector("input.cut"), 20);
  seen.one = clips();
  move(document.querySelector("input.all"), 90);
  seen.all = clips();
  seen.images = [...document.images].every((image) => image.complete && image.naturalWidth > 0);
  seen.stacked = after.every((image) => image.previousElementSibling.getBoundingClientRect().x === image.getBoundingClientRect().x);
  seen.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  seen.requests = performance.getEntriesByType("resource").filter((r) => !r.name.startsWith("data:")).length;
  document.body.dataset.seen = JSON.stringify(seen);
});
</script>
"""


def test_the_page_in_a_browser(made, tmp_path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    copy = tmp_path / "probed.html"
    copy.write_text(made.page.text.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [
        browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=600,900", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=3000", "--dump-dom", copy.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert len(said) == 1, said  # the probe's own line, and no error, no refused request
    assert "the probe ran" in said[0]
    seen = json.loads(html.unescape(re.search(r'data-seen="([^"]*)"', done.stdout)[1]))
    assert set(seen["start"]) == {"inset(0px 0px 0px 50%)"}
    assert seen["one"] == ["inset(0px 0px 0px 20%)", *seen["start"][1:]]
    assert set(seen["all"]) == {"inset(0px 0px 0px 90%)"}
    assert seen["images"]
    assert seen["stacked"]
    assert seen["overflow"] == 0
    assert seen["requests"] == 0
