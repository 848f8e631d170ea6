"""How long a training takes: the steps that fit into its time, planned from measured steps and recorded."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pixelfit.types import TrialState

MOST_LOOKS = 8  # at the validation set in one training
FEWEST_STEPS = 4
_LOOKING = 0.05  # of a training's work, at most, goes into looks: eight took half of one of 18 s on a slow machine
_FORWARD = 1 / 3  # of a step's work
REPLAN_EVERY_S = 2.0
_WARM_UP = 0.15  # share of the steps in which the learning rate rises
_FINAL_LR = 0.01  # share of the highest learning rate at the end
_GROWS_UNTIL, _STRETCHES_UNTIL = 0.3, 0.9  # share of the steps
_STRETCH = 1.1


@dataclass(frozen=True)
class Course:
    """What the clock and the user made of a training, written down so that it can be repeated without either.

    ``planned`` steps at first, changed by ``replans`` (after so many steps: so many in all); ended after ``steps`` in
    ``state``. ``out_of_time_at`` is, for a family that is fitted without steps, which of its questions whether there was
    time left was the first to be answered with no; 0 if none was.
    """

    planned: int
    replans: tuple[tuple[int, int], ...]
    steps: int
    state: TrialState
    out_of_time_at: int = 0


@dataclass(frozen=True)
class Pace:
    """How long a training may be.

    With ``steps`` it takes just these. Otherwise it takes the steps of at most ``most_epochs`` epochs that fit into
    ``seconds``, measured on its first steps and then fixed, but for a correction where the machine proves faster or
    slower (``Trained.replans``). It is shortened in both cases if it would run over ``seconds``; with no limit there,
    nothing depends on the clock. With ``course`` it goes as another training went.
    """

    seconds: float = float("inf")
    most_epochs: float = 12.0
    steps: int | None = None
    course: Course | None = None


@dataclass(frozen=True)
class Check:
    """One look at the validation set."""

    step: int
    epoch: float
    train_loss: float
    score: float
    seconds: float


def look_cost(rows: int, batch: int) -> float:
    """What a look at so many rows costs, in steps of so many pictures."""
    return _FORWARD * rows / batch


def looks_worth(steps: int, look_steps: float) -> int:
    """How many looks a training of so many steps can afford: 8, 4, 2 or 1.

    Always halves of halves, so that trainings of different length are looked at in the same places. Nothing here depends
    on the clock, so that a training that is repeated chooses its weights among the same ones.
    """
    looks = MOST_LOOKS
    while looks > 1 and looks * look_steps > _LOOKING * steps:
        looks //= 2
    return looks


@dataclass
class Pulse:
    """Where a training stands: what changes from step to step."""

    total: int
    most: int
    step: int = 0
    state: TrialState = "complete"
    replans: list[tuple[int, int]] = field(default_factory=list)
    history: list[Check] = field(default_factory=list)
    step_s: float = 0.0
    look_steps: float = 0.0  # what a look costs, in steps
    planned: int = 0  # what ``total`` was at first
    replanned: int = 0  # the step after which the length was last thought about, and the seconds of all steps until then
    replanned_s: float = 0.0

    def __post_init__(self) -> None:
        self.planned = self.planned or self.total

    def next_look(self) -> int:
        """The step after which the validation set is looked at next."""
        looks = looks_worth(self.total, self.look_steps)
        return min(self.total, math.ceil((self._looked() + 1) * self.total / looks))

    def looks_left(self) -> int:
        """How many looks are still to come."""
        return max(1, looks_worth(self.total, self.look_steps) - self._looked())

    def _looked(self) -> int:
        return self.step * looks_worth(self.total, self.look_steps) // self.total

    def learning_rate(self, highest: float) -> float:
        """One cycle (Smith & Topin 2017): a linear rise, then a cosine down to a hundredth."""
        done = self.step / self.total
        if done < _WARM_UP:
            return highest * (0.1 + 0.9 * done / _WARM_UP)
        fall = (done - _WARM_UP) / (1 - _WARM_UP)
        return highest * (_FINAL_LR + (1 - _FINAL_LR) * 0.5 * (1 + math.cos(math.pi * fall)))

    def follow(self, course: Course) -> None:
        """Change the training's length where that one was changed."""
        for step, total in course.replans:
            if step == self.step:
                self.total = total
                self.replans.append((step, total))

    def replan(self, seconds_spent: float, seconds_left: float, check_s: float) -> None:
        """Shorten the training if it would run over its end, or lengthen it early on if it would end long before.

        The machine may have become slower or faster than in the few steps that were measured. How fast it has been since the
        last time decides about lengthening: of a slow beginning little can be told.
        """
        lately_s, lately = seconds_spent - self.replanned_s, self.step - self.replanned
        self.replanned_s, self.replanned = seconds_spent, self.step
        if seconds_left == float("inf") or lately <= 0:
            return
        left_s = seconds_left - self.looks_left() * check_s
        fit, fit_lately = (
            min(self.most, self.step + max(1, int(left_s / step_s))) for step_s in (seconds_spent / self.step, lately_s / lately)
        )
        # Later a much longer schedule would raise the learning rate again after it has fallen.
        if self.step < _GROWS_UNTIL * self.total and fit_lately > _STRETCH * self.total:
            fit = fit_lately
        elif self.step < _STRETCHES_UNTIL * self.total and fit > 1.02 * self.total:
            fit = min(fit, math.ceil(_STRETCH * self.total))
        elif fit >= 0.98 * self.total:
            return
        self.total = fit
        self.replans.append((self.step, fit))
