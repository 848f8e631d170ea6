"""Whole runs on several numbers and on several labels a picture, from the source to the report and back from the folder."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import HOSTILE, STROKES, blobs, strokes
from PIL import Image
from sklearn import metrics as reference

import pixelfit
from pixelfit import ImageClassifier, ImageRegressor, automl, cli, report
from pixelfit.automl import Run
from pixelfit.errors import DataError, OptionError
from pixelfit.metrics import shown
from pixelfit.options import checked_options
from pixelfit.progress import Silent
from pixelfit.types import Array

NAMES = ("x", "y, down", HOSTILE)


def table(run: Run, name: str = "test") -> pd.DataFrame:
    return pd.read_csv(run.folder.path / "predictions" / f"{name}.csv", keep_default_na=False)


def spoken(
    run_cli_words: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["pixelfit", *map(str, run_cli_words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0), *capsys.readouterr()


def column(frame: pd.DataFrame, before: str) -> Array:
    return frame[[f"{before}_{name}" for name in NAMES]].to_numpy(dtype=float)


def test_it_learned_what_there_is_to_learn(numbers_run: Run, labels_run: Run) -> None:
    assert numbers_run.scores.test["nrmse"].high < 0.7 * numbers_run.scores.baseline["nrmse"].low
    assert labels_run.scores.test["mean_ap"].low > labels_run.scores.baseline["mean_ap"].high
    assert [one.name for one in numbers_run.scores.targets] == list(NAMES)
    for one in numbers_run.scores.targets:
        assert one.test["rmse"].high < one.baseline["rmse"].low


def test_scores_of_numbers_follow_from_the_predictions_on_file(numbers_run: Run) -> None:
    frame = table(numbers_run)
    target, predicted, low, high = (column(frame, before) for before in ("target", "prediction", "low", "high"))
    facts, scores = numbers_run.facts, numbers_run.folder.read("scores.json")
    errors = ((target - predicted) / facts.target_scales) ** 2
    assert scores["test"]["nrmse"]["value"] == pytest.approx(np.sqrt(errors.mean()))
    assert scores["test"]["mean_r2"]["value"] == pytest.approx(reference.r2_score(target, predicted))
    for place, one in enumerate(scores["targets"]):
        assert one["test"]["rmse"]["value"] == pytest.approx(np.sqrt(np.mean((target - predicted)[:, place] ** 2)))
        held = (low[:, place] <= target[:, place]) & (target[:, place] <= high[:, place])
        assert one["intervals"]["covered"]["value"] == pytest.approx(held.mean())
        assert one["intervals"]["mean_width"] == pytest.approx((high - low)[:, place].mean())
        assert one["intervals"]["calibrated_on"] == numbers_run.folder.read("data.json")["sizes"]["validation"]
    pictures = blobs(200)[0][[int(Path(ref).stem) for ref in frame["picture"]]]
    loaded = pixelfit.load(numbers_run.folder.path)
    assert (loaded.predict(pictures) == predicted).all()
    assert (loaded.predict_interval(pictures) == np.stack([low, high], axis=2)).all()


def test_scales_are_those_of_the_development_data(numbers_run: Run) -> None:
    tested = {int(Path(ref).stem) for ref in table(numbers_run)["picture"]}
    targets = blobs(200)[1][[row for row in range(200) if row not in tested]]
    np.testing.assert_allclose(numbers_run.facts.target_scales, targets.std(axis=0))


def test_scores_of_labels_follow_from_the_predictions_on_file(labels_run: Run) -> None:
    frame, scores = table(labels_run), labels_run.folder.read("scores.json")
    classes = labels_run.facts.classes
    assert classes == tuple(sorted(STROKES))
    shares = frame[[f"p_{label}" for label in classes]].to_numpy(dtype=float)
    true, said = (
        np.array([[label in text.split(";") for label in classes] for text in frame[name]]) for name in ("target", "prediction")
    )
    assert (said == (shares >= 0.5)).all()
    assert scores["test"]["macro_f1"]["value"] == pytest.approx(reference.f1_score(true, said, average="macro", zero_division=0))
    assert scores["test"]["exact_match"]["value"] == pytest.approx((true == said).all(axis=1).mean())
    assert scores["test"]["mean_ap"]["value"] == pytest.approx(reference.average_precision_score(true, shares), abs=1e-3)
    assert [one["rows"] for one in scores["labels"]] == true.sum(axis=0).tolist()
    assert sum(one["rows"] for one in scores["reliability"]["bins"]) == 3 * len(frame)
    assert scores["confusion"] is scores["sets"] is scores["intervals"] is None
    pictures = strokes(200)[0][[int(ref.removeprefix("row ")) for ref in frame["picture"]]]
    loaded = pixelfit.load(labels_run.folder.path)
    assert loaded.classes == classes
    assert (loaded.predict(pictures) == said).all()
    assert (loaded.predict_proba(pictures) == labels_run.predictor.predict_proba(pictures)).all()


def test_what_cannot_be_asked_of_them(numbers_run: Run, labels_run: Run) -> None:
    pictures = blobs(2)[0]
    numbers, labels = numbers_run.predictor, labels_run.predictor
    for ask, message in (
        (lambda: numbers.predict_proba(pictures), "A regression has no class probabilities"),
        (lambda: numbers.predict_sets(pictures), "A regression has no sets"),
        (lambda: numbers.predict_interval(pictures, 0.9999), "needs more than the"),
        (lambda: labels.predict_sets(pictures), "A multi-label classification has no sets: predict_proba gives"),
        (lambda: labels.predict_interval(pictures), "A multi-label classification has no"),
    ):
        with pytest.raises(DataError, match=message):
            ask()


def test_predictions_on_the_command_line(
    numbers_run: Run, labels_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, has = strokes(200)
    row = int(np.flatnonzero(has.sum(axis=1) == 2)[0])
    Image.fromarray(pictures[row][..., 0]).save(tmp_path / "one.png")
    code, out, _ = spoken(["predict", numbers_run.folder.path, tmp_path / "one.png", "--coverage", "0.8"], monkeypatch, capsys)
    (line,) = csv.DictReader(io.StringIO(out))
    assert code == 0
    ends = [f"{end}_{name}" for name in NAMES for end in ("low", "high")]
    assert list(line) == ["picture", *NAMES, *ends, "unlike", "strangeness", "error"]
    for name in NAMES:
        assert float(line[f"low_{name}"]) <= float(line[name]) <= float(line[f"high_{name}"])
    code, out, _ = spoken(["predict", labels_run.folder.path, tmp_path / "one.png"], monkeypatch, capsys)
    (line,) = csv.DictReader(io.StringIO(out))
    classes = labels_run.facts.classes or ()
    assert list(line) == ["picture", "labels", *(f"p_{label}" for label in classes), "unlike", "strangeness", "error"]
    assert line["labels"] == ";".join(str(label) for label in classes if float(line[f"p_{label}"]) >= 0.5)
    code, _, err = spoken(["predict", labels_run.folder.path, tmp_path / "one.png", "--coverage", "0.9"], monkeypatch, capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert "has no sets" in err
    for run, metric in ((numbers_run, "nrmse"), (labels_run, "log_loss")):
        code, out, _ = spoken(["leaderboard", run.folder.path], monkeypatch, capsys)
        assert code == 0
        assert metric in out.splitlines()[0]


@pytest.mark.slow
def test_a_fit_and_an_inspection_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, targets = blobs(60)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture[..., 0]).save(tmp_path / f"{number}.png")
    files = [f"{number}.png" for number in range(60)]
    frame = pd.DataFrame({"file": files, "a": targets[:, 0], "b": targets[:, 1], "tags": ["p;q", "q"] * 30})
    frame.to_csv(tmp_path / "table.csv", index=False)
    words = ["fit", tmp_path / "table.csv", "--target", "a", "--target", "b", "--trials", 2, "--steps", 5, "--metric", "mae"]
    code, out, err = spoken([*words, "--out", tmp_path / "run"], monkeypatch, capsys)
    assert code == 0, err
    assert re.search(r"NMAE +\d", out)
    assert re.search(r"^a +\d", out, re.MULTILINE)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "--target a --target b" in page
    assert "the median of each target" in page
    assert "The final model reaches NMAE" in page
    assert json.loads((tmp_path / "run" / "run.json").read_text())["options"]["target"] == ["a", "b"]
    told = ["inspect", tmp_path / "table.csv", "--target", "tags", "-o", tmp_path / "facts.json"]
    code, out, _ = spoken(told, monkeypatch, capsys)
    assert code == 0
    assert "Target: tags, 2 labels, 1.5 a picture" in out
    assert json.loads((tmp_path / "facts.json").read_text())["facts"]["classes"] == ["p", "q"]
    for words, message in (
        (["--target", "a", "--target", "a"], "--target 'a' is named twice"),
        (["--target", "a", "--target", "c"], "--target 'c' is no column"),
        (["--target", "a", "--target", "tags"], "Row 1 of"),
        (["--target", "tags", "--metric", "rmse"], "--metric 'rmse' is not for a multi-label classification"),
        (["--target", "a", "--target", "b", "--metric", "macro_f1"], "which takes rmse or mae"),
    ):
        code, _, err = spoken(["fit", tmp_path / "table.csv", *words, "--out", tmp_path / "none"], monkeypatch, capsys)
        assert (code, err.count("\n")) == (2, 1)
        assert message in err
        assert not (tmp_path / "none").exists()


@pytest.mark.charts
def test_the_report_tells_of_each_target_and_label(numbers_run: Run, labels_run: Run) -> None:
    for run in (numbers_run, labels_run):
        text = run.folder.report_file.read_text()
        assert HOSTILE not in text
        report.draw(run.folder)
        assert "<h3>How sure is it?</h3>" in text
    numbers, labels = (run.folder.report_file.read_text() for run in (numbers_run, labels_run))
    for one in numbers_run.scores.targets:
        assert f'<td class="n">{shown("rmse", one.test["rmse"].value)}</td>' in numbers
    assert "<h3>Each target</h3>" in numbers
    assert "How the targets go together" in numbers
    assert numbers.count("true against predicted, ") == 3
    assert "<h3>Each label</h3>" in labels
    assert "Which labels go together" in labels
    assert "multi-label classification" in labels


def test_facts_name_the_targets_and_those_of_one_stay_as_they_were(
    numbers_run: Run, regression_run: Run, labels_run: Run
) -> None:
    assert numbers_run.folder.read("facts.json")["target_names"] == list(NAMES)
    for run in (regression_run, labels_run):
        assert not {"target_names", "target_ranges", "target_scales"} & set(run.folder.read("facts.json"))
    for name, more in (
        ("scores.json", {"targets", "labels"}),
        ("data.json", {"together"}),
        ("model/predictor.json", {"target_names"}),
    ):
        assert not more & set(regression_run.folder.read(name))


@pytest.mark.slow
def test_a_regressor_of_several_numbers(tmp_path: Path) -> None:
    pictures, targets = blobs(120)
    model = ImageRegressor(trials=2, steps=60, folds=2, out=tmp_path / "run").fit(pictures, targets)
    assert model.predict(pictures).shape == (120, 3)
    assert model.score(pictures, targets) == pytest.approx(reference.r2_score(targets, model.predict(pictures)))
    ends = model.predict_interval(pictures, coverage=0.8)
    assert ends.shape == (120, 3, 2)
    assert (pixelfit.load(model.save(tmp_path / "model")).predict_interval(pictures, 0.8) == ends).all()


@pytest.mark.slow
def test_a_classifier_of_several_labels(tmp_path: Path) -> None:
    pictures, has = strokes(120)
    model = ImageClassifier(trials=2, steps=30, folds=2, metric="micro_f1", out=tmp_path / "run").fit(pictures, has)
    assert model.classes_.tolist() == [0, 1, 2]
    assert model.run_.facts.metric == "micro_f1"
    said = model.predict(pictures)
    assert said.shape == (120, 3)
    assert (said == (model.predict_proba(pictures) >= 0.5)).all()
    assert model.score(pictures, has) == reference.accuracy_score(has, said)
    lists = [np.flatnonzero(row).tolist() for row in has]
    assert model.score(pictures, lists) == model.score(pictures, has)
    with pytest.raises(OptionError, match="--metric 'accuracy' is not for a multi-label classification"):
        ImageClassifier(trials=1, metric="accuracy", out=tmp_path / "no").fit(pictures, has)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["numbers", "labels"])
def test_a_student_learns_several_targets(kind: str, tmp_path: Path) -> None:
    source = blobs(100) if kind == "numbers" else strokes(100)
    run = automl.fit(source, checked_options(trials=2, steps=20, distill=True, out=tmp_path / "run"), progress=Silent())
    assert run.trials[-1].purpose == "distilled"
    assert run.trials[-1].error is None
    assert len(run.predictor.members) == 1


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    for kind, source in (("numbers", blobs(80)), ("labels", strokes(80))):
        runs = [
            automl.fit(source, checked_options(trials=3, steps=5, folds=2, out=tmp_path / f"{kind} {name}"), progress=Silent())
            for name in ("once", "again")
        ]
        once, again = ((run.folder.path / "predictions" / "test.csv").read_bytes() for run in runs)
        assert once == again


@pytest.mark.slow
def test_many_targets_are_drawn_in_part(tmp_path: Path) -> None:
    pictures, targets = blobs(60)
    many = np.concatenate([targets, targets**2, 1 / targets], axis=1)
    run = automl.fit((pictures, many), checked_options(trials=1, out=tmp_path / "run"), progress=Silent())
    page = run.folder.report_file.read_text()
    assert page.count("true against predicted, ") == 6
    assert "3 more targets not drawn; all are in the table" in page
