"""The final members once more, on the validation pictures too, where more pictures are worth it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pixelfit import metrics
from pixelfit.models import FAMILIES
from pixelfit.models.model import Model
from pixelfit.predictor import Member, Predictor
from pixelfit.progress import Progress
from pixelfit.runs import RunFolder
from pixelfit.search.engine import Engine, Plan
from pixelfit.training.job import Start
from pixelfit.training.pace import Pace
from pixelfit.training.recipe import Recipe
from pixelfit.types import REFIT, SNAPSHOT, Array, Facts, Splits, Trial

FEWER = "fewer pictures"
_SLOWER = 1.3  # a refit may take so much longer than the training it repeats
_WORST = 1.5  # times the score that the model had on the validation pictures before it was trained on them


def share_without(splits: Splits) -> float:
    """The share of the training pictures that is left when as many are missing as a refit would add."""
    return 1 - min(0.5, len(splits.validation) / len(splits.train))


def seconds_to_refit(trials: Sequence[Trial], splits: Splits) -> float:
    """What a refit of these trials' models will take, in seconds."""
    longer = 1 + len(splits.validation) / len(splits.train)
    return _SLOWER * longer * sum(trial.step_s for trial in trials)


def pays(trials: Sequence[Trial], splits: Splits, facts: Facts, folder: RunFolder) -> tuple[bool, str]:
    """Whether more pictures make better models, and why one may think so.

    A recipe was trained on fewer pictures, less by as many as a refit would add. If that cost more than two standard
    errors of the validation rows' losses, the pictures that a refit adds are worth having. (Two, since the recipe that
    it is compared with was the luckiest of several on the same rows.)
    """
    fewer = next((trial for trial in trials if trial.purpose == FEWER and trial.score is not None), None)
    if fewer is None:
        return False, "whether more pictures would help was not tried, for which the finals must end before the time is up"
    equal = [trial for trial in trials if (trial.recipe, trial.steps) == (fewer.recipe, fewer.steps) and trial.score is not None]
    twins = [trial for trial in equal if trial.share == 1.0 and trial.purpose != SNAPSHOT]
    if not twins:
        return False, "the training with fewer pictures ended early, and cannot be compared"
    targets = splits.validation.targets
    losses: list[Array] = [
        metrics.row_losses(facts, targets, folder.validation_predictions(trial)) for trial in (fewer, twins[0])
    ]
    loss = losses[0] - losses[1]
    error = float(loss.std()) / math.sqrt(len(loss))
    what = (
        f"with {1 - share_without(splits):.0%} fewer pictures the recipe of trial {twins[0].number} lost "
        f"{loss.mean():.3g} ± {error:.2g} per validation picture"
    )
    return bool(loss.mean() > 2 * error), what


@dataclass(frozen=True)
class Refit:
    """Trains members again, where trials are trained."""

    splits: Splits
    facts: Facts
    progress: Progress
    engine: Engine
    left: Callable[[], float]

    def all(self, predictor: Predictor, trials: Sequence[Trial]) -> Predictor | None:
        """The predictor with every member trained on all development pictures; None where one came out worse or too late.

        Weights, temperatures and calibration stay those that held-out pictures gave.
        """
        by_number = {trial.number: trial for trial in trials}
        refitted: dict[int, Model] = {}
        # A snapshot has a higher number than the trial whose weights it goes on from.
        for place, member in enumerate(sorted(predictor.members, key=lambda each: each.trial), start=1):
            self.progress.say(f"Refit {place} of {len(predictor.members)} on all development pictures: trial {member.trial}")
            model = self._one(member, by_number[member.trial], refitted)
            if model is None:
                return None
            refitted[member.trial] = model
        return replace(predictor, members=tuple(replace(member, model=refitted[member.trial]) for member in predictor.members))

    def _one(self, member: Member, trial: Trial, refitted: Mapping[int, Model]) -> Model | None:
        if trial.best_at_step < trial.steps and not trial.averaged:
            return None  # what was validated are the weights of an earlier check, which cannot be found without one
        if trial.continues is not None and trial.continues not in refitted:
            return None  # the weights that it goes on from have seen no validation pictures
        validation = self.splits.validation
        recipe, whole = Recipe.from_json(trial.recipe), 1 + len(validation) / len(self.splits.train)
        steps = None if FAMILIES[recipe.family].fit is not None else max(1, round(trial.steps * whole))
        plan = Plan(
            trial.number,
            REFIT,
            recipe if trial.averaged else replace(recipe, averaging=0.0),
            Pace(self.left(), steps=steps),
            seed=trial.seed,
            starts=(Start(model=member.model, weights=refitted[trial.continues] if trial.continues is not None else None),),
            alone=True,
        )
        outcome = self.engine.run(plan)
        if outcome.trial.error:
            self.progress.say(f"The refit of trial {trial.number} failed: {outcome.trial.error}")
        if outcome.trial.state != "complete" or outcome.trial.steps < (steps or trial.steps):
            return None
        model = replace(outcome.models[0], views=member.model.views)
        before = metrics.row_losses(self.facts, validation.targets, member.model.predict(validation.store, validation.rows))
        after = metrics.row_losses(self.facts, validation.targets, model.predict(validation.store, validation.rows))
        return model if after.mean() <= _WORST * before.mean() else None
