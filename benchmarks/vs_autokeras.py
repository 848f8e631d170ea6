"""pixelfit and AutoKeras on the same data, machine and time: MNIST's official split, from process start to test scores."""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks import shared, tasks
from pixelfit.data.named import load_mnist, load_mnist_5k
from pixelfit.deadline import parse_budget
from pixelfit.files import read_json
from pixelfit.progress import Silent
from pixelfit.types import Array

PACKAGES = ("autokeras==3.0.0", "keras==3.12.0", "tensorflow-cpu", "tensorboard")
VENV = shared.ROOT / "benchmarks" / ".venv-autokeras"
ROWS = tuple(f"{who}-{task}" for task in ("regression", "classification") for who in ("pixelfit", "autokeras", "autokeras-fixed"))
WHO = {
    "pixelfit": "pixelfit",
    "autokeras": "AutoKeras, stopped at the budget",
    "autokeras-fixed": "AutoKeras, max_trials=1, epochs=1 and its final fit",
}
SHOWN = {"regression": ("rmse", "r2", "rounded_accuracy"), "classification": ("accuracy",)}
_VALIDATION = 5_000  # as many as pixelfit sets aside on this data
_QUICK = 200


def main() -> None:
    """Run what is not measured yet, and write the tables of all that is."""
    parser = shared.options_parser("vs_autokeras", __doc__, ROWS)
    shared.seeds_option(parser)
    shared.data_option(parser)
    parser.add_argument("--budget", help="wall-clock time of each (default 16m)")
    options = parser.parse_args()
    options.budget = options.budget or ("20s" if options.quick else "16m")
    journal = shared.journal_of("vs_autokeras", options)
    for row in options.only or ROWS:
        who, _, task = row.rpartition("-")
        for seed in options.seeds or (0,):
            fixed = {} if who == "autokeras-fixed" else {"budget": options.budget}
            key = {"row": row, **fixed, "seed": seed, "quick": options.quick}
            measure = _pixelfit if who == "pixelfit" else _autokeras
            journal.once(key, lambda measure=measure, who=who, task=task, seed=seed: measure(who, task, seed, options))
    records = [record for record in journal.records() if record["key"]["quick"] == options.quick]
    shared.write_results(
        "vs_autokeras",
        options,
        tables=[_scores(records), "Best validation score so far (RMSE, or log loss for labels):\n", _curves(records)],
        notes=[
            "data: 60,000 digits to develop on and the official 10,000 to test on; AutoKeras is given 5,000 of the former "
            "as validation data, as many as pixelfit sets aside, but not the same ones",
            "seconds: from the process's start to its end, test predictions included (pixelfit's report too); "
            "peak memory: resident, summed over the command's processes",
            "AutoKeras has no limit of wall-clock time: a callback ends the epoch under way and the search when the budget is "
            "over, and the best epoch of the best trial is scored; the row with a final fit has no limit",
            "AutoKeras' trials that begin with pretrained weights fail within seconds on a machine without network",
            "while it searches, pixelfit's times are its trials' ends, from the seconds recorded of each",
            *sorted({_versions(record["figures"]) for record in records} - {""}),
        ],
        figures={"runs": records},
        commits=[record["commit"] for record in records],
    )


def _pixelfit(who: str, task: str, seed: int, options: argparse.Namespace) -> shared.Json:
    out = shared.fresh_folder("vs_autokeras", f"{'quick-' if options.quick else ''}{who}-{task}-{seed}")
    command = tasks.command(f"mnist-{task}", options, budget=options.budget, seed=seed, out=out)
    figures = shared.fit_measured(command, out)
    trials = [read_json(file) for file in sorted(out.glob("trials/*/trial.json"))]
    return {**figures, "trials": len(trials), "curve": curve_of(trials, read_json(out / "timeline.json")["seconds"]["data"])}


def curve_of(trials: list[shared.Json], began_s: float) -> list[dict[str, float]]:
    """When each trial of a run ended, one after the other, and its validation score."""
    points, seconds = [], began_s
    for trial in trials:
        seconds += trial["seconds"]
        score = trial["metrics"].get("rmse", trial["metrics"].get("log_loss"))
        if score is not None:
            points.append({"seconds": round(seconds, 1), "score": score})
    return points


def _autokeras(who: str, task: str, seed: int, options: argparse.Namespace) -> shared.Json:
    python = _environment()
    arrays, test_y = _arrays(options, seed)
    out = shared.fresh_folder("vs_autokeras", f"{'quick-' if options.quick else ''}{who}-{task}-{seed}")
    out.mkdir()
    side = shared.ROOT / "benchmarks" / "autokeras_side.py"
    command = [str(python), str(side), str(arrays), task, str(parse_budget(options.budget)), str(out), "--seed", str(seed)]
    log = out / "log.txt"
    measured = shared.run_measured([*command, *(["--fixed"] if who == "autokeras-fixed" else [])], log=log)
    if measured.code != 0:
        raise shared.BenchmarkError(f"AutoKeras ended with code {measured.code}: {shared.tail(log)}")
    found = read_json(out / "found.json")
    # val_loss is the mean squared error, or the cross-entropy: the square of what pixelfit ranks by, or just that.
    root = math.sqrt if task == "regression" else float
    curve = [
        {"seconds": round(point["seconds"], 1), "score": root(point["val_loss"])}
        for point in found["curve"]
        if "val_loss" in point
    ]
    return {
        "wall_s": round(measured.wall_s, 2),
        "peak_rss_mb": round(measured.peak_rss_mb),
        "test_rows": len(test_y),
        "test": test_scores(task, test_y, np.load(out / "test_predictions.npy")),
        "trials": found["trials"],
        "curve": curve,
        "epochs": found["curve"],
        **{name: found[name] for name in ("fitted_s", "parameters", "versions")},
    }


