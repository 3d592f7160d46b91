"""A configuration whose digest is right and whose entries are wrong: refused in one line, whatever is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jboost.engine.bundle import Artefact, Bundle, Timing, _digest
from jboost.engine.errors import BadInputError, printable

GOOD = {
    "architecture": "small_resnet8", "num_classes": 2, "in_channels": 3, "resolutions": [16], "mean": [0.5] * 3, "std": [0.5] * 3,
    "l0": 3.0, "class_names": ["a", "b"], "source": {"file": "joint.pt", "sha256": "0" * 64}, "versions": {"jboost": "1"},
    "artefacts": {
        "weights": {
            "file": "model.safetensors", "sha256": "0" * 64, "size": 5, "dtype": "fp32", "batch_size": None, "objective": None,
            "resolution": None, "opset": None, "target": None, "errors": {"worst": 1e-7}, "unverified": None,
        }
    },
    "timings": [{"machine": "m", "engine": "onnx", "dtype": "fp32", "resolution": 16, "batch_size": 32, "ms": 1.5}],
    "schema": 2,
}  # fmt: skip


def written(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(content | {"digest": _digest(content)}))
    return folder


def changed(place: str, value: Any) -> dict[str, Any]:
    content = json.loads(json.dumps(GOOD))
    *above, key = place.split("/")
    at = content
    for name in above:
        at = at[int(name) if isinstance(at, list) else name]
    at[int(key) if isinstance(at, list) else key] = value
    return content


def test_a_configuration_is_read(tmp_path) -> None:
    config = Bundle(written(tmp_path, GOOD)).config
    assert config.artefacts == {"weights": Artefact("model.safetensors", "0" * 64, 5, errors={"worst": 1e-7})}
    assert config.timings == (Timing("m", "onnx", "fp32", 16, 32, 1.5),)
    assert (config.class_names, config.resolutions) == (("a", "b"), (16,))
    for place, value in (("l0", None), ("l0", 3), ("class_names", None), ("timings", []), ("versions", {})):
        Bundle(written(tmp_path, changed(place, value)))


WRONG = [
    None,
    -1,
    0.5,
    "x",
    True,
    [],
    {},
    [None],
    {"a": None},
    10**400,
    10**18,
    float("nan"),
    float("inf"),
    "\x1b[31m" * 9,
]
PLACES = [
    *GOOD,
    *(f"artefacts/weights/{key}" for key in GOOD["artefacts"]["weights"]),
    *(f"timings/0/{key}" for key in GOOD["timings"][0]),
]
RIGHT = {
    "architecture": [str], "l0": [0.5, None, 10**18], "class_names": [None], "versions": [{}], "artefacts": [{}], "timings": [[]],
    "artefacts/weights/file": ["x"], "artefacts/weights/size": [10**18], "artefacts/weights/errors": [{}],
    "artefacts/weights/batch_size": [None, 10**18], "artefacts/weights/opset": [None, 10**18],
    "artefacts/weights/resolution": [None], "artefacts/weights/objective": [None, str], "artefacts/weights/target": [None, str],
    "artefacts/weights/unverified": [None, str], "timings/0/machine": [str], "timings/0/engine": [str],
    "timings/0/batch_size": [10**18], "timings/0/ms": [0.5, 10**18],
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_every_entry_is_typed(tmp_path, place) -> None:
    for value in WRONG:
        if any(
            (r is str and isinstance(value, str)) or (r is value or (r == value and type(r) is type(value)))
            for r in RIGHT.get(place, [])
        ):
            continue
        with pytest.raises(BadInputError) as e:
            Bundle(written(tmp_path, changed(place, value)))
        assert len(str(e.value)) < 600
        assert printable(str(e.value)) == str(e.value)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("num_classes", -5, "num_classes must be a whole number from 1"),
        ("resolutions", [16] * 5000, "5,000 entries"),
        ("resolutions", [-16], "resolutions must be a whole number from 1"),
        ("class_names", ["a"] * 3, "3 names for 2 classes"),
        ("mean", [0.5], "for each channel"),
        ("std", [0.5, 0.0, 0.5], "above 0"),
        ("source", {"file": "a"}, "lacks sha256"),
        ("more", 1, "unknown entry more"),
        ("artefacts/weights/more", 1, "unknown entry more"),
        ("artefacts/weights/file", "../a", "has a '..' part"),
        ("artefacts/weights/file", "/a", "is absolute"),
        ("artefacts/weights/file", "C:\\a", "backslash"),
        ("artefacts/weights/file", "a\x1b[31m", "control characters"),
        ("artefacts/weights/sha256", "zz", "64 hexadecimal digits"),
        ("artefacts/weights/dtype", "int8", "fp32, fp16 or bf16"),
        ("artefacts", {str(i): {} for i in range(10_001)}, "10,001 entries"),
    ],
)  # fmt: skip
def test_the_message_says_which_entry_and_why(tmp_path, place, value, said) -> None:
    with pytest.raises(BadInputError, match="do not use this bundle") as e:
        Bundle(written(tmp_path, changed(place, value)))
    assert said in str(e.value)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{", "[" * 100_000, '{"digest": ""}', '{"schema": 2}', "\xff", '{"digest": "", "digest": "", "schema": 2}',
     '{"digest": [], "schema": [[1]]}', '{"digest": "", "schema": ' + "9" * 5000 + "}"],
)  # fmt: skip
def test_what_is_no_configuration_is_refused_in_one_line(tmp_path, text) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(BadInputError) as e:
        Bundle(tmp_path)
    assert len(str(e.value)) < 600
    assert "\n" not in str(e.value)


def test_the_command_says_it_in_one_line(jboost, tmp_path) -> None:
    written(tmp_path, changed("in_channels", "three"))
    for arguments in (("inspect", tmp_path), ("verify", tmp_path), ("bench", "--bundle", tmp_path)):
        done = jboost(*arguments)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1
        assert "in_channels must be a whole number" in done.stderr
