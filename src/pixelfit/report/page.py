"""What stands in the report: the run folder's records, put into words and tables."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bokeh.plotting import figure

from pixelfit.metrics import TITLES, cost, cost_title, shown, watched
from pixelfit.report import charts, sureness
from pixelfit.report.augmentation import augmentation_section
from pixelfit.report.evidence import evidence_section
from pixelfit.report.repeat import command as _command
from pixelfit.report.targets import View, by_metric, each_table, together_table, view_of
from pixelfit.runs import RunFolder
from pixelfit.types import METRICS_OF, TASK_WORDS, Json
from pixelfit.words import value_words

_CURVES = 6
_MOST_IN_MATRIX = 25
_MOST_CONFUSED = 20

# What each part of the data is for.
_USES = {
    "train": {"short": "for training", "long": "fitting models"},
    "validation": {
        "short": "for validation",
        "long": "ranking trials, stopping them, choosing and weighting the final members, calibrating",
    },
    "development": {
        "short": "to develop on",
        "long": "fitting models on all folds but one; on the one that is left out ranking trials, choosing and weighting the "
        "final members, calibrating",
    },
    "test": {"short": "for the test", "long": "read once, at the end"},
}


@dataclass(frozen=True)
class Page:
    """The template's values, and the charts by name."""

    sections: dict[str, Json]
    charts: dict[str, figure]


def page(folder: RunFolder) -> Page:
    """Gather everything from the run folder; raises RunError if the run is not finished."""
    run, facts = folder.read("run.json"), folder.read("facts.json")
    data, scores = folder.read("data.json"), folder.read("scores.json")
    timeline, pictures = folder.read("timeline.json"), folder.read("pictures/pictures.json")
    predictor = folder.read("model/predictor.json")
    trials = folder.read_trials()
    task, ranked_by, view = facts["task"], _ranked_by(facts), view_of(facts)
    drawing = view.draw(folder, facts, data)
    weights: dict[int, float] = {}
    for member in predictor["members"]:
        weights[member["trial"]] = weights.get(member["trial"], 0.0) + member["weight"]
    drawn = {**drawing.charts, **_search_charts(trials, ranked_by), **sureness.sureness_charts(scores, facts)}
    sections = {
        "title": f"{facts['data']}: image {TASK_WORDS.get(task, task)}",
        "facts": facts,
        "further": view.further,
        "summary": _summary(scores, trials, weights, timeline, run, ranked_by, view),
        "sureness": sureness.sureness_section(scores),
        "coverage_caption": sureness.coverage_caption(scores),
        "reliability_caption": sureness.reliability_caption(scores),
        "scores": _score_rows(scores),
        "score_note": view.note,
        "each": each_table(scores),
        "together": together_table(data, facts),
        "distributions": drawing.distributions,
        "evaluations": drawing.evaluations,
        "charts_left_out": len(scores.get("targets", ())) - len(drawing.evaluations),
        "references": _reference_rows(data["references"], scores),
        "environment": run["environment"],
        "command": _command(run),
        "budget_s": run["budget_s"],
        "timeline": timeline,
        "data": {"folds": 1, **data},  # runs from before there were folds do not say
        "uses": _USES,
        "range": view.range(facts),
        "samples": _gallery(folder.path, pictures, "sample"),
        "worst": _gallery(folder.path, pictures, "worst"),
        "suspects": _suspects(folder, pictures),
        "found": {finding["kind"]: _gallery(folder.path, pictures, finding["kind"]) for finding in facts["findings"]},
        "ranked_by": TITLES[ranked_by],
        "leaderboard": _leaderboard(trials, weights, ranked_by, by_metric(view.beside, ranked_by)),
        "failed": [trial for trial in trials if trial["error"]],
        "augmentation": augmentation_section(folder.read_if_there("augmentation.json")),
        "evidence": evidence_section(folder.read_if_there("evidence.json"), scores),
        "confusion": _confusion(scores),
        "members": _members(trials, weights),
        "decisions": _decisions(folder.read("final.json")),
        "training_share": sum(trial["step_s"] for trial in trials) / max(timeline["seconds"]["scoring"], 1e-9),
        "run_name": shlex.quote(str(folder.path)),
        "run_literal": repr(str(folder.path)),
        "seed": scores["seed"],
        "shown_points": drawing.points,
    }
    return Page(sections, drawn)


