"""Where trials run: here, one after the other, in this process."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pixelfit import metrics
from pixelfit.deadline import Deadline
from pixelfit.models.heads import temperature_for
from pixelfit.models.model import Model
from pixelfit.progress import Progress
from pixelfit.training.loop import Lesson, Start, history_to_json, train
from pixelfit.training.pace import MOST_LOOKS, Pace
from pixelfit.training.recipe import Recipe
from pixelfit.types import Array, Examples, Json, Trial

_LATENCIES = 5


@dataclass(frozen=True)
class Plan:
    """A trial to be run."""

    number: int
    purpose: str
    recipe: Recipe
    pace: Pace
    seed: int
    is_losing: Callable[[int, float], bool] | None = None  # None: it runs to its end
    start: Start | None = None
    share: float = 1.0  # of the training pictures, drawn at random
    continues: int | None = None  # the trial from whose weights it goes on, if any


@dataclass(frozen=True)
class Outcome:
    """A trial that was run; without a model if it failed."""

    trial: Trial
    history: Json
    model: Model | None
    validation: Array | None


class LocalEngine:
    """Runs trials in this process."""

    def __init__(self, lesson: Lesson, deadline: Deadline, progress: Progress) -> None:
        assert lesson.validation is not None
        self._lesson, self._validation = lesson, lesson.validation
        self._deadline, self._progress = deadline, progress

    def run(self, plan: Plan) -> Outcome:
        """Run one trial. A failure is recorded with its error and does not leave this function."""
        begun = time.monotonic()
        try:
            return self._run(plan, begun)
        except Exception as error:  # noqa: BLE001 - the trial boundary: whatever a recipe does, the search goes on
            reason = f"{type(error).__name__}: {error}".split("\n")[0]
            trial = Trial(
                plan.number, plan.recipe.family, plan.purpose, plan.recipe.to_json(), "failed", plan.seed,
                seconds=time.monotonic() - begun, error=reason,
            )  # fmt: skip
            return Outcome(trial, [], None, None)

    def _run(self, plan: Plan, begun: float) -> Outcome:
        facts, validation = self._lesson.facts, self._validation
        trained = train(
            plan.recipe,
            self._lesson if plan.share == 1.0 else _smaller(self._lesson, plan.share, plan.seed),
            seed=plan.seed,
            pace=plan.pace,
            monitor=_Watch(plan, self._progress),
            stopped=lambda: self._deadline.interrupted,
            start=plan.start,
        )
        model = trained.model
        asked = time.monotonic()
        outputs = model.outputs(validation.store, validation.rows)
        predict_ms = 1000 * (time.monotonic() - asked) / len(validation)
        model.module.cpu()
        model = replace(model, temperature=temperature_for(model.head, outputs, validation.targets))
        predictions = model.predictions(outputs)
        measured = metrics.measure(facts, validation.targets, predictions)
        bad = [name for name, value in measured.items() if not math.isfinite(value)]
        if bad:
            raise FloatingPointError(f"the validation {bad[0]} is {measured[bad[0]]}")
        trial = Trial(
            number=plan.number,
            family=plan.recipe.family,
            purpose=plan.purpose,
            recipe=plan.recipe.to_json(),
            state=trained.state,
            seed=plan.seed,
            seconds=time.monotonic() - begun,
            steps=trained.steps,
            epochs=trained.epochs,
            parameters=model.parameters(),
            score=metrics.cost(facts.metric, measured[facts.metric]),
            metrics=measured,
            step_s=round(trained.step_s, 3),
            averaged=trained.averaged,
            predict_ms=predict_ms,
            latency_ms=latency_ms(model, validation),
            replans=trained.replans,
            best_at_step=trained.best_at_step,
            continues=plan.continues,
        )
        return Outcome(trial, history_to_json(trained), model, predictions)


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
    """Passes a training's progress on to the display, and its scores to the study."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self._plan, self._progress = plan, progress

    def on_progress(self, fraction: float, detail: str) -> None:
        self._progress.advance_trial(fraction, detail)

    def on_check(self, fraction: float, score: float) -> bool:
        self._progress.advance_trial(fraction, f"validation score {score:.4g}")
        # Trainings differ in how often they are looked at, so that what counts is where on its way this one stands.
        return self._plan.is_losing is not None and self._plan.is_losing(round(MOST_LOOKS * fraction), score)
