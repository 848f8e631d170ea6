"""The live page's two charts: drawn by Bokeh without data, which the page's script puts in as it comes."""

from __future__ import annotations

from typing import Any

from bokeh.embed import components
from bokeh.models import ColumnDataSource, Range1d
from bokeh.plotting import figure
from bokeh.resources import Resources

from pixelfit.live.state import LINE_COLOURS
from pixelfit.report.plots import INK, hover, plot_of


def library() -> str:
    """Bokeh's own script."""
    return "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)


def live_charts() -> tuple[str, dict[str, str]]:
    """The script that draws the charts, and for each the element that it appears in."""
    script, places = components({"history": _history(), "curves": _curves()}, wrap_script=False)
    return script, dict(places)


def _history() -> figure:
    plot = _plot("history")
    best = ColumnDataSource({"x": [], "y": []}, name="best")
    dots = ColumnDataSource({"x": [], "y": [], "colour": [], "trial": [], "how": []}, name="dots")
    plot.step("x", "y", source=best, mode="after", color=INK, line_width=2, line_dash="dotted")
    shown = plot.scatter("x", "y", source=dots, size=9, color="colour", line_color=None, alpha=0.9)
    hover(plot, [("trial", "@trial"), ("score", "@y{0.0000}"), ("", "@how")], [shown])
    return plot


def _curves() -> figure:
    plot = _plot("curves")
    plot.xaxis.axis_label = "epochs"
    dots: list[Any] = []
    # The running trial's line comes last, so that it lies on top.
    for place, colour in reversed(list(enumerate(LINE_COLOURS))):
        source = ColumnDataSource({"x": [], "y": [], "trial": []}, name=f"curve-{place}")
        plot.line("x", "y", source=source, color=colour, line_width=2 if place else 3)
        dots.append(plot.scatter("x", "y", source=source, color=colour, size=5 if place else 7, line_color=None))
    hover(plot, [("trial", "@trial"), ("epoch", "@x{0.0}"), ("validation score", "@y{0.0000}")], dots)
    return plot


def _plot(name: str) -> figure:
    ranges = {"x_range": Range1d(start=0, end=1), "y_range": Range1d(start=0.1, end=1)}
    return plot_of(" ", " ", height=300, name=name, y_axis_type="log", **ranges)
