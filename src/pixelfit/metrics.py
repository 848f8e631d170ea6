"""Metrics with bootstrap intervals. Each is a function of (targets, predictions) and tested against scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from pixelfit.types import Array, Facts, Floats, Interval, Ints, Task

_LEAST_PROBABILITY = 1e-15
RESAMPLES = 1_000
# What trials are ranked by; smaller is better for both. Log loss tells classifiers apart more finely than accuracy,
# which on a few hundred validation pictures is mostly ties.
RANKED_BY: dict[Task, str] = {"regression": "rmse", "classification": "log_loss"}
TITLES = {
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
    "rounded_accuracy": "accuracy of rounded predictions",
    "accuracy": "accuracy",
    "log_loss": "log loss",
    "macro_f1": "macro F1",
}
SHARES = frozenset({"r2", "rounded_accuracy", "accuracy", "macro_f1"})  # shown as percentages


def rmse(targets: Floats, predictions: Floats) -> float:
    """Root of the mean squared error, in the target's unit."""
    return float(np.sqrt(np.mean((targets - predictions) ** 2)))


def mae(targets: Floats, predictions: Floats) -> float:
    """Mean absolute error, in the target's unit."""
    return float(np.mean(np.abs(targets - predictions)))


def r2(targets: Floats, predictions: Floats) -> float:
    """Share of the targets' variance that is explained; 0 where the targets do not vary."""
    variance = np.mean((targets - targets.mean()) ** 2)
    return float(1 - np.mean((targets - predictions) ** 2) / variance) if variance > 0 else 0.0


def rounded_accuracy(targets: Floats, predictions: Floats) -> float:
    """Share of predictions that are right once rounded to whole numbers."""
    return float(np.mean(np.round(predictions) == targets))


def accuracy(targets: Ints, probabilities: Floats) -> float:
    """Share of rows whose most probable class is the true one."""
    return float(np.mean(probabilities.argmax(axis=1) == targets))


def log_loss(targets: Ints, probabilities: Floats) -> float:
    """Mean of minus the logarithm of the true class's probability."""
    return float(np.mean(_surprises(targets, probabilities)))


def macro_f1(targets: Ints, probabilities: Floats) -> float:
    """Mean of the classes' F1 scores, over the classes that are in the targets or the predictions."""
    table = confusion_matrix(targets, probabilities)
    hits, true, predicted = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    present = (true + predicted) > 0
    return float(np.mean(2 * hits[present] / (true + predicted)[present]))


def confusion_matrix(targets: Ints, probabilities: Floats) -> Ints:
    """Counts of rows by true class (row) and predicted class (column), shape (classes, classes)."""
    classes = probabilities.shape[1]
    pairs = targets * classes + probabilities.argmax(axis=1)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def metrics_for(task: Task, *, whole_numbers: bool) -> Mapping[str, Callable[[Array, Array], float]]:
    """The metrics of a task, the most telling first."""
    if task == "classification":
        return {"accuracy": accuracy, "log_loss": log_loss, "macro_f1": macro_f1}
    chosen: dict[str, Callable[[Array, Array], float]] = {"rmse": rmse, "mae": mae, "r2": r2}
    return {**chosen, "rounded_accuracy": rounded_accuracy} if whole_numbers else chosen


def row_losses(facts: Facts, targets: Array, predictions: Array) -> Array:
    """What each row adds to the ranking metric: squared errors, or minus the logarithms of true classes' probabilities."""
    if facts.task == "regression":
        losses: Array = (targets - predictions) ** 2
        return losses
    return _surprises(targets, predictions)


def score_of_losses(facts: Facts, losses: Array) -> float:
    """The ranking metric of rows with these losses."""
    mean = float(losses.mean())
    return math.sqrt(mean) if facts.task == "regression" else mean


def _surprises(targets: Ints, probabilities: Floats) -> Array:
    """Minus the logarithm of each row's probability of its true class."""
    return -np.log(np.maximum(probabilities[np.arange(len(targets)), targets], _LEAST_PROBABILITY))


def ranking_metric(facts: Facts) -> Callable[[Array, Array], float]:
    """The metric that trials are ranked by; smaller is better."""
    return metrics_for(facts.task, whole_numbers=facts.whole_numbers)[RANKED_BY[facts.task]]


def measure(facts: Facts, targets: Array, predictions: Array) -> dict[str, float]:
    """Every metric of the task, once."""
    chosen = metrics_for(facts.task, whole_numbers=facts.whole_numbers)
    return {name: metric(targets, predictions) for name, metric in chosen.items()}


def measure_with_intervals(facts: Facts, targets: Array, predictions: Array, *, seed: int) -> dict[str, Interval]:
    """Every metric with a 95 % percentile bootstrap interval over the rows (Efron 1979), 1,000 resamples."""
    chosen = metrics_for(facts.task, whole_numbers=facts.whole_numbers)
    rng = np.random.default_rng(seed)
    resampled: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(RESAMPLES):
        rows = rng.integers(len(targets), size=len(targets))
        drawn_targets, drawn_predictions = targets[rows], predictions[rows]
        for name, metric in chosen.items():
            resampled[name].append(metric(drawn_targets, drawn_predictions))
    return {
        name: Interval(metric(targets, predictions), *map(float, np.quantile(resampled[name], (0.025, 0.975))))
        for name, metric in chosen.items()
    }


def shown(name: str, value: float) -> str:
    """A metric's value as people read it: shares in percent, other figures with four digits that count."""
    number = f"{value:,.0f}" if abs(value) >= 1e3 else f"{value:#.4g}".removesuffix(".")
    text = f"{value:.2%}" if name in SHARES else number
    return text.removeprefix("-") if not text.strip("-0.%") else text  # there is no -0.00%