def test_scores(task: str, targets: Array, predictions: Array) -> dict[str, float]:
    """The test figures of predicted numbers or labels."""
    if task == "classification":
        return {"accuracy": float(np.mean(predictions.astype(np.int64) == targets))}
    errors = predictions.astype(np.float64) - targets
    return {
        "rmse": float(np.sqrt(np.mean(errors**2))),
        "r2": float(1 - np.mean(errors**2) / np.var(targets)),
        "rounded_accuracy": float(np.mean(np.round(predictions) == targets)),
    }


test_scores.__test__ = False  # type: ignore[attr-defined]  # it is no test, whatever pytest thinks of its name


def _environment() -> Path:
    """AutoKeras' Python, in a virtual environment that is made once."""
    python, stamp = VENV / "bin" / "python", VENV / "installed"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != "\n".join(PACKAGES):
        shared.say("Setting up AutoKeras in benchmarks/.venv-autokeras (once; some minutes) ...")
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES], check=True)
        stamp.write_text("\n".join(PACKAGES), encoding="utf-8")
    return python


def _arrays(options: argparse.Namespace, seed: int) -> tuple[Path, Array]:
    """A folder with the digits as arrays for AutoKeras, and the test digits' targets, which it is not given."""
    loaded = load_mnist_5k(None, Silent()) if options.quick else load_mnist(options.data_dir, Silent())
    assert loaded.arrays is not None
    assert loaded.parts is not None
    rng = np.random.default_rng(seed)
    develop, test = rng.permutation(np.flatnonzero(loaded.parts != "test")), np.flatnonzero(loaded.parts == "test")
    validation = _VALIDATION
    if options.quick:
        develop, test, validation = develop[:_QUICK], test[:: len(test) // _QUICK], _QUICK // 5
    folder = shared.WORK / f"digits{'-quick' if options.quick else ''}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", develop[validation:]), ("val", develop[:validation]), ("test", test)):
        np.save(folder / f"{part}_X.npy", loaded.arrays[rows])
        if part != "test":
            np.save(folder / f"{part}_y.npy", loaded.targets[rows])
    return folder, loaded.targets[test]


def _scores(records: list[dict[str, shared.Json]]) -> str:
    lines = []
    for row, budget in _groups(records):
        who, _, task = row.rpartition("-")
        runs = _runs(records, row, budget)
        lines.append(
            [
                tasks.TITLES[f"mnist-{task}"],
                WHO[who],
                budget or "none",
                "; ".join(f"{name} {tasks.spread_text(name, [run['test'][name] for run in runs])}" for name in SHOWN[task]),
                shared.spread([run["wall_s"] for run in runs], "{:.0f}"),
                shared.spread([run["peak_rss_mb"] / 1000 for run in runs], "{:.2f}"),
                shared.spread([run["trials"] for run in runs], "{:.0f}"),
                str(len(runs)),
            ]
        )
    return shared.table(["task", "program", "budget", "test figures", "seconds", "peak memory, GB", "trials", "runs"], lines)


def _versions(figures: shared.Json) -> str:
    return ", ".join(f"{name} {version}" for name, version in figures.get("versions", {}).items())


def _curves(records: list[dict[str, shared.Json]]) -> str:
    """The best validation score so far after eighths, quarters and halves of the longest budget."""
    longest = max((parse_budget(budget) for _, budget in _groups(records) if budget), default=0.0)
    marks = [longest * share for share in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)]
    lines = []
    for row, budget in _groups(records):
        who, _, task = row.rpartition("-")
        if budget:
            cells = []
            for mark in marks:
                best = [best_until(run["curve"], mark) for run in _runs(records, row, budget)]
                known = [value for value in best if value is not None]
                cells.append(shared.spread(known) if known else "–")
            lines.append([tasks.TITLES[f"mnist-{task}"], f"{WHO[who]}, {budget}", *cells])
    return shared.table(["task", "program", *(f"after {mark:.0f} s" for mark in marks)], lines)


def best_until(curve: list[dict[str, float]], seconds: float) -> float | None:
    """The smallest score of a curve's points until then; None before the first."""
    return min((point["score"] for point in curve if point["seconds"] <= seconds), default=None)


def _groups(records: list[dict[str, shared.Json]]) -> list[tuple[str, str | None]]:
    found = {(record["key"]["row"], record["key"].get("budget")) for record in records}
    return sorted(found, key=lambda group: (ROWS.index(group[0]), group[1] or ""))


def _runs(records: list[dict[str, shared.Json]], row: str, budget: str | None) -> list[shared.Json]:
    return [record["figures"] for record in records if record["key"]["row"] == row and record["key"].get("budget") == budget]


if __name__ == "__main__":
    shared.run(main)
