"""The search: known-good recipes first, then sampled ones, then the best one at full length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pixelfit.deadline import Deadline
from pixelfit.models import FAMILIES
from pixelfit.progress import Progress
from pixelfit.runs import RunFolder, rank
from pixelfit.search.engine import LocalEngine, Plan
from pixelfit.search.space import Space
from pixelfit.search.study import Asked, Study
from pixelfit.training.loop import Pace
from pixelfit.training.recipe import Recipe
from pixelfit.types import Facts, Splits, Trial

_EXPLORE_SHARE = 0.4  # of the time: the rest trains the best recipe at full length
_SAMPLED_SHARE = 0.15  # of the time for exploring, for a sampled recipe
_LEAST_S = 1.0  # less time than this is not worth a trial
_FULL_LENGTH = 6.0  # times the recipe's own epochs, at most
_EXPLORING = 2.0
_AFTER_S = 3.0  # choosing, resampling the metrics and drawing the report, measured at 2 s on 2 cores
_MEMBERS_SCORED = 3


@dataclass(frozen=True)
class Limits:
    """What ends a search besides the clock: a number of trials; and the steps that each takes, if fixed."""

    trials: int | None = None
    steps: int | None = None


@dataclass
class _Search:
    space: Space
    study: Study
    deadline: Deadline
    limits: Limits
    seed: int
    began: float
    trials: list[Trial] = field(default_factory=list)

    def plans(self) -> Iterator[tuple[Plan, Asked | None]]:
        """What to try next, decided anew after each trial, until the trials or the time run out."""
        for family in FAMILIES.values():
            if self._done():
                return
            recipe, answers = self.space.start(family)
            asked = self.study.ask(answers) if family.searched else None
            yield self._plan(recipe, "known-good start", self._share(family.explore_share), _EXPLORING), asked
        while self._exploring() and not self._done():
            yield self._sampled()
        if self.limits.trials is None and not self._done() and (best := self._best_recipe()) is not None:
            yield self._plan(best, "full length", self.deadline.left(), _FULL_LENGTH), None
        while not self._done():
            yield self._sampled()

    def _done(self) -> bool:
        if self.limits.trials is not None and len(self.trials) >= self.limits.trials:
            return True
        # The first trial is the baseline, which takes no time: without it there would be nothing to give.
        return bool(self.trials) and self.deadline.left() < _LEAST_S

    def _plan(self, recipe: Recipe, purpose: str, seconds: float, lengths: float) -> Plan:
        number = len(self.trials)
        if self.limits.trials is None:
            pace = Pace(seconds, most_epochs=recipe.epochs * lengths, steps=self.limits.steps)
        else:
            seconds = self.deadline.left() / (self.limits.trials - number)  # an even share, which a known number allows
            pace = Pace(seconds, most_epochs=recipe.epochs, steps=self.limits.steps)
        return Plan(number, purpose, recipe, pace, seed=self.seed * 10_000 + number)

    def _sampled(self) -> tuple[Plan, Asked]:
        asked = self.study.ask()
        plan = self._plan(asked.recipe, "sampled", self._share(_SAMPLED_SHARE), _EXPLORING)
        return replace(plan, is_losing=asked.is_losing), asked

    def _share(self, share: float) -> float:
        """Seconds that a trial gets of the time for exploring."""
        return min(self.deadline.left(), share * _EXPLORE_SHARE * self._whole())

    def _whole(self) -> float:
        return self.deadline.left() + self.deadline.elapsed() - self.began

    def _exploring(self) -> bool:
        if self.limits.trials is not None:
            return len(self.trials) < self.limits.trials
        spent = self.deadline.elapsed() - self.began
        return spent + self._share(_SAMPLED_SHARE) <= _EXPLORE_SHARE * self._whole()

    def _best_recipe(self) -> Recipe | None:
        """The recipe of the best trial that more time could improve."""
        trained = [trial for trial in rank(self.trials) if trial.score is not None and FAMILIES[trial.family].fit is None]
        return Recipe.from_json(trained[0].recipe) if trained else None


def search(
    space: Space,
    splits: Splits,
    facts: Facts,
    folder: RunFolder,
    *,
    deadline: Deadline,
    limits: Limits,
    seed: int,
    progress: Progress,
) -> tuple[Trial, ...]:
    """Try recipes until the trials or the time run out. Each trial is written to the run folder as it ends.

    Two fifths of the time go into exploring: one short training of each family's known-good recipe, then recipes
    that Optuna samples, stopped early when they are losing. The rest trains the best recipe at full length; what
    time is left after that samples on.
    """
    study = Study(folder.study_file, space, seed=seed)
    state = _Search(space, study, deadline, limits, seed, began=deadline.elapsed())
    engine = LocalEngine(splits.train, splits.validation, facts, deadline, progress)
    for plan, asked in state.plans():
        progress.start_trial(plan.number, f"{plan.recipe.family}, {plan.purpose}")
        outcome = engine.run(plan)
        trial = outcome.trial
        state.trials.append(trial)
        if asked is not None:
            study.tell(asked, trial.score, pruned=trial.state == "pruned")
        folder.write_trial(trial, outcome.history, outcome.model, outcome.validation)
        folder.write_leaderboard(state.trials, facts.metric, {})
        best = rank(state.trials)[0]
        deadline.reserve(_time_after(best, splits))
        progress.end_trial(trial, best=best if best.score is not None else None)
    return tuple(state.trials)


def _time_after(best: Trial, splits: Splits) -> float:
    """Seconds to keep for what follows the search: predictions of the final members, metrics, the report."""
    pictures = len(splits.test) + len(splits.validation)
    return _AFTER_S + _MEMBERS_SCORED * pictures * (best.predict_ms or 0.0) / 1000
