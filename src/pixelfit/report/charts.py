"""The charts of the data and of the test set."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from bokeh.models import ColumnDataSource, NumeralTickFormatter
from bokeh.models.annotations import Span
from bokeh.models.ranges import DataRange1d
from bokeh.plotting import figure

from pixelfit.report.gallery import Tiles
from pixelfit.report.plots import COLOURS, INK, hover, hover_pictures, legend, plot_of, unique
from pixelfit.types import Array, Json

_MOST_POINTS = 2_500  # more points hide one another and make the file large


def distribution(
    edges: list[float] | None,
    labels: Sequence[str],
    counts: Mapping[str, Sequence[int]],
    title: str,
    totals: Mapping[str, int] | None = None,
) -> figure:
    """Share of pictures by target value or class, for each split; ``totals``: its pictures, of which one may count twice."""
    shares = {name: np.array(values) / max(1, totals[name] if totals else sum(values)) for name, values in counts.items()}
    if edges is None:
        plot = plot_of("label" if totals else "class", "share of the split", y_range=DataRange1d(start=0), x_range=list(labels))
        middles: Array = np.arange(len(labels)) + 0.5
        widths: Array = np.full(len(labels), 0.8)
        names = list(labels)
        plot.xaxis.major_label_orientation = 0.8 if max(map(len, labels)) > 3 else 0.0
    else:
        plot = plot_of(title, "share of the split", y_range=DataRange1d(start=0))
        middles = (np.array(edges[1:]) + np.array(edges[:-1])) / 2
        widths = np.diff(edges) * 0.86
        names = [f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(edges)]
    each = widths / len(shares)
    items = []
    for place, (name, share) in enumerate(shares.items()):
        source = ColumnDataSource(
            {"x": middles + (place - (len(shares) - 1) / 2) * each, "top": share, "width": each * 0.94, "name": names,
             "split": [name] * len(share), "count": list(counts[name])}
        )  # fmt: skip
        items.append((name, [plot.vbar("x", top="top", width="width", source=source, color=COLOURS[place], line_width=0)]))
    plot.yaxis.formatter = NumeralTickFormatter(format="0 %")
    legend(plot, items)
    hover(plot, [("split", "@split"), ("target", "@name"), ("pictures", "@count")])
    return plot


@dataclass(frozen=True)
class Told:
    """Test pictures with one number each: targets and predictions (N,), their names, and small pictures of some or none."""

    targets: Array
    predictions: Array
    refs: Sequence[str]
    name: str  # of the number
    tiles: Tiles | None

    @property
    def rows(self) -> Array:
        """The pictures that are drawn: those that there are small pictures of, or evenly many."""
        if self.tiles is not None:
            return np.array(sorted(self.tiles.place))
        return np.unique(np.linspace(0, len(self.targets) - 1, min(len(self.targets), _MOST_POINTS)).round().astype(int))


def true_against_predicted(told: Told) -> figure:
    """A dot a test picture, which is shown under the pointer; a perfect prediction lies on the line."""
    plot = plot_of(f"true {told.name}", f"predicted {told.name}")
    both = (told.targets, told.predictions)
    ends = [float(min(map(np.min, both))), float(max(map(np.max, both)))]
    plot.line(ends, ends, color=COLOURS[4], line_width=1.5)
    _dots(plot, told, told.predictions, "predicted")
    return plot


def residuals_against_true(told: Told) -> figure:
    """The error of each test picture, over its true value."""
    plot = plot_of(f"true {told.name}", "error (predicted − true)")
    plot.add_layout(Span(location=0, dimension="width", line_color=COLOURS[4], line_width=1.5))
    _dots(plot, told, told.predictions - told.targets, "error")
    return plot


def _dots(plot: figure, told: Told, heights: Array, what: str) -> None:
    rows = told.rows
    spread = np.zeros(len(rows))
    values = np.unique(told.targets)
    if len(values) <= 50:  # dots of one value would hide one another on a line
        gap = float(np.diff(values).min()) if len(values) > 1 else 1.0
        spread = np.random.default_rng(0).uniform(-0.3, 0.3, len(rows)) * gap
    columns: dict[str, Sequence[Json] | Array] = {
        "x": told.targets[rows] + spread,
        "true": told.targets[rows],
        "y": heights[rows],
        "ref": [told.refs[row] for row in rows],
    }
    lines = [("picture", "@ref"), ("true", "@true{0.[000]}"), (what, "@y{0.[000]}")]
    if told.tiles is not None:
        columns["left"], columns["top"] = map(list, zip(*map(told.tiles.offset, rows), strict=True))
    source = ColumnDataSource(data=columns)
    dots = plot.scatter("x", "y", source=source, size=4, color=COLOURS[0], alpha=0.7, line_color=None)
    if told.tiles is None:
        hover(plot, lines, [dots])
    else:
        hover_pictures(plot, told.tiles, lines, [dots])


def residuals(targets: Array, predictions: Array, name: str) -> figure:
    """How often which error (prediction minus truth) occurs."""
    errors = predictions - targets
    counts, edges = np.histogram(errors, bins=60)
    plot = plot_of(f"error of the predicted {name}", "pictures (log scale)", y_axis_type="log", y_range=DataRange1d(start=0.5))
    source = ColumnDataSource({"left": edges[:-1], "right": edges[1:], "top": np.where(counts > 0, counts, np.nan)})
    bars = plot.quad(left="left", right="right", top="top", bottom=0.5, source=source, color=COLOURS[0], line_color=None)
    plot.add_layout(Span(location=0, dimension="height", line_color=COLOURS[4], line_width=1.5))
    hover(plot, [("error", "@left{0.[00]} to @right{0.[00]}"), ("pictures", "@top")], [bars])
    return plot


def coverage_by_range(ranges: Sequence[Json], names: Sequence[str], asked: float, title: str) -> figure:
    """Share of true values that the prediction intervals held, by range of the target or by target, with its 95 % interval."""
    each = unique(names)
    plot = plot_of(title, "held the true value", x_range=each, y_range=DataRange1d(range_padding=0.15))
    source = ColumnDataSource(
        {
            "x": each,
            "y": [one["covered"]["value"] for one in ranges],
            "low": [one["covered"]["low"] for one in ranges],
            "high": [one["covered"]["high"] for one in ranges],
            "rows": [one["rows"] for one in ranges],
            "width": [one["mean_width"] for one in ranges],
        }
    )
    plot.segment("x", "low", "x", "high", source=source, color=COLOURS[0], line_width=2)
    dots = plot.scatter("x", "y", source=source, size=10, color=COLOURS[0], line_color=None)
    # A line of its own and not a span, so that the axis reaches it.
    plot.line([each[0], each[-1]], [asked, asked], color=COLOURS[4], line_width=1.5, line_dash="dashed")
    plot.yaxis.formatter = NumeralTickFormatter(format="0 %")
    plot.xaxis.major_label_orientation = 0.6 if max(map(len, each)) > 8 else 0.0
    hover(
        plot,
        [
            ("held", "@y{0.0 %}"),
            ("95 % interval", "@low{0.0 %} to @high{0.0 %}"),
            ("pictures", "@rows"),
            ("mean width", "@width{0.[000]a}"),
        ],
        [dots],
    )
    return plot


def reliability(
    after: Sequence[Json], before: Sequence[Json], x_label: str = "how sure the model is", y_label: str = "how often it is right"
) -> figure:
    """How often the model is right, over how sure it is; a model that is as sure as it should be lies on the line."""
    plot = plot_of(x_label, y_label)
    plot.line([0, 1], [0, 1], color=INK, line_width=1.5, line_dash="dashed")
    items = []
    dots = []
    for name, bins, colour in (("before calibration", before, COLOURS[1]), ("as saved", after, COLOURS[0])):
        filled = [one for one in bins if one["rows"]]
        most = max(one["rows"] for one in filled)
        source = ColumnDataSource(
            {
                "x": [one["confidence"] for one in filled],
                "y": [one["accuracy"] for one in filled],
                "rows": [one["rows"] for one in filled],
                "size": [5 + 13 * (one["rows"] / most) ** 0.5 for one in filled],  # the area follows the pictures
                "name": [name] * len(filled),
            }
        )
        line = plot.line("x", "y", source=source, color=colour, line_width=1.5, alpha=0.7)
        dots.append(plot.scatter("x", "y", source=source, size="size", color=colour, alpha=0.8, line_color=None))
        items.append((name, [line, dots[-1]]))
    for axis in (*plot.xaxis, *plot.yaxis):
        axis.formatter = NumeralTickFormatter(format="0 %")
    legend(plot, items)
    hover(plot, [("", "@name"), ("sure", "@x{0.0 %}"), ("right", "@y{0.0 %}"), ("pictures", "@rows")], dots)
    return plot
