"""Curves for TensorBoard: a folder a trial, with its looks at the training loss and the validation score."""

from __future__ import annotations

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from pixelfit.runs import RunFolder


class TensorboardTracker:
    """Writes curves below a folder; raises OSError if that cannot be made."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def begin(self, folder: RunFolder) -> None:
        """Nothing is written before a trial has ended."""

    def trial(self, folder: RunFolder, number: int) -> None:
        """Write the trial's curve, in place of one that is there already."""
        trial, history = (folder.read(f"trials/{number:04d}/{name}.json") for name in ("trial", "history"))
        place = self._folder / folder.path.resolve().name / f"trial-{number:04d}-{trial['family']}"
        _drop_events(place)
        with SummaryWriter(str(place)) as writer:
            for look in history or ():
                writer.add_scalar("training loss", look["train_loss"], look["step"])
                writer.add_scalar("validation score", look["score"], look["step"])
            for name, value in trial["metrics"].items():
                writer.add_scalar(f"validation/{name}", value, trial["steps"])

    def finish(self, folder: RunFolder) -> None:
        """Write the scores on the test set."""
        place = self._folder / folder.path.resolve().name / "test"
        _drop_events(place)
        with SummaryWriter(str(place)) as writer:
            for name, interval in folder.read("scores.json")["test"].items():
                writer.add_scalar(f"test/{name}", interval["value"], 0)


def _drop_events(place: Path) -> None:
    """Remove what was written there before, and nothing else: the folder may hold files of the user's own."""
    for file in place.glob("events.out.tfevents.*"):
        file.unlink()
