"""What a run tells whoever is watching. The command line draws it; from Python it is silent unless asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Protocol, TypeVar

from pixelfit.types import Trial

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Progress(Protocol):
    """Receives what happens in a run, in order."""

    def say(self, text: str) -> None:
        """Tell something that the user should be able to read afterwards."""

    def count(self, title: str, done: int, total: int) -> None:
        """``done`` of ``total`` pieces (files, bytes) of the work called ``title`` are finished."""

    def start_trial(self, number: int, title: str) -> None:
        """A trial begins."""

    def advance_trial(self, fraction: float, detail: str) -> None:
        """The trial under way has done ``fraction`` of its steps."""

    def end_trial(self, trial: Trial, *, best: Trial | None) -> None:
        """A trial has ended, well or not; ``best`` is the best so far."""


class Silent:
    """A Progress that shows nothing."""

    def say(self, text: str) -> None:
        """Show nothing."""

    def count(self, title: str, done: int, total: int) -> None:
        """Show nothing."""

    def start_trial(self, number: int, title: str) -> None:
        """Show nothing."""

    def advance_trial(self, fraction: float, detail: str) -> None:
        """Show nothing."""

    def end_trial(self, trial: Trial, *, best: Trial | None) -> None:
        """Show nothing."""


class _SizedIterable(Sized, Iterable[T_co], Protocol[T_co]):
    pass


def counted(items: _SizedIterable[T], title: str, progress: Progress) -> Iterator[T]:
    """Pass on ``items`` one by one and report each as done once the next is asked for."""
    total = len(items)
    for done, item in enumerate(items, start=1):
        yield item
        progress.count(title, done, total)
