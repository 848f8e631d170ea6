"""The search: a portfolio of known-good recipes in rounds, sampled ones while that pays, then the best at full length."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from pixelfit import metrics
from pixelfit.deadline import Deadline
from pixelfit.environment import slowed_by_others
from pixelfit.errors import SearchError
from pixelfit.evidence import evidence_s
from pixelfit.models.familiarity import MOST_PICTURES
from pixelfit.models.views import VIEWS
from pixelfit.progress import Progress
from pixelfit.runs import RunFolder, rank
from pixelfit.search.cost import CostModel
from pixelfit.search.earlier import Earlier
from pixelfit.search.engine import SEEDS_A_RUN, Engine, LocalEngine, Plan
from pixelfit.search.limits import Limits
from pixelfit.search.side_by_side import SideBySide
from pixelfit.search.space import Space
from pixelfit.search.stages import Stages
from pixelfit.search.study import Asked, Study
from pixelfit.training.machine import machine
from pixelfit.training.pace import Pace
from pixelfit.training.recipe import Recipe
from pixelfit.types import BASELINE, FULL_LENGTH, SNAPSHOT, Facts, Splits, Trial

__all__ = ["Limits", "Search", "after_s", "most_remembered", "most_views_ms", "time_after"]

_AFTER_S = 2.5  # choosing and drawing the report, and loading what only they need, measured on 2 cores
_RESAMPLED_S = 1e-8  # for a test picture and class in one resample of the metrics
_VIEWS_SHARE = 0.03  # of the budget, at most, to look at several views of each picture
_REMEMBERED_SHARE = 0.01  # of the budget, at most, to look at the training pictures that the final model remembers
_FEWEST_REMEMBERED = 100
AHEAD = 2  # times as many trials as run side by side may be planned before the first of them has ended
_OVER = "over"
_STREAMED_SHARE = 0.4  # of the search's time, for training on over all pictures of the shards
_STUDENT_SHARE = 0.25  # of the budget, for the student of a distillation


@dataclass(frozen=True)
class Search:
    """A search: where it looks, and what it has to look with. Each trial is written to the run folder as it ends.

    What an earlier process left of the same search in the folder is gone on from.
    """

    space: Space
    splits: Splits
    facts: Facts
    folder: RunFolder
    deadline: Deadline
    limits: Limits
    progress: Progress

    def first_model(self) -> Trial:
        """The baseline, which needs no training: something to give as soon as there are pictures.

        Raises:
            SearchError: not even that answers as soon as is asked for.
        """
        recipe, most_ms = self.space.baseline(), self.limits.latency_ms
        pace = Pace(most_epochs=recipe.epochs, steps=self.limits.steps)
        engine = LocalEngine(self.splits.folds, self.facts, self.deadline, self.progress)
        begun = self._begun(Plan(0, BASELINE, recipe, pace, seed=self.limits.seed * SEEDS_A_RUN))
        trial = begun if isinstance(begun, Trial) else self._run(begun, engine)
        if (trial.latency_ms or 0.0) > most_ms:
            raise SearchError(
                f"No model answers within --max-latency {most_ms:g}ms: the baseline takes {trial.latency_ms:.2g} ms."
            )
        self.folder.write_leaderboard([trial], self.facts.metric, {})
        self._show([trial])
        return trial

    def trials(self, engine: Engine, *, after: Trial) -> tuple[Trial, ...]:
        """Try recipes until the trials or the time run out; those tried, with the one before.

        Three stages: the portfolio in short trainings, the best third of it once more and longer; then recipes that Optuna
        samples, as long as they promise more than their time would give the final training; then the best recipes at full
        length. What time is left after that samples on.
        """
        splits, facts, folder, deadline, limits = self.splits, self.facts, self.folder, self.deadline, self.limits
        record = folder.read_if_there("search.json") or {
            "began_s": deadline.elapsed(),
            "flops": machine().flops,
            "slowed": 1.0 if deadline.budget_s is None else round(slowed_by_others(), 2),
            "slots": engine.slots,
        }
        deadline.slowed_by(record.get("slowed", 1.0))  # which runs of older versions do not tell
        folder.write_search({**record, "over": False})
        streamed_s = _STREAMED_SHARE * max(0.0, (deadline.budget_s or 0.0) - record["began_s"]) if limits.streams else 0.0
        slots = int(record.get("slots", 1))
        study = Study(folder.study_file, self.space, seed=limits.seed)
        costs = CostModel(facts.spec, record["flops"], len(splits.folds))
        stages = Stages(
            self.space, study, costs, deadline, limits, limits.seed, splits, facts, folder, self.progress,
            began=record["began_s"], slots=slots, planned=1, trials=[after],
        )  # fmt: skip
        earlier, plans = Earlier(folder, deadline, self.progress), stages.plans()
        asked_of: dict[int, Asked | None] = {}

        def know(trials: Sequence[Trial]) -> None:
            for trial in trials:
                stages.trials.append(trial)
                costs.learn(Recipe.from_json(trial.recipe), trial)
                asked = asked_of.pop(trial.number)
                if asked is not None:
                    study.tell(asked, trial.score, pruned=trial.state == "pruned", looks=trial.looks)

        board = Sparingly(lambda ended: folder.write_leaderboard(ended, facts.metric, {}))

        def show(ended: Sequence[Trial]) -> None:
            board(ended)
            self._show(ended)

        with SideBySide(engine.slots, partial(self._run, engine=engine), show, first=after) as side_by_side:
            while True:
                side_by_side.wait_for_slot()
                deadline.reserve(time_after(stages.trials, splits, facts, limits, deadline), as_it_is=streamed_s)
                with earlier.time_of(stages.planned):
                    step = next(plans, _OVER)
                if isinstance(step, str):
                    break
                if step is None:
                    know(side_by_side.until(stages.planned))
                    continue
                plan, asked_of[stages.planned] = step
                stages.planned += 1
                side_by_side.begin(self._begun(plan))
                # What has to have ended by now, whatever has: so the same is decided each time.
                know(side_by_side.until(stages.planned - (0 if slots == 1 else AHEAD * slots - 1)))
            know(side_by_side.until(stages.planned))
        folder.write_leaderboard(stages.trials, facts.metric, {})
        folder.write_search({**record, "over": not deadline.interrupted})
        return tuple(stages.trials)

    def _begun(self, plan: Plan) -> Plan | Trial:
        """The plan, written down, as it is to be run now; or the trial, as an earlier process left it."""
        self.progress.start_trial(plan.number, f"{plan.recipe.family}, {plan.purpose}")
        earlier = Earlier(self.folder, self.deadline, self.progress)
        return earlier.trial(plan.number) or earlier.begin(plan)

    def _run(self, plan: Plan, engine: Engine) -> Trial:
        """A trial, run and written down."""
        outcome = engine.run(plan)
        self.folder.write_trial(outcome.trial, outcome.history, outcome.models, outcome.validation)
        return outcome.trial

    def _show(self, trials: Sequence[Trial]) -> None:
        """Show how the latest of these trials ended."""
        best = rank(trials)[0]
        self.progress.end_trial(trials[-1], best=best if best.score is not None else None)


class Sparingly:
    """Writes the leaderboard after a trial, but for a twentieth of the time at most: of 10,000 trials it is a megabyte."""

    def __init__(self, write: Callable[[Sequence[Trial]], None]) -> None:
        self._write, self._next = write, 0.0

    def __call__(self, trials: Sequence[Trial]) -> None:
        """Write, if enough time has gone by."""
        begun = time.monotonic()
        if begun >= self._next:
            self._write(trials)
            ended = time.monotonic()
            self._next = ended + 19 * (ended - begun)


def after_s(splits: Splits, facts: Facts, budget_s: float | None) -> float:
    """Seconds for choosing, resampling the metrics, gathering evidence and drawing the report, of a run with so many."""
    return (
        _AFTER_S
        + evidence_s(budget_s)
        + _RESAMPLED_S * metrics.RESAMPLES * len(splits.test) * len(facts.classes or facts.target_names or (0,))
    )


def time_after(trials: Sequence[Trial], splits: Splits, facts: Facts, limits: Limits, deadline: Deadline) -> float:
    """Seconds to keep for what follows the search.

    Predictions of the final members, at several views if they are quick enough; metrics and the report; a student's
    training if one is wanted.
    """
    finals = [trial for trial in trials if trial.purpose in (FULL_LENGTH, SNAPSHOT) and trial.score is not None]
    likely = finals or rank(trials)[:1]
    # One member more than there are yet, since the training under way will be one.
    predict_ms = sum(trial.predict_ms or 0.0 for trial in likely) * (1 + 1 / len(likely))
    # As many views as are allowed to the members that there are, or to fewer of them than seem likely now.
    views_ms = max(predict_ms, min(max(VIEWS.values()) * predict_ms, most_views_ms(splits, deadline)))
    student_s = _STUDENT_SHARE * (deadline.budget_s or 0.0) if limits.distill else 0.0
    # Looking for better views takes a prediction without them first.
    pictures_ms = (views_ms + predict_ms) * _pictures_predicted(splits)
    remembered_ms = predict_ms * 2 * most_remembered(predict_ms, deadline)
    return after_s(splits, facts, deadline.budget_s) + (pictures_ms + remembered_ms) / 1000 + student_s


def most_remembered(predict_ms: float, deadline: Deadline) -> int:
    """How many training pictures a model may remember that takes so long for one; it is shown as many others, too."""
    if deadline.budget_s is None or predict_ms <= 0:
        return MOST_PICTURES
    room = int(_REMEMBERED_SHARE * deadline.budget_s * 1000 / (2 * predict_ms))
    return min(MOST_PICTURES, max(_FEWEST_REMEMBERED, room))


def most_views_ms(splits: Splits, deadline: Deadline) -> float:
    """Milliseconds a picture that predictions at several views may take, so that they do not eat the budget."""
    if deadline.budget_s is None:
        return math.inf
    return 1000 * _VIEWS_SHARE * deadline.budget_s / _pictures_predicted(splits)


def _pictures_predicted(splits: Splits) -> int:
    """Of the final model: the validation set to choose its views, of which folds have none to choose; then the test set."""
    return (2 * len(splits.validation) if len(splits.folds) == 1 else 0) + len(splits.test)
