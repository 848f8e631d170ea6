"""How a trial is run, and what an engine is; the one here runs trials in this process."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from pixelfit import metrics
from pixelfit.data.windows import Passed, Whole, Windows
from pixelfit.deadline import Deadline
from pixelfit.errors import DataError
from pixelfit.models import FAMILIES
from pixelfit.models.heads import temperature_for
from pixelfit.models.model import Model
from pixelfit.progress import Progress
from pixelfit.runlog import note
from pixelfit.search.losing import Bar, looks_of
from pixelfit.training.checkpoint import Checkpoint
from pixelfit.training.job import Job, Lesson, Monitor, Start, Trained
from pixelfit.training.loop import train_alone
from pixelfit.training.machine import with_threads
from pixelfit.training.pace import MOST_LOOKS, Check, Pace
from pixelfit.training.recipe import Recipe
from pixelfit.types import FULL_LENGTH, REFIT, Examples, Facts, Fold, Forecast, Json, Trial, TrialState

SEEDS_A_RUN = 10_000  # a trial's seed is the run's, times this, and its number
_WORTH_DIVIDING_S = 30.0  # ranks take some seconds to start
MOST_RETRIES = 2  # of a trial that was lost with a worker
NOT_DONE = "TimeoutError: the trial was not done when the budget was used up, and was ended"
_LATENCIES = 5
_TIMED = 64  # pictures, to see how long a prediction takes


@dataclass(frozen=True)
class Plan:
    """A trial to be run: with several folds, a training in each, which share the seconds of ``pace``.

    ``alone`` says that nothing else runs beside it, so that it may have the whole machine.
    """

    number: int
    purpose: str
    recipe: Recipe
    pace: Pace
    seed: int
    bar: Bar | None = None  # what it must reach on its way; None: it runs to its end
    starts: tuple[Start, ...] = ()  # one a fold, or none for fresh models
    share: float = 1.0  # of the training pictures, drawn at random
    continues: int | None = None  # the trial from whose weights it goes on, if any
    kept_in: Path | None = None  # the folder where its trainings are kept on the way, and gone on from if they are there already
    whole: Whole | None = None  # the shards over whose training pictures it goes, instead of those of the fold
    alone: bool = False
    threads: int = 0  # with which it is trained; 0: all that the machine has

    def going_on(self, left_s: float) -> Plan:
        """The plan from its last checkpoint, with so many seconds left for it."""
        kept = self.checkpoint(0, folds=1)
        spent_s = kept.spent_s() if kept else 0.0
        return replace(self, pace=replace(self.pace, seconds=min(self.pace.seconds, spent_s + left_s)))

    def checkpoint(self, fold: int, *, folds: int) -> Checkpoint | None:
        """Where the training of one fold is kept."""
        if self.kept_in is None:
            return None
        return Checkpoint(self.kept_in / f"checkpoint-{fold}.safetensors", last=folds > 1)


@dataclass(frozen=True)
class Outcome:
    """A trial that was run; without models if it failed, or did not come through all folds."""

    trial: Trial
    history: Json
    models: tuple[Model, ...] = ()
    validation: Forecast | None = None
    passed: Passed | None = None  # what came by of shards


class Engine(Protocol):
    """Where trials run: up to ``slots`` of them side by side, each from a thread of its own, with ``threads`` of the processor.

    With 0 threads a trial has all that its machine has.
    """

    slots: int
    threads: int

    def run(self, plan: Plan) -> Outcome:
        """Run one trial. A failure is recorded with its error and does not leave this function."""


class Trainer(Protocol):
    """Does a training: in this process, or divided over several."""

    def __call__(
        self, job: Job, *, monitor: Monitor, stopped: Callable[[], bool], checkpoint: Checkpoint | None = None
    ) -> Trained:
        """See ``train``."""


class LocalEngine:
    """Runs trials in this process, one at a time; ``trainer``, if given, does their trainings."""

    slots, threads = 1, 0

    def __init__(
        self, folds: Sequence[Fold], facts: Facts, deadline: Deadline, progress: Progress, trainer: Trainer | None = None
    ) -> None:
        self._folds, self._facts = folds, facts
        self._deadline, self._progress, self._trainer = deadline, progress, trainer

    def run(self, plan: Plan) -> Outcome:
        """Run one trial. A failure is recorded with its error and does not leave this function."""
        begun = time.monotonic()
        try:
            with with_threads(plan.threads):
                return self._run(plan, begun)
        except Exception as error:  # noqa: BLE001 - the trial boundary: whatever a recipe does, the search goes on
            note("trial failed", error=error, trial=plan.number)
            return failed(plan, f"{type(error).__name__}: {error}".split("\n")[0], begun)

    def _run(self, plan: Plan, begun: float) -> Outcome:
        if plan.purpose == REFIT:
            return self._refitted(plan, begun)
        if plan.whole is not None:
            return self._streamed(plan, plan.whole, begun)
        # A share of the pictures is drawn within each fold.
        whole_at_once = len(self._folds) > 1 and FAMILIES[plan.recipe.family].cross_fit is not None and plan.share == 1.0
        return self._judged(plan, [self._cross_fitted(plan)] if whole_at_once else self._trained(plan), begun)

    def _judged(self, plan: Plan, trained: Sequence[Trained], begun: float) -> Outcome:
        """What came of the trainings of a trial, by the pictures that were held out."""
        first, last = trained[0], trained[-1]
        ended = _record(plan, last.state, begun)
        if first.held_out is None and len(trained) < len(self._folds):
            return Outcome(ended, _mean_history(trained))
        models = [one.model for one in trained]
        outputs, predict_ms = self._outputs(trained)
        held_out = [fold.validation for fold in self._folds]
        # A model that was fitted in one go speaks for every fold.
        heads = [models[place % len(models)].head for place in range(len(held_out))]
        temperature = temperature_for(
            [(head, raw, part.targets) for head, raw, part in zip(heads, outputs, held_out, strict=True)]
        )
        models = [replace(model, temperature=temperature) for model in models]
        forecast = _joined([models[place % len(models)].forecast_of(raw) for place, raw in enumerate(outputs)])
        targets = np.concatenate([part.targets for part in held_out])
        measured = metrics.measure(self._facts, targets, forecast.raw)
        bad = [name for name, value in measured.items() if not math.isfinite(value)]
        if bad:
            raise FloatingPointError(f"the validation {bad[0]} is {measured[bad[0]]}")
        interval = metrics.ranking_interval(self._facts, targets, forecast.raw)
        trial = replace(
            ended,
            interval=(interval.low, interval.high),
            folds=len(models),
            seconds=time.monotonic() - begun,
            steps=first.steps,
            epochs=first.epochs,
            parameters=sum(model.parameters() for model in models),
            score=metrics.cost(self._facts.metric, measured[self._facts.metric]),
            metrics=measured,
            step_s=round(sum(one.step_s for one in trained), 3),
            averaged=first.averaged,
            predict_ms=predict_ms,
            latency_ms=len(models) * latency_ms(models[0], held_out[0]),
            planned=first.planned,
            replans=first.replans,
            out_of_time_at=first.out_of_time_at,
            best_at_step=first.best_at_step,
            looks=looks_of(first),
        )
        return Outcome(trial, _mean_history(trained), tuple(models), forecast, first.passed)

    def _trained(self, plan: Plan) -> list[Trained]:
        """A training a fold, all of as many steps as the first; fewer where one was ended early."""
        done: list[Trained] = []
        end = time.monotonic() + plan.pace.seconds
        for place, fold in enumerate(self._folds):
            pace, left = plan.pace, len(self._folds) - place
            if left < len(self._folds):
                # At least an even share, so that folds that took longer do not starve the last one.
                seconds = max(end - time.monotonic(), plan.pace.seconds / len(self._folds)) / left
                pace = replace(pace, seconds=seconds, steps=done[0].steps, course=None)
            elif left > 1:
                pace = replace(pace, seconds=pace.seconds / left)
            lesson = Lesson(fold.train, fold.validation, self._facts)
            watch = _Watch(plan, self._progress, place, len(self._folds))
            lesson = lesson if plan.share == 1.0 else _smaller(lesson, plan.share, plan.seed)
            job = Job(plan.recipe, lesson, plan.seed, pace, plan.starts[place] if plan.starts else Start())
            trained = self._train(job, watch, plan.checkpoint(place, folds=len(self._folds)))
            done.append(trained)
            if trained.state != "complete":
                break
        return done

    def _streamed(self, plan: Plan, whole: Whole, begun: float) -> Outcome:
        """A training over all training pictures of shards, a window after the other."""
        (fold,) = self._folds
        end = begun + plan.pace.seconds
        with Windows(whole, batch=plan.recipe.batch_size, seed=plan.seed) as windows:
            first = windows.next(lambda: self._deadline.interrupted or time.monotonic() > end)
            if first is None and self._deadline.interrupted:
                return interrupted(plan, begun)
            if first is None:
                raise DataError(f"not even the first pictures of the shards could be read within {plan.pace.seconds:.0f} s")
            lesson = Lesson(first, fold.validation, self._facts, windows=windows)
            pace = replace(plan.pace, seconds=max(0.0, end - time.monotonic()))
            job = Job(plan.recipe, lesson, plan.seed, pace, plan.starts[0])
            return self._judged(plan, [self._train(job, _Watch(plan, self._progress, 0, 1))], begun)

    def _refitted(self, plan: Plan, begun: float) -> Outcome:
        """A training on all development pictures."""
        (fold,) = self._folds
        lesson = Lesson(Examples.joined([fold.train, fold.validation]), None, self._facts)
        job = Job(plan.recipe, lesson, plan.seed, plan.pace, plan.starts[0])
        trained = self._train(job, _Watch(plan, self._progress, 0, 1))
        trained.model.module.cpu()
        return Outcome(replace(_record(plan, trained.state, begun), steps=trained.steps), [], (trained.model,))

    def _cross_fitted(self, plan: Plan) -> Trained:
        """One fit on all pictures, by a family that predicts those of each fold by itself."""
        sizes = [len(fold.validation) for fold in self._folds]
        everything = Examples.joined([fold.validation for fold in self._folds])
        lesson = Lesson(everything, None, self._facts, np.repeat(np.arange(len(sizes)), sizes))
        return self._train(Job(plan.recipe, lesson, plan.seed, plan.pace), _Watch(plan, self._progress, 0, 1))

    def _train(self, job: Job, watch: Monitor, checkpoint: Checkpoint | None = None) -> Trained:
        trainer = self._trainer or train_alone
        return trainer(job, monitor=watch, stopped=lambda: self._deadline.interrupted, checkpoint=checkpoint)

    def _outputs(self, trained: Sequence[Trained]) -> tuple[list[torch.Tensor], float]:
        """The raw outputs for each fold's validation pictures, and the milliseconds that the trial's models take a picture."""
        sizes = [len(fold.validation) for fold in self._folds]
        started = time.monotonic()
        if trained[0].held_out is not None:
            outputs = list(torch.split(trained[0].held_out, sizes))
            few = self._folds[0].validation
            trained[0].model.outputs(few.store, few.rows[:_TIMED])
            predicted = min(_TIMED, len(few))
        else:
            parts = [fold.validation for fold in self._folds]
            outputs = [one.model.outputs(part.store, part.rows) for one, part in zip(trained, parts, strict=True)]
            predicted = sum(sizes)
        predict_ms = 1000 * (time.monotonic() - started) / predicted
        for one in trained:
            one.model.module.cpu()
        return outputs, len(trained) * predict_ms


class SearchOverError(Exception):
    """The search was broken off while a trial was under way, which is left as it is, to be gone on with."""


class Until(Deadline):
    """A clock by which trainings end when the user wants to stop, or ``is_over`` says so."""

    def __init__(self, deadline: Deadline, is_over: Callable[[], bool]) -> None:
        super().__init__(deadline.budget_s)
        self._deadline, self._is_over = deadline, is_over

    @property
    def interrupted(self) -> bool:
        """Whether trainings are to end."""
        return self._deadline.interrupted or self._is_over()

    def left(self) -> float:
        """Seconds left for the search."""
        return 0.0 if self._is_over() else self._deadline.left()


def divided(plan: Plan, engine: LocalEngine, ranks: int, until: Until) -> Outcome:
    """Run a trial whose trainings the engine divides over ranks; where one is lost, again from the last checkpoint."""
    for _ in range(MOST_RETRIES):
        outcome = engine.run(plan)
        lost = outcome.trial.error is not None and outcome.trial.error.startswith("RankError")
        if not lost or until.left() <= 0:
            break
        note("rank lost", trial=plan.number, why=outcome.trial.error)
        plan = plan.going_on(until.left())
    else:
        outcome = engine.run(plan)
    return replace(outcome, trial=replace(outcome.trial, ranks=ranks))


def is_divided(plan: Plan, ranks: int, folds: Sequence[Fold], facts: Facts) -> bool:
    """Whether a trial is trained on several ranks: one that has nothing beside it, is long, and can be divided so."""
    if ranks == 1 or not plan.alone or plan.purpose not in (FULL_LENGTH, REFIT) or plan.pace.seconds < _WORTH_DIVIDING_S:
        return False
    return Job(plan.recipe, Lesson(folds[0].train, None, facts), plan.seed, plan.pace).most_ranks >= ranks


def interrupted(plan: Plan, begun: float) -> Outcome:
    """The record of a trial of which no more was heard after the user wanted to stop."""
    return Outcome(_record(plan, "interrupted", begun), [])


def failed(plan: Plan, error: str, begun: float) -> Outcome:
    """The record of a trial that came to nothing."""
    return Outcome(replace(_record(plan, "failed", begun), error=error), [])


def _record(plan: Plan, state: TrialState, begun: float) -> Trial:
    """What is known of a trial whatever became of it."""
    return Trial(
        plan.number, plan.recipe.family, plan.purpose, plan.recipe.to_json(), state, plan.seed,
        seconds=time.monotonic() - begun, continues=plan.continues, share=plan.share, threads=plan.threads,
    )  # fmt: skip


def _joined(parts: Sequence[Forecast]) -> Forecast:
    """Forecasts for pictures of several folds, one after the other."""
    return Forecast(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("raw", "spread", "uncalibrated")))


def _mean_history(trained: Sequence[Trained]) -> Json:
    """The looks at the validation set, averaged over folds that were looked at equally often."""
    first = trained[0].history
    alike = [one.history for one in trained if [check.step for check in one.history] == [check.step for check in first]]
    return [
        {**vars(checks[0]), **{name: float(np.mean([vars(check)[name] for check in checks])) for name in ("train_loss", "score")}}
        for checks in zip(*alike, strict=True)
    ]


def _smaller(lesson: Lesson, share: float, seed: int) -> Lesson:
    whole = lesson.train
    kept = np.sort(np.random.default_rng(seed).permutation(len(whole))[: max(1, round(share * len(whole)))])
    refs = tuple(whole.refs[place] for place in kept)
    return replace(lesson, train=Examples(whole.store, whole.rows[kept], whole.targets[kept], refs))


def latency_ms(model: Model, examples: Examples) -> float:
    """Milliseconds that a prediction for one picture alone takes: the median of some, after one that does not count."""
    seconds = []
    for _ in range(1 + _LATENCIES):
        started = time.perf_counter()
        model.predict(examples.store, examples.rows[:1])
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[1:])


class _Watch:
    """Passes a training's progress on to the display, and ends it if it is losing."""

    def __init__(self, plan: Plan, progress: Progress, fold: int, folds: int) -> None:
        self._plan, self._progress, self._fold, self._folds = plan, progress, fold, folds
        self._best = math.inf

    def on_progress(self, fraction: float, detail: str) -> None:
        of = f"fold {self._fold + 1} of {self._folds}, " if self._folds > 1 else ""
        self._progress.advance_trial(self._plan.number, (self._fold + fraction) / self._folds, f"{of}{detail}")

    def on_look(self, check: Check) -> None:
        self._best = min(self._best, check.score)
        self._progress.check_trial(self._plan.number, check.epoch, check.score, fold=self._fold, folds=self._folds)

    def on_check(self, fraction: float, score: float) -> bool:
        self.on_progress(fraction, f"validation score {score:.4g}")
        # Trainings differ in how often they are looked at, so that what counts is where on its way this one stands. The
        # first fold alone is judged: what has come through that is trained in the others too.
        bar = self._plan.bar if self._fold == 0 else None
        return bar is not None and bar.is_losing(round(MOST_LOOKS * fraction), self._best)
