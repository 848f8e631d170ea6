"""What there is to know of the final model on the test set beside its scores; looked at last, and nothing is tuned on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from pixelfit.evidence.likeness import likeness
from pixelfit.evidence.saliency import saliency
from pixelfit.evidence.slices import slicings
from pixelfit.evidence.statistics import statistics
from pixelfit.evidence.thumbnails import Thumbnails, rows_to_draw
from pixelfit.mistakes import right, worst
from pixelfit.predictor import Predictor
from pixelfit.types import Examples, Facts, Forecast, Json, Likeness, Picture, Slicing, Splits

__all__ = ["Evidence", "evidence_s", "gather"]

_STATISTICS_S = 1.0  # seconds on 2 cores, for a thousand pictures of each part
# Of a budget, to find out what the model looks at; none in a hurry, since loading Captum alone takes a second.
_SALIENCY_SHARE = 0.015
_LONGEST_SALIENCY_S = 20.0
_SHORTEST_BUDGET_S = 60.0
_UNHURRIED_S = 10.0  # where there is no budget
_LOOKED_AT = 6  # of right and of wrong predictions


@dataclass(frozen=True)
class Evidence:
    """How good the model is on parts of the test set, how like the development data that is, and what the model looks at.

    ``likeness`` is None where there are too few pictures, ``thumbnails`` where no chart has a place for them. ``unseen`` says
    why there are no ``looks``, if there are none.
    """

    slicings: tuple[Slicing, ...]
    likeness: Likeness | None
    looks: tuple[Picture, ...]
    unseen: str
    thumbnails: Thumbnails | None

    def to_json(self) -> Json:
        """What of it is words and figures."""
        return {
            "slicings": [asdict(each) for each in self.slicings],
            "likeness": None if self.likeness is None else asdict(self.likeness),
            "unseen": self.unseen,
            "thumbnails": None if self.thumbnails is None else self.thumbnails.to_json(),
        }


def evidence_s(budget_s: float | None) -> float:
    """Seconds to keep for all of it, of a run with so many."""
    return _STATISTICS_S + _saliency_s(budget_s)


def _saliency_s(budget_s: float | None) -> float:
    if budget_s is None:
        return _UNHURRIED_S
    return min(_LONGEST_SALIENCY_S, _SALIENCY_SHARE * budget_s) if budget_s >= _SHORTEST_BUDGET_S else 0.0


def gather(
    predictor: Predictor,
    examples: Examples,
    forecast: Forecast,
    splits: Splits,
    facts: Facts,
    *,
    budget_s: float | None,
    seed: int,
) -> Evidence:
    """The evidence on the opened test set.

    Args:
        predictor: the final one.
        examples: the test set.
        forecast: what the predictor says of it.
        splits: the data; of the development part pictures and targets are looked at.
        facts: what is known of the data.
        budget_s: of the whole run, of which this takes a small share.
        seed: of the pictures that are drawn, and of the classifier.
    """
    known = statistics(examples, splits, facts.spec)
    asked = _asked(facts, examples, forecast)
    looks, unseen = saliency(predictor, examples, forecast, asked, facts, seconds=_saliency_s(budget_s))
    drawn = rows_to_draw(facts, examples, forecast)
    return Evidence(
        slicings(facts, examples, forecast.raw, known, splits.kinds),
        likeness(examples, splits, facts, seed=seed),
        looks,
        unseen,
        Thumbnails.of(examples, drawn, facts.spec) if len(drawn) else None,
    )


def _asked(facts: Facts, examples: Examples, forecast: Forecast) -> Sequence[tuple[str, int]]:
    """Test pictures to look at with the model, with their kind: the worst mistakes, and right ones from over all targets."""
    wrong = worst(facts, examples.targets, forecast.raw)[:_LOOKED_AT]
    good = right(facts, examples.targets, forecast.raw)
    good = good[~np.isin(good, wrong)]
    spread = good[np.unique(np.linspace(0, len(good) - 1, min(_LOOKED_AT, len(good))).round().astype(int))]
    return [*(("looked wrong", int(row)) for row in wrong), *(("looked right", int(row)) for row in spread)]
