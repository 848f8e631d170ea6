"""Which choices in the recipes decided how good the trials were."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from pixelfit.types import Array, Json, Trial
from pixelfit.words import choices_of

_FEWEST_TRIALS = 8
_TREES, _REPEATS = 100, 10
_EQUALLY_LONG = ("portfolio", "sampled")  # the purposes of trials that had the same time each


def importance(trials: Sequence[Trial], *, seed: int) -> Json:
    """How much worse a forest predicts the trials' scores when one choice is shuffled among them (Breiman 2001).

    Only trials that were given the same time count. ``explained`` is the share of the variance of the logarithm of the score
    that the forest explains of trials that its trees have not seen; where it is near 0, the importances say nothing. None
    where there are too few trials, or they differ in no choice.
    """
    told = [trial for trial in trials if trial.purpose in _EQUALLY_LONG and trial.score is not None and trial.score > 0]
    names, table = _table([choices_of(trial.recipe) for trial in told])
    if len(told) < _FEWEST_TRIALS or not names:
        return None
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    y = np.log([trial.score or 1.0 for trial in told])
    forest = RandomForestRegressor(_TREES, oob_score=True, random_state=seed).fit(table, y)
    found = permutation_importance(forest, table, y, n_repeats=_REPEATS, random_state=seed)
    total = max(float(found.importances_mean.clip(0).sum()), 1e-12)
    shares = [(name, max(0.0, float(mean)) / total) for name, mean in zip(names, found.importances_mean, strict=True)]
    return {
        "trials": len(told),
        "explained": max(0.0, float(forest.oob_score_)),
        "choices": [{"name": name, "share": share} for name, share in sorted(shares, key=lambda item: -item[1])],
    }


def _table(recipes: Sequence[Mapping[str, Json]]) -> tuple[list[str], Array]:
    """The choices that differ between the recipes, as columns; words by their places, NaN where a recipe has no such choice.

    Choices that go together in all recipes, such as how far pictures are turned and moved, are one column with all their names.
    """
    columns: dict[bytes, tuple[str, Array]] = {}
    for name in dict.fromkeys(name for recipe in recipes for name in recipe):
        values = [recipe.get(name) for recipe in recipes]
        known = sorted({value for value in values if isinstance(value, str)})
        column = np.array([known.index(value) if isinstance(value, str) else _number(value) for value in values])
        order, places = np.unique(column, return_inverse=True)  # all NaN are one
        if np.isfinite(order).sum() < 2:
            continue
        key = places.tobytes()
        together = f"{columns[key][0]}, {name.removeprefix('augmentation ')}" if key in columns else name
        columns[key] = (together, column)
    if not columns:
        return [], np.zeros((len(recipes), 0))
    return [name for name, _ in columns.values()], np.stack([column for _, column in columns.values()], axis=1)


def _number(value: Json) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan
