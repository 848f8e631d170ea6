"""From the search's ensemble to the final predictor: distilled if wanted, trained on all development pictures if that pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pixelfit.calibration import Calibrated, acquainted, calibrated_predictor
from pixelfit.data.windows import Whole
from pixelfit.deadline import Deadline
from pixelfit.ensemble import Costs, combine
from pixelfit.models.views import VIEWS
from pixelfit.predictor import Member, Predictor
from pixelfit.progress import Progress
from pixelfit.runs import RunFolder, rank
from pixelfit.search.distill import student_recipe, teachings
from pixelfit.search.engine import SEEDS_A_RUN, Engine, Plan
from pixelfit.search.refit import Refit, pays, seconds_to_refit
from pixelfit.search.searching import Limits, after_s, most_remembered, most_views_ms
from pixelfit.search.streaming import Decision, Streaming
from pixelfit.training.job import Start
from pixelfit.training.pace import Pace
from pixelfit.types import DISTILLED, Facts, Json, Splits, Trial


@dataclass(frozen=True)
class Finish:
    """What follows the search. Every step writes down in ``final.json`` what it decided, and why."""

    splits: Splits
    facts: Facts
    folder: RunFolder
    deadline: Deadline
    limits: Limits
    progress: Progress
    engine: Engine
    whole: Whole | None = None  # the shards of whose pictures the search has seen a sample

    def final(self, trials: Sequence[Trial]) -> tuple[tuple[Trial, ...], Calibrated]:
        """The final model, calibrated, and the trials that led to it.

        It is saved at once: a run that is broken off after a look at the test set must not choose anew.
        """
        validation = self.splits.validation
        known = Calibrated.saved(self.folder, validation.targets)
        if known is not None:
            return self.folder.ended_trials(), known
        ensemble = combine(trials, self.splits, self.facts, self.folder, self.costs())
        trials, chosen = self.distilled(trials, ensemble) if self.limits.distill else (tuple(trials), ensemble)
        trials, chosen, streamed = self.streamed(trials, chosen)
        final = self.refitted(trials, calibrated_predictor(chosen, validation, self.folder), streamed)
        final = acquainted(final, self.splits, most_pictures=self.most_remembered(trials, final), seed=self.limits.seed)
        final.save(self.folder)
        return trials, final

    def costs(self) -> Costs:
        """What the final predictor may cost."""
        return Costs(self.limits.latency_ms, most_views_ms(self.splits, self.deadline))

    def distilled(self, trials: Sequence[Trial], teacher: Predictor) -> tuple[tuple[Trial, ...], Predictor]:
        """One small model that has learned the ensemble's predictions, and the trials with it as the last."""
        trials = [trial for trial in trials if trial.purpose != DISTILLED]  # of an earlier sitting
        recipe = student_recipe(tuple(trials), teacher, self.limits.latency_ms)
        if recipe is None or self.deadline.interrupted:
            self.progress.say("Nothing is distilled: no model was trained step by step, or the search was interrupted.")
            return tuple(trials), teacher
        self._reserve_for_scoring(trials, teacher)
        number = len(trials)
        self.progress.start_trial(number, f"{recipe.family}, distilled")
        lessons = teachings(teacher, recipe, self.splits.train, self.facts)
        self.folder.write_teachings(number, lessons.numpy())
        plan = Plan(
            number,
            DISTILLED,
            recipe,
            Pace(self.deadline.left(), most_epochs=3 * recipe.epochs, steps=self.limits.steps),
            seed=self.limits.seed * SEEDS_A_RUN + number,
            starts=(Start(targets=lessons),),
            alone=True,
        )
        outcome = self.engine.run(plan)
        self.folder.write_trial(outcome.trial, outcome.history, outcome.models, outcome.validation)
        best = rank(trials)[0]
        self.progress.end_trial(outcome.trial, best=best)
        known = (*trials, outcome.trial)
        if not outcome.models or outcome.trial.state != "complete":
            self.progress.say("The distillation did not come to its end: the final model is its teacher, the ensemble.")
            return known, teacher
        if (outcome.trial.latency_ms or 0.0) > self.limits.latency_ms:
            self.progress.say("The distilled model is slower than --max-latency allows: the final model is its teacher.")
            return known, teacher
        return known, replace(teacher, members=(Member(outcome.models[0], number, 1.0),))

    def streamed(self, trials: tuple[Trial, ...], chosen: Predictor) -> tuple[tuple[Trial, ...], Predictor, Decision | None]:
        """The best net trained on over all pictures of the shards, if that is better; None where there are no more."""
        if self.whole is None:
            return trials, chosen, None
        self._reserve_for_scoring(trials, chosen)
        return Streaming(
            self.whole, self.splits, self.facts, self.folder, self.deadline, self.limits, self.progress, self.engine
        ).improved(trials, chosen)

    def refitted(self, trials: Sequence[Trial], final: Calibrated, streamed: Decision | None = None) -> Calibrated:
        """The members trained on all development pictures, where more pictures pay and there is time."""
        members = {member.trial for member in final.predictor.members}
        chosen = [trial for trial in trials if trial.number in members]
        if len(self.splits.folds) > 1:
            worth, why = False, "each trial has a model a fold, which together have learned from all of them"
        elif streamed is not None and streamed.trial is not None:
            worth, why = False, "the time for it went into training on over all pictures of the shards"
        else:
            worth, why = pays(trials, self.splits, self.facts, self.folder)
        self._reserve_for_scoring(trials, final.predictor)
        needed = seconds_to_refit(chosen, self.splits)
        refitted: Predictor | None = None
        if worth and self.deadline.left() < needed:
            why += f"; a refit would have taken {needed:.0f} s, more than was left"
        elif worth:
            refit = Refit(self.splits, self.facts, self.progress, self.engine, self.deadline.left)
            refitted = refit.all(final.predictor, trials)
            if refitted is None:
                why += "; a refit ended early or came out worse, and was not kept"
        distilled = any(trial.purpose == DISTILLED for trial in chosen)
        views = final.predictor.members[0].model.views
        decisions: Json = {"distilled": distilled, "views": views, "refitted": refitted is not None, "why": why}
        self.folder.write_final(decisions if streamed is None else {**decisions, "streamed": streamed.to_json()})
        return final if refitted is None else replace(final, predictor=refitted)

    def most_remembered(self, trials: Sequence[Trial], final: Calibrated) -> int:
        """How many training pictures the final model may remember, so that it does not take much of the time."""
        by_number = {trial.number: trial for trial in trials}
        return most_remembered(by_number[final.predictor.members[0].trial].predict_ms or 0.0, self.deadline)

    def _reserve_for_scoring(self, trials: Sequence[Trial], predictor: Predictor) -> None:
        """Keep time for what is still to come now that the search is over: calibration, test scores, the report."""
        members = {member.trial for member in predictor.members}
        predict_ms = sum(trial.predict_ms or 0.0 for trial in trials if trial.number in members)
        views = VIEWS[predictor.members[0].model.views]
        pictures = len(self.splits.validation) + len(self.splits.test)
        later = after_s(self.splits, self.facts, self.deadline.budget_s)
        remembered_ms = 2 * predict_ms * most_remembered(predict_ms, self.deadline)
        self.deadline.reserve(later + (views * predict_ms * pictures + remembered_ms) / 1000)
