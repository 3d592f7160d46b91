"""``jboost tune``: choose the settings of a boost on a small subset."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options, read_options
from .early import check_early
from .json_output import STDOUT, write_json
from .notes import log_to
from .options import Debug, split_names, split_numbers
from .paths import check_paths, if_path
from .progress import Bars
from .tables import print_columns, print_results
from .terminal import console, print_line

if TYPE_CHECKING:
    from jboost.tuning.result import Tuning

_GRID, _MEASURE, _ENGINE, _OUTPUT = "What to try", "Measurement", "Engine", "Output"


def tune(
    samples: Annotated[
        Path, typer.Argument(metavar="SAMPLES", help="Images as for `jboost boost`.", show_default=False)
    ],
    reference: Annotated[
        Path,
        typer.Option(
            "--ref",
            help="Real images, or features or statistics of them, as for `jboost eval`. Not the ones you will report on.",
            rich_help_panel=_MEASURE,
            show_default=False,
        ),
    ],
    features: Annotated[str | None, options.features(_MEASURE)] = None,
    features_range: Annotated[int | None, options.features_range(_MEASURE)] = None,
    protocol: Annotated[str | None, options.protocol(_MEASURE)] = None,
    images: Annotated[
        int, typer.Option("--images", help="Images to tune on, spread over the classes.", rich_help_panel=_MEASURE)
    ] = 1000,
    bootstrap: Annotated[int, options.bootstrap(_MEASURE)] = 50,
    holdout: Annotated[
        float | None,
        typer.Option(
            help="Leave this share of REF's images out and write them to holdout.npz, to report on.",
            show_default="use all of REF",
            rich_help_panel=_MEASURE,
        ),
    ] = None,
    update: Annotated[
        str | None, typer.Option(help="Updates, several with commas.", show_default="pgd,sgld", rich_help_panel=_GRID)
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="Objectives, several with commas.",
            show_default="those the bundle has graphs for",
            rich_help_panel=_GRID,
        ),
    ] = None,
    step_size: Annotated[
        str | None,
        typer.Option(
            help="Step sizes, several with commas.",
            show_default="a quarter to twice the length that auto gives 4 steps",
            rich_help_panel=_GRID,
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            help="Step counts, several with commas.", show_default="1,2,3,4,5,7,10,15,20,25,35", rich_help_panel=_GRID
        ),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(help="sgld: noise, several with commas.", show_default="1e-4", rich_help_panel=_GRID),
    ] = None,
    grow: Annotated[
        int,
        typer.Option(help="How many times the grid may grow where the best lies on its edge.", rich_help_panel=_GRID),
    ] = 2,
    l0: Annotated[float | None, options.l0(_GRID)] = None,
    early_stop: Annotated[bool | None, options.early_stop(_GRID)] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise and of the bootstrap.", rich_help_panel=_GRID)] = 0,
    bundle: Annotated[Path, options.bundle(_ENGINE)] = Path("bundle"),
    engine: Annotated[
        str, typer.Option(help="Engine: auto (the fastest), eager, compile, onnx or trt.", rich_help_panel=_ENGINE)
    ] = "auto",
    dtype: Annotated[str, options.dtype(_ENGINE)] = "fp32",
    device: Annotated[str, options.device(_ENGINE)] = "auto",
    batch_size: Annotated[int | None, options.batch_size(_ENGINE, default=options.ENGINE_BATCH)] = None,
    trust_code: Annotated[
        bool,
        typer.Option(
            "--trust-code",
            help="Run the code of the bundle and of the extractor, whoever made it.",
            rich_help_panel=_ENGINE,
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Folder for runs, table and curve.",
            show_default="SAMPLES.tune, or SAMPLES_tune if SAMPLES is a folder",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on in that folder; the lists may differ, finished runs are kept.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    json_file: Annotated[str | None, options.json_file(_OUTPUT)] = None,
    images_key: Annotated[str | None, read_options.images_key(read_options.PANEL)] = None,
    labels_key: Annotated[str | None, read_options.labels_key(read_options.PANEL)] = None,
    resize: Annotated[int | None, read_options.resize(read_options.PANEL)] = None,
    background: Annotated[str | None, read_options.background(read_options.PANEL)] = None,
    class_folders: Annotated[str | None, read_options.class_folders(read_options.PANEL)] = None,
    debug: Debug = False,
) -> None:
    """Choose steps, step size, noise, objective and update by FID on a small subset.

    Never tune on the reference that you will report on.

    Example: jboost tune samples.npz --ref train.npz --features pt_inception-2015-12-05-6726825d.pth
    """
    out = output or _default_folder(samples)
    inputs = {"SAMPLES": samples, "--ref": reference, "--bundle": bundle, "--features": if_path(features)}
    check_paths(inputs=inputs, folders={"-o": out}, json_file=json_file, replaced=False)
    _check_folder(out)
    reading = read_options.read_options(
        images_key=images_key, labels_key=labels_key, resize=resize, background=background, class_folders=class_folders
    )
    check_early(device=device, samples=[samples, reference], bundle=bundle)
    from jboost.booster import Booster
    from jboost.tuning.request import Request
    from jboost.tuning.runs import Rules
    from jboost.tuning.tune import tune as run_tune
    from jboost.tuning.yardstick import Ruler

    request = Request(
        samples=samples, out=out, updates=split_names(update), objectives=split_names(objective),
        sizes=_floats(step_size, "--step-size"), noises=_floats(noise, "--noise"), steps=split_numbers(steps, "--steps"),
        images=images, grow=grow, resamples=bootstrap, rules=Rules(l0, early_stop, seed), dtype=dtype, holdout=holdout,
        resume=resume,
    )  # fmt: skip
    ruler = Ruler(reference, features, features_range, device, batch_size, trust_code, reading, protocol)
    log_to(console(stderr=True))
    with (
        Booster(
            bundle, engine=engine, device=device, dtype=dtype, batch_size=batch_size, trust_code=trust_code
        ) as booster,
        Bars() as bars,
        _said_once(),
    ):
        result = run_tune(
            booster,
            request,
            ruler,
            on_open=lambda opened: read_options.print_about(opened, booster.bundle.config.class_names),
            on_progress=bars.show,
            say=lambda line: print_line(line, stderr=True),
        )
    # What both printed commands need of this command line.
    both = _given(
        images_key=images_key, labels_key=labels_key, resize=resize, background=background, class_folders=class_folders,
        device=None if device == "auto" else device, batch_size=batch_size,
    )  # fmt: skip
    trusting = ["--trust-code"] if trust_code else []
    engine_words = [] if engine == "auto" else ["--engine", engine]
    command = result.command(bundle, [*engine_words, *both, *trusting])
    _show(result, command, [*_given(features_range=features_range), *both, *trusting], json_file, out)


class _Once(logging.Filter):
    """Lets a message pass the first time."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        new = record.getMessage() not in self._seen
        self._seen.add(record.getMessage())
        return new


