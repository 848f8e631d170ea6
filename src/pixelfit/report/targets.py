"""What of the report depends on the kind of target: one number or label a picture, or several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from bokeh.plotting import figure

from pixelfit.metrics import percent, shown
from pixelfit.report import charts
from pixelfit.report.gallery import Tiles
from pixelfit.runs import RunFolder
from pixelfit.types import Array, Json, Kind, kind_of
from pixelfit.words import value_words

MOST_CHARTS = 6  # of several targets
_NAMED = 6
_SHADE = 0.5  # below this a correlation's colour is hardly there


@dataclass(frozen=True)
class Drawing:
    """Charts by name, and which of them stand where, each with its caption."""

    charts: dict[str, figure]
    distributions: list[tuple[str, str]]
    evaluations: list[tuple[str, str]]
    mistakes: list[tuple[str, str]]


@dataclass(frozen=True)
class View:
    """How one kind of target is told of."""

    headline: str  # what the summary speaks of, unless the user asked for a metric
    constant: Mapping[str, str]  # the baseline's one answer, by the metric that trials were ranked by; "" for all others
    beside: Mapping[str, str]  # a second metric in the leaderboard, likewise
    further: str  # what else than ``predict`` there is to call
    note: str  # under the table of scores
    range: Callable[[Json], str]
    draw: Callable[[RunFolder, Json, Json, Tiles | None], Drawing]


def view_of(facts: Json) -> View:
    """The view for a run's targets, from its ``facts.json``."""
    return VIEWS[kind_of_facts(facts)]


def kind_of_facts(facts: Json) -> Kind:
    """What a picture's target is in a run, from its ``facts.json``."""
    return kind_of(facts["task"], several=bool(facts.get("target_names")))


def by_metric(choices: Mapping[str, str], metric: str) -> str:
    """The choice for a metric, or the one for all others."""
    return choices.get(metric, choices[""])


def each_table(scores: Json) -> Json:
    """The table of several numbers or labels a picture, a row each; None for runs on one."""
    if scores.get("targets"):
        return {
            "title": "Each target",
            "head": ["target", "RMSE", "95 % interval", "baseline", "MAE", "R²", "95 % interval"],
            "rows": [_target_row(one) for one in scores["targets"]],
            "note": "RMSE and MAE are in each target's own unit; the baseline's figure is its RMSE.",
        }
    if scores.get("labels"):
        return {
            "title": "Each label",
            "head": ["label", "pictures", "predicted", "precision", "recall", "F1", "average precision"],
            "rows": [_label_row(one) for one in scores["labels"]],
            "note": "A label is predicted where its probability is at least 50 %. Precision is the share of these pictures that "
            "have it, recall the share of those with the label that were found; average precision is the mean precision at the "
            "pictures with the label, from the most to the least probable one.",
        }
    return None


def _target_row(one: Json) -> list[str]:
    test, baseline = one["test"], one["baseline"]
    return [
        one["name"],
        shown("rmse", test["rmse"]["value"]),
        _span("rmse", test["rmse"]),
        shown("rmse", baseline["rmse"]["value"]),
        shown("mae", test["mae"]["value"]),
        shown("r2", test["r2"]["value"]),
        _span("r2", test["r2"]),
    ]


def _span(name: str, interval: Json) -> str:
    return f"{shown(name, interval['low'])} – {shown(name, interval['high'])}"


def _label_row(one: Json) -> list[str]:
    shares = [one[name] for name in ("precision", "recall", "f1", "average_precision")]
    counts = [f"{one['rows']:,}", f"{one['predicted']:,}"]
    return [str(one["label"]), *counts, *("–" if share is None else percent(share) for share in shares)]


def together_table(data: Json, facts: Json) -> Json:
    """How several targets go together; None for runs on one."""
    together = data.get("together")
    if together is None:
        return None
    if "correlations" in together:
        names, table = facts["target_names"], np.array(together["correlations"])
        texts, shades = [[f"{value:.2f}" for value in row] for row in table], np.abs(table)
        title, note = "How the targets go together", "Correlations between the targets in the development data."
    else:
        names, counts = [str(label) for label in facts["classes"]], np.array(together["counts"])
        shades = counts / np.maximum(1, np.diag(counts))[:, None]
        texts = [[f"{share:.0%}" for share in row] for row in shades]
        title = "Which labels go together"
        note = "Of the pictures with the label on the left, the share that also have the label above, in the development data."
    left_out = len(names) - len(shades)
    rows = [
        {
            "label": names[place],
            "cells": [
                {"text": text, "shade": round(float(shade), 3), "strong": bool(shade >= _SHADE)}
                for text, shade in zip(texts[place], shades[place], strict=True)
            ],
        }
        for place in range(len(shades))
    ]
    note += f" {left_out:,} more are left out." if left_out else ""
    return {"title": title, "labels": names[: len(shades)], "rows": rows, "note": note}


# --- ranges


def _range_of_number(facts: Json) -> str:
    low, high = facts["target_range"]
    return f"{value_words(low)} to {value_words(high)}, {facts['distinct_targets']:,} distinct values"


def _range_of_numbers(facts: Json) -> str:
    pieces = zip(facts["target_names"], facts["target_ranges"], strict=True)
    ranges = [f"{name} {value_words(low)} to {value_words(high)}" for name, (low, high) in pieces]
    more = f" and {len(ranges) - _NAMED:,} more" if len(ranges) > _NAMED else ""
    return f"{len(ranges)} numbers a picture, {', '.join(ranges[:_NAMED])}{more}"


# --- charts

_HOW = "How the target is distributed in each part of the data, as a share of that part."


