"""Whether the test set is like the pictures that the model was developed on."""

from __future__ import annotations

import math

import numpy as np

from pixelfit.data.targets import outline
from pixelfit.evidence.statistics import AT_ONCE, statistics
from pixelfit.types import Array, Examples, Facts, Floats, Interval, Likeness, Splits

_MOST = 1_000  # pictures of each part
_FEWEST = 20
_TREES = 100
_FOLDS = 5
_GRID = 4  # the picture as so many times so many mean brightnesses
_TOLD = 3  # properties that are named
_Z = 1.959964


def likeness(test: Examples, splits: Splits, facts: Facts, *, seed: int) -> Likeness | None:
    """How well trees tell test pictures from development pictures by simple properties; None for too few pictures.

    Each picture is judged by trees that have not seen it. The interval of the area under the ROC curve is Hanley & McNeil's
    (1982). Targets are compared by the Kolmogorov-Smirnov test, classes by the chi-squared test.
    """
    development = Examples.joined(list(splits.development.values()))
    if min(len(test), len(development)) < _FEWEST:
        return None
    from scipy import stats  # these take a second to load, for which the first model need not wait
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    rng = np.random.default_rng(seed)
    parts = [_some(part, rng) for part in (development, test)]
    names, features = zip(*(_features(part, splits, facts) for part in parts), strict=True)
    X, y = np.concatenate(features), np.repeat([0, 1], [len(part) for part in parts])
    trees = ExtraTreesClassifier(_TREES, min_samples_leaf=5, random_state=seed)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    said = cross_val_predict(trees, X, y, cv=folds, method="predict_proba")[:, 1]
    auc = _auc_interval(float(roc_auc_score(y, said)), len(parts[1]), len(parts[0]))
    telling: tuple[str, ...] = ()
    if auc.low > 0.5:
        known = len([name for name in names[0] if name])
        apart = [float(stats.ks_2samp(one, other).statistic) for one, other in zip(features[0].T, features[1].T, strict=True)]
        order = sorted(range(known), key=lambda place: -apart[place])
        telling = tuple(names[0][place] for place in order[:_TOLD])
    p, named = _target_p(development, test, facts)
    return Likeness(auc, len(y), telling, p, named)


def _some(part: Examples, rng: np.random.Generator) -> Examples:
    if len(part) <= _MOST:
        return part
    rows = np.sort(rng.choice(len(part), _MOST, replace=False))
    return Examples(part.store, part.rows[rows], part.targets[rows], tuple(part.refs[row] for row in rows))


def _features(part: Examples, splits: Splits, facts: Facts) -> tuple[list[str], Floats]:
    """Properties (N, F), the named ones first."""
    known = statistics(part, splits, facts.spec)
    coarse = [_coarse(part.store[part.rows[start : start + AT_ONCE]]) for start in range(0, len(part), AT_ONCE)]
    values = np.stack([each.values for each in known], axis=1)
    return [each.name for each in known], np.concatenate([values, np.concatenate(coarse)], axis=1)


def _coarse(pictures: Array) -> Floats:
    """Mean brightness of each part of a grid over pictures (n, H, W, C), shape (n, parts)."""
    grey: Floats = pictures.astype(np.float32).mean(axis=3)
    down, across = (np.array_split(np.arange(side), min(_GRID, side)) for side in grey.shape[1:])
    return np.stack([grey[:, rows][:, :, columns].mean(axis=(1, 2)) for rows in down for columns in across], axis=1)


def _auc_interval(auc: float, positives: int, negatives: int) -> Interval:
    """Its 95 % interval by Hanley & McNeil's formula."""
    first, second = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (first - auc**2) + (negatives - 1) * (second - auc**2)
    half = _Z * math.sqrt(max(0.0, variance) / (positives * negatives))
    return Interval(auc, max(0.0, auc - half), min(1.0, auc + half))


def _target_p(development: Examples, test: Examples, facts: Facts) -> tuple[float | None, str]:
    from scipy import stats

    one, other = np.split(outline(facts.kind, np.concatenate([development.targets, test.targets])), [len(development)])
    if facts.kind in ("number", "numbers"):
        return float(stats.ks_2samp(one, other).pvalue), "Kolmogorov-Smirnov"
    most = int(max(one.max(), other.max())) + 1
    counts = np.array([np.bincount(each.astype(np.int64), minlength=most) for each in (one, other)])
    counts = counts[:, counts.sum(axis=0) > 0]
    if counts.shape[1] < 2:
        return None, "chi-squared"
    return float(stats.chi2_contingency(counts).pvalue), "chi-squared"
