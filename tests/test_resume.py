"""Runs that are broken off at any moment go on, and end as they would have; what is damaged is named."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import forks
import numpy as np
import pytest
import torch
from conftest import bars

from benchmarks.faults import Tally, compare, outcome
from pixelfit import files, report
from pixelfit.automl import Run, fit
from pixelfit.data.reading import read
from pixelfit.deadline import Deadline
from pixelfit.errors import OptionError, PixelfitError, RunError
from pixelfit.options import checked_options
from pixelfit.predictor import Predictor
from pixelfit.progress import Silent
from pixelfit.replay import replay
from pixelfit.resume import begun
from pixelfit.runs import RunFolder
from pixelfit.sealed import seal
from pixelfit.search.space import build_space
from pixelfit.search.study import Study, mend
from pixelfit.training import checkpoint
from pixelfit.training.checkpoint import Checkpoint
from pixelfit.training.loop import Lesson, train
from pixelfit.training.pace import Check, Course, Pace
from pixelfit.types import Json

TRIALS = 6  # the baseline, three of a short portfolio, and two that are sampled


class Killed(BaseException):
    """What a kill is to the code under test: nothing catches it."""


class Unwatched:
    def on_progress(self, fraction: float, detail: str) -> None:
        pass

    def on_look(self, check: Check) -> None:
        pass

    def on_check(self, fraction: float, score: float) -> bool:
        return False


def run(out: Path, *, resume: bool = True, trials: int = TRIALS, **others: object) -> Run:
    options = checked_options(task="regression", trials=trials, steps=6, folds=1, out=out, resume=resume, **others)
    return fit(bars(80), options, progress=Silent())


_UNDISTURBED: dict[str, Json] = {}


@pytest.fixture
def undisturbed(short_portfolio: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Json]:
    """What comes of a run that nothing befalls, made once."""
    if not _UNDISTURBED:
        out = tmp_path_factory.mktemp("undisturbed") / "run"
        run(out)
        _UNDISTURBED.update(outcome(out))
    return _UNDISTURBED


@contextmanager
def dying_at(
    name: str, out: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, *, time: int = 1
) -> Iterator[list[str]]:
    """Within this block the run dies when the file is written for that time, and leaves it beside its place."""
    written: list[str] = []
    real = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if path.name.endswith(".part"):
            written.append(Path(target).relative_to(out).as_posix())
            if written.count(name) == time:
                raise error
        return real(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace)
        yield written


APART = pytest.mark.apart  # at files of the run's beginning, of a trial, of the results and of the report


@pytest.mark.slow
@pytest.mark.usefixtures("short_portfolio")
@pytest.mark.parametrize(
    ("name", "time"),
    [
        *(
            pytest.param(name, 1, marks=APART)
            for name in ("run.json", "trials/0001/plan.json", "model/predictor.json", "report.html")
        ),
        ("facts.json", 1),
        ("trials/0000/model.safetensors", 1),
        ("run.json", 2),
        ("trials/0001/SHA256SUMS", 1),
        ("trials/0004/trial.json", 1),
        ("search.json", 2),
        ("final.json", 1),
        ("predictions/test.csv", 1),
        ("pictures/pictures.json", 1),
        ("scores.json", 2),
    ],
)
def test_a_run_that_dies_at_any_file_goes_on_and_ends_the_same(
    name: str, time: int, undisturbed: dict[str, Json], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with dying_at(name, out, monkeypatch, Killed(), time=time) as written, pytest.raises(Killed):
        run(out)
    assert written[-1] == name
    (out / ".run.json.abc.part").write_text("{")  # a kill leaves what an exception cleans up
    run(out)
    tally = Tally()
    compare(outcome(out), undisturbed, tally)
    assert not tally.differences, name


@pytest.mark.slow
@pytest.mark.usefixtures("short_portfolio")
@pytest.mark.parametrize("name", ["data.json", "trials/0000/trial.json", "trials/0004/model.json", "predictions/validation.csv"])
def test_a_disk_that_is_full_is_one_error_and_what_was_done_is_kept(
    name: str, undisturbed: dict[str, Json], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    full = OSError(28, "No space left on device", str(out / "x"))
    with dying_at(name, out, monkeypatch, full), pytest.raises(OSError, match="No space left"):
        run(out)
    run(out)
    tally = Tally()
    compare(outcome(out), undisturbed, tally)
    assert not tally.differences


@pytest.mark.slow
@pytest.mark.parametrize(("family", "averaging"), [("convnet", 0.1), ("mlp", 0.0)])
def test_a_training_goes_on_to_the_last_bit(
    family: str, averaging: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_SHARE", 1e9)  # at every epoch, however long it takes
    facts, splits = read(bars(200), checked_options(task="regression", folds=1), Silent())
    known = build_space(facts, splits.train).known_good({"family": family})[0]
    recipe = dataclasses.replace(known, averaging=averaging)
    lesson = Lesson(splits.train, splits.validation, facts)

    def trained(stopped: Callable[[], bool], kept: Checkpoint | None = None):
        return train(recipe, lesson, seed=3, pace=Pace(steps=30), monitor=Unwatched(), stopped=stopped, checkpoint=kept)

    def dies_after(steps: int) -> Callable[[], bool]:
        left = iter(range(steps))

        def stopped() -> bool:
            if next(left, None) is None:
                raise Killed
            return False

        return stopped

    whole = trained(lambda: False)
    for _ in range(2):
        with pytest.raises(Killed):
            trained(dies_after(9), Checkpoint(tmp_path / "kept.safetensors", least_s=0.0))
    asked: list[bool] = []
    again = trained(lambda: bool(asked.append(True)), Checkpoint(tmp_path / "kept.safetensors", least_s=0.0))
    assert len(asked) < 20  # it did not begin anew
    before, after = whole.model.module.state_dict(), again.model.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [look.score for look in whole.history] == [look.score for look in again.history]
    assert (whole.steps, whole.best_at_step, whole.averaged) == (again.steps, again.best_at_step, again.averaged)


@pytest.mark.slow
def test_a_damaged_checkpoint_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_SHARE", 1e9)
    facts, splits = read(bars(200), checked_options(task="regression", folds=1), Silent())
    recipe = build_space(facts, splits.train).known_good({"family": "mlp"})[0]
    kept = Checkpoint(tmp_path / "kept.safetensors", least_s=0.0, last=True)
    lesson = Lesson(splits.train, splits.validation, facts)
    train(recipe, lesson, seed=3, pace=Pace(steps=12), monitor=Unwatched(), stopped=lambda: False, checkpoint=kept)
    assert kept.read() is not None
    whole = kept.file.read_bytes()
    for spoilt in (whole[:-5], whole[:100], b"", flipped(whole, len(whole) - 9), flipped(whole, 3)):
        kept.file.write_bytes(spoilt)
        assert kept.read() is None
        assert kept.spent_s() == 0.0


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


@pytest.mark.slow
def test_every_file_of_a_finished_run_is_missed_or_named(tmp_path: Path) -> None:
    out = run(tmp_path / "run", trials=2).folder.path
    named = 0
    for file in sorted(file for file in out.rglob("*") if file.is_file() and file.stat().st_size):
        if file.name in {"SHA256SUMS", "log.jsonl", "study.log", "search.json", "plan.json"}:
            continue  # read by a search that goes on alone
        whole = file.read_bytes()
        for spoilt in (flipped(whole, len(whole) // 2), whole[: len(whole) // 2]):
            file.write_bytes(spoilt)
            with pytest.raises(RunError, match="damaged") as raised:
                check(out)
            assert file.name in str(raised.value)
            named += 1
        file.write_bytes(whole)
    check(out)
    assert named > 30


def check(out: Path) -> None:
    """What ``predict`` and ``report`` begin with, and a search that goes on."""
    folder = RunFolder.existing(out)
    Predictor.load(out)
    folder.ended_trials()
    with folder.drawn_again():
        pass


@pytest.mark.apart
@pytest.mark.usefixtures("short_portfolio")
def test_a_trial_that_was_damaged_is_run_again(
    undisturbed: dict[str, Json], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with dying_at("trials/0003/plan.json", out, monkeypatch, Killed()), pytest.raises(Killed):
        run(out)
    weights = out / "trials" / "0001" / "model.safetensors"
    weights.write_bytes(flipped(weights.read_bytes(), 1000))
    (out / "study.log").write_bytes((out / "study.log").read_bytes()[:-300])  # what it knew is told again
    (out / "log.jsonl").write_bytes((out / "log.jsonl").read_bytes()[:-7])
    said: list[str] = []

    class Hearing(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    options = checked_options(task="regression", trials=TRIALS, steps=6, folds=1, out=out, resume=True)
    fit(bars(80), options, progress=Hearing())
    assert any("model.safetensors is damaged" in text and "Trial 1 is run again" in text for text in said)
    tally = Tally()
    compare(outcome(out), undisturbed, tally)
    assert not tally.differences


def test_a_journal_is_mended(tmp_path: Path) -> None:
    file = tmp_path / "study.log"
    (tmp_path / "study.log.lock").symlink_to(file)
    file.write_bytes(b'{"a": 1}\n{"b": 2}\n{"c": ')
    mend(file)
    assert file.read_bytes() == b'{"a": 1}\n{"b": 2}\n'
    assert not (tmp_path / "study.log.lock").is_symlink()
    facts, splits = read(bars(60), checked_options(task="regression", folds=1), Silent())
    study = Study(file, build_space(facts, splits.train), seed=0)  # lines that are JSON, and no journal
    assert study.ask().number == 0


@pytest.mark.slow
def test_a_finished_run_says_so_and_others_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(OptionError, match="leave one of them out"):
        checked_options(out=out, resume=True, overwrite=True)
    with pytest.raises(OptionError, match="needs the run's folder"):
        checked_options(resume=True)
    run(out, trials=2)
    with pytest.raises(RunError, match="is finished; its report is"):
        run(out, trials=2)
    with pytest.raises(RunError, match="arrays in memory, which it does not keep: go on with the same again"):
        begun(out)
    (out / "SHA256SUMS").unlink()  # as if it had been killed just before its end
    with pytest.raises(RunError, match=r"began with another --trials \(2, now 3\)"):
        run(out, trials=3)
    options = checked_options(task="regression", trials=2, steps=6, folds=1, out=out, resume=True)
    with pytest.raises(RunError, match="The data are not those"):
        fit(bars(90), options, progress=Silent())
    with pytest.raises(RunError, match="is no run folder"):
        begun(tmp_path)
    (out / "run.json").write_text("{}")
    with pytest.raises(RunError, match="another version"):
        begun(out)


@pytest.mark.apart
@pytest.mark.usefixtures("short_portfolio")
def test_a_run_that_its_user_ended_early_goes_on_from_the_step_it_stood_at(
    undisturbed: dict[str, Json], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines: list[Deadline] = []

    class Interrupted(Silent):
        def start_trial(self, number: int, title: str) -> None:
            if number == 3:
                deadlines[-1].interrupt()

    class Watched(Deadline):
        def __init__(self, budget_s: float | None, *, started: float | None = None) -> None:
            super().__init__(budget_s, started=started)
            deadlines.append(self)

    out = tmp_path / "run"
    options = checked_options(task="regression", trials=TRIALS, steps=6, folds=1, out=out, resume=True)
    with monkeypatch.context() as patched:
        patched.setattr("pixelfit.automl.Deadline", Watched)
        ended = fit(bars(80), options, progress=Interrupted())
    assert ended.interrupted
    assert len(ended.trials) == 4
    assert not run(out).interrupted
    tally = Tally()
    compare(outcome(out), undisturbed, tally)
    assert not tally.differences
    assert "let it go on" in (out / "report.html").read_text()
    assert json.loads((out / "timeline.json").read_text())["sittings"] == 2


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [time.time()]

    def jumping() -> float:
        now[0] -= 86_400.0 if len(str(now[0])) % 2 else -86_500.0
        return now[0]

    monkeypatch.setattr(time, "time", jumping)
    ended = run(tmp_path / "run", resume=False, trials=2, budget="5m")
    assert 0 < json.loads((ended.folder.path / "scores.json").read_text())["wall_s"] < 300
    assert not ended.interrupted


def test_a_budget_goes_on_from_what_was_left(tmp_path: Path) -> None:
    deadline = Deadline(100.0)
    deadline.add(60.0)
    assert 39.0 < deadline.left() <= 40.0
    with deadline.standing(10.0):
        assert (deadline.elapsed(), deadline.left()) == (10.0, 90.0)
    with deadline.standing(None):
        assert deadline.left() < 41.0


@pytest.mark.slow
def test_a_search_killed_with_its_budget_running_goes_on(tmp_path: Path) -> None:
    """The command line, a real kill, and a clock: the budget counts what was used before."""
    rows = bars(120)
    np.savez(tmp_path / "bars.npz", X=rows[0], y=np.asarray(list(rows[1])))
    words = [sys.executable, "-P", "-m", "pixelfit", "fit", "bars.npz", "--budget", "15s", "--folds", "1", "--out", "run"]
    process = forks.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ended = tmp_path / "run" / "trials" / "0001" / "SHA256SUMS"
    while not ended.is_file() and process.poll() is None:
        threading.Event().wait(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    scores = {file.parent.name: file.read_bytes() for file in (tmp_path / "run").glob("trials/*/trial.json")}
    assert scores
    (tmp_path / "elsewhere").mkdir()
    words = [sys.executable, "-P", "-m", "pixelfit", "resume", "../run"]
    went_on = forks.run(words, cwd=tmp_path / "elsewhere", capture_output=True, text=True)
    assert went_on.returncode == 0, went_on.stderr
    assert "Going on with the run" in went_on.stdout
    for name, before in scores.items():
        assert (tmp_path / "run" / "trials" / name / "trial.json").read_bytes() == before
    numbers = sorted(int(file.parent.name) for file in (tmp_path / "run").glob("trials/*/trial.json"))
    assert numbers == list(range(len(numbers)))
    again = forks.run(words, cwd=tmp_path / "elsewhere", capture_output=True, text=True)
    assert (again.returncode, "is finished; its report is" in again.stdout) == (0, True)


@pytest.mark.slow
def test_a_run_that_dies_while_its_pictures_are_read_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> None:
        raise Killed

    monkeypatch.chdir(tmp_path)
    pictures, columns = bars(60)
    np.savez("bars.npz", X=pictures, y=columns)
    options = checked_options(task="regression", trials=2, steps=6, folds=1)
    with monkeypatch.context() as patched:
        patched.setattr("pixelfit.resume.read", dies)
        with pytest.raises(Killed):
            fit("bars.npz", options, progress=Silent())
    out = Path("runs") / "bars"
    assert sorted(path.name for path in out.iterdir() if path.name != ".lock") == ["log.jsonl", "run.json"]
    told: list[float] = []

    class Hearing(Silent):
        def went_before(self, seconds: float) -> None:
            told.append(seconds)

    ended = fit(*begun(out), progress=Hearing())
    assert ended.folder.path == out
    assert len(told) == 1
    assert told[0] > 0
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines[:3]] == ["begun", "broken off", "begun"]
    assert lines[2]["elapsed_s"] >= lines[1]["elapsed_s"]


@pytest.mark.parametrize("was_there", [True, False])
def test_a_run_whose_data_are_of_no_use_leaves_nothing(was_there: bool, tmp_path: Path) -> None:
    above, out = tmp_path / "mine", tmp_path / "mine" / "above" / "run"
    if was_there:
        out.mkdir(parents=True)
    with pytest.raises(PixelfitError):
        fit((np.zeros((3, 12, 12)), np.array(["a", "a", "b"])), checked_options(out=out), progress=Silent())
    assert list(tmp_path.rglob("*")) == ([above, above / "above", out] if was_there else [])


@pytest.mark.slow
def test_a_disk_that_is_full_while_pictures_are_read_leaves_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "store"))

    with monkeypatch.context() as patched:
        patched.setattr("pixelfit.resume.read", full)
        with pytest.raises(OSError, match="No space left"):
            run(tmp_path / "run", trials=1)
    assert (tmp_path / "run" / "run.json").is_file()
    assert len(run(tmp_path / "run", trials=1).trials) == 1


def test_a_folder_that_may_not_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "run"))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(PixelfitError, match="cannot be made: Permission denied"):
        run(tmp_path / "run", resume=False, trials=2)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "kept.json"
    files.write_json(file, {"a": 1})
    with (
        dying_at("kept.json", tmp_path, monkeypatch, OSError(28, "No space left on device")),
        pytest.raises(OSError, match="No space"),
    ):
        files.write_json(file, {"a": 2})
    assert files.read_json(file) == {"a": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["kept.json"]


@pytest.mark.slow
def test_a_report_drawn_again_has_its_checksums(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", trials=2).folder
    with folder.drawn_again():
        report.draw(folder)
    assert folder.is_finished()
    shutil.copytree(folder.path, tmp_path / "copy")
    assert outcome(tmp_path / "copy")["checksums"]


@pytest.mark.apart
def test_a_replay_from_the_record_gives_the_same_scores(tmp_path: Path) -> None:
    rows = bars(120)
    np.savez(tmp_path / "bars.npz", X=rows[0], y=np.asarray(list(rows[1])))
    options = checked_options(budget="7s", folds=1, out=tmp_path / "run")  # what the clock made of each training is recorded
    ended = fit(tmp_path / "bars.npz", options, progress=Silent())
    before = {file: file.read_bytes() for file in ended.folder.path.rglob("*") if file.is_file()}
    found = replay(ended.folder.path, Silent())
    assert set(found.trials) >= {member.trial for member in ended.predictor.members}
    assert found.figures
    assert found.is_same, [figure for figure in found.figures if not figure.is_same]
    assert before == {file: file.read_bytes() for file in ended.folder.path.rglob("*") if file.is_file()}
    trial = ended.folder.path / "trials" / f"{found.trials[-1]:04d}" / "trial.json"
    record = json.loads(trial.read_text())
    record["metrics"] = {name: value + 1.0 for name, value in record["metrics"].items()}
    trial.write_text(json.dumps(record))
    (trial.parent / "SHA256SUMS").unlink()
    seal(trial.parent, [trial])
    assert not replay(ended.folder.path, Silent()).is_same
    rows[0][0] += 1
    np.savez(tmp_path / "bars.npz", X=rows[0], y=np.asarray(list(rows[1])))
    with pytest.raises(RunError, match="has changed since the run"):
        replay(ended.folder.path, Silent())


@pytest.mark.slow
def test_a_distilled_model_is_taught_again(tmp_path: Path) -> None:
    rows = bars(120)
    np.savez(tmp_path / "bars.npz", X=rows[0], y=np.asarray(list(rows[1])))
    options = checked_options(task="regression", trials=4, steps=40, distill=True, out=tmp_path / "run")
    ended = fit(tmp_path / "bars.npz", options, progress=Silent())
    (member,) = ended.predictor.members
    assert ended.trials[-1].purpose == "distilled"
    found = replay(ended.folder.path, Silent())
    assert found.trials == (member.trial,)
    assert found.is_same, [figure for figure in found.figures if not figure.is_same]
    (ended.folder.trial_folder(member.trial) / "teachings.safetensors").unlink()
    with pytest.raises(RunError, match=r"teachings\.safetensors is (missing or damaged|damaged or missing)"):
        replay(ended.folder.path, Silent())


@pytest.mark.slow
def test_a_training_that_was_changed_on_its_way_is_followed() -> None:
    facts, splits = read(bars(200), checked_options(task="regression", folds=1), Silent())
    recipe = build_space(facts, splits.train).known_good({"family": "mlp"})[0]
    recipe = dataclasses.replace(recipe, averaging=0.1)
    lesson = Lesson(splits.train, splits.validation, facts)
    course = Course(40, ((9, 24), (20, 22)), 22, "complete")
    followed = [
        train(recipe, lesson, seed=3, pace=Pace(course=course), monitor=Unwatched(), stopped=lambda: False) for _ in range(2)
    ]
    assert (followed[0].steps, followed[0].planned, followed[0].replans) == (22, 40, ((9, 24), (20, 22)))
    other = train(recipe, lesson, seed=3, pace=Pace(steps=22), monitor=Unwatched(), stopped=lambda: False)
    weights = [one.model.module.state_dict() for one in (*followed, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    for state in ("pruned", "interrupted"):
        ended = train(
            recipe, lesson, seed=3, pace=Pace(course=Course(40, (), 10, state)), monitor=Unwatched(), stopped=lambda: False
        )
        assert (ended.steps, ended.state) == (10, state)
