"""What an earlier process left of a search that was broken off: the trials that ended, and the one that it was at work on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

from pixelfit.deadline import Deadline
from pixelfit.errors import RunError
from pixelfit.progress import Progress
from pixelfit.runs import RunFolder
from pixelfit.search.engine import Plan
from pixelfit.training.pace import Pace
from pixelfit.types import Json, Trial


class Earlier:
    """Answers a search that decides everything again, at the times that the clock showed then, with the trials that it ran.

    What follows from trials and clock follows again, so the search stands where it stood. A trial whose files are damaged
    is run again.
    """

    def __init__(self, folder: RunFolder, deadline: Deadline, progress: Progress) -> None:
        self._folder, self._deadline, self._progress = folder, deadline, progress

    @contextmanager
    def time_of(self, number: int) -> Iterator[None]:
        """Within this block the clock shows what it showed when this trial was planned, if it was."""
        plan = self._folder.read_plan(number)
        with self._deadline.standing(plan["begun_s"] if plan else None):
            yield

    def trial(self, number: int) -> Trial | None:
        """The trial, if it ended."""
        try:
            return self._folder.ended_trial(number)
        except RunError as error:
            self._progress.say(f"{error} Trial {number} is run again.")
            return None

    def begin(self, plan: Plan) -> Plan:
        """The plan as it is to be run: on from what the trial's trainings left, where it had begun; written down."""
        plan = replace(plan, kept_in=self._folder.trial_folder(plan.number))
        before, begun_s = self._folder.read_plan(plan.number), self._deadline.elapsed()
        if before is not None and before["what"] == _what(plan):
            checkpoint = plan.checkpoint(0, folds=1)
            spent_s = checkpoint.spent_s() if checkpoint else 0.0
            seconds = before["pace"]["seconds"]
            known = Pace(**{**before["pace"], "seconds": float("inf") if seconds is None else seconds})
            plan = replace(plan, pace=replace(known, seconds=min(known.seconds, spent_s + self._deadline.left())))
            begun_s = before["begun_s"]
        else:
            for file in self._folder.trial_folder(plan.number).glob("checkpoint-*.safetensors"):
                file.unlink()  # of another plan
        pace = {**asdict(plan.pace), "seconds": plan.pace.seconds if plan.pace.seconds < float("inf") else None}
        self._folder.write_plan(plan.number, {"begun_s": begun_s, "pace": pace, "what": _what(plan)})
        return plan


def _what(plan: Plan) -> Json:
    """What makes two plans of a trial the same, whatever time each has."""
    return {
        "recipe": plan.recipe.to_json(),
        "purpose": plan.purpose,
        "seed": plan.seed,
        "share": plan.share,
        "continues": plan.continues,
    }
