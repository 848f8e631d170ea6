"""Which models make up the final predictor, and with what weights. Looks at validation predictions only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from pixelfit import metrics
from pixelfit.errors import SearchError
from pixelfit.models.model import Model
from pixelfit.predictor import Member, Predictor
from pixelfit.runs import RunFolder, rank
from pixelfit.types import Array, Examples, Facts, Trial

MOST_MEMBERS = 4
_CANDIDATES = 12
_ROUNDS = 24
_LEAST_GAIN = 0.002  # of the score: less is within what a validation set can tell, and each member slows prediction


def combine(trials: Sequence[Trial], validation: Examples, facts: Facts, folder: RunFolder) -> Predictor:
    """Choose members greedily by what they add on the validation set (Caruana et al. 2004).

    Raises:
        SearchError: no trial gave a model.
    """
    usable = [trial for trial in rank(trials) if trial.score is not None][:_CANDIDATES]
    if not usable:
        failed = next((trial for trial in trials if trial.error), None)
        raise SearchError("No trial gave a usable model" + (f"; the first failed with: {failed.error}" if failed else "") + ".")
    score = metrics.ranking_metric(facts)
    predictions = [folder.validation_predictions(trial) for trial in usable]
    weights = greedy_weights(predictions, validation.targets, score)
    members = tuple(
        Member(Model.load(folder.trial_folder(usable[place].number)), usable[place].number, weight)
        for place, weight in sorted(weights.items(), key=lambda item: -item[1])
    )
    return Predictor(facts.task, facts.classes, facts.target_name, members)


def greedy_weights(predictions: Sequence[Array], targets: Array, score: Callable[[Array, Array], float]) -> dict[int, float]:
    """Weights by position, summing to 1, of a bag filled one model at a time with whichever gives the lowest score.

    The same model may be drawn again, which gives it more weight; at most MOST_MEMBERS different ones are. Of the bags
    on the way, the one with the fewest models is taken whose score is as good as the best, but for a tiny share.
    """
    bag: Counter[int] = Counter()
    total = np.zeros_like(predictions[0])
    bags: list[tuple[float, Counter[int]]] = []
    for size in range(1, _ROUNDS + 1):
        allowed = range(len(predictions)) if len(bag) < MOST_MEMBERS else sorted(bag)
        scores = {place: score(targets, (total + predictions[place]) / size) for place in allowed}
        place = min(scores, key=lambda candidate: scores[candidate])
        total = total + predictions[place]
        bag[place] += 1
        bags.append((scores[place], bag.copy()))
    best = min(score for score, _ in bags)
    good_enough = [(len(bag), score, bag) for score, bag in bags if score <= best + _LEAST_GAIN * abs(best)]
    chosen = min(good_enough, key=lambda item: item[:2])[2]
    return {place: count / chosen.total() for place, count in chosen.items()}
