"""Which choices in the recipes decided how good the trials were."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from pixelfit.types import Array, Json, Trial

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
    names, table = _table([_flat(trial.recipe) for trial in told])
    if len(told) < _FEWEST_TRIALS or not names:
        return None
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


def _flat(recipe: Mapping[str, Json], prefix: str = "") -> dict[str, Json]:
    """One level of names; what a family has of its own goes under the family's name."""
    flat: dict[str, Json] = {}
    for name, value in recipe.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{recipe.get('family', name)} " if name == "architecture" else f"{name} ")
        else:
            flat[f"{prefix}{name}".replace("_", " ")] = value
    return flat


def _table(recipes: Sequence[Mapping[str, Json]]) -> tuple[list[str], Array]:
    """The choices that differ between the recipes, as columns; words by their places, NaN where a recipe has no such choice."""
    columns: dict[str, Array] = {}
    for name in dict.fromkeys(name for recipe in recipes for name in recipe):
        values = [recipe.get(name) for recipe in recipes]
        known = sorted({value for value in values if isinstance(value, str)})
        column = np.array([known.index(value) if isinstance(value, str) else _number(value) for value in values])
        if len(np.unique(column[~np.isnan(column)])) > 1:
            columns[name] = column
    return list(columns), np.stack(list(columns.values()), axis=1) if columns else np.zeros((len(recipes), 0))


def _number(value: Json) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan
