"""The family on a pretrained backbone, with the real weights of EfficientNet-Lite0."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression, Ridge
from test_inspect import scenes
from test_models import trained

from pixelfit.data.inspect import inspect
from pixelfit.data.sources import load_table
from pixelfit.data.split import split
from pixelfit.data.store import decode
from pixelfit.errors import DataError
from pixelfit.models import pretrained
from pixelfit.models.heads import ClassHead, SquaredHead
from pixelfit.models.model import Model
from pixelfit.progress import Silent
from pixelfit.search.space import build_space
from pixelfit.training.pace import Pace
from pixelfit.types import UNNAMED, Array, Facts, Splits


class Hearing(Silent):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def say(self, text: str) -> None:
        self.heard.append(text)


def striped(count: int, *, seed: int = 0) -> Array:
    """Stripes across or along, coarse or fine, on smooth noise: what features of photographs tell apart at a glance."""
    pictures = scenes(count, side=72, seed=seed)
    for row in range(count):
        lines = (np.arange(72) // (3 + 5 * (row % 4 > 1)) % 2 * 70).astype(np.uint8)
        pictures[row] //= 2
        pictures[row] += lines[:, None, None] if row % 2 else lines[None, :, None]
    return pictures


def photographs(task: str, *, channels: int = 3) -> tuple[Facts, Splits]:
    """Eighty striped pictures, by the direction of their stripes or a number for direction and width."""
    pictures = striped(80)[..., :channels]
    targets = np.array(["across", "along"])[np.arange(80) % 2] if task == "classification" else np.arange(80) % 4 * 1.5 + 0.1
    table = load_table((pictures, targets), UNNAMED, data_dir=None, progress=Silent())
    decoded = decode(table, Silent())
    inspected = inspect(table, decoded, task)  # type: ignore[arg-type]
    return inspected.facts, split(table, decoded, inspected, seed=0)


def recipe_for(facts: Facts, splits: Splits, lite0: Path, **more: object):
    backbone = pretrained.offered(facts, lite0, None, Silent())
    recipe, answers = build_space(facts, splits.train, backbone).known_good({"family": "frozen", "frozen.side": 128, **more})
    assert answers["family"] == "frozen"
    return recipe


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_it_learns_within_seconds_and_survives_saving(task: str, channels: int, lite0: Path, tmp_path: Path) -> None:
    facts, splits = photographs(task, channels=channels)
    model = trained(recipe_for(facts, splits, lite0), facts, splits, pace=Pace()).model
    predicted = model.predict(splits.validation.store, splits.validation.rows)
    if task == "classification":
        assert (predicted.argmax(axis=1) == splits.validation.targets).mean() > 0.9
    else:
        assert np.sqrt(((predicted - splits.validation.targets) ** 2).mean()) < 0.5 * splits.validation.targets.std()
    model.save(tmp_path)
    loaded = Model.load(tmp_path)  # without the file of weights
    np.testing.assert_array_equal(loaded.predict(splits.validation.store[:9]), model.predict(splits.validation.store[:9]))
    alone = np.concatenate([model.predict(splits.validation.store[row : row + 1]) for row in range(5)])
    np.testing.assert_allclose(alone, model.predict(splits.validation.store[:5]), rtol=1e-3, atol=1e-3)


@pytest.mark.long("trains a real backbone")
@pytest.mark.slow
def test_tuning_moves_the_first_layers_least_and_survives_saving(lite0: Path, tmp_path: Path) -> None:
    facts, splits = photographs("classification")
    recipe = build_space(facts, splits.train, pretrained.offered(facts, lite0, None, Silent())).tuned()
    recipe = replace(recipe, architecture={**recipe.architecture, "side": 128}, batch_size=16, epochs=3.0)
    model = trained(recipe, facts, splits, pace=Pace(steps=12)).model
    begun = pretrained.pretrained_state("efficientnet_lite0", str(lite0))
    now = model.module.body.state_dict()
    moved = {name: float((now[name] - begun[name]).abs().max()) for name in ("conv_stem.weight", "conv_head.weight")}
    assert 0 < moved["conv_stem.weight"] < moved["conv_head.weight"]
    predicted = model.predict(splits.validation.store, splits.validation.rows)
    assert (predicted.argmax(axis=1) == splits.validation.targets).mean() > 0.8
    model.save(tmp_path)
    np.testing.assert_array_equal(
        Model.load(tmp_path).predict(splits.validation.store[:3]), model.predict(splits.validation.store[:3])
    )


def test_the_layer_is_the_solution_of_the_convex_problem() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(90, 12)).astype(np.float32)
    values = (features @ rng.normal(size=12) + rng.normal(size=90)).astype(np.float64)
    head = SquaredHead(float(values.mean()), float(values.std()))
    encoded = head.encode(values)
    start = (torch.zeros(1, 12), head.prior(encoded).float())
    weight, bias = pretrained._minimised(torch.from_numpy(features), encoded, head, 0.1, start)
    # Mean squared error + 0.05 |w|^2, which is Ridge's sum of squares + alpha |w|^2 with alpha = 0.05 n.
    same = Ridge(alpha=0.05 * 90).fit(features, encoded.numpy())
    np.testing.assert_allclose(weight.numpy()[0], same.coef_, atol=1e-3)
    assert float(bias) == pytest.approx(float(same.intercept_), abs=1e-3)

    labels = np.digitize(values, np.quantile(values, [0.3, 0.7]))
    classes = ClassHead(3)
    encoded = classes.encode(labels)
    start = (torch.zeros(3, 12), classes.prior(encoded).float())
    weight, bias = pretrained._minimised(torch.from_numpy(features), encoded, classes, 0.1, start)
    known = LogisticRegression(C=1 / (0.1 * 90), max_iter=5000, tol=1e-8).fit(features, labels)
    shares = torch.softmax(torch.from_numpy(features) @ weight.T + bias, dim=1).numpy()
    np.testing.assert_allclose(shares, known.predict_proba(features), atol=2e-3)


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_a_feature_that_one_training_picture_has_decides_nothing(task: str) -> None:
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(60, 8)).astype(np.float32))
    features[:, 3] = 0
    features[0, 3] = 1e-4
    values = features[:, 0].double().numpy()
    head = ClassHead(2) if task == "classification" else SquaredHead(float(values.mean()), float(values.std()))
    targets = (values > 0).astype(np.int64) if task == "classification" else values
    module = torch.nn.Module()
    module.output = torch.nn.Linear(8, head.outputs)
    folds = torch.arange(60) % 5
    pretrained._solve(module, features, head.encode(targets), head, folds, range(5), lambda: 9.0)  # type: ignore[arg-type]
    weights = module.output.weight.abs().amax(dim=0)
    assert weights[3] < 0.01 * weights[0]


def test_weights_under_other_names_fit_by_their_order(lite0: Path, tmp_path: Path) -> None:
    by_order = pretrained.pretrained_state("efficientnet_lite0", str(lite0))
    save_file({name: tensor.contiguous() for name, tensor in by_order.items()}, tmp_path / "named.safetensors")
    by_name = pretrained.pretrained_state("efficientnet_lite0", str(tmp_path / "named.safetensors"))
    assert all(torch.equal(by_order[name], by_name[name]) for name in by_order)


def test_weights_that_cannot_be_used_are_named(lite0: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    save_file({"a": torch.zeros(3)}, tmp_path / "other.safetensors")
    torch.save({"model": [1, 2]}, tmp_path / "list.pth")
    torch.save(Path("code"), tmp_path / "code.pth")  # an object, which weights_only refuses
    for name, message in (
        ("none.pth", "There is no file of weights"),
        ("text.pth", "cannot be read as weights"),
        ("text.safetensors", "cannot be read as weights"),
        ("other.safetensors", "does not fit efficientnet_lite0, which has 296 tensors; it holds 1"),
        ("list.pth", "holds no weights by name"),
        ("code.pth", "cannot be read as weights"),
    ):
        with pytest.raises(DataError, match=message):
            pretrained.pretrained_state("efficientnet_lite0", str(tmp_path / name))
    with pytest.raises(DataError, match="timm has no model 'nonesuch'"):
        pretrained.pretrained_state("nonesuch", str(lite0))


def test_without_weights_the_search_goes_on_and_says_so_once(lite0: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    facts, splits = photographs("classification")

    def unreachable(name: str, pretrained: bool = False, **_: object) -> torch.nn.Module:
        if pretrained:
            raise ConnectionError("no route to the hub\nand more")
        return create(name, pretrained=False)

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", unreachable)
    hearing = Hearing()
    assert pretrained.offered(facts, None, None, hearing) is None
    assert len(hearing.heard) == 1
    assert "No weights of efficientnet_lite0 could be had: no route to the hub." in hearing.heard[0]
    assert build_space(facts, splits.train, None).known_good({"family": "frozen"})[0].family != "frozen"


def test_small_or_many_channelled_pictures_get_no_backbone(lite0: Path) -> None:
    table = load_table((scenes(30, side=28), np.arange(30) / 7), UNNAMED, data_dir=None, progress=Silent())
    facts = inspect(table, decode(table, Silent()), None).facts
    assert pretrained.offered(facts, None, None, Silent()) is None
    five = np.random.default_rng(0).integers(0, 255, (30, 80, 80, 5), dtype=np.uint8)
    table = load_table((five, np.arange(30) / 7), UNNAMED, data_dir=None, progress=Silent())
    facts = inspect(table, decode(table, Silent()), None).facts
    with pytest.raises(DataError, match="5 channels"):
        pretrained.offered(facts, lite0, None, Silent())


@pytest.mark.long("a command as users start it, with a real backbone")
@pytest.mark.slow
def test_a_search_uses_the_backbone_and_its_model_predicts(lite0: Path, tmp_path: Path) -> None:
    pictures = scenes(60, side=80)
    lines = ["file,kind"]
    for row, picture in enumerate(pictures):
        picture[:, :: 4 if row % 2 else 9] = 255
        Image.fromarray(picture).save(tmp_path / f"{row}.png")
        lines.append(f"{row}.png,{'fine' if row % 2 else 'coarse'}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    command = f"""
from benchmarks.torchvision_names import make_importable
make_importable()
import sys
from pixelfit.cli import main
sys.argv = ["pixelfit", "fit", "table.csv", "--trials", "3", "--steps", "10", "--out", "run", "--weights", {str(lite0)!r}]
main()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    ran = subprocess.run(
        [sys.executable, "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert "frozen" in ran.stdout
