"""Intervals and sets against counted coverage, and the quantile against its definition."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import bars

import pixelfit
from pixelfit.automl import Run
from pixelfit.conformal import Intervals, Sets, interval_score, pinball, quantile
from pixelfit.errors import DataError
from pixelfit.evidence.slices import fifths
from pixelfit.metrics import rmse
from pixelfit.predictor import Member
from pixelfit.types import Array


def noisy(count: int, seed: int) -> tuple[Array, Array, Array]:
    """Targets whose noise differs from picture to picture, the best predictions, and a rough idea of the noise."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 3, count)
    deviation = np.exp(rng.normal(-0.5, 0.9, count))
    return values + deviation * rng.standard_t(5, count), values, deviation * rng.uniform(0.7, 1.4, count)


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.97])
def test_intervals_hold_as_many_targets_as_promised_and_scaled_ones_are_better(coverage: float) -> None:
    counted, losses = {"own": [], "constant": []}, {"own": [], "constant": []}
    for seed in range(40):
        on_validation, test = noisy(200, seed), noisy(2000, 1000 + seed)
        for name, intervals in (
            ("own", Intervals.fit(*on_validation)),
            ("constant", Intervals.constant(*on_validation[:2])),
        ):
            ends = intervals.around(*test[1:], coverage)
            counted[name].append(np.mean((ends[:, 0] <= test[0]) & (test[0] <= ends[:, 1])))
            losses[name].append(pinball(test[0], ends, coverage))
        assert Intervals.fit(*on_validation).scaled
    # The coverage of one calibration varies with its 200 pictures; over 40 of them it is nearly what was asked for.
    for shares in counted.values():
        assert np.mean(shares) == pytest.approx(coverage, abs=0.012)
    assert np.mean(losses["own"]) < 0.95 * np.mean(losses["constant"])


def test_a_spread_that_says_nothing_is_not_used() -> None:
    rng = np.random.default_rng(0)
    targets, values = rng.normal(size=2000), np.zeros(2000)
    misleading = np.exp(rng.normal(0, 1.5, 2000))
    chosen = Intervals.fit(targets, values, misleading)
    assert not chosen.scaled or chosen.floor >= 1.0
    assert not Intervals.fit(targets, values, np.zeros(2000)).scaled


def test_perfect_predictions_have_intervals_of_no_width() -> None:
    ends = Intervals.fit(np.arange(20.0), np.arange(20.0), np.ones(20)).around(np.array([3.0]), np.array([5.0]), 0.9)
    assert ends.tolist() == [[3.0, 3.0]]


@pytest.mark.parametrize("count", [1, 2, 9, 10, 19, 99, 100])
def test_the_quantile_by_its_definition(count: int) -> None:
    """The smallest score k/(n+1) of whose ranks reaches the coverage, counted with exact fractions."""
    scores = np.sort(np.random.default_rng(count).exponential(size=count))
    for percent in range(1, 100):
        reached = [place for place in range(1, count + 1) if Fraction(place, count + 1) >= Fraction(percent, 100)]
        if reached:
            assert quantile(scores, percent / 100) == scores[reached[0] - 1]
        else:
            with pytest.raises(DataError, match=rf"needs more than the {count} validation"):
                quantile(scores, percent / 100)


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.1, 1.7, float("nan")])
def test_no_coverage(coverage: float) -> None:
    with pytest.raises(DataError, match="must lie between 0 and 1"):
        quantile(np.arange(10.0), coverage)


def test_interval_score_and_pinball_by_hand() -> None:
    targets, ends = np.array([0.0, 5.0, -1.0]), np.array([[-1.0, 1.0], [0.0, 4.0], [0.0, 2.0]])
    assert interval_score(targets, ends, 0.9) == pytest.approx((2 + (4 + 20 * 1) + (2 + 20 * 1)) / 3)
    low = [0.05 * 1, 0.05 * 5, 0.95 * 1]
    high = [0.05 * 1, 0.95 * 1, 0.05 * 3]
    assert pinball(targets, ends, 0.9) == pytest.approx(np.mean([np.mean(low), np.mean(high)]))


@pytest.mark.parametrize("coverage", [0.6, 0.9])
def test_sets_hold_as_many_classes_as_promised(coverage: float) -> None:
    counted = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        probabilities = rng.dirichlet(np.full(6, 0.7), 1500)
        targets = np.array([rng.choice(6, p=row) for row in probabilities])
        sets = Sets.fit(targets[:300], probabilities[:300]).of(probabilities[300:], coverage)
        assert sets.any(axis=1).all()
        counted.append(sets[np.arange(1200), targets[300:]].mean())
        # A class in the set is never less probable than one left out.
        inside, outside = np.where(sets, probabilities[300:], 2), np.where(sets, -1, probabilities[300:])
        assert (inside.min(axis=1) >= outside.max(axis=1)).all()
    # The most probable class is always in, which can only add to the coverage.
    assert coverage - 0.01 <= np.mean(counted) <= coverage + 0.06


