"""The one look at the sealed test set, after everything is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from pixelfit import conformal, metrics
from pixelfit.calibration import Calibrated
from pixelfit.conformal import Intervals, SeveralIntervals
from pixelfit.evidence.slices import fifths
from pixelfit.mistakes import WORST, drawn, worst
from pixelfit.predictor import COVERAGE, Predictor
from pixelfit.types import (
    Array,
    ClassCoverage,
    Examples,
    Facts,
    Forecast,
    IntervalScores,
    Kind,
    Picture,
    RangeCoverage,
    Reliability,
    ReliabilityBin,
    Scores,
    SealedTest,
    SetScores,
    TargetScores,
)


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
    baseline_raw = baseline.raw(examples.store, examples.rows)
    scores = Scores(
        test=metrics.measure_with_intervals(facts, examples.targets, forecast.raw, seed=seed),
        baseline=metrics.measure_with_intervals(facts, examples.targets, baseline_raw, seed=seed),
        rows=len(examples),
    )
    rows = worst(facts, examples.targets, forecast.raw)
    judged = _JUDGES[facts.kind](scores, _Case(final, examples.targets, forecast, baseline_raw, seed))
    return Evaluation(judged, examples, forecast, drawn(WORST, rows, examples, forecast.raw, facts))


@dataclass(frozen=True)
class _Case:
    """What there is to judge: the predictor and its forecast for the test targets, and the baseline's predictions."""

    final: Calibrated
    targets: Array
    forecast: Forecast
    baseline_raw: Array
    seed: int


def _judged_number(scores: Scores, case: _Case) -> Scores:
    own, constant = case.final.predictor.conformal, case.final.constant
    assert isinstance(own, Intervals)
    assert isinstance(constant, Intervals)
    return replace(scores, intervals=_interval_scores(own, constant, case.targets, case.forecast))


def _judged_numbers(scores: Scores, case: _Case) -> Scores:
    own, constant, forecast = case.final.predictor.conformal, case.final.constant, case.forecast
    assert isinstance(own, SeveralIntervals)
    assert isinstance(constant, SeveralIntervals)
    test, baseline = (metrics.measure_each(case.targets, raw, seed=case.seed) for raw in (forecast.raw, case.baseline_raw))
    names = case.final.predictor.target_names
    each = []
    for place, name in enumerate(names):
        one = Forecast(forecast.raw[:, place], forecast.spread[:, place], forecast.uncalibrated[:, place])
        intervals = _interval_scores(own.each[place], constant.each[place], case.targets[:, place], one)
        each.append(TargetScores(name, test[place], baseline[place], intervals))
    return replace(scores, targets=tuple(each))


def _judged_label(scores: Scores, case: _Case) -> Scores:
    targets, forecast = case.targets, case.forecast
    return replace(
        scores,
        confusion=tuple(tuple(map(int, row)) for row in metrics.confusion_matrix(targets, forecast.raw)),
        sets=_set_scores(case.final.predictor, targets, forecast) if case.final.predictor.allows(COVERAGE) else None,
        reliability=_reliability(targets, forecast, metrics.reliability_bins),
    )


def _judged_labels(scores: Scores, case: _Case) -> Scores:
    return replace(
        scores,
        labels=metrics.label_scores(case.final.predictor.classes or (), case.targets, case.forecast.raw),
        reliability=_reliability(case.targets, case.forecast, metrics.label_reliability_bins),
    )


_JUDGES: Mapping[Kind, Callable[[Scores, _Case], Scores]] = {
    "number": _judged_number,
    "numbers": _judged_numbers,
    "label": _judged_label,
    "labels": _judged_labels,
}


def _interval_scores(own: Intervals, constant: Intervals, targets: Array, forecast: Forecast) -> IntervalScores | None:
    """How often the intervals held the targets (N,); None where too few validation pictures calibrated them."""
    if not conformal.enough(len(own.scores), COVERAGE):
        return None
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
            for rows in fifths(targets)
        ),
    )


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


def _reliability(targets: Array, forecast: Forecast, bins: Callable[[Array, Array], tuple[ReliabilityBin, ...]]) -> Reliability:
    after, before = (bins(targets, each) for each in (forecast.raw, forecast.uncalibrated))
    return Reliability(metrics.calibration_error(after), metrics.calibration_error(before), after, before)


def _inside(targets: Array, ends: Array) -> Array:
    inside: Array = (ends[:, 0] <= targets) & (targets <= ends[:, 1])
    return inside


def _width(ends: Array) -> float:
    return float(np.mean(ends[:, 1] - ends[:, 0]))
