"""A run file that a stranger made: it reads no set of this machine, and whatever its entries are, the answer is one line."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from report_cases import Page, make_run

from jboost.engine.errors import BadInputError, printable
from jboost.engine.results.run_file import read_run
from jboost.report import write_report
from jboost.report.inputs import find_snapshots


@pytest.fixture
def made(tmp_path) -> SimpleNamespace:
    return make_run(tmp_path / "run")


def rewrite(run: Path, facts: dict[str, Any] | str | None = None, **columns: np.ndarray | bytes) -> Path:
    """Replace the facts and columns of a run file; bytes are a member as it is."""
    with np.load(run) as found:
        arrays = dict(found)
    if facts is not None:
        arrays["run"] = np.array(facts if isinstance(facts, str) else json.dumps(facts))
    with zipfile.ZipFile(run, "w") as archive:
        for name, value in (arrays | columns).items():
            if isinstance(value, bytes):
                archive.writestr(f"{name}.npy", value)
                continue
            buffer = io.BytesIO()
            np.save(buffer, value)
            archive.writestr(f"{name}.npy", buffer.getvalue())
    return run


def facts_of(run: Path) -> dict[str, Any]:
    with np.load(run) as found:
        return json.loads(str(found["run"]))


def changed(run: Path, place: str, value: Any) -> Path:
    facts = facts_of(run)
    *above, key = place.split("/")
    at = facts
    for name in above:
        at = at[int(name) if isinstance(at, list) else name]
    at[key] = value
    return rewrite(run, facts)


@pytest.mark.parametrize("which", ["samples", "boosted"])
@pytest.mark.parametrize("way", ["absolute", "relative", "link"])
def test_a_set_outside_the_runs_folder_is_read_only_if_the_user_names_it(made, tmp_path, which, way) -> None:
    private = tmp_path / "private [1]" / f"{which}.npz"
    private.parent.mkdir()
    shutil.move(getattr(made, which), private)
    path = str(private) if way == "absolute" else f"../private [1]/{which}.npz"
    if way == "link":
        (made.run.parent / "link.npz").symlink_to(private)
        path = "link.npz"
    changed(made.run, which, path)
    out = tmp_path / "page.html"
    with pytest.raises(BadInputError, match=f"outside its own folder.*--{which} ") as e:
        write_report(made.run, out)
    assert not out.exists()
    named = shlex.split(str(e.value).rpartition(f"--{which} ")[2])  # what a shell makes of the remedy
    assert [Path(name).resolve() for name in named] == [private]
    write_report(made.run, out, **{which: private})
    assert out.exists()


def test_snapshots_outside_are_not_measured(made, tmp_path) -> None:
    shutil.move(made.run.parent / "samples.boosted.step5.npz", tmp_path / "private.npz")
    changed(made.run, "summary/snapshots/1/file", "../private.npz")
    usable, remarks = find_snapshots(read_run(made.run), made.boosted)
    assert list(usable) == [1]
    assert "another folder" in remarks[0]
    assert "private" not in remarks[0]


def test_snapshots_beside_an_output_that_the_user_names_are_measured(made, tmp_path) -> None:
    (tmp_path / "runs").mkdir()
    run = Path(shutil.move(made.run, tmp_path / "runs" / "run.npz"))
    for i, step in enumerate((1, 5)):
        changed(run, f"summary/snapshots/{i}/file", f"../run/samples.boosted.step{step}.npz")
    usable, remarks = find_snapshots(read_run(run), made.boosted)
    assert list(usable) == [1, 5]
    assert remarks == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_recorded_distance_that_is_no_number_does_not_pass_for_a_match(made, tmp_path, value) -> None:
    records = np.full(len(made.records), value, np.float32)
    rewrite(made.run, l2=records)
    with pytest.raises(BadInputError, match="L2 distance"):
        write_report(made.run, tmp_path / "page.html")


def test_the_check_of_distances_alone_refuses_what_is_not_a_number(made, tmp_path, monkeypatch) -> None:
    from jboost.report import inputs

    found = inputs.open_inputs(made.run)
    found.run.records["l2"] = np.nan
    with pytest.raises(BadInputError, match="are not the sets of"):
        found.read(np.arange(3))


FIGURES = ["steps_used", "seconds", "images_per_second", "realness_before", "realness_after", "l2_moved", "step_size", "l0", "eps",
           "accuracy_before", "accuracy_after"]  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e300, -1e300])
def test_figures_that_are_not_finite_are_shown_as_missing(made, tmp_path, value) -> None:
    facts = facts_of(made.run)
    facts["summary"] |= dict.fromkeys(FIGURES, value)
    facts["summary"]["snapshots"] = [
        taken | {"realness": value, "accuracy": value} for taken in facts["summary"]["snapshots"]
    ]
    rewrite(
        made.run, facts, realness_before=np.full(60, np.nan, np.float32), realness_after=np.full(60, np.inf, np.float32)
    )
    write_report(made.run, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.facts["time"] == "\u2013 s, \u2013 images/s"
    _, realness, accuracy = page.tables["The run"]
    assert realness[1:] == ["\u2013"] * 3
    assert accuracy[1:3] == ["\u2013"] * 2
    text = page.text.split("</style>")[-1].split("<script>")[0]
    assert "nan" not in text.lower().replace("resonan", "")
    assert "inf," not in text


WRONG = [None, -1, "x", True, [], {}, [None], 10**400, "\x00"]
KEEPS = {
    "samples": ["x"], "boosted": ["x"], "class_names": [None, []], "model": [{}], "versions": [{}],
    "summary/lossy": [None],
    "summary/snapshots": [[]], "summary/engines_failed": [{}], "summary/not_finite_at": [[]],
    "summary/early_stop": [True], "summary/snapshots/0/file": ["x"],
    "reading": [{}], "reading/resize": [None], "reading/background": [None], "reading/class_folders": [None],
    "reading/images_key": [None, "x", "\x00"], "reading/labels_key": [None, "x", "\x00"],
}  # fmt: skip
TEXTS = ("engine", "dtype", "device", "update", "objective", "labels", "norm", "rounding")
NONES = (
    "realness",
    "realness_before",
    "realness_after",
    "accuracy_before",
    "accuracy_after",
    "eps",
    "first_step",
    "straightness",
    "noise",
    "l0",
    "norm",
    "peak_memory",
)


def refusal(run: Path, folder: Path) -> str | None:
    try:
        write_report(run, folder / "page.html")
    except BadInputError as e:
        return str(e)
    return None


def test_every_entry_is_typed(made, tmp_path) -> None:
    facts = facts_of(made.run)
    places = [
        *facts,
        *(f"reading/{key}" for key in facts["reading"]),
        *(f"summary/{key}" for key in facts["summary"]),
        *(f"summary/snapshots/0/{key}" for key in facts["summary"]["snapshots"][0]),
    ]
    refused = 0
    for place in places:
        key = place.split("/")[-1]
        for value in WRONG:
            changed(made.run, place, value)
            said = refusal(made.run, tmp_path)
            if said is not None:
                refused += 1
                assert len(said) < 700, place
                assert printable(said) == said
            elif key == "version" or (isinstance(value, int) and not isinstance(value, bool)):
                pass  # numbers: true is 1, and 1 the version
            else:
                text = key in TEXTS and isinstance(value, str)
                null = key in (*NONES, "accuracy") and value is None
                assert text or null or value in KEEPS.get(place, []), (place, value)
            rewrite(made.run, facts)
    assert refused > 150


BROKEN = {
    "a list": "[]",
    "no JSON": "{",
    "nested": "[" * 100_000,
    "another format": '{"format": "x"}',
    "another version": '{"format": "jboost run", "version": [9]}',
    "no summary": '{"format": "jboost run", "version": 1}',
}


@pytest.mark.parametrize("case", BROKEN)
def test_facts_that_are_no_facts_are_one_line(made, case) -> None:
    rewrite(made.run, BROKEN[case])
    with pytest.raises(BadInputError, match="boost") as e:
        read_run(made.run)
    assert len(str(e.value)) < 600
    assert "\n" not in str(e.value)


def test_records_that_do_not_fit_are_refused(made) -> None:
    good = made.run.read_bytes()
    claims = b"\x93NUMPY\x01\x00v\x00{'descr': '<i4', 'fortran_order': False, 'shape': (1000000000000,), }"
    for columns in (
        {"steps": np.zeros(59, "<i4")},
        {"steps": np.full(60, 21, "<i4")},
        {"steps": np.full(60, -1, "<i4")},
        {"steps": np.zeros(60)},
        {"steps": np.int32(0)},
        {"l2": np.full(60, b"a")},
        {"steps": claims.ljust(128)},
    ):
        made.run.write_bytes(good)
        rewrite(made.run, **columns)
        with pytest.raises(BadInputError, match="is not a run file of jboost"):
            read_run(made.run)


def test_names_of_an_update_that_nobody_registered_are_text(made, tmp_path) -> None:
    """Not a pattern to format."""
    changed(made.run, "summary/{0.__class__}<b>", 3.5)
    changed(made.run, "summary/{x}", "a")
    write_report(made.run, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "{0.  class  }&lt;b&gt; 3.5" in text
    assert "{x} a" in text


def test_a_run_file_from_before_redone_images_were_counted_is_read(made, tmp_path) -> None:
    facts = facts_of(made.run)
    del facts["summary"]["redone"]
    rewrite(made.run, facts)
    assert refusal(made.run, tmp_path) is None
