"""What every family must keep, run over the registry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import bars
from safetensors.torch import load_file, save_file

from pixelfit.data.inspect import inspect
from pixelfit.data.sources import load_table
from pixelfit.data.split import split
from pixelfit.data.store import decode
from pixelfit.errors import RunError
from pixelfit.metrics import rmse
from pixelfit.models import FAMILIES
from pixelfit.models.heads import ClassHead, DiscreteHead, SquaredHead, fitting_heads
from pixelfit.models.model import Model, Preparation
from pixelfit.progress import Silent
from pixelfit.search.space import build_space
from pixelfit.training.loop import Lesson, Trained, train
from pixelfit.training.pace import Check, Pace
from pixelfit.training.recipe import Recipe
from pixelfit.types import UNNAMED, Facts, PictureSpec, Splits

# Those on pretrained backbones have tests of their own, with real weights.
FRESH = [family for family in FAMILIES.values() if not family.pretrained]
LEARNERS = [family for family in FRESH if family.searched]


class Unwatched:
    def on_progress(self, fraction: float, detail: str) -> None:
        pass

    def on_look(self, check: Check) -> None:
        pass

    def on_check(self, fraction: float, score: float) -> bool:
        return False


def prepared(
    task: str, *, channels: int = 1, side: int = 12, count: int = 120, metric: str | None = None, noise: float = 0.0
) -> tuple[Facts, Splits]:
    pictures, columns = bars(count, channels=channels, side=side)
    if noise:
        columns = columns + np.random.default_rng(0).normal(0, noise, count)
    table = load_table((pictures, columns), UNNAMED, data_dir=None, progress=Silent())
    decoded = decode(table, Silent())
    inspected = inspect(table, decoded, task, metric)  # type: ignore[arg-type]
    return inspected.facts, split(table, decoded, inspected, seed=0)


def trained(recipe: Recipe, facts: Facts, splits: Splits, *, pace: Pace, seed: int = 0) -> Trained:
    return train(
        recipe, Lesson(splits.train, splits.validation, facts), seed=seed, pace=pace, monitor=Unwatched(), stopped=lambda: False
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", LEARNERS, ids=lambda family: family.name)
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_learns_a_few_pictures_by_heart(family, task) -> None:
    facts, splits = prepared(task)
    recipe, _ = build_space(facts, splits.train).known_good({"family": family.name})
    model = trained(recipe, facts, splits, pace=Pace(steps=150)).model
    predictions = model.predict(splits.train.store, splits.train.rows)
    if task == "regression":
        assert rmse(splits.train.targets, predictions) < 0.5 * splits.train.targets.std()
    else:
        assert (predictions.argmax(axis=1) == splits.train.targets).mean() > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("head", ["squared", "huber", "discrete", "histogram"])
@pytest.mark.parametrize("family", FRESH, ids=lambda family: family.name)
def test_survives_saving_and_predicts_the_same_alone_and_in_a_batch(family, head, channels, tmp_path: Path) -> None:
    if family.heads and head not in family.heads:
        pytest.skip(f"{family.name} never has a {head} head")
    facts, splits = prepared("regression", channels=channels)
    recipe = Recipe(family.name, head, family.starting_architecture(), batch_size=32)
    model = trained(recipe, facts, splits, pace=Pace(steps=8)).model
    pictures = splits.validation.store[splits.validation.rows]
    together = model.predict(pictures)
    assert together.shape == (len(pictures),)
    alone = np.concatenate([model.predict(pictures[row : row + 1]) for row in range(len(pictures))])
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-4)
    model.save(tmp_path)
    loaded = Model.load(tmp_path)
    assert (loaded.predict(pictures) == together).all()
    assert (loaded.family, loaded.architecture, loaded.head, loaded.spec) == (
        model.family,
        model.architecture,
        model.head,
        model.spec,
    )


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (28, 28), (64, 96)], ids=str)
@pytest.mark.parametrize("family", FRESH, ids=lambda family: family.name)
def test_takes_pictures_of_any_size(family, size) -> None:
    spec = PictureSpec(*size, channels=3)
    module = family.build(spec, 4, family.starting_architecture()).eval()
    assert module(torch.zeros(2, 3, *size)).shape == (2, 4)


def test_the_loaded_file_must_fit(tmp_path: Path) -> None:
    spec = PictureSpec(8, 8, 1)
    Model.new("mlp", FAMILIES["mlp"].starting_architecture(), spec, Preparation((0.0,), (1.0,)), SquaredHead(0.0, 1.0)).save(
        tmp_path
    )
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, weights)
    with pytest.raises(RunError, match="cannot be loaded"):
        Model.load(tmp_path)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(RunError, match="cannot be loaded"):
        Model.load(tmp_path)


def test_forest_predicts_what_scikit_learn_predicts() -> None:
    from sklearn.ensemble import ExtraTreesClassifier

    from pixelfit.models import trees

    facts, splits = prepared("classification")
    head = ClassHead(len(facts.classes or ()))
    module = trees.build(facts.spec, head.outputs, {})
    pictures = Preparation.of(splits.train, facts.spec)(torch.from_numpy(splits.train.store[splits.train.rows]))
    architecture = {"trees": 12, "smallest_leaf": 2}
    encoded = head.encode(splits.train.targets)
    trees.fit(module, pictures.split(50), encoded, head=head, architecture=architecture, seed=3, time_left=lambda: 1.0)
    same = ExtraTreesClassifier(12, min_samples_leaf=2, max_features="sqrt", max_leaf_nodes=2048, random_state=3)
    same.fit(module.features(pictures).numpy(), encoded.numpy())
    expected = same.predict_proba(module.features(pictures).numpy())
    np.testing.assert_allclose(module(pictures).exp().numpy(), np.maximum(expected, 1e-3), rtol=1e-5)


def test_discrete_head_gives_the_mean_of_its_distribution() -> None:
    head = DiscreteHead((0.0, 2.5, 10.0))
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(head.predict(probabilities.clamp_min(1e-30).log()).numpy(), [3.125, 10.0], rtol=1e-6)
    assert head.encode(np.array([0.0, 2.5, 10.0, 1.2, 9.0, -4.0, 99.0])).tolist() == [0, 1, 2, 0, 2, 0, 2]


def test_heads_follow_the_targets() -> None:
    few, many = np.repeat(np.arange(10.0), 20), np.linspace(0, 1, 200)
    assert fitting_heads("regression", few, 0, "rmse") == ("discrete", "squared", "histogram", "huber")
    assert fitting_heads("regression", many, 0, "rmse") == ("squared", "histogram", "huber")
    assert fitting_heads("regression", many, 0, "mae") == ("huber", "histogram", "squared")
    assert fitting_heads("classification", few, 10, "accuracy") == ("classes",)


@pytest.mark.slow
def test_large_pictures_are_predicted_for_few_at_a_time() -> None:
    facts, splits = prepared("regression")
    model = trained(
        Recipe("convnet", "squared", FAMILIES["convnet"].starting_architecture(), batch_size=32),
        facts,
        splits,
        pace=Pace(steps=2),
    ).model
    sizes = [len(batch) for batch in model.batches(np.zeros((40, 512, 512, 1), np.uint8))]
    assert sum(sizes) == 40
    assert max(sizes) <= 16
    assert [len(batch) for batch in model.batches(np.zeros((600, 12, 12, 1), np.uint8), np.arange(520))] == [512, 8]
