"""Commands that show what finished runs found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pixelfit.cli.arguments import PortOption, RunArgument
from pixelfit.cli.printing import console_for, short

LEADERBOARD_SHOWN = ("rank", "trial", "family", "head", "state", "weight", "epochs", "seconds")
LEADERBOARD_METRICS = ("val_r2", "val_rounded_accuracy", "val_accuracy", "val_mean_r2", "val_mean_ap")  # beside the first


def leaderboard(run: RunArgument) -> None:
    """Show the trials of a run, best first."""
    import csv

    from rich.table import Table
    from rich.text import Text

    from pixelfit.errors import RunError
    from pixelfit.runs import RunFolder

    file = RunFolder.existing(run).path / "leaderboard.csv"
    if not file.is_file():
        raise RunError(f"The run in {run} has no leaderboard yet.")
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    metric = f"val_{rows[0]['ranked_by']}"
    others = [name for name in rows[0] if name in LEADERBOARD_METRICS and name != metric]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in (*LEADERBOARD_SHOWN, metric, *others):
        table.add_column(name.removeprefix("val_"), justify="left" if name in ("family", "head", "state") else "right")
    for row in rows:
        table.add_row(*(Text(short(row[name])) for name in (*LEADERBOARD_SHOWN, metric, *others)))
    console = console_for()
    console.print(table)
    for row in rows:
        if row["error"]:
            console.print(Text(f"Trial {row['trial']} failed: {row['error']}"))


def report(run: RunArgument) -> None:
    """Draw a run's report again from its folder."""
    from pixelfit import report as reports
    from pixelfit.runs import RunFolder

    folder = RunFolder.existing(run)
    with folder.drawn_again():
        reports.draw(folder)
    typer.echo(f"Report: {folder.report_file}")


def track(
    run: RunArgument,
    where: Annotated[list[str], typer.Argument(metavar="mlflow:URI|tensorboard:FOLDER...", help="Where to track it.")],
) -> None:
    """Tell MLflow or TensorBoard of all that is in a run folder; what they know already is not told again."""
    from pixelfit.options import parse_trackers
    from pixelfit.runs import RunFolder
    from pixelfit.tracking import track as tracked

    words = parse_trackers(where) or ()
    tracked(RunFolder.existing(run), words)
    for word in words:
        typer.echo(f"{run} is tracked by {word}.")


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders, two or more.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Also write a file: .html, .json or .csv.")] = None,
) -> None:
    """Set finished runs side by side, and say whether they can be told apart."""
    from pixelfit.compare import compare as compared
    from pixelfit.compare.terminal import show
    from pixelfit.compare.written import check_form, write

    if out is not None:
        check_form(out)  # before the work
    found = compared(runs)
    show(found, console_for())
    if out is not None:
        write(found, out)
        typer.echo(f"Wrote {out}.")


def ui(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A run folder, or a folder with runs in it.")],
    port: PortOption = None,
    browse: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve a page, on this machine alone, that lists runs and opens their reports. Ctrl-C ends it."""
    import threading
    import webbrowser

    from pixelfit.live import LoopbackServer, RunList

    with LoopbackServer(RunList(folder), port or 0) as server:
        typer.echo(f"Runs: {server.address}\nCtrl-C ends this.")
        try:
            if browse:
                webbrowser.open(server.address)
            threading.Event().wait()
        except KeyboardInterrupt:
            typer.echo()
