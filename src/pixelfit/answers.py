"""What a model's predictions are to the user, for each kind of target: one entry a kind in ``answers_of``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from pixelfit.conformal import Conformal, Intervals, Sets, SeveralIntervals
from pixelfit.errors import DataError
from pixelfit.metrics import LIKELY
from pixelfit.types import Array, Floats, Forecast, Ints, Json, Kind, Label

_LEAST_PROBABILITY = 1e-15
BETWEEN_LABELS = ";"
# A column of a table: its header and its values.
Column: TypeAlias = tuple[str, Sequence[Json]]


class Answers(Protocol):
    """How raw predictions of one kind of target are mixed, named, written down and calibrated."""

    def mixed(self, parts: Sequence[tuple[float, Forecast]], temperature: float) -> Forecast:
        """The forecast of an ensemble: its members' forecasts, each with its weight."""

    def given(self, raw: Array) -> Array:
        """What ``predict`` gives for raw predictions."""

    def known(self, targets: Array) -> list[Column]:
        """The true targets, as columns of a table."""

    def said(self, raw: Array, *, alone: bool) -> list[Column]:
        """The predictions, as columns of a table; ``alone`` where no true targets stand beside them."""

    def shares(self, raw: Array) -> list[Column]:
        """The probabilities of classes, as columns of a table."""

    def sureness(self, conformal: Conformal, forecast: Forecast, coverage: float) -> dict[str, list[float] | list[str]]:
        """The ends of intervals or the sets of classes, as columns of a table."""

    def refuse(self, *, probabilities: bool = False, intervals: bool = False, sets: bool = False) -> None:
        """Raise DataError if predictions of this kind have not what is asked for."""


@dataclass(frozen=True)
class NumberAnswers:
    """One number a picture: raw predictions (N,)."""

    name: str

    def mixed(self, parts: Sequence[tuple[float, Forecast]], temperature: float) -> Forecast:
        """The weighted mean, with the spread of the members' distributions mixed: their own and how far they are apart."""
        return _mixed_values(parts)

    def given(self, raw: Array) -> Array:
        """The values, (N,)."""
        return raw

    def known(self, targets: Array) -> list[Column]:
        """One column."""
        return [("target", targets.tolist())]

    def said(self, raw: Array, *, alone: bool) -> list[Column]:
        """One column."""
        return [(self.name if alone else "prediction", raw.tolist())]

    def shares(self, raw: Array) -> list[Column]:
        """None."""
        return []

    def sureness(self, conformal: Conformal, forecast: Forecast, coverage: float) -> dict[str, list[float] | list[str]]:
        """``low`` and ``high``."""
        assert isinstance(conformal, Intervals)
        low, high = conformal.around(forecast.raw, forecast.spread, coverage).T
        return {"low": low.tolist(), "high": high.tolist()}

    def refuse(self, *, probabilities: bool = False, intervals: bool = False, sets: bool = False) -> None:
        """Numbers have intervals alone."""
        _refuse_for_numbers(probabilities, sets)


@dataclass(frozen=True)
class NumbersAnswers:
    """Several numbers a picture: raw predictions (N, targets)."""

    names: tuple[str, ...]

    def mixed(self, parts: Sequence[tuple[float, Forecast]], temperature: float) -> Forecast:
        """As for one number, each target for itself."""
        return _mixed_values(parts)

    def given(self, raw: Array) -> Array:
        """The values, (N, targets)."""
        return raw

    def known(self, targets: Array) -> list[Column]:
        """A column a target."""
        return [(f"target_{name}", column.tolist()) for name, column in zip(self.names, targets.T, strict=True)]

    def said(self, raw: Array, *, alone: bool) -> list[Column]:
        """A column a target."""
        before = "" if alone else "prediction_"
        return [(f"{before}{name}", column.tolist()) for name, column in zip(self.names, raw.T, strict=True)]

    def shares(self, raw: Array) -> list[Column]:
        """None."""
        return []

    def sureness(self, conformal: Conformal, forecast: Forecast, coverage: float) -> dict[str, list[float] | list[str]]:
        """``low_NAME`` and ``high_NAME`` of each target."""
        assert isinstance(conformal, SeveralIntervals)
        ends = conformal.around(forecast.raw, forecast.spread, coverage)
        return {
            f"{end}_{name}": ends[:, place, side].tolist()
            for place, name in enumerate(self.names)
            for side, end in enumerate(("low", "high"))
        }

    def refuse(self, *, probabilities: bool = False, intervals: bool = False, sets: bool = False) -> None:
        """Numbers have intervals alone."""
        _refuse_for_numbers(probabilities, sets)


