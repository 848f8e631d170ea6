"""The charts of the search: what was tried, what decided, and what more time or pictures would give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from bokeh.models import BasicTicker, ColumnDataSource, NumeralTickFormatter
from bokeh.models.ranges import DataRange1d
from bokeh.plotting import figure

from pixelfit.report.plots import COLOURS, INK, hover, legend, plot_of, unique
from pixelfit.types import Json

_LEAST_SCORE = 1e-9  # a logarithmic axis has no 0


def search_history(trials: Sequence[Json], title: str) -> figure:
    """Each trial's validation score at the moment it ended, and the best until then."""
    ends = np.cumsum([trial["seconds"] for trial in trials])
    good = [(end, trial) for end, trial in zip(ends, trials, strict=True) if trial["score"] is not None]
    plot = plot_of("seconds of search", title, y_axis_type="log")
    items = []
    for family, colour in _family_colours(trials).items():
        mine = [(end, trial) for end, trial in good if trial["family"] == family]
        if not mine:
            continue
        source = ColumnDataSource(
            {
                "x": [end for end, _ in mine],
                "y": [max(trial["score"], _LEAST_SCORE) for _, trial in mine],
                "trial": [trial["number"] for _, trial in mine],
                "family": [family] * len(mine),
                "purpose": [trial["purpose"] for _, trial in mine],
                "state": [trial["state"] for _, trial in mine],
            }
        )
        items.append((family, [plot.scatter("x", "y", source=source, size=9, color=colour, line_color=None, alpha=0.9)]))
    best = np.minimum.accumulate([max(trial["score"], _LEAST_SCORE) for _, trial in good])
    line = plot.step([end for end, _ in good], best, mode="after", color=INK, line_width=2, line_dash="dotted")
    legend(plot, [*items, ("best so far", [line])])
    renderers = [renderer for _, group in items for renderer in group]
    hover(plot, [("trial", "#@trial @family"), ("score", "@y{0.0000}"), ("", "@purpose, @state")], renderers)
    return plot


def learning_curves(trials: Sequence[Json], title: str) -> figure:
    """Validation score over epochs, for the best trials that were trained step by step."""
    plot = plot_of("epochs", title, y_axis_type="log")
    items = []
    for place, trial in enumerate(trials):
        history = trial["history"]
        source = ColumnDataSource(
            {
                "x": [check["epoch"] for check in history],
                "y": [max(check["score"], _LEAST_SCORE) for check in history],
                "loss": [check["train_loss"] for check in history],
                "trial": [f"#{trial['number']} {trial['family']}"] * len(history),
            }
        )
        colour = COLOURS[place % len(COLOURS)]
        line = plot.line("x", "y", source=source, color=colour, line_width=2)
        dots = plot.scatter("x", "y", source=source, color=colour, size=5)
        items.append((f"#{trial['number']} {trial['family']}", [line, dots]))
    legend(plot, items)
    hover(
        plot, [("trial", "@trial"), ("epoch", "@x{0.0}"), ("validation score", "@y{0.0000}"), ("training loss", "@loss{0.0000}")]
    )
    return plot


def _family_colours(trials: Sequence[Json]) -> dict[str, str]:
    """A colour for each family, in the order in which they first appear."""
    families = list(dict.fromkeys(trial["family"] for trial in trials))
    return {family: COLOURS[place % len(COLOURS)] for place, family in enumerate(families)}


def best_over_time(trials: Sequence[Json], title: str) -> figure:
    """The best validation score until each moment of the search."""
    ends, best = best_until(trials)
    plot = plot_of("seconds of search", title, y_axis_type="log")
    source = ColumnDataSource({"x": ends, "y": best})
    plot.step("x", "y", source=source, mode="after", color=COLOURS[0], line_width=2)
    dots = plot.scatter("x", "y", source=source, size=5, color=COLOURS[0], line_color=None)
    hover(plot, [("after", "@x{0.[0]} s"), ("best score", "@y{0.0000}")], [dots])
    return plot


def best_until(trials: Sequence[Json]) -> tuple[list[float], list[float]]:
    """When trials ended that were better than all before, in seconds of search, and their scores; then the search's end.

    The baseline, which does not look at pictures, does not count.
    """
    ends: list[float] = []
    best: list[float] = []
    clock = 0.0
    for trial in trials:
        clock += trial["seconds"]
        looked = trial["score"] is not None and trial["family"] != "constant"
        if looked and (not best or trial["score"] < best[-1]):
            ends.append(clock)
            best.append(max(trial["score"], _LEAST_SCORE))
    return ([*ends, clock], [*best, best[-1]]) if best else ([], [])


