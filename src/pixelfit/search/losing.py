"""Whether a trial is worth no more time, judged by what earlier ones had scored as far on their way."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pixelfit.training.job import Trained
from pixelfit.training.pace import MOST_LOOKS
from pixelfit.types import Trial

_SEEN_BEFORE = 4  # trials, of which fewer say little


@dataclass(frozen=True)
class Bar:
    """What a trial has to have reached after so many eighths of its steps: the median of earlier trials' scores there.

    This is the median stopping rule of Google Vizier (Golovin et al. 2017). It is fixed when the trial is planned and goes
    with it, so that no one need be asked on the way, and what else runs at the time changes nothing.
    """

    medians: Mapping[int, float]

    def is_losing(self, eighth: int, best: float) -> bool:
        """Whether the best score so far (smaller is better) is worse than most had by then."""
        return best > self.medians.get(eighth, math.inf)


def bar(trials: Sequence[Trial]) -> Bar | None:
    """The bar for the next sampled trial; None as long as there are too few to tell."""
    if sum(trial.state == "complete" for trial in trials) < _SEEN_BEFORE:
        return None
    scores: dict[int, list[float]] = {}
    for trial in trials:
        if trial.state == "complete" and trial.purpose == "sampled":
            for eighth, score in trial.looks:
                scores.setdefault(eighth, []).append(score)
    return Bar({eighth: statistics.median(found) for eighth, found in scores.items()})


def looks_of(trained: Trained) -> tuple[tuple[int, float], ...]:
    """The scores after so many eighths of a training's steps, as many as were planned at the time; the first of each eighth."""
    found: dict[int, float] = {}
    for check in trained.history:
        total = trained.planned
        for step, changed in trained.replans:
            if step <= check.step:
                total = changed
        found.setdefault(round(MOST_LOOKS * check.step / max(1, total)), check.score)
    return tuple(found.items())