@dataclass(frozen=True)
class LabelAnswers:
    """One label a picture: raw predictions are the classes' probabilities (N, classes)."""

    name: str
    classes: tuple[Label, ...]

    def mixed(self, parts: Sequence[tuple[float, Forecast]], temperature: float) -> Forecast:
        """The weighted mean of the probabilities, as sure as ``temperature`` makes it."""
        raw, uncalibrated = _means(parts)
        return Forecast(sharpened(raw, temperature), np.zeros(len(raw)), uncalibrated)

    def given(self, raw: Array) -> Array:
        """The most probable labels, (N,)."""
        labels: Array = np.array(self.classes)[raw.argmax(axis=1)]
        return labels

    def known(self, targets: Array) -> list[Column]:
        """One column."""
        return [("target", [self.classes[target] for target in targets.tolist()])]

    def said(self, raw: Array, *, alone: bool) -> list[Column]:
        """One column."""
        if alone:
            return [(self.name, self.given(raw).tolist())]
        return [("prediction", [self.classes[place] for place in raw.argmax(axis=1).tolist()])]

    def shares(self, raw: Array) -> list[Column]:
        """A column a class."""
        return _shares(self.classes, raw)

    def sureness(self, conformal: Conformal, forecast: Forecast, coverage: float) -> dict[str, list[float] | list[str]]:
        """The ``set`` of classes as ``cat|dog``."""
        assert isinstance(conformal, Sets)
        names = np.array([str(label) for label in self.classes], dtype=object)
        return {"set": ["|".join(names[row]) for row in conformal.of(forecast.raw, coverage)]}

    def refuse(self, *, probabilities: bool = False, intervals: bool = False, sets: bool = False) -> None:
        """Classes have probabilities and sets."""
        if intervals:
            raise DataError("A classification has no intervals; use predict_sets.")


@dataclass(frozen=True)
class LabelsAnswers:
    """Several labels a picture: raw predictions are each label's probability (N, labels)."""

    classes: tuple[Label, ...]

    def mixed(self, parts: Sequence[tuple[float, Forecast]], temperature: float) -> Forecast:
        """The weighted mean of the probabilities, as sure as ``temperature`` makes it."""
        raw, uncalibrated = _means(parts)
        return Forecast(sharpened_odds(raw, temperature), np.zeros(len(raw)), uncalibrated)

    def given(self, raw: Array) -> Array:
        """1 for the labels with a probability of at least a half, 0 for the others, (N, labels)."""
        return np.asarray(raw >= LIKELY).astype(np.int64)

    def known(self, targets: Array) -> list[Column]:
        """One column, of labels joined."""
        return [("target", self.joined(targets))]

    def said(self, raw: Array, *, alone: bool) -> list[Column]:
        """One column, of labels joined."""
        return [("labels" if alone else "prediction", self.joined(self.given(raw)))]

    def joined(self, has: Ints) -> list[str]:
        """Each picture's labels as ``cat;dog``, for 0 and 1 of shape (N, labels)."""
        names = np.array([str(label) for label in self.classes], dtype=object)
        return [BETWEEN_LABELS.join(names[row]) for row in has == 1]

    def shares(self, raw: Array) -> list[Column]:
        """A column a label."""
        return _shares(self.classes, raw)

    def sureness(self, conformal: Conformal, forecast: Forecast, coverage: float) -> dict[str, list[float] | list[str]]:
        """None: the labels' probabilities say how sure each is."""
        return {}

    def refuse(self, *, probabilities: bool = False, intervals: bool = False, sets: bool = False) -> None:
        """Labels have probabilities alone."""
        if intervals or sets:
            what = "intervals" if intervals else "sets"
            raise DataError(f"A multi-label classification has no {what}: predict_proba gives each label's probability.")


def answers_of(kind: Kind, target_name: str, target_names: tuple[str, ...], classes: tuple[Label, ...] | None) -> Answers:
    """The answers for a kind of target."""
    each: dict[Kind, Answers] = {
        "number": NumberAnswers(target_name),
        "numbers": NumbersAnswers(target_names),
        "label": LabelAnswers(target_name, classes or ()),
        "labels": LabelsAnswers(classes or ()),
    }
    return each[kind]


def sharpened(probabilities: Floats, temperature: float) -> Floats:
    """Probabilities (N, classes) as their logarithms divided by the temperature make them (Guo et al. 2017)."""
    if temperature == 1.0:
        return probabilities
    logs = np.log(np.maximum(probabilities, _LEAST_PROBABILITY)) / temperature
    shares = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def sharpened_odds(probabilities: Floats, temperature: float) -> Floats:
    """Probabilities of any shape as the logarithms of their odds divided by the temperature make them, each for itself."""
    if temperature == 1.0:
        return probabilities
    inside = np.clip(probabilities, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    return np.asarray(1 / (1 + ((1 - inside) / inside) ** (1 / temperature)))


def _means(parts: Sequence[tuple[float, Forecast]]) -> tuple[Array, Array]:
    raw = np.asarray(sum(weight * part.raw for weight, part in parts))
    return raw, np.asarray(sum(weight * part.uncalibrated for weight, part in parts))


def _mixed_values(parts: Sequence[tuple[float, Forecast]]) -> Forecast:
    raw, uncalibrated = _means(parts)
    variance = sum(weight * (part.spread**2 + (part.raw - raw) ** 2) for weight, part in parts)
    return Forecast(raw, np.sqrt(np.asarray(variance)), uncalibrated)


def _shares(classes: Sequence[Label], raw: Array) -> list[Column]:
    return [(f"p_{label}", [f"{share:.6g}" for share in column]) for label, column in zip(classes, raw.T, strict=True)]


def _refuse_for_numbers(probabilities: bool, sets: bool) -> None:
    if probabilities:
        raise DataError("A regression has no class probabilities; use predict.")
    if sets:
        raise DataError("A regression has no sets of classes; use predict_interval.")
