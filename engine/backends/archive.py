"""torch.export archives, checked and written again, because torch's own reader runs what some of them contain.

`torch.export.load` (torch 2.13) unpickles sample inputs, opaque constants and older layouts, evaluates shape expressions and guards
as Python, and finds any function under ``torch`` by its name. A check beside that reader would have to agree with it on every byte
of a zip. So this module reads the archive itself, keeps what it knows, and writes a new archive, which alone torch reads. Source
lines and paths of the exporter's machine are left out.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Callable
from typing import Any

from jboost.engine.errors import BadInputError

_MODEL, _SAMPLES = "models/model.json", "data/sample_inputs/model.pt"
#: Folder and file names of the tensors; their configuration lies beside them.
_PAYLOADS = {
    "data/weights/model_weights_config.json": ("data/weights/", re.compile(r"weight_\d+")),
    "data/constants/model_constants_config.json": ("data/constants/", re.compile(r"tensor_\d+")),
}
#: What torch's writer adds itself.
_WRITTEN_BY_TORCH = {
    "archive_format",
    "archive_version",
    "byteorder",
    "version",
    ".data/version",
    ".data/serialization_id",
}

_TEXT = re.compile(r"[\w .,>+\-]*", re.ASCII)
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*|", re.ASCII)
#: Keys whose values torch writes into generated Python code as they are.
_NAMES = {"name", "as_name", "forward_arg_names"}
_COUNTED = re.compile(r"[a-z]+\d+", re.ASCII)  # the symbols of shapes

_OPERATOR = re.compile(
    r"torch\.ops\.(?!higher_order\.)[A-Za-z]\w*\.\w+\.\w+"
    r"|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|torch\._?sym_\w+|torch\.sym_\w+|math\.(ceil|floor|trunc|sqrt)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|pos|abs|getitem|eq|ne|lt|le|gt|ge|and_|or_|not_)",
    re.ASCII,
)
_READS_FILES = {"torch.ops.aten.from_file"}

_SHAPE_FUNCTIONS = {
    "Symbol", "Integer", "Rational", "Float", "Add", "Mul", "Pow", "Max", "Min", "Mod", "PythonMod", "FloorDiv",
    "CleanDiv", "CeilDiv", "ModularIndexing", "IntTrueDiv", "FloatTrueDiv", "PowByNatural", "TruncToInt", "CeilToInt",
    "FloorToInt", "RoundToInt", "ToFloat", "Where", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Equality", "Unequality",
    "LessThan", "GreaterThan", "StrictLessThan", "StrictGreaterThan", "And", "Or", "Not", "Identity",
}  # fmt: skip
_TREE_TYPES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}


def rebuilt(content: bytes, what: str) -> io.BytesIO:
    """The torch.export archive `content`, checked and written again without sample inputs, source lines and paths.

    Args:
        content: the archive.
        what: its name in errors.

    Raises:
        BadInputError: it is no such archive, or it holds something that this module does not know.
    """
    try:
        members = _members(content)
        model = _checked_model(json.loads(members.pop(_MODEL)))
        payloads = {}
        for config, (folder, name) in _PAYLOADS.items():
            entries = _checked_payload(json.loads(members.pop(config)), name)
            payloads[config] = json.dumps({"config": entries}).encode()
            for entry in entries.values():
                payloads[folder + entry["path_name"]] = members[folder + entry["path_name"]]
    except _UnknownError as e:
        raise BadInputError(f"{what} is refused: {e}; export it again, with jboost export or torch.export.save") from e
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, RecursionError, EOFError) as e:
        raise BadInputError(
            f"{what} is not a torch.export program ({type(e).__name__}: {str(e)[:100]}); export the bundle again"
        ) from e
    return _written({_MODEL: json.dumps(model).encode(), _SAMPLES: b"", **payloads})


class _UnknownError(Exception):
    """Something in an archive that this module does not know."""


def _written(members: dict[str, bytes]) -> io.BytesIO:
    from torch.export.pt2_archive._package import PT2ArchiveWriter

    buffer = io.BytesIO()
    with PT2ArchiveWriter(buffer) as writer:
        for name, data in members.items():
            writer.write_bytes(name, data)
    buffer.seek(0)
    return buffer


def _members(content: bytes) -> dict[str, bytes]:
    """The archive's members by name, without the folder that holds them all."""
    members: dict[str, bytes] = {}
    seen: set[str] = set()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for info in archive.infolist():
            _, _, name = info.filename.partition("/")
            if name.casefold() in seen:
                raise _UnknownError(f"it holds {name!r} twice")
            seen.add(name.casefold())
            if info.compress_type != zipfile.ZIP_STORED:
                raise _UnknownError(f"{name!r} is compressed")
            if name == "byteorder" and archive.read(info) != b"little":
                raise _UnknownError("its tensors are not little-endian")
            if name in _WRITTEN_BY_TORCH or name == _SAMPLES:  # sample inputs are a pickle: never read
                continue
            if name not in (_MODEL, *_PAYLOADS) and not any(
                name.startswith(folder) and pattern.fullmatch(name.removeprefix(folder))
                for folder, pattern in _PAYLOADS.values()
            ):
                raise _UnknownError(f"it holds {name!r}, which may be pickled objects or code")
            members[name] = archive.read(info)
    return members


