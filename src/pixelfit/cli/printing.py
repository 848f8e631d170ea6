"""What the commands print."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from pixelfit.assess import Assessment
    from pixelfit.automl import Run


def console_for(*, stderr: bool = False) -> Console:
    """Where a command prints."""
    from rich.console import Console

    # Into a file or a pipe lines are as long as they need to be.
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else 200)


def print_result(console: Console, run: Run) -> None:
    """What a search came to."""
    from rich.table import Table
    from rich.text import Text

    from pixelfit.display import clock, sureness_lines
    from pixelfit.metrics import TITLES, shown
    from pixelfit.words import number_of

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in (f"On {run.scores.rows:,} unseen pictures", "value", "95 % interval", "baseline"):
        table.add_column(name, justify="left" if name.startswith("On") else "right")
    for name, interval in run.scores.test.items():
        low, high = shown(name, interval.low), shown(name, interval.high)
        table.add_row(TITLES[name], shown(name, interval.value), f"{low} – {high}", shown(name, run.scores.baseline[name].value))
    console.print()
    console.print(table)
    _print_each(console, run)
    for line in sureness_lines(run.scores):
        console.print(Text(line))
    doubtful = run.folder.read("suspects.json")
    if doubtful["suspects"]:
        found = number_of(len(doubtful["suspects"]), "target")
        console.print(Text(f"{found} of {doubtful['examined']:,} looked at may be wrong: see the report and suspects.json"))
    console.print()
    family = {member.trial: member.model.family for member in run.predictor.members}
    weights = run.predictor.trial_weights().items()
    members = ", ".join(f"#{trial} {family[trial]} ({weight:.0%})" for trial, weight in weights)
    if len(run.predictor.members) > len(weights):
        members += f": {len(run.predictor.members)} models, one of each trial a fold"
    if run.interrupted:
        console.print(Text("Ended early by Ctrl-C: this is the best model until then.", style="yellow"))
    console.print(Text(f"Model:   {members}"), soft_wrap=True)
    console.print(Text(f"Report:  {run.folder.report_file}"), soft_wrap=True)
    console.print(Text(f"Predict: pixelfit predict {run.folder.path} PICTURES..."), soft_wrap=True)
    console.print(Text(f"Serve:   pixelfit serve {run.folder.path}"), soft_wrap=True)
    console.print(Text(f"Took {clock(run.wall_s)}, {len(run.trials)} trials."))


def print_assessment(console: Console, found: Assessment) -> None:
    """How good a model is on other pictures."""
    from rich.table import Table
    from rich.text import Text

    from pixelfit.metrics import TITLES, percent, shown
    from pixelfit.words import number_of

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in (f"On {number_of(found.rows, 'picture')} of {found.source}", "value", "95 % interval"):
        table.add_column(name, justify="left" if name.startswith("On") else "right")
    for name, interval in found.metrics.items():
        table.add_row(TITLES[name], shown(name, interval.value), f"{shown(name, interval.low)} – {shown(name, interval.high)}")
    console.print(table)
    if found.covered is not None and found.coverage is not None:
        ends = f"{percent(found.covered.low)} – {percent(found.covered.high)}"
        console.print(
            Text(
                f"The truth lies in {percent(found.covered.value)} ({ends}) of the {100 * found.coverage:g} % intervals or sets."
            )
        )
    if found.unlike is not None:
        console.print(Text(f"Unlike anything seen in training: {percent(found.unlike)}."))
    if found.left_out:
        first = found.left_out[0]
        console.print(Text(f"Left out: {number_of(len(found.left_out), 'picture')}; the first is {first.ref}: {first.reason}."))


def _print_each(console: Console, run: Run) -> None:
    """A table with a line for each of several numbers or labels a picture; nothing for other runs."""
    from rich.table import Table
    from rich.text import Text

    from pixelfit.display import each_table

    head, rows, left_out = each_table(run.scores)
    if not rows:
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, name in enumerate(head):
        table.add_column(name, justify="right" if place else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print()
    console.print(table)
    if left_out:
        console.print(f"... and {left_out:,} more in the report")


def short(text: str) -> str:
    """A cell of a table, numbers with four digits."""
    try:
        value = float(text)
    except ValueError:
        return text or "–"
    return text if value == int(value) else f"{value:.4g}"
