"""What a model's validation loss says about changes of pictures, on data where it is known which ones change the target.

The thresholds in ``search/safety.py`` are from here. Made-up pictures, and digits of MNIST's training set; only the
development pictures of each data set are looked at.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import shared, synthetic
from pixelfit.data.reading import read
from pixelfit.options import checked_options
from pixelfit.progress import Silent
from pixelfit.types import CHANGES, Array, Json

Made = synthetic.Made


def made_up(count: int, seed: int = 5) -> dict[str, Callable[[], Made]]:
    """Data sets whose target one knows: a place, a brightness, a ripeness, a direction, a kind of cell."""
    return {
        "position": lambda: _spots(count, seed),
        "lightness": lambda: _fruit(count, seed, by="lightness"),
        "ripeness": lambda: _fruit(count, seed, by="ripeness"),
        "left-right": lambda: _arrows(count, seed, down=False),
        "up-down": lambda: _arrows(count, seed, down=True),
        "cells": lambda: _cells(count, seed),
        "cell-count": lambda: _cells(count, seed, counted=True),
    }


def _spots(count: int, seed: int) -> Made:
    """A bright spot on noise, 32×32; the target is how far right it lies, in pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:32, 0:32]
    across, down, size = rng.uniform(5, 26, count), rng.uniform(5, 26, count), rng.uniform(1.5, 3.5, count)
    far = (x - across[:, None, None]) ** 2 + (y - down[:, None, None]) ** 2
    light = rng.uniform(80, 180, count)[:, None, None] * np.exp(-far / (2 * size**2)[:, None, None])
    return _pixels(40 + light + rng.normal(0, 15, light.shape)), across, "regression"


def _fruit(count: int, seed: int, *, by: str) -> Made:
    """A disc in colour on a ground of its own, 32×32; the target is how light the disc is, or how far from green to red."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    across, down = rng.uniform(-0.3, 0.3, (2, count, 1, 1))
    inside = np.hypot(x - across, y - down) < rng.uniform(0.3, 0.6, (count, 1, 1))
    ripe, light = rng.uniform(0, 1, (2, count, 1))
    colour = np.concatenate([ripe, 1 - ripe, np.full_like(ripe, 0.2)], axis=1) * (90 + 130 * light)
    ground = rng.uniform(60, 140, (count, 1, 1, 1)) * np.ones((1, 1, 1, 3))
    pictures = np.where(inside[..., None], colour[:, None, None], ground) + rng.normal(0, 10, (count, 32, 32, 3))
    return _pixels(pictures), (ripe if by == "ripeness" else light)[:, 0], "regression"


def _arrows(count: int, seed: int, *, down: bool) -> Made:
    """Arrows of any size and place, 32×32, that point left or right, or up or down; the target is where they point."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    kinds = rng.integers(0, 2, count)
    across, along = rng.uniform(-0.3, 0.3, (2, count, 1, 1))
    size = rng.uniform(0.3, 0.6, (count, 1, 1))
    u, v = (x - across) / size * (1 - 2 * kinds[:, None, None]), (y - along) / size
    arrow = ((abs(v) < 0.25) & (abs(u) < 1)) | ((abs(v) < 1 - u) & (u > 0.1) & (u < 1))
    ink = rng.uniform(70, 180, (count, 1, 1))
    pictures = _pixels(40 + arrow * ink + rng.normal(0, 25, arrow.shape))
    return (pictures.transpose(0, 2, 1) if down else pictures), np.array(["there", "here"])[kinds], "classification"


