"""``report.json``: what the report says, in one document for machines."""

from __future__ import annotations

from pixelfit.report.repeat import command
from pixelfit.report.saved import Saved
from pixelfit.types import Json

FORMAT = 1
_FILES = {
    "report": "report.html",
    "model_card": "model-card.md",
    "notebook": "notebook.ipynb",
    "model": "model",
    "run": "run.json",
    "facts": "facts.json",
    "data": "data.json",
    "scores": "scores.json",
    "leaderboard": "leaderboard.csv",
    "validation_predictions": "predictions/validation.csv",
    "test_predictions": "predictions/test.csv",
    "pictures": "pictures/pictures.json",
}  # the run folder's, for those who read on
_OF_EACH_TRIAL = (
    "family", "purpose", "state", "metrics", "folds", "steps", "epochs", "seconds", "parameters", "predict_ms", "latency_ms",
    "interval", "share", "error",
)  # fmt: skip
_OF_FACTS = (
    "rows_given", "rows", "original_height", "original_width", "kinds", "classes", "target_range", "target_ranges",
    "duplicate_groups", "duplicate_rows", "near_groups", "near_rows", "studied", "fingerprint",
)  # fmt: skip


def record(saved: Saved) -> Json:
    """The document.

    It has no ``wall_s``: that is written once more after the report is drawn, and drawing again must give the same bytes.
    """
    scores = saved.scores
    return {
        "format": FORMAT,
        "pixelfit": saved.version,
        "task": saved.facts["task"],
        "task_reason": saved.facts["task_reason"],
        "metric": saved.ranked_by,
        "data": _data(saved),
        "split": {"how": saved.data["split"], "folds": saved.folds, "sizes": saved.data["sizes"]},
        "test": scores["test"],
        "baseline": scores["baseline"],
        "confusion": scores["confusion"],
        "sureness": {name: scores.get(name) for name in ("intervals", "sets", "reliability")},
        "targets": scores.get("targets", []),
        "labels": scores.get("labels", []),
        "evidence": None if saved.evidence is None else {name: saved.evidence[name] for name in ("slicings", "likeness")},
        "suspects": saved.suspects,
        "references": saved.data["references"],
        "leaderboard": [_trial(place, trial, saved) for place, trial in enumerate(saved.ranked, start=1)],
        "members": [_member(trial, saved) for trial in saved.members],
        "final": saved.final,
        "augmentation": saved.augmentation,
        "importance": saved.importance,
        "environment": saved.run["environment"],
        "source": saved.run["source"],
        "options": saved.run["options"],
        "command": command(saved.run),
        "seed": scores["seed"],
        "budget_s": saved.run["budget_s"],
        "seconds": saved.timeline["seconds"],
        "interrupted": saved.timeline["interrupted"],
        "files": _FILES,
    }


def _data(saved: Saved) -> Json:
    facts = saved.facts
    return {
        "name": facts["data"],
        "targets": saved.targets,
        **{name: facts[name] for name in _OF_FACTS if name in facts},
        "left_out": facts["left_out"],
        "seen_as": facts["spec"],
        "findings": facts["findings"],
    }


def _trial(place: int, trial: Json, saved: Saved) -> Json:
    told = {name: trial.get(name, 1 if name == "folds" else None) for name in _OF_EACH_TRIAL}
    weight = saved.weights.get(trial["number"], 0.0)
    return {"rank": place, "trial": trial["number"], "head": trial["recipe"]["head"], "weight": weight, **told}


def _member(trial: Json, saved: Saved) -> Json:
    told = {name: trial[name] for name in ("family", "parameters", "seed", "recipe")}
    return {"trial": trial["number"], "weight": saved.weights[trial["number"]], **told}