@contextmanager
def _said_once() -> Iterator[None]:
    """Let each message of the log pass once: an engine that is opened again says again why it was chosen."""
    once = _Once()
    logging.getLogger("jboost").addFilter(once)
    try:
        yield
    finally:
        logging.getLogger("jboost").removeFilter(once)


def _show(result: Tuning, command: str, eval_words: list[str], json_file: str | None, out: Path) -> None:
    from jboost.tuning import curve, marks
    from jboost.tuning.table import choice_rows, head_rows, notes, table_rows

    stderr = json_file == STDOUT
    content, images = result.to_dict(command), result.yardstick.source.images
    lines = notes(result)
    with Bars() as bars:
        found = result.mark() | {
            "sketch": [] if images is None else marks.sketch(images, lambda done, n: bars.show("marking REF", done, n))
        }
    if not marks.mark(result.ruler.reference, found):
        lines.append("the cache cannot be written, so `jboost eval` will not warn of this reference (set JBOOST_CACHE)")
    if curve.can_draw():
        curve.draw(result, out / "curve.png")
    else:
        lines.append(
            "no curve: matplotlib is not installed; install it (pip install matplotlib) and go on with --resume"
        )
    write_json(content, str(out / "tune.json"))
    print_results(head_rows(result), table_rows(result), [], stderr=stderr)
    print_line("", stderr=stderr)
    print_columns(choice_rows(result), stderr=stderr)
    for line in lines:
        print_line(line, stderr=stderr)
    print_line(f"{out}: tune.json" + (", curve.png" if curve.can_draw() else ""), stderr=stderr)
    print_line("", stderr=stderr)
    print_line(command, stderr=stderr)
    print_line(f"then report on other real images: {result.report_command(eval_words)}", stderr=stderr)
    write_json(content, json_file)


def _default_folder(samples: Path) -> Path:
    """``a.tune`` beside ``a.npz``, and ``a_tune`` beside the folder ``a``, as `jboost boost` names its outputs.

    Raises:
        BadInputError: the folder has no name, like ``/``.
    """
    from jboost.engine.errors import BadInputError
    from jboost.engine.samples.files import KINDS
    from jboost.engine.samples.listing import TAR_SUFFIXES

    if samples.is_dir():
        folder = samples.resolve()  # "." and ".." have names too
        if not folder.name:
            raise BadInputError(f"{samples} has no name to derive the output folder's from; give -o")
        return folder.parent / f"{folder.name}_tune"
    name = samples.name
    known = next((s for s in (*TAR_SUFFIXES, *filter(None, KINDS)) if name.lower().endswith(s)), "")
    return samples.parent / f"{name.removesuffix(name[len(name) - len(known) :])}.tune"


def _check_folder(out: Path) -> None:
    """Refuse a folder that cannot be made or written, before minutes of work."""
    import os

    from jboost.engine.errors import BadInputError
    from jboost.engine.system.commands import make_folder

    parent = out.resolve().parent
    if out.exists() and not out.is_dir():
        raise BadInputError(f"-o {out} is a file; name a folder")
    if not parent.is_dir():
        raise BadInputError(
            f"-o {out}: the folder {out.parent} does not exist; make it with: {make_folder(out.parent)}"
        )
    if not os.access(out if out.is_dir() else parent, os.W_OK | os.X_OK):
        raise BadInputError(f"-o {out} is not writable; name another place")


def _given(**options: object) -> list[str]:
    """Options that were given, as words of a command line."""
    words: list[str] = []
    for name, value in options.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def _floats(text: str | None, option: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        from jboost.engine.errors import BadInputError

        raise BadInputError(f"{option} takes numbers separated by commas, e.g. 0.05,0.1,0.2; got {text!r}") from None
