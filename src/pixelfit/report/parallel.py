"""Parallel coordinates of the recipes: a line a trial, across an axis for each choice and one for the score (Inselberg 1985)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from bokeh.core.properties import value
from bokeh.models import ColumnDataSource, LinearColorMapper
from bokeh.models.ranges import Range1d
from bokeh.palettes import Viridis256
from bokeh.plotting import figure

from pixelfit.report.plots import FONT, INK, hover, plot_of
from pixelfit.report.search_charts import short
from pixelfit.types import Array, Json
from pixelfit.words import choices_of

_MOST_AXES = 6  # besides the score's: more are too narrow on a phone
_MOST_NAMED = 6  # values of a choice that are words
_LETTERS = 11
_PALETTE = Viridis256[40:205]  # without the ends, which are hard to see on dark and on light ground
_WIDE = 10.0  # ratio of the largest to the smallest value from which an axis is logarithmic


def parallel_coordinates(trials: Sequence[Json], first: Sequence[str], score: str) -> figure | None:
    """The chart; None where the trials do not differ, or there are fewer than two.

    Args:
        trials: those with a score, and of one length.
        first: names of choices in the order in which they matter; where these are few, the recipes' own order goes on.
        score: what the last axis is called.
    """
    recipes = [choices_of(trial["recipe"]) for trial in trials]
    names = [name for name in _ordered(recipes, first) if len({str(recipe.get(name)) for recipe in recipes}) > 1][:_MOST_AXES]
    if len(trials) < 2 or not names:
        return None
    scores = [float(trial["score"]) for trial in trials]
    columns: list[tuple[str, Sequence[Json]]] = [(name, [recipe.get(name) for recipe in recipes]) for name in names]
    axes = [_Axis(name, values) for name, values in (*columns, (score, scores))]
    plot = plot_of("", "", height=380, x_range=Range1d(start=-0.5, end=len(axes) - 0.5), y_range=Range1d(start=-0.12, end=1.1))
    _draw_axes(plot, axes)
    heights = np.stack([axis.heights for axis in axes], axis=1)
    source = ColumnDataSource(
        {
            "xs": [list(range(len(axes)))] * len(trials),
            "ys": [[None if math.isnan(value) else value for value in row] for row in heights.tolist()],
            # The best are the brightest, and are drawn last.
            "rank": (-axes[-1].heights).tolist(),
            "trial": [f"#{trial['number']} {trial['family']}" for trial in trials],
            "score": scores,
        }
    )
    mapper = LinearColorMapper(palette=_PALETTE, low=-1.0, high=0.0)
    lines = plot.multi_line(
        "xs", "ys", source=_sorted(source), line_width=2, line_alpha=0.75, line_color={"field": "rank", "transform": mapper}
    )
    hover(plot, [("trial", "@trial"), (score, "@score{0.0000}")], [lines])
    return plot


class _Axis:
    """One axis: where each trial's value stands on it, from 0 to 1, and what is written at which height."""

    def __init__(self, name: str, values: Sequence[Json]) -> None:
        self.name = name
        words = any(isinstance(value, (str, bool)) for value in values)
        self.heights, self.labels = _of_words(values) if words else _of_numbers(values)


def _of_words(values: Sequence[Json]) -> tuple[Array, list[tuple[float, str]]]:
    known = sorted({str(value) for value in values if value is not None})
    places = {name: (place + 0.5) / len(known) for place, name in enumerate(known)}
    labels = [(places[name], short(name, _LETTERS)) for name in known] if len(known) <= _MOST_NAMED else []
    return np.array([math.nan if value is None else places[str(value)] for value in values]), labels


def _of_numbers(values: Sequence[Json]) -> tuple[Array, list[tuple[float, str]]]:
    numbers = np.array([math.nan if value is None else float(value) for value in values])
    low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    wide = low > 0 and high / low >= _WIDE
    scaled = np.log(numbers) if wide else numbers
    ends = (math.log(low), math.log(high)) if wide else (low, high)
    heights = (scaled - ends[0]) / (ends[1] - ends[0]) if high > low else np.full(len(numbers), 0.5)
    return heights, [(0.0, f"{low:.2g}"), (1.0, f"{high:.2g}")] if high > low else [(0.5, f"{low:.2g}")]


def _draw_axes(plot: figure, axes: Sequence[_Axis]) -> None:
    places = list(range(len(axes)))
    plot.segment(places, [0.0] * len(axes), places, [1.0] * len(axes), color=INK, line_width=1, line_alpha=0.6)
    for place, axis in enumerate(axes):
        for height, text in axis.labels:
            plot.text(
                [place], [height], text=[text], text_color=INK, text_font=value(FONT), text_font_size="11px", text_align="center",
                text_baseline="bottom" if height > 0.99 else "top" if height < 0.01 else "middle", x_offset=0,
                y_offset=-4 if height > 0.99 else 5 if height < 0.01 else -9,
            )  # fmt: skip
    plot.xaxis.ticker = places
    plot.xaxis.major_label_overrides = {
        place: short(axis.name.removeprefix("augmentation "), 20) for place, axis in enumerate(axes)
    }
    plot.xaxis.major_label_orientation = 0.9
    plot.yaxis.visible = False
    for grid in (*plot.xgrid, *plot.ygrid):
        grid.visible = False


def _sorted(source: ColumnDataSource) -> ColumnDataSource:
    order = np.argsort(source.data["rank"], kind="stable")
    return ColumnDataSource({str(name): [values[place] for place in order] for name, values in source.data.items()})


def _ordered(recipes: Sequence[Mapping[str, Json]], first: Sequence[str]) -> list[str]:
    """The choices' names, the ``first`` ones first; of several that go together the first name counts."""
    everything = list(dict.fromkeys(name for recipe in recipes for name in recipe))
    ahead = [name.split(", ", maxsplit=1)[0] for name in first]
    return list(dict.fromkeys([*(name for name in ahead if name in everything), *everything]))
