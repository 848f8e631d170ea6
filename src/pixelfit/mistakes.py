"""Pictures whose prediction and target disagree, with words for how far; and which targets look wrong themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pixelfit import metrics
from pixelfit.data.targets import outline, shown_targets
from pixelfit.types import Array, Examples, Facts, Floats, Forecast, Ints, Json, Kind, Picture
from pixelfit.words import value_words

SHOWN = 24
SUREST_SHOWN = 12
SUSPECT = "suspect"  # the kind of pictures whose targets look wrong
WORST = "worst"  # of pictures with the largest errors
SUREST = "surest"  # of mistakes that the model was surest of
# Numbers are suspect from so many interquartile ranges above the upper quartile on ("far out": Tukey 1977), of the errors as
# shares of what was to be expected: of normal errors one in 3,700.
_FAR_OUT = 3.0
# And from so many times that on: where most errors are next to nothing, as of digits, quartiles alone made 42 of 600 suspect,
# most of them off by a hundredth.
_LEAST = 2.0
_SURE = 0.9  # of a class: nearly all of a good model's probabilities are higher, and half of them above their average


def worst(facts: Facts, targets: Array, raw: Array) -> Ints:
    """The rows with the largest errors, the largest first; of classes and labels, the wrong ones that were least expected."""
    return all_mistakes(facts, targets, raw)[:SHOWN]


def all_mistakes(facts: Facts, targets: Array, raw: Array) -> Ints:
    """The same without an end: of numbers all rows, of classes and labels all wrong ones."""
    return _WORST[facts.kind](facts, targets, raw)


def surest(facts: Facts, targets: Array, forecast: Forecast) -> Ints:
    """The mistakes that the model was surest of, beyond the ``worst`` ones.

    Of numbers those whose errors go farthest beyond the predicted spread, if it predicts one; of classes and labels the
    wrong ones of the highest probability.
    """
    order = _SUREST[facts.kind](facts, targets, forecast)
    return order[~np.isin(order, worst(facts, targets, forecast.raw))][:SUREST_SHOWN]


def right(facts: Facts, targets: Array, raw: Array) -> Ints:
    """The rows that are predicted right, by rising target; of numbers the better half."""
    order = np.argsort(outline(facts.kind, targets), kind="stable")
    return order[_RIGHT[facts.kind](facts, targets, raw)[order]]


def suspects(facts: Facts, targets: Array, forecast: Forecast) -> Ints:
    """The rows whose targets a model that has not seen them contradicts most strongly, the most suspect first.

    Classes and labels by confident learning (Northcutt et al. 2021, "Confident Learning: Estimating Uncertainty in Dataset
    Labels"): a picture is suspect if another class than its own is more probable, and at least as probable as that class is
    on average on pictures that have it, or as ``_SURE``; ordered by how much more probable. Numbers by how far the error goes
    beyond what the predicted spread and the errors of the others let expect.
    """
    return _SUSPECTS[facts.kind](facts, targets, forecast)


def drawn(kind: str, rows: Ints, examples: Examples, raw: Array, facts: Facts) -> tuple[Picture, ...]:
    """The pictures of these rows, with their targets, predictions and how far these are apart."""
    true = shown_targets(facts, examples.targets[rows])
    said = shown_targets(facts, legible(facts, metrics.decided(facts, raw[rows])))
    notes = _NOTES[facts.kind](facts, examples.targets[rows], raw[rows])
    return tuple(
        Picture(kind, examples.store[examples.rows[row]], examples.refs[row], target, prediction, note)
        for row, target, prediction, note in zip(rows, true, said, notes, strict=True)
    )


def legible(facts: Facts, values: Array) -> Array:
    """Numbers (N,) or (N, targets) to a ten-thousandth of their range, as further digits tell nothing; codes as they are."""
    if facts.kind == "number":
        assert facts.target_range is not None
        return np.round(values, _decimals(*facts.target_range))
    if facts.kind == "numbers":
        columns = zip(values.T, facts.target_ranges, strict=True)
        return np.stack([np.round(column, _decimals(*ends)) for column, ends in columns], axis=1)
    return values


def _decimals(low: float, high: float) -> int:
    return 4 - math.floor(math.log10(high - low)) if high > low else 4


def listed(pictures: Sequence[Picture]) -> Json:
    """The same in words, for a file."""
    return [{"picture": each.ref, "target": each.target, "prediction": each.prediction, "note": each.note} for each in pictures]


# --- the worst


def _by_error(facts: Facts, targets: Floats, raw: Floats) -> Ints:
    return np.argsort(-_sizes_of(facts, targets, raw), kind="stable")


def _sizes_of(facts: Facts, targets: Floats, raw: Floats) -> Floats:
    """One error a row: in the target's unit, or the root of the mean square over several targets, each in its deviations."""
    apart: Floats = np.abs(raw - targets)
    return apart if apart.ndim == 1 else np.sqrt(np.mean((apart / facts.target_scales) ** 2, axis=1))


def _by_true_class(facts: Facts, targets: Ints, raw: Floats) -> Ints:
    likely = raw[np.arange(len(raw)), targets]
    wrong = np.flatnonzero(raw.argmax(axis=1) != targets)
    return wrong[np.argsort(likely[wrong], kind="stable")]


def _by_surprise(facts: Facts, targets: Ints, raw: Floats) -> Ints:
    wrong = np.flatnonzero(((raw >= metrics.LIKELY) != targets).any(axis=1))
    return wrong[np.argsort(-metrics.label_surprises(targets, raw)[wrong], kind="stable")]


_WORST: Mapping[Kind, Callable[[Facts, Array, Array], Ints]] = {
    "number": _by_error,
    "numbers": _by_error,
    "label": _by_true_class,
    "labels": _by_surprise,
}


# --- the surest, and the right


def _by_error_for_spread(facts: Facts, targets: Floats, forecast: Forecast) -> Ints:
    if not forecast.spread.any():
        return np.zeros(0, dtype=np.int64)
    beyond = _unexpected(targets, forecast)
    rows = np.flatnonzero(beyond > _LEAST)
    return rows[np.argsort(-beyond[rows], kind="stable")]


def _by_probability(facts: Facts, targets: Ints, forecast: Forecast) -> Ints:
    wrong = np.flatnonzero(forecast.raw.argmax(axis=1) != targets)
    return wrong[np.argsort(-forecast.raw.max(axis=1)[wrong], kind="stable")]


def _by_surest_label(facts: Facts, targets: Ints, forecast: Forecast) -> Ints:
    apart = np.abs(forecast.raw - targets).max(axis=1)
    wrong = np.flatnonzero(((forecast.raw >= metrics.LIKELY) != targets).any(axis=1))
    return wrong[np.argsort(-apart[wrong], kind="stable")]


_SUREST: Mapping[Kind, Callable[[Facts, Array, Forecast], Ints]] = {
    "number": _by_error_for_spread,
    "numbers": _by_error_for_spread,
    "label": _by_probability,
    "labels": _by_surest_label,
}


def _better_half(facts: Facts, targets: Floats, raw: Floats) -> Array:
    errors = _sizes_of(facts, targets, raw)
    return np.asarray(errors <= np.median(errors))


_RIGHT: Mapping[Kind, Callable[[Facts, Array, Array], Array]] = {
    "number": _better_half,
    "numbers": _better_half,
    "label": lambda facts, targets, raw: raw.argmax(axis=1) == targets,
    "labels": lambda facts, targets, raw: ((raw >= metrics.LIKELY) == targets).all(axis=1),
}


# --- the suspect


def _suspect_number(facts: Facts, targets: Floats, forecast: Forecast) -> Ints:
    return _far_out(_unexpected(targets, forecast))


def _unexpected(targets: Floats, forecast: Forecast) -> Floats:
    """How far each row's error goes beyond what was to be expected; of several targets, that of the one that goes farthest."""
    if targets.ndim == 1:
        return _beyond(targets, forecast.raw, forecast.spread)
    columns = zip(targets.T, forecast.raw.T, forecast.spread.T, strict=True)
    return np.asarray(np.max([_beyond(*column) for column in columns], axis=0))


def _beyond(targets: Floats, raw: Floats, spread: Floats) -> Floats:
    """Errors as shares of what is to be expected of each picture: its predicted spread, and the errors of all."""
    errors: Floats = np.abs(raw - targets)
    typical = np.sqrt(np.mean(errors**2))
    return errors / np.hypot(spread, typical) if typical > 0 else errors


def _far_out(values: Floats) -> Ints:
    first, third = np.quantile(values, (0.25, 0.75))
    rows = np.flatnonzero(values > max(_LEAST, third + _FAR_OUT * (third - first)))
    return rows[np.argsort(-values[rows], kind="stable")]


def _suspect_label(facts: Facts, targets: Ints, forecast: Forecast) -> Ints:
    return _contradicted(targets, forecast.raw)


def _contradicted(targets: Ints, raw: Floats) -> Ints:
    own = raw[np.arange(len(raw)), targets]
    counts = np.bincount(targets, minlength=raw.shape[1])
    usual = np.bincount(targets, own, minlength=raw.shape[1]) / np.maximum(counts, 1)
    # A class that no picture here has shows nothing of how probable it usually is.
    confident = np.where((raw >= np.minimum(usual, _SURE)) & (counts > 0), raw, 0.0)
    rows = np.flatnonzero(confident.max(axis=1) > own)
    return rows[np.argsort(own[rows] - confident[rows].max(axis=1), kind="stable")]


def _suspect_labels(facts: Facts, targets: Ints, forecast: Forecast) -> Ints:
    """Each label for itself, present or not; a picture is as suspect as the most suspect of its labels."""
    doubts = np.zeros(len(targets))
    for column, shares in zip(targets.T, forecast.raw.T, strict=True):
        both = np.stack([1 - shares, shares], axis=1)
        rows = _contradicted(column.astype(np.int64), both)
        doubts[rows] = np.maximum(doubts[rows], np.abs(shares[rows] - column[rows]))
    rows = np.flatnonzero(doubts)
    return rows[np.argsort(-doubts[rows], kind="stable")]


_SUSPECTS: Mapping[Kind, Callable[[Facts, Array, Forecast], Ints]] = {
    "number": _suspect_number,
    "numbers": _suspect_number,
    "label": _suspect_label,
    "labels": _suspect_labels,
}


# --- in words


def _number_notes(facts: Facts, targets: Floats, raw: Floats) -> list[str]:
    return [f"off by {value_words(float(error))}" for error in legible(facts, np.abs(raw - targets))]


def _numbers_notes(facts: Facts, targets: Floats, raw: Floats) -> list[str]:
    """The target that is farthest off, in its own deviations."""
    errors = legible(facts, np.abs(raw - targets))
    scaled = np.abs(raw - targets) / facts.target_scales
    return [
        f"{facts.target_names[place]} off by {value_words(float(errors[row, place]))}, {scaled[row, place]:.2g} deviations"
        for row, place in enumerate(scaled.argmax(axis=1))
    ]


def _label_notes(facts: Facts, targets: Ints, raw: Floats) -> list[str]:
    return [f"{row.max():.0%} sure, true class {row[target]:.0%}" for row, target in zip(raw, targets, strict=True)]


def _labels_notes(facts: Facts, targets: Ints, raw: Floats) -> list[str]:
    assert facts.classes is not None
    notes = []
    for row, target in zip(raw, targets, strict=True):
        place = int(np.abs(row - target).argmax())
        notes.append(f"{row[place]:.0%} for {facts.classes[place]}, which it {'has' if target[place] else 'has not'}")
    return notes


_NOTES: Mapping[Kind, Callable[[Facts, Array, Array], list[str]]] = {
    "number": _number_notes,
    "numbers": _numbers_notes,
    "label": _label_notes,
    "labels": _labels_notes,
}
