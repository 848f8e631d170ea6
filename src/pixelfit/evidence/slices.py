"""How good the model is on parts of the test set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from pixelfit import metrics
from pixelfit.evidence.statistics import Statistic
from pixelfit.types import Array, Examples, Facts, Floats, Interval, Ints, Kind, Slice, Slicing
from pixelfit.words import value_words

_FEWEST = 10  # pictures in a slice
_MOST_CLASSES = 30
_THIRDS = 3
_FIFTHS = 5
METRIC: Mapping[Kind, str] = {"number": "rmse", "numbers": "nrmse", "label": "accuracy", "labels": "exact_match"}
_Part: TypeAlias = tuple[str, str, tuple[Slice, ...]]  # by what, in what unit, and the slices


def slicings(
    facts: Facts, examples: Examples, raw: Array, known: Sequence[Statistic], kinds: Sequence[str]
) -> tuple[Slicing, ...]:
    """The test set parted by its targets, by the pictures' properties and by their files, each part with its score.

    Properties are parted into thirds of the test pictures; those that hardly vary are left out, and so are parts of fewer
    than ten pictures.
    """
    score = _scorer(facts, examples.targets, raw)
    found = [_by_target(facts, examples.targets, score)]
    found += [_by_value(each, score) for each in known]
    if kinds:
        names = np.array(kinds, dtype=object)[examples.rows]
        found.append(
            _sliced("kind of file", "", [(str(name), np.flatnonzero(names == name)) for name in sorted(set(names))], score)
        )
    return tuple(Slicing(by, unit, METRIC[facts.kind], slices) for by, unit, slices in found if len(slices) > 1)


def _scorer(facts: Facts, targets: Array, raw: Array) -> Callable[[Ints], Interval]:
    """Gives the score of some rows with its 95 % interval: RMSE, NRMSE, accuracy or the share of exact matches."""
    if facts.kind == "label":
        hits = raw.argmax(axis=1) == targets
        return lambda rows: metrics.share_interval(hits[rows])
    if facts.kind == "labels":
        exact = ((raw >= metrics.LIKELY) == targets).all(axis=1)
        return lambda rows: metrics.share_interval(exact[rows])
    squares = (targets - raw) ** 2 if facts.kind == "number" else (((targets - raw) / facts.target_scales) ** 2).mean(axis=1)
    return lambda rows: metrics.root_interval(squares[rows])


def fifths(values: Floats, parts: int = _FIFTHS) -> list[Ints]:
    """Rows by fifths (or so many parts) of the ordered values; fewer where values are few, which are never torn apart."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, parts + 1)[1:-1]))
    places = np.searchsorted(edges, values, side="left")
    return [np.flatnonzero(places == place) for place in np.unique(places)]


def _by_target(facts: Facts, targets: Array, score: Callable[[Ints], Interval]) -> _Part:
    if facts.kind == "number":
        return _sliced(facts.target_name, "", [(_span(targets[rows]), rows) for rows in fifths(targets)], score)
    if facts.kind == "numbers":
        return "", "", ()  # each has a table of its own
    assert facts.classes is not None
    if facts.kind == "label":
        each = [np.flatnonzero(targets == code) for code in range(len(facts.classes))]
    else:
        each = [np.flatnonzero(targets[:, code]) for code in range(len(facts.classes))]
    named = list(zip(map(str, facts.classes), each, strict=True))[:_MOST_CLASSES]
    return _sliced(facts.target_name, "", named, score)


def _by_value(known: Statistic, score: Callable[[Ints], Interval]) -> _Part:
    rows = fifths(known.values, _THIRDS)
    return _sliced(known.name, known.unit, [(_span(known.values[each]), each) for each in rows], score)


def _sliced(by: str, unit: str, parts: Sequence[tuple[str, Ints]], score: Callable[[Ints], Interval]) -> _Part:
    kept = tuple(Slice(name, len(rows), score(rows)) for name, rows in parts if len(rows) >= _FEWEST)
    return by, unit, kept


def _span(values: Array) -> str:
    low, high = value_words(float(f"{values.min():.3g}")), value_words(float(f"{values.max():.3g}"))
    return low if low == high else f"{low} to {high}"
