"""The benchmarks' helpers, and tiny runs of the benchmarks themselves."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import angles, overhead, pixelfit_side, portfolio, scaling, shared, synthetic, tasks, vs_autokeras
from benchmarks.bare import BareLoop, warp
from benchmarks.time_to_quality import Target
from pixelfit.automl import Run
from pixelfit.models import FAMILIES
from pixelfit.search.space import build_space
from pixelfit.training.augment import augment
from pixelfit.training.recipe import Augmentation


def _record(journal: shared.Journal, key: object, value: float) -> float:
    figures: float = journal.once(key, lambda: value)["figures"]
    return figures


def test_median_and_spread() -> None:
    assert shared.median([3.0, 1.0, 2.0]) == 2.0
    assert shared.spread([3.0, 1.0, 2.0]) == "2 (1 – 3)"
    assert shared.spread([1234.5], "{:,.0f}") == "1,234"
    assert tasks.spread_text("accuracy", [0.984, 0.99, 0.98]) == "98.40% (98.00% – 99.00%)"


def test_a_table_is_markdown_whatever_its_cells_hold() -> None:
    lines = shared.table(["a", "b"], [["1", "x|y"]]).splitlines()
    assert lines == ["| a | b |", "| --- | --- |", "| 1 | x\\|y |"]


@pytest.mark.slow
def test_finished_measurements_are_not_repeated_unless_asked(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    assert _record(shared.Journal(file), {"row": "a"}, 1.0) == 1.0
    assert _record(shared.Journal(file), {"row": "a"}, 2.0) == 1.0
    assert _record(shared.Journal(file, again=True), {"row": "a"}, 3.0) == 3.0
    assert [record["figures"] for record in shared.Journal(file).records()] == [3.0]


@pytest.mark.slow
def test_a_line_cut_short_by_a_kill_costs_only_itself(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    _record(shared.Journal(file), {"row": "a"}, 1.0)
    with file.open("a") as lines:
        lines.write('{"key": {"row": "b"}, "mach')
    assert _record(shared.Journal(file), {"row": "b"}, 2.0) == 2.0
    assert [record["figures"] for record in shared.Journal(file).records()] == [1.0, 2.0]


@pytest.mark.slow
def test_records_of_another_machine_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "runs.jsonl"
    _record(shared.Journal(file), {"row": "a"}, 1.0)
    monkeypatch.setattr(shared, "machine", lambda: "an abacus, 2 rows")
    assert shared.Journal(file).records() == []
    assert _record(shared.Journal(file), {"row": "a"}, 2.0) == 2.0


@pytest.mark.slow
def test_a_command_is_measured_with_its_children(tmp_path: Path) -> None:
    child = "import time; x = bytearray(120_000_000); time.sleep(1)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); sys.exit(3)"
    measured = shared.run_measured([sys.executable, "-c", parent], log=tmp_path / "log")
    assert measured.code == 3
    assert measured.wall_s > 1
    assert measured.peak_rss_mb > 120


@pytest.mark.slow
def test_a_command_that_takes_too_much_memory_is_ended(tmp_path: Path) -> None:
    greedy = "import time; x = bytearray(200_000_000); time.sleep(60)"
    measured = shared.run_measured([sys.executable, "-c", greedy], log=tmp_path / "log", most_rss_mb=100)
    assert measured.code != 0
    assert measured.wall_s < 30


def test_paths_of_this_machine_stay_out_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--data-dir", "/home/me/data", "--seeds", "0,1", f"--results={tmp_path}"])
    options = argparse.Namespace(results=tmp_path, quick=False)
    shared.write_results("overhead", options, tables=["| a |\n"], notes=["b"], figures={"runs": []}, commits=["c"])
    text, raw = (tmp_path / "overhead.md").read_text(), json.loads((tmp_path / "overhead.json").read_text())
    assert raw["command"] == "benchmarks/overhead --data-dir PATH --seeds 0,1 --results=PATH"
    assert raw["hardware"] in text
    assert "/home/me" not in text
    assert str(tmp_path) not in text


def test_coverage_and_calibration_are_read_where_a_run_has_them() -> None:
    plain = {"test": {"rmse": {"value": 0.2, "low": 0.1, "high": 0.3}}}
    assert shared.test_figures(plain) == {"rmse": 0.2}
    assert shared.test_figures({**plain, "reliability": {"error": 0.01}})["ece"] == 0.01
    assert shared.test_figures({**plain, "intervals": {"covered": {"value": 0.9}}})["covered"] == 0.9
    assert shared.test_figures({**plain, "intervals": None, "reliability": None}) == {"rmse": 0.2}


def test_a_target_is_reached_in_its_own_direction() -> None:
    run = {"test": {"rmse": 0.4, "accuracy": 0.99}, "baseline": {"rmse": 1.0}}
    assert Target("rmse", 0.454).reached(run)
    assert Target("accuracy", 0.984).reached(run)
    assert not Target("accuracy", 0.995).reached(run)
    assert Target("rmse", 0.9, of_baseline=True).reached(run)
    assert not Target("rmse", 0.3, of_baseline=True).reached(run)
    assert not Target("rmse", 0.454).reached(None)


def test_turning_back_recovers_the_digit() -> None:
    y, x = np.mgrid[:28, :28]
    blob = (250 * np.exp(-((x - 17) ** 2 / 12 + (y - 11) ** 2 / 30))).astype(np.uint8)
    digits = np.stack([blob, blob.T, blob[::-1]])
    degrees = np.array([-60.0, 13.0, 45.0])
    back = angles.rotated(angles.rotated(digits, degrees), -degrees)
    assert np.abs(back.astype(int) - digits.astype(int)).mean() < 2.0
    assert np.abs(angles.rotated(digits, degrees).astype(int) - digits.astype(int)).mean() > 10.0


def test_positive_angles_turn_counter_clockwise() -> None:
    digit = np.zeros((1, 29, 29), dtype=np.uint8)
    digit[0, 14, 24] = 255  # to the right of the middle
    turned = angles.rotated(digit, np.array([90.0]))[0]
    assert np.unravel_index(turned.argmax(), turned.shape) == (4, 14)  # above it


def test_angles_are_even_and_the_same_for_every_run() -> None:
    digits = np.zeros((2_000, 4, 4), dtype=np.uint8)
    (_, once), (_, again) = angles.make(digits, seed=0), angles.make(digits, seed=0)
    assert (once == again).all()
    assert -60 <= once.min() < -59
    assert 59 < once.max() <= 60
    assert abs(once.mean()) < 3


def test_the_bare_loop_warps_as_pixelfit_does() -> None:
    X, y = pixelfit_side.digits_like(60, 20)
    recipe = pixelfit_side.known_good(pixelfit_side.prepared(X, y, "regression"), "convnet")
    recipe = replace(recipe, augmentation=Augmentation(rotate=9.0, scale=0.1, shear=0.1, shift=0.06))
    batch = torch.from_numpy(X[:, :16]).permute(0, 3, 1, 2).float()  # not square
    ours = augment(batch, recipe.augmentation, torch.Generator().manual_seed(3))
    bare = warp(batch, recipe, torch.Generator().manual_seed(3))
    torch.testing.assert_close(bare, ours, rtol=1e-3, atol=0.05)  # of 255


def test_the_bare_loop_learns() -> None:
    X, y = pixelfit_side.digits_like(200, 12)
    ready = pixelfit_side.prepared(X, y, "classification")
    recipe = pixelfit_side.known_good(ready, "convnet")
    torch.manual_seed(0)
    net = FAMILIES["convnet"].build(ready.facts.spec, 10, recipe.architecture)
    loop = BareLoop(net, recipe, X, y.astype(np.int64), low_precision=False)

    def loss() -> float:
        batch = (loop.pictures.float() - loop.mean) / loop.std
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(loop.net(batch), loop.labels))

    before = loss()
    loop.step_seconds(20, augmented=False)
    assert loss() < 0.7 * before
    # A first convolution that makes 16 maps of 12×12 from one, forward and for its weights, is the least that is counted.
    assert loop.step_flops() > recipe.batch_size * 2 * (2 * 9 * 16 * 12 * 12)


def test_a_run_is_divided_into_training_and_the_rest(regression_run: Run) -> None:
    found = overhead.time_of(regression_run.folder.path)
    assert 0 < found["training_s"] < found["wall_s"]
    assert found["trials"] == 4


def test_the_best_score_until_then() -> None:
    trials = [
        {"seconds": 2.0, "metrics": {"rmse": 3.0}},
        {"seconds": 5.0, "metrics": {}},
        {"seconds": 4.0, "metrics": {"rmse": 4.0}},
    ]
    curve = vs_autokeras.curve_of(trials, 1.0)
    assert [point["seconds"] for point in curve] == [3.0, 12.0]
    assert vs_autokeras.best_until(curve, 2.9) is None
    assert vs_autokeras.best_until(curve, 60.0) == 3.0


def test_scores_of_another_programs_predictions() -> None:
    targets = np.array([0, 1, 2, 3])
    scores = vs_autokeras.test_scores("regression", targets, np.array([0.1, 1.0, 2.0, 3.9], dtype=np.float32))
    assert scores["rmse"] == pytest.approx(np.sqrt((0.01 + 0.81) / 4))
    assert scores["rounded_accuracy"] == 0.75
    assert vs_autokeras.test_scores("classification", targets, np.array(["0", "1", "2", "0"])) == {"accuracy": 0.75}


@pytest.mark.slow
def test_a_point_of_the_scaling_is_measured() -> None:
    figures = scaling.measure(scaling.Point(100, 8), quick=True)
    assert figures["peak_rss_mb"] > 50
    assert figures["seen_as"] == "8×8"


@pytest.mark.slow
def test_a_quick_benchmark_runs_from_its_options_to_its_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.overhead", "--quick", "--only", "start", "--results", str(tmp_path)]
    subprocess.run(command, env=shared.child_environment(), check=True, capture_output=True, timeout=120)
    raw = json.loads((tmp_path / "overhead.json").read_text())
    assert raw["runs"][0]["figures"]["import_loads_torch"] is False
    assert "`import pixelfit`" in (tmp_path / "overhead.md").read_text()


def test_the_portfolio_takes_first_what_is_good_everywhere_and_then_what_is_missing() -> None:
    regrets = {
        "good everywhere": {"a": 0.2, "b": 0.2, "c": 0.2},
        "best on a": {"a": 0.0, "b": 2.0, "c": 2.0},
        "best on b and c": {"a": 2.0, "b": 0.0, "c": 0.05},
        "never needed": {"a": 0.2, "b": 0.2, "c": 0.3},
    }
    chosen = portfolio.greedy(regrets, 4, least_gain=0.01)
    assert [name for name, _ in chosen] == ["good everywhere", "best on b and c", "best on a"]
    assert [mean for _, mean in chosen] == pytest.approx([0.2, 0.25 / 3, 0.05 / 3])
    assert len(portfolio.greedy(regrets, 2, least_gain=0.01)) == 2


def test_regrets_are_logarithms_of_ratios_to_the_best() -> None:
    def record(recipe: str, score: float | None) -> dict:
        return {"key": {"data": "d", "recipe": recipe, "work_s": 8.0}, "figures": {"score": score}}

    regrets = portfolio.regrets_of([record("w", 90.0), record("x", 0.2), record("y", 0.1), record("z", None)])
    assert [regrets[name]["d, 8 s"] for name in "wxyz"] == pytest.approx([np.log(10), np.log(2), 0.0, np.log(10)])


def test_a_portfolio_has_a_recipe_of_every_family() -> None:
    found = [{"family": "resnet", "resnet.width": 24}, {"family": "convnet"}]
    assert portfolio.with_every_family(found) == [*found, {"family": "mlp"}, {"family": "linear"}, {"family": "trees"}]


def test_a_changed_recipe_differs_in_three_answers() -> None:
    changed = [candidate for candidate in portfolio.candidates(12) if candidate.name.startswith("convnet-strided-")]
    assert len(changed) == 1
    assert changed[0].answers.items() >= {"family": "convnet", "convnet.stem": "strided", "convnet.width": 32}.items()
    assert len(changed[0].answers) == 6


def test_candidates_are_the_same_each_time_and_fit_the_space() -> None:
    first, again = portfolio.candidates(9), portfolio.candidates(9)
    assert first == again
    assert len({candidate.name for candidate in first}) == 9
    lesson = pixelfit_side.prepared(*synthetic.shapes(60))
    space = build_space(lesson.facts, lesson.train)
    for candidate in first:
        recipe, _ = space.known_good(candidate.answers)
        assert recipe.family == candidate.answers["family"]


@pytest.mark.parametrize("make", [synthetic.shapes, synthetic.blobs, synthetic.small_digits])
def test_made_up_data_are_the_same_each_time(make) -> None:
    pictures, targets, task = make(40)
    again, targets_again, _ = make(40)
    assert (pictures == again).all()
    assert (targets == targets_again).all()
    assert len(pictures) == len(targets) == 40
    assert pictures.dtype == np.uint8
    assert task in ("regression", "classification")