def _cells(count: int, seed: int, *, counted: bool = False) -> Made:
    """Round or long cells on noise, 48×48, some of each picture's own kind; the target is the kind, or how many there are."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:48, 0:48]
    pictures, kinds, numbers = np.empty((count, 48, 48), dtype=np.uint8), rng.integers(0, 2, count), rng.integers(1, 9, count)
    for row in range(count):
        light = np.zeros((48, 48))
        for _ in range(numbers[row]):
            across, down, turn = rng.uniform(4, 44), rng.uniform(4, 44), rng.uniform(0, np.pi)
            u = (x - across) * np.cos(turn) + (y - down) * np.sin(turn)
            v = (y - down) * np.cos(turn) - (x - across) * np.sin(turn)
            size, longer = rng.uniform(1.8, 3.2), rng.uniform(1.6, 2.4) if kinds[row] else 1.0
            light = np.maximum(light, np.exp(-(u**2 / longer + v**2 * longer) / (2 * size**2)))
        pictures[row] = _pixels(40 + rng.uniform(80, 180) * light + rng.normal(0, 15, light.shape))
    if counted:
        return pictures, numbers.astype(float), "regression"
    return pictures, np.array(["round", "long"])[kinds], "classification"


def _pixels(values: Array) -> Array:
    return np.clip(values.round(), 0, 255).astype(np.uint8)


def measured(made: Made, *, seed: int, steps: int) -> Iterator[Json]:
    """What each change did to the portfolio's first recipe, trained without any."""
    from dataclasses import asdict

    from pixelfit.models.model import Model
    from pixelfit.search.portfolio import portfolio
    from pixelfit.search.safety import probe
    from pixelfit.search.space import build_space
    from pixelfit.training.loop import Lesson, train
    from pixelfit.training.pace import Pace
    from pixelfit.training.recipe import Augmentation, Recipe

    pictures, targets, task = made
    facts, splits = read((pictures, targets), checked_options(folds=1, task=task, seed=seed), Silent())
    space = build_space(facts, splits.train)

    def trained(recipe: Recipe) -> Model:
        lesson = Lesson(splits.train, splits.validation, facts)
        return train(recipe, lesson, seed=seed, pace=Pace(steps=steps), monitor=_Unwatched(), stopped=lambda: False).model

    baseline = trained(space.baseline()).predict(splits.validation.store, splits.validation.rows)
    model = trained(replace(space.known_good(portfolio()[0])[0], augmentation=Augmentation()))
    found = probe([model], [splits.validation], baseline, facts)
    for verdict in found.verdicts:
        yield {**asdict(verdict), "pictures": found.pictures, "as_is": found.loss, "baseline": found.baseline_loss}


class _Unwatched:
    def on_progress(self, fraction: float, detail: str) -> None:
        """Nothing to be done."""

    def on_look(self, check: object) -> None:
        pass

    def on_check(self, fraction: float, score: float) -> bool:
        return False


def table(rows: Sequence[Json]) -> str:
    """A row a data set, a column a change: growth of the loss in per cent, how far opposite predictions lay apart, verdicts."""
    columns = [name for name in CHANGES if any(row["change"] == name for row in rows)]
    lines = ["| data | pictures | " + " | ".join(columns) + " |", "|---|" + "---|" * (len(columns) + 1)]
    for name in dict.fromkeys(row["data"] for row in rows):
        own = [row for row in rows if row["data"] == name]
        cells = [_cell([row for row in own if row["change"] == column]) for column in columns]
        lines.append(f"| {name} | {own[0]['pictures']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(rows: Sequence[Json]) -> str:
    if not rows:
        return ""
    growth = f"{100 * shared.median([row['growth'] for row in rows]):.1f}"
    apart = "" if rows[0]["shift"] is None else f", {shared.median([row['shift'] for row in rows]):.2f}"
    return f"{growth}{apart} {'/'.join(dict.fromkeys(row['judgement'] for row in rows))}"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.safety", description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="folder with MNIST's files")
    parser.add_argument("--houses", type=Path, help="houses.csv; without it they are left out")
    parser.add_argument("--only", nargs="+", default=[], help="names of data sets")
    parser.add_argument("--count", type=int, default=2_000, help="pictures of each made-up data set")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few pictures and steps, to see that it runs")
    chosen = parser.parse_args()
    count, steps = (120, 4) if chosen.quick else (chosen.count, chosen.steps)
    makers = made_up(count)
    makers = {**synthetic.data_sets(chosen), **{name: makers[name] for name in makers if not chosen.only or name in chosen.only}}
    rows: list[Json] = []
    for name, make in makers.items():
        made = make()
        for seed in range(1 if chosen.quick else chosen.seeds):
            rows += [{"data": name, **row} for row in measured(made, seed=seed, steps=steps)]
    print(table(rows))


if __name__ == "__main__":
    main()
