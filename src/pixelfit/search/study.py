"""Optuna, behind a small door: it samples recipes and remembers their scores."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from pixelfit.models.family import Choice, Dimension
from pixelfit.search.space import Space
from pixelfit.training.recipe import Recipe
from pixelfit.types import Json

_KNOWN_TO_EACH = 500  # trials: from so many on one recipe in two is drawn at random, from twice as many two in three


class Asked:
    """A recipe that the study gave out and waits to hear of."""

    def __init__(self, trial: optuna.Trial, recipe: Recipe) -> None:
        self._trial = trial
        self.recipe = recipe

    @property
    def number(self) -> int:
        """Where it stands in the study."""
        return self._trial.number


class Study:
    """The memory of a search, kept in a journal file in the run folder.

    A search that goes on asks again what it asked before, and is answered from the journal. What each question draws
    depends on the seed, its place and the answers before it alone, so that a search that was broken off draws as one that
    was not.
    """

    def __init__(self, file: Path, space: Space, *, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._seed = space, seed
        self._asked = 0
        mend(file)
        try:
            self._open(file)
        except (LookupError, TypeError, ValueError, AssertionError, optuna.exceptions.OptunaError):
            file.unlink()  # lines that are JSON, and no journal: what they knew is told again
            self._open(file)

    def _open(self, file: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(file))),
                study_name="pixelfit",
                direction="minimize",
                load_if_exists=True,
            )

    def narrow(self, space: Space) -> None:
        """From now on recipes come from this space."""
        self._space = space

    def ask(self, answers: Mapping[str, Json] | None = None) -> Asked:
        """The next recipe: the one that ``answers`` lead to, or one that the sampler chooses."""
        self._study.sampler = self._sampler()
        trial = self._again(answers)
        if trial is not None:
            try:
                return self._asked_of(trial)
            except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
                pass  # it was drawn from another space
        if answers is not None:
            self._study.enqueue_trial(dict(answers))
        return self._asked_of(self._study.ask())

    def _sampler(self) -> optuna.samplers.BaseSampler:
        """What the next question is answered by.

        The time that the estimator takes grows with the trials that it knows, 0.1 s for 500 of them: of very many, as a large
        cluster has, only some recipes are its choice, so that this time stays as it is, and the others are drawn at random.
        """
        seed = self._seed * 10_000 + self._asked
        if self._asked % (1 + self._asked // _KNOWN_TO_EACH) != 0:
            return optuna.samplers.RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=8)

    def _asked_of(self, trial: optuna.Trial) -> Asked:
        def suggest(name: str, dimension: Dimension) -> Json:
            if isinstance(dimension, Choice):
                return trial.suggest_categorical(name, dimension.values)
            return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)

        asked = Asked(trial, self._space.recipe(suggest))
        self._asked = asked.number + 1
        return asked

    def _again(self, answers: Mapping[str, Json] | None) -> optuna.Trial | None:
        """The trial that an earlier process was given at this place, if it was one for these answers."""
        known = self._study.get_trials(deepcopy=False)[self._asked :]
        if not known or known[0].system_attrs.get("fixed_params") != (None if answers is None else dict(answers)):
            return None
        if known[0].state == optuna.trial.TrialState.WAITING:
            return self._study.ask()  # it was put down, and the process ended before it was asked for
        return optuna.Trial(self._study, known[0]._trial_id)

    def tell(self, asked: Asked, score: float | None, *, pruned: bool, looks: Sequence[tuple[int, float]] = ()) -> None:
        """What became of it; None for a trial that failed. What an earlier process told already is not told again.

        ``looks`` are its scores after so many eighths of its steps, which tell the sampler what a pruned trial was worth.
        """
        known = self._study.get_trials(deepcopy=False)[asked.number]
        if known.state.is_finished():
            return
        for eighth, at_eighth in looks:
            if eighth not in known.intermediate_values:
                asked._trial.report(at_eighth, eighth)
        state = optuna.trial.TrialState.COMPLETE
        if score is None:
            state = optuna.trial.TrialState.FAIL
        elif pruned:
            state = optuna.trial.TrialState.PRUNED
        value = score if state == optuna.trial.TrialState.COMPLETE else None
        self._study.tell(asked._trial, value, state=state)


def mend(file: Path) -> None:
    """Cut off what a kill or a damaged disk left in the journal from its first line that is none, and open its lock.

    What is lost that way is told again by a search that goes on. Whoever calls this has the run folder to itself.
    """
    for lock in file.parent.glob(f"{file.name}.lock*"):  # of a process that died
        lock.unlink()
    if not file.is_file():
        return
    whole = 0
    with file.open("rb+") as journal:
        for line in journal:
            if not line.endswith(b"\n") or not _is_json(line):
                break
            whole += len(line)
        journal.truncate(whole)


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
