"""Makes probabilities as sure as they should be, and intervals and sets as wide."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from pixelfit import metrics
from pixelfit.answers import sharpened, sharpened_odds
from pixelfit.conformal import Intervals, Sets, SeveralIntervals
from pixelfit.models.familiarity import Familiarity
from pixelfit.models.heads import TEMPERATURES
from pixelfit.predictor import Predictor
from pixelfit.runs import RunFolder
from pixelfit.sealed import is_sealed
from pixelfit.types import Array, Examples, Floats, Forecast, Ints, Kind, Splits

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

    def save(self, folder: RunFolder) -> None:
        """Write it into the run folder, the predictor last."""
        folder.write_forecast(self.on_validation)
        self.predictor.save(folder.model_folder)

    @staticmethod
    def saved(folder: RunFolder, targets: Array) -> Calibrated | None:
        """The one that was saved, with the validation set's ``targets``; None if none was."""
        if not is_sealed(folder.model_folder):
            return None
        predictor, forecast = Predictor.load(folder.model_folder), folder.read_forecast()
        constant = _CONSTANT.get(predictor.kind)
        return Calibrated(predictor, forecast, None if constant is None else constant(targets, forecast.raw))


def calibrated_predictor(predictor: Predictor, validation: Examples, folder: RunFolder) -> Calibrated:
    """The predictor with calibrated intervals or, for classes, with calibrated probabilities and sets.

    With several folds what is calibrated on are each picture's predictions by the models that have not seen it, as in cross
    conformal prediction (Vovk 2015). The final mean over all folds' models errs a little less, which errs on the safe side.
    """
    return _CALIBRATIONS[predictor.kind](predictor, validation.targets, _on_held_out(predictor, validation, folder))


def acquainted(final: Calibrated, splits: Splits, *, most_pictures: int, seed: int) -> Calibrated:
    """The same with a memory of training pictures, so that it can tell new ones that are unlike them.

    Of several folds the first counts, whose model is the first member.
    """
    known, others = (_some(part, most_pictures) for part in (splits.folds[0].train, splits.folds[0].validation))
    model = final.predictor.members[0].model
    return replace(final, predictor=replace(final.predictor, familiarity=Familiarity.of(model, known, others, seed=seed)))


def remembered(predictor: Predictor, splits: Splits) -> Examples:
    """The training pictures that ``acquainted`` made the predictor remember, in the order of its points."""
    assert predictor.familiarity is not None
    known = splits.folds[0].train
    return known.every(math.ceil(len(known) / len(predictor.familiarity.points)))


def _some(examples: Examples, most: int) -> Examples:
    return examples.every(math.ceil(len(examples) / most))


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


_CONSTANT: Mapping[Kind, Callable[[Array, Array], Intervals | SeveralIntervals]] = {
    "number": Intervals.constant,
    "numbers": SeveralIntervals.constant,
}
_CALIBRATIONS: Mapping[Kind, Callable[[Predictor, Array, Forecast], Calibrated]] = {
    "number": _number,
    "numbers": _numbers,
    "label": _label,
    "labels": _labels,
}


def _on_held_out(predictor: Predictor, validation: Examples, folder: RunFolder) -> Forecast:
    """What the predictor says of validation pictures: mixed from what its trials said of them, unless it has further views."""
    if any(member.model.views != "single" for member in predictor.members):
        return predictor.forecast(validation.store, validation.rows)
    return predictor.mixed([(weight, folder.validation_forecast(trial)) for trial, weight in predictor.trial_weights().items()])


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
