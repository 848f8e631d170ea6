"""What a run tells whoever is watching. The command line draws it; from Python it is silent unless asked."""

from __future__ import annotations

from typing import Protocol

from pixelfit.types import Trial


class Progress(Protocol):
    """Receives what happens in a run, in order; of trials that run side by side at any time, and from any thread."""

    def say(self, text: str) -> None:
        """Tell something that the user should be able to read afterwards."""

    def went_before(self, seconds: float) -> None:
        """The run goes on, and took so many seconds before it was broken off, which its clock counts."""

    def count(self, title: str, done: int, total: int) -> None:
        """``done`` of ``total`` pieces (files, bytes; 0: nobody knows how many) of the work called ``title`` are finished."""

    def start_trial(self, number: int, title: str) -> None:
        """A trial begins."""

    def advance_trial(self, number: int, fraction: float, detail: str) -> None:
        """A trial under way has done ``fraction`` of its steps."""

    def check_trial(self, number: int, epoch: float, score: float, *, fold: int, folds: int) -> None:
        """A trial under way has a validation score (smaller is better) after these epochs of ``fold`` (from 0) of ``folds``."""

    def end_trial(self, trial: Trial, *, best: Trial | None) -> None:
        """A trial has ended, well or not; ``best`` is the best so far."""


class Silent:
    """A Progress that shows nothing."""

    def say(self, text: str) -> None:
        """Show nothing."""

    def went_before(self, seconds: float) -> None:
        """Show nothing."""

    def count(self, title: str, done: int, total: int) -> None:
        """Show nothing."""

    def start_trial(self, number: int, title: str) -> None:
        """Show nothing."""

    def advance_trial(self, number: int, fraction: float, detail: str) -> None:
        """Show nothing."""

    def check_trial(self, number: int, epoch: float, score: float, *, fold: int, folds: int) -> None:
        """Show nothing."""

    def end_trial(self, trial: Trial, *, best: Trial | None) -> None:
        """Show nothing."""


class Several:
    """A Progress that passes everything on to several others."""

    def __init__(self, *watchers: Progress) -> None:
        self._watchers = watchers

    def say(self, text: str) -> None:
        """Tell all of them."""
        for watcher in self._watchers:
            watcher.say(text)

    def went_before(self, seconds: float) -> None:
        """Tell all of them."""
        for watcher in self._watchers:
            watcher.went_before(seconds)

    def count(self, title: str, done: int, total: int) -> None:
        """Tell all of them."""
        for watcher in self._watchers:
            watcher.count(title, done, total)

    def start_trial(self, number: int, title: str) -> None:
        """Tell all of them."""
        for watcher in self._watchers:
            watcher.start_trial(number, title)

    def advance_trial(self, number: int, fraction: float, detail: str) -> None:
        """Tell all of them."""
        for watcher in self._watchers:
            watcher.advance_trial(number, fraction, detail)

    def check_trial(self, number: int, epoch: float, score: float, *, fold: int, folds: int) -> None:
        """Tell all of them."""
        for watcher in self._watchers:
            watcher.check_trial(number, epoch, score, fold=fold, folds=folds)

    def end_trial(self, trial: Trial, *, best: Trial | None) -> None:
        """Tell all of them."""
        for watcher in self._watchers:
            watcher.end_trial(trial, best=best)
