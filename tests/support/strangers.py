"""Bundles as an attacker makes them: harmless payloads that touch a file, in files whose hashes are right."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from jboost.engine.backends.compiled.packages import artefact_name, forward_name, machine_target, step_name
from jboost.engine.bundle import Bundle, artefact_of

Members = list[tuple[str, bytes]]


class Touch:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def reissue(folder: Path, **changes: Any) -> Path:
    """Write the manifest again, with the hashes of the files as they are now, as a bundle's author can."""
    config = replace(Bundle(folder).config, **changes)
    artefacts = {}
    for name, entry in config.artefacts.items():
        now = artefact_of(folder, entry.file)
        artefacts[name] = replace(entry, sha256=now.sha256, size=now.size)
    (folder / "config.json").write_text(replace(config, artefacts=artefacts).to_json())
    return folder


def copied(bundle: Path, to: Path, **changes: Any) -> Path:
    """A copy that somebody else made: its digest is another, so nobody trusts it."""
    shutil.copytree(bundle, to)
    source = Bundle(bundle).config.source
    return reissue(to, **{"source": source | {"file": "theirs"}, **changes})


def _edited(change: Callable[[dict[str, Any]], None], member: str) -> Callable[[Members, Path], Members]:
    def edit(members: Members, marker: Path) -> Members:
        def new(name: str, data: bytes) -> bytes:
            if not name.endswith(member):
                return data
            content = json.loads(data)
            change(content)
            return json.dumps(content).replace("MARKER", str(marker)).encode()

        return [(name, new(name, data)) for name, data in members]

    return edit


_MODEL = "models/model.json"
_CALL = "__import__('pathlib').Path('MARKER').touch()"


def _shape(model: dict[str, Any]) -> None:
    model["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = _CALL


def _guard(model: dict[str, Any]) -> None:
    model["guards_code"] = [f"{_CALL} is None"]


def _operator(model: dict[str, Any]) -> None:
    model["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.system"
    model["graph_module"]["graph"]["nodes"][0]["inputs"] = [
        {"name": "command", "arg": {"as_string": "touch MARKER"}, "kind": 1}
    ]


def _name(model: dict[str, Any]) -> None:
    text = json.dumps(model["graph_module"]).replace('"name": "x"', '"name": ' + json.dumps(f"x=({_CALL}, None)[1]"))
    model["graph_module"] = json.loads(text)


def _weight(members: Members, marker: Path) -> Members:
    def use_pickle(config: dict[str, Any]) -> None:
        next(iter(config["config"].values()))["use_pickle"] = True

    asked = _edited(use_pickle, "model_weights_config.json")(members, marker)
    return [(n, pickle.dumps(Touch(marker)) if n.endswith("/weight_0") else d) for n, d in asked]


def _opaque(members: Members, marker: Path) -> Members:
    def entry(data: bytes) -> bytes:
        config = json.loads(data)
        config["config"]["c"] = {
            "path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None,
        }  # fmt: skip
        return json.dumps(config).encode()

    edited = [(n, entry(d) if n.endswith("model_constants_config.json") else d) for n, d in members]
    return [*edited, ("archive/data/constants/opaque_obj_0", pickle.dumps(Touch(marker)))]


def _samples(*names: str) -> Callable[[Members, Path], Members]:
    """The last of the members is a pickle; the others are empty, as in a program without sample inputs."""

    def edit(members: Members, marker: Path) -> Members:
        samples = [(f"archive/data/sample_inputs/{name}", b"") for name in names]
        samples[-1] = samples[-1][0], pickle.dumps(Touch(marker))
        return [member for member in members if "sample_inputs" not in member[0]] + samples

    return edit


def _older(members: Members, marker: Path) -> Members:
    model = next(data for name, data in members if name.endswith(_MODEL))
    evil = pickle.dumps(Touch(marker))
    return [
        ("version", b"8.20"), ("serialized_exported_program.json", model), ("serialized_state_dict.pt", evil),
        ("serialized_constants.pt", evil), ("serialized_example_inputs.pt", evil),
    ]  # fmt: skip


#: Ways to run code from ``forward.pt2``, by name: (members, file to touch) -> members.
PAYLOADS: dict[str, Callable[[Members, Path], Members]] = {
    "shape": _edited(_shape, _MODEL),
    "guard": _edited(_guard, _MODEL),
    "operator": _edited(_operator, _MODEL),
    "name": _edited(_name, _MODEL),
    "pickled weight": _weight,
    "opaque constant": _opaque,
    "sample inputs": _samples("model.pt"),
    "sample inputs twice": _samples("model.pt", "model.pt"),
    "sample inputs in capitals": _samples("MODEL.PT"),
    "sample inputs in two cases": _samples("model.pt", "Model.pt"),
    "older layout": _older,
}


def poison(forward: Path, payload: str, marker: Path) -> None:
    """Put a payload into a torch.export program."""
    with zipfile.ZipFile(forward) as old:
        members = [(info.filename, old.read(info)) for info in old.infolist()]
    with zipfile.ZipFile(forward, "w") as new:
        for name, data in PAYLOADS[payload](members, marker):
            new.writestr(name, data)


def add_package(bundle: Path, marker: Path, objective: str = "joint", resolution: int = 16) -> None:
    """Add compiled packages for this machine whose library touches `marker` when it is loaded."""
    source, library = bundle / "a.c", bundle / "a.so"
    source.write_text(
        "#include <stdio.h>\n"
        f'__attribute__((constructor)) static void run(void) {{ FILE *f = fopen("{marker}", "w"); if (f) fclose(f); }}\n'
    )
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    (bundle / "compile").mkdir()
    with zipfile.ZipFile(bundle / "compile" / "evil.pt2", "w") as package:
        package.writestr("archive/data/aotinductor/model/a.wrapper.cpp", b"")
        package.writestr("archive/data/aotinductor/model/a.wrapper_metadata.json", b'{"AOTI_DEVICE_KEY": "cpu"}')
        package.writestr("archive/data/aotinductor/model/a.wrapper.so", library.read_bytes())
        package.writestr("archive/archive_format", b"pt2")
        package.writestr("archive/archive_version", b"0")
    source.unlink()
    library.unlink()
    names = {
        artefact_name(objective, "fp32", resolution, "cpu"): objective,
        forward_name("fp32", resolution, "cpu"): None,
    }
    names |= {step_name(kind, resolution, "cpu"): None for kind in ("pgd-l2", "pgd-linf", "sgld")}
    config = Bundle(bundle).config
    entries = {
        name: artefact_of(
            bundle,
            "compile/evil.pt2",
            objective=what,
            resolution=resolution,
            batch_size=4,
            target=machine_target("cpu"),
        )
        for name, what in names.items()
    }
    reissue(bundle, artefacts=config.artefacts | entries)