def test_fifths_are_equally_large_and_tear_no_value_apart() -> None:
    rng = np.random.default_rng(0)
    assert [len(rows) for rows in fifths(rng.normal(size=500))] == [100] * 5
    for targets in (np.repeat([1.0, 2.0], 50), rng.integers(0, 10, 300).astype(float), np.ones(20)):
        groups = fifths(targets)
        assert sorted(np.concatenate(groups)) == list(range(len(targets)))
        held = [set(targets[rows]) for rows in groups]
        assert all(not (one & other) for place, one in enumerate(held) for other in held[:place])
        assert [min(one) for one in held] == sorted(min(one) for one in held)


def test_the_spread_is_that_of_the_mixture(regression_run: Run) -> None:
    (first, *_) = regression_run.predictor.members
    pictures = bars(12, seed=5)[0]
    sharp, blunt = (replace(first.model, temperature=each) for each in (0.5, 3.0))
    both = replace(regression_run.predictor, members=(Member(sharp, 0, 0.25), Member(blunt, 1, 0.75)), conformal=None)
    rng = np.random.default_rng(0)
    forecasts = [model.forecast(pictures) for model in (sharp, blunt)]
    counts = (100_000, 300_000)
    drawn = [
        np.concatenate(
            [rng.normal(part.raw[row], part.spread[row], count) for part, count in zip(forecasts, counts, strict=True)]
        )
        for row in range(12)
    ]
    mixed = both.forecast(pictures)
    np.testing.assert_allclose(mixed.raw, [each.mean() for each in drawn], atol=0.02)
    np.testing.assert_allclose(mixed.spread, [each.std() for each in drawn], rtol=0.02)
    assert (mixed.uncalibrated == replace(first.model, temperature=1.0).predict(pictures)).all()


def test_saved_intervals_and_sets_are_the_same_bit_for_bit(regression_run: Run, classification_run: Run, tmp_path: Path) -> None:
    pictures = bars(40, seed=3)[0]
    for coverage in (0.2, 0.5, 0.9):
        ends = regression_run.predictor.predict_interval(pictures, coverage)
        assert ends.shape == (40, 2)
        assert (ends == pixelfit.load(regression_run.folder.path).predict_interval(pictures, coverage)).all()
        predicted = regression_run.predictor.predict(pictures)
        assert ((ends[:, 0] <= predicted) & (predicted <= ends[:, 1])).all()
        sets = classification_run.predictor.predict_sets(pictures, coverage)
        assert sets.dtype == bool
        assert (sets == pixelfit.load(classification_run.folder.path).predict_sets(pictures, coverage)).all()
        assert (sets.argmax(axis=1) == classification_run.predictor.predict_proba(pictures).argmax(axis=1))[
            sets.sum(axis=1) == 1
        ].all()
    sharper = replace(classification_run.predictor, temperature=0.7)
    sharper.save(tmp_path)
    assert (pixelfit.load(tmp_path).predict_proba(pictures) == sharper.predict_proba(pictures)).all()


def test_what_cannot_be_asked(regression_run: Run, classification_run: Run, tmp_path: Path) -> None:
    pictures = bars(2)[0]
    numbers, labels = regression_run.predictor, classification_run.predictor
    for ask, message in (
        (lambda: labels.predict_interval(pictures), "A classification has no intervals; use predict_sets"),
        (lambda: numbers.predict_sets(pictures), "A regression has no sets of classes; use predict_interval"),
        (lambda: numbers.predict_interval(pictures, 1.0), "must lie between 0 and 1"),
        (lambda: labels.predict_sets(pictures, 0.9999), r"needs more than the \d+ validation picture"),
    ):
        with pytest.raises(DataError, match=message):
            ask()
    numbers.save(tmp_path)
    (tmp_path / "SHA256SUMS").unlink()
    file = tmp_path / "predictor.json"
    described = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in described.items() if name not in ("conformal", "temperature")}))
    old = pixelfit.load(tmp_path)
    assert (old.predict(pictures) == numbers.predict(pictures)).all()
    with pytest.raises(DataError, match="saved without calibrated intervals or sets; fit it again"):
        old.predict_interval(pictures)


def test_the_test_scores_follow_from_the_predictions_on_file(regression_run: Run, classification_run: Run) -> None:
    import csv

    def table(run: Run) -> list[dict[str, str]]:
        with (run.folder.path / "predictions" / "test.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    lines = table(regression_run)
    target, predicted, low, high = (
        np.array([float(line[name]) for line in lines]) for name in ("target", "prediction", "low", "high")
    )
    part = regression_run.scores.intervals
    assert part is not None
    assert rmse(target, predicted) == regression_run.scores.test["rmse"].value
    assert part.covered.value == np.mean((low <= target) & (target <= high))
    assert part.mean_width == pytest.approx(np.mean(high - low))
    assert sum(one.rows for one in part.ranges) == len(lines)
    assert part.calibrated_on == regression_run.folder.read("data.json")["sizes"]["validation"]

    lines = table(classification_run)
    sets = classification_run.scores.sets
    assert sets is not None
    assert sets.covered.value == np.mean([line["target"] in line["set"].split("|") for line in lines])
    assert sets.mean_size == pytest.approx(np.mean([len(line["set"].split("|")) for line in lines]))
    reliability = classification_run.scores.reliability
    assert reliability is not None
    assert sum(one.rows for one in reliability.bins) == sum(one.rows for one in reliability.bins_before) == len(lines)
