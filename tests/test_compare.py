"""Runs side by side."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import HOSTILE, opened_copy
from rich.console import Console
from sklearn.metrics import average_precision_score
from typer.testing import CliRunner

from pixelfit.automl import Run
from pixelfit.cli import app
from pixelfit.compare import compare
from pixelfit.compare.terminal import show
from pixelfit.errors import OptionError, RunError

Change = Callable[[pd.DataFrame], pd.DataFrame]


def copied(run: Run, folder: Path, change: Change = lambda frame: frame) -> Path:
    """A copy of the run whose test predictions are changed."""
    opened_copy(run.folder.path, folder)
    file = folder / "predictions" / "test.csv"
    change(pd.read_csv(file, dtype={"picture": str})).to_csv(file, index=False)
    return folder


def worse(frame: pd.DataFrame) -> pd.DataFrame:
    """Predictions that are off by one more, in another order."""
    return frame.assign(prediction=frame.prediction + 1).sample(frac=1, random_state=0)


def test_the_difference_is_paired_over_the_same_pictures(regression_run: Run, tmp_path: Path) -> None:
    other = copied(regression_run, tmp_path / "other", worse)
    found = compare([regression_run.folder.path, other]).differences[0]
    frame = pd.read_csv(regression_run.folder.path / "predictions" / "test.csv")
    one, two = frame.prediction - frame.target, frame.prediction + 1 - frame.target
    assert found.metric == "rmse"
    assert found.value == pytest.approx(np.sqrt((two**2).mean()) - np.sqrt((one**2).mean()))
    rng = np.random.default_rng(7)
    drawn = [rng.integers(len(frame), size=len(frame)) for _ in range(4000)]
    gains = [np.sqrt((two.to_numpy()[rows] ** 2).mean()) - np.sqrt((one.to_numpy()[rows] ** 2).mean()) for rows in drawn]
    assert [found.low, found.high] == pytest.approx(list(np.quantile(gains, (0.025, 0.975))), abs=0.05)
    assert "higher than the first run's: worse, by more than chance explains" in found.sentence
    back = compare([other, regression_run.folder.path]).differences[0]
    assert "lower than the first run's: better" in back.sentence


def test_a_run_cannot_be_told_from_its_copy(
    regression_run: Run, classification_run: Run, numbers_run: Run, labels_run: Run, tmp_path: Path
) -> None:
    for place, run in enumerate((regression_run, classification_run, numbers_run, labels_run)):
        found = compare([run.folder.path, copied(run, tmp_path / str(place))]).differences[0]
        assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)
        assert "cannot be told apart" in found.sentence


def test_of_classes_the_share_of_hits_counts(classification_run: Run, tmp_path: Path) -> None:
    def all_wrong(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(prediction="something else")

    found = compare([classification_run.folder.path, copied(classification_run, tmp_path / "wrong", all_wrong)]).differences[0]
    assert found.metric == "accuracy"
    assert found.value == pytest.approx(-classification_run.scores.test["accuracy"].value)
    assert "lower than the first run's: worse" in found.sentence


def test_of_several_numbers_each_counts_in_its_deviations(numbers_run: Run, tmp_path: Path) -> None:
    def exact(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(**{f"prediction_{name}": frame[f"target_{name}"] for name in numbers_run.facts.target_names})

    found = compare([numbers_run.folder.path, copied(numbers_run, tmp_path / "exact", exact)]).differences[0]
    assert found.metric == "nrmse"
    assert found.value == pytest.approx(-numbers_run.scores.test["nrmse"].value)


def test_of_several_labels_average_precision_counts(labels_run: Run, tmp_path: Path) -> None:
    names = [f"p_{label}" for label in labels_run.facts.classes or ()]

    def turned(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(**{name: 1 - frame[name] for name in names})

    other = copied(labels_run, tmp_path / "turned", turned)
    found = compare([labels_run.folder.path, other]).differences[0]
    frame = pd.read_csv(labels_run.folder.path / "predictions" / "test.csv", keep_default_na=False)
    has = np.array([[label in true.split(";") for label in labels_run.facts.classes or ()] for true in frame.target])
    expected = [average_precision_score(has, raw, average="macro") for raw in (frame[names], 1 - frame[names])]
    assert found.value == pytest.approx(expected[1] - expected[0])


def test_other_pictures_tasks_and_targets_are_not_compared_closely(
    regression_run: Run, classification_run: Run, numbers_run: Run, tmp_path: Path
) -> None:
    def renamed(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(picture="new " + frame.picture)

    others = [copied(regression_run, tmp_path / "other", renamed), classification_run.folder.path, numbers_run.folder.path]
    found = compare([regression_run.folder.path, *others])
    assert "tested on other pictures" in found.differences[0].sentence
    assert all("another task, other targets or other classes" in each.sentence for each in found.differences[1:])
    assert all(each.value is None for each in found.differences)
    rows = dict(found.rows)
    assert rows["accuracy"][:2] == ("", "")
    assert rows["accuracy"][2]
    assert rows["RMSE"][0] == rows["RMSE"][1] != ""
    names = [name for name, _ in found.rows]
    assert names.index("accuracy") < names.index("final model")  # scores stand together


def test_on_the_terminal_it_fits_and_shows_text(classification_run: Run, numbers_run: Run, tmp_path: Path) -> None:
    runs = [str(run.folder.path) for run in (classification_run, numbers_run)]
    out = io.StringIO()
    show(compare([classification_run.folder.path, numbers_run.folder.path]), Console(file=out, width=80, highlight=False))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("run 2" in line for line in lines)
    assert f"Run 1: {runs[0]}" in out.getvalue().replace("\n", "")
    assert HOSTILE[:8] in out.getvalue()  # a target's name
    piped = CliRunner().invoke(app, ["compare", *runs])
    assert piped.exit_code == 0
    assert f"Run 2: {runs[1]}" in piped.output


def test_the_file_has_what_its_ending_says(regression_run: Run, tmp_path: Path) -> None:
    other = copied(regression_run, tmp_path / "other", worse)
    runs = [str(regression_run.folder.path), str(other)]
    for ending in ("json", "csv", "html"):
        done = CliRunner().invoke(app, ["compare", *runs, "-o", f"both.{ending}"])
        assert done.exit_code == 0, done.output
    found = compare(list(map(Path, runs)))
    assert json.loads(Path("both.json").read_text()) == json.loads(json.dumps(found.to_json()))
    with Path("both.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["", *runs], *([name, *values] for name, values in found.rows)]
    assert "by more than chance explains" in Path("both.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["RUN"], "Name at least two runs"),
        (["RUN", "RUN/"], "is named twice"),
        (["RUN", "nowhere"], "nowhere is no run folder"),
        (["RUN", "unfinished"], "unfinished is not finished"),
        (["RUN", "damaged"], "scores.json is damaged"),
        (["RUN", "copy", "-o", "both.pdf"], "-o takes files that end in .html, .json, .csv"),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_sentence(
    arguments: list[str], words: str, regression_run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = regression_run.folder.path
    for name in ("unfinished", "damaged", "copy"):
        opened_copy(path, tmp_path / name)
    (tmp_path / "unfinished" / "scores.json").unlink()
    (tmp_path / "damaged" / "scores.json").write_text("{")
    result = CliRunner().invoke(app, ["compare", *(each.replace("RUN", str(path)) for each in arguments)])
    assert isinstance(result.exception, (OptionError, RunError))
    assert words in str(result.exception)
    assert not list(tmp_path.glob("both.*"))
