"""The portfolio: known-good recipes, in the order in which they are worth trying."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path

from pixelfit.types import Json

_FILE = Path(__file__).with_name("portfolio.json")


@functools.cache
def portfolio() -> tuple[Mapping[str, Json], ...]:
    """Answers to the questions of a search space, one mapping a recipe; what a mapping does not answer stays as usual.

    ``benchmarks/portfolio`` found them, greedily, from trainings on the data sets that ``found_on`` in the file names;
    MNIST's test set is not among them.
    """
    return tuple(json.loads(_FILE.read_text(encoding="utf-8"))["recipes"])
