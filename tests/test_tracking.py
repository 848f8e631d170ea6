"""Runs are told to MLflow and TensorBoard where that is asked for, once each, and a tracker that fails costs nothing else."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import forks
import numpy as np
import pandas as pd
import pytest
from conftest import bars
from fastapi.testclient import TestClient
from mlflow.pyfunc import scoring_server
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pixelfit import tracking
from pixelfit.automl import Run, fit
from pixelfit.errors import OptionError
from pixelfit.options import checked_options, parse_trackers
from pixelfit.predictor import Predictor
from pixelfit.progress import Silent
from pixelfit.resume import begun
from pixelfit.runs import RunFolder
from pixelfit.tracking import mlflow_runs, track, trackers_for
from pixelfit.tracking.mlflow_runs import MlflowTracker, mlflow
from pixelfit.words import choices_of


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An MLflow database of its own, with its files beside it."""
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    yield uri
    mlflow.set_tracking_uri(None)


@pytest.fixture
def folder(regression_run: Run, tmp_path: Path) -> RunFolder:
    """A finished run that may be written to."""
    shutil.copytree(regression_run.folder.path, tmp_path / "bars")
    return RunFolder(tmp_path / "bars")


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def told(uri: str) -> tuple[mlflow.entities.Run, dict[int, mlflow.entities.Run]]:
    """The run that the database knows, and those of its trials by number."""
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("pixelfit")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (top,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    trials = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == top.info.run_id]
    numbers = [int(run.info.run_name.split()[1].rstrip(",")) for run in trials]
    assert len(set(numbers)) == len(numbers)
    return top, dict(zip(numbers, trials, strict=True))


