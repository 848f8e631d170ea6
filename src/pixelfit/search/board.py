"""The actor between a search and its trials on Ray. It loads nothing else: with torch it took 6 s of the processor to start."""

from __future__ import annotations

from typing import Any


class Board:
    """An actor on which trials write what there is to tell, for the search to read; and the search that they are to stop."""

    def __init__(self) -> None:
        self._told: list[tuple[Any, ...]] = []
        self._stopped = False

    def tell(self, *told: Any) -> None:
        """Write it down: the trial's and the attempt's numbers, what kind of thing, and the thing."""
        self._told.append(told)

    def heard(self) -> list[tuple[Any, ...]]:
        """What was written since this was last asked."""
        told, self._told = self._told, []
        return told

    def stop(self) -> None:
        """Ask all trials to end."""
        self._stopped = True

    def is_stopped(self) -> bool:
        """Whether trials are asked to end."""
        return self._stopped
