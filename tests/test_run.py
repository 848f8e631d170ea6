"""The whole flow on small data: what a finished run holds, that it repeats, and that failures stay where they are."""

from __future__ import annotations

import ast
import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, bars

import pixelfit
from pixelfit import automl, display, metrics
from pixelfit.automl import Run
from pixelfit.errors import RunError, SearchError
from pixelfit.models import FAMILIES, convnet
from pixelfit.options import checked_options
from pixelfit.progress import Silent
from pixelfit.runs import RunFolder
from pixelfit.types import Examples, SealedTest


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def fit(out: Path, **options: object) -> Run:
    return automl.fit(bars(120), checked_options(out=out, **{"folds": 1, **options}), progress=Silent())


def test_scores_json_holds_the_promised_figures(regression_run: Run, classification_run: Run) -> None:
    for run, names in (
        (regression_run, {"rmse", "mae", "r2", "rounded_accuracy"}),
        (classification_run, {"accuracy", "log_loss", "macro_f1"}),
    ):
        scores = json.loads((run.folder.path / "scores.json").read_text())
        assert scores["task"] == run.facts.task
        assert (scores["seed"], scores["budget_s"], scores["data"]) == (0, None, "arrays")
        assert scores["wall_s"] > 0
        for part in ("test", "baseline"):
            assert set(scores[part]) == names
            for interval in scores[part].values():
                assert interval["low"] <= interval["value"] <= interval["high"]


def test_it_learned_what_there_is_to_learn(regression_run: Run, classification_run: Run) -> None:
    assert regression_run.scores.test["rmse"].high < regression_run.scores.baseline["rmse"].low
    assert classification_run.scores.test["accuracy"].low > classification_run.scores.baseline["accuracy"].high


def test_the_scored_predictor_is_the_saved_one(regression_run: Run) -> None:
    """The figures in scores.json follow from the predictions on file, and these from the loaded model."""
    table = rows(regression_run.folder.path / "predictions" / "test.csv")
    targets, predictions = (np.array([float(row[name]) for row in table]) for name in ("target", "prediction"))
    assert metrics.rmse(targets, predictions) == regression_run.scores.test["rmse"].value
    pictures, columns = bars(150)
    places = [int(row["picture"].removeprefix("row ")) for row in table]
    assert (columns[places] == targets).all()
    loaded = pixelfit.load(regression_run.folder.path)
    assert (loaded.predict(pictures[places]) == predictions).all()


def test_the_leaderboard_lists_every_trial_best_first(classification_run: Run) -> None:
    table = rows(classification_run.folder.path / "leaderboard.csv")
    assert sorted(int(row["trial"]) for row in table) == [0, 1, 2, 3]
    scores = [float(row["score"]) for row in table]
    assert scores == sorted(scores)
    assert {row["ranked_by"] for row in table} == {"log_loss"}
    assert sum(float(row["weight"]) for row in table) == pytest.approx(1, abs=1e-4)
    assert [row["val_log_loss"] for row in table] == [row["score"] for row in table]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "metric"), [("regression", "mae"), ("classification", "accuracy")])
def test_trials_are_ranked_and_reported_by_the_users_metric(task: str, metric: str, tmp_path: Path) -> None:
    run = fit(tmp_path / "run", task=task, metric=metric, trials=4, steps=30)
    table = rows(run.folder.path / "leaderboard.csv")
    scores = [float(row["score"]) for row in table]
    assert [row[f"val_{metric}"] for row in table] == [row["score"] for row in table]
    assert scores == sorted(scores, reverse=metric == "accuracy")
    assert {row["ranked_by"] for row in table} == {metric}
    assert run.folder.read("scores.json")["metric"] == metric
    page = run.folder.report_file.read_text()
    assert f"The final model reaches {metrics.TITLES[metric]} <strong>" in page
    assert f"--metric {metric}" in page
    for trial in run.trials:
        assert display.scored(trial).startswith(f"{metrics.TITLES[metric]} {metrics.shown(metric, trial.metrics[metric])}")


