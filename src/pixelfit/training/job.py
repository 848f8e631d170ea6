"""What a training is given, what it gives, and who watches it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch

from pixelfit.data.windows import Passed, Windows
from pixelfit.models import FAMILIES
from pixelfit.models.model import Model
from pixelfit.training.pace import Check, Pace
from pixelfit.training.ranks import FEWEST_ROWS
from pixelfit.training.recipe import Recipe
from pixelfit.types import Examples, Facts, Ints, TrialState


class Monitor(Protocol):
    """Watches a training."""

    def on_progress(self, fraction: float, detail: str) -> None:
        """``fraction`` of the steps are done."""

    def on_look(self, check: Check) -> None:
        """The validation set was looked at; told again of the looks before a checkpoint from which the training goes on."""

    def on_check(self, fraction: float, score: float) -> bool:
        """A validation score (smaller is better) after ``fraction`` of the steps; True ends the training as losing."""


@dataclass(frozen=True)
class Lesson:
    """What there is to learn from; the same for every trial of a search.

    ``validation`` tells how well a training goes: its last weights are kept, unless those of an earlier check were
    clearly better. Without it nothing is looked at on the way. ``fold_of`` (N,) numbers the folds of the training pictures
    for a family that cross-validates by itself. With ``windows``, ``train`` is the first of them, and each is gone over once.
    """

    train: Examples
    validation: Examples | None
    facts: Facts
    fold_of: Ints | None = None
    windows: Windows | None = None


@dataclass(frozen=True)
class Start:
    """What a training begins with, other than a fresh model that learns its own targets.

    ``model`` gives head, preparation and temperature, so that what was calibrated for them goes on holding. ``weights``
    are those of a model to go on from. ``targets`` are learned in place of the lesson's, encoded for the head.
    """

    model: Model | None = None
    weights: Model | None = None
    targets: torch.Tensor | None = None


@dataclass(frozen=True)
class Job:
    """A training to be done, without those who watch it: what every process gets that takes part in it."""

    recipe: Recipe
    lesson: Lesson
    seed: int
    pace: Pace
    start: Start = field(default_factory=Start)

    @property
    def batch(self) -> int:
        """Pictures in a batch."""
        return min(self.recipe.batch_size, len(self.lesson.train))

    @property
    def most_ranks(self) -> int:
        """Over how many ranks it can be divided; families that are fitted without steps are not."""
        return 1 if FAMILIES[self.recipe.family].fit is not None else max(1, self.batch // FEWEST_ROWS)

    def check_divisible(self, ranks: int) -> None:
        """Raise ValueError if it cannot be divided over so many ranks."""
        if not 1 <= ranks <= self.most_ranks:
            family = self.recipe.family
            why = f"a batch has {self.batch} pictures, and a rank needs {FEWEST_ROWS}"
            if FAMILIES[family].fit is not None:
                why = f"{family} is fitted without steps"
            raise ValueError(f"This training can be divided over {self.most_ranks} ranks at most, not {ranks}: {why}.")


@dataclass(frozen=True)
class Trained:
    """A trained model and how it came about."""

    model: Model
    state: TrialState
    steps: int
    epochs: float
    history: tuple[Check, ...]
    best_at_step: int
    planned: int = 0  # steps, before any of ``replans``
    replans: tuple[tuple[int, int], ...] = ()
    out_of_time_at: int = 0  # see ``Course``
    step_s: float = 0.0  # seconds in training steps; without set-up, checks and predictions
    averaged: bool = False  # whether the weights are an average over the last steps
    passed: Passed | None = None  # what came by in windows
    held_out: torch.Tensor | None = None  # raw outputs for the training pictures, each from a fit without its fold
