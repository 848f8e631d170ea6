"""Optuna, behind a small door: it samples recipes, remembers their scores and says which trials are losing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from pixelfit.models.family import Choice, Dimension
from pixelfit.search.space import Space
from pixelfit.training.recipe import Recipe
from pixelfit.types import Json

_SEEN_BEFORE_PRUNING = 4


class Asked:
    """A recipe that the study gave out and waits to hear of."""

    def __init__(self, trial: optuna.Trial, recipe: Recipe) -> None:
        self._trial = trial
        self.recipe = recipe

    def is_losing(self, eighth: int, score: float) -> bool:
        """Tell the score after so many eighths of the trial's steps; True if it is worth no more time.

        A trial is losing when it stands below the median of earlier trials at the same point of their schedules
        (Golovin et al. 2017, the median stopping rule of Google Vizier).
        """
        self._trial.report(score, eighth)
        return self._trial.should_prune()


class Study:
    """The memory of a search, kept in a journal file in the run folder."""

    def __init__(self, file: Path, space: Space, *, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(file))),
                study_name="pixelfit",
                direction="minimize",
                sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=8),
                pruner=optuna.pruners.MedianPruner(n_startup_trials=_SEEN_BEFORE_PRUNING, n_warmup_steps=1),
            )

    def narrow(self, space: Space) -> None:
        """From now on recipes come from this space."""
        self._space = space

    def ask(self, answers: Mapping[str, Json] | None = None) -> Asked:
        """The next recipe: the one that ``answers`` lead to, or one that the sampler chooses."""
        if answers is not None:
            self._study.enqueue_trial(dict(answers))
        trial = self._study.ask()

        def suggest(name: str, dimension: Dimension) -> Json:
            if isinstance(dimension, Choice):
                return trial.suggest_categorical(name, dimension.values)
            return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)

        return Asked(trial, self._space.recipe(suggest))

    def tell(self, asked: Asked, score: float | None, *, pruned: bool) -> None:
        """What became of it; None for a trial that failed."""
        state = optuna.trial.TrialState.COMPLETE
        if score is None:
            state = optuna.trial.TrialState.FAIL
        elif pruned:
            state = optuna.trial.TrialState.PRUNED
        value = score if state == optuna.trial.TrialState.COMPLETE else None
        self._study.tell(asked._trial, value, state=state)