@pytest.mark.slow
def test_too_few_validation_pictures_for_intervals_is_said(tmp_path: Path) -> None:
    run = automl.fit(
        bars(40), checked_options(task="regression", trials=2, steps=8, folds=1, out=tmp_path / "run"), progress=Silent()
    )
    assert run.scores.intervals is None
    assert set(rows(run.folder.path / "predictions" / "test.csv")[0]) == {"picture", "target", "prediction"}
    assert "too few pictures to say how far off" in run.folder.report_file.read_text()


@pytest.mark.slow
def test_same_seed_and_trials_give_the_same_run(tmp_path: Path) -> None:
    # Nine trials: the six known-good starts, and three that the sampler chose.
    once, again, other = (
        fit(tmp_path / name, trials=9, steps=8, seed=seed) for name, seed in (("once", 3), ("again", 3), ("other", 4))
    )
    timed = ("seconds", "predict_ms")

    def board(run: Run) -> list[dict[str, str]]:
        return [{k: v for k, v in row.items() if k not in timed} for row in rows(run.folder.path / "leaderboard.csv")]

    def predictions(run: Run) -> bytes:
        return (run.folder.path / "predictions" / "test.csv").read_bytes()

    assert board(once) == board(again)
    assert predictions(once) == predictions(again)
    assert board(once) != board(other)
    assert [trial.recipe for trial in once.trials] == [trial.recipe for trial in again.trials]
    assert {trial.family for trial in once.trials} == {family.name for family in FAMILIES.values() if not family.pretrained}


@pytest.mark.slow
def test_a_failing_trial_is_recorded_and_the_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise ValueError("no such layer\nand more")

    monkeypatch.setitem(FAMILIES, "convnet", convnet.FAMILY.__class__(**{**vars(convnet.FAMILY), "build": broken}))
    run = fit(tmp_path / "run", trials=4, steps=8)
    failed = run.trials[1]
    assert (failed.state, failed.error) == ("failed", "ValueError: no such layer")
    assert {trial.state for trial in run.trials if trial.family == "convnet"} == {"failed"}
    assert {trial.state for trial in run.trials if trial.family != "convnet"} == {"complete"}
    last = rows(run.folder.path / "leaderboard.csv")[-1]
    assert (last["family"], last["error"]) == ("convnet", "ValueError: no such layer")
    assert "Trial #1 (convnet) failed: ValueError: no such layer" in run.folder.report_file.read_text()


def test_when_every_trial_fails_the_error_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise MemoryError("nothing left")

    monkeypatch.setattr("pixelfit.search.engine.train_alone", broken)
    with pytest.raises(SearchError, match="the first failed with: MemoryError: nothing left"):
        fit(tmp_path / "run", trials=2)


@pytest.mark.slow
def test_a_budget_that_is_over_still_gives_the_baseline(tmp_path: Path) -> None:
    run = automl.fit(
        bars(60), checked_options(out=tmp_path / "run", budget="5s"), progress=Silent(), started=time.monotonic() - 100
    )
    assert [trial.family for trial in run.trials] == ["constant"]
    assert run.folder.report_file.is_file()


def test_the_test_set_opens_once() -> None:
    test = SealedTest(Examples(np.zeros((1, 2, 2, 1)), np.zeros(1, dtype=int), np.zeros(1), ("row 0",)))
    test.open()
    with pytest.raises(RuntimeError, match="read once"):
        test.open()


def test_only_evaluate_opens_the_test_set() -> None:
    openers = set()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            reads = isinstance(called, ast.Attribute) and called.attr == "open" and not (node.args or node.keywords)
            reads = reads or (isinstance(node, ast.Attribute) and node.attr == "_examples" and file.name != "types.py")
            if reads:
                openers.add(file.name)
    assert openers == {"evaluate.py"}


def test_a_folder_in_use_is_refused_before_any_work(tmp_path: Path, regression_run: Run) -> None:
    with pytest.raises(RunError, match="holds a run already"):
        fit(regression_run.folder.path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="holds files that are no run"):
        fit(tmp_path / "notes")


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.write_run({})
    with pytest.raises(RunError, match=r"not finished: it has no data.json"):
        folder.read("data.json")
    with pytest.raises(RunError, match="no finished model"):
        pixelfit.load(tmp_path / "run")


@pytest.mark.slow
def test_the_default_folder_is_new_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("arrays", "arrays-2"):
        run = automl.fit(bars(60), checked_options(trials=1), progress=Silent())
        assert run.folder.path == Path("runs") / name
