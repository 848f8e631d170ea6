"""Whether an exported model predicts what its original does, on pictures that the run set aside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pixelfit.conformal import Intervals, SeveralIntervals
from pixelfit.data.pictures import resize
from pixelfit.data.store import to_spec
from pixelfit.errors import RunError
from pixelfit.predictor import COVERAGE, Predictor
from pixelfit.runs import HeldOut
from pixelfit.types import Array, Forecast

MOST_DIFFERENCE = 1e-4
_STRANGENESS = 0.01  # of 1, or of itself above 1: small differences between features in single precision weigh more there
_BATCH = 64
_OTHER_SIZES = 100  # pictures that are shown in another size too
_STRETCH = (1.37, 0.81)  # of height and width

# Pictures (n, H, W, C) in, outputs in the order of ``Assembled.output_names`` out.
Runs = Callable[[Array], Sequence[Array]]


@dataclass(frozen=True)
class Parity:
    """On how many pictures outputs were compared, and the largest difference: in deviations of the target, or of probability."""

    pictures: int
    largest: float


def checked(runs: Runs, predictor: Predictor, held_out: HeldOut) -> Parity:
    """Compare an exported model with the predictor, on pictures as they are stored and on some in another size.

    Raises:
        RunError: they differ by more than ``MOST_DIFFERENCE``.
    """
    spec = predictor.spec
    stretched = replace(spec, height=max(1, round(spec.height * _STRETCH[0])), width=max(1, round(spec.width * _STRETCH[1])))
    scale = _scale(predictor, held_out.targets)
    largest = strangest = 0.0
    for pictures in (held_out.pictures, resize(held_out.pictures[:_OTHER_SIZES], stretched)):
        for start in range(0, len(pictures), _BATCH):
            batch = pictures[start : start + _BATCH]
            exported, (outputs, strangeness) = runs(batch), _outputs(predictor, batch)
            for here, original in zip(exported, outputs, strict=False):
                largest = max(largest, float((_apart(here, original) / scale).max()))
            if strangeness is not None:
                apart = _apart(exported[len(outputs)], strangeness) / np.maximum(1, strangeness)
                strangest = max(strangest, float(apart.max()))
    if largest > MOST_DIFFERENCE:
        what = "deviations of the target" if predictor.task == "regression" else "of probability"
        raise RunError(
            f"The exported model differs from the original by up to {largest:.2g} {what} on {len(held_out.pictures):,} pictures, "
            f"more than the {MOST_DIFFERENCE:g} that is allowed: nothing was written."
        )
    if strangest > _STRANGENESS:
        raise RunError(
            f"The exported model's strangeness differs from the original's by up to {strangest:.2g}, more than the "
            f"{_STRANGENESS:g} that is allowed: nothing was written."
        )
    return Parity(len(held_out.pictures), largest)


def _scale(predictor: Predictor, targets: Array) -> Array:
    if predictor.task != "regression":
        return np.ones(())
    deviation = np.asarray(targets.std(axis=0))
    return np.where(deviation > 0, deviation, 1.0)


def _apart(here: Array, original: Array) -> Array:
    if here.shape != original.shape or not np.isfinite(here).all():
        raise RunError(f"The exported model gives outputs of shape {here.shape}, or none that are finite numbers.")
    return np.asarray(np.abs(here - original))


def _outputs(predictor: Predictor, pictures: Array) -> tuple[Sequence[Array], Array | None]:
    """What is predicted, and how unlike the training pictures these are, if the predictor can tell."""
    forecast, strangeness = predictor.examined(to_spec(pictures, predictor.spec))
    return _predicted(predictor, forecast), None if strangeness is None else strangeness.values


def _predicted(predictor: Predictor, forecast: Forecast) -> Sequence[Array]:
    if predictor.task != "regression":
        return (forecast.raw,)
    if not isinstance(predictor.conformal, (Intervals, SeveralIntervals)) or not predictor.allows(COVERAGE):
        return (forecast.raw, forecast.spread)
    ends = predictor.intervals(forecast, COVERAGE)
    return (forecast.raw, forecast.spread, ends[..., 0], ends[..., 1])
