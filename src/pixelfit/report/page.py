"""What stands in the report: the run folder's saved, put into words and tables."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bokeh.plotting import figure

from pixelfit.metrics import TITLES, cost, percent, shown
from pixelfit.report import failures, more, sureness, tried
from pixelfit.report.augmentation import augmentation_section
from pixelfit.report.evidence import evidence_section
from pixelfit.report.gallery import gallery, tiles
from pixelfit.report.limits import sittings
from pixelfit.report.repeat import command, energy
from pixelfit.report.saved import Saved
from pixelfit.report.targets import View, by_metric, each_table, together_table, view_of
from pixelfit.types import TASK_WORDS, Json
from pixelfit.words import choices_of

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


def page(saved: Saved) -> Page:
    """Everything that stands on the page of this run."""
    folder, facts, scores, task = saved.folder, saved.facts, saved.scores, saved.facts["task"]
    view, small = view_of(facts), tiles(folder, saved.evidence)
    drawing = view.draw(folder, facts, saved.data, small)
    drawn = {
        **drawing.charts,
        **sureness.sureness_charts(scores, facts),
        **tried.charts_of(saved.trials, saved.ranked_by, saved.importance),
        **more.more_charts(saved.trials, saved.data, saved.ranked_by),
    }
    sections = {
        "title": f"{facts['data']}: image {TASK_WORDS.get(task, task)}",
        "facts": facts,
        "data": {**saved.data, "folds": saved.folds},
        "distributions": drawing.distributions,
        "evaluations": drawing.evaluations,
        "mistakes": drawing.mistakes,
        "charts_left_out": len(scores.get("targets", ())) - len(drawing.evaluations),
        "tiles": small,
        **_answers(saved, view),
        **_record(saved, view),
        "cells": failures.cells(folder, scores, small),
    }
    return Page(sections, drawn)


def _answers(saved: Saved, view: View) -> dict[str, Json]:
    """What the questions' sections say."""
    scores, ranked_by, trials, evidence = saved.scores, saved.ranked_by, saved.trials, saved.evidence
    extra = by_metric(view.beside, ranked_by)
    return {
        "summary": _summary(saved, view),
        "scores": _score_rows(scores),
        "score_note": view.note,
        "each": each_table(scores),
        "references": _reference_rows(saved.data["references"], scores),
        "sureness": sureness.sureness_section(scores),
        "coverage_caption": sureness.coverage_caption(scores),
        "reliability_caption": sureness.reliability_caption(scores),
        "evidence": evidence_section(evidence, scores),
        "confusion": failures.confusion(scores),
        "worst": _gallery(saved, "worst"),
        "surest": _gallery(saved, "surest"),
        "suspects": _suspects(saved),
        "ranked_by": TITLES[ranked_by],
        "leaderboard": tried.leaderboard(trials, saved.weights, ranked_by, extra),
        "columns": tried.columns(ranked_by, extra),
        "importance": tried.importance_words(saved.importance),
        "more": more.more_section(trials, saved.data, ranked_by),
        "looks": {"wrong": _gallery(saved, "looked wrong"), "right": _gallery(saved, "looked right")},
        "unseen": "the run is from before it was looked at" if "unseen" not in (evidence or {}) else evidence["unseen"],
        "run_name": shlex.quote(str(saved.folder.path)),
        "run_literal": repr(str(saved.folder.path)),
        "further": view.further,
        "command": command(saved.run),
        "seed": scores["seed"],
        "energy": energy(saved.run["environment"], saved.timeline["seconds"]["scoring"]),
    }


def _record(saved: Saved, view: View) -> dict[str, Json]:
    """What the sections that follow the steps say."""
    facts, trials, timeline = saved.facts, saved.trials, saved.timeline
    return {
        "environment": saved.run["environment"],
        "budget_s": saved.run["budget_s"],
        "timeline": timeline,
        "sittings": sittings(saved),
        "uses": _USES,
        "range": view.range(facts),
        "together": together_table(saved.data, facts),
        "samples": _gallery(saved, "sample"),
        "found": {finding["kind"]: _gallery(saved, finding["kind"]) for finding in facts["findings"]},
        "failed": [trial for trial in trials if trial["error"]],
        "augmentation": augmentation_section(saved.augmentation),
        "training_share": sum(trial["step_s"] for trial in trials) / max(timeline["seconds"]["scoring"], 1e-9),
        "members": _members(saved),
        "decisions": _decisions(saved.final),
    }


def _summary(saved: Saved, view: View) -> dict[str, Json]:
    scores, trials, weights, ranked_by = saved.scores, saved.trials, saved.weights, saved.ranked_by
    # Unless the user asked for a metric, a better known one than what trials were ranked by.
    name = ranked_by if saved.run["options"].get("metric") else view.headline
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
        "seconds": saved.timeline["seconds"]["scoring"],
        "cores": saved.run["environment"]["cores"],
        "families": ", ".join(families),
        "members": "one model" if len(weights) == 1 else f"{len(weights)} models together",
        "tile": _tile_of_sureness(scores),
        "interrupted": saved.timeline["interrupted"],
    }


def _tile_of_sureness(scores: Json) -> Json:
    """How sure the model may be, as one figure with its name; None where that was not measured, or is one figure a target."""
    if scores.get("intervals") is not None:
        part = scores["intervals"]
        name = f"of true values in the {100 * part['coverage']:g} % intervals"
        return {"value": percent(part["covered"]["value"]), "name": name}
    if scores.get("reliability") is not None:
        return {"value": percent(scores["reliability"]["error"]), "name": "between sureness and accuracy, on average"}
    return None


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


def _members(saved: Saved) -> list[dict[str, Json]]:
    return [
        {
            "number": trial["number"],
            "weight": f"{saved.weights[trial['number']]:.0%}",
            "family": trial["family"],
            "parameters": trial["parameters"],
            "folds": trial.get("folds", 1),
            "steps": trial["steps"],
            "epochs": trial["epochs"],
            "seed": trial["seed"],
            # The recipe's own number of epochs counts only where no clock does; what was trained stands above.
            "recipe": [line for line in _lines(trial["recipe"]) if line[0] != "epochs"],
        }
        for trial in saved.members
    ]


_REPLACES = {True: "is the final model", False: "did not replace the final model"}


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
    streamed = final.get("streamed")
    on = (
        []
        if streamed is None
        else [f"The net that went on over all pictures of the shards {_REPLACES[streamed['kept']]}: {streamed['why']}."]
    )
    return [*on, views[final["views"]], f"{refit} ({final['why']})."]


def _lines(recipe: Mapping[str, Json]) -> list[tuple[str, str]]:
    return [(name, f"{value:.4g}" if isinstance(value, float) else str(value)) for name, value in choices_of(recipe).items()]


def _suspects(saved: Saved) -> Json:
    """The pictures whose targets look wrong; None for a run from before they were looked for."""
    if saved.suspects is None:
        return None
    found = saved.suspects
    return {"examined": found["examined"], "count": len(found["suspects"]), "shown": _gallery(saved, "suspect")}


def _gallery(saved: Saved, kind: str) -> list[dict[str, str]]:
    return gallery(saved.folder, saved.pictures, kind)
