from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from pixelfit import metrics
from pixelfit.automl import Run


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_regression_metrics_agree_with_scikit_learn(rng: np.random.Generator) -> None:
    targets = rng.integers(0, 10, 500).astype(float)
    predictions = targets + rng.normal(0, 0.6, 500)
    assert metrics.rmse(targets, predictions) == pytest.approx(reference.root_mean_squared_error(targets, predictions))
    assert metrics.mae(targets, predictions) == pytest.approx(reference.mean_absolute_error(targets, predictions))
    assert metrics.r2(targets, predictions) == pytest.approx(reference.r2_score(targets, predictions))
    assert metrics.rounded_accuracy(targets, predictions) == reference.accuracy_score(targets, np.rint(predictions))


def test_classification_metrics_agree_with_scikit_learn(rng: np.random.Generator) -> None:
    targets = rng.integers(0, 4, 300)
    probabilities = rng.dirichlet(np.ones(5), 300)  # the fifth class is predicted but never true
    predicted = probabilities.argmax(axis=1)
    assert metrics.accuracy(targets, probabilities) == reference.accuracy_score(targets, predicted)
    assert metrics.log_loss(targets, probabilities) == pytest.approx(reference.log_loss(targets, probabilities, labels=range(5)))
    assert metrics.macro_f1(targets, probabilities) == pytest.approx(reference.f1_score(targets, predicted, average="macro"))
    expected = reference.confusion_matrix(targets, predicted, labels=range(5))
    assert (metrics.confusion_matrix(targets, probabilities) == expected).all()


def test_bootstrap_interval_of_a_mean_has_its_known_width(regression_run: Run, rng: np.random.Generator) -> None:
    targets = np.zeros(400)
    predictions = rng.normal(0, 1, 400)
    measured = metrics.measure_with_intervals(regression_run.facts, targets, predictions, seed=0)["mae"]
    errors = np.abs(predictions)
    half_width = 1.96 * errors.std() / 20  # the central limit theorem's
    assert measured.value == pytest.approx(errors.mean())
    assert measured.high - measured.value == pytest.approx(half_width, rel=0.2)
    assert measured.value - measured.low == pytest.approx(half_width, rel=0.2)


def test_bootstrap_repeats_with_its_seed(regression_run: Run, rng: np.random.Generator) -> None:
    targets, predictions = rng.normal(size=50), rng.normal(size=50)
    once, again, other = (
        metrics.measure_with_intervals(regression_run.facts, targets, predictions, seed=seed)["rmse"] for seed in (1, 1, 2)
    )
    assert once == again
    assert once != other


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy", 0.99456, "99.46%"),
        ("rmse", 0.221, "0.2210"),
        ("rmse", 123456.7, "123,457"),
        ("r2", -1e-6, "0.00%"),
        ("r2", -0.5, "-50.00%"),
    ],
)
def test_shown_as_people_read_it(name: str, value: float, text: str) -> None:
    assert metrics.shown(name, value) == text


def test_row_losses_add_up_to_the_ranking_metric(regression_run: Run, classification_run: Run, rng: np.random.Generator) -> None:
    values, classes = rng.normal(size=80), rng.integers(0, 2, 80)
    for facts, targets, predictions in (
        (regression_run.facts, values, values + rng.normal(size=80)),
        (classification_run.facts, classes, rng.dirichlet(np.ones(2), 80)),
    ):
        losses = metrics.row_losses(facts, targets, predictions)
        assert losses.shape == (80,)
        assert metrics.score_of_losses(facts, losses) == pytest.approx(metrics.ranking_metric(facts)(targets, predictions))
