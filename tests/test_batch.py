"""Predictions for many pictures from every kind of source: a row for each, streamed, resumable, nothing dropped in silence."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import forks
import numpy as np
import pandas as pd
import pytest
from conftest import HOSTILE, bars
from PIL import Image
from typer.testing import CliRunner

import pixelfit
from pixelfit import batch
from pixelfit.automl import Run
from pixelfit.cli import app
from pixelfit.data.streams import stream_of
from pixelfit.errors import DataError, OptionError
from pixelfit.progress import Silent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Thirty pictures, ten of them further down, a damaged one, a hidden one and a text."""
    folder = tmp_path / "new pictures"
    (folder / "below").mkdir(parents=True)
    for number, picture in enumerate(bars(30, seed=3)[0]):
        Image.fromarray(picture[..., 0]).save(folder / ("below" if number >= 20 else "") / f"{number:02d}.png")
    (folder / "damaged.png").write_bytes(b"no picture")
    (folder / ".hidden.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("some words")
    return folder


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def predict(run: Run, *words: object, code: int = 0, given: str | None = None):
    result = CliRunner().invoke(app, ["predict", str(run.folder.path), *map(str, words)], input=given, catch_exceptions=True)
    if isinstance(result.exception, pixelfit.errors.PixelfitError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def test_a_folder_gives_a_row_a_picture_in_the_order_of_names(regression_run: Run, folder: Path) -> None:
    result = predict(regression_run, folder)
    rows = rows_of(result.stdout)
    names = [Path(row["picture"]).relative_to(folder).as_posix() for row in rows]
    assert names == [*(f"{number:02d}.png" for number in range(20)), "damaged.png", *(f"below/{n}.png" for n in range(20, 30))]
    assert list(rows[0]) == ["picture", "y", "low", "high", "unlike", "strangeness", "error"]
    bad = rows.pop(20)
    assert (bad["error"], bad["y"], bad["low"], bad["unlike"]) == ("it is not a picture", "", "", "")
    pictures = bars(30, seed=3)[0]
    assert [float(row["y"]) for row in rows] == pytest.approx(regression_run.predictor.predict(pictures).tolist())
    ends = regression_run.predictor.predict_interval(pictures)
    assert [[float(row["low"]), float(row["high"])] for row in rows] == [pytest.approx(pair) for pair in ends.tolist()]
    strange = regression_run.predictor.predict_strangeness(pictures)
    assert [float(row["strangeness"]) for row in rows] == pytest.approx(strange.tolist(), rel=1e-3)
    assert [row["unlike"] for row in rows] == [str(bool(value > 1)) for value in strange]
    assert "Passed over" in result.stderr
    assert "1 file whose" in result.stderr
    assert "1 picture cannot be used" in result.stderr
    assert "damaged.png: it is not a picture" in result.stderr


def test_a_table_gives_a_row_a_row(regression_run: Run, folder: Path) -> None:
    table = folder.parent / "table.csv"
    table.write_text('id,file\n1,new pictures/03.png\n2,\n3,missing.png\n4,"new pictures/below/25.png"\n')
    rows = rows_of(predict(regression_run, table).stdout)
    assert [row["picture"] for row in rows] == ["new pictures/03.png", "row 2", "missing.png", "new pictures/below/25.png"]
    assert [row["error"] for row in rows] == ["", "no path in 'file'", "there is no such file", ""]
    for suffix, write in ((".tsv", lambda f, p: f.to_csv(p, sep="\t")), (".parquet", pd.DataFrame.to_parquet)):
        other = table.with_suffix(suffix)
        write(pd.read_csv(table), other)
        assert rows_of(predict(regression_run, other).stdout) == rows
    lines = table.with_suffix(".jsonl")
    pd.read_csv(table).to_json(lines, orient="records", lines=True)
    assert rows_of(predict(regression_run, lines).stdout) == rows
    assert rows_of(predict(regression_run, table, "--pictures", "file").stdout) == rows
    with pytest.raises(OptionError, match=r"--pictures 'nothing' is no column of .*its columns are id, file"):
        predict(regression_run, table, "--pictures", "nothing")
    with pytest.raises(OptionError, match="names a column, which only tables have"):
        predict(regression_run, folder, "--pictures", "file")


def test_archives_arrays_and_standard_input_give_the_same(regression_run: Run, folder: Path) -> None:
    expected = rows_of(predict(regression_run, folder).stdout)
    with zipfile.ZipFile(folder.parent / "all.zip", "w") as zipped, tarfile.open(folder.parent / "all.tar.gz", "w:gz") as tarred:
        for file in sorted(folder.rglob("*")):
            zipped.write(file, file.relative_to(folder))
            tarred.add(file, file.relative_to(folder), recursive=False)
    for archive in ("all.zip", "all.tar.gz"):
        rows = rows_of(predict(regression_run, folder.parent / archive).stdout)
        assert [Path(row.pop("picture")).name for row in rows] == [Path(row["picture"]).name for row in expected]
        assert rows == [{name: value for name, value in row.items() if name != "picture"} for row in expected]
    typed = "".join(f"{row['picture']}\n" for row in expected)
    assert rows_of(predict(regression_run, "-", given=typed).stdout) == expected
    pictures = bars(30, seed=3)[0]
    np.savez(folder.parent / "arrays.npz", images=pictures)
    arrays = rows_of(predict(regression_run, folder.parent / "arrays.npz").stdout)
    assert arrays[7]["picture"] == "arrays.npz row 7"
    assert [row["y"] for row in arrays] == [row["y"] for row in expected if not row["error"]]


def test_classes_have_probabilities_and_sets(classification_run: Run, folder: Path) -> None:
    rows = rows_of(predict(classification_run, folder / "03.png", folder / "damaged.png").stdout)
    assert list(rows[0]) == ["picture", "y", "set", f"p_{HOSTILE}", "p_left", "unlike", "strangeness", "error"]
    assert rows[0]["y"] in ("left", HOSTILE)
    assert float(rows[0]["p_left"]) + float(rows[0][f"p_{HOSTILE}"]) == pytest.approx(1, abs=1e-5)
    without = rows_of(predict(classification_run, folder / "03.png", "--coverage", "0").stdout)
    assert "set" not in without[0]


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["regression_run", "classification_run", "numbers_run", "labels_run"])
def test_parquet_holds_what_csv_does_with_numbers_as_numbers(fixture: str, request: pytest.FixtureRequest, folder: Path) -> None:
    run: Run = request.getfixturevalue(fixture)
    table, columnar = folder.parent / "out" / "table.csv", folder.parent / "out" / "table.parquet"
    for out in (table, columnar):
        result = predict(run, folder, "-o", out)
        assert f"Wrote 31 rows to {out}" in result.stdout.replace("\n", "")
    assert sorted(file.name for file in table.parent.iterdir()) == ["table.csv", "table.parquet"]
    frame, text = pd.read_parquet(columnar), pd.read_csv(table)
    assert list(frame.columns) == list(text.columns)
    for name in frame.columns:
        if name in ("picture", "error", "set", "labels") or (name == "y" and run.facts.classes):
            assert frame[name].fillna("").tolist() == text[name].fillna("").tolist()
        elif name == "unlike":
            assert frame[name].tolist() == [None if pd.isna(value) else bool(value) for value in text[name]]
        else:
            assert frame[name].dtype == np.float64
            assert frame[name].tolist() == pytest.approx(text[name].tolist(), nan_ok=True)


def test_a_column_of_a_name_of_ours_is_told_apart(classification_run: Run, folder: Path) -> None:
    from dataclasses import replace

    named = replace(classification_run.predictor, target_name="error")
    source = stream_of([folder / "01.png", folder / "damaged.png"], column=None, lines=None, progress=Silent())
    (rows,) = batch.predicted(named, source.items(), None)
    assert rows[0]["predicted_error"] in ("left", HOSTILE)
    assert (rows[0]["error"], rows[1]["error"]) == (None, "it is not a picture")


def test_rows_are_the_same_however_many_are_predicted_at_once(
    regression_run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows_of(predict(regression_run, folder).stdout)
    monkeypatch.setattr(batch, "_AT_ONCE", 4)
    for row, other in zip(rows_of(predict(regression_run, folder).stdout), expected, strict=True):
        assert (row["picture"], row["error"]) == (other["picture"], other["error"])
        assert (row["y"] and float(row["y"])) == pytest.approx(other["y"] and float(other["y"]))
    monkeypatch.setattr(batch, "_AT_ONCE", 1)  # the damaged one comes last of its chunk, alone
    assert rows_of(predict(regression_run, folder / "damaged.png", folder / "01.png").stdout)[0]["error"] == "it is not a picture"


def test_pictures_that_cannot_be_read_are_not_held_back(
    regression_run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_AT_ONCE", 2)
    source = stream_of([*[folder / "damaged.png"] * 5, folder / "01.png"], column=None, lines=None, progress=Silent())
    chunks = list(batch.predicted(regression_run.predictor, source.items(), 0.9))
    assert [len(chunk) for chunk in chunks] == [2, 2, 2]
    assert len({tuple(row) for chunk in chunks for row in chunk}) == 1  # the same columns in all of them
    assert [row["error"] is None for chunk in chunks for row in chunk] == [False] * 5 + [True]


def test_pictures_come_and_go_a_few_at_a_time(regression_run: Run, folder: Path) -> None:
    """A million pictures take no more memory than a few: as many are asked for as are decoded ahead."""
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield from stream_of([folder / "01.png"], column=None, lines=None, progress=Silent()).items()

    rows = batch.predicted(regression_run.predictor, endless(), None)
    for _ in range(3):
        next(rows)
    assert taken <= 5 * batch._AT_ONCE
    rows.close()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_interrupted_table_is_gone_on_with(
    suffix: str, regression_run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_AT_ONCE", 4)
    whole, out = folder.parent / f"whole{suffix}", folder.parent / f"out{suffix}"
    predict(regression_run, folder, "-o", whole)
    seen: list[int] = []

    class Impatient(Silent):
        def count(self, title: str, done: int, total: int) -> None:
            seen.append(done)
            if done >= 12 and len(seen) < 10:
                raise KeyboardInterrupt

    source = stream_of([folder], column=None, lines=None, progress=Silent())
    task = batch.Task(regression_run.predictor.version, (str(folder),), 0.9)
    with pytest.raises(KeyboardInterrupt):
        batch.to_file(regression_run.predictor, source, task, out, resume=False, progress=Impatient())
    part = folder.parent / f"out{suffix}.part"
    assert not out.exists()
    assert len(rows_of(part.read_text())) == 12
    with part.open("a") as file:  # killed in the middle of a line
        file.write("/a/picture,1.2")
    with pytest.raises(OptionError, match=r"begun with other coverage: 0\.9, now None"):
        predict(regression_run, folder, "-o", out, "--resume", "--coverage", "0")
    with pytest.raises(OptionError, match="begun with other sources"):
        predict(regression_run, folder, folder, "-o", out, "--resume")
    seen.clear()
    result = predict(regression_run, folder, "-o", out, "--resume")
    assert "Wrote 31 rows" in result.stdout
    assert "1 picture cannot be used" in result.stdout
    assert not part.exists()
    assert out.read_bytes() == whole.read_bytes() if suffix == ".csv" else pd.read_parquet(out).equals(pd.read_parquet(whole))
    with pytest.raises(OptionError, match="nothing to resume"):
        predict(regression_run, folder, "-o", out, "--resume")


def test_what_was_begun_with_other_pictures_is_not_gone_on_with(regression_run: Run, folder: Path) -> None:
    out = folder.parent / "out.csv"
    task = batch.Task(regression_run.predictor.version, (str(folder),), 0.9)
    part = out.with_name("out.csv.part")
    part.write_text("picture,y,low,high,unlike,strangeness,error\nelsewhere.png,1,0,2,False,0.5,\n")
    part.with_name("out.csv.part.json").write_text(json.dumps({**vars(task), "sources": [str(folder)]}))
    with pytest.raises(DataError, match=r"has elsewhere.png in row 1, where the sources have .*00.png now"):
        predict(regression_run, folder, "-o", out, "--resume")
    assert part.exists()


@pytest.mark.slow
def test_a_kill_leaves_a_table_that_can_be_gone_on_with(regression_run: Run, tmp_path: Path) -> None:
    """The process is killed while it waits for more of standard input."""
    pictures = bars(600, seed=5)[0]
    names = []
    for number, picture in enumerate(pictures):
        names.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(picture[..., 0]).save(names[-1])
    out = tmp_path / "out.csv"
    command = [sys.executable, "-m", "pixelfit", "predict", str(regression_run.folder.path), "-", "-o", str(out)]
    process = forks.Popen(command, stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write("".join(f"{name}\n" for name in names[:520]))
    process.stdin.flush()
    part = tmp_path / "out.csv.part"
    while not part.is_file() or part.read_text().count("\n") < 257:  # the first chunk is written once the next is asked for
        assert process.poll() is None
    process.kill()
    process.wait()
    assert not out.exists()
    done = forks.run([*command, "--resume"], input="".join(f"{name}\n" for name in names), text=True, check=True)
    assert done.returncode == 0
    rows = rows_of(out.read_text())
    assert [row["picture"] for row in rows] == names
    assert [float(row["y"]) for row in rows] == pytest.approx(regression_run.predictor.predict(pictures).tolist())


def test_what_cannot_be_used_is_said(regression_run: Run, folder: Path) -> None:
    with pytest.raises(DataError, match=r"None of 1 picture can be used; the first is .*damaged.png: it is not a picture"):
        predict(regression_run, folder / "damaged.png")
    with pytest.raises(OptionError, match=r"out.txt cannot be written: its name must end in .csv or .parquet"):
        predict(regression_run, folder, "-o", "out.txt")
    with pytest.raises(OptionError, match="--resume goes on with the file that --out names"):
        predict(regression_run, folder, "--resume")
    (folder.parent / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no pictures \(files that end in .bmp"):
        predict(regression_run, folder.parent / "empty")
    (folder.parent / "table.csv").write_text("file\n")
    with pytest.raises(DataError, match=r"table.csv has no rows below its header"):
        predict(regression_run, folder.parent / "table.csv")
    np.savez(folder.parent / "strange.npz", a=np.zeros(3), b=np.zeros(3))
    with pytest.raises(DataError, match=r"strange.npz needs an array of pictures"):
        predict(regression_run, folder.parent / "strange.npz")


def test_python_gives_the_same_frames(regression_run: Run, folder: Path) -> None:
    predictor = pixelfit.load(regression_run.folder.path)
    frame = pd.concat(predictor.predict_frames(folder))
    assert frame.to_csv(index=False) == predict(regression_run, folder).stdout


def test_several_labels_have_frames_without_sets(labels_run: Run, folder: Path) -> None:
    (frame,) = labels_run.predictor.predict_frames(folder)
    assert list(frame.columns) == [
        "picture", "labels", *(f"p_{label}" for label in labels_run.facts.classes or ()), "unlike", "strangeness", "error",
    ]  # fmt: skip
