"""pixelfit's own stages, called the way its search calls them: the one place here that knows their signatures."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from pixelfit.data.inspect import inspect
from pixelfit.data.sources import load_table
from pixelfit.data.split import split
from pixelfit.data.store import decode
from pixelfit.deadline import Deadline
from pixelfit.models.model import Model
from pixelfit.progress import Silent
from pixelfit.search.engine import LocalEngine, Plan
from pixelfit.search.space import build_space
from pixelfit.training.loop import Job, Lesson, train
from pixelfit.training.machine import machine
from pixelfit.training.pace import Check, Pace
from pixelfit.training.parallel import train_on
from pixelfit.training.recipe import Recipe
from pixelfit.types import UNNAMED, Array, Fold, Task


class _Unwatched:
    """A monitor that shows nothing and ends nothing."""

    def on_progress(self, fraction: float, detail: str) -> None:
        """Show nothing."""

    def on_look(self, check: Check) -> None:
        """Show nothing."""

    def on_check(self, fraction: float, score: float) -> bool:
        """End nothing."""
        return False


def prepared(X: object, y: Array, task: Task, *, validated: bool = False) -> Lesson:
    """Load, inspect and split arrays or paths, as ``fit`` does; with a validation set only if it is to be looked at."""
    progress = Silent()
    table = load_table((X, y), UNNAMED, data_dir=None, progress=progress)
    pictures = decode(table, progress)
    inspected = inspect(table, pictures, task)
    facts, splits = inspected.facts, split(table, pictures, inspected, seed=0)
    return Lesson(splits.train, splits.validation if validated else None, facts)


def known_good(lesson: Lesson, family: str) -> Recipe:
    """The family's known-good recipe."""
    return build_space(lesson.facts, lesson.train).known_good({"family": family})[0]


def trained(recipe: Recipe, lesson: Lesson, steps: int) -> tuple[Model, float]:
    """A model after so many steps, and the seconds that the whole training took."""
    began = time.perf_counter()
    result = train(recipe, lesson, seed=0, pace=Pace(steps=steps), monitor=_Unwatched(), stopped=lambda: False)
    return result.model, time.perf_counter() - began


def validated(recipe: Recipe, lesson: Lesson, *, steps: int, seconds: float) -> tuple[float | None, float]:
    """The validation score, smaller is better, after so many steps (or as much as fits), and the seconds; None if it failed."""
    assert lesson.validation is not None
    engine = LocalEngine([Fold(lesson.train, lesson.validation)], lesson.facts, Deadline(None), Silent())
    trial = engine.run(Plan(0, "benchmark", recipe, Pace(seconds, steps=steps), seed=0)).trial
    return trial.score, trial.seconds


def in_bfloat16() -> bool:
    """Whether pixelfit's loop trains in bfloat16 here, which it measures once."""
    return machine().low_precision


def step_seconds(recipe: Recipe, lesson: Lesson, steps: Sequence[int]) -> float:
    """Seconds of one training step: a long training less a short one, so that set-up cancels out."""
    few, many = steps
    short = trained(recipe, lesson, few)[1]
    return (trained(recipe, lesson, many)[1] - short) / (many - few)


def divided_step_seconds(recipe: Recipe, lesson: Lesson, steps: int, ranks: int) -> float:
    """Seconds of one step of a training by so many ranks, which share the threads of this process."""
    job = Job(recipe, lesson, 0, Pace(steps=steps))
    return train_on(ranks, job, monitor=_Unwatched(), stopped=lambda: False).step_s / steps


def digits_like(count: int, side: int, *, channels: int = 1, seed: int = 0) -> tuple[Array, Array]:
    """Noise with a bright stroke in one of ten places, and which: (count, side, side, channels) uint8 and (count,)."""
    rng = np.random.default_rng(seed)
    places = rng.integers(10, size=count)
    pictures = np.empty((count, side, side, channels), dtype=np.uint8)
    for start in range(0, count, 10_000):  # a million random pictures at once would take eight times their memory
        part = pictures[start : start + 10_000]
        part[:] = rng.integers(0, 60, part.shape, dtype=np.uint8)
    thick = max(1, side // 8)
    for place in range(10):
        column = place * (side - thick) // 9
        pictures[places == place, side // 5 : -(side // 5) or None, column : column + thick] += 180
    return pictures, places.astype(np.float64)
