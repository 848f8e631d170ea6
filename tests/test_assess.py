"""A finished model measured on pictures whose targets are known."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import HOSTILE, STROKES, bars, blobs, strokes
from PIL import Image
from sklearn import metrics as reference
from typer.testing import CliRunner

import pixelfit
from pixelfit.automl import Run
from pixelfit.cli import app
from pixelfit.errors import DataError, OptionError


def written(pictures: np.ndarray, tmp_path: Path) -> list[str]:
    names = [f"{number}.png" for number in range(len(pictures))]
    for name, picture in zip(names, pictures, strict=True):
        Image.fromarray(picture[..., 0]).save(tmp_path / name)
    return names


def test_a_regression_is_measured_as_scikit_learn_does(regression_run: Run, tmp_path: Path) -> None:
    pictures, columns = bars(200, seed=21)
    values = columns + np.random.default_rng(0).normal(size=200)
    np.savez(tmp_path / "more.npz", x=pictures, y=values)
    result = CliRunner().invoke(
        app, ["evaluate", str(regression_run.folder.path), str(tmp_path / "more.npz"), "-o", "found.json"]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(Path("found.json").read_text())
    said = regression_run.predictor.predict(pictures)
    assert found["rows"] == 200
    assert found["metrics"]["rmse"]["value"] == pytest.approx(reference.root_mean_squared_error(values, said))
    assert found["metrics"]["mae"]["value"] == pytest.approx(reference.mean_absolute_error(values, said))
    assert found["metrics"]["r2"]["value"] == pytest.approx(reference.r2_score(values, said))
    assert found["metrics"]["rmse"]["low"] < found["metrics"]["rmse"]["value"] < found["metrics"]["rmse"]["high"]
    ends = regression_run.predictor.predict_interval(pictures)
    assert found["covered"]["value"] == pytest.approx(((ends[:, 0] <= values) & (values <= ends[:, 1])).mean())
    assert found["unlike"] == pytest.approx((regression_run.predictor.predict_strangeness(pictures) > 1).mean())
    assert re.search(r"On 200 pictures of more +value", result.output)
    assert "of the 90 % intervals" in result.output


def test_a_table_is_measured_by_the_column_that_the_model_knows(regression_run: Run, tmp_path: Path) -> None:
    pictures, columns = bars(40, seed=22)
    names = written(pictures, tmp_path)
    (tmp_path / "7.png").write_bytes(b"no picture")
    pd.DataFrame({"file": names, "other": 0, "y": columns.astype(float)}).to_csv(tmp_path / "table.csv", index=False)
    found = regression_run.predictor.evaluate(tmp_path / "table.csv")
    assert (found.rows, [item.ref for item in found.left_out]) == (39, ["7.png"])
    kept = np.arange(40) != 7
    said = regression_run.predictor.predict(pictures[kept])
    assert found.metrics["mae"].value == pytest.approx(np.abs(said - columns[kept]).mean())
    assert regression_run.predictor.evaluate(tmp_path / "table.csv", target="y") == found
    assert regression_run.predictor.evaluate(tmp_path / "table.csv", coverage=0).covered is None
    with pytest.raises(OptionError, match="--target 'nothing' is no column"):
        regression_run.predictor.evaluate(tmp_path / "table.csv", target="nothing")


def test_classes_are_known_by_their_names_whichever_are_there(classification_run: Run, tmp_path: Path) -> None:
    pictures, columns = bars(60, seed=23)
    labels = np.array(["left", HOSTILE])[(columns > 4).astype(int)]
    wrong = np.where(np.arange(60) < 6, HOSTILE, labels)
    np.savez(tmp_path / "two.npz", x=pictures, y=wrong)
    found = classification_run.predictor.evaluate(tmp_path / "two.npz")
    assert found.metrics["accuracy"].value == pytest.approx((classification_run.predictor.predict(pictures) == wrong).mean())
    sets = classification_run.predictor.predict_sets(pictures)
    classes = list(classification_run.predictor.classes or ())
    inside = [sets[row, classes.index(label)] for row, label in enumerate(wrong.tolist())]
    assert found.covered is not None
    assert found.covered.value == pytest.approx(np.mean(inside))
    only_left = labels == "left"
    np.savez(tmp_path / "one.npz", x=pictures[only_left], y=labels[only_left])
    alone = classification_run.predictor.evaluate(tmp_path / "one.npz")
    assert alone.metrics["accuracy"].value == pytest.approx(
        (classification_run.predictor.predict(pictures[only_left]) == "left").mean()
    )
    labels[3] = "wolf"
    np.savez(tmp_path / "three.npz", x=pictures, y=labels)
    with pytest.raises(DataError, match=r"three has 'wolf' in 'y', which the model has never seen; it knows .*'left'"):
        classification_run.predictor.evaluate(tmp_path / "three.npz")


def test_several_numbers_and_several_labels_are_measured(numbers_run: Run, labels_run: Run, tmp_path: Path) -> None:
    pictures, targets = blobs(50, seed=24)
    frame = pd.DataFrame(
        {"file": written(pictures, tmp_path), "x": targets[:, 0], "y, down": targets[:, 1], HOSTILE: targets[:, 2]}
    )
    frame.to_csv(tmp_path / "blobs.csv", index=False)
    found = numbers_run.predictor.evaluate(tmp_path / "blobs.csv")
    said = numbers_run.predictor.predict(pictures)
    assert found.metrics["nrmse"].value == pytest.approx(
        np.sqrt((((said - targets) / numbers_run.facts.target_scales) ** 2).mean()), rel=1e-6
    )
    pictures, has = strokes(50, seed=25)
    tags = [";".join(name for name, there in zip(STROKES, row, strict=True) if there) or ";" for row in has]
    pd.DataFrame({"file": written(pictures, tmp_path), "labels": tags}).to_csv(tmp_path / "tags.csv", index=False)
    found = labels_run.predictor.evaluate(tmp_path / "tags.csv")
    order = [list(STROKES).index(label) for label in labels_run.predictor.classes or ()]
    exact = (labels_run.predictor.predict(pictures) == has[:, order]).all(axis=1).mean()
    assert found.metrics["exact_match"].value == pytest.approx(exact)
    assert found.covered is None
    with pytest.raises(DataError, match=r"has one number a picture, and the model predicts several numbers|needs numbers"):
        numbers_run.predictor.evaluate((pictures, np.arange(50) / 7))


def test_an_older_model_says_that_it_cannot(regression_run: Run, tmp_path: Path) -> None:
    regression_run.predictor.save(tmp_path / "model")
    (tmp_path / "model" / "SHA256SUMS").unlink()
    file = tmp_path / "model" / "predictor.json"
    description = json.loads(file.read_text())
    del description["yardstick"]
    file.write_text(json.dumps(description))
    with pytest.raises(DataError, match="did not note how to measure it"):
        pixelfit.load(tmp_path / "model").evaluate((bars(5)[0], np.arange(5)))


def test_where_nothing_can_be_read_it_is_said(regression_run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no")
    pd.DataFrame({"file": ["a.png"], "y": [1.5]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match=r"None of the 1 pictures of t can be used; the first is a.png: it is not a picture"):
        regression_run.predictor.evaluate(tmp_path / "t.csv")
