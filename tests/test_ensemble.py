from __future__ import annotations

import itertools

import numpy as np
import pytest

from pixelfit import ensemble, metrics
from pixelfit.automl import Run
from pixelfit.ensemble import greedy_weights
from pixelfit.metrics import rmse
from pixelfit.types import FULL_LENGTH, SNAPSHOT, Trial


def _models(count: int, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    targets = rng.normal(size=200)
    return targets, [targets + rng.normal(0, 0.5 + 0.3 * place, 200) for place in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_close_to_the_best_of_all_bags(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble, "_LEAST_GAIN", 0.0)
    monkeypatch.setattr(ensemble, "_ROUNDS", 10)
    targets, predictions = _models(3, seed)
    weights = greedy_weights(predictions, targets, rmse)
    found = rmse(targets, sum(weight * predictions[place] for place, weight in weights.items()))
    bags = itertools.chain.from_iterable(itertools.combinations_with_replacement(range(3), size) for size in range(1, 11))
    best = min(rmse(targets, np.mean([predictions[place] for place in bag], axis=0)) for bag in bags)
    assert sum(weights.values()) == pytest.approx(1)
    assert best * (1 - 1e-9) <= found <= best * 1.01


def test_a_model_that_adds_nothing_is_left_out() -> None:
    targets, [good, bad] = _models(2, 0)
    assert greedy_weights([targets, bad + 5], targets, rmse) == {0: 1.0}
    assert set(greedy_weights([bad + 5, good], targets, rmse)) == {1}


def test_at_most_so_many_members() -> None:
    targets, predictions = _models(9, 1)
    assert 1 < len(greedy_weights(predictions, targets, rmse)) <= ensemble.MOST_MEMBERS


def test_finals_that_validation_cannot_tell_apart_weigh_the_same() -> None:
    def trial(number: int, purpose: str, state: str = "complete") -> Trial:
        return Trial(number, "convnet", purpose, {"width": number}, state, number, 1.0, score=float(number), latency_ms=1.0)  # type: ignore[arg-type]

    def losses(trial: Trial) -> np.ndarray:
        luck = np.random.default_rng(trial.number).normal(0, 1, 400)
        return 5 + luck - luck.mean() + (1.0 if trial.number == 6 else 0.0)

    trials = [
        trial(1, "second round"),
        trial(2, FULL_LENGTH),
        trial(3, FULL_LENGTH),
        trial(4, FULL_LENGTH, "interrupted"),
        trial(5, SNAPSHOT),
        trial(6, FULL_LENGTH),  # clearly worse
        trial(7, "sampled"),
    ]
    numbers = [[each.number for each in team] for team in ensemble._teams(trials, losses, 10.0)]
    assert numbers == [[1], [2, 3, 5], [4], [6], [7]]
    assert [len(team) for team in ensemble._teams(trials, losses, 1.5)] == [1] * 7
    assert ensemble._teams(trials[:1], losses, 10.0) == [trials[:1]]


@pytest.mark.parametrize("long_is_worse", [False, True])
def test_a_short_training_gives_way_to_the_long_one_of_its_recipe(long_is_worse: bool, regression_run: Run) -> None:
    facts = regression_run.facts
    targets = np.linspace(0, 9, 300)
    dice = np.random.default_rng(0)
    errors = {1: 0.30, 2: 0.60 if long_is_worse else 0.32, 3: 0.5, 4: 0.9}
    predictions = {number: targets + dice.normal(0, error, 300) for number, error in errors.items()}

    def losses(trial: Trial) -> np.ndarray:
        return metrics.row_losses(facts, targets, predictions[trial.number])

    def trial(number: int, purpose: str, width: int, steps: int) -> Trial:
        return Trial(number, "convnet", purpose, {"width": width}, "complete", number, 1.0, score=errors[number], steps=steps)

    trials = [
        trial(1, "second round", 16, 100),  # lucky: a little better than the long training of its recipe
        trial(2, FULL_LENGTH, 16, 500),
        trial(3, "second round", 32, 100),  # has no long one
        trial(4, "portfolio", 16, 30),
    ]
    left = [each.number for each in ensemble._grown(trials, losses)]
    assert left == ([1, 2, 3] if long_is_worse else [2, 3])