def _checked_payload(config: Any, name: re.Pattern[str]) -> dict[str, Any]:
    """The entries of a weights or constants configuration: plain tensors only."""
    for key, entry in config["config"].items():
        if entry["use_pickle"] or entry["tensor_meta"] is None or not name.fullmatch(entry["path_name"]):
            raise _UnknownError(f"{key!r} is no plain tensor but pickled objects")
        _check_values(entry)
        _check_text(key)
    return dict(config["config"])


def _checked_model(model: Any) -> dict[str, Any]:
    if model["graph_module"].get("treespec_namedtuple_fields"):
        raise _UnknownError("it holds named tuples")
    for guard in model.get("guards_code") or ():
        _check_expression(guard, _check_guard_node)
    _check_values({key: value for key, value in model.items() if key != "guards_code"})
    return dict(model)


def _check_values(value: Any, key: str = "") -> None:
    """Check every string of the JSON value that stands under `key`, and empty the metadata of graph nodes in place."""
    if isinstance(value, dict):
        if "target" in value and isinstance(value.get("metadata"), dict):
            value["metadata"] = {}
        for name, inner in value.items():
            _check_text(name)
            if name in ("as_operator", "as_custom_obj", "custom_obj", "script_object") or (
                name == "custom_obj_values" and inner
            ):
                raise _UnknownError(f"its graph holds {name}: objects other than tensors")
            _check_values(inner, name)
    elif isinstance(value, list):
        for inner in value:
            _check_values(inner, key)
    elif isinstance(value, str):
        _check_string(value, key)


def _check_string(text: str, key: str) -> None:
    if key == "target":
        if not _OPERATOR.fullmatch(text) or "__" in text or text.rpartition(".")[0] in _READS_FILES:
            raise _UnknownError(f"its graph calls {text!r}, which is no operator")
    elif key == "expr_str":
        _check_expression(text, _check_shape_node)
    elif key in ("in_spec", "out_spec"):
        _check_tree(json.loads(text)[1])
    elif key in _NAMES:
        if not _IDENTIFIER.fullmatch(text):
            raise _UnknownError(f"{text!r} is no name")
    else:
        _check_text(text)


def _check_text(text: str) -> None:
    if not _TEXT.fullmatch(text):
        raise _UnknownError(f"its graph holds the text {text[:60]!r}")


def _check_tree(tree: Any) -> None:
    """Check the description of nested arguments: tuples, lists and dicts with text as keys."""
    if tree["type"] not in _TREE_TYPES:
        raise _UnknownError(f"its arguments are in a {tree['type']!r}")
    if tree["context"] is not None:
        _check_values(json.loads(tree["context"]))
    for child in tree["children_spec"]:
        _check_tree(child)


def _check_expression(text: str, check: Callable[[ast.AST], bool]) -> None:
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError as e:
        raise _UnknownError(f"it holds the expression {text[:60]!r}") from e
    if not all(check(node) for node in ast.walk(tree)):
        raise _UnknownError(f"it holds the expression {text[:60]!r}")


_ARITHMETIC = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.And, ast.Or, ast.Not, ast.Add, ast.Sub,
    ast.Mult, ast.FloorDiv, ast.Mod, ast.USub, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Load,
)  # fmt: skip


def _check_shape_node(node: ast.AST) -> bool:
    """Whether a part of a shape expression is arithmetic: numbers, symbols, and functions of the list above."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _SHAPE_FUNCTIONS
    if isinstance(node, ast.Name):
        return node.id in _SHAPE_FUNCTIONS or bool(_COUNTED.fullmatch(node.id))
    if isinstance(node, ast.keyword):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, bool | int)
    if isinstance(node, ast.Constant):
        # sympy evaluates text: only the names of symbols, and numbers such as Float('0.5', precision=53).
        if isinstance(node.value, str):
            return bool(re.fullmatch(r"[a-z]+\d+|-?[\d.]+", node.value, re.ASCII))
        return isinstance(node.value, int | float)
    return isinstance(node, _ARITHMETIC)


def _check_guard_node(node: ast.AST) -> bool:
    """Whether a part of a guard is arithmetic on sizes, as in ``L['x'].size()[2] // 2 != 1``."""
    if isinstance(node, ast.Call):
        return not node.keywords and (
            (isinstance(node.func, ast.Attribute) and not node.args)
            or (isinstance(node.func, ast.Name) and node.func.id in ("max", "min", "len", "int", "float"))
        )
    if isinstance(node, ast.Attribute):
        return node.attr in ("size", "stride", "storage_offset", "dim", "numel")
    if isinstance(node, ast.Name):
        return node.id in ("L", "max", "min", "len", "int", "float")
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) or (
            isinstance(node.value, str) and bool(_IDENTIFIER.fullmatch(node.value))
        )
    return isinstance(node, (ast.Subscript, *_ARITHMETIC))
