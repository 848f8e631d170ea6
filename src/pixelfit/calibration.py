"""Makes probabilities as sure as they should be, and intervals and sets as wide."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from pixelfit import metrics
from pixelfit.answers import sharpened, sharpened_odds
from pixelfit.conformal import Intervals, Sets, SeveralIntervals
from pixelfit.models.heads import TEMPERATURES
from pixelfit.models.model import Forecast
from pixelfit.predictor import Predictor
from pixelfit.types import Array, Examples, Floats, Ints, Kind

_FEWEST_ROWS = 30  # fewer would set the temperature by a picture or two


@dataclass(frozen=True)
class Calibrated:
    """A predictor that knows how sure it is.

    ``on_validation`` is its forecast for the validation set. ``constant``, for a regression, are intervals of one width,
    to compare its own with.
    """

    predictor: Predictor
    on_validation: Forecast
    constant: Intervals | SeveralIntervals | None


def calibrated_predictor(predictor: Predictor, validation: Examples) -> Calibrated:
    """The predictor with calibrated intervals or, for classes, with calibrated probabilities and sets."""
    forecast = predictor.forecast(validation.store, validation.rows)
    return _CALIBRATIONS[predictor.kind](predictor, validation.targets, forecast)


def _number(predictor: Predictor, targets: Floats, forecast: Forecast) -> Calibrated:
    intervals = Intervals.fit(targets, forecast.raw, forecast.spread)
    return Calibrated(replace(predictor, conformal=intervals), forecast, Intervals.constant(targets, forecast.raw))


def _numbers(predictor: Predictor, targets: Floats, forecast: Forecast) -> Calibrated:
    intervals = SeveralIntervals.fit(targets, forecast.raw, forecast.spread)
    return Calibrated(replace(predictor, conformal=intervals), forecast, SeveralIntervals.constant(targets, forecast.raw))


def _label(predictor: Predictor, targets: Ints, forecast: Forecast) -> Calibrated:
    temperature = ensemble_temperature(targets, forecast.raw)
    forecast = replace(forecast, raw=sharpened(forecast.raw, temperature))
    sets = Sets.fit(targets, forecast.raw)
    return Calibrated(replace(predictor, temperature=temperature, conformal=sets), forecast, None)


def _labels(predictor: Predictor, targets: Ints, forecast: Forecast) -> Calibrated:
    temperature = ensemble_temperature(targets, forecast.raw, metrics.label_surprises, sharpened_odds)
    return Calibrated(
        replace(predictor, temperature=temperature), replace(forecast, raw=sharpened_odds(forecast.raw, temperature)), None
    )


_CALIBRATIONS: Mapping[Kind, Callable[[Predictor, Array, Forecast], Calibrated]] = {
    "number": _number,
    "numbers": _numbers,
    "label": _label,
    "labels": _labels,
}


def ensemble_temperature(
    targets: Ints,
    probabilities: Floats,
    surprises: Callable[[Ints, Floats], Array] = metrics.surprises,
    sharpen: Callable[[Floats, float], Floats] = sharpened,
) -> float:
    """The temperature under which the targets are most likely, where it gains more than one standard error; or 1.

    A mean of calibrated models is often not sure enough (Rahaman & Thiery 2021).
    """
    before = surprises(targets, probabilities)
    losses = [surprises(targets, sharpen(probabilities, temperature)) for temperature in TEMPERATURES]
    if len(targets) < _FEWEST_ROWS:
        return 1.0
    best = int(np.argmin([each.mean() for each in losses]))
    gain = before - losses[best]
    return float(TEMPERATURES[best]) if gain.mean() > gain.std() / math.sqrt(len(gain)) else 1.0