def by_pictures(points: Sequence[Json], title: str) -> figure:
    """Validation score over the number of training pictures, with 95 % intervals."""
    plot = plot_of("training pictures", title, x_axis_type="log", y_axis_type="log")
    source = ColumnDataSource({name: [point[name] for point in points] for name in ("pictures", "score", "low", "high", "trial")})
    plot.segment("pictures", "low", "pictures", "high", source=source, color=COLOURS[0], line_width=2)
    plot.line("pictures", "score", source=source, color=COLOURS[0], line_width=1.5, line_dash="dotted")
    dots = plot.scatter("pictures", "score", source=source, size=9, color=COLOURS[0], line_color=None)
    lines = [("pictures", "@pictures{0,0}"), ("score", "@score{0.0000}"), ("95 % interval", "@low{0.0000} to @high{0.0000}")]
    hover(plot, [*lines, ("trial", "#@trial")], [dots])
    return plot


def accuracy_and_latency(trials: Sequence[Json], title: str) -> figure | None:
    """Each trial's validation score over its prediction time; the line joins those that none beats in both (Pareto).

    None for fewer than two trials that look at pictures.
    """
    told = [trial for trial in trials if trial["score"] is not None and trial["predict_ms"] and trial["family"] != "constant"]
    if len(told) < 2:
        return None
    plot = plot_of("ms a picture, predicted in batches", title, x_axis_type="log", y_axis_type="log")
    items, dots = [], []
    for family, colour in _family_colours(trials).items():
        mine = [trial for trial in told if trial["family"] == family]
        if not mine:
            continue
        source = ColumnDataSource(
            {
                "x": [trial["predict_ms"] for trial in mine],
                "y": [max(trial["score"], _LEAST_SCORE) for trial in mine],
                "trial": [trial["number"] for trial in mine],
                "family": [family] * len(mine),
                "parameters": [trial["parameters"] for trial in mine],
            }
        )
        dots.append(plot.scatter("x", "y", source=source, size=9, color=colour, line_color=None, alpha=0.9))
        items.append((family, [dots[-1]]))
    front = pareto(told)
    xs, ys = [trial["predict_ms"] for trial in front], [max(trial["score"], _LEAST_SCORE) for trial in front]
    line = plot.step(xs, ys, mode="after", color=INK, line_width=2, line_dash="dotted")
    legend(plot, [*items, ("none is better and faster", [line])])
    lines = [
        ("trial", "#@trial @family"),
        ("score", "@y{0.0000}"),
        ("ms a picture", "@x{0.[000]}"),
        ("parameters", "@parameters{0,0}"),
    ]
    hover(plot, lines, dots)
    return plot


def pareto(trials: Sequence[Json]) -> list[Json]:
    """The trials that no other beats in score and prediction time, the fastest first."""
    front: list[Json] = []
    for trial in sorted(trials, key=lambda trial: (trial["predict_ms"], trial["score"])):
        if not front or trial["score"] < front[-1]["score"]:
            front.append(trial)
    return front


def importance_of(choices: Sequence[Json], most: int) -> figure:
    """How much each choice in the recipes decided, the most important on top."""
    shown_choices = list(choices)[:most][::-1]
    names = unique([short(choice["name"], 30) for choice in shown_choices])
    plot = plot_of("share", "", height=90 + 26 * len(names), y_range=names, x_range=DataRange1d(start=0))
    source = ColumnDataSource(
        {"y": names, "share": [choice["share"] for choice in shown_choices], "name": [choice["name"] for choice in shown_choices]}
    )
    bars = plot.hbar("y", right="share", height=0.7, source=source, color=COLOURS[0], line_width=0)
    plot.xaxis.formatter = NumeralTickFormatter(format="0 %")
    plot.xaxis.ticker = BasicTicker(desired_num_ticks=4)  # more run into one another on a phone
    hover(plot, [("choice", "@name"), ("share", "@share{0.0 %}")], [bars])
    return plot


def short(text: str, most: int) -> str:
    """Text of at most so many letters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
