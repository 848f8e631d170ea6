"""Exported models predict what the original does: every family, kind of target and number of channels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import bars, graph_of
from test_models import FRESH, prepared, trained
from test_pretrained import photographs, striped
from typer.testing import CliRunner

import pixelfit
from pixelfit.automl import Run, fit
from pixelfit.cli import app
from pixelfit.data.pictures import resize, resizing
from pixelfit.errors import OptionError, RunError
from pixelfit.export import export, onnx
from pixelfit.export.assembled import Assembled
from pixelfit.export.check import MOST_DIFFERENCE, checked
from pixelfit.export.onnx import write_int8, write_onnx
from pixelfit.export.program import DESCRIPTION_FILE, write_program
from pixelfit.graphs import INPUT, description_of, session_of
from pixelfit.models import FAMILIES
from pixelfit.models.model import Model
from pixelfit.options import checked_options
from pixelfit.predictor import Member, Predictor
from pixelfit.progress import Silent
from pixelfit.runs import HeldOut, RunFolder
from pixelfit.training.pace import Pace
from pixelfit.training.recipe import Recipe
from pixelfit.types import Facts, PictureSpec, Splits

_HEADS = {"regression": "squared", "classification": "classes"}
# Every family with one task and one number of channels, which have nothing to do with each other: an export takes 5 s or more.
_PAIRS = [("regression", 1), ("classification", 3)]


def _in_turns(families: Sequence[str]) -> list[object]:
    """Each family with the pairs in turns; its others are ``exhaustive``."""
    return [
        pytest.param(family, task, channels, marks=[] if (place + other) % 2 == 0 else pytest.mark.exhaustive)
        for place, family in enumerate(families)
        for other, (task, channels) in enumerate(_PAIRS)
    ]


def saved(folder: Path, models: list[tuple[Model, float]], facts: Facts, held_out: HeldOut, **more: object) -> RunFolder:
    """A run folder with what exporting reads."""
    members = tuple(Member(model, place, weight) for place, (model, weight) in enumerate(models))
    predictor = Predictor(facts.task, facts.classes, facts.target_name, members, **more)  # type: ignore[arg-type]
    run = RunFolder.create(folder)
    run.write_run({})
    run.write_data(facts, {})
    predictor.save(run.model_folder)
    run.write_held_out(held_out)
    return run


def learned(family: str, head: str, facts: Facts, splits: Splits, **more: object) -> Model:
    architecture = {**FAMILIES[family].starting_architecture(), **more}
    return trained(Recipe(family, head, architecture, batch_size=32), facts, splits, pace=Pace(steps=8)).model


def thousand(channels: int, task: str) -> HeldOut:
    pictures, columns = bars(1_000, channels=channels, seed=7)
    return HeldOut(pictures, columns.astype(np.float64) if task == "regression" else columns)


def outputs(file: Path, pictures: np.ndarray) -> list[np.ndarray]:
    return session_of(file).run(None, {INPUT: pictures})


@pytest.mark.slow
@pytest.mark.parametrize(("family", "task", "channels"), _in_turns([family.name for family in FRESH]))
def test_every_family_is_the_same_in_onnx_on_a_thousand_pictures(family: str, task: str, channels: int, tmp_path: Path) -> None:
    facts, splits = prepared(task, channels=channels)
    model = learned(family, _HEADS[task], facts, splits)
    run = saved(tmp_path / "run", [(model, 1.0)], facts, thousand(channels, task))
    parity = write_onnx(run, tmp_path / "model.onnx")
    assert parity.pictures == 1_000
    assert parity.largest <= MOST_DIFFERENCE
    pictures = run.read_held_out().pictures
    assert outputs(tmp_path / "model.onnx", pictures)[0] == pytest.approx(model.predict(pictures), abs=1e-3)


def noisy_thousand(channels: int, task: str) -> HeldOut:
    """Striped pictures, half of them with noise that no training picture has and that other features answer to."""
    pictures = striped(1_000, seed=7)
    noise = np.random.default_rng(7).normal(0, 25, (500, *pictures.shape[1:]))
    pictures[500:] = np.clip(pictures[500:] + noise, 0, 255).astype(np.uint8)
    rows = np.arange(1_000)
    return HeldOut(pictures[..., :channels], rows % 4 * 1.5 + 0.1 if task == "regression" else rows % 2)


@pytest.mark.long("a thousand pictures through a real backbone, twice")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "task", "channels"),
    [
        ("tuned", "regression", 1),
        *(
            pytest.param(*others, marks=pytest.mark.exhaustive)
            for others in (
                ("frozen", "regression", 1),
                ("frozen", "classification", 3),
                ("frozen_trees", "regression", 1),
                ("frozen_trees", "classification", 3),
                ("tuned", "classification", 3),
            )
        ),
    ],
)
def test_pretrained_families_are_the_same_in_onnx_on_a_thousand_pictures(
    family: str, task: str, channels: int, lite0: Path, tmp_path: Path
) -> None:
    facts, splits = photographs(task, channels=channels)
    backbone = {"side": 64, "backbone": "efficientnet_lite0", "weights": str(lite0)}
    model = learned(family, _HEADS[task], facts, splits, **backbone)
    run = saved(tmp_path / "run", [(model, 1.0)], facts, noisy_thousand(channels, task))
    parity = write_onnx(run, tmp_path / "model.onnx")
    assert parity.pictures == 1_000
    assert parity.largest <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "task"),
    [
        ("frozen", "regression"),
        ("frozen_trees", "classification"),
        pytest.param("tuned", "regression", marks=pytest.mark.exhaustive),
    ],
)
def test_pretrained_families_are_the_same_as_programs(family: str, task: str, lite0: Path, tmp_path: Path) -> None:
    facts, splits = photographs(task)
    backbone = {"side": 64, "backbone": "efficientnet_lite0", "weights": str(lite0)}
    model = learned(family, _HEADS[task], facts, splits, **backbone)
    run = saved(tmp_path / "run", [(model, 1.0)], facts, HeldOut.of(splits.validation))
    assert write_program(run, tmp_path / "model.pt2").largest <= MOST_DIFFERENCE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "views"),
    [
        ("huber", "shifted"),
        ("log_histogram", "single"),
        pytest.param("discrete", "single", marks=pytest.mark.exhaustive),
        pytest.param("histogram", "shifted", marks=pytest.mark.exhaustive),
    ],
)
def test_heads_views_and_mixtures_are_the_same_in_onnx(head: str, views: str, tmp_path: Path) -> None:
    facts, splits = prepared("regression", noise=0.0)
    splits = replace(
        splits, folds=tuple(replace(fold, train=replace(fold.train, targets=fold.train.targets + 1)) for fold in splits.folds)
    )
    first = replace(learned("convnet", head, facts, splits), views=views, temperature=1.7)
    second = learned("linear", "squared", facts, splits)
    run = saved(tmp_path / "run", [(first, 0.7), (second, 0.3)], facts, thousand(1, "regression"))
    assert write_onnx(run, tmp_path / "model.onnx").largest <= MOST_DIFFERENCE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fixture", "form"),
    [
        *((fixture, "onnx") for fixture in ("regression_run", "classification_run", "numbers_run", "labels_run")),
        ("regression_run", "torch"),
        *(
            pytest.param(fixture, "torch", marks=pytest.mark.exhaustive)
            for fixture in ("classification_run", "numbers_run", "labels_run")
        ),
    ],
)
def test_a_run_of_every_kind_of_target_is_exported_whole(
    fixture: str, form: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run: Run = request.getfixturevalue(fixture)
    predictor = run.predictor
    pictures = resize(run.folder.read_held_out().pictures[:20], replace(run.facts.spec, height=31, width=9))
    file = tmp_path / {"onnx": "model.onnx", "torch": "model.pt2"}[form]
    result = CliRunner().invoke(app, ["export", str(run.folder.path), "--format", form, "-o", str(file)])
    assert result.exit_code == 0, result.output
    assert "held-out pictures it differs from the original by at most" in result.output
    # With nothing of pixelfit's: as somebody else would use the files.
    np.save(tmp_path / "pictures.npy", pictures)
    subprocess.run([sys.executable, "-c", _ELSEWHERE[form], str(file)], check=True, cwd=tmp_path, capture_output=True)
    with np.load(tmp_path / "said.npz") as arrays:
        said = dict(zip(Assembled(predictor).output_names, arrays.values(), strict=True))
    raw = predictor.predict_raw(pictures)
    main = "prediction" if run.facts.task == "regression" else "probabilities"
    np.testing.assert_allclose(said[main], raw, atol=1e-4 * max(1.0, float(raw.std())))
    if run.facts.task == "regression":
        ends = predictor.predict_interval(pictures, 0.9)
        got = np.stack([said["low"], said["high"]], axis=-1)
        np.testing.assert_allclose(got, ends, atol=1e-3 * float(raw.std()))
    if form == "onnx":
        session = session_of(file)
        assert [output.name for output in session.get_outputs()] == list(said)
        described = description_of(session, file)
        assert described["kind"] == run.facts.kind
        assert described["classes"] == (None if run.facts.classes is None else list(run.facts.classes))
    else:
        extra = {DESCRIPTION_FILE: ""}
        torch.export.load(file, extra_files=extra)
        assert '"kind"' in extra[DESCRIPTION_FILE]


# Programs that use an exported file where there is no pixelfit.
_ELSEWHERE = {
    "onnx": (
        "import sys, numpy as np, onnxruntime; sys.modules['pixelfit'] = None\n"
        "session = onnxruntime.InferenceSession(sys.argv[1])\n"
        "np.savez('said.npz', *session.run(None, {'pictures': np.load('pictures.npy')}))\n"
    ),
    "torch": (
        "import sys, numpy as np, torch; sys.modules['pixelfit'] = None\n"
        "outputs = torch.export.load(sys.argv[1]).module()(torch.tensor(np.load('pictures.npy')))\n"
        "np.savez('said.npz', *(each.detach().numpy() for each in outputs))\n"
    ),
}


@pytest.mark.slow
def test_pictures_of_other_numbers_than_bytes_go_in_as_floats(tmp_path: Path) -> None:
    pictures, columns = bars(120)
    run = fit((pictures * 31.5 - 400, columns), checked_options(trials=2, steps=20, out=tmp_path / "run"), progress=Silent())
    assert run.facts.spec.scale == "raw"
    export(run.folder, "onnx", progress=Silent())
    session = session_of(run.folder.path / "export" / "model.onnx")
    assert session.get_inputs()[0].type == "tensor(float)"


def test_the_graph_resizes_to_the_same_pixels_as_the_library() -> None:
    rng = np.random.default_rng(0)
    for size in ((40, 31), (14, 90), (7, 5)):
        pictures = rng.integers(0, 256, (4, *size, 3), dtype=np.uint8)
        own = resize(pictures, PictureSpec(20, 22, 3))
        theirs = torch.nn.functional.interpolate(
            torch.from_numpy(pictures).permute(0, 3, 1, 2).double(), size=(20, 22), mode="bilinear", antialias=True
        )
        assert np.abs(own - theirs.permute(0, 2, 3, 1).numpy()).max() <= 0.51
    assert resizing(3, 3) == pytest.approx(np.eye(3))
    assert resizing(2, 10).sum(axis=1) == pytest.approx([1, 1])


def test_a_strangeness_that_differs_is_refused(regression_run: Run) -> None:
    predictor = regression_run.predictor
    assert predictor.familiarity is not None
    session = session_of(graph_of(regression_run))
    other = replace(predictor, familiarity=replace(predictor.familiarity, usual=predictor.familiarity.usual * 1.1))
    with pytest.raises(RunError, match=r"strangeness differs from the original's by up to 0\.\d+, more than the 0\.01"):
        checked(lambda pictures: session.run(None, {INPUT: pictures}), other, regression_run.folder.read_held_out())


def test_a_graph_that_differs_is_refused_and_nothing_is_left(
    regression_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = onnx._write_graph

    def other(predictor: Predictor, run: str, file: Path) -> None:
        first = predictor.members[0]
        moved = replace(first.model, preparation=replace(first.model.preparation, mean=(first.model.preparation.mean[0] + 9,)))
        write(replace(predictor, members=(replace(first, model=moved), *predictor.members[1:])), run, file)

    monkeypatch.setattr(onnx, "_write_graph", other)
    with pytest.raises(RunError, match=r"differs from the original by up to .* nothing was written"):
        write_onnx(regression_run.folder, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.full_size  # of a small net most of the file is no weights
def test_eight_bit_integers_make_a_smaller_file_and_their_cost_is_measured(tmp_path: Path) -> None:
    facts, splits = prepared("regression")
    run = saved(tmp_path / "run", [(learned("convnet", "squared", facts, splits), 1.0)], facts, thousand(1, "regression"))
    write_onnx(run, tmp_path / "model.onnx")
    cost = write_int8(run, tmp_path / "model-int8.onnx")
    assert (tmp_path / "model-int8.onnx").stat().st_size < 0.7 * (tmp_path / "model.onnx").stat().st_size
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model-int8.onnx", "model.onnx", "run"]
    held_out = run.read_held_out()
    assert (cost.metric, cost.pictures) == ("rmse", len(held_out.pictures) // 2)
    for cost_of, file in ((cost.before, "model.onnx"), (cost.after, "model-int8.onnx")):
        said = outputs(tmp_path / file, held_out.pictures[1::2])[0]
        assert cost_of.value == pytest.approx(np.sqrt(np.mean((said - held_out.targets[1::2]) ** 2)), rel=1e-4)
    assert cost.before.value != cost.after.value


def test_what_cannot_be_exported_is_one_sentence(regression_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="--quantize int8 is for --format onnx"):
        export(regression_run.folder, "torch", quantize="int8", progress=Silent())
    with pytest.raises(OptionError, match=r"must end in \.onnx"):
        export(regression_run.folder, "onnx", out=tmp_path / "model.bin", progress=Silent())
    unfinished = RunFolder.create(tmp_path / "run")
    unfinished.write_run({})
    with pytest.raises(RunError, match="holds no finished model"):
        export(unfinished, "onnx", progress=Silent())
    regression_run.predictor.save(unfinished.model_folder)
    with pytest.raises(RunError, match="set no pictures aside"):
        export(unfinished, "onnx", progress=Silent())
    (unfinished.path / "held-out.safetensors").write_bytes(b"not these")
    with pytest.raises(RunError, match="is damaged"):
        export(unfinished, "onnx", progress=Silent())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(OptionError, match=r"needs the package onnxruntime: pip install 'pixelfit\[export\]'"):
        export(regression_run.folder, "onnx", out=tmp_path / "model.onnx", progress=Silent())


def test_a_file_that_somebody_else_made_is_no_model_of_ours(regression_run: Run, tmp_path: Path) -> None:
    import onnx as library

    graph = library.load(str(graph_of(regression_run)))
    del graph.metadata_props[:]
    library.save(graph, str(tmp_path / "other.onnx"))
    with pytest.raises(RunError, match="was not exported by pixelfit"):
        description_of(onnxruntime.InferenceSession(str(tmp_path / "other.onnx")), tmp_path / "other.onnx")


def test_held_out_pictures_fit_a_small_file(regression_run: Run) -> None:
    held_out = regression_run.folder.read_held_out()
    assert 0 < len(held_out.pictures) == len(held_out.targets) <= 1_000
    assert held_out.pictures.nbytes <= 8 << 20
    assert pixelfit.load(regression_run.folder.path).spec.height == held_out.pictures.shape[1]
