"""What was tried: the leaderboard, and the charts of the search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bokeh.plotting import figure

from pixelfit.metrics import TITLES, cost, cost_title, shown, watched
from pixelfit.report import search_charts
from pixelfit.report.parallel import parallel_coordinates
from pixelfit.types import SIZES, Json

_CURVES = 6
_CHOICES_SHOWN = 10
_SAYS_NOTHING, _SAYS_LITTLE = 0.05, 0.2  # of the variance that the forest explains
_EQUALLY_LONG = ("portfolio", "sampled")


def ranked(trials: Sequence[Json]) -> list[Json]:
    """The trials with a score, the best first."""
    return sorted((trial for trial in trials if trial["score"] is not None), key=lambda trial: float(trial["score"]))


def leaderboard(trials: Sequence[Json], weights: Mapping[int, float], ranked_by: str, extra: str) -> list[dict[str, Json]]:
    """A row a trial, the best first: for each column its text, and for those that can be sorted by number the number."""
    return [
        {
            "chosen": trial["number"] in weights,
            "name": f"#{trial['number']} {trial['family']}",
            "how": _how(trial),
            "head": trial["recipe"]["head"],
            "cells": [
                (shown(ranked_by, trial["metrics"][ranked_by]), trial["metrics"][ranked_by]),
                (_interval(trial, ranked_by), None),
                (shown(extra, trial["metrics"][extra]), trial["metrics"][extra]),
                (f"{weights[trial['number']]:.0%}" if trial["number"] in weights else "", weights.get(trial["number"], 0.0)),
                (f"{trial['epochs']:.1f}", trial["epochs"]),
                (f"{trial['seconds']:.1f}", trial["seconds"]),
                (f"{trial['parameters']:,}", trial["parameters"]),
                (_ms(trial["predict_ms"]), trial["predict_ms"]),
                (_ms(trial.get("latency_ms")), trial.get("latency_ms")),
            ],
        }
        for trial in ranked(trials)
    ]


def columns(ranked_by: str, extra: str) -> list[str]:
    """The names of the leaderboard's cells."""
    scores = [TITLES[ranked_by], "95 % interval", TITLES[extra], "in final"]
    return [*scores, "epochs", "seconds", "parameters", "ms a picture", "ms alone"]


def _interval(trial: Json, ranked_by: str) -> str:
    interval = trial.get("interval")  # trials from before there were intervals have none
    return f"{shown(ranked_by, interval[0])} – {shown(ranked_by, interval[1])}" if interval else ""


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _how(trial: Json) -> str:
    """What a trial was for, and how it ended if not as it should."""
    purpose = trial["purpose"] if trial.get("continues") is None else f"{trial['purpose']} of #{trial['continues']}"
    if trial.get("share", 1.0) < 1.0:
        purpose = f"{purpose}, {trial['share']:.1%} of the pictures"
    return str(purpose) if trial["state"] == "complete" else f"{purpose}, {trial['state']}"


def charts_of(trials: Sequence[Json], ranked_by: str, importance: Json) -> dict[str, figure]:
    """The charts, by name."""
    title = f"validation {cost_title(ranked_by)}"
    whole = [trial for trial in trials if trial["purpose"] != SIZES]
    drawn = {"history": search_charts.search_history(trials, title)}
    curves = [trial for trial in ranked(whole) if len(trial["history"]) > 1][:_CURVES]
    if curves:
        drawn["curves"] = search_charts.learning_curves(curves, f"validation {TITLES[watched(ranked_by)]}")
    if importance is not None and importance["explained"] >= _SAYS_NOTHING:
        drawn["importance"] = search_charts.importance_of(importance["choices"], _CHOICES_SHOWN)
    first = [choice["name"] for choice in importance["choices"]] if importance is not None else []
    equal = [trial for trial in ranked(trials) if trial["purpose"] in _EQUALLY_LONG]
    more = {"latency": search_charts.accuracy_and_latency(whole, title), "parallel": parallel_coordinates(equal, first, title)}
    return {**drawn, **{name: chart for name, chart in more.items() if chart is not None}}


def importance_words(importance: Json) -> str:
    """How far the importances can be believed."""
    if importance is None:
        return "Which choices decide was not measured: for that, eight trials of the same length are needed."
    if importance["explained"] < _SAYS_NOTHING:
        return (
            "Which choices decide cannot be told: from the choices a forest explains next to nothing of how the "
            f"{importance['trials']} trials of the same length differ."
        )
    words = (
        f"A forest that predicts the score from the choices explains {importance['explained']:.0%} of how the "
        f"{importance['trials']} trials of the same length differ; a choice's share is how much worse it predicts where that "
        "choice is shuffled among them."
    )
    return words + (" That is little: take the shares for a hint." if importance["explained"] < _SAYS_LITTLE else "")


def ends(trial: Json, ranked_by: str) -> tuple[float, float]:
    """The ends of a trial's interval as costs, the lower first; its score twice where it has none."""
    interval = trial.get("interval")
    if interval is None:
        return trial["score"], trial["score"]
    low, high = sorted(cost(ranked_by, value) for value in interval)
    return low, high
