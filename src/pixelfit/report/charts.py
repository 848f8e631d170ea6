"""The report's charts, drawn by Bokeh: interactive, and readable on light and dark ground alike."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from bokeh.embed import components
from bokeh.models import ColumnDataSource, HoverTool, NumeralTickFormatter
from bokeh.models.annotations import Legend, LegendItem, Span
from bokeh.models.axes import CategoricalAxis
from bokeh.models.ranges import DataRange1d
from bokeh.plotting import figure
from bokeh.resources import Resources
from markupsafe import Markup

from pixelfit.types import Array, Json

# Okabe & Ito's palette, which colour-blind readers can tell apart; the black of it is left out for dark grounds.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#B8A900")
_INK = "#7d8590"  # a grey that reads on white and on near-black
MOST_POINTS = 2_500  # more points hide one another and make the file large


def charts_html(charts: Mapping[str, figure]) -> tuple[Markup, dict[str, Markup]]:
    """Script elements (Bokeh itself, then the charts' data), and for each chart the element that it appears in."""
    script, places = components(dict(charts), wrap_script=False)
    library = Resources(mode="inline", components=["bokeh"]).js_raw
    # A closing tag inside a script would end it early; in JavaScript strings "<\/" means the same.
    bodies = [body.replace("</script", "<\\/script") for body in (*library, script)]
    # Everything here is Bokeh's own output: strings from the data are inside its JSON.
    return Markup("\n".join(f"<script>{body}</script>" for body in bodies)), {name: Markup(html) for name, html in places.items()}


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
        plot = _plot("label" if totals else "class", "share of the split", y_range=DataRange1d(start=0), x_range=list(labels))
        middles: Array = np.arange(len(labels)) + 0.5
        widths: Array = np.full(len(labels), 0.8)
        names = list(labels)
        plot.xaxis.major_label_orientation = 0.8 if max(map(len, labels)) > 3 else 0.0
    else:
        plot = _plot(title, "share of the split", y_range=DataRange1d(start=0))
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
    _legend(plot, items)
    _hover(plot, [("split", "@split"), ("target", "@name"), ("pictures", "@count")])
    return plot


def search_history(trials: Sequence[Json], title: str) -> figure:
    """Each trial's validation score at the moment it ended, and the best until then."""
    ends = np.cumsum([trial["seconds"] for trial in trials])
    good = [(end, trial) for end, trial in zip(ends, trials, strict=True) if trial["score"] is not None]
    plot = _plot("seconds of search", title, y_axis_type="log")
    items = []
    for family, colour in _family_colours(trials).items():
        mine = [(end, trial) for end, trial in good if trial["family"] == family]
        if not mine:
            continue
        source = ColumnDataSource(
            {
                "x": [end for end, _ in mine],
                "y": [max(trial["score"], 1e-9) for _, trial in mine],
                "trial": [trial["number"] for _, trial in mine],
                "family": [family] * len(mine),
                "purpose": [trial["purpose"] for _, trial in mine],
                "state": [trial["state"] for _, trial in mine],
            }
        )
        items.append((family, [plot.scatter("x", "y", source=source, size=9, color=colour, line_color=None, alpha=0.9)]))
    best = np.minimum.accumulate([max(trial["score"], 1e-9) for _, trial in good])
    line = plot.step([end for end, _ in good], best, mode="after", color=_INK, line_width=2, line_dash="dotted")
    _legend(plot, [*items, ("best so far", [line])])
    renderers = [renderer for _, group in items for renderer in group]
    _hover(plot, [("trial", "#@trial @family"), ("score", "@y{0.0000}"), ("", "@purpose, @state")], renderers)
    return plot


def learning_curves(trials: Sequence[Json], title: str) -> figure:
    """Validation score over epochs, for the best trials that were trained step by step."""
    plot = _plot("epochs", title, y_axis_type="log")
    items = []
    for place, trial in enumerate(trials):
        history = trial["history"]
        source = ColumnDataSource(
            {
                "x": [check["epoch"] for check in history],
                "y": [max(check["score"], 1e-9) for check in history],
                "loss": [check["train_loss"] for check in history],
                "trial": [f"#{trial['number']} {trial['family']}"] * len(history),
            }
        )
        colour = COLOURS[place % len(COLOURS)]
        line = plot.line("x", "y", source=source, color=colour, line_width=2)
        dots = plot.scatter("x", "y", source=source, color=colour, size=5)
        items.append((f"#{trial['number']} {trial['family']}", [line, dots]))
    _legend(plot, items)
    _hover(
        plot, [("trial", "@trial"), ("epoch", "@x{0.0}"), ("validation score", "@y{0.0000}"), ("training loss", "@loss{0.0000}")]
    )
    return plot


def true_against_predicted(targets: Array, predictions: Array, refs: Sequence[str], name: str) -> figure:
    """A dot a test picture; a perfect prediction lies on the line."""
    rows = _some(len(targets))
    plot = _plot(f"true {name}", f"predicted {name}")
    spread = np.zeros(len(rows))
    values = np.unique(targets)
    if len(values) <= 50:  # dots of one value would hide one another on a line
        gap = float(np.diff(values).min()) if len(values) > 1 else 1.0
        spread = np.random.default_rng(0).uniform(-0.3, 0.3, len(rows)) * gap
    source = ColumnDataSource(
        {"x": targets[rows] + spread, "true": targets[rows], "y": predictions[rows], "ref": [refs[row] for row in rows]}
    )
    low, high = float(min(targets.min(), predictions.min())), float(max(targets.max(), predictions.max()))
    plot.line([low, high], [low, high], color=COLOURS[4], line_width=1.5)
    dots = plot.scatter("x", "y", source=source, size=4, color=COLOURS[0], alpha=0.45, line_color=None)
    _hover(plot, [("picture", "@ref"), ("true", "@true{0.[000]}"), ("predicted", "@y{0.[000]}")], [dots])
    return plot


def residuals(targets: Array, predictions: Array, name: str) -> figure:
    """How often which error (prediction minus truth) occurs."""
    errors = predictions - targets
    counts, edges = np.histogram(errors, bins=60)
    plot = _plot(f"error of the predicted {name}", "pictures (log scale)", y_axis_type="log", y_range=DataRange1d(start=0.5))
    source = ColumnDataSource({"left": edges[:-1], "right": edges[1:], "top": np.where(counts > 0, counts, np.nan)})
    bars = plot.quad(left="left", right="right", top="top", bottom=0.5, source=source, color=COLOURS[0], line_color=None)
    plot.add_layout(Span(location=0, dimension="height", line_color=COLOURS[4], line_width=1.5))
    _hover(plot, [("error", "@left{0.[00]} to @right{0.[00]}"), ("pictures", "@top")], [bars])
    return plot


def residuals_against_true(targets: Array, predictions: Array, refs: Sequence[str], name: str) -> figure:
    """The error of each test picture, over its true value."""
    plot = true_against_predicted(targets, predictions - targets, refs, name)
    plot.yaxis.axis_label = "error"
    plot.renderers = plot.renderers[1:]  # the line of perfect predictions is the level line here
    plot.add_layout(Span(location=0, dimension="width", line_color=COLOURS[4], line_width=1.5))
    return plot


def coverage_by_range(ranges: Sequence[Json], names: Sequence[str], asked: float, title: str) -> figure:
    """Share of true values that the prediction intervals held, by range of the target or by target, with its 95 % interval."""
    unique = [f"{place}. {name}" if list(names).count(name) > 1 else name for place, name in enumerate(names, start=1)]
    plot = _plot(title, "held the true value", x_range=unique, y_range=DataRange1d(range_padding=0.15))
    source = ColumnDataSource(
        {
            "x": unique,
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
    plot.line([unique[0], unique[-1]], [asked, asked], color=COLOURS[4], line_width=1.5, line_dash="dashed")
    plot.yaxis.formatter = NumeralTickFormatter(format="0 %")
    plot.xaxis.major_label_orientation = 0.6 if max(map(len, unique)) > 8 else 0.0
    _hover(
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
    plot = _plot(x_label, y_label)
    plot.line([0, 1], [0, 1], color=_INK, line_width=1.5, line_dash="dashed")
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
    _legend(plot, items)
    _hover(plot, [("", "@name"), ("sure", "@x{0.0 %}"), ("right", "@y{0.0 %}"), ("pictures", "@rows")], dots)
    return plot


def _family_colours(trials: Sequence[Json]) -> dict[str, str]:
    """A colour for each family, in the order in which they first appear."""
    families = list(dict.fromkeys(trial["family"] for trial in trials))
    return {family: COLOURS[place % len(COLOURS)] for place, family in enumerate(families)}


def _some(count: int) -> Array:
    return np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(int))


def _plot(x_label: str, y_label: str, **options: Any) -> figure:
    plot = figure(
        height=330, sizing_mode="stretch_width", toolbar_location=None, tools="", x_axis_label=x_label, y_axis_label=y_label,
        background_fill_color=None, border_fill_color=None, outline_line_color=None, **options,
    )  # fmt: skip
    for axis in (*plot.xaxis, *plot.yaxis):
        axis.axis_label_text_color = axis.major_label_text_color = _INK
        axis.axis_label_text_font_style = "normal"
        axis.axis_line_color = axis.major_tick_line_color = _INK
        axis.minor_tick_line_color = None
        if not isinstance(axis, CategoricalAxis):
            axis.formatter = NumeralTickFormatter(format="0.[0000]a")  # 1.5k, 2m: short enough for a phone
        axis.axis_label_text_font = axis.major_label_text_font = "system-ui, sans-serif"
    for grid in (*plot.xgrid, *plot.ygrid):
        grid.grid_line_color, grid.grid_line_alpha = _INK, 0.18
    return plot


def _legend(plot: figure, items: Sequence[tuple[str, list[Any]]]) -> None:
    legend = Legend(
        items=[LegendItem(label={"value": name}, renderers=renderers) for name, renderers in items],
        orientation="horizontal", ncols=3, background_fill_color=None, border_line_color=None, label_text_color=_INK,
        label_text_font="system-ui, sans-serif", spacing=6, margin=6,
    )  # fmt: skip
    plot.add_layout(legend, "above")


def _hover(plot: figure, lines: list[tuple[str, str]], renderers: list[Any] | None = None) -> None:
    plot.add_tools(HoverTool(tooltips=lines, renderers=renderers if renderers is not None else "auto"))
