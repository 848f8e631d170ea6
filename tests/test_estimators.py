from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import bars
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import pixelfit
from pixelfit import ImageClassifier, ImageRegressor
from pixelfit.errors import DataError, OptionError, PixelfitError


@pytest.mark.apart
def test_regressor_from_fit_to_load(tmp_path: Path) -> None:
    pictures, columns = bars(150)
    model = ImageRegressor(trials=4, steps=40, out=tmp_path / "run").fit(pictures, columns)
    predictions = model.predict(pictures)
    assert predictions.shape == (150,)
    assert model.score(pictures, columns) == pytest.approx(1 - np.mean((predictions - columns) ** 2) / columns.var())
    assert model.score(pictures, columns) > 0.5
    assert list(model.leaderboard()["rank"]) == [1, 2, 3, 4]
    assert model.report(tmp_path / "sub" / "my.html").read_text().startswith("<!doctype html>")
    loaded = pixelfit.load(model.save(tmp_path / "model"))
    assert (loaded.predict(pictures) == predictions).all()
    low, high = loaded.predict_interval(pictures).T
    assert (np.stack([low, high], axis=1) == model.predict_interval(pictures, coverage=0.9)).all()
    assert ((low <= predictions) & (predictions <= high)).all()
    assert np.mean((low <= columns) & (columns <= high)) > 0.7
    with pytest.raises(DataError, match="no class probabilities"):
        loaded.predict_proba(pictures)


@pytest.mark.slow
def test_classifier_gives_the_users_labels(tmp_path: Path) -> None:
    pictures, columns = bars(150, channels=3)
    labels = np.array(["left", "right"])[(columns > 4).astype(int)]
    model = ImageClassifier(trials=3, steps=40, folds=1, out=tmp_path / "run").fit(pictures, labels)
    assert model.classes_.tolist() == ["left", "right"]
    shares = model.predict_proba(pictures)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (model.predict(pictures) == model.classes_[shares.argmax(axis=1)]).all()
    assert model.score(pictures, labels) > 0.9
    sets = model.predict_sets(pictures, coverage=0.8)
    assert sets.shape == (150, 2)
    assert sets.any(axis=1).all()


@pytest.mark.slow
def test_paths_and_arrays_of_the_same_pictures_predict_the_same(tmp_path: Path) -> None:
    pictures, columns = bars(60)
    paths = []
    for number, picture in enumerate(pictures):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(picture[..., 0]).save(paths[-1])
    model = ImageRegressor(trials=2, steps=20, folds=1, out=tmp_path / "run").fit(paths, columns)
    assert (model.predict(paths[:9]) == model.predict(pictures[:9])).all()


@pytest.mark.slow
def test_a_frame_with_a_test_set_of_its_own(tmp_path: Path) -> None:
    pictures, columns = bars(90)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture[..., 0]).save(tmp_path / f"{number}.png")
    frame = pd.DataFrame(
        {"file": [str(tmp_path / f"{n}.png") for n in range(90)], "place": columns / 2, "of": np.arange(90) // 3}
    )
    model = ImageRegressor(trials=2, steps=20, folds=2, out=tmp_path / "run")
    model.fit(frame[:60], target="place", group="of", test=frame[60:])
    assert model.run_.scores.rows == 30
    assert model.run_.folder.read("run.json")["options"]["test"] == "(arrays)"
    assert "whole groups of 'of'" in model.run_.folder.read("data.json")["split"]


@pytest.mark.slow
def test_grey_arrays_may_leave_out_the_channel() -> None:
    pictures, columns = bars(60)
    model = ImageRegressor(trials=1).fit(pictures[..., 0], columns)
    assert (model.predict(pictures[..., 0]) == model.predict(pictures)).all()


def test_parameters_as_scikit_learn_wants_them() -> None:
    model = ImageRegressor(budget="10m", seed=5)
    assert clone(model).get_params() == model.get_params()
    assert model.set_params(trials=3).trials == 3
    with pytest.raises(NotFittedError):
        model.predict(np.zeros((1, 4, 4)))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"budget": "ten"}, "--budget 'ten'"),
        ({"budget": 0}, "--budget '0' is too short"),
        ({"trials": 0}, "--trials 0"),
        ({"seed": -1}, "--seed -1"),
        ({"steps": "many"}, "--steps 'many'"),
        ({"metric": "r2"}, "--metric 'r2' cannot be used: input should be 'rmse', 'mae'"),
        ({"metric": "accuracy"}, "--metric 'accuracy' is not for a regression, which takes rmse or mae"),
    ],
)
def test_bad_options_are_named(parameters, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ImageRegressor(**parameters).fit(*bars(60))


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (bars(60)[0], bars(59)[1], "60 pictures and y has 59 targets"),
        (bars(60)[0], np.array([1.0] * 59 + [np.nan]), r"1 of 60 pictures .*row 59 \(no target in 'y'\)"),
        (bars(60)[0], np.array([1.0] * 59 + [np.inf]), r"row 59 of arrays has inf in 'y', which is no number"),
        (bars(60)[0], np.ones(60), "Every target"),
        (bars(60)[0], np.array(["a"] * 60), r"row 0 of arrays has 'a' in 'y', which is no number"),
        (bars(1)[0], np.array([1.0]), r"1 picture\(s\)"),
        (bars(60)[0], np.ones((60, 2)), "Every target in 'y_0' of arrays is 1"),
        (bars(60)[0], np.ones((60, 2, 2)), r"its shape is \(60, 2, 2\)"),
        (bars(60)[0], None, "y must have one target a picture"),
    ],
)
def test_data_that_cannot_be_regressed(X, y, message: str, tmp_path: Path) -> None:
    with pytest.raises(PixelfitError, match=message):
        ImageRegressor(trials=1, out=tmp_path / "run").fit(X, y)
    assert not (tmp_path / "run").exists()
