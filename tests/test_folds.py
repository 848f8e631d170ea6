"""Cross-validation in folds: how the data are cut, what a trial is, and what becomes of its models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import bars

from pixelfit import automl, load
from pixelfit.calibration import calibrated_predictor
from pixelfit.data.reading import read
from pixelfit.deadline import Deadline
from pixelfit.ensemble import together
from pixelfit.errors import OptionError
from pixelfit.models import FAMILIES
from pixelfit.models.heads import TEMPERATURES, DiscreteHead, temperature_for
from pixelfit.models.model import Model
from pixelfit.options import FitOptions, checked_options
from pixelfit.progress import Silent
from pixelfit.report import draw
from pixelfit.search.engine import LocalEngine, Plan
from pixelfit.search.safety import probe
from pixelfit.search.space import build_space
from pixelfit.training.pace import Pace
from pixelfit.types import Array, Facts, Splits


def cut(count: int, **options: object) -> tuple[Facts, Splits]:
    return read(bars(count), checked_options(task="regression", **options), Silent())


def test_each_development_picture_is_validated_once_and_trained_on_in_all_other_folds() -> None:
    _, splits = cut(150)
    assert len(splits.folds) == 5
    everything = sorted(splits.validation.refs)
    assert len(everything) == len(set(everything)) == 150 - len(splits.test)
    assert sorted(splits.train.refs) == everything
    for fold in splits.folds:
        assert sorted([*fold.train.refs, *fold.validation.refs]) == everything
    sizes = [len(fold.validation) for fold in splits.folds]
    assert max(sizes) - min(sizes) <= 1
    # Ten values of the target, evenly often: so too in every fold, give or take what does not divide.
    for fold in splits.folds:
        counts = np.unique(fold.validation.targets, return_counts=True)[1]
        assert len(counts) == 10
        assert counts.max() - counts.min() <= 1


def test_folds_never_part_the_same_pictures_or_a_group() -> None:
    pictures, columns = bars(120)
    twice = np.concatenate([pictures, pictures[:60]]), np.concatenate([columns, columns[:60]])
    _, splits = read(twice, checked_options(task="regression"), Silent())
    assert len(splits.folds) == 5
    for fold in splits.folds:
        trained = {splits.train.store[row].tobytes() for row in fold.train.rows}
        assert not trained & {splits.train.store[row].tobytes() for row in fold.validation.rows}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, None),
        ({"budget": "10m"}, None),
        ({"budget": "30s"}, 1),
        ({"distill": True}, 1),
        ({"max_latency": "5ms"}, 1),
        ({"max_latency": "5ms", "folds": 3}, 3),
        ({"folds": 1}, 1),
    ],
)
def test_one_model_or_little_time_means_one_fold(options: dict[str, object], wanted: int | None) -> None:
    assert checked_options(**options).folds_wanted == wanted


def test_many_pictures_have_one_fold_unless_more_are_asked_for() -> None:
    assert len(cut(1_300)[1].folds) == 1
    assert len(cut(1_300, folds=3)[1].folds) == 3
    assert len(cut(30)[1].folds) == 5
    assert len(cut(20)[1].folds) == 1  # 16 pictures to develop on make no five folds


def test_folds_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="leave one of them out"):
        checked_options(distill=True, folds=5)
    for folds in (0, 21):
        with pytest.raises(OptionError, match="--folds"):
            checked_options(folds=folds)
    parts = {name: bars(40, seed=place) for place, name in enumerate(("train", "val", "test"))}
    np.savez(
        tmp_path / "parts.npz",
        **{f"{name}_images": x for name, (x, _) in parts.items()},
        **{f"{name}_labels": y for name, (_, y) in parts.items()},
    )
    with pytest.raises(OptionError, match="comes with a validation set of its own"):
        read(tmp_path / "parts.npz", FitOptions(task="regression", folds=4), Silent())
    assert len(read(tmp_path / "parts.npz", FitOptions(task="regression"), Silent())[1].folds) == 1


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> automl.Run:
    out = tmp_path_factory.mktemp("runs") / "folded"
    options = checked_options(task="regression", trials=4, steps=40, folds=3, out=out)
    return automl.fit(bars(150), options, progress=Silent())


@pytest.mark.slow
def test_a_folded_run_is_whole(folded: automl.Run) -> None:
    folder = folded.folder
    assert [trial.folds for trial in folded.trials] == [3, 3, 3, 3]
    assert folded.scores.test["rmse"].value < 0.8 * folded.scores.baseline["rmse"].value
    data = json.loads((folder.path / "data.json").read_text())
    assert data["folds"] == 3
    assert data["sizes"] == {"development": 120, "test": 30}
    assert len((folder.path / "predictions" / "validation.csv").read_text().splitlines()) == 121
    weights = [member.weight for member in folded.predictor.members]
    assert sum(weights) == pytest.approx(1)
    assert len(weights) == 3 * len(folded.predictor.trial_weights())
    pictures, _ = bars(20, seed=9)
    assert (load(folder.path).predict(pictures) == folded.predictor.predict(pictures)).all()


@pytest.mark.slow
def test_its_report_speaks_of_folds(folded: automl.Run) -> None:
    draw(folded.folder)
    page = folded.folder.report_file.read_text()
    assert "3-fold cross-validation of the 120 others" in page
    assert "120 to develop on + 30 for the test" in page
    assert "epochs in each of 3 folds" in page


@pytest.mark.slow
def test_validation_predictions_are_by_models_that_have_not_seen_the_picture(folded: automl.Run) -> None:
    _, splits = read(bars(150), checked_options(task="regression", folds=3), Silent())
    trial = folded.trials[-1]
    models = [Model.load(place) for place in folded.folder.model_folders(trial)]
    held_out = np.concatenate(
        [model.predict(fold.validation.store, fold.validation.rows) for model, fold in zip(models, splits.folds, strict=True)]
    )
    np.testing.assert_allclose(folded.folder.validation_predictions(trial), held_out, rtol=1e-6)
    # The baseline shows it best: each fold's mean is that of the other folds' targets.
    constant = folded.folder.validation_predictions(folded.trials[0])
    means = np.concatenate([np.full(len(fold.validation), fold.train.targets.mean()) for fold in splits.folds])
    np.testing.assert_allclose(constant, means, rtol=1e-6)


@pytest.mark.slow
def test_a_trial_that_is_stopped_in_a_later_fold_has_no_model() -> None:
    facts, splits = prepared_in_folds(3)
    told: list[str] = []

    class Stopped(Deadline):
        @property
        def interrupted(self) -> bool:
            return any("fold 2" in detail for detail in told)

    class Listening(Silent):
        def advance_trial(self, number: int, fraction: float, detail: str) -> None:
            told.append(detail)

    recipe, _ = build_space(facts, splits.train).known_good({"family": "mlp"})
    engine = LocalEngine(splits.folds, facts, Stopped(None), Listening())
    outcome = engine.run(Plan(1, "portfolio", recipe, Pace(steps=16), seed=0))
    assert outcome.trial.state == "interrupted"
    assert outcome.trial.score is None
    assert outcome.models == ()


def prepared_in_folds(folds: int) -> tuple[Facts, Splits]:
    return read(bars(150), checked_options(task="regression", folds=folds), Silent())


@pytest.mark.slow
def test_all_folds_take_as_many_steps_as_the_first() -> None:
    facts, splits = prepared_in_folds(3)
    recipe, _ = build_space(facts, splits.train).known_good({"family": "mlp"})
    outcome = LocalEngine(splits.folds, facts, Deadline(None), Silent()).run(
        Plan(1, "portfolio", recipe, Pace(seconds=600.0, most_epochs=8.0), seed=0)
    )
    assert outcome.trial.state == "complete"
    assert outcome.trial.steps == 10  # batches of 64 of 80 pictures
    assert len(outcome.models) == 3
    assert outcome.trial.parameters == sum(model.parameters() for model in outcome.models)


@pytest.mark.slow
def test_a_family_that_cross_fits_by_itself_gives_one_model(lite0: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    targets = np.arange(40) % 2 * 1.0
    pictures[targets == 1, :, :32] //= 4
    facts, splits = read((pictures, targets), checked_options(task="regression", folds=4), Silent())
    backbone = {"backbone": "efficientnet_lite0", "weights": str(lite0)}
    for family in ("frozen", "frozen_trees"):
        assert FAMILIES[family].cross_fit is not None
        wanted = {"family": family, "head": "squared", f"{family}.side": 128}
        recipe, _ = build_space(facts, splits.train, backbone).known_good(wanted)
        outcome = LocalEngine(splits.folds, facts, Deadline(None), Silent()).run(Plan(1, "portfolio", recipe, Pace(), seed=0))
        assert outcome.trial.error is None
        assert len(outcome.models) == outcome.trial.folds == 1
        assert outcome.validation is not None
        errors = outcome.validation.raw - splits.validation.targets
        assert np.sqrt((errors**2).mean()) < 0.6 * targets.std()
        # What is kept has learned from all: it knows its pictures better than fits without them did.
        known = outcome.models[0].predict(splits.validation.store, splits.validation.rows) - splits.validation.targets
        assert (known**2).mean() < (errors**2).mean()


@pytest.mark.slow
def test_intervals_of_folds_cover_what_they_should(tmp_path: Path) -> None:
    """Calibrated on predictions by the folds' models, the mean of these covers at least as often."""
    run = automl.fit(
        noisy(400), checked_options(task="regression", trials=3, steps=40, folds=4, out=tmp_path / "run"), progress=Silent()
    )
    fresh, targets = noisy(1_000, seed=1)
    ends = run.predictor.predict_interval(fresh, 0.8)
    assert 0.74 < ((ends[:, 0] <= targets) & (targets <= ends[:, 1])).mean() < 0.9


