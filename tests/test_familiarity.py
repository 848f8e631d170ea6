"""Pictures that are like the training pictures pass, others are told, and the nearest ones are near."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import bars
from test_models import FRESH, prepared

import pixelfit
from pixelfit.automl import Run
from pixelfit.errors import DataError, RunError
from pixelfit.models.familiarity import Familiarity, statistics_of
from pixelfit.models.heads import SquaredHead
from pixelfit.models.model import Model, Preparation
from pixelfit.models.parts import parts_of
from pixelfit.types import Array, Examples


def examples(pictures: Array) -> Examples:
    return Examples(pictures, np.arange(len(pictures)), np.zeros(len(pictures)), tuple(map(str, range(len(pictures)))))


@pytest.fixture(scope="module")
def familiarity(regression_run: Run) -> tuple[Model, Familiarity]:
    model = regression_run.predictor.members[0].model
    known, others = (examples(bars(500, seed=seed)[0]) for seed in (11, 12))
    return model, Familiarity.of(model, known, others, seed=0)


def strangeness(model: Model, familiarity: Familiarity, pictures: Array) -> tuple[Array, Array]:
    (prepared_pictures,) = model.batches(pictures)
    with torch.inference_mode():
        distances, nearest = familiarity.distances(parts_of(model.module)[0](prepared_pictures), statistics_of(prepared_pictures))
    return distances.amax(dim=1).numpy(), nearest.numpy()


def test_pictures_of_the_same_kind_pass_and_others_do_not(familiarity: tuple[Model, Familiarity]) -> None:
    pictures = bars(500, seed=13)[0]
    rng = np.random.default_rng(0)
    values, _ = strangeness(*familiarity, pictures)
    assert 0 < (values > 1).mean() < 0.04  # 1 in 100 is meant
    for others in (255 - pictures, rng.integers(0, 256, pictures.shape, dtype=np.uint8), np.zeros_like(pictures), pictures // 4):
        assert (strangeness(*familiarity, others)[0] > 1).mean() > 0.95


def test_the_nearest_picture_of_a_known_one_is_itself(familiarity: tuple[Model, Familiarity]) -> None:
    known = bars(500, seed=11)[0]
    _, nearest = strangeness(*familiarity, known[:50])
    features = familiarity[1].points
    for row, places in enumerate(nearest):
        assert features[places[0]] @ features[row] == pytest.approx(1, abs=1e-6)  # itself, or one that looks the same
        likeness = features[places] @ features[row]
        assert (np.diff(likeness) <= 1e-9).all()
        assert likeness[-1] >= np.sort(features @ features[row])[-len(places)] - 1e-6


def test_the_distance_is_the_mean_over_the_nearest(familiarity: tuple[Model, Familiarity]) -> None:
    """Against a calculation with scikit-learn."""
    from sklearn.neighbors import NearestNeighbors

    model, known = familiarity
    pictures = bars(40, seed=14)[0]
    (prepared_pictures,) = model.batches(pictures)
    with torch.inference_mode():
        features = parts_of(model.module)[0](prepared_pictures).double()
        statistics = statistics_of(prepared_pictures)
        found = known.distances(features, statistics)[0].numpy()
    directed = (features.numpy() - known.mean) @ known.directions
    cosine = NearestNeighbors(n_neighbors=5, metric="cosine").fit(known.points).kneighbors(directed)[0].mean(axis=1)
    plain = (
        NearestNeighbors(n_neighbors=5).fit(known.statistics).kneighbors(statistics.numpy() / known.deviations)[0].mean(axis=1)
    )
    assert found == pytest.approx(np.stack([cosine, plain], axis=1) / known.usual, rel=1e-5)


def test_statistics_are_those_of_numpy() -> None:
    pictures = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 2, 5, 4)).astype(np.float32))
    array = pictures.numpy().astype(np.float64)
    for row, one in enumerate(array):
        down, across = np.abs(np.diff(one, axis=1)).mean(), np.abs(np.diff(one, axis=2)).mean()
        assert statistics_of(pictures)[row].numpy() == pytest.approx([one.mean(), one.std(), down, across])
    assert statistics_of(pictures[..., :1, :1])[:, 1:].abs().max() < 1  # of a single pixel there are no neighbours
    assert statistics_of(pictures[..., :1, :1])[:, 2:].eq(0).all()


def test_it_is_saved_and_read_back_and_missed_where_it_is_not(regression_run: Run, tmp_path: Path) -> None:
    pictures = bars(20, seed=15)[0]
    before = regression_run.predictor.predict_strangeness(pictures)
    regression_run.predictor.save(tmp_path / "model")
    assert (pixelfit.load(tmp_path / "model").predict_strangeness(pictures) == before).all()
    forecast, strange = regression_run.predictor.examined(pictures)
    assert strange is not None
    assert (strange.values == before).all()
    assert (forecast.raw == regression_run.predictor.raw(pictures)).all()
    (tmp_path / "model" / "familiarity.safetensors").unlink()
    with pytest.raises(RunError, match="damaged or missing"):
        pixelfit.load(tmp_path / "model")
    (tmp_path / "model" / "SHA256SUMS").unlink()
    without = pixelfit.load(tmp_path / "model")
    assert without.examined(pictures)[1] is None
    with pytest.raises(DataError, match="saved without training pictures"):
        without.predict_strangeness(pictures)


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["regression_run", "classification_run", "numbers_run", "labels_run"])
def test_a_run_remembers_its_training_pictures(fixture: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(fixture)
    remembered = run.folder.read_remembered()
    assert remembered is not None
    assert run.predictor.familiarity is not None
    assert len(remembered.names) == len(remembered.targets) == len(run.predictor.familiarity.points) > 50
    assert remembered.picture(0).size == (12, 12)
    held_out = run.folder.read_held_out().pictures
    assert (run.predictor.predict_strangeness(held_out) > 1).mean() < 0.2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("family", FRESH, ids=lambda family: family.name)
def test_the_parts_of_every_family_make_the_whole(family, channels: int) -> None:
    facts, splits = prepared("regression", channels=channels)
    head = SquaredHead(0.0, 1.0)
    architecture = family.starting_architecture()
    model = Model.new(family.name, architecture, facts.spec, Preparation.of(splits.train, facts.spec), head)
    model.module.eval()
    (prepared_pictures,) = model.batches(splits.train.store, splits.train.rows[:8])
    see, answer = parts_of(model.module)
    with torch.inference_mode():
        features = see(prepared_pictures)
        assert features.ndim == 2
        assert torch.equal(answer(features), model.module(prepared_pictures))


def test_several_views_are_watched_once(regression_run: Run) -> None:
    predictor = regression_run.predictor
    viewed = replace(predictor, members=tuple(replace(m, model=replace(m.model, views="shifted")) for m in predictor.members))
    pictures = bars(20, seed=16)[0]
    assert viewed.predict_strangeness(pictures) == pytest.approx(predictor.predict_strangeness(pictures))
