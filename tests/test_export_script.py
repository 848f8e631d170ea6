from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, bars, blobs, strokes

from pixelfit.data.reading import read
from pixelfit.deadline import Deadline
from pixelfit.ensemble import together
from pixelfit.errors import OptionError, PixelfitError, RunError
from pixelfit.export.script import write_script
from pixelfit.models import FAMILIES
from pixelfit.models.model import Model
from pixelfit.options import checked_options
from pixelfit.progress import Silent
from pixelfit.runs import RunFolder
from pixelfit.search.engine import LocalEngine, Plan
from pixelfit.training.job import Start
from pixelfit.training.machine import machine
from pixelfit.training.pace import Pace
from pixelfit.training.recipe import Augmentation, Recipe
from pixelfit.types import DISTILLED, FULL_LENGTH, SNAPSHOT, Array, Forecast, Json

_MOVED = Augmentation(rotate=8.0, scale=0.1, shear=0.1, shift=0.05)
_EVERYTHING = replace(_MOVED, flip=True, flip_vertical=True, turns=True, brightness=0.1, contrast=0.1, saturation=0.2)
# A process that could not import pixelfit even if it lay beside it.
_ALONE = (
    "import runpy, sys; sys.modules['pixelfit'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    machine()  # sets the number of threads, but only once
    torch.set_num_threads(1)


def recipe(family: str, head: str, *, augmentation: Augmentation | None = None, **chosen: object) -> Recipe:
    architecture = {**FAMILIES[family].starting_architecture(), "dropout": 0.1}
    rest = {"batch_size": 32, "augmentation": augmentation or Augmentation(), **chosen}
    return Recipe(family, head, architecture, **rest)  # type: ignore[arg-type]


def finished(
    source: Path, *recipes: Recipe, steps: int = 24, onward: bool = False, **options: object
) -> tuple[RunFolder, Forecast]:
    """A run's folder with a trial a recipe, the last of which is its model, and what that predicts."""
    chosen = checked_options(**{"folds": 1, **options})
    facts, splits = read(source, chosen, Silent())
    folder = RunFolder.create(source.parent / "run")
    environment = {"training": machine().to_json()}
    folder.write_run({"source": str(source), "options": chosen.model_dump(mode="json"), "environment": environment})
    folder.write_data(facts, {})
    engine = LocalEngine(splits.folds, facts, Deadline(None), Silent())
    for number, each in enumerate(recipes):
        plan = Plan(number, FULL_LENGTH, each, Pace(steps=steps), seed=7 + number)
        if onward and number:
            weights = Model.load(folder.trial_folder(number - 1))
            plan = replace(plan, purpose=SNAPSHOT, starts=(Start(weights=weights),), continues=number - 1)
        outcome = engine.run(plan)
        assert outcome.validation is not None, outcome.trial.error
        folder.write_trial(outcome.trial, outcome.history, outcome.models, outcome.validation)
    together([(outcome.trial, 1.0)], facts, folder).save(folder.model_folder)
    folder.write_final({"refitted": False})
    return folder, outcome.validation


def saved(tmp: Path, pictures: Array, targets: Array) -> Path:
    np.savez(tmp / "given.npz", X=pictures, y=targets)
    return tmp / "given.npz"


def colourful(count: int = 150) -> tuple[Array, Array]:
    return bars(count, channels=3)


def trial_of(folder: RunFolder, number: int = 0) -> Json:
    return json.loads((folder.trial_folder(number) / "trial.json").read_text())


def run_here(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quicker than in a process of its own."""
    monkeypatch.setattr(sys, "argv", [str(script), "--out", str(script.with_suffix(".pt"))])
    runpy.run_path(str(script), run_name="__main__")


def run_alone(script: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", _ALONE, str(script), "--out", str(script.with_suffix(".pt"))]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def check_style(script: Path) -> None:
    ruff = [shutil.which("ruff") or str(Path(sys.executable).parent / "ruff"), "check", "--config", str(ROOT / "pyproject.toml")]
    # It prints, as the benchmarks do.
    checked = subprocess.run([*ruff, "--extend-ignore", "T20", str(script)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def check_same(script: Path, model: Path, forecast: Forecast) -> None:
    """The script's weights and predictions are those of the saved model."""
    made = torch.load(script.with_suffix(".pt"), weights_only=True)
    weights = Model.load(model).module.state_dict().values()
    for ours, theirs in zip(made["weights"].values(), weights, strict=True):
        if theirs.is_floating_point():  # and no count of batches, which a model in use does not look at
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    predictions = made["predictions"].numpy()
    np.testing.assert_allclose(predictions, forecast.raw[: len(predictions)], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "chosen", "options"),
    [
        (
            bars(150),
            recipe("convnet", "discrete", averaging=0.5, learning_rate=0.1, label_smoothing=0.05, augmentation=_MOVED),
            {"task": "regression"},
        ),
        (colourful(), recipe("resnet", "squared", augmentation=_EVERYTHING), {"task": "regression"}),
        (colourful(), recipe("convnet", "classes", side=8, averaging=0.2, augmentation=_EVERYTHING), {"task": "classification"}),
    ],
    ids=lambda value: f"{value.family}-{value.head}" if isinstance(value, Recipe) else None,
)
def test_trains_the_same_model_where_there_is_no_pixelfit(
    tmp_path: Path, data: tuple[Array, Array], chosen: Recipe, options: dict[str, object]
) -> None:
    folder, forecast = finished(saved(tmp_path, *data), chosen, **options)
    written = write_script(folder, tmp_path / "train.py", progress=Silent())
    assert (written.script, written.data, written.trial) == (tmp_path / "train.py", tmp_path / "train.npz", 0)
    assert "pixelfit" not in written.script.read_text().split('"""', 2)[2]
    assert len(written.script.read_text().splitlines()) <= 275  # with every kind of augmentation and averaging
    said = run_alone(written.script)
    check_same(written.script, folder.trial_folder(0), forecast)
    for line in said.splitlines():
        if line.startswith("validation"):
            value, recorded = float(line.split()[2]), float(line.split()[-1].rstrip(")"))
            assert value == pytest.approx(recorded, rel=1e-4)
    if chosen.head == "discrete" and not trial_of(folder)["averaged"]:  # which of them is better, processors round differently
        pytest.skip("the last weights are better than their average here, so that the average was not tested")
    check_style(written.script)


def several() -> tuple[Array, Array]:
    return blobs(150)


def skewed() -> tuple[Array, Array]:
    pictures, columns = bars(150)
    return pictures, np.exp(columns / 2.0) + np.arange(150) / 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "family", "head", "options"),
    [
        (bars(150), "linear", "squared", {"task": "regression"}),
        (bars(150), "mlp", "huber", {"task": "regression", "metric": "mae"}),
        (bars(150), "mlp", "discrete", {"task": "regression", "metric": "mae"}),
        (skewed(), "mlp", "histogram", {}),
        (skewed(), "mlp", "log_histogram", {"metric": "mae"}),
        (skewed(), "mlp", "log_histogram", {}),
        (bars(150), "linear", "classes", {"task": "classification", "metric": "accuracy"}),
        (several(), "mlp", "squared", {}),
        (several(), "mlp", "huber", {"metric": "mae"}),
        (several(), "mlp", "histogram", {}),
        (strokes(200), "convnet", "labels", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_every_head_is_trained_to_the_same_predictions(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    data: tuple[Array, Array],
    family: str,
    head: str,
    options: dict[str, object],
) -> None:
    folder, forecast = finished(saved(tmp_path, *data), recipe(family, head), steps=6, **options)
    script = write_script(folder, tmp_path / "train.py", progress=Silent()).script
    check_style(script)
    run_here(script, monkeypatch)
    check_same(script, folder.trial_folder(0), forecast)


@pytest.mark.slow
def test_weights_of_an_earlier_check_are_kept_as_in_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, _ = bars(300)
    luck = np.random.default_rng(0).integers(0, 2, 300)  # can only be learned by heart
    folder, forecast = finished(saved(tmp_path, pictures, luck), recipe("mlp", "classes"), steps=120, task="classification")
    assert trial_of(folder)["best_at_step"] < 120
    script = write_script(folder, tmp_path / "train.py", progress=Silent()).script
    run_here(script, monkeypatch)
    check_same(script, folder.trial_folder(0), forecast)


@pytest.mark.slow
def test_a_snapshot_is_trained_in_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = recipe("mlp", "squared", augmentation=_MOVED)
    folder, forecast = finished(saved(tmp_path, *bars(150)), chosen, chosen, onward=True, task="regression")
    script = write_script(folder, tmp_path / "train.py", progress=Silent()).script
    assert "ROUNDS = [(24, 7), (24, 8)]" in script.read_text()
    assert "2 rounds of training" in script.read_text()
    run_here(script, monkeypatch)
    check_same(script, folder.trial_folder(1), forecast)
    check_style(script)


@pytest.mark.slow
def test_of_several_folds_the_first_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, forecast = finished(saved(tmp_path, *bars(150)), recipe("mlp", "squared"), steps=6, folds=3, task="regression")
    script = write_script(folder, tmp_path / "train.py", progress=Silent()).script
    assert "the first of its 3 folds" in " ".join(script.read_text().split())
    run_here(script, monkeypatch)
    check_same(script, folder.trial_folder(0) / "fold-0", forecast)


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.slow
def test_the_best_other_trial_is_taken_where_the_final_model_has_none_that_is_trained(tmp_path: Path) -> None:
    source = saved(tmp_path, *bars(150))
    recipes = recipe("linear", "squared"), recipe("mlp", "squared"), recipe("constant", "squared")
    folder, _ = finished(source, *recipes, task="regression")
    heard = Heard()
    written = write_script(folder, tmp_path / "train.py", progress=heard)
    scores = [trial_of(folder, number)["score"] for number in (0, 1)]
    assert written.trial == int(np.argmin(scores))
    assert f"the script trains trial {written.trial}" in heard.said[-1]
    assert "no part of the run's final model" in " ".join(written.script.read_text().split())


@pytest.mark.slow
def test_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    source = saved(tmp_path, *bars(150))
    folder, _ = finished(source, recipe("constant", "squared"), task="regression")
    with pytest.raises(RunError, match="no trial that a script could train again"):
        write_script(folder, tmp_path / "train.py", progress=Silent())
    with pytest.raises(OptionError, match=r"ends in \.py"):
        write_script(folder, tmp_path / "train.txt", progress=Silent())
    with pytest.raises(OptionError, match=r"given\.npz is there already"):  # the run's own data, under the script's name
        write_script(folder, tmp_path / "given.py", progress=Silent())
    (tmp_path / "run" / "model" / "predictor.json").unlink()
    with pytest.raises(RunError, match="not finished"):
        write_script(folder, tmp_path / "train.py", progress=Silent())
    assert not list(tmp_path.glob("train*"))


@pytest.mark.slow
@pytest.mark.parametrize("changed", [{"purpose": DISTILLED}, {"share": 0.5}, {"score": None}], ids=str)
def test_takes_no_trial_that_learned_other_things_or_failed(tmp_path: Path, changed: dict[str, object]) -> None:
    folder, _ = finished(saved(tmp_path, *bars(150)), recipe("linear", "squared"), steps=4, task="regression")
    (folder.trial_folder(0) / "SHA256SUMS").unlink()
    record = folder.trial_folder(0) / "trial.json"
    record.write_text(json.dumps({**trial_of(folder), **changed}))
    with pytest.raises(RunError, match="no trial that a script could train again"):
        write_script(folder, tmp_path / "train.py", progress=Silent())


@pytest.mark.slow
def test_names_cannot_leave_the_docstring(tmp_path: Path) -> None:
    source = saved(tmp_path, *bars(150)).rename(tmp_path / 'a"""; raise SystemExit(1)\\.npz')
    folder, _ = finished(source, recipe("linear", "squared"), steps=4, task="regression")
    script = write_script(folder, tmp_path / "train.py", progress=Silent()).script
    check_style(script)
    run_alone(script)


@pytest.mark.slow
def test_says_what_is_the_matter_with_the_data(tmp_path: Path) -> None:
    pictures, columns = bars(150)
    source = saved(tmp_path, pictures, columns)
    folder, _ = finished(source, recipe("linear", "squared"), steps=4, task="regression")

    def refused(match: str) -> None:
        with pytest.raises(RunError, match=match) as caught:
            write_script(folder, tmp_path / "train.py", progress=Silent())
        assert isinstance(caught.value, PixelfitError)
        assert not (tmp_path / "train.py").exists()

    (folder.trial_folder(0) / "SHA256SUMS").unlink()
    record = folder.trial_folder(0) / "trial.json"
    trial = trial_of(folder)
    record.write_text(json.dumps({**trial, "metrics": {"rmse": 0.5}}))
    refused("are split otherwise")
    record.write_text(json.dumps(trial))
    saved(tmp_path, pictures[::-1], columns)
    refused("has changed since the run")
    source.unlink()
    refused("cannot be read again: There is no file or folder")
    run = folder.read("run.json")
    (folder.path / "run.json").write_text(json.dumps({**run, "source": None}))
    refused("made from arrays")
    (folder.path / "run.json").write_text(json.dumps(run))
    facts = folder.read("facts.json")
    (folder.path / "facts.json").write_text(json.dumps({**facts, "fingerprint": ""}))
    refused("of an older pixelfit")
