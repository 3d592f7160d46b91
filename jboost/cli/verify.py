"""``jboost verify``: compare a bundle's graphs with eager autograd on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .options import Debug, split_names
from .paths import check_paths
from .tables import print_columns
from .terminal import console, print_line


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that `jboost export` wrote.")] = Path(
        "bundle"
    ),
    atol: Annotated[float | None, options.atol()] = None,
    rtol: Annotated[float | None, options.rtol()] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="Objectives of your own in the bundle, as FILE.py:NAME, several with commas.", show_default="none"
        ),
    ] = None,
    update: Annotated[
        str | None,
        typer.Option(
            help="Updates of your own in the bundle: NAME or FILE.py:NAME, several with commas.", show_default="none"
        ),
    ] = None,
    trust_code: Annotated[bool, options.trust_code()] = False,
    debug: Debug = False,
) -> None:
    """Check a bundle's hashes and compare each graph with eager autograd; exit code 1 if a graph differs.

    Example: jboost verify bundle
    """
    check_paths(inputs={"BUNDLE": bundle})
    from jboost.engine.method.plugins import find_objective, find_update_name
    from jboost.export.request import check_tolerances
    from jboost.opening import open_bundle

    check_tolerances(atol, rtol)
    for name in split_names(objective) or ():
        find_objective(name, trust_code=trust_code)
    for name in split_names(update) or ():
        find_update_name(name, trust_code=trust_code)
    with console(stderr=True).status("") as status:
        opened = open_bundle(bundle, trust_code=trust_code)
        from jboost.export.verify import verify_bundle  # torch, which the checks above do without

        figures = verify_bundle(opened, atol=atol, rtol=rtol, say=status.update)
    columns = {
        "worst gradient error": "grad_worst",
        "worst logit error": "logits_worst",
        "worst error of a step": "worst",
    }
    shown = opened.origin or bundle
    rows = [(file, *(f"{f[key]:.1e}" if key in f else "" for key in columns.values())) for file, f in figures.items()]
    print_columns([("artefact", *columns), *rows])
    if not opened.trusted:
        for artefact in opened.code():
            print_line(f"{artefact.file}: not run; it is code that you have not trusted")
        print_line(
            f"{shown}: all files match their hashes, and the graphs above match autograd of the network built from "
            f"model.safetensors; to run the rest too, {opened.how_to_trust()}"
        )
        return
    foreign = [a for a in opened.config.artefacts.values() if a.target is not None and a.file not in figures]
    for artefact in foreign:
        print_line(f"{artefact.file}: not run; it is built for {artefact.target}")
    graphs = "all graphs match autograd" if not foreign else "all graphs that run here match autograd"
    print_line(f"{shown}: all files match their hashes, {graphs}")