def _draw_number(folder: RunFolder, facts: Json, data: Json, tiles: Tiles | None) -> Drawing:
    header, columns = _test_columns(folder)
    refs, name = columns[0], facts["target_name"]
    targets, predictions = (np.array(columns[header.index(each)], dtype=np.float64) for each in ("target", "prediction"))
    spread, told = data["distribution"], charts.Told(targets, predictions, refs, name, tiles)
    drawn = {
        "distribution": charts.distribution(spread["edges"], [], _counts(spread, targets), name),
        "true_predicted": charts.true_against_predicted(told),
        "residuals": charts.residuals(targets, predictions, name),
        "residuals_true": charts.residuals_against_true(told),
    }
    mistakes = [
        ("residuals", "How often which error occurs on the test set."),
        (
            "residuals_true",
            "The error over the true value: a band that drifts or widens shows where the model is biased or unsure.",
        ),
    ]
    dots = f"True against predicted, {_points(told)}; dots on the line are right."
    return Drawing(drawn, [("distribution", _HOW)], [("true_predicted", dots)], mistakes)


def _points(told: charts.Told) -> str:
    under = "" if told.tiles is None else ", each shown under the pointer"
    return f"{len(told.rows):,} test pictures{under}"


def _draw_numbers(folder: RunFolder, facts: Json, data: Json, tiles: Tiles | None) -> Drawing:
    _, columns = _test_columns(folder)
    refs, names = columns[0], facts["target_names"]
    drawn, distributions, evaluations = {}, [], []
    for place, (name, spread) in enumerate(list(zip(names, data["distribution"], strict=True))[:MOST_CHARTS]):
        targets = np.array(columns[1 + place], dtype=np.float64)
        predictions = np.array(columns[1 + len(names) + place], dtype=np.float64)
        told = charts.Told(targets, predictions, refs, name, tiles)
        drawn[f"distribution_{place}"] = charts.distribution(spread["edges"], [], _counts(spread, targets), name)
        drawn[f"true_predicted_{place}"] = charts.true_against_predicted(told)
        distributions.append(
            (f"distribution_{place}", f"How {name} is distributed in each part of the data, as a share of that part.")
        )
        evaluations.append(
            (f"true_predicted_{place}", f"{name}: true against predicted, {_points(told)}; dots on the line are right.")
        )
    return Drawing(drawn, distributions, evaluations, [])


def _draw_label(folder: RunFolder, facts: Json, data: Json, tiles: Tiles | None) -> Drawing:
    header, columns = _test_columns(folder)
    labels, targets = [str(label) for label in facts["classes"]], columns[header.index("target")]
    test = [targets.count(label) for label in labels]
    drawn = {"distribution": charts.distribution(None, labels, _with_test(data["distribution"], test), facts["target_name"])}
    return Drawing(drawn, [("distribution", _HOW)], [], [])


def _draw_labels(folder: RunFolder, facts: Json, data: Json, tiles: Tiles | None) -> Drawing:
    header, columns = _test_columns(folder)
    labels = [str(label) for label in facts["classes"]]
    targets = [text.split(";") for text in columns[header.index("target")]]
    test = [sum(label in each for each in targets) for label in labels]
    plot = charts.distribution(None, labels, _with_test(data["distribution"], test), facts["target_name"], totals=data["sizes"])
    how = "How frequent each label is in each part of the data, as a share of that part's pictures."
    return Drawing({"distribution": plot}, [("distribution", how)], [], [])


def _counts(spread: Json, targets: Array) -> dict[str, Sequence[int]]:
    return _with_test(spread, [int(count) for count in np.histogram(targets, bins=spread["edges"])[0]])


def _with_test(spread: Json, test: Sequence[int]) -> dict[str, Sequence[int]]:
    """What was counted in each part of the development data, and in the test set."""
    return {**{part: counts for part, counts in spread.items() if part not in ("name", "edges")}, "test": test}


def _test_columns(folder: RunFolder) -> tuple[list[str], list[list[str]]]:
    """The header and the columns of the test set's predictions."""
    header, rows = folder.read_predictions("test")
    return header, [list(column) for column in zip(*rows, strict=True)]


_INTERVALS = '\nmodel.predict_interval(["picture.png"], coverage=0.9)'
_PROBABILITIES = '\nmodel.predict_proba(["picture.png"])'
VIEWS: Mapping[Kind, View] = {
    "number": View("rmse", {"mae": "the median", "": "the mean"}, {"": "r2"}, _INTERVALS, "", _range_of_number, _draw_number),
    "numbers": View(
        "nrmse",
        {"nmae": "the median of each target", "": "the mean of each target"},
        {"": "mean_r2"},
        _INTERVALS,
        "NRMSE is the root of the mean, over the targets, of their mean squared error by their variance in the development data; "
        "NMAE is the mean absolute error in their standard deviations. Always predicting the means has an NRMSE of about 1.",
        _range_of_numbers,
        _draw_numbers,
    ),
    "label": View(
        "accuracy",
        {"": "the most frequent class"},
        {"accuracy": "log_loss", "": "accuracy"},
        f'{_PROBABILITIES}\nmodel.predict_sets(["picture.png"], coverage=0.9)',
        "",
        lambda facts: f"{len(facts['classes'])} classes",
        _draw_label,
    ),
    "labels": View(
        "mean_ap",
        {"": "how frequent each label is"},
        {"mean_ap": "log_loss", "": "mean_ap"},
        _PROBABILITIES,
        "Log loss is the mean over all pairs of picture and label. Macro F1 is the mean of the labels' F1 scores, micro F1 "
        "counts all pairs together; an exact match is a picture with all its labels right and none wrong.",
        lambda facts: f"{len(facts['classes'])} labels, several a picture",
        _draw_labels,
    ),
}
