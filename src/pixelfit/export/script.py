"""One readable file that trains a run's winning recipe again, with torch and NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pixelfit import metrics
from pixelfit.errors import OptionError, RunError
from pixelfit.export.rendering import Story, rendered
from pixelfit.files import write_text, written_beside
from pixelfit.models.model import Model
from pixelfit.progress import Progress
from pixelfit.resume import read_again
from pixelfit.runs import RunFolder
from pixelfit.types import DISTILLED, STREAMED, Array, Facts, Fold, Json, Splits

_FAMILIES = ("convnet", "resnet", "mlp", "linear")  # trained by gradients from fresh weights, of layers that can be written out


@dataclass(frozen=True)
class Written:
    """The script, the file of its pictures and targets, and the trial that it repeats."""

    script: Path
    data: Path
    trial: int


@dataclass(frozen=True)
class _Winner:
    """The trial that is written, those whose weights it went on from (oldest first), and its weight in the final model."""

    trial: Json
    before: tuple[Json, ...]
    weight: float


def write_script(folder: RunFolder, out: Path, *, progress: Progress) -> Written:
    """Write a script that trains the run's winner again, and beside it its pictures and targets.

    The winner is the trial with the most weight in the final model whose net was trained from fresh weights; where the model
    has none, the best such trial. With folds, the script trains and measures on the first.

    Args:
        folder: of a finished run.
        out: the script; its pictures and targets go into the file of the same name that ends in ``.npz``.
        progress: is told what is read, and where the script is not the final model's own recipe.

    Raises:
        OptionError: ``out`` is no name of a script, or one of the files is there already.
        RunError: the run is not finished, has no trial that could be written, or its data are gone or have changed.
    """
    data = out.with_suffix(".npz")
    if out.suffix != ".py":
        raise OptionError(f"{out} cannot be written: a script's name ends in .py.")
    for file in (out, data):
        if file.exists():
            raise OptionError(f"{file} is there already; choose another name, or remove it first.")
    winner = _winner(folder, progress)
    facts, splits = read_again(folder, progress)
    model = Model.load(_first_model(folder, winner.trial))
    recorded = _recorded(folder, winner.trial, facts, splits)
    story = Story(
        run=folder.path.resolve().name,
        trials=(*winner.before, winner.trial),
        weight=winner.weight,
        validation=len(splits.folds[0].validation),
        folds=len(splits.folds),
        recorded=recorded,
        refitted=folder.read("final.json")["refitted"],
        low_precision=folder.read("run.json")["environment"]["training"]["low_precision"],
    )
    script = rendered(out.name, story, model, facts)
    with written_beside(data) as beside, beside.open("wb") as opened:
        np.savez(opened, **_arrays(splits.folds[0], facts))
    write_text(out, script)
    return Written(out, data, winner.trial["number"])


def _winner(folder: RunFolder, progress: Progress) -> _Winner:
    weights: dict[int, float] = {}
    for member in folder.read("model/predictor.json")["members"]:
        weights[member["trial"]] = weights.get(member["trial"], 0.0) + member["weight"]
    by_number = {trial["number"]: trial for trial in folder.read_trials()}
    fit = [trial for trial in by_number.values() if _can_be_written(trial, by_number)]
    if not fit:
        raise RunError(
            f"The run in {folder.path} has no trial that a script could train again: it takes a {', '.join(_FAMILIES[:-1])} or "
            f"{_FAMILIES[-1]} that was trained from fresh weights."
        )
    best = min(fit, key=lambda trial: (-weights.get(trial["number"], 0.0), trial["score"]))
    weight = weights.get(best["number"], 0.0)
    if not weight:
        progress.say(
            f"The final model has no member that was trained from fresh weights: the script trains trial {best['number']}, the "
            f"best of those that were."
        )
    return _Winner(best, tuple(_before(best, by_number)), weight)


def _can_be_written(trial: Json, by_number: Mapping[int, Json]) -> bool:
    """Whether the trial came, maybe by way of others, from fresh weights, all pictures and their own targets."""
    way = [*_before(trial, by_number), trial]
    return trial["score"] is not None and all(
        each["family"] in _FAMILIES
        and each["recipe"] == trial["recipe"]
        and each["purpose"] not in (DISTILLED, STREAMED)
        and each.get("share", 1.0) == 1.0
        for each in way
    )


def _before(trial: Json, by_number: Mapping[int, Json]) -> list[Json]:
    """The trials whose weights it went on from, the oldest first."""
    earlier: list[Json] = []
    while (number := (earlier[0] if earlier else trial)["continues"]) is not None:
        earlier.insert(0, by_number[number])
    return earlier


def _first_model(folder: RunFolder, trial: Json) -> Path:
    """Where the trial's model of the first fold is, or its only one."""
    place = folder.trial_folder(trial["number"])
    return place if trial["folds"] == 1 else place / "fold-0"


def _recorded(folder: RunFolder, trial: Json, facts: Facts, splits: Splits) -> dict[str, float]:
    """What the trial scored on the validation pictures of the first fold."""
    raw, targets = folder.validation_forecast(trial["number"]).raw, splits.validation.targets
    # Raw predictions are kept for each picture, so that a validation set that is cut otherwise shows.
    if len(raw) != len(targets) or not math.isclose(
        metrics.measure(facts, targets, raw)[facts.metric], trial["metrics"][facts.metric]
    ):
        raise RunError(
            f"The data of the run in {folder.path} are split otherwise by this pixelfit; fit it again to write a script."
        )
    first = splits.folds[0].validation
    return metrics.measure(facts, first.targets, raw[: len(first)])


def _arrays(fold: Fold, facts: Facts) -> Json:
    parts = {"train": fold.train, "validation": fold.validation}
    arrays: dict[str, Array] = {f"{name}_pictures": part.store[part.rows] for name, part in parts.items()}
    arrays |= {f"{name}_targets": part.targets for name, part in parts.items()}
    names = facts.classes or facts.target_names or (facts.target_name,)
    return {**arrays, "names": np.array([str(name) for name in names])}  # of the classes, or of the targets
