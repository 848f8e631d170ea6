"""A run's final model trained once more from the record alone, and set beside what the run wrote down."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pixelfit.calibration import Calibrated, calibrated_predictor
from pixelfit.deadline import Deadline
from pixelfit.ensemble import together, viewed
from pixelfit.errors import RunError
from pixelfit.evaluate import score_on_test
from pixelfit.models.model import Model
from pixelfit.predictor import Predictor
from pixelfit.progress import Progress
from pixelfit.resume import as_begun, read_again
from pixelfit.runs import RunFolder
from pixelfit.search.engine import Engine, LocalEngine, Plan
from pixelfit.search.refit import Refit
from pixelfit.training.job import Start
from pixelfit.training.pace import Course, Pace
from pixelfit.training.recipe import Recipe
from pixelfit.types import DISTILLED, STREAMED, Facts, Json, Splits, Trial


@dataclass(frozen=True)
class Compared:
    """A figure as the run wrote it down, and as it came out again."""

    what: str
    recorded: float
    again: float

    @property
    def is_same(self) -> bool:
        """To the last digit."""
        return self.recorded == self.again


@dataclass(frozen=True)
class Replayed:
    """What a run's final model came out as once more: each trial's validation scores, then those on the test set."""

    trials: tuple[int, ...]
    figures: tuple[Compared, ...]

    @property
    def is_same(self) -> bool:
        """Whether every figure is."""
        return all(figure.is_same for figure in self.figures)


def replay(path: Path, progress: Progress) -> Replayed:
    """Train the trials of which the final model is made, and those whose weights they went on from, step by step as recorded.

    On the same machine with the same versions the figures are the same to the last digit.

    Raises:
        RunError: the run is not finished, its data are gone or have changed, or it was made by an older pixelfit.
    """
    folder = RunFolder.existing(path)
    original, final = Predictor.load(folder.path), folder.read("final.json")
    recorded = {trial.number: trial for trial in folder.ended_trials()}
    weights = original.trial_weights()
    needed = _needed(folder, recorded, sorted(weights))
    facts, splits = read_again(folder, progress)
    figures: list[Compared] = []
    with as_begun(folder), tempfile.TemporaryDirectory() as name:
        scratch = RunFolder(Path(name))
        engine = LocalEngine(splits.folds, facts, Deadline(None), progress)
        for trial in needed:
            progress.start_trial(trial.number, f"{trial.family}, again")
            outcome = engine.run(_plan(trial, folder, scratch))
            scratch.write_trial(outcome.trial, outcome.history, outcome.models, outcome.validation)
            progress.end_trial(outcome.trial, best=None)
            if outcome.trial.error:
                raise RunError(f"Trial {trial.number} failed this time: {outcome.trial.error}.")
            figures += [
                Compared(f"trial {trial.number}, validation {metric}", value, outcome.trial.metrics[metric])
                for metric, value in trial.metrics.items()
            ]
        shares = [(recorded[number], weight) for number, weight in weights.items()]
        calibrated = _final(shares, final, splits, facts, scratch, progress, engine)
        baseline = together([(recorded[0], 1.0)], facts, folder)
        seed = folder.read("scores.json")["seed"]
        scores = score_on_test(calibrated, baseline, splits.test, facts, seed=seed).scores
    for metric, interval in folder.read("scores.json")["test"].items():
        figures.append(Compared(f"test {metric}", interval["value"], scores.test[metric].value))
    return Replayed(tuple(trial.number for trial in needed), tuple(figures))


def _needed(folder: RunFolder, recorded: dict[int, Trial], members: Sequence[int]) -> list[Trial]:
    """The members and all that they went on from, in the order in which they were trained."""
    found: dict[int, Trial] = {}
    for member in members:
        number: int | None = member
        while number is not None and number not in found:
            if number not in recorded:
                raise RunError(f"Trial {number} of the run in {folder.path} is missing.")
            found[number] = recorded[number]
            number = recorded[number].continues
    for trial in found.values():
        if trial.purpose == STREAMED:
            raise RunError(
                f"Trial {trial.number} was trained over all pictures of the shards, of which the run keeps no copy: a replay "
                f"cannot repeat it."
            )
        if trial.ranks > 1:
            raise RunError(f"Trial {trial.number} was divided over {trial.ranks} ranks, and a replay trains on one.")
        if not trial.planned:
            raise RunError(f"The run in {folder.path} is of an older pixelfit, which did not record all that a replay needs.")
    return [found[number] for number in sorted(found)]


def _plan(trial: Trial, folder: RunFolder, scratch: RunFolder) -> Plan:
    course = Course(trial.planned, tuple(trial.replans), trial.steps, trial.state, trial.out_of_time_at)
    starts: tuple[Start, ...] = ()
    if trial.purpose == DISTILLED:
        starts = (Start(targets=torch.from_numpy(folder.read_teachings(trial.number))),)
    if trial.continues is not None:
        before = scratch.ended_trial(trial.continues)
        assert before is not None
        starts = tuple(Start(weights=Model.load(place)) for place in scratch.model_folders(before))
    return Plan(
        trial.number, trial.purpose, Recipe.from_json(trial.recipe), Pace(course=course),
        seed=trial.seed, share=trial.share, continues=trial.continues, starts=starts, threads=trial.threads,
    )  # fmt: skip


def _final(
    shares: Sequence[tuple[Trial, float]],
    final: Json,
    splits: Splits,
    facts: Facts,
    scratch: RunFolder,
    progress: Progress,
    engine: Engine,
) -> Calibrated:
    """The final model of these trials, as the run's own was made of them."""
    predictor = together(shares, facts, scratch)
    if final["views"] != "single":
        predictor = replace(
            predictor, members=tuple(viewed(member, str(final["views"]), splits.validation) for member in predictor.members)
        )
    calibrated = calibrated_predictor(predictor, splits.validation, scratch)
    if not final["refitted"]:
        return calibrated
    refit = Refit(splits, facts, progress, engine, lambda: float("inf"))
    again = refit.all(calibrated.predictor, [trial for trial, _ in shares])
    if again is None:
        raise RunError("The refit of the final model did not come out as it did in the run.")
    return replace(calibrated, predictor=again)
