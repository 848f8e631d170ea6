"""What stands in the report: the run folder's records, put into words and tables."""

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
from pixelfit.report.repeat import command, energy
from pixelfit.report.targets import View, by_metric, each_table, together_table, view_of
from pixelfit.runs import RunFolder
from pixelfit.types import METRICS_OF, TASK_WORDS, Json
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


@dataclass(frozen=True)
class _Records:
    """A finished run's files; None for what a run from before there was such a file has not."""

    folder: RunFolder
    run: Json
    facts: Json
    data: Json
    scores: Json
    timeline: Json
    pictures: Json
    final: Json
    trials: Sequence[Json]
    weights: Mapping[int, float]  # of the trials in the final model
    augmentation: Json
    evidence: Json
    importance: Json

    @staticmethod
    def read(folder: RunFolder) -> _Records:
        """All of them; raises RunError if the run is not finished."""
        weights: dict[int, float] = {}
        for member in folder.read("model/predictor.json")["members"]:
            weights[member["trial"]] = weights.get(member["trial"], 0.0) + member["weight"]
        return _Records(
            folder=folder,
            run=folder.read("run.json"),
            facts=folder.read("facts.json"),
            data={"folds": 1, **folder.read("data.json")},  # runs from before there were folds do not say
            scores=folder.read("scores.json"),
            timeline=folder.read("timeline.json"),
            pictures=folder.read("pictures/pictures.json"),
            final=folder.read("final.json"),
            trials=folder.read_trials(),
            weights=weights,
            augmentation=folder.read_if_there("augmentation.json"),
            evidence=folder.read_if_there("evidence.json"),
            importance=folder.read_if_there("importance.json"),
        )

    @property
    def ranked_by(self) -> str:
        """What trials were ranked by; a run from before there was a choice used the task's own metric."""
        return str(self.facts.get("metric", METRICS_OF[self.facts["task"]][0]))

    def gallery(self, kind: str) -> list[dict[str, str]]:
        """The pictures of a kind."""
        return gallery(self.folder, self.pictures, kind)


def page(folder: RunFolder) -> Page:
    """Gather everything from the run folder; raises RunError if the run is not finished."""
    records = _Records.read(folder)
    facts, scores, task = records.facts, records.scores, records.facts["task"]
    view, small = view_of(facts), tiles(folder, records.evidence)
    drawing = view.draw(folder, facts, records.data, small)
    drawn = {
        **drawing.charts,
        **sureness.sureness_charts(scores, facts),
        **tried.charts_of(records.trials, records.ranked_by, records.importance),
        **more.more_charts(records.trials, records.data, records.ranked_by),
    }
    sections = {
        "title": f"{facts['data']}: image {TASK_WORDS.get(task, task)}",
        "facts": facts,
        "data": records.data,
        "distributions": drawing.distributions,
        "evaluations": drawing.evaluations,
        "mistakes": drawing.mistakes,
        "charts_left_out": len(scores.get("targets", ())) - len(drawing.evaluations),
        "tiles": small,
        **_answers(records, view),
        **_record(records, view),
        "cells": failures.cells(folder, scores, small),
    }
    return Page(sections, drawn)


def _answers(records: _Records, view: View) -> dict[str, Json]:
    """What the questions' sections say."""
    scores, ranked_by, trials, evidence = records.scores, records.ranked_by, records.trials, records.evidence
    extra = by_metric(view.beside, ranked_by)
    return {
        "summary": _summary(records, view),
        "scores": _score_rows(scores),
        "score_note": view.note,
        "each": each_table(scores),
        "references": _reference_rows(records.data["references"], scores),
        "sureness": sureness.sureness_section(scores),
        "coverage_caption": sureness.coverage_caption(scores),
        "reliability_caption": sureness.reliability_caption(scores),
        "evidence": evidence_section(evidence, scores),
        "confusion": failures.confusion(scores),
        "worst": records.gallery("worst"),
        "surest": records.gallery("surest"),
        "suspects": _suspects(records),
        "ranked_by": TITLES[ranked_by],
        "leaderboard": tried.leaderboard(trials, records.weights, ranked_by, extra),
        "columns": tried.columns(ranked_by, extra),
        "importance": tried.importance_words(records.importance),
        "more": more.more_section(trials, records.data, ranked_by),
        "looks": {"wrong": records.gallery("looked wrong"), "right": records.gallery("looked right")},
        "unseen": "the run is from before it was looked at" if "unseen" not in (evidence or {}) else evidence["unseen"],
        "run_name": shlex.quote(str(records.folder.path)),
        "run_literal": repr(str(records.folder.path)),
        "further": view.further,
        "command": command(records.run),
        "seed": scores["seed"],
        "energy": energy(records.run["environment"], records.timeline["seconds"]["scoring"]),
    }


def _record(records: _Records, view: View) -> dict[str, Json]:
    """What the sections that follow the steps say."""
    facts, trials, timeline = records.facts, records.trials, records.timeline
    return {
        "environment": records.run["environment"],
        "budget_s": records.run["budget_s"],
        "timeline": timeline,
        "uses": _USES,
        "range": view.range(facts),
        "together": together_table(records.data, facts),
        "samples": records.gallery("sample"),
        "found": {finding["kind"]: records.gallery(finding["kind"]) for finding in facts["findings"]},
        "failed": [trial for trial in trials if trial["error"]],
        "augmentation": augmentation_section(records.augmentation),
        "training_share": sum(trial["step_s"] for trial in trials) / max(timeline["seconds"]["scoring"], 1e-9),
        "members": _members(trials, records.weights),
        "decisions": _decisions(records.final),
    }


def _summary(records: _Records, view: View) -> dict[str, Json]:
    scores, trials, weights, ranked_by = records.scores, records.trials, records.weights, records.ranked_by
    # Unless the user asked for a metric, a better known one than what trials were ranked by.
    name = ranked_by if records.run["options"].get("metric") else view.headline
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
        "seconds": records.timeline["seconds"]["scoring"],
        "cores": records.run["environment"]["cores"],
        "families": ", ".join(families),
        "members": "one model" if len(weights) == 1 else f"{len(weights)} models together",
        "tile": _tile_of_sureness(scores),
        "interrupted": records.timeline["interrupted"],
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
            "recipe": [line for line in _lines(by_number[number]["recipe"]) if line[0] != "epochs"],
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


def _lines(recipe: Mapping[str, Json]) -> list[tuple[str, str]]:
    return [(name, f"{value:.4g}" if isinstance(value, float) else str(value)) for name, value in choices_of(recipe).items()]


def _suspects(records: _Records) -> Json:
    """The pictures whose targets look wrong; None for a run from before they were looked for."""
    record = records.folder.read_if_there("suspects.json")
    if record is None:
        return None
    return {"examined": record["examined"], "count": len(record["suspects"]), "shown": records.gallery("suspect")}
