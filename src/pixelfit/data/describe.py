"""What is told and kept of the data: sizes, the targets' distribution, sample pictures."""

from __future__ import annotations

import numpy as np

from pixelfit.progress import Progress
from pixelfit.types import Array, Examples, Facts, Json, Label, Picture, Splits

_SAMPLES = 30
_BINS = 30
_NAMED_UNREADABLE = 5


def tell(facts: Facts, how: str, progress: Progress) -> None:
    """Say what was found, and what was made of it."""
    spec = facts.spec
    colour = {1: "grey", 3: "colour"}.get(spec.channels, f"{spec.channels}-channel")
    progress.say(f"Data: {facts.data}, {facts.rows:,} {colour} pictures, {spec.height}×{spec.width} pixels to the models.")
    for item in facts.unreadable[:_NAMED_UNREADABLE]:
        progress.say(f"Left out, cannot be read: {item.ref} ({item.reason}).")
    if len(facts.unreadable) > _NAMED_UNREADABLE:
        progress.say(f"Left out likewise: {len(facts.unreadable) - _NAMED_UNREADABLE:,} more; all are listed in data.json.")
    progress.say(f"Task: {facts.task} ({facts.task_reason}).")
    if facts.duplicate_rows:
        progress.say(f"Duplicates: {facts.duplicate_rows:,} pictures in {facts.duplicate_groups:,} groups of the same pixels.")
    for note in facts.notes:
        progress.say(note)
    progress.say(f"Split: {how}.")


def describe(splits: Splits, facts: Facts) -> dict[str, Json]:
    """Sizes of the splits, and how often each class or range of targets occurs in the development data."""
    edges: list[float] | None = None
    if facts.target_range is not None:
        edges = [float(edge) for edge in _edges(*facts.target_range, whole=facts.whole_numbers)]
    return {
        "split": splits.how,
        "sizes": {"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test)},
        "distribution": {
            "edges": edges,
            "train": _counts(splits.train.targets, facts, edges),
            "validation": _counts(splits.validation.targets, facts, edges),
        },
    }


def samples(train: Examples, facts: Facts) -> list[Picture]:
    """Training pictures from over the whole range of targets or all classes, for the report."""
    order = np.argsort(train.targets, kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, _SAMPLES).round().astype(int))]
    return [Picture("sample", train.store[train.rows[row]], train.refs[row], _label(train.targets[row], facts)) for row in chosen]


def _label(target: float, facts: Facts) -> Label:
    """A target as the user wrote it."""
    return float(target) if facts.classes is None else facts.classes[int(target)]


def _edges(low: float, high: float, *, whole: bool) -> Array:
    if whole and high - low < _BINS:
        return np.arange(low - 0.5, high + 1.5)  # a bar a whole number
    return np.linspace(low, high, _BINS + 1)


def _counts(targets: Array, facts: Facts, edges: list[float] | None) -> list[int]:
    if edges is None:
        return [int(count) for count in np.bincount(targets, minlength=len(facts.classes or ()))]
    return [int(count) for count in np.histogram(targets, bins=edges)[0]]
