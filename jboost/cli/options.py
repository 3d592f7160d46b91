"""Shared by the commands: options, list parsing and path checks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from jboost.engine.system.replacing import is_stream

from .json_output import STDOUT

#: Set by --debug; read by the error reporting.
debug_wanted = False
#: The command line; `jboost boost --devices` starts processes with it.
arguments: list[str] = []


def _set_debug(value: bool) -> None:
    global debug_wanted
    debug_wanted = debug_wanted or value


Debug = Annotated[
    bool, typer.Option("--debug", callback=_set_debug, help="Show the traceback of errors.", rich_help_panel="Other")
]


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


class _Shared:
    """An option that several commands have: ``Annotated[type, option(panel)]``."""

    def __init__(self, help: str, *names: str, default: str | bool = True):
        self._help, self._names, self._default = help, names, default

    def __call__(self, panel: str | None = None, *, default: str | None = None) -> Any:
        """Return the option, placed in a panel of the command's help.

        Args:
            panel: title of the panel; None: the first panel.
            default: default shown in the help; None: the option's own.
        """
        shown = self._default if default is None else default
        return typer.Option(*self._names, help=self._help, show_default=shown, rich_help_panel=panel)


Shared = _Shared

_BY_OBJECTIVE = "joint if l0 is known, else bce"

l0 = _Shared("Mean realness of real images (eq. 13).", "--l0", default="the bundle's")
early_stop = _Shared(
    "Stop an image once its realness reaches l0.", "--early-stop/--no-early-stop", default="on for joint"
)
bundle = _Shared("Folder that `jboost export` wrote, or hf://user/repo@revision.")
device = _Shared("Device: auto, cpu, cuda or cuda:N.")
dtype = _Shared("Network precision: fp32, fp16 or bf16. The iterate is always float32.")
dtypes = _Shared("Network precisions: fp32, fp16 or bf16, several with commas.")
objective = _Shared(
    "Objective: logit, ce, bce, ce-bce, joint or energy; one of an installed package; or FILE.py:NAME.",
    default=_BY_OBJECTIVE,
)
objectives = _Shared("Objectives to write graphs for, several with commas, e.g. joint,logit.", default=_BY_OBJECTIVE)
batch_size = _Shared("Images per batch.", "-b", "--batch-size")
arch = _Shared(
    "Architecture: resnet50, timm:NAME, torchvision:NAME, hf-hub:ORG/NAME, package.module:factory or file.py:factory.",
    default="read from the weights",
)
num_classes = _Shared("Number of classes.", default="read from the weights")
atol = _Shared("Largest error allowed for a logit.", default="by dtype")
rtol = _Shared("Largest relative L2 error allowed for an image's gradient.", default="by dtype")
json_file = _Shared("Write the results to this JSON file; - is stdout.", "--json")
metrics = _Shared("Metrics, several with commas: fid,sfid,kid,is,precision,recall,density,coverage.", default="all")
protocol = _Shared(
    "Whose conventions the numbers follow: openai, torch-fidelity or pytorch-fid.",
    default="that of features or statistics among the files, else openai for an npz REF, else torch-fidelity",
)
bootstrap = _Shared("Bootstrap resamples for the intervals; 0 for none.")
bootstrap_seed = _Shared("Seed of the bootstrap.", "--seed")
trust_code = _Shared(
    "Run a bundle's code for this run, whoever made it: forward.pt2, compiled packages, TensorRT plans. Also run FILE.py of "
    "--objective and --update.",
    "--trust-code",
)
trust_files = _Shared("Run the files that options name as FILE.py:NAME, whoever wrote them.", "--trust-code")
trust_features = _Shared(
    "Run the extractor's code, whoever made it: TorchScript, .pt2 programs, a bundle's forward.pt2.", "--trust-code"
)
features = _Shared(
    "Feature extractor: Inception's weights (pt_inception-2015-12-05-6726825d.pth), an .onnx, TorchScript or .pt2 file, "
    "package.module:factory, or a bundle folder."
)

features_range = _Shared(
    "Largest value in the extractor's input: 1 or 255.",
    "--features-range",
    default="255 for Inception's weights, else 1",
)

#: Default shown for ``-b`` in commands that run a bundle.
ENGINE_BATCH = "the package's; else 32 on a CPU, 256 on a GPU"
#: Default shown for ``-b`` in commands that extract features.
FEATURE_BATCH = "16 on a CPU, 128 on a GPU"


def split_names(text: str | None) -> tuple[str, ...] | None:
    """Split ``"eager,onnx"`` into ("eager", "onnx"); None stays None."""
    return None if text is None else tuple(text.split(","))


def split_numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    """Split ``"64,128"`` into (64, 128); None stays None.

    Raises:
        BadInputError: `text` has a part that is not a whole number.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        from jboost.engine.errors import BadInputError

        example = "64,128" if option == "--resolution" else "5,10"
        raise BadInputError(f"{option} takes whole numbers separated by commas, e.g. {example}; got {text!r}") from None


def check_side_outputs(json_file: str | None, pictures: Mapping[str, Path | None]) -> None:
    """Check, before the work starts, that the files beside the main output can be written.

    Args:
        json_file: value of ``--json``; ``"-"`` is stdout; None: not given.
        pictures: paths by option; None: not given.

    Raises:
        BadInputError: a path is a folder, or its folder does not exist or is not writable.
    """
    from jboost.engine.errors import BadInputError
    from jboost.engine.system.commands import make_folder

    for option, path in {**pictures, "--json": Path(json_file) if json_file not in (None, STDOUT) else None}.items():
        if path is None:
            continue
        if path.is_dir():
            raise BadInputError(f"{option} {path} is a folder; name a file")
        if not path.resolve().parent.is_dir():
            raise BadInputError(
                f"{option} {path}: the folder {path.parent} does not exist; make it with: {make_folder(path.parent)}"
            )
        if not is_stream(path) and not os.access(path.resolve().parent, os.W_OK):
            raise BadInputError(f"{option} {path}: the folder {path.parent} is not writable; name another file")
