"""The stages of a search: which recipe to try next, for how long, and from what it starts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from pixelfit import metrics
from pixelfit.deadline import Deadline
from pixelfit.models import FAMILIES
from pixelfit.models.model import Model
from pixelfit.progress import Progress
from pixelfit.runs import RunFolder, rank
from pixelfit.search import safety, sizes
from pixelfit.search.cost import CostModel
from pixelfit.search.engine import SEEDS_A_RUN, Plan
from pixelfit.search.gains import (
    AVERAGING_EXPONENT,
    finding_gain,
    shortening_loss,
    snapshots_pay,
    time_exponent,
)
from pixelfit.search.limits import Limits
from pixelfit.search.losing import bar
from pixelfit.search.portfolio import portfolio
from pixelfit.search.refit import FEWER, pays, seconds_to_refit, share_without
from pixelfit.search.space import Space
from pixelfit.search.study import Asked, Study
from pixelfit.training.job import Start
from pixelfit.training.pace import Pace
from pixelfit.training.recipe import Augmentation, Recipe
from pixelfit.types import FULL_LENGTH, SIZES, SNAPSHOT, Array, Facts, Json, Splits, Trial

_SLICE_SHARE = 0.015  # of the time, for a recipe's first short training
_LEAST_SLICE_S = 2.0
_FIRST_ROUND_SHARE = 0.3  # of the time, at most
_LONGEST_SLICE_SHARE = _FIRST_ROUND_SHARE / 10  # so that slow machines try the portfolio's recipes too
_PROBE_SHARE = 0.03  # of the time, for the model that judges changes of pictures; judging takes half as long again at most
_TRIALS_WITH_PROBE = 20  # fewer are too few to spend one on it
_TUNING_SHARE = 0.4  # of the time that is left, to train a pretrained backbone on
_SURVIVES = 3  # one recipe in three of the first round is trained again, three times as long
_MOST_FINALS = 12
_FINAL_LENGTHS = 1.5  # times the recipe's own epochs, for one of several finals
_CATCHES_UP = 1.0  # times the best score: a recipe that is further behind does not go on for being young
_SNAPSHOT_SHARE = 1 / 3  # of the time of the final whose weights it goes on from
_LEAST_SNAPSHOT = 1 / 8  # of the same
_MOST_FINDING = 0.5  # of the time: the rest trains at full length, whatever the gains promise
_LEAST_S = 1.0  # less time than this is not worth a trial
# Steps of the portfolio's first recipe, if there is time: shorter trainings favour nets that learn fast and not far.
_FIRST_STEPS = 300
_LEAST_STEPS = 100  # a training that cannot take so many says nothing
_MOST_LENGTHS = 6.0  # times the recipe's own epochs, at most
_TRIES = 8  # recipes that the sampler may propose until one is fast enough


# A trial to be run, and the study's question that it answers; None: nothing more can be decided until all under way have ended.
Step: TypeAlias = tuple[Plan, Asked | None] | None


@dataclass
class Stages:
    """A search under way: its means, the trials so far, and from them what to try next.

    ``trials`` are those that have ended, without gaps; ``planned`` of them have been given out, so that the others are under
    way: at most ``slots``, and as many that have ended early and wait for an older one. What is decided follows from the
    trials that had to have ended by then and the clock alone, so that it can be decided again.
    """

    space: Space
    study: Study
    costs: CostModel
    deadline: Deadline
    limits: Limits
    seed: int
    splits: Splits
    facts: Facts
    folder: RunFolder
    progress: Progress
    began: float
    slice_s: float = _LEAST_SLICE_S
    refit_s: float = 0.0  # kept for training the final members again
    sizes_s: float = 0.0  # kept for the learning curve over the number of pictures
    futile: bool = False  # whether the sampler proposes nothing that is fast enough
    slots: int = 1  # trials side by side
    planned: int = 0
    trials: list[Trial] = field(default_factory=list)

    def plans(self) -> Iterator[Step]:
        """What to try next, decided anew as trials end, until the trials or the time run out."""
        known = self._known_good()
        least_s = self._fit_slice(known[0][0])
        if self.space.backbone is not None and not self._done():
            # First, since nothing else gives so good a model of a few hundred photographs within seconds.
            recipe, answers = self.space.known_good({"family": "frozen"})
            yield self._plan(recipe, "portfolio", self.slice_s, 1.0, alone=True), self.study.ask(answers)
            yield from self._all_ended()
            # Trees on the same features, where computing these again takes little of the time.
            if self.trials[-1].seconds <= _LONGEST_SLICE_SHARE * self._whole() and not self._done():
                recipe, answers = self.space.known_good({"family": "frozen_trees"})
                yield self._plan(recipe, "portfolio", self.slice_s, 1.0, alone=True), self.study.ask(answers)
                yield from self._all_ended()
        yield from self._probe(known[0][0], least_s)
        known = self._known_good()
        self._fit_slice(known[0][0])  # again, since the probe may have shown that the machine is slower than it seemed
        if self.limits.trials is not None:
            yield from self._counted(known)
            return
        if (self.deadline.budget_s or 0.0) >= sizes.SHORTEST_BUDGET_S:
            self.sizes_s = sizes.BUDGET_SHARE * self._whole()
        # Where there is time for one training only, it is the best bet's, at full length.
        if _FIRST_ROUND_SHARE * self._whole() >= 2 * max(self.slice_s, _FIRST_STEPS * self.costs.step_s(known[0][0])):
            yield from self._first_round(known)
            yield from self._all_ended()
        yield from self._second_round()
        yield from self._all_ended()
        yield from self._tuning()
        yield from self._all_ended()
        while not self._done() and self._finding_pays():
            yield from self._sampled()
        yield from self._all_ended()
        self.futile = False  # the finals are known to be fast enough
        for stage in (
            self._finals(known),
            self._best_bet(known[0][0]),
            self._fewer_pictures(),
            self._worth_of_more_pictures(),
        ):
            yield from stage
            yield from self._all_ended()
        while not self._done():
            before = self.planned
            while self.planned - before < self.slots and not self._done():
                yield from self._sampled()
            yield from self._all_ended()
            leader = self._leads_since(before)
            if leader is not None and not self._done():
                yield self._onward(leader, FULL_LENGTH, self.left(), _MOST_LENGTHS, alone=True), None
                yield from self._all_ended()

    def _all_ended(self) -> Iterator[Step]:
        """Wait for the trials under way, since what comes next depends on all of them."""
        if len(self.trials) < self.planned:
            yield None

    def _fit_slice(self, best_bet: Recipe) -> float:
        """Choose the time of a short training such that the best bet fits into it; the seconds that this takes at least."""
        enough_s = _FIRST_STEPS * self.costs.step_s(best_bet)
        least_s = self.costs.least_s(best_bet, _LEAST_STEPS, len(self.splits.validation))
        slice_s = min(enough_s, max(least_s, _LONGEST_SLICE_SHARE * self._whole()))
        self.slice_s = max(_LEAST_SLICE_S, _SLICE_SHARE * self._whole(), slice_s)
        return least_s

    def _probe(self, best_bet: Recipe, least_s: float) -> Iterator[Step]:
        """The best bet without augmentation, whose model says which changes of pictures leave the target alone."""
        decision = safety.as_usual(self.space.changes, "there was too little time for a probe")
        if not self.space.changes.chosen and self._can_probe(least_s):
            recipe = replace(best_bet, augmentation=Augmentation())
            seconds = min(self.slice_s, _PROBE_SHARE * self._whole())
            yield self._plan(recipe, safety.PROBE, seconds, 1.0, alone=True), None
            yield from self._all_ended()
            folds = self.splits.folds
            decision = safety.decided(self.space.changes, self.trials[-1], self.trials[0], self.folder, folds, self.facts)
            self.space = replace(self.space, changes=decision.changes)
            self.study.narrow(self.space)
            self.progress.say(decision.sentence())
        self.folder.write_augmentation(decision.to_json())

    def _can_probe(self, least_s: float) -> bool:
        """Whether a probe costs little of the time, or of a known number of trials."""
        if self._done():
            return False
        if self.limits.trials is not None:
            return self.limits.trials >= _TRIALS_WITH_PROBE
        return max(_LEAST_SLICE_S, least_s) <= _PROBE_SHARE * self._whole()

    def _counted(self, known: Sequence[tuple[Recipe, Mapping[str, Json]]]) -> Iterator[Step]:
        """A known number of trials: the portfolio, then sampled recipes, each with an even share of the time."""
        for recipe, answers in known:
            if self._done():
                return
            yield self._plan(recipe, "portfolio", 0.0, 1.0), self.study.ask(answers)
        while not self._done():
            yield from self._sampled()

    def _first_round(self, known: Sequence[tuple[Recipe, Mapping[str, Json]]]) -> Iterator[Step]:
        """A short training of each recipe of the portfolio, as far as the time goes."""
        room = self.slots * int(_FIRST_ROUND_SHARE * self._whole() / self.slice_s)
        skipped = 0
        for recipe, answers in known[:room]:
            if self._done():
                return
            if self._affordable(recipe, self.slice_s):
                yield self._plan(recipe, "portfolio", self.slice_s, 1.0), self.study.ask(answers)
            else:
                skipped += 1
        if skipped:
            are = "is" if skipped == 1 else "are"
            self.progress.say(f"{skipped} of the portfolio's recipes {are} too slow for a trial of {self.slice_s:.0f} s.")

    def _second_round(self) -> Iterator[Step]:
        """The best of the first round once more, longer: successive halving (Jamieson & Talwalkar 2016).

        The portfolio's first recipe goes on in any case, since short trainings favour nets that learn fast and not far. On
        3,400 digits a perceptron had validation RMSE 0.30 after 2 s and 0.29 after 6; the convolutional net had 1.03 after
        28 steps, 0.28 after 5 s and 0.16 after 14. For the same reason so does the best of the others that have not seen
        every picture once: on 55,000 digits a perceptron had 0.41 after ten epochs, a wide net 0.43 after half of one.
        """
        first = self._ranked("portfolio")
        favourite = min(first, key=lambda trial: trial.number, default=None)
        few = len(first) <= _SURVIVES
        if favourite is None or (few and favourite is first[0]):
            return
        # Of 3,000 coloured shapes a perceptron had log loss 1.14 after 3 s and the convolutional net 1.51, which alone for 24 s
        # came to 0.12; without another look at it 90 s on a slow machine went into the perceptron, and ended at 0.68.
        several = first[: 1 if few else max(2, round(len(first) / _SURVIVES))]
        best = [trial for trial in several if few or not self._had_its_chance(trial, first)]
        left = [trial for trial in first if not few and trial not in best and trial is not favourite]
        others = [trial for trial in left if self._may_catch_up(trial, first[0])]
        for trial in [favourite, *(trial for trial in best if trial is not favourite), *others[:1]]:
            if self._done():
                return
            yield self._onward(trial, "second round", _SURVIVES * self.slice_s, _SURVIVES), None

    def _tuning(self) -> Iterator[Step]:
        """The pretrained backbone trained on, where its features as they are do as well as any model from scratch."""
        frozen = next((trial for trial in self.trials if trial.family == "frozen" and trial.score is not None), None)
        if frozen is None or self._done():
            return
        best = rank(self.trials)[0]
        recipe, seconds = self.space.tuned(), _TUNING_SHARE * self.left()
        if not metrics.clearly_worse(self._losses(frozen), self._losses(best)) and self._affordable(recipe, seconds):
            yield self._plan(recipe, FULL_LENGTH, seconds, 1.0, alone=True), None

    def _had_its_chance(self, trial: Trial, others: Sequence[Trial]) -> bool:
        """Whether another is clearly better that saw the pictures no more often, or as good after a third of the epochs.

        On 55,000 digits a perceptron of 8 epochs and a convolutional net of a quarter of one both had RMSE 0.46; three times
        as long they had 0.38 and 0.27.
        """
        return any(
            (other.epochs <= trial.epochs and metrics.clearly_worse(self._losses(trial), self._losses(other)))
            or (other.epochs * _SURVIVES <= trial.epochs and not metrics.clearly_worse(self._losses(other), self._losses(trial)))
            for other in others
        )

    def _may_catch_up(self, trial: Trial, best: Trial) -> bool:
        """Whether it has not seen every picture once, and is not far behind."""
        assert trial.score is not None
        assert best.score is not None
        return trial.epochs < 1.0 and trial.score - best.score <= _CATCHES_UP * abs(best.score)

    def _losses(self, trial: Trial) -> Array:
        return metrics.row_losses(self.facts, self.splits.validation.targets, self.folder.validation_predictions(trial))

    def _finals(self, known: Sequence[tuple[Recipe, Mapping[str, Json]]]) -> Iterator[Step]:
        """The best recipe for a third of the time or all its epochs; then it alone for the rest, or several models to average.

        What decides is how fast its score still falls with time: averaging models of equal length is worth a known
        exponent, and a longer training has to promise more. To find out takes no more than all epochs and a half: in an hour
        on MNIST a net had validation RMSE 0.211 after 7 epochs and 0.209 after 40, its average with two snapshots 0.201.
        """
        ranked = self._ranked("second round", "sampled") if self._ranked("second round") else self._ranked("portfolio", "sampled")
        if not ranked:
            slow = [_recipe(trial) for trial in self.trials if (trial.latency_ms or 0.0) > self.limits.latency_ms]
            affordable = [recipe for recipe, _ in known if recipe not in slow and self._affordable(recipe, self.left())]
            if affordable and not self._done():
                yield self._plan(affordable[0], FULL_LENGTH, self.left(), _MOST_LENGTHS, alone=True), None
            return
        if self._done():
            return
        contenders = self._contenders(ranked)
        length_s = min(self.left() / 3, _FINAL_LENGTHS * self._all_epochs_s(_recipe(contenders[0])))
        before, first = self.planned, min(self.slots, _MOST_FINALS)
        for place in range(first):  # those side by side cost no time, and will be averaged if they are no worse
            if place and self._done():
                break
            yield self._final(contenders, place, length_s), None
        yield from self._all_ended()
        if self._exponent(FULL_LENGTH) > AVERAGING_EXPONENT:
            longest = [trial for trial in self.trials[before:] if trial.state == "complete"] or contenders[:1]
            for trial in longest:
                if not self._done():
                    yield self._onward(trial, FULL_LENGTH, self.left(), _MOST_LENGTHS, alone=len(longest) == 1), None
            return
        leader = self.trials[before]
        for place in range(first, _MOST_FINALS):
            if self.left() < length_s / 2 or self._done():
                break
            yield self._final(contenders, place, self._even(length_s)), None
            if self.slots == 1 and place == 1:  # a chain of snapshots would leave the other slots idle
                yield from self._snapshots(leader, self.trials[-1])
        yield from self._all_ended()
        # What is left is too short for another model, but not for another look at this one.
        if leader.state == "complete" and self.left() > _LEAST_SNAPSHOT * leader.seconds and not self._done():
            yield self._snapshot(leader, self.left()), None

    def _final(self, contenders: Sequence[Trial], place: int, seconds: float) -> Plan:
        """The final of this place: each contender's once, then again."""
        if place < len(contenders):
            return self._onward(contenders[place], FULL_LENGTH, seconds, _MOST_LENGTHS, alone=self.slots == 1)
        # From scratch, since a second model from the same weights would err where the first one does.
        recipe = _recipe(contenders[place % len(contenders)])
        return self._plan(recipe, FULL_LENGTH, seconds, _MOST_LENGTHS)

    def _best_bet(self, recipe: Recipe) -> Iterator[Step]:
        """The portfolio's first recipe at full length, if it was too slow for a short training and there is time for it now.

        On a machine that was busy at the start, and so seemed slow, two minutes on 4,000 digits ended after one without it.
        """
        tried = any(trial.recipe == recipe.to_json() for trial in self.trials)
        if not tried and not self._done() and self._affordable(recipe, self.left()):
            yield self._plan(recipe, FULL_LENGTH, self.left(), _MOST_LENGTHS, alone=True), None

    def _snapshots(self, leader: Trial, fresh: Trial) -> Iterator[Step]:
        """The leader's weights trained on, from the full learning rate down again, and so on as long as that pays.

        Each such cycle leaves a model to average (Huang et al. 2017, arXiv:1704.00109). Trained on 20,000 digits of MNIST,
        a snapshot of a third of the steps scored as its start did on 40,000 others; a net with three snapshots had RMSE
        0.250, two nets from scratch in the same time 0.249. Which is better for the data at hand, one snapshot tells.
        """
        latest, seconds = leader, _SNAPSHOT_SHARE * leader.seconds
        while leader.state == fresh.state == "complete" and self.left() > seconds and not self._done():
            yield self._snapshot(leader, self._even(seconds)), None
            latest = self.trials[-1]
            if latest.state != "complete" or not self._another_pays(leader, fresh, latest):
                return

    def _snapshot(self, leader: Trial, seconds: float) -> Plan:
        """The leader's weights, or those of its latest snapshot, trained on for so long."""
        snapshots = [trial for trial in self.trials if trial.purpose == SNAPSHOT and trial.state == "complete"]
        latest = snapshots[-1] if snapshots else leader
        return self._from(latest, self._plan(_recipe(leader), SNAPSHOT, seconds, _MOST_LENGTHS, alone=True))

    def _onward(self, trial: Trial, purpose: str, seconds: float, lengths: float, *, alone: bool = False) -> Plan:
        """The trial's recipe again and longer, from the trial's weights where the time is too short for all its epochs.

        The learning rate goes through its whole cycle again (warm restarts: Loshchilov & Hutter 2017, arXiv:1608.03983).
        Trained on 50,000 digits of MNIST, the portfolio's convolutional net had RMSE 0.226 on 10,000 others after 1.9
        epochs and 3 more from those weights; 0.267 after 3 from scratch, 0.232 after 4.9 from scratch (one seed).
        """
        recipe = _recipe(trial)
        plan = self._plan(recipe, purpose, seconds, lengths, alone=alone)
        if plan.pace.steps is not None or lengths * self._all_epochs_s(recipe) <= plan.pace.seconds:
            return plan
        return self._from(trial, plan)

    def _all_epochs_s(self, recipe: Recipe) -> float:
        """Seconds that the recipe's own number of epochs takes."""
        return recipe.epochs * len(self.splits.folds[0].train) / recipe.batch_size * self.costs.step_s(recipe)

    def _from(self, trial: Trial, plan: Plan) -> Plan:
        """The plan, begun with the trial's weights."""
        starts = tuple(Start(weights=Model.load(place)) for place in self.folder.model_folders(trial))
        return replace(plan, continues=trial.number, starts=starts)

    def _another_pays(self, leader: Trial, fresh: Trial, snapshot: Trial) -> bool:
        score, targets = metrics.ranking_metric(self.facts), self.splits.validation.targets
        predictions = [self.folder.validation_predictions(trial) for trial in (leader, fresh, snapshot)]
        one, two, three = (score(targets, np.mean(predictions[:count], axis=0)) for count in (1, 2, 3))
        return snapshots_pay(one, two, three, fresh_s=fresh.seconds, snapshot_s=snapshot.seconds)

    def _even(self, seconds: float) -> float:
        """About so many seconds, such that trainings of this length use up the time that is left."""
        return self.left() / max(1, round(self.left() / seconds))

    def _contenders(self, ranked: Sequence[Trial]) -> list[Trial]:
        """The trials that validation rows cannot tell from the best: those first that saw their pictures the fewest times.

        They have the most to gain from a full length: after a short training the larger of two equally good nets has seen
        fewer epochs, and goes further. Of equal length, the portfolio's order decides.
        """
        rows = [self._losses(trial) for trial in ranked]
        close = [trial for trial, losses in zip(ranked, rows, strict=True) if not metrics.clearly_worse(losses, rows[0])]
        return sorted(close, key=lambda trial: (trial.epochs, trial.number))

    def _fewer_pictures(self) -> Iterator[Step]:
        """The best recipe whose training is quick enough, on shares of the pictures: the learning curve that the report shows."""
        allowed_s, self.sizes_s = self.sizes_s, 0.0
        if not allowed_s:
            return
        pictures = len(self.splits.folds[0].train)
        for trial in rank([trial for trial in self.trials[1:] if trial.score is not None and trial.state == "complete"]):
            steps, seconds = self._chain(trial)
            curve = sizes.lessons(steps, seconds if steps else trial.seconds, pictures, allowed_s=allowed_s)
            for share, taken in curve:
                if not self._done():
                    plan = self._plan(_recipe(trial), SIZES, self.left(), 1.0)
                    yield replace(plan, share=share, pace=replace(plan.pace, steps=taken or plan.pace.steps)), None
            if curve:
                return

    def _worth_of_more_pictures(self) -> Iterator[Step]:
        """Whether a refit on all development pictures would pay, and if so the time kept for it.

        There is time left only where the finals took all their epochs: as a rule, with few pictures.
        """
        finals = self._ranked(FULL_LENGTH, SNAPSHOT)[:_MOST_FINALS]
        twins = [trial for trial in self._ranked("second round", "portfolio", "sampled") or finals if trial.continues is None]
        needed = seconds_to_refit(finals, self.splits)
        # Finals that went on from other trials' weights cannot be trained again alone.
        alone = all(trial.continues is None or trial.purpose == SNAPSHOT for trial in finals)
        enough = len(self.splits.folds) > 1 or self.limits.streams  # all pictures are learned from already, or will be
        if enough or not finals or not twins or not alone or self.limits.distill or self.left() < needed + twins[0].seconds:
            return
        plan = self._plan(_recipe(twins[0]), FEWER, self.left(), 1.0)
        pace = replace(plan.pace, steps=twins[0].steps)
        yield replace(plan, pace=pace, seed=twins[0].seed, share=share_without(self.splits)), None
        yield from self._all_ended()
        if pays(self.trials, self.splits, self.facts, self.folder)[0]:
            self.refit_s = needed

    def _sampled(self) -> Iterator[Step]:
        """A recipe that the sampler chooses, stopped early when it is losing."""
        for _ in range(_TRIES):
            asked = self.study.ask()
            if self._affordable(asked.recipe, self.slice_s):
                plan = self._plan(asked.recipe, "sampled", self.slice_s, 1.0)
                yield replace(plan, bar=bar(self.trials)), asked
                return
            self.study.tell(asked, None, pruned=False)
        self.progress.say("No further recipes: those that the sampler proposes are too slow for the time that is left.")
        self.futile = True

    def _known_good(self) -> list[tuple[Recipe, Mapping[str, Json]]]:
        """The portfolio's recipes for these data, each once."""
        recipes: list[tuple[Recipe, Mapping[str, Json]]] = []
        for wanted in portfolio():
            recipe, answers = self.space.known_good(wanted)
            if all(recipe != other for other, _ in recipes):
                recipes.append((recipe, answers))
        return recipes

    def _plan(self, recipe: Recipe, purpose: str, seconds: float, lengths: float, *, alone: bool = False) -> Plan:
        number = self.planned
        if self.limits.trials is None:
            pace = Pace(min(seconds, self.left()), most_epochs=recipe.epochs * lengths, steps=self.limits.steps)
        else:
            rounds = math.ceil((self.limits.trials - number) / self.slots)
            seconds = self.left() / rounds  # an even share, which a known number allows
            pace = Pace(seconds, most_epochs=recipe.epochs, steps=self.limits.steps)
        return Plan(number, purpose, recipe, pace, seed=self.seed * SEEDS_A_RUN + number, alone=alone)

    def _done(self) -> bool:
        if self.limits.trials is not None and self.planned >= self.limits.trials:
            return True
        return self.futile or self.left() < _LEAST_S

    def left(self) -> float:
        """Seconds left for trials."""
        return max(0.0, self.deadline.left() - self.refit_s - self.sizes_s)

    def _whole(self) -> float:
        """Seconds for the whole search, past and to come."""
        return self.left() + self.deadline.elapsed() - self.began

    def _affordable(self, recipe: Recipe, seconds: float) -> bool:
        if self.limits.trials is not None:
            return True  # nothing depends on the clock there
        return self.costs.least_s(recipe, _LEAST_STEPS, len(self.splits.validation)) <= min(seconds, self.left())

    def _finding_pays(self) -> bool:
        """Whether one more sampled recipe promises more than its time would give the final training."""
        known = [trial.score for trial in self.trials if trial.purpose == "portfolio" and trial.score is not None]
        sampled = [trial.score for trial in self.trials if trial.purpose == "sampled" and trial.score is not None]
        spent = self.deadline.elapsed() - self.began
        if len(known) < 2 or spent + self.slice_s > _MOST_FINDING * self._whole():
            return False
        return finding_gain(min(known), sampled) > shortening_loss(
            self.slice_s / self.slots, self.left(), self._exponent("second round")
        )

    def _exponent(self, *purposes: str) -> float:
        """How fast these data's scores fall with training time, from recipes trained again for these purposes, and longer."""
        pairs = []
        for longer in self._ranked(*purposes):
            twins = [
                trial for trial in self.trials
                if trial.recipe == longer.recipe and trial.score is not None and trial.purpose != SNAPSHOT and trial.share == 1.0
                and 0 < self._trained_s(trial) < self._trained_s(longer) / 1.5
            ]  # fmt: skip
            if twins and longer.score is not None:
                shorter = max(twins, key=self._trained_s)
                pairs.append((self._trained_s(longer) / self._trained_s(shorter), shorter.score or 0.0, longer.score))
        return time_exponent(pairs)

    def _trained_s(self, trial: Trial) -> float:
        return self._chain(trial)[1]

    def _chain(self, trial: Trial) -> tuple[int, float]:
        """Steps behind a trial's weights and their seconds, those of the trials that it went on from among them."""
        before = self._chain(self.trials[trial.continues]) if trial.continues is not None else (0, 0.0)
        return before[0] + trial.steps, before[1] + trial.step_s

    def _ranked(self, *purposes: str) -> list[Trial]:
        """The trials of these purposes that more time could improve, the best first."""
        chosen = [trial for trial in self.trials if trial.purpose in purposes and trial.state == "complete"]
        chosen = [trial for trial in chosen if (trial.latency_ms or 0.0) <= self.limits.latency_ms]
        return [trial for trial in rank(chosen) if trial.score is not None and FAMILIES[trial.family].fit is None]

    def _leads_since(self, number: int) -> Trial | None:
        """The trial that is better than all others of its length, if it is one of those from this number on."""
        best = self._ranked("portfolio", "sampled")[:1]
        return best[0] if best and best[0].number >= number else None


def _recipe(trial: Trial) -> Recipe:
    return Recipe.from_json(trial.recipe)
