"""Heads, models and calibration for several numbers or labels a picture, against independent computations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blobs, strokes
from safetensors.torch import load_file
from scipy.special import expit, logit
from sklearn.ensemble import ExtraTreesRegressor
from test_models import FRESH, Unwatched

from pixelfit.answers import sharpened_odds
from pixelfit.calibration import ensemble_temperature
from pixelfit.conformal import Intervals, SeveralIntervals
from pixelfit.data.reading import read
from pixelfit.metrics import label_surprises, mean_ap, nrmse
from pixelfit.models import trees
from pixelfit.models.heads import (
    Head,
    HistogramHead,
    SquaredHead,
    fitting_heads,
    head_from_json,
    head_to_json,
    make_head,
    temperature_for,
)
from pixelfit.models.model import Model, Preparation
from pixelfit.models.pretrained import _best_penalty, _minimised, _start
from pixelfit.models.several import HistogramHeads, LabelsHead, SquaredHeads
from pixelfit.options import checked_options
from pixelfit.progress import Silent
from pixelfit.search.space import build_space
from pixelfit.training.loop import Lesson, train
from pixelfit.training.pace import Pace
from pixelfit.training.recipe import Recipe
from pixelfit.types import Facts, Splits

SIZES = {"numbers": blobs(120), "labels": strokes(120)}
HEADS = [("numbers", "squared"), ("numbers", "huber"), ("numbers", "histogram"), ("labels", "labels")]


def prepared(kind: str) -> tuple[Facts, Splits]:
    return read(SIZES[kind], checked_options(), Silent())


def trained(recipe: Recipe, facts: Facts, splits: Splits, steps: int) -> Model:
    lesson = Lesson(splits.train, splits.validation, facts)
    return train(recipe, lesson, seed=0, pace=Pace(steps=steps), monitor=Unwatched(), stopped=lambda: False).model


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "head"), HEADS)
@pytest.mark.parametrize("family", FRESH, ids=lambda family: family.name)
def test_every_family_survives_saving_and_predicts_the_same_alone_and_in_a_batch(
    family, kind: str, head: str, tmp_path: Path
) -> None:
    if family.heads and head not in family.heads:
        pytest.skip(f"{family.name} never has a {head} head")
    facts, splits = prepared(kind)
    recipe = Recipe(family.name, head, family.starting_architecture(), batch_size=32)
    model = trained(recipe, facts, splits, steps=5)
    pictures = splits.validation.store[splits.validation.rows]
    together = model.predict(pictures)
    assert together.shape == (len(pictures), 3)
    alone = np.concatenate([model.predict(pictures[row : row + 1]) for row in range(len(pictures))])
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-4)
    model.save(tmp_path)
    loaded = Model.load(tmp_path)
    assert (loaded.predict(pictures) == together).all()
    assert loaded.head == model.head


@pytest.mark.slow
@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("family", ["convnet", "mlp", "trees", "linear"])
def test_families_learn_a_few_pictures_by_heart(family: str, kind: str) -> None:
    facts, splits = prepared(kind)
    recipe, _ = build_space(facts, splits.train).known_good({"family": family})
    model = trained(recipe, facts, splits, steps=120)
    predictions = model.predict(splits.train.store, splits.train.rows)
    if kind == "numbers":
        assert nrmse(splits.train.targets, predictions, facts.target_scales) < 0.5
    else:
        assert mean_ap(splits.train.targets, predictions) > 0.9


def test_the_constant_gives_means_medians_and_frequencies() -> None:
    targets = np.random.default_rng(0).gamma(1.0, 3.0, (500, 2)) * [1, 1000]
    for name, expected in (("squared", targets.mean(axis=0)), ("huber", np.median(targets, axis=0))):
        head = make_head(name, targets, 0, "nrmse")
        prior = head.predict(head.prior(head.encode(targets))[None].float())
        np.testing.assert_allclose(prior[0].numpy(), expected, rtol=1e-4)
    labels = (np.random.default_rng(0).random((500, 3)) < [0.5, 0.1, 0.0]).astype(int)
    labels_head = make_head("labels", labels, 3, "log_loss")
    frequencies = labels_head.predict(labels_head.prior(labels_head.encode(labels))[None])[0].numpy()
    np.testing.assert_allclose(frequencies, (labels.sum(axis=0) + 0.5) / 501, rtol=1e-5)


@pytest.mark.parametrize("name", ["squared", "huber", "histogram"])
@pytest.mark.parametrize("metric", ["nrmse", "nmae"])
def test_each_target_is_as_if_it_were_alone(name: str, metric) -> None:
    """The heads of several numbers, against those of one number for each of them."""
    rng = np.random.default_rng(0)
    targets = np.column_stack([rng.normal(5, 2, 300), rng.normal(-1e4, 30, 300), np.exp(rng.normal(10, 1, 300))])
    head = make_head(name, targets, 0, metric)
    single = {"nrmse": "rmse", "nmae": "mae"}[metric]
    alone: list[Head] = [make_head(name, column, 0, single) for column in targets.T]  # type: ignore[arg-type]
    if isinstance(head, HistogramHeads):
        assert [part.log for part in head.parts] == [False, False, True]
        alone[2] = make_head("log_histogram", targets[:, 2], 0, single)  # type: ignore[arg-type]
    outputs = torch.randn(300, head.outputs, generator=torch.Generator().manual_seed(0))
    pieces = outputs.split([each.outputs for each in alone], dim=1)
    encoded = head.encode(targets)
    for place, (each, piece) in enumerate(zip(alone, pieces, strict=True)):
        np.testing.assert_allclose(encoded[:, place], each.encode(targets[:, place]), rtol=1e-6)
        np.testing.assert_allclose(head.predict(outputs)[:, place], each.predict(piece), rtol=1e-6)
        np.testing.assert_allclose(head.spread(outputs)[:, place], each.spread(piece), rtol=1e-6)
    losses = [each.loss(piece, encoded[:, place], 0.0) for place, (each, piece) in enumerate(zip(alone, pieces, strict=True))]
    assert float(head.loss(outputs, encoded, 0.0)) == pytest.approx(float(np.mean(losses)), rel=1e-5)
    assert head_from_json(head_to_json(head)) == head


def test_heads_follow_several_targets() -> None:
    numbers = np.random.default_rng(0).normal(size=(100, 3))
    assert fitting_heads("regression", numbers, 0, "nrmse") == ("squared", "histogram", "huber")
    assert fitting_heads("regression", numbers, 0, "nmae") == ("huber", "histogram", "squared")
    assert "histogram" not in fitting_heads("regression", np.tile(numbers, 10), 0, "nrmse")
    assert fitting_heads("multilabel", numbers, 3, "log_loss") == ("labels",)
    one = make_head("squared", numbers[:, 0], 0, "rmse")
    assert isinstance(one, SquaredHead)
    assert isinstance(make_head("histogram", numbers[:, 0], 0, "rmse"), HistogramHead)


def test_the_loss_of_labels_is_the_mean_binary_log_loss() -> None:
    rng = np.random.default_rng(0)
    outputs, labels = rng.normal(0, 2, (50, 4)), rng.integers(0, 2, (50, 4))
    head = LabelsHead(4)
    expected = -np.log(np.where(labels == 1, expit(outputs), expit(-outputs))).mean()
    assert float(head.loss(torch.from_numpy(outputs), head.encode(labels).double(), 0.1)) == pytest.approx(expected)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_temperatures_undo_too_much_or_too_little_sureness_of_labels(factor: float) -> None:
    rng = np.random.default_rng(0)
    odds = rng.normal(-1, 2, (4000, 3))
    labels = (rng.random((4000, 3)) < expit(odds)).astype(int)
    assert temperature_for([(LabelsHead(3), torch.from_numpy(odds * factor), labels)]) == pytest.approx(factor, rel=0.1)
    found = ensemble_temperature(labels, expit(odds * factor), label_surprises, sharpened_odds)
    assert found == pytest.approx(factor, rel=0.1)
    np.testing.assert_allclose(sharpened_odds(expit(odds), factor), expit(odds / factor), rtol=1e-9)


@pytest.mark.parametrize("kind", SIZES)
def test_forests_predict_what_scikit_learn_predicts(kind: str, tmp_path: Path) -> None:
    facts, splits = prepared(kind)
    head = make_head("squared" if kind == "numbers" else "labels", splits.train.targets, 3, facts.metric)
    module = trees.build(facts.spec, head.outputs, {})
    assert isinstance(module, trees.Forest)
    pictures = Preparation.of(splits.train, facts.spec)(torch.from_numpy(splits.train.store[splits.train.rows]))
    encoded = head.encode(splits.train.targets)
    architecture = {"trees": 8, "smallest_leaf": 2}
    trees.fit(module, pictures.split(50), encoded, head=head, architecture=architecture, seed=3, time_left=lambda: 1.0)
    share = 1 / 3 if kind == "numbers" else "sqrt"
    same = ExtraTreesRegressor(8, min_samples_leaf=2, max_features=share, max_leaf_nodes=2048, random_state=3)
    expected = same.fit(module.features(pictures).numpy(), encoded.numpy()).predict(module.features(pictures).numpy())
    if kind == "labels":
        expected = logit(np.clip(expected, 1e-3, 1 - 1e-3))
    np.testing.assert_allclose(module(pictures).numpy(), expected, rtol=1e-3, atol=1e-5)


def test_a_forest_for_one_target_is_saved_as_ever(tmp_path: Path) -> None:
    spec = prepared("numbers")[0].spec
    Model.new("trees", {}, spec, Preparation((0.0,), (1.0,)), SquaredHead(0.0, 1.0)).save(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == {"feature", "threshold", "left", "right", "value", "roots", "depth"}


@pytest.mark.parametrize("head", [SquaredHeads((0.0, 0.0), (1.0, 1.0)), LabelsHead(2)], ids=lambda head: head.name)
def test_layers_on_frozen_features_are_solved_for_several_targets(head: Head) -> None:
    rng = np.random.default_rng(0)
    features, weight = rng.normal(size=(400, 6)), rng.normal(size=(6, 2))
    values = features @ weight
    targets = values if isinstance(head, SquaredHeads) else (values > 0).astype(int)
    known, encoded = torch.from_numpy(features).float(), head.encode(targets)
    folds = torch.arange(len(known)) % 5
    penalty, _, _ = _best_penalty(known, encoded, head, folds, range(5), lambda: 1.0)
    found, bias = _minimised(known, encoded, head, penalty, _start(known, encoded, head))
    outputs = torch.from_numpy(features).float() @ found.T + bias
    if isinstance(head, SquaredHeads):
        np.testing.assert_allclose(outputs, values, atol=0.05)
    else:
        assert ((outputs.numpy() > 0) == targets).mean() > 0.97


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_intervals_cover_each_target_as_often_as_asked(coverage: float) -> None:
    counted = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        spread = rng.uniform(0.5, 2, (1200, 3)) * [1, 10, 0.1]
        values = rng.normal(size=(1200, 3))
        targets = values + rng.normal(size=(1200, 3)) * spread
        intervals = SeveralIntervals.fit(targets[:200], values[:200], spread[:200])
        ends = intervals.around(values[200:], spread[200:], coverage)
        assert ends.shape == (1000, 3, 2)
        counted.append(((ends[..., 0] <= targets[200:]) & (targets[200:] <= ends[..., 1])).mean(axis=0))
        for place in range(3):
            alone = Intervals.fit(targets[:200, place], values[:200, place], spread[:200, place])
            np.testing.assert_array_equal(alone.around(values[200:, place], spread[200:, place], coverage), ends[:, place])
    np.testing.assert_allclose(np.mean(counted, axis=0), coverage, atol=0.012)
