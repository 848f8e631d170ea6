"""Targets that look wrong: wrong ones that were put in on purpose are found, and little else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import bars, opened_copy
from test_models import prepared

from pixelfit import automl
from pixelfit.mistakes import drawn, legible, listed, surest, suspects, worst
from pixelfit.options import checked_options
from pixelfit.progress import Silent
from pixelfit.report import draw
from pixelfit.types import Array, Examples, Facts, Forecast


def sure_of(targets: Array, classes: int, rng: np.random.Generator) -> Array:
    """Probabilities of a good classifier, which knows the targets."""
    raw = rng.dirichlet(np.full(classes, 0.3), len(targets)) * 0.3
    raw[np.arange(len(targets)), targets] += 0.7
    return raw


def forecast_of(raw: Array, spread: Array | None = None) -> Forecast:
    return Forecast(raw, np.zeros(raw.shape) if spread is None else spread, raw)


def facts_of(task: str) -> Facts:
    return prepared(task)[0]  # type: ignore[arg-type]


def test_wrong_classes_are_found_by_confident_learning() -> None:
    rng = np.random.default_rng(0)
    facts = replace(facts_of("classification"), classes=("a", "b", "c"))
    true = rng.integers(0, 3, 600)
    raw = sure_of(true, 3, rng)
    given = true.copy()
    wrong = rng.choice(600, 30, replace=False)
    given[wrong] = (true[wrong] + 1) % 3
    found = suspects(facts, given, forecast_of(raw))
    assert set(found) <= set(wrong)
    assert len(found) >= 10  # not those of which the model is less sure than it usually is
    # Against the definition, row by row.
    usual = [raw[given == label, label].mean() for label in range(3)]
    expected = [
        row
        for row in range(600)
        if any(raw[row, label] >= min(0.9, usual[label]) and raw[row, label] > raw[row, given[row]] for label in range(3))
    ]
    assert sorted(found) == expected
    margins = raw[found].max(axis=1) - raw[found, given[found]]
    assert (np.diff(margins) <= 1e-12).all()


def test_a_class_that_was_never_seen_makes_nothing_suspect() -> None:
    facts = replace(facts_of("classification"), classes=("a", "b", "never"))
    raw = np.array([[0.4, 0.0, 0.6], [0.1, 0.9, 0.0]])
    assert len(suspects(facts, np.array([0, 1]), forecast_of(raw))) == 0


def test_wrong_numbers_are_found_and_right_ones_left_alone() -> None:
    rng = np.random.default_rng(0)
    facts = facts_of("regression")
    true = rng.normal(size=2_000)
    raw = true + rng.normal(0, 0.2, 2_000)
    clean = suspects(facts, true, forecast_of(raw))
    assert len(clean) <= 4
    given = true.copy()
    wrong = rng.choice(2_000, 10, replace=False)
    given[wrong] += rng.choice([-3, 3], 10)
    found = suspects(facts, given, forecast_of(raw))
    assert set(found[:10]) == set(wrong)
    # Where the model says itself that it does not know, the same error says nothing.
    unsure = np.zeros(2_000)
    unsure[wrong[0]] = 5.0
    assert wrong[0] not in suspects(facts, given, forecast_of(raw, unsure))


def test_perfect_predictions_make_nothing_suspect() -> None:
    targets = np.arange(50.0)
    assert len(suspects(facts_of("regression"), targets, forecast_of(targets))) == 0


def test_small_errors_among_tiny_ones_are_no_suspects() -> None:
    """Errors of digits: most next to nothing, some small, one large."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 10, 600).astype(float)
    raw = targets + rng.normal(0, 0.0005, 600)
    raw[:40] += 0.03
    raw[40] += 1.5
    assert list(suspects(facts_of("regression"), targets, forecast_of(raw))) == [40]


