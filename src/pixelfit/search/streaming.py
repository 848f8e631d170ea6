"""After a search on a sample of shards: its best net trained on over all of their training pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from pixelfit import metrics
from pixelfit.calibration import calibrated_predictor
from pixelfit.data.windows import Passed, Whole
from pixelfit.deadline import Deadline
from pixelfit.ensemble import viewed
from pixelfit.models import FAMILIES
from pixelfit.models.model import Model
from pixelfit.predictor import Member, Predictor
from pixelfit.progress import Progress
from pixelfit.runs import RunFolder, rank
from pixelfit.search.engine import SEEDS_A_RUN, Engine, Outcome, Plan
from pixelfit.search.limits import Limits
from pixelfit.training.job import Start
from pixelfit.training.pace import Pace
from pixelfit.training.recipe import Recipe
from pixelfit.types import STREAMED, Facts, Json, Splits, Trial
from pixelfit.words import number_of

_MOST_LENGTHS = 6.0  # times the recipe's own epochs, at most, as for trials at full length
_LEAST_S = 1.0  # less time than this is not worth beginning
_NAMED = 3  # shards in a sentence


@dataclass(frozen=True)
class Decision:
    """Whether the model that went on over all pictures is the final one, and why; what came by on the way."""

    kept: bool
    why: str
    trial: int | None = None
    scores: tuple[float, float] | None = None  # before and after, smaller is better
    passed: Json = None

    def to_json(self) -> Json:
        """What ``final.json`` says of it."""
        return asdict(self)


@dataclass(frozen=True)
class Streaming:
    """Trains a net on, from its weights, over all training pictures of shards.

    Of the final model's members that are trained by gradients it is the one with the most weight; without any, the best trial.
    """

    whole: Whole
    splits: Splits
    facts: Facts
    folder: RunFolder
    deadline: Deadline
    limits: Limits
    progress: Progress
    engine: Engine

    def improved(self, trials: tuple[Trial, ...], before: Predictor) -> tuple[tuple[Trial, ...], Predictor, Decision]:
        """The trials with this one as the last, the better of both predictors on the validation pictures, and the reason."""
        member = self._heaviest(trials, before) or self._best(trials)
        if member is None:
            return self._told(trials, before, Decision(False, "no model was trained step by step"))
        outcome = self._of_earlier_sitting(len(trials), member)
        if outcome is None:
            if self.deadline.left() < _LEAST_S:
                return self._told(trials, before, Decision(False, "there was no time left for it, or the search was interrupted"))
            plan = self._plan(len(trials), member, next(trial for trial in trials if trial.number == member.trial))
            self.progress.start_trial(plan.number, f"{plan.recipe.family}, {STREAMED}")
            outcome = self.engine.run(plan)
            self.folder.write_trial(outcome.trial, outcome.history, outcome.models, outcome.validation)
        trials = (*trials, outcome.trial)
        self.progress.end_trial(outcome.trial, best=rank(trials)[0])
        if not outcome.models:
            why = outcome.trial.error or "it was ended before there was a model"
            return self._told(trials, before, Decision(False, why.rstrip("."), outcome.trial.number, passed=_counts(outcome)))
        after = self._predictor(before, Member(outcome.models[0], outcome.trial.number, 1.0), member.model.views)
        scores = (self._score(before), self._score(after))
        kept = scores[1] < scores[0] and (outcome.trial.latency_ms or 0.0) <= self.limits.latency_ms
        decision = Decision(kept, self._why(outcome, scores), outcome.trial.number, scores, _counts(outcome))
        return self._told(trials, after if kept else before, decision)

    def _heaviest(self, trials: Sequence[Trial], predictor: Predictor) -> Member | None:
        family = {trial.number: trial.family for trial in trials}
        trained = [member for member in predictor.members if FAMILIES[family[member.trial]].fit is None]
        return max(trained, key=lambda member: member.weight, default=None)

    def _best(self, trials: Sequence[Trial]) -> Member | None:
        best = next((trial for trial in rank(trials) if trial.score is not None and FAMILIES[trial.family].fit is None), None)
        return None if best is None else Member(Model.load(self.folder.model_folders(best)[0]), best.number, 1.0)

    def _of_earlier_sitting(self, number: int, member: Member) -> Outcome | None:
        """What a run that was broken off after this training has kept of it; without the counts of what came by."""
        trial = self.folder.ended_trial(number)
        if trial is None or trial.purpose != STREAMED or trial.continues != member.trial or trial.score is None:
            return None
        return Outcome(trial, (), (Model.load(self.folder.model_folders(trial)[0]),))

    def _plan(self, number: int, member: Member, trial: Trial) -> Plan:
        recipe = Recipe.from_json(trial.recipe)
        timed = self.deadline.budget_s is not None and self.limits.steps is None
        steps = None if timed else self.limits.steps or trial.steps
        return Plan(
            number,
            STREAMED,
            recipe,
            Pace(self.deadline.left(), most_epochs=_MOST_LENGTHS * recipe.epochs, steps=steps),
            seed=self.limits.seed * SEEDS_A_RUN + number,
            starts=(Start(model=member.model, weights=member.model),),
            continues=member.trial,
            whole=self.whole,
            alone=True,
        )

    def _predictor(self, before: Predictor, member: Member, views: str) -> Predictor:
        seen = member if views == "single" else viewed(member, views, self.splits.validation)
        return replace(before, members=(seen,))

    def _score(self, predictor: Predictor) -> float:
        """What the predictor would score on the validation pictures as the final one, with its probabilities calibrated."""
        validation = self.splits.validation
        forecast = calibrated_predictor(predictor, validation, self.folder).on_validation
        return metrics.ranking_metric(self.facts)(validation.targets, forecast.raw)

    def _why(self, outcome: Outcome, scores: tuple[float, float]) -> str:
        passed = outcome.passed or Passed()
        words = f"{outcome.trial.epochs:.3g} epochs of about {number_of(self.whole.pictures, 'picture')}"
        left_out = [
            f"{number_of(count, 'picture')} {reason}"
            for count, reason in (
                (passed.unreadable, "could not be read"),
                (passed.unknown, "had no target that the search has seen"),
                (passed.held_out, "are the same as one that is held out"),
            )
            if count
        ]
        if passed.skipped:
            more = ", ..." if len(passed.skipped) > _NAMED else ""
            first = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in list(passed.skipped.items())[:_NAMED])
            left_out.append(f"{number_of(len(passed.skipped), 'shard')} could not be read to the end ({first}{more})")
        if passed.lost is not None:
            left_out.append(f"after that no more could be read: {passed.lost}")
        slow = " and is slower than --max-latency allows" if (outcome.trial.latency_ms or 0.0) > self.limits.latency_ms else ""
        metric = self.facts.metric
        theirs, its = (metrics.shown(metric, metrics.cost(metric, score)) for score in scores)  # a cost's cost is the figure
        compared = f"its {metrics.TITLES[metric]} on the validation pictures is {its}, the ensemble's {theirs}{slow}"
        return "; ".join([f"it was trained on over {words}", compared, *left_out])

    def _told(
        self, trials: tuple[Trial, ...], chosen: Predictor, decision: Decision
    ) -> tuple[tuple[Trial, ...], Predictor, Decision]:
        what = "is the final model" if decision.kept else "does not replace the final model"
        self.progress.say(f"The net that goes on over all pictures of the shards {what}: {decision.why}.")
        return trials, chosen, decision


def _counts(outcome: Outcome) -> Json:
    return None if outcome.passed is None else outcome.passed.to_json()
