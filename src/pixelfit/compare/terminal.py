"""A comparison on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pixelfit.compare import Comparison
from pixelfit.report.markdown import clean

_AT_ONCE = 3  # runs in a table of 80 columns


def show(comparison: Comparison, console: Console) -> None:
    """Print which run is which, how they differ, and tables of a few runs each. Strings from the data stay text in a line."""
    console.print(Text(f"Run 1: {clean(comparison.runs[0])}"))
    for place, each in enumerate(comparison.differences, start=2):
        console.print(Text(f"Run {place}: {clean(each.run)}"))
        console.print(Text(f"  {clean(each.sentence)}"))
    for start in range(0, len(comparison.runs), _AT_ONCE):
        shown = range(start, min(start + _AT_ONCE, len(comparison.runs)))
        table = Table(box=None, header_style="bold", pad_edge=False)
        for header in ("", *(f"run {place + 1}" for place in shown)):
            table.add_column(header, overflow="fold")
        for name, values in comparison.rows:
            table.add_row(Text(clean(name)), *(Text(clean(values[place]) or "–") for place in shown))
        console.print()
        console.print(table)
