from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import forks
import numpy as np
import pytest
from conftest import bars
from PIL import Image

from pixelfit import cli
from pixelfit.automl import Run
from pixelfit.deadline import Deadline, parse_budget
from pixelfit.errors import OptionError


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def call(*words: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["pixelfit", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return Result(int(ended.value.code or 0), out, err)

    return call


def table_of(folder: Path, targets: list[object]) -> Path:
    """A CSV file beside pictures, one for each target."""
    pictures, _ = bars(len(targets))
    lines = ["picture,size"]
    for number, (picture, target) in enumerate(zip(pictures, targets, strict=True)):
        Image.fromarray(picture[..., 0]).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{target}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def bad_inputs(folder: Path) -> dict[str, tuple[list[object], str]]:
    """Commands that cannot work, each with what its sentence must name."""
    (folder / "empty").mkdir()
    one = folder / "one"
    (one / "cat").mkdir(parents=True)
    for number in range(20):
        Image.new("L", (8, 8), number).save(one / "cat" / f"{number}.png")
    good = [f"{number / 3:.3f}" for number in range(20)]
    for name in ("text", "nan", "good", "single", "cut", "fake"):
        (folder / name).mkdir()
    text = table_of(folder / "text", [*good[:6], "large", *good[7:]])
    nan = table_of(folder / "nan", [*good[:4], "", *good[5:]])
    fine = table_of(folder / "good", list(good))
    single = table_of(folder / "single", ["1.5"])
    cut = table_of(folder / "cut", list(good))
    whole = (folder / "cut" / "3.png").read_bytes()
    (folder / "cut" / "3.png").write_bytes(whole[: len(whole) // 2])
    fake = table_of(folder / "fake", list(good))
    (folder / "fake" / "7.png").write_text("hello")
    zipped, arrays = folder / "pictures.zip", folder / "arrays.npz"
    zipped.write_bytes(b"PK and no more")
    arrays.write_bytes(b"PK and no more")
    return {
        "no such path": ([folder / "nowhere"], "nowhere"),
        "empty folder": ([folder / "empty"], "empty holds no pictures"),
        "one class": ([one], "one class only ('cat'"),
        "one picture": ([single], "1 picture(s)"),
        "text in a regression": ([text, "--task", "regression"], "6.png of table has 'large' in 'size'"),
        "NaN target": ([nan], "row 5, 4.png (no target in 'size')"),
        "cut short": ([cut], "3.png"),
        "no picture": ([fake], "7.png (it is not a picture)"),
        "budget 0": ([fine, "--budget", "0"], "--budget '0' is too short"),
        "budget ten": ([fine, "--budget", "ten"], "--budget 'ten' is no length of time"),
        "no such column": ([fine, "--target", "weight"], "--target 'weight' is no column"),
        "target without table": ([one, "--target", "weight"], "--target 'weight' names a column, which only tables have"),
        "metric of the other task": (
            [fine, "--task", "regression", "--metric", "accuracy"],
            "--metric 'accuracy' is not for a regression",
        ),
        "metric of the inferred task": ([fine, "--metric", "macro_f1"], "which takes rmse or mae"),
        "no such change": (
            [fine, "--augment", "flip,sideways"],
            "--augment 'sideways' is no change of pictures; take auto, none",
        ),
        "trials": ([fine, "--trials", "0"], "--trials 0"),
        "no data": (["mnist", "--data-dir", folder / "empty"], "empty holds no file train-images-idx3-ubyte.gz"),
        "no such group": ([fine, "--group", "patient"], "--group 'patient' is no column"),
        "no such column of pictures": ([fine, "--pictures", "photo"], "--pictures 'photo' is no column"),
        "no such test set": ([fine, "--test", folder / "nowhere.csv"], "nowhere.csv"),
        "share left out": ([fine, "--max-left-out", "1.5"], "--max-left-out 1.5 cannot be used"),
        "no such weights": ([fine, "--weights", folder / "none.pth"], "There is no file of weights"),
        "damaged archive": ([zipped], "pictures.zip cannot be unpacked"),
        "damaged arrays": ([arrays], "arrays.npz cannot be read as an .npz file"),
        "no table": ([folder / "text" / "1.png"], "neither a folder nor a table"),
    }


CASES = (
    "no such path", "empty folder", "one class", "one picture", "text in a regression", "NaN target", "cut short", "no picture",
    "budget 0", "budget ten", "no such column", "target without table", "trials", "no data", "no table",
    "metric of the other task", "metric of the inferred task", "no such group", "no such column of pictures", "no such test set",
    "share left out", "no such change", "no such weights", "damaged archive", "damaged arrays",
)  # fmt: skip


@pytest.mark.parametrize("case", [pytest.param(CASES[0], marks=pytest.mark.apart), *CASES[1:]])
def test_bad_input_gives_one_sentence_and_writes_nothing(case: str, run_cli, tmp_path: Path) -> None:
    inputs = bad_inputs(tmp_path)
    assert set(inputs) == set(CASES)
    words, named = inputs[case]
    result = run_cli("fit", *words, "--out", tmp_path / "run")
    assert result.code == 2
    assert named in result.err
    assert result.err.startswith("pixelfit: ")
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("case", ["no such path", "one class", "one picture", "text in a regression", "no such group", "no data"])
def test_what_cannot_be_inspected_is_said_in_one_sentence(case: str, run_cli, tmp_path: Path) -> None:
    words, named = bad_inputs(tmp_path)[case]
    result = run_cli("inspect", *words, "--out", tmp_path / "facts.json")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert named in result.err
    assert not (tmp_path / "facts.json").exists()


def test_inspect_tells_what_is_there_and_what_is_wrong(run_cli, tmp_path: Path) -> None:
    table = table_of(tmp_path, [f"{number / 3:.3f}" for number in range(39)] + [""])
    (tmp_path / "5.png").write_bytes((tmp_path / "6.png").read_bytes())  # the same picture with another target
    (tmp_path / "7.png").write_text("hello")
    result = run_cli("inspect", table, "-o", tmp_path / "facts.json")
    assert result.code == 0
    out = " ".join(result.out.split())
    assert "Left out: row 40, 39.png (no target in 'size')." in out
    assert "Left out: 7.png (it is not a picture)." in out
    assert "Contradictions: 2 pictures share all their pixels with one that has another size" in out
    assert "Contradictions, the first: 5.png, 6.png." in out
    assert "Target: size, 0 to 12.67" in out
    assert "Counted: 40 given = 38 used + 2 left out; 38 used =" in out
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["facts"]["rows_given"] == 40
    assert sum(facts["sizes"].values()) == facts["facts"]["rows"] == 38
    assert {item["ref"] for item in facts["facts"]["left_out"]} == {"row 40, 39.png", "7.png"}


@pytest.mark.long("the command as users start it, whose two processes load all that they need")
@pytest.mark.slow
def test_fit_from_a_csv_then_predict_leaderboard_and_report(run_cli, tmp_path: Path) -> None:
    _, columns = bars(80)
    table = table_of(tmp_path, [column / 2 for column in columns])
    fitted = subprocess.run(
        [sys.executable, "-m", "pixelfit", "fit", table, "--trials", "3", "--steps", "20", "--out", "run"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert fitted.returncode == 0, fitted.stderr
    out = " ".join(fitted.stdout.split())
    assert "Task: regression ('size' holds numbers with decimals)" in out
    assert "RMSE" in out
    assert re.search(r"90 % intervals: covered \d+\.\d % of the unseen pictures, mean width \d", out)
    assert "run/report.html" in out
    predicted = run_cli("predict", tmp_path / "run", tmp_path / "3.png", tmp_path / "4.png", "-o", tmp_path / "new" / "out.csv")
    with (tmp_path / "new" / "out.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert predicted.code == 0
    assert [line["picture"] for line in lines] == [str(tmp_path / "3.png"), str(tmp_path / "4.png")]
    assert all(np.isfinite(float(line["size"])) for line in lines)
    sure = run_cli("predict", tmp_path / "run", tmp_path / "3.png", tmp_path / "4.png", "--coverage", "0.5")
    for plain, line in zip(lines, csv.DictReader(io.StringIO(sure.out)), strict=True):
        assert list(line) == ["picture", "size", "low", "high", "unlike", "strangeness", "error"]
        assert line["size"] == plain["size"]
        assert float(line["low"]) <= float(line["size"]) <= float(line["high"])
        assert float(plain["low"]) <= float(line["low"])  # without being asked for they hold 90 in 100
    board = run_cli("leaderboard", tmp_path / "run")
    assert "constant" in board.out
    assert "convnet" in board.out
    before = (tmp_path / "run" / "report.html").stat().st_mtime_ns
    assert run_cli("report", tmp_path / "run").code == 0
    assert (tmp_path / "run" / "report.html").stat().st_mtime_ns > before


def test_predict_prints_classes_with_their_probabilities(run_cli, classification_run: Run, tmp_path: Path) -> None:
    Image.fromarray(bars(9)[0][8][..., 0]).save(tmp_path / "right.png")
    words = (classification_run.folder.path, tmp_path / "right.png")
    result = run_cli("predict", *words)
    (line,) = csv.DictReader(io.StringIO(result.out))
    assert line["y"] in line.pop("set").split("|")
    shares = [float(value) for name, value in line.items() if name.startswith("p_")]
    assert sum(shares) == pytest.approx(1, abs=1e-4)
    assert line["y"] in ("left", "<script>document.title='hacked'</script>")
    (sure,) = csv.DictReader(io.StringIO(run_cli("predict", *words, "--coverage", "0.8").out))
    assert line["y"] in sure.pop("set").split("|")
    assert sure == line


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["predict", "RUN", "missing.png"], "missing.png cannot be read as a picture: there is no such file"),
        (["predict", "RUN", "missing.png", "--coverage", "1.5"], "The coverage 1.5 cannot be used: it must lie between 0 and 1"),
        (["predict", "elsewhere", "missing.png"], "elsewhere holds no finished model"),
        (["leaderboard", "elsewhere"], "elsewhere is no run folder"),
        (["report", "elsewhere"], "elsewhere is no run folder"),
        (["fit", "mnist-5k", "--out", "RUN"], "holds a run already"),
    ],
)
def test_bad_runs_and_pictures(words, named: str, run_cli, regression_run: Run) -> None:
    result = run_cli(*(regression_run.folder.path if word == "RUN" else word for word in words))
    assert result.code == 2
    assert named in result.err
    assert result.err.count("\n") == 1


def test_data_list_and_version(run_cli) -> None:
    listed = run_cli("data", "list").out
    assert "mnist-5k" in listed
    assert "licence" in listed
    assert run_cli("--version").out.strip().count(".") == 2


@pytest.mark.slow
def test_help_and_import_load_nothing_heavy() -> None:
    heavy = {"torch", "optuna", "pandas", "sklearn", "numpy", "bokeh"}
    code = f"import sys, pixelfit, pixelfit.cli; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.slow
def test_ctrl_c_ends_the_search_and_still_gives_everything(tmp_path: Path) -> None:
    process = forks.Popen(
        [sys.executable, "-u", "-m", "pixelfit", "fit", "mnist-5k", "--budget", "20m", "--out", "run"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "#0" in line:  # the baseline is done: a long training is under way
                process.send_signal(signal.SIGINT)
                break
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "Ended early by Ctrl-C" in out
    for name in ("scores.json", "leaderboard.csv", "report.html", "model/predictor.json"):
        assert (tmp_path / "run" / name).is_file()
    assert "ended early by the user" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("1h30m", 5400), ("2m 30s", 150), (75.5, 75.5)]
)
def test_budgets(text, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["ten", "", "0", "-5m", "10 minutes", "1s", "nan", "inf", "m", "1e3"])
def test_no_budgets(text: str) -> None:
    with pytest.raises(OptionError, match="--budget"):
        parse_budget(text)


def test_a_deadline_counts_the_time_before_it_and_keeps_a_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("pixelfit.deadline.time.monotonic", lambda: now[0])
    deadline = Deadline(60.0, started=990.0)
    assert (deadline.elapsed(), deadline.left()) == (10.0, 50.0)
    deadline.reserve(5.0)
    now[0] += 15
    assert deadline.left() == 30.0
    deadline.interrupt()
    assert deadline.left() == 0.0
    assert Deadline(None).left() == float("inf")