def noisy(count: int, seed: int = 0) -> tuple[Array, Array]:
    pictures, columns = bars(count, seed=seed)
    return pictures, columns + np.random.default_rng(seed + 100).normal(0, 1.0, count)


@pytest.mark.slow
def test_changes_of_pictures_are_judged_by_each_folds_own_model() -> None:
    facts, splits = prepared_in_folds(3)
    recipe, _ = build_space(facts, splits.train).known_good({"family": "mlp"})
    outcome = LocalEngine(splits.folds, facts, Deadline(None), Silent()).run(Plan(1, "probe", recipe, Pace(steps=60), seed=0))
    baseline = np.full(len(splits.validation), splits.validation.targets.mean())
    found = probe(outcome.models, [fold.validation for fold in splits.folds], baseline, facts)
    assert outcome.validation is not None
    assert found.loss == pytest.approx(np.mean((outcome.validation.raw - splits.validation.targets) ** 2))
    assert found.pictures == 120
    assert {verdict.change for verdict in found.verdicts if verdict.judgement == "unsafe"} >= {"flip", "shift"}


def test_one_temperature_for_all_folds_is_the_likeliest_over_all_of_them() -> None:
    rng = np.random.default_rng(0)
    heads = [DiscreteHead((0.0, 1.0, 2.0)), DiscreteHead((0.0, 1.0, 2.0))]
    targets = [rng.integers(0, 3, size).astype(float) for size in (40, 90)]
    outputs = [torch.from_numpy(rng.normal(0, 3, (len(each), 3))) for each in targets]
    chosen = temperature_for(list(zip(heads, outputs, targets, strict=True)))
    whole = torch.cat(outputs), torch.from_numpy(np.concatenate(targets)).long()
    losses = [float(torch.nn.functional.cross_entropy(whole[0] / each, whole[1])) for each in TEMPERATURES]
    assert chosen == TEMPERATURES[int(np.argmin(losses))]


@pytest.mark.slow
def test_what_is_calibrated_on_are_held_out_predictions(folded: automl.Run) -> None:
    facts, splits = prepared_in_folds(3)
    trial = folded.trials[-1]
    predictor = together([(trial, 1.0)], facts, folded.folder)
    calibrated = calibrated_predictor(predictor, splits.validation, folded.folder)
    assert (calibrated.on_validation.raw == folded.folder.validation_predictions(trial)).all()
    seen = predictor.raw(splits.validation.store, splits.validation.rows)
    assert not np.allclose(seen, calibrated.on_validation.raw)