def test_of_several_numbers_and_labels_each_is_looked_at() -> None:
    rng = np.random.default_rng(0)
    facts = facts_of("regression")
    numbers = replace(facts, target_names=("x", "y"), target_scales=(1.0, 100.0))
    true = rng.normal(size=(500, 2)) * (1, 100)
    given = true.copy()
    given[7, 1] += 800
    found = suspects(numbers, given, forecast_of(true + rng.normal(0, 0.1, (500, 2)) * (1, 100)))
    assert found[0] == 7
    labels = replace(facts_of("classification"), task="multilabel", classes=("a", "b"))
    has = rng.integers(0, 2, (500, 2))
    raw = np.clip(has * 0.9 + 0.05 + rng.normal(0, 0.02, (500, 2)), 0.01, 0.99)
    given = has.copy()
    given[11, 0] = 1 - given[11, 0]
    assert list(suspects(labels, given, forecast_of(raw))) == [11]
    examples = Examples(np.zeros((500, 4, 4, 1), dtype=np.uint8), np.arange(500), given, tuple(map(str, range(500))))
    assert "for a, which it has" in drawn("suspect", np.array([11]), examples, raw, labels)[0].note
    assert listed(drawn("suspect", np.array([11]), examples, raw, labels))[0]["picture"] == "11"


def test_the_worst_are_the_largest_errors() -> None:
    targets, raw = np.zeros(100), np.random.default_rng(0).normal(size=100)
    rows = worst(facts_of("regression"), targets, raw)
    assert list(rows) == list(np.argsort(-np.abs(raw), kind="stable")[:24])


def test_the_surest_are_mistakes_that_were_not_expected() -> None:
    facts = facts_of("regression")
    targets, raw = np.zeros(200), np.random.default_rng(0).normal(0, 0.1, 200)
    raw[:30] = 9.0  # large errors, which the spread lets expect
    spread = np.where(np.arange(200) < 30, 9.0, 0.1)
    raw[77], spread[77] = 8.0, 0.1  # a smaller one that it does not
    assert list(surest(facts, targets, Forecast(raw, spread, raw))) == [77]
    assert len(surest(facts, targets, Forecast(raw, np.zeros(200), raw))) == 0
    labels = facts_of("classification")
    codes = np.zeros(100, dtype=np.int64)
    probabilities = np.tile([0.9, 0.1], (100, 1))
    probabilities[:40] = [0.2, 0.8]
    probabilities[39] = [0.01, 0.99]  # the worst one, which is shown already
    probabilities[30] = [0.1, 0.9]
    found = surest(labels, codes, forecast_of(probabilities))
    assert len(found) == 12
    assert not {30, 39} & set(found)


def test_numbers_are_told_with_the_digits_that_count() -> None:
    facts = replace(facts_of("regression"), target_range=(0.0, 9.0))
    assert list(legible(facts, np.array([1.23456789, 1e-9]))) == [1.2346, 0.0]
    assert list(legible(replace(facts, target_range=(22_000.0, 5_858_000.0)), np.array([527_348.9]))) == [527_300.0]


@pytest.mark.full_size
@pytest.mark.slow
@pytest.mark.parametrize(("folds", "examined"), [(4, 160), (1, 24)])
def test_a_run_names_the_pictures_whose_labels_were_swapped(tmp_path: Path, folds: int, examined: int) -> None:
    pictures, columns = bars(200)
    labels = np.array(["left", "right"])[(columns > 4).astype(int)]
    swapped = np.random.default_rng(0).choice(200, 8, replace=False)
    labels[swapped] = np.where(labels[swapped] == "left", "right", "left")
    options = checked_options(trials=2, steps=80, folds=folds, out=tmp_path / "run")
    run = automl.fit((pictures, labels), options, progress=Silent())
    record = json.loads((run.folder.path / "suspects.json").read_text())
    assert record["examined"] == examined
    names = {each["picture"] for each in record["suspects"]}
    # Of those that were swapped the ones in the test set are not looked at, nor with one fold those in training.
    with (run.folder.path / "predictions" / "validation.csv").open() as file:
        looked_at = {line.split(",")[0] for line in file}
    there = {f"row {row}" for row in swapped} & looked_at
    assert len(there & names) >= 0.8 * len(there)
    assert len(names - there) <= 2
    draw(run.folder)
    page = run.folder.report_file.read_text()
    assert "Targets that look wrong" in page
    assert f"among {examined} development pictures" in page
    assert ("looks at all" in page) == (folds == 1)
    assert all(name in page for name in names)


def test_an_older_run_without_them_is_drawn_still(regression_run: automl.Run, tmp_path: Path) -> None:

    from pixelfit.runs import RunFolder

    opened_copy(regression_run.folder.path, tmp_path / "old")
    (tmp_path / "old" / "suspects.json").unlink()
    folder = RunFolder.existing(tmp_path / "old")
    draw(folder)
    assert "Targets that look wrong" not in folder.report_file.read_text()
