"""The command line: parse, call, print. Heavy libraries are imported inside the commands."""

from __future__ import annotations

import gc
import os
import sys
from typing import Annotated, NoReturn

import typer

from pixelfit.cli import fitting, keeping, results, using
from pixelfit.errors import PixelfitError
from pixelfit.threads import spin_briefly

app = typer.Typer(
    name="pixelfit",
    help="AutoML for pictures: bring pictures with a number or a label each, and a time budget.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    fitting.fit, fitting.resume, fitting.replay, fitting.inspect,
    fitting.demo, using.predict, using.evaluate, using.export, using.serve,
    results.leaderboard, results.report, results.compare, results.track, results.ui,
):  # fmt: skip
    app.command()(command)
for name, what, commands in (
    ("data", "Named data sets.", {"list": keeping.data_list}),
    ("cache", "What pixelfit keeps on disk between runs.", {"show": keeping.cache_show, "clear": keeping.cache_clear}),
):
    group = typer.Typer(help=what, no_args_is_help=True, rich_markup_mode=None)
    for word, grouped in commands.items():
        group.command(word)(grouped)
    app.add_typer(group, name=name)


def main() -> None:
    """Entry point: run the command; what a user can mend becomes one sentence and exit code 2."""
    spin_briefly(os.environ)
    try:
        app()
    except PixelfitError as error:
        _fail(str(error))
    except BrokenPipeError:  # whoever read the output, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:  # a file that may not be read, a disk that is full
        if error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}.")
    finally:
        # Else the interpreter looks through all that torch and others loaded before it ends, which took 1.5 s and more.
        gc.freeze()


def _fail(sentence: str) -> NoReturn:
    sys.stderr.write(f"pixelfit: {' '.join(sentence.split())}\n")
    sys.exit(2)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from importlib import metadata

        typer.echo(metadata.version("pixelfit"))
        raise typer.Exit
