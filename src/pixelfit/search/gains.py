"""Decisions between finding a better recipe and training the best one longer, from the gains that a search has measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_LEAST_EXPONENT, _MOST_EXPONENT = 0.02, 1.0
_USUAL_EXPONENT = 0.25  # measured on MNIST and rotated digits, between 3 and 24 epochs
# The average of two nets of one recipe and 11 epochs each had 0.90 of one's RMSE on 10,000 held-out training digits of
# MNIST, as if the score fell with time to the power of so much; one net of 23 epochs had 0.97 of it (two seeds).
AVERAGING_EXPONENT = 0.15
_HOPED_FOR = 0.02  # counted once beside the measured gains, so that the first failures do not end the search


def time_exponent(pairs: Sequence[tuple[float, float, float]]) -> float:
    """How fast the score falls with training time: the exponent a of score ~ time ** -a.

    Args:
        pairs: for recipes that were trained twice, the ratio of the longer to the shorter time, the score after the
            shorter and the score after the longer training (both positive, smaller is better).
    """
    slopes = [math.log(short / long) / math.log(ratio) for ratio, short, long in pairs if ratio > 1 and min(short, long) > 0]
    return float(np.clip(np.median(slopes), _LEAST_EXPONENT, _MOST_EXPONENT)) if slopes else _USUAL_EXPONENT


def finding_gain(best: float, sampled: Sequence[float]) -> float:
    """What one more sampled recipe is expected to gain: the mean improvement of the best score by those so far, as a share.

    Args:
        best: score of the best recipe of the portfolio.
        sampled: scores of the sampled recipes, in order, of equal length. (Those of the portfolio say little of them: it
            was chosen among many.)
    """
    gains = []
    for score in sampled:
        gains.append(max(0.0, 1 - score / best) if best > 0 else 0.0)
        best = min(best, score)
    return float(np.mean([_HOPED_FOR, *gains]))


def shortening_loss(seconds: float, left: float, exponent: float) -> float:
    """What it costs, as a share of the score, to train ``seconds`` less than the ``left`` ones at full length."""
    if seconds >= left:
        return math.inf
    return float(((left - seconds) / left) ** -exponent - 1)


def snapshots_pay(one: float, two: float, three: float, *, fresh_s: float, snapshot_s: float) -> bool:
    """Whether another snapshot of a model promises more a second than another model from scratch.

    Averaging n models leaves one n-th of what they err apart from each other, so that a third model from scratch takes away
    a third of what the second did.

    Args:
        one: the score of one model.
        two: of its average with another, trained from scratch in ``fresh_s`` seconds.
        three: of both averaged with a snapshot, which took ``snapshot_s``.
    """
    return (two - three) / snapshot_s > (one - two) / 3 / fresh_s
