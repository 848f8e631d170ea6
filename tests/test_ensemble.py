from __future__ import annotations

import itertools

import numpy as np
import pytest

from pixelfit import ensemble
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


def test_models_that_differ_in_their_seed_weigh_the_same() -> None:
    def trial(number: int, purpose: str, width: int, state: str = "complete", steps: int = 90) -> Trial:
        return Trial(
            number, "convnet", purpose, {"width": width}, state, number, 1.0, score=float(number), latency_ms=1.0, steps=steps
        )  # type: ignore[arg-type]

    trials = [
        trial(1, FULL_LENGTH, 16),
        trial(2, FULL_LENGTH, 32),
        trial(3, FULL_LENGTH, 16),
        trial(4, "sampled", 16),
        trial(5, FULL_LENGTH, 16, "interrupted"),
        trial(6, FULL_LENGTH, 16, steps=200),
        trial(7, SNAPSHOT, 16, steps=30),
        trial(8, SNAPSHOT, 32, steps=30),
    ]
    numbers = [[each.number for each in team] for team in ensemble._teams(trials, 10.0)]
    assert numbers == [[1, 3, 7], [2, 8], [4], [5], [6]]
    assert [len(team) for team in ensemble._teams(trials, 1.5)] == [1] * 8
