from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pixelfit import report
from pixelfit.automl import Run
from pixelfit.files import read_json
from pixelfit.report.companions import draw_companions
from pixelfit.runs import RunFolder

COMPANIONS = ("report.json",)
RUNS = ("regression_run", "classification_run", "numbers_run", "labels_run")


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest) -> Run:
    """A run of each kind of target."""
    found: Run = request.getfixturevalue(request.param)
    return found


def test_drawing_again_gives_the_same_bytes_wherever_the_folder_lies(run: Run, tmp_path: Path) -> None:
    moved = RunFolder(Path(shutil.copytree(run.folder.path, tmp_path / "moved")))
    report.draw(moved)
    for name in COMPANIONS:
        assert (moved.path / name).read_bytes() == (run.folder.path / name).read_bytes()


def test_the_record_says_what_the_run_scored(run: Run) -> None:
    record, scores = read_json(run.folder.path / "report.json"), run.folder.read("scores.json")
    assert record["format"] == 1
    assert {name: record[name] for name in ("task", "metric", "seed", "test", "baseline")} == {
        name: scores[name] for name in ("task", "metric", "seed", "test", "baseline")
    }
    assert sum(record["split"]["sizes"].values()) == record["data"]["rows"]
    assert [trial["rank"] for trial in record["leaderboard"]] == list(range(1, len(run.trials) + 1))
    assert sum(member["weight"] for member in record["members"]) == pytest.approx(1)
    assert record["members"][0]["trial"] in {trial["trial"] for trial in record["leaderboard"] if trial["weight"] > 0}
    assert all((run.folder.path / name).exists() for name in record["files"].values())
    json.dumps(record, allow_nan=False)


def test_a_run_from_before_there_were_some_files_has_companions(regression_run: Run, tmp_path: Path) -> None:
    older = RunFolder(Path(shutil.copytree(regression_run.folder.path, tmp_path / "older")))
    for name in ("evidence.json", "suspects.json", "augmentation.json"):
        (older.path / name).unlink()
    draw_companions(older)
    record = read_json(older.path / "report.json")
    assert [record[name] for name in ("evidence", "suspects", "augmentation")] == [None, None, None]
