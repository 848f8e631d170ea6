"""Trials and the memory that they take: planned before they begin, and with smaller batches where it did not suffice."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from pixelfit.deadline import Deadline
from pixelfit.progress import Progress
from pixelfit.runlog import note
from pixelfit.search.engine import Outcome, Plan, failed
from pixelfit.training.need import Need, need_of
from pixelfit.types import REFIT, Examples, Facts

_SMALLEST_BATCH = 4
_MOST_HALVINGS = 3
_OVERESTIMATED = 0.5  # what trials of few pictures took, of what they were estimated to take
_OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError", "can't allocate memory", "out of memory", "Unable to allocate")


@dataclass(frozen=True)
class Means:
    """What all trials of a search have in common, as far as their memory goes."""

    train: Examples
    facts: Facts
    deadline: Deadline
    progress: Progress


def as_memory_allows(plan: Plan, run: Callable[[Plan], Outcome], means: Means, *, room: float) -> Outcome:
    """Run one trial with batches that fit into ``room`` bytes; where that does not suffice, once more with half of them.

    The training of a final member on all pictures is not halved: it would be another training than the one that was chosen.
    """
    begun = time.monotonic()
    plan, need = _planned(plan, room, means)
    if need * _OVERESTIMATED > room:
        why = f"MemoryError: it would take about {need / 1e9:.2f} GB, and there is room for {room / 1e9:.2f} GB"
        return failed(plan, why, begun)
    for _ in range(_MOST_HALVINGS):
        outcome = run(plan)
        smaller = plan.recipe.batch_size // 2
        short = outcome.trial.error is not None and any(word in outcome.trial.error for word in _OUT_OF_MEMORY)
        if not short or smaller < _SMALLEST_BATCH or means.deadline.left() <= 0 or plan.purpose == REFIT:
            return outcome
        means.progress.say(f"Trial {plan.number} ran out of memory; once more with batches of {smaller}.")
        for file in [] if plan.kept_in is None else plan.kept_in.glob("checkpoint-*.safetensors"):
            file.unlink()
        pace = replace(plan.pace, seconds=min(plan.pace.seconds, means.deadline.left()))
        plan = replace(plan, recipe=replace(plan.recipe, batch_size=smaller), pace=pace)
    return run(plan)


def need_of_plan(plan: Plan, train: Examples, facts: Facts) -> Need:
    """What a trial will take, as far as that can be told before; nothing if it cannot."""
    try:
        return need_of(plan.recipe, train, facts)
    except Exception as error:  # noqa: BLE001 - the trial boundary: what cannot be built will fail as a trial, too
        note("memory not planned", error=error, trial=plan.number)
        return Need(0.0)


def _planned(plan: Plan, room: float, means: Means) -> tuple[Plan, float]:
    """The trial with batches that fit into ``room``, and the bytes that it will take."""
    need, size = need_of_plan(plan, means.train, means.facts), plan.recipe.batch_size
    while need.of(size) > room and need.a_picture and size // 2 >= _SMALLEST_BATCH and plan.purpose != REFIT:
        size //= 2
    if size == plan.recipe.batch_size:
        return plan, need.of(size)
    told = f"it takes about {need.of(size) / 1e9:.2f} GB"
    means.progress.say(f"Trial {plan.number} gets batches of {size} for want of memory: {told}.")
    return replace(plan, recipe=replace(plan.recipe, batch_size=size)), need.of(size)
