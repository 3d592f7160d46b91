"""Entry point of ``jboost``: the commands, error messages and exit codes."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer

from . import options
from .bench import bench
from .boost import boost, boost_command
from .doctor import doctor
from .eval import evaluate_sets
from .export import export
from .inspect import inspect
from .interrupts import Interrupted, how_to_go_on, interruptible
from .merge import merge
from .report import report
from .terminal import flush_stdout, open_closed_streams, print_line
from .train import train
from .trust import trust
from .tune import tune
from .update_options import load_named_updates
from .verify import verify


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"jboost {version('jboost')}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def make_app(*, boost_options: bool = True) -> typer.Typer:
    """Build the command line.

    Args:
        boost_options: give `boost` its options, one of them for each field of the updates registered so far. The registry
            needs numpy, which takes longer to import than all other commands do.
    """
    app = typer.Typer(
        name="jboost",
        help="Make generated images look more real: compiled gradient steps through a robust joint classifier-discriminator.",
        epilog="Start with: jboost export --ckpt joint.pt, then: jboost boost samples.npz",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    app.command("train")(train)
    app.command("export")(export)
    app.command("boost", help=boost.__doc__)(boost_command() if boost_options else lambda: None)
    app.command("tune")(tune)
    app.command("merge")(merge)
    app.command("verify")(verify)
    app.command("trust")(trust)
    app.command("bench")(bench)
    app.command("eval")(evaluate_sets)
    app.command("report")(report)
    app.command("inspect")(inspect)
    app.command("doctor")(doctor)
    return app


def main(argv: list[str] | None = None) -> None:
    """Run the command line; exit code 2 for bad input, 1 for a failure, 130 after Ctrl-C, 143 after SIGTERM."""
    warnings.filterwarnings(
        "ignore", module="PIL"
    )  # of what Pillow passes over in a file; the decoder says what matters
    sys.exit(_run(argv))


def _run(argv: list[str] | None) -> int:
    open_closed_streams()
    code = _run_command(argv)
    return _flushed() or code


def _flushed() -> int:
    """Write what stdout still holds; 0, or the exit code after a message."""
    try:
        flush_stdout()
    except BrokenPipeError:
        return 1  # the reader of stdout left
    except OSError as e:
        return _fail(f"stdout cannot be written ({e.strerror}); send it elsewhere", 1)
    return 0


def _run_command(argv: list[str] | None) -> int:
    # Typer handles usage errors (exit code 2); the clauses below handle all others.
    arguments = sys.argv[1:] if argv is None else argv
    options.arguments = list(arguments)
    try:
        with interruptible():
            if "boost" in arguments:
                load_named_updates(arguments)
            make_app(boost_options="boost" in arguments)(args=argv)
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else 0 if e.code is None else 1
    except Interrupted as e:
        return _fail(f"interrupted; {how_to_go_on(arguments)}", e.exit_code)
    except BrokenPipeError:
        return 1
    except Exception as e:
        from jboost.engine.errors import JboostError, one_line

        from .failures import explained

        if options.debug_wanted:
            raise
        if isinstance(e, OSError) and e.filename is None and (code := _flushed()):
            return code
        known = e if isinstance(e, JboostError) else explained(e)
        if known is not None:
            return _fail(str(known), known.exit_code)
        return _fail(
            f"{type(e).__name__}: {one_line(e)}; this is a bug or a broken installation; --debug shows the traceback", 1
        )
    return 0


def _fail(message: str, code: int) -> int:
    print_line(f"jboost: {message}", stderr=True)
    return code