def _search_charts(trials: Sequence[Json], ranked_by: str) -> dict[str, figure]:
    drawn = {"history": charts.search_history(trials, f"validation {cost_title(ranked_by)}")}
    curves = [trial for trial in _ranked(trials) if len(trial["history"]) > 1][:_CURVES]
    if curves:
        drawn["curves"] = charts.learning_curves(curves, f"validation {TITLES[watched(ranked_by)]}")
    return drawn


def _summary(
    scores: Json, trials: Sequence[Json], weights: Mapping[int, float], timeline: Json, run: Json, ranked_by: str, view: View
) -> dict[str, Json]:
    # Unless the user asked for a metric, a better known one than what trials were ranked by.
    name = ranked_by if run["options"].get("metric") else view.headline
    value, baseline = scores["test"][name], scores["baseline"][name]["value"]
    families = sorted({trial["family"] for trial in trials if trial["number"] in weights})
    apart = max(cost(name, value["low"]), cost(name, value["high"])) < cost(name, baseline)
    return {
        "metric": TITLES[name],
        "value": shown(name, value["value"]),
        "low": shown(name, value["low"]),
        "high": shown(name, value["high"]),
        "baseline": shown(name, baseline),
        "beats_baseline": apart,
        "constant": by_metric(view.constant, ranked_by),
        "rows": scores["rows"],
        "trials": len(trials),
        "seconds": timeline["seconds"]["scoring"],
        "cores": run["environment"]["cores"],
        "families": ", ".join(families),
        "members": "one model" if len(weights) == 1 else f"{len(weights)} models together",
        "interrupted": timeline["interrupted"],
    }


def _score_rows(scores: Json) -> list[dict[str, str]]:
    rows = []
    for name, interval in scores["test"].items():
        baseline = scores["baseline"][name]
        rows.append(
            {
                "name": TITLES[name],
                "value": shown(name, interval["value"]),
                "interval": f"{shown(name, interval['low'])} – {shown(name, interval['high'])}",
                "baseline": shown(name, baseline["value"]),
                "baseline_interval": f"{shown(name, baseline['low'])} – {shown(name, baseline['high'])}",
            }
        )
    return rows


def _reference_rows(references: Sequence[Json], scores: Json) -> list[Json]:
    rows = []
    for reference in references:
        figures = [
            {"name": TITLES[name], "theirs": shown(name, value), "ours": shown(name, scores["test"][name]["value"])}
            | {"better": cost(name, scores["test"][name]["value"]) < cost(name, value)}
            for name, value in reference["metrics"].items()
            if name in scores["test"]
        ]
        rows.append({"name": reference["name"], "note": reference["note"], "figures": figures})
    return rows


def _ranked_by(facts: Json) -> str:
    """What trials were ranked by; a run from before there was a choice used the task's own metric."""
    return str(facts.get("metric", METRICS_OF[facts["task"]][0]))


def _ranked(trials: Sequence[Json]) -> list[Json]:
    return sorted((trial for trial in trials if trial["score"] is not None), key=lambda trial: float(trial["score"]))


def _leaderboard(trials: Sequence[Json], weights: Mapping[int, float], ranked_by: str, extra: str) -> list[dict[str, Json]]:
    return [
        {
            "rank": place,
            "number": trial["number"],
            "family": trial["family"],
            "head": trial["recipe"]["head"],
            "how": _how(trial),
            "score": shown(ranked_by, trial["metrics"][ranked_by]),
            "extra_name": TITLES[extra],
            "extra": shown(extra, trial["metrics"][extra]),
            "weight": f"{weights[trial['number']]:.0%}" if trial["number"] in weights else "",
            "epochs": f"{trial['epochs']:.1f}",
            "seconds": f"{trial['seconds']:.1f}",
            "parameters": f"{trial['parameters']:,}",
            "predict": f"{trial['predict_ms']:.3g}",
        }
        for place, trial in enumerate(_ranked(trials), start=1)
    ]


