"""``jboost trust``: let the code of somebody else's bundle run, or list and withdraw that."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Debug
from .paths import check_paths
from .tables import print_columns
from .terminal import print_line


def trust(
    bundle: Annotated[
        Path | None,
        typer.Argument(
            metavar="BUNDLE", help="Folder of the bundle, or FILE.py of --objective and --update.", show_default=False
        ),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Trust BUNDLE no longer.")] = False,
    list_all: Annotated[bool, typer.Option("--list", help="List the trusted bundles and files.")] = False,
    debug: Debug = False,
) -> None:
    """Trust a bundle's code: its forward program, compiled packages and TensorRT plans run as you.

    Bundles that you export are trusted already. Trust others only if you know who made them.

    Example: jboost trust their-bundle
    """
    from jboost.engine.bundle import trust_bundle, trust_key
    from jboost.engine.errors import BadInputError, FailureError
    from jboost.engine.method.plugins import FILE, file_key, read_source
    from jboost.engine.system.trust import entries, forget, trust_folder
    from jboost.opening import open_bundle

    if list_all:
        rows = [
            (key[:12], str(note.get("path")), f"{note.get('how')}, {note.get('when')}")
            for kind in ("bundle", FILE)
            for key, note in entries(kind)
        ]
        print_columns(rows or [("no bundle is trusted",)])
        return
    if bundle is None:
        raise BadInputError("name the bundle's folder, or pass --list")
    check_paths(inputs={"BUNDLE": bundle})
    is_file = bundle.suffix == ".py" and not bundle.is_dir()
    opened = None if is_file else open_bundle(bundle, trust_code=not remove)  # from the Hub, its code is downloaded too
    kind, key = ("bundle", opened.digest) if opened is not None else (FILE, file_key(read_source(bundle)))
    try:
        if remove:
            known = forget(kind, key)
            print_line(f"{bundle}: {'its code will not run any more' if known else 'its code was not trusted'}")
            return
        if opened is None:
            trust_key(FILE, key, bundle, "jboost trust")
            print_line(f"{bundle}: from now on it runs where --objective or --update names it, until its text changes")
            return
        opened.check()
        trust_bundle(opened, opened.path, "jboost trust")
    except OSError as e:
        raise FailureError(
            f"the record of trusted bundles, {trust_folder()}, cannot be written ({e.strerror or e}); set JBOOST_TRUST to a folder "
            "that can be written"
        ) from e
    print_columns([(artefact.file, _what(artefact.file)) for artefact in opened.code()])
    print_line(
        f"{opened.origin or bundle}: all files match their hashes; from now on these files run when an engine needs them"
    )


def _what(file: str) -> str:
    suffix = Path(file).suffix
    if suffix == ".plan":
        return "TensorRT plan"
    if suffix == ".pt2":
        return "compiled package, machine code" if file.startswith("compile/") else "torch.export program"
    return "belongs to the plans"
