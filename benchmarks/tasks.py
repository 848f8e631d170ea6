"""The data that whole commands are measured on, and the command for each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import angles
from benchmarks.shared import WORK, BenchmarkError, median
from pixelfit.metrics import shown

MAXIMISED = frozenset({"r2", "accuracy", "rounded_accuracy", "macro_f1", "covered", "covered_worst_fifth"})
_IN_PER_CENT = frozenset({"covered", "covered_worst_fifth", "miscovered", "ece"})
TITLES = {
    "mnist-regression": "MNIST, digits as numbers",
    "mnist-classification": "MNIST, digits as labels",
    "angle": "angle of rotated digits",
    "houses": "prices of houses",
}


def command(task: str, options: argparse.Namespace, *, budget: str, seed: int, out: Path) -> list[str]:
    """The whole command of a task. A quick run takes fewer digits, two trials and a few steps instead of a budget."""
    quick: bool = options.quick
    length = ["--trials", "2", "--steps", "10"] if quick else ["--budget", budget]
    common = [*length, "--seed", str(seed), "--out", str(out)]
    if task == "angle":
        folder = angles.write(WORK / ("angles-quick" if quick else "angles"), options.data_dir, quick=quick)
        return [sys.executable, "-m", "benchmarks.angles", str(folder), *common]
    start = [sys.executable, "-m", "pixelfit", "fit"]
    if task == "houses":
        return [*start, str(_houses(options)), "--target", "price_usd", *common]
    place = ["--data-dir", str(options.data_dir)] if options.data_dir and not quick else []
    return [*start, "mnist-5k" if quick else "mnist", "--task", task.removeprefix("mnist-"), *place, *common]


def _houses(options: argparse.Namespace) -> Path:
    given: Path | None = options.houses or (options.data_dir / "houses" / "houses.csv" if options.data_dir else None)
    if given is None or not given.is_file():
        raise BenchmarkError("houses.csv is not at hand: name it with --houses, or leave its row out with --only.")
    return given


def reaches(name: str, value: float, goal: float) -> bool:
    """Whether a figure is as good as the goal."""
    return value >= goal if name in MAXIMISED else value <= goal


def goal_text(name: str, goal: float) -> str:
    """A goal as people read it."""
    return f"{'≥' if name in MAXIMISED else '≤'} {figure_text(name, goal)}"


def figure_text(name: str, value: float) -> str:
    """A figure as people read it."""
    return f"{value:.2%}" if name in _IN_PER_CENT else shown(name, value)


def spread_text(name: str, values: Sequence[float]) -> str:
    """The median with the smallest and the largest, as people read them."""
    middle = figure_text(name, median(values))
    return middle if len(values) == 1 else f"{middle} ({figure_text(name, min(values))} – {figure_text(name, max(values))})"
