"""Makes probabilities as sure as they should be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pixelfit.models.model import Model
from pixelfit.types import Examples

_TEMPERATURES = np.geomspace(0.25, 4.0, 41)


def calibrated(model: Model, validation: Examples) -> Model:
    """The model with the temperature under which its validation targets are most likely (Guo et al. 2017).

    A model with one output predicts no distribution and comes back as it is.
    """
    if model.head.outputs == 1:
        return model
    outputs = model.outputs(validation.store, validation.rows)
    encoded = model.head.encode(validation.targets)
    losses = [float(model.head.loss(outputs / temperature, encoded, 0.0)) for temperature in _TEMPERATURES]
    return replace(model, temperature=float(_TEMPERATURES[int(np.argmin(losses))]))
