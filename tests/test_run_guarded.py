"""A run's folder is one process's at a time, is replaced only when that is asked for, and keeps a log."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import bars

from pixelfit.automl import Run, fit
from pixelfit.deadline import Deadline
from pixelfit.errors import DataError, PixelfitError, RunError
from pixelfit.options import checked_options
from pixelfit.progress import Silent
from pixelfit.runlog import logged, note
from pixelfit.runs import RunFolder
from pixelfit.search import engine
from pixelfit.training.job import Job
from pixelfit.types import Json

HOLDS = (
    "import sys, time; from pathlib import Path; from pixelfit.runs import RunFolder\n"
    "with RunFolder.create(Path(sys.argv[1])).kept_for_itself():\n"
    "    print('held', flush=True)\n"
    "    time.sleep(600)\n"
)


def small(out: Path, **others: object) -> Run:
    pictures, columns = bars(60)
    options = checked_options(task="regression", trials=2, steps=5, folds=1, out=out, **others)
    return fit((pictures, columns), options, progress=Silent())


def lines_of(folder: Path) -> list[dict[str, Json]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_second_process_is_refused_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=r"Another process is at work on the run in .*run; wait until it has ended"):
            small(out)
        assert not (out / "run.json").exists()
    finally:
        holder.kill()
        holder.wait()
    assert small(out).folder.path == out


@pytest.mark.slow
def test_a_run_is_replaced_only_where_that_is_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "run"
    small(out)
    (out / "mine.txt").write_text("beside the run's own files")
    with pytest.raises(
        RunError,
        match="holds a run already; choose another --out, go on with that run with --resume",
    ):
        small(out)
    with pytest.raises(DataError):  # which is known before anything is removed
        fit((np.zeros((3, 12, 12)), np.array(["a", "a", "b"])), checked_options(out=out, overwrite=True), progress=Silent())
    (tmp_path / "bad.pth").write_text("no weights")
    with pytest.raises(PixelfitError, match=r"bad\.pth"):  # as is this
        small(out, overwrite=True, weights=tmp_path / "bad.pth")
    assert (out / "mine.txt").is_file()
    before = (out / "run.json").read_text()
    again = small(out, overwrite=True, seed=5)
    assert not (out / "mine.txt").exists()
    assert before != (out / "run.json").read_text()
    assert again.folder.read("scores.json")["seed"] == 5
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="holds files that are no run"):
        small(tmp_path / "notes", overwrite=True)
    assert (tmp_path / "notes" / "mine.txt").read_text() == "mine"


def test_runs_that_begin_at_once_get_folders_of_their_own() -> None:
    made: list[Path] = []
    threads = [threading.Thread(target=lambda: made.append(RunFolder.create_free(Path("digits")).path)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in made) == sorted(["digits", *(f"digits-{number}" for number in range(2, 9))])


@pytest.mark.apart
def test_the_log_tells_a_run_from_its_beginning_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small(tmp_path / "run")
    lines = lines_of(run.folder.path)
    events = [line["event"] for line in lines]
    assert (events[0], events[-1]) == ("begun", "ended")
    ended = [line for line in lines if line["event"] == "trial ended"]
    assert [line["trial"] for line in ended] == [trial.number for trial in run.trials]
    assert [line["score"] for line in ended] == [trial.score for trial in run.trials]
    assert all(line["level"] == "info" and line["memory_mb"] > 1 for line in lines)
    assert [line["elapsed_s"] for line in lines] == sorted(line["elapsed_s"] for line in lines)
    assert (capsys.readouterr().err, logging.getLogger("pixelfit").level) == ("", logging.NOTSET)


@pytest.mark.slow
def test_a_failed_trial_leaves_its_traceback_in_the_log_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_alone = engine.train_alone
    calls = 0

    def broken(job: Job, **others: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise ArithmeticError("the second training fails")
        return train_alone(job, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "train_alone", broken)
    run = small(tmp_path / "run")
    (failed,) = [line for line in lines_of(run.folder.path) if line["event"] == "trial failed"]
    assert (failed["level"], failed["error"]) == ("error", "ArithmeticError: the second training fails")
    assert "in broken" in failed["traceback"]
    assert [trial.error for trial in run.trials if trial.error] == ["ArithmeticError: the second training fails"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError("by nothing")])
def test_what_breaks_a_run_off_is_in_its_log(error: BaseException, tmp_path: Path) -> None:

    def broken_off() -> None:
        with logged(tmp_path / "log.jsonl", Deadline(None)):
            note("something", size=3)
            raise error

    with pytest.raises(type(error)):
        broken_off()
    begun, something, broken = lines_of(tmp_path)
    assert (begun["event"], something["size"], broken["event"]) == ("begun", 3, "broken off")
    assert broken["error"].startswith(type(error).__name__)
    note("afterwards")
    assert len(lines_of(tmp_path)) == 3


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with logged(Path("/dev/full"), Deadline(None)):
        note("something")