def _how(trial: Json) -> str:
    """What a trial was for, and how it ended if not as it should."""
    purpose = trial["purpose"] if trial.get("continues") is None else f"{trial['purpose']} of #{trial['continues']}"
    return str(purpose) if trial["state"] == "complete" else f"{purpose}, {trial['state']}"


def _confusion(scores: Json) -> Json:
    """The matrix with a shade for each cell; for many classes the most confused pairs instead."""
    if scores["confusion"] is None:
        return None
    table = np.array(scores["confusion"])
    labels = [str(label) for label in scores["classes"]]
    if len(labels) <= _MOST_IN_MATRIX:
        shares = table / np.maximum(1, table.sum(axis=1, keepdims=True))
        rows = [
            {
                "label": label,
                "cells": [{"count": int(count), "shade": round(float(share), 3)} for count, share in zip(*row, strict=True)],
            }
            for label, *row in zip(labels, table, shares, strict=True)
        ]
        return {"labels": labels, "rows": rows, "pairs": None}
    wrong = table - np.diag(np.diag(table))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSED]
    pairs = [(labels[i], labels[j], int(wrong[i, j])) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)]
    return {"labels": labels, "rows": None, "pairs": [pair for pair in pairs if pair[2]]}


def _members(trials: Sequence[Json], weights: Mapping[int, float]) -> list[dict[str, Json]]:
    by_number = {trial["number"]: trial for trial in trials}
    return [
        {
            "number": number,
            "weight": f"{weight:.0%}",
            "family": by_number[number]["family"],
            "parameters": by_number[number]["parameters"],
            "folds": by_number[number].get("folds", 1),
            "steps": by_number[number]["steps"],
            "epochs": by_number[number]["epochs"],
            "seed": by_number[number]["seed"],
            # The recipe's own number of epochs counts only where no clock does; what was trained stands above.
            "recipe": [line for line in _flat(by_number[number]["recipe"]) if line[0] != "epochs"],
        }
        for number, weight in weights.items()
    ]


def _decisions(final: Json) -> list[str]:
    """How the members became the final model, in sentences."""
    views = {
        "single": "Each picture is looked at once: further views of it did not lower the validation score, or took too long.",
        "shifted": "Each prediction is the mean over the picture and four copies shifted by a twenty-eighth of its side, "
        "which lowered the validation score.",
        "mirrored": "Each prediction is the mean over the picture and its mirror image, which lowered the validation score.",
    }
    refit = (
        "The members were trained once more on training and validation pictures together; validation figures and calibration "
        "are those from before"
        if final["refitted"]
        else "The members were not trained again on training and validation pictures together"
    )
    if final["distilled"]:
        return [
            "A student: it has learned what the search's best ensemble predicts for the training pictures, and took its place."
        ]
    return [views[final["views"]], f"{refit} ({final['why']})."]


def _flat(recipe: Mapping[str, Json], prefix: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for name, value in recipe.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{name} ")
        else:
            lines.append((f"{prefix}{name}".replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value)))
    return lines


def _suspects(folder: RunFolder, pictures: Sequence[Json]) -> Json:
    """The pictures whose targets look wrong; None for a run from before they were looked for."""
    record = folder.read_if_there("suspects.json")
    if record is None:
        return None
    count = len(record["suspects"])
    return {"examined": record["examined"], "count": count, "shown": _gallery(folder.path, pictures, "suspect")}


def _gallery(path: Path, pictures: Sequence[Json], kind: str) -> list[dict[str, str]]:
    shown_pictures = []
    for item in pictures:
        if item["kind"] != kind:
            continue
        file = path / "pictures" / Path(item["file"]).name
        form = "webp" if file.suffix == ".webp" else "png"
        shown_pictures.append(
            {
                "src": f"data:image/{form};base64," + base64.b64encode(file.read_bytes()).decode(),
                "ref": item["ref"],
                "target": value_words(item["target"]),
                "prediction": "" if item["prediction"] is None else value_words(item["prediction"]),
                "note": item["note"],
            }
        )
    return shown_pictures
