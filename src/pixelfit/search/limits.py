"""What bounds a search besides the clock."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What bounds a search besides the clock.

    The number of trials; the steps that each takes, if fixed; the milliseconds that the model may take for one picture;
    whether time is kept to distil the ensemble afterwards, or to train on over all pictures of the shards that the search has
    a sample of. With them the seed, which decides the rest.
    """

    trials: int | None = None
    steps: int | None = None
    latency_ms: float = math.inf
    distill: bool = False
    seed: int = 0
    streams: bool = False
