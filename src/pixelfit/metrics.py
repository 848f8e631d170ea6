"""Metrics with bootstrap intervals. Each is a function of (targets, predictions) and tested against scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pixelfit.types import Array, Facts, Floats, Interval, Ints, ReliabilityBin, Task

_LEAST_PROBABILITY = 1e-15
RESAMPLES = 1_000
_BINS = 15
TITLES = {
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
    "rounded_accuracy": "accuracy of rounded predictions",
    "accuracy": "accuracy",
    "log_loss": "log loss",
    "macro_f1": "macro F1",
}
SHARES = frozenset({"r2", "rounded_accuracy", "accuracy", "macro_f1"})  # at most 1, larger is better; shown as percentages


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
    return float(np.mean(surprises(targets, probabilities)))


def macro_f1(targets: Ints, probabilities: Floats) -> float:
    """Mean of the classes' F1 scores, over the classes that are in the targets or the predictions."""
    table = confusion_matrix(targets, probabilities)
    hits, true, predicted = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    present = (true + predicted) > 0
    return float(np.mean(2 * hits[present] / (true + predicted)[present]))


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Expected calibration error: how far sureness and accuracy are apart, on average over the rows (Naeini et al. 2015)."""
    rows = sum(each.rows for each in bins)
    return sum(each.rows * abs(each.accuracy - each.confidence) for each in bins) / rows


def reliability_bins(targets: Ints, probabilities: Floats) -> tuple[ReliabilityBin, ...]:
    """Rows by the probability of their most probable class, in 15 bins of equal width (Guo et al. 2017)."""
    top = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == targets
    edges = np.linspace(0, 1, _BINS + 1)
    places = np.clip(np.searchsorted(edges, top, side="left") - 1, 0, _BINS - 1)
    counts, sureness, hits = (np.bincount(places, weights, _BINS) for weights in (None, top, right))
    return tuple(
        ReliabilityBin(float(low), float(high), int(count), float(sure / max(1, count)), float(hit / max(1, count)))
        for low, high, count, sure, hit in zip(edges[:-1], edges[1:], counts, sureness, hits, strict=True)
    )


def share_interval(hits: Array) -> Interval:
    """The share of True in booleans (N,) with its 95 % score interval (Wilson 1927), which suits shares near 1."""
    count, share, z = len(hits), float(np.mean(hits)), 1.959964
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    # Rounding must not put the share itself outside.
    return Interval(share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)))


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
    """What each row adds to the metric that a training is watched by (``watched``)."""
    if facts.task == "classification":
        return surprises(targets, predictions)
    errors: Array = np.abs(targets - predictions)
    return errors if facts.metric == "mae" else errors**2


def score_of_losses(facts: Facts, losses: Array) -> float:
    """The metric that a training is watched by, of rows with these losses."""
    mean = float(losses.mean())
    return math.sqrt(mean) if watched(facts.metric) == "rmse" else mean


def watched(metric: str) -> str:
    """What a training is watched by when trials are ranked by ``metric``: log loss for every metric of classes.

    Accuracy and F1 move in jumps, which on a few hundred pictures hide where a training is going.
    """
    return metric if metric in ("rmse", "mae") else "log_loss"


def surprises(targets: Ints, probabilities: Floats) -> Array:
    """Minus the logarithm of each row's probability of its true class."""
    return -np.log(np.maximum(probabilities[np.arange(len(targets)), targets], _LEAST_PROBABILITY))


def ranking_metric(facts: Facts) -> Callable[[Array, Array], float]:
    """The metric that trials are ranked by, as a cost."""
    metric = metrics_for(facts.task, whole_numbers=facts.whole_numbers)[facts.metric]
    return lambda targets, predictions: cost(facts.metric, metric(targets, predictions))


def cost(name: str, value: float) -> float:
    """A metric's value turned so that smaller is better: 1 minus it for shares."""
    return 1 - value if name in SHARES else value


def cost_title(name: str) -> str:
    """What ``cost`` is called on a chart."""
    return f"1 − {TITLES[name]}" if name in SHARES else TITLES[name]


def measure(facts: Facts, targets: Array, predictions: Array) -> dict[str, float]:
    """Every metric of the task, the one that ranks first."""
    chosen = metrics_for(facts.task, whole_numbers=facts.whole_numbers)
    names = [facts.metric, *(name for name in chosen if name != facts.metric)]
    return {name: chosen[name](targets, predictions) for name in names}


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


def percent(share: float) -> str:
    """A share as people read it in a sentence."""
    return f"{100 * share:.1f} %"


def shown(name: str, value: float) -> str:
    """A metric's value as people read it: shares in percent, other figures with four digits that count."""
    number = f"{value:,.0f}" if abs(value) >= 1e3 else f"{value:#.4g}".removesuffix(".")
    text = f"{value:.2%}" if name in SHARES else number
    return text.removeprefix("-") if not text.strip("-0.%") else text  # there is no -0.00%


def clearly_worse(losses: Array, best: Array) -> bool:
    """Whether losses, one a validation row, are above the best ones by more than one standard error of the differences."""
    apart = losses - best
    return bool(apart.mean() > apart.std() / math.sqrt(len(apart)))
