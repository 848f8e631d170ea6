"""The engines of a search, and which of them the user wants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from pixelfit.cluster import RAY_IS_MISSING
from pixelfit.deadline import Deadline
from pixelfit.errors import OptionError
from pixelfit.options import FitOptions
from pixelfit.progress import Progress
from pixelfit.search.apart import TrialsApart
from pixelfit.search.engine import Engine
from pixelfit.search.nursery import Nursery
from pixelfit.types import Facts, Fold


class SearchEngine(Engine, Protocol):
    """An engine with a beginning and an end: entered before anything is read, made ready once the pictures are there."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def ready(self, folds: Sequence[Fold], facts: Facts, deadline: Deadline, progress: Progress) -> None:
        """Hand over what all trials share, and wait until they can begin."""


def engine_for(options: FitOptions, nursery: Nursery | None) -> SearchEngine:
    """The engine that the options name; ``nursery`` is where trials on this machine are born, if it has begun already.

    Raises:
        OptionError: ray is not installed, or no cluster answers.
    """
    most_memory = options.memory or math.inf
    if options.engine == "local":
        return TrialsApart(workers=options.workers, ranks=options.ranks, most_memory=most_memory, nursery=nursery)
    try:
        from pixelfit.search.on_ray import TrialsOnRay
    except ImportError as error:
        raise OptionError(RAY_IS_MISSING) from error
    return TrialsOnRay(options.address, workers=options.workers, ranks=options.ranks, most_memory=most_memory)
