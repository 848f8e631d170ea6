"""Split-conformal prediction: intervals and sets that hold the truth as often as asked for.

The guarantee rests on validation pictures that stand for the new ones. Here they have also served to choose the model, which
makes intervals a little too narrow; how much is measured on the test set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from pixelfit.errors import DataError
from pixelfit.types import Array, Floats, Ints

# Floors under the predicted spread, in typical errors: from nearly none to so large that widths hardly differ.
_FLOORS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_CHOSEN_AT = 0.9


def quantile(ordered: Floats, coverage: float) -> float:
    """The smallest of the ordered scores (n,) under which a new one lies with at least the probability ``coverage``.

    It is the one at place ceil((n + 1) coverage), counted from 1 (Papadopoulos et al. 2002; Lei et al. 2018).

    Raises:
        DataError: ``coverage`` is not between 0 and 1, or there are too few scores for it.
    """
    if not 0 < coverage < 1:
        raise DataError(f"The coverage {coverage:g} cannot be used: it must lie between 0 and 1, such as 0.9.")
    if not enough(len(ordered), coverage):
        most = len(ordered) / (len(ordered) + 1)
        raise DataError(
            f"The coverage {coverage:g} needs more than the {len(ordered):,} validation picture(s) "
            f"that this model was calibrated on, which allow up to {math.floor(most * 1000) / 1000:g}."
        )
    return float(ordered[_place(len(ordered), coverage) - 1])


def enough(count: int, coverage: float) -> bool:
    """Whether so many validation pictures allow this coverage."""
    return _place(count, coverage) <= count


def _place(count: int, coverage: float) -> int:
    return math.ceil(round((count + 1) * coverage, 9))  # rounded, since 100 × 0.07 is 7.000000000000001


@dataclass(frozen=True)
class Intervals:
    """Prediction intervals around values.

    The half width is a quantile of the validation errors, each divided by its picture's scale: the predicted spread with
    ``floor`` under it (locally weighted conformal inference; Papadopoulos et al. 2008, Lei et al. 2018), or the same
    number for every picture. ``scores`` are these quotients, ordered.
    """

    scores: Floats
    floor: float
    scaled: bool

    @staticmethod
    def constant(targets: Floats, values: Floats) -> Intervals:
        """Intervals of one width for every picture."""
        return Intervals(np.sort(np.abs(targets - values)), 1.0, scaled=False)

    @staticmethod
    def fit(targets: Floats, values: Floats, spread: Floats) -> Intervals:
        """The intervals, scaled or not, with the best interval score on these validation pictures.

        Args:
            targets: shape (N,).
            values: the predictions, shape (N,).
            spread: predicted standard deviations, shape (N,).
        """
        errors = np.abs(targets - values)
        typical = float(np.sqrt(np.mean(errors**2)))
        candidates = [Intervals.constant(targets, values)]
        for share in _FLOORS if typical > 0 and spread.any() else ():
            scale = np.hypot(spread, share * typical)
            candidates.append(Intervals(np.sort(errors / scale), share * typical, scaled=True))
        if not enough(len(errors), _CHOSEN_AT):
            return candidates[0]
        ends = [candidate.around(values, spread, _CHOSEN_AT) for candidate in candidates]
        return candidates[int(np.argmin([interval_score(targets, each, _CHOSEN_AT) for each in ends]))]

    def around(self, values: Floats, spread: Floats, coverage: float) -> Floats:
        """Lower and upper ends, shape (N, 2); raises DataError as ``quantile`` does."""
        scale = np.hypot(spread, self.floor) if self.scaled else np.full(len(values), self.floor)
        half = quantile(self.scores, coverage) * scale
        return np.stack([values - half, values + half], axis=1)


@dataclass(frozen=True)
class Sets:
    """Prediction sets of classes: all with a probability above one threshold (Sadinle et al. 2019).

    Of the known kinds these are the smallest on average, and the same picture always gets the same set, which adaptive
    sets (Romano et al. 2020) reach only with random draws. The most probable class is always in, so that no set is empty.
    ``scores`` are 1 minus the probabilities of the true classes of validation pictures, ordered.
    """

    scores: Floats

    @staticmethod
    def fit(targets: Ints, probabilities: Floats) -> Sets:
        """Sets calibrated on validation targets (N,) and probabilities (N, classes)."""
        return Sets(np.sort(1 - probabilities[np.arange(len(targets)), targets]))

    def of(self, probabilities: Floats, coverage: float) -> Array:
        """Which classes are in each picture's set, shape (N, classes); raises DataError as ``quantile`` does."""
        inside: Array = 1 - probabilities <= quantile(self.scores, coverage)
        inside[np.arange(len(probabilities)), probabilities.argmax(axis=1)] = True
        return inside


@dataclass(frozen=True)
class SeveralIntervals:
    """Prediction intervals around several numbers a picture, each target's calibrated for itself.

    The coverage is that of each target, not of all at once: how often all of a picture's intervals hold together is not promised.
    """

    each: tuple[Intervals, ...]

    @property
    def scores(self) -> Floats:
        """Those of the first target, of which all have as many."""
        return self.each[0].scores

    @staticmethod
    def constant(targets: Floats, values: Floats) -> SeveralIntervals:
        """Intervals of one width for every picture; targets and values are of shape (N, targets)."""
        return SeveralIntervals(tuple(map(Intervals.constant, targets.T, values.T)))

    @staticmethod
    def fit(targets: Floats, values: Floats, spread: Floats) -> SeveralIntervals:
        """Each target's intervals as ``Intervals.fit`` makes them, from arrays of shape (N, targets)."""
        return SeveralIntervals(tuple(map(Intervals.fit, targets.T, values.T, spread.T)))

    def around(self, values: Floats, spread: Floats, coverage: float) -> Floats:
        """Lower and upper ends, shape (N, targets, 2); raises DataError as ``quantile`` does."""
        pieces = zip(self.each, values.T, spread.T, strict=True)
        return np.stack([each.around(value, apart, coverage) for each, value, apart in pieces], axis=1)


Conformal: TypeAlias = Intervals | Sets | SeveralIntervals


def interval_score(targets: Floats, ends: Floats, coverage: float) -> float:
    """Mean width plus what the missed targets cost; smaller is better (Gneiting & Raftery 2007)."""
    low, high = ends.T
    missed = np.maximum(low - targets, 0) + np.maximum(targets - high, 0)
    return float(np.mean(high - low + 2 / (1 - coverage) * missed))


def pinball(targets: Floats, ends: Floats, coverage: float) -> float:
    """Mean pinball loss of the ends (N, 2) as quantiles that leave half of 1 - ``coverage`` outside on either side."""
    tail = (1 - coverage) / 2
    losses = []
    for end, level in zip(ends.T, (tail, 1 - tail), strict=True):
        below = targets - end
        losses.append(np.mean(np.maximum(level * below, (level - 1) * below)))
    return float(np.mean(losses))
