"""Whether more pictures or more time would help: two curves, and what they say in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bokeh.plotting import figure

from pixelfit.metrics import cost_title, shown
from pixelfit.report import search_charts
from pixelfit.report.tried import ends
from pixelfit.types import SIZES, Json

_LITTLE = 0.02  # of the score


def more_section(trials: Sequence[Json], data: Json, ranked_by: str) -> Json:
    """What "Would more data or more time help?" says."""
    points = points_of(trials, data, ranked_by)
    return {"pictures": _picture_words(points, ranked_by), "time": _time_words(trials, ranked_by)}


def more_charts(trials: Sequence[Json], data: Json, ranked_by: str) -> dict[str, figure]:
    """The charts, by name."""
    title = f"validation {cost_title(ranked_by)}"
    points = points_of(trials, data, ranked_by)
    drawn = {"best": search_charts.best_over_time(trials, title)} if len(search_charts.best_until(trials)[0]) > 2 else {}
    return {**drawn, "pictures": search_charts.by_pictures(points, title)} if points else drawn


def points_of(trials: Sequence[Json], data: Json, ranked_by: str) -> list[Json]:
    """The learning curve from few to all pictures; nothing where no trial was trained on a share of them."""
    smaller = [
        trial for trial in trials if trial["purpose"] == SIZES and trial["score"] is not None and trial["state"] == "complete"
    ]
    if not smaller:
        return []
    alike = [trial for trial in trials if trial["recipe"] == smaller[0]["recipe"] and trial["score"] is not None]
    whole = min((trial for trial in alike if trial.get("share", 1.0) == 1.0), key=lambda trial: float(trial["score"]))
    sizes = data["sizes"]
    folds = data.get("folds", 1)
    pictures = sizes["train"] if "train" in sizes else sizes["development"] * (folds - 1) / folds
    points = []
    for trial in sorted([*smaller, whole], key=lambda trial: float(trial.get("share", 1.0))):
        low, high = ends(trial, ranked_by)
        count = round(pictures * trial.get("share", 1.0))
        points.append({"pictures": count, "score": trial["score"], "low": low, "high": high, "trial": trial["number"]})
    # A logarithmic axis has no 0.
    return [point for point in points if point["low"] > 0]


def _picture_words(points: Sequence[Json], ranked_by: str) -> str:
    if len(points) < 2:
        return (
            "Whether more pictures would help was not measured: trainings on shares of them did not fit into a twenty-fifth of "
            "the time, or the score was too near perfect to compare."
        )
    few, all_of_them = points[-2:]
    title = cost_title(ranked_by)
    fell = (
        f"With {few['pictures']:,} training pictures the recipe of trial #{all_of_them['trial']} had a validation {title} of "
        f"{_figure(few['score'])}, with all {all_of_them['pictures']:,} it has {_figure(all_of_them['score'])}. "
    )
    exponent = math.log(few["score"] / all_of_them["score"]) / math.log(all_of_them["pictures"] / few["pictures"])
    doubled = all_of_them["score"] * 2**-exponent
    if doubled > (1 - _LITTLE) * all_of_them["score"]:
        return f"{fell}More pictures of this kind promise little."
    rough = " The intervals of the two overlap, so take this for a hint." if all_of_them["high"] >= few["low"] else ""
    return (
        f"{fell}If it goes on falling like that, twice as many pictures would bring it to about {_figure(doubled)} "
        f"({1 - doubled / all_of_them['score']:.0%} less).{rough}"
    )


def _time_words(trials: Sequence[Json], ranked_by: str) -> str:
    moments, best = search_charts.best_until(trials)
    if not best:
        return "Too few trials were made to say whether more time would help."
    half = [score for moment, score in zip(moments, best, strict=True) if moment <= moments[-1] / 2]
    title = cost_title(ranked_by)
    if not half:
        return "The first trial took more than half of the search: more time would allow for others."
    gain = 1 - best[-1] / half[-1]
    fell = f"In the second half of the search the best validation {title} fell"
    if gain < _LITTLE:
        return f"{fell} by {gain:.1%}: as much time again promises little."
    return f"{fell} from {_figure(half[-1])} to {_figure(best[-1])}, by {gain:.0%}: more time may well make it better."


def _figure(score: float) -> str:
    return shown("rmse", score)  # as a figure of any size; scores that are costs are no shares
