"""The data sets on which the portfolio is found: real digits, photographs, and made-up shapes and blobs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import angles
from pixelfit.types import Array, Task

Made = tuple[object, Array, Task]
NAMES = ("digits-1k", "digits-8k", "angles-1k", "angles-5k", "shapes-3k", "blobs-2k", "digits-8x8", "houses")
LARGE = "digits-60k"  # on which the longest trainings are, where no data sets are named


def data_sets(options: argparse.Namespace) -> dict[str, Callable[[], Made]]:
    """How to make each data set that is at hand and wanted, by name."""
    quick: bool = options.quick

    def size(count: int) -> int:
        return 120 if quick else count

    def digits(count: int, task: Task) -> Made:
        pictures, labels = angles.labelled_digits(options.data_dir, quick=quick)
        rows = np.random.default_rng(1).permutation(len(pictures))[: size(count)]
        return pictures[rows], labels[rows], task

    def turned(count: int) -> Made:
        pictures, _ = angles.labelled_digits(options.data_dir, quick=quick)
        rows = np.random.default_rng(2).permutation(len(pictures))[: size(count)]
        return (*angles.make(pictures[rows], seed=2), "regression")

    made: dict[str, Callable[[], Made]] = {
        "digits-1k": lambda: digits(1_000, "classification"),
        "digits-8k": lambda: digits(8_000, "regression"),
        "angles-1k": lambda: turned(1_000),
        "angles-5k": lambda: turned(5_000),
        "shapes-3k": lambda: shapes(size(3_000)),
        "blobs-2k": lambda: blobs(size(2_000)),
        "digits-8x8": lambda: small_digits(size(1_797)),
    }
    if options.houses:
        made["houses"] = lambda: houses(Path(options.houses))
    made[LARGE] = lambda: digits(60_000, "classification")
    return {name: make for name, make in made.items() if not options.only or name in options.only}


def shapes(count: int) -> Made:
    """Discs, rings, squares, crosses and triangles of any colour on coloured noise, 32×32; the target is the shape."""
    rng = np.random.default_rng(3)
    kinds = np.arange(count) % 5
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    pictures = np.empty((count, 32, 32, 3), dtype=np.uint8)
    for row, kind in enumerate(kinds):
        turn, size = rng.uniform(-0.4, 0.4), rng.uniform(0.35, 0.7)
        across, down = rng.uniform(-0.25, 0.25, 2)
        u = ((x - across) * np.cos(turn) - (y - down) * np.sin(turn)) / size
        v = ((x - across) * np.sin(turn) + (y - down) * np.cos(turn)) / size
        far = np.hypot(u, v)
        masks = (
            far < 1,
            (far < 1) & (far > 0.6),
            np.maximum(abs(u), abs(v)) < 0.85,
            (np.minimum(abs(u), abs(v)) < 0.25) & (np.maximum(abs(u), abs(v)) < 1),
            (v < 0.7) & (v > 2 * abs(u) - 0.9),
        )
        ground, ink = rng.uniform(0, 255, (2, 3))
        noise = rng.normal(0, 25, (32, 32, 3))
        pictures[row] = np.clip(np.where(masks[kind][..., None], ink, ground) + noise, 0, 255)
    return pictures, np.array(["disc", "ring", "square", "cross", "triangle"])[kinds], "classification"


def blobs(count: int) -> Made:
    """Bright blobs on noise, as under a microscope, 48×48; the target is the area that they cover, in per cent."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[0:48, 0:48]
    pictures, covered = np.empty((count, 48, 48), dtype=np.uint8), np.empty(count)
    for row in range(count):
        light = np.zeros((48, 48))
        for _ in range(rng.integers(1, 16)):
            across, down, size = rng.uniform(0, 48), rng.uniform(0, 48), rng.uniform(1.5, 4)
            light = np.maximum(light, np.exp(-((x - across) ** 2 + (y - down) ** 2) / (2 * size**2)))
        covered[row] = 100 * (light > 0.5).mean()
        pictures[row] = np.clip(40 + rng.uniform(80, 180) * light + rng.normal(0, 15, light.shape), 0, 255)
    return pictures, covered, "regression"


def small_digits(count: int) -> Made:
    """scikit-learn's handwritten digits, 8×8, as labels."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return (loaded.images[:count] * 15.9).astype(np.uint8), loaded.target[:count], "classification"


def houses(table: Path) -> Made:
    """Photographs of house fronts with their prices."""
    import pandas as pd

    rows = pd.read_csv(table)
    return [str(table.parent / name) for name in rows["image"]], rows["price_usd"].to_numpy(float), "regression"