def picture(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_mlflow_has_options_trials_curves_scores_and_report(folder: RunFolder, database: str) -> None:
    for _ in range(2):  # the second time nothing is told again
        track(folder, [f"mlflow:{database}"])
    top, trials = told(database)
    assert top.info.status == "FINISHED"
    assert top.data.params["seed"] == "0"
    assert (top.data.params["task"], top.data.params["data"]) == ("regression", "arrays")
    scores = folder.read("scores.json")
    assert top.data.metrics["test rmse"] == pytest.approx(scores["test"]["rmse"]["value"])
    assert top.data.metrics["test rmse low"] == pytest.approx(scores["test"]["rmse"]["low"])
    ended = folder.ended_trials()
    assert sorted(trials) == [trial.number for trial in ended]
    client = mlflow.MlflowClient(tracking_uri=database)
    for trial in ended:
        run = trials[trial.number]
        assert run.data.params["family"] == trial.family
        assert set(run.data.params) <= set(choices_of(trial.recipe))
        assert run.data.metrics["validation rmse"] == pytest.approx(trial.metrics["rmse"])
        looks = folder.read(f"trials/{trial.number:04d}/history.json")
        curve = client.get_metric_history(run.info.run_id, "validation score")
        assert [(point.step, point.value) for point in curve] == [(look["step"], pytest.approx(look["score"])) for look in looks]
    files = {file.path for file in client.list_artifacts(top.info.run_id)}
    assert {"report.html", "report.json", "model-card.md", "leaderboard.csv", "model"} <= files


@pytest.mark.parametrize("gone", ["the run", "a trial"])
def test_what_was_deleted_in_mlflow_is_told_again(folder: RunFolder, database: str, gone: str) -> None:
    track(folder, [f"mlflow:{database}"])
    before, trials = told(database)
    client = mlflow.MlflowClient(tracking_uri=database)
    for run in [before, *trials.values()] if gone == "the run" else [trials[2]]:
        client.delete_run(run.info.run_id)
    track(folder, [f"mlflow:{database}"])
    top, again = told(database)
    assert sorted(again) == sorted(trials)
    assert top.info.status == "FINISHED"
    assert (top.info.run_id == before.info.run_id) == (gone == "a trial")
    assert (again[0].info.run_id == trials[0].info.run_id) == (gone == "a trial")
    assert {file.path for file in client.list_artifacts(top.info.run_id)} >= {"report.html", "model"}


def command(where: Path, *words: str) -> None:
    where.mkdir(exist_ok=True)
    forks.run([sys.executable, "-P", "-m", "pixelfit", "track", *words], cwd=where, check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.long("two commands, each of which loads MLflow and lays out a database")
def test_a_database_that_is_gone_or_another_one_is_told_all_again(folder: RunFolder, tmp_path: Path, database: str) -> None:
    word = "mlflow:sqlite:///mlflow.db"
    command(tmp_path / "elsewhere", str(folder.path), word)
    command(tmp_path, str(folder.path), word)
    top, trials = told(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert (top.info.status, len(trials)) == ("FINISHED", len(folder.ended_trials()))
    # Not in this process, which would keep its connections to the file that is gone.
    (tmp_path / "elsewhere" / "mlflow.db").unlink()
    command(tmp_path / "elsewhere", str(folder.path), word)
    top, trials = told(f"sqlite:///{tmp_path / 'elsewhere' / 'mlflow.db'}")
    assert (top.info.status, len(trials)) == ("FINISHED", len(folder.ended_trials()))


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("mlflow:sqlite:///runs.db", "mlflow:sqlite:///{here}/runs.db"),
        ("mlflow:sqlite:///below/runs.db?timeout=5", "mlflow:sqlite:///{here}/below/runs.db?timeout=5"),
        ("mlflow:sqlite+pysqlite:///runs.db", "mlflow:sqlite+pysqlite:///{here}/runs.db"),
        ("mlflow:./mlruns", "mlflow:{here}/mlruns"),
        ("mlflow:mlruns", "mlflow:{here}/mlruns"),
        ("mlflow:file:mlruns", "mlflow:file:{here}/mlruns"),
        ("tensorboard:curves", "tensorboard:{here}/curves"),
        ("tensorboard:~/curves", "tensorboard:{home}/curves"),
        ("mlflow:sqlite:////var/runs.db", None),
        ("mlflow:sqlite:///:memory:", None),
        ("mlflow:file:///var/mlruns", None),
        ("mlflow:/var/mlruns", None),
        ("mlflow:http://tracking:5000", None),
        ("mlflow:postgresql://server/runs", None),
        ("mlflow:databricks", None),
        ("mlflow:databricks://work", None),
        ("tensorboard:/var/curves", None),
    ],
)
def test_relative_paths_become_absolute_where_options_are_read(word: str, meant: str | None) -> None:
    expected = word if meant is None else meant.format(here=Path.cwd(), home=Path.home())
    assert parse_trackers([word]) == (expected,)
    options = checked_options(track=[word])
    assert options.track == (expected,)
    assert checked_options(track=options.track).track == (expected,)


def test_a_registered_model_is_loaded_and_served_by_mlflow(folder: RunFolder, database: str) -> None:
    track(folder, [f"mlflow:{database}"])
    top, _ = told(database)
    mlflow.register_model(f"runs:/{top.info.run_id}/model", "bars")
    model = mlflow.pyfunc.load_model("models:/bars/1")
    pictures, _ = bars(12, seed=5)
    contents = [picture(each[..., 0]) for each in pictures]
    answers = model.predict(pd.DataFrame({"picture": [*contents, b"no picture"]}))
    expected = Predictor.load(folder.path).predict(pictures)
    np.testing.assert_allclose(answers["y"][:-1].to_numpy(dtype=float), expected, rtol=1e-5)
    assert answers["error"].tolist() == [""] * 12 + ["it is not a picture"]
    served = TestClient(scoring_server.init(model))
    sent = {"dataframe_split": {"columns": ["picture"], "data": [[base64.b64encode(each).decode()] for each in contents]}}
    response = served.post("/invocations", json=sent)
    assert response.status_code == 200, response.text
    np.testing.assert_allclose([row["y"] for row in response.json()["predictions"]], expected, rtol=1e-5)
    kept = [file for file in (folder.path.parent / "mlruns").rglob("*") if file.suffix in (".pkl", ".pickle", ".pth", ".pt")]
    assert not kept


def test_tensorboard_has_the_curves(folder: RunFolder, tmp_path: Path) -> None:
    mine = tmp_path / "curves" / "bars" / "test" / "mine.png"
    mine.parent.mkdir(parents=True)
    mine.write_text("a picture of the user's own")
    for _ in range(2):
        track(folder, [f"tensorboard:{tmp_path / 'curves'}"])
    for trial in folder.ended_trials():
        (place,) = (tmp_path / "curves" / "bars").glob(f"trial-{trial.number:04d}-*")
        events = EventAccumulator(str(place)).Reload()
        (score,) = events.Scalars("validation/rmse")
        assert score.value == pytest.approx(trial.metrics["rmse"], rel=1e-5)
        looks = folder.read(f"trials/{trial.number:04d}/history.json")
        if looks:
            assert [point.step for point in events.Scalars("validation score")] == [look["step"] for look in looks]
    assert mine.is_file()
    (test,) = EventAccumulator(str(tmp_path / "curves" / "bars" / "test")).Reload().Scalars("test/rmse")
    assert test.value == pytest.approx(folder.read("scores.json")["test"]["rmse"]["value"], rel=1e-5)


def test_curves_that_are_gone_are_written_again(folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered of them."""
    words = parse_trackers("tensorboard:curves")
    assert words is not None
    track(folder, words)
    written = sorted(path.name for path in (tmp_path / "curves" / "bars").iterdir())
    shutil.rmtree(tmp_path / "curves")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    track(folder, words)
    assert sorted(path.name for path in (tmp_path / "curves" / "bars").iterdir()) == written
    assert len(written) == len(folder.ended_trials()) + 1


class Killed(BaseException):
    """What a kill is to the code under test."""


def small(out: Path, *words: str) -> dict[str, object]:
    return {"task": "regression", "trials": 3, "steps": 5, "folds": 1, "out": out, "track": words}


@pytest.mark.slow
def test_a_run_is_tracked_as_it_goes_and_goes_on_in_the_same_place(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, columns = bars(60)
    np.savez("bars.npz", X=pictures, y=columns)
    real = MlflowTracker.trial

    def dies(tracker: MlflowTracker, folder: RunFolder, number: int) -> None:
        real(tracker, folder, number)
        if number == 1:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(MlflowTracker, "trial", dies)
        with pytest.raises(Killed):
            fit("bars.npz", checked_options(**small(tmp_path / "run", f"mlflow:{database}")), progress=Silent())
    top, trials = told(database)
    assert (top.info.status, sorted(trials)) == ("RUNNING", [0, 1])
    fit(*begun(tmp_path / "run"), progress=Silent())
    again, trials = told(database)
    assert (again.info.run_id, again.info.status, sorted(trials)) == (top.info.run_id, "FINISHED", [0, 1, 2])


@pytest.mark.slow
def test_a_tracker_that_fails_costs_the_run_nothing(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise ConnectionError("the server is gone")

    word, heard = f"mlflow:{database}", Heard()
    with monkeypatch.context() as patched:
        patched.setattr(MlflowTracker, "trial", gone)
        run = fit(bars(60), checked_options(**small(tmp_path / "run", word)), progress=heard)
    assert len(run.trials) == 3
    (sentence,) = [text for text in heard.said if "tracked" in text]
    assert sentence.startswith(f"No longer tracked by {word}: the server is gone. ")
    assert sentence.endswith(f"pixelfit track {tmp_path / 'run'} {word}")
    assert told(database)[0].info.status == "RUNNING"
    track(run.folder, [word])
    top, trials = told(database)
    assert (top.info.status, sorted(trials)) == ("FINISHED", [0, 1, 2])


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("wandb:here", "is neither mlflow:URI nor tensorboard:FOLDER"),
        ("mlflow", "is neither mlflow:URI nor tensorboard:FOLDER"),
        ("mlflow:", "is neither mlflow:URI nor tensorboard:FOLDER"),
        ("mlflow:https://me:secret@server/", "may hold no user and password"),
        ("mlflow:postgresql+psycopg2://me:secret@server/db", "may hold no user and password"),
        ("mlflow:HTTP://me:secret@server", "may hold no user and password"),
        ("mlflow:http://127.0.0.1:9", "cannot be used: "),
        ("mlflow:nonsense://", "cannot be used: "),
        ("tensorboard:a-file/below", "cannot be used: "),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_nothing_is_written(
    word: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "a-file").write_text("")
    with pytest.raises(OptionError, match=why) as caught:
        fit(bars(60), checked_options(**small(tmp_path / "run", word)), progress=Silent())
    assert "secret" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"needs the package tensorboard: pip install 'pixelfit\[tensorboard\]'"):
        trackers_for(["tensorboard:here"])


@pytest.mark.slow
def test_nothing_is_tracked_unless_asked_for() -> None:
    assert checked_options(task="regression").track is None
    assert parse_trackers(()) is None
    loaded = "import sys, pixelfit.automl; print([name for name in ('mlflow', 'tensorboard') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-P", "-c", loaded], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_mlflow_tells_its_makers_nothing() -> None:
    settings: Mapping[str, str] = mlflow_runs.os.environ
    assert settings["MLFLOW_DISABLE_TELEMETRY"] == "true"
