"""The one look at the sealed test set, after everything is chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pixelfit import conformal, metrics
from pixelfit.calibration import Calibrated
from pixelfit.metrics import shown
from pixelfit.predictor import COVERAGE, Predictor
from pixelfit.types import (
    Array,
    ClassCoverage,
    Examples,
    Facts,
    Forecast,
    IntervalScores,
    Ints,
    Picture,
    RangeCoverage,
    Reliability,
    Scores,
    SealedTest,
    SetScores,
)

WORST_SHOWN = 24
_RANGES = 5


@dataclass(frozen=True)
class Evaluation:
    """The scores, and what the report shows of them."""

    scores: Scores
    examples: Examples
    forecast: Forecast
    worst: tuple[Picture, ...]


def score_on_test(final: Calibrated, baseline: Predictor, test: SealedTest, facts: Facts, *, seed: int) -> Evaluation:
    """Open the test set and measure the final predictor and the baseline on it. The only caller of ``SealedTest.open``."""
    examples = test.open()
    forecast = final.predictor.forecast(examples.store, examples.rows)
    targets, raw = examples.targets, forecast.raw
    enough = final.predictor.allows(COVERAGE)
    baseline_raw = baseline.raw(examples.store, examples.rows)
    scores = Scores(
        test=metrics.measure_with_intervals(facts, examples.targets, raw, seed=seed),
        baseline=metrics.measure_with_intervals(facts, examples.targets, baseline_raw, seed=seed),
        rows=len(examples),
        confusion=None
        if facts.task == "regression"
        else tuple(tuple(map(int, row)) for row in metrics.confusion_matrix(targets, raw)),
        intervals=_interval_scores(final, targets, forecast) if facts.task == "regression" and enough else None,
        sets=_set_scores(final.predictor, targets, forecast) if facts.task == "classification" and enough else None,
        reliability=_reliability(targets, forecast) if facts.task == "classification" else None,
    )
    return Evaluation(scores, examples, forecast, _worst(final.predictor, examples, raw, facts))


def _interval_scores(final: Calibrated, targets: Array, forecast: Forecast) -> IntervalScores:
    own, constant = final.predictor.conformal, final.constant
    assert isinstance(own, conformal.Intervals)
    assert constant is not None
    ends, plain = (each.around(forecast.raw, forecast.spread, COVERAGE) for each in (own, constant))
    covered = _inside(targets, ends)
    return IntervalScores(
        coverage=COVERAGE,
        calibrated_on=len(own.scores),
        scaled=own.scaled,
        covered=metrics.share_interval(covered),
        mean_width=_width(ends),
        pinball=conformal.pinball(targets, ends, COVERAGE),
        constant_covered=metrics.share_interval(_inside(targets, plain)),
        constant_width=_width(plain),
        constant_pinball=conformal.pinball(targets, plain, COVERAGE),
        ranges=tuple(
            RangeCoverage(
                low=float(targets[rows].min()),
                high=float(targets[rows].max()),
                rows=len(rows),
                covered=metrics.share_interval(covered[rows]),
                mean_width=_width(ends[rows]),
            )
            for rows in _fifths(targets)
        ),
    )


def _fifths(targets: Array) -> list[Ints]:
    """Rows by fifths of the ordered targets; fewer groups where targets take few values, which are never torn apart."""
    edges = np.unique(np.quantile(targets, np.linspace(0, 1, _RANGES + 1)[1:-1]))
    places = np.searchsorted(edges, targets, side="left")
    return [np.flatnonzero(places == place) for place in np.unique(places)]


def _set_scores(predictor: Predictor, targets: Array, forecast: Forecast) -> SetScores:
    assert predictor.conformal is not None
    assert predictor.classes is not None
    sets = predictor.sets(forecast, COVERAGE)
    covered, sizes = sets[np.arange(len(targets)), targets], sets.sum(axis=1)
    each = [
        ClassCoverage(predictor.classes[code], len(rows), metrics.share_interval(covered[rows]), float(sizes[rows].mean()))
        for code in np.unique(targets)
        for rows in [np.flatnonzero(targets == code)]
    ]
    return SetScores(
        coverage=COVERAGE,
        calibrated_on=len(predictor.conformal.scores),
        covered=metrics.share_interval(covered),
        mean_size=float(sizes.mean()),
        classes=tuple(sorted(each, key=lambda one: one.covered.value)),
    )


def _reliability(targets: Array, forecast: Forecast) -> Reliability:
    after, before = (metrics.reliability_bins(targets, each) for each in (forecast.raw, forecast.uncalibrated))
    return Reliability(metrics.calibration_error(after), metrics.calibration_error(before), after, before)


def _inside(targets: Array, ends: Array) -> Array:
    inside: Array = (ends[:, 0] <= targets) & (targets <= ends[:, 1])
    return inside


def _width(ends: Array) -> float:
    return float(np.mean(ends[:, 1] - ends[:, 0]))


def _worst(predictor: Predictor, examples: Examples, raw: Array, facts: Facts) -> tuple[Picture, ...]:
    """The test pictures with the largest errors; for classes, the wrong ones whose true class seemed least likely."""
    labels = predictor.labels(raw)
    if facts.classes is None:
        wrongness = np.abs(raw - examples.targets)
        rows = np.argsort(-wrongness, kind="stable")[:WORST_SHOWN]
        notes = {row: f"off by {shown('mae', wrongness[row])}" for row in rows}
        true = examples.targets
    else:
        likely = raw[np.arange(len(raw)), examples.targets]
        wrong = np.flatnonzero(raw.argmax(axis=1) != examples.targets)
        rows = wrong[np.argsort(likely[wrong], kind="stable")][:WORST_SHOWN]
        notes = {row: f"{raw[row].max():.0%} sure, true class {likely[row]:.0%}" for row in rows}
        true = np.array(facts.classes)[examples.targets]
    return tuple(
        Picture("worst", examples.store[examples.rows[row]], examples.refs[row], true[row].item(), labels[row].item(), notes[row])
        for row in rows
    )
