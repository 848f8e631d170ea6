"""Makes probabilities as sure as they should be."""

from __future__ import annotations

import numpy as np
import torch

from pixelfit.models.heads import Head
from pixelfit.types import Array

_TEMPERATURES = np.geomspace(0.25, 4.0, 41)


def temperature_for(head: Head, outputs: torch.Tensor, targets: Array) -> float:
    """The temperature under which the targets (N,) are most likely, given raw outputs (N, head.outputs) (Guo et al. 2017).

    1 for a head with one output, which predicts no distribution.
    """
    if head.outputs == 1:
        return 1.0
    encoded = head.encode(targets)
    losses = [float(head.loss(outputs / temperature, encoded, 0.0)) for temperature in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])
