"""Entry point of ``jboost``: the commands, error messages and exit codes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from . import options
from .bench import bench
from .boost import boost, boost_command
from .doctor import doctor
from .eval import evaluate_sets
from .export import export
from .inspect import inspect
from .report import report
from .train import train
from .trust import trust
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
    app.command("verify")(verify)
    app.command("trust")(trust)
    app.command("bench")(bench)
    app.command("eval")(evaluate_sets)
    app.command("report")(report)
    app.command("inspect")(inspect)
    app.command("doctor")(doctor)
    return app


def main(argv: list[str] | None = None) -> None:
    """Run the command line; exit code 2 for bad input, 1 for a failure, 130 when interrupted."""
    sys.exit(_run(argv))


def _run(argv: list[str] | None) -> int:
    # Typer handles usage errors (exit code 2); the clauses below handle all others.
    try:
        make_app(boost_options="boost" in (sys.argv[1:] if argv is None else argv))(args=argv)
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else 0 if e.code is None else 1
    except KeyboardInterrupt:
        return _fail("interrupted; boost and train continue with --resume", 130)
    except BrokenPipeError:
        return 1
    except Exception as e:
        from jboost.engine.errors import JboostError, one_line

        if options.debug_wanted:
            raise
        if isinstance(e, JboostError):
            return _fail(str(e), e.exit_code)
        return _fail(
            f"{type(e).__name__}: {one_line(e)}; this is a bug or a broken installation; --debug shows the traceback", 1
        )
    return 0


def _fail(message: str, code: int) -> int:
    print(f"jboost: {message}", file=sys.stderr)
    return code
