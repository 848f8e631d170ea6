from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import HOSTILE, bars, opened_copy

from pixelfit import report
from pixelfit.automl import Run
from pixelfit.data.inspect import fingerprint
from pixelfit.data.reading import read
from pixelfit.evidence.likeness import likeness
from pixelfit.evidence.saliency import saliency
from pixelfit.evidence.slices import slicings
from pixelfit.evidence.statistics import statistics
from pixelfit.evidence.thumbnails import Thumbnails, rows_to_draw
from pixelfit.metrics import root_interval
from pixelfit.options import checked_options
from pixelfit.progress import Silent
from pixelfit.runs import RunFolder
from pixelfit.types import Array, Examples, Facts, Forecast, Splits


def split_of(pictures: Array, targets: Array) -> tuple[Facts, Splits, Examples]:
    facts, splits = read((pictures, targets), checked_options(folds=1, task="regression"), Silent())
    return facts, splits, splits.test.open()


def test_statistics_are_those_of_the_pixels() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (40, 12, 16, 1), dtype=np.uint8)
    facts, splits, test = split_of(pictures, np.arange(40.0))
    known = {each.name: each for each in statistics(test, splits, facts.spec)}
    seen = pictures[test.rows, ..., 0] / 2.55
    np.testing.assert_allclose(known["brightness"].values, seen.mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(known["contrast"].values, seen.std(axis=(1, 2)), rtol=1e-5)
    across, down = (np.abs(np.diff(seen, axis=axis)).mean(axis=(1, 2)) for axis in (2, 1))
    np.testing.assert_allclose(known["sharpness"].values, (across + down) / 2, rtol=1e-5)
    assert set(known["size"].values) == {12 * 16 / 1e6}
    assert set(known["shape"].values) == {16 / 12}


def test_slices_are_parts_of_the_test_set_with_their_own_scores() -> None:
    pictures, columns = bars(400)
    pictures[::2] = pictures[::2] // 2  # half of them darker
    facts, splits, test = split_of(pictures, columns.astype(float))
    raw = test.targets + np.random.default_rng(0).normal(0, 1, len(test))
    known = statistics(test, splits, facts.spec)
    found = {each.by: each for each in slicings(facts, test, raw, known, splits.kinds)}
    assert {"y", "brightness", "contrast", "sharpness"} <= set(found)
    assert "size" not in found  # all are of one size
    for slicing in found.values():
        assert slicing.metric == "rmse"
        assert sum(each.rows for each in slicing.slices) == len(test)
    brightness = pictures[test.rows].mean(axis=(1, 2, 3))
    dark = brightness <= np.quantile(brightness, 1 / 3)
    errors = (raw - test.targets)[dark]
    first = found["brightness"].slices[0]
    assert first.rows == dark.sum()
    assert first.score.value == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert first.score.low < first.score.value < first.score.high


def test_a_root_interval_holds_the_truth_as_often_as_it_should() -> None:
    rng = np.random.default_rng(0)
    intervals = [root_interval(rng.normal(0, 2, 200) ** 2) for _ in range(400)]
    held = np.mean([each.low <= 2 <= each.high for each in intervals])
    assert 0.91 <= held <= 0.98


def test_a_test_set_of_the_same_kind_cannot_be_told_apart_and_a_darker_one_can() -> None:
    pictures, columns = bars(400)
    facts, splits, test = split_of(pictures, columns.astype(float))
    alike = likeness(test, splits, facts, seed=0)
    assert alike is not None
    assert alike.auc.low <= 0.5  # a stratified cut is more even than chance, so that it may be below altogether
    assert alike.telling == ()
    assert alike.target_p is not None
    assert alike.target_p > 0.05
    store = test.store.copy()
    store[test.rows] //= 2
    darker = likeness(replace(test, store=store, targets=test.targets + 3), splits, facts, seed=0)
    assert darker is not None
    assert darker.auc.low > 0.9
    assert "brightness" in darker.telling
    assert darker.target_p is not None
    assert darker.target_p < 0.001


def test_too_few_pictures_say_nothing() -> None:
    facts, splits, test = split_of(*bars(40))
    assert likeness(test, splits, facts, seed=0) is None


def said(raw: Array) -> Forecast:
    return Forecast(raw, np.zeros(raw.shape), raw)


class Corner:
    """Predicts how bright the upper left corner is, or that it is dark; what saliency should find out."""

    def __init__(self, *, classes: bool, seconds: float = 0.0) -> None:
        self.classes, self.seconds = classes, seconds

    def raw(self, store: Array, rows: Array | None = None) -> Array:
        time.sleep(self.seconds)
        pictures = store if rows is None else store[rows]
        bright = pictures[:, :3, :3].mean(axis=(1, 2, 3)) / 255
        return np.stack([1 - bright, bright], axis=1) if self.classes else bright


@pytest.mark.slow
@pytest.mark.full_size
@pytest.mark.parametrize("classes", [False, True])
def test_saliency_finds_what_the_prediction_depends_on(classes: bool) -> None:
    pictures, columns = bars(100)
    pictures[:, :3, :3] = 250
    targets = np.array(["dark", "light"])[(columns >= 0).astype(int) - (np.arange(100) % 5 == 0)] if classes else columns / 3
    options = checked_options(folds=1, task="classification" if classes else "regression")
    facts, splits = read((pictures, targets), options, Silent())
    test = splits.test.open()
    model = Corner(classes=classes)
    forecast = said(model.raw(test.store, test.rows))
    looks, why = saliency(model, test, forecast, [("looked right", 0), ("looked wrong", 1)], facts, seconds=60)  # type: ignore[arg-type]
    assert why == ""
    assert [each.kind for each in looks] == ["looked right", "looked wrong"]
    for each in looks:
        assert each.heat is not None
        assert each.heat.shape == (12, 12)
        assert each.heat.max() == 1.0  # the corner raises what is predicted, the light class or the brightness
        assert (each.heat[:2, :2] > 0.2).all()
        assert (each.heat[4:, 4:] == 0).all()
        np.testing.assert_array_equal(each.picture, test.store[test.rows[test.refs.index(each.ref)]])


@pytest.mark.full_size
def test_saliency_keeps_to_its_time() -> None:
    pictures, columns = bars(100)
    facts, _, test = split_of(pictures, columns.astype(float))
    model, asked = Corner(classes=False), [("looked wrong", row) for row in range(3)]
    forecast = said(model.raw(test.store, test.rows))
    assert saliency(model, test, forecast, asked, facts, seconds=0) == ((), "the budget was too short to look")  # type: ignore[arg-type]
    slow = Corner(classes=False, seconds=0.05)
    looks, why = saliency(slow, test, forecast, asked, facts, seconds=0.05)  # type: ignore[arg-type]
    assert looks == ()
    assert "too slow" in why
    assert saliency(model, test, forecast, [], facts, seconds=9)[1] == "there was no picture to look at"  # type: ignore[arg-type]


def test_thumbnails_are_the_test_pictures() -> None:
    pictures, columns = bars(200)
    facts, _, test = split_of(pictures, columns.astype(float))
    rows = rows_to_draw(facts, test, said(test.targets))
    assert list(rows) == list(range(len(test)))
    tiles = Thumbnails.of(test, rows, facts.spec)
    drawn = np.asarray(tiles.image)
    for place, row in enumerate(rows):
        top, left = place // tiles.columns * tiles.height, place % tiles.columns * tiles.width
        np.testing.assert_array_equal(drawn[top : top + 12, left : left + 12], test.store[test.rows[row], ..., 0])
    assert tiles.to_json() == {"rows": list(range(len(test))), "width": 12, "height": 12, "columns": tiles.columns}


def test_of_classes_all_wrong_ones_and_some_right_ones_have_thumbnails() -> None:
    pictures, columns = bars(400)
    facts, splits = read((pictures, columns % 4), checked_options(folds=1, task="classification"), Silent())
    test = splits.test.open()
    raw = np.eye(4)[test.targets]
    wrong = np.arange(0, len(test), 7)
    raw[wrong] = np.roll(raw[wrong], 1, axis=1)
    rows = rows_to_draw(facts, test, said(raw))
    assert set(wrong) <= set(rows)
    right = np.setdiff1d(rows, wrong)
    assert list(np.bincount(test.targets[right])) == [6, 6, 6, 6]


def test_the_fingerprint_is_that_of_pictures_and_targets() -> None:
    store, targets = bars(3000)
    first = fingerprint(store, targets.astype(float))
    assert first == fingerprint(store.copy(), targets.astype(float))
    other = store.copy()
    other[2999, 0, 0] ^= 1
    assert len({first, fingerprint(other, targets.astype(float)), fingerprint(store, targets + 0.5)}) == 3


def test_the_report_shows_them(
    regression_run: Run, classification_run: Run, numbers_run: Run, labels_run: Run, tmp_path: Path
) -> None:
    for run in (regression_run, classification_run, numbers_run, labels_run):
        page = run.folder.report_file.read_text(encoding="utf-8")
        assert page.count("<h3>Is the test set like the rest?</h3>") == 1
        assert "area under the ROC curve" in page
        assert HOSTILE not in page
    slicings = regression_run.folder.read("evidence.json")["slicings"]
    page = regression_run.folder.report_file.read_text(encoding="utf-8")
    for slicing in slicings:
        for each in slicing["slices"]:
            assert re.search(rf'<td>{re.escape(each["name"])}</td><td class="n">{each["rows"]}</td>', page)
    older = RunFolder(opened_copy(regression_run.folder.path, tmp_path / "older"))
    (older.path / "evidence.json").unlink()
    report.draw(older)
    assert "Is the test set like the rest?" not in older.report_file.read_text(encoding="utf-8")
