"""Experiment tracking: what a run writes into its folder, told to MLflow or TensorBoard too, where the user asks for that.

Trackers read the run folder, so that a run can be tracked while it goes on or afterwards. One that fails is left alone from then
on, with a sentence; the run goes on without it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pixelfit.errors import OptionError
from pixelfit.progress import Progress, Silent
from pixelfit.runlog import note
from pixelfit.runs import RunFolder
from pixelfit.types import Trial


class Tracker(Protocol):
    """Somewhere that runs are recorded. Telling it twice of something that it still has changes nothing."""

    def begin(self, folder: RunFolder) -> None:
        """A run has begun, or goes on."""

    def trial(self, folder: RunFolder, number: int) -> None:
        """A trial has ended, well or not."""

    def finish(self, folder: RunFolder) -> None:
        """The run is finished."""


def _mlflow(uri: str) -> Tracker:
    from pixelfit.tracking.mlflow_runs import MlflowTracker

    return MlflowTracker(uri)


def _tensorboard(folder: str) -> Tracker:
    from pixelfit.tracking.tensorboard_curves import TensorboardTracker

    return TensorboardTracker(Path(folder))


# The kinds of trackers, each under the name of the package that it needs and of the extra that brings it.
KINDS: Mapping[str, Callable[[str], Tracker]] = {"mlflow": _mlflow, "tensorboard": _tensorboard}


def trackers_for(words: Iterable[str]) -> dict[str, Tracker]:
    """The trackers that ``--track`` names, each under its word.

    Raises:
        OptionError: a tracker's package is not installed, or it cannot be reached.
    """
    found: dict[str, Tracker] = {}
    for word in words:
        kind, _, where = word.partition(":")
        if importlib.util.find_spec(kind) is None:
            raise OptionError(f"--track {word!r} needs the package {kind}: pip install 'pixelfit[{kind}]'.")
        try:
            found[word] = KINDS[kind](where)
        except Exception as error:
            raise OptionError(f"--track {word!r} cannot be used: {_sentence(error)}") from error
    return found


class Tracking(Silent):
    """A Progress that tells trackers how a run goes."""

    def __init__(self, trackers: Mapping[str, Tracker], folder: RunFolder, progress: Progress) -> None:
        self._trackers, self._folder, self._progress = dict(trackers), folder, progress
        self._tell(lambda tracker: tracker.begin(folder))

    def end_trial(self, trial: Trial, *, best: Trial | None) -> None:
        """Tell them of the trial."""
        self._tell(lambda tracker: tracker.trial(self._folder, trial.number))

    def finish(self) -> None:
        """Tell them that the run is finished."""
        self._tell(lambda tracker: tracker.finish(self._folder))

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for word, tracker in list(self._trackers.items()):
            try:
                what(tracker)
            except Exception as error:  # noqa: BLE001 - a server that is gone must not cost the search
                del self._trackers[word]
                note("tracking failed", error=error, tracker=word)
                self._progress.say(
                    f"No longer tracked by {word}: {_sentence(error)} "
                    f"What is missing there can be told afterwards: pixelfit track {self._folder.path} {word}"
                )


def track(folder: RunFolder, words: Sequence[str]) -> None:
    """Tell trackers of all that is in a run folder.

    Raises:
        OptionError: a tracker cannot be used, or failed on the way.
    """
    for word, tracker in trackers_for(words).items():
        try:
            tracker.begin(folder)
            for trial in folder.ended_trials():
                tracker.trial(folder, trial.number)
            if folder.is_finished():
                tracker.finish(folder)
        except Exception as error:
            raise OptionError(f"{word} failed: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    first = str(error).strip().split("\n")[0] or type(error).__name__
    return first if first.endswith(".") else f"{first}."
