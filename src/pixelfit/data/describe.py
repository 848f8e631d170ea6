"""What is told and kept of the data: sizes, the targets' distribution, sample pictures."""

from __future__ import annotations

from collections import Counter

import numpy as np

from pixelfit.progress import Progress
from pixelfit.types import Array, Examples, Facts, Json, Label, Picture, Splits
from pixelfit.words import value_words

_SAMPLES = 30
_BINS = 30
_NAMED = 5
_SHOWN_A_FINDING = 6
_CLASSES = 12  # by name in a line


def tell(facts: Facts, splits: Splits, progress: Progress) -> None:
    """Say what was found, and what was made of it."""
    spec = facts.spec
    colour = {1: "grey", 3: "colour"}.get(spec.channels, f"{spec.channels}-channel")
    progress.say(f"Data: {facts.data}, {facts.rows:,} {colour} pictures, {spec.height}×{spec.width} pixels to the models.")
    for item in facts.left_out[:_NAMED]:
        progress.say(f"Left out: {item.ref} ({item.reason}).")
    if len(facts.left_out) > _NAMED:
        progress.say(f"Left out likewise: {len(facts.left_out) - _NAMED:,} more of {facts.rows_given:,}; all are in facts.json.")
    progress.say(f"Task: {facts.task} ({facts.task_reason}).")
    for finding in facts.findings:
        progress.say(f"{finding.kind.capitalize()}: {finding.text}")
    progress.say(f"Split: {splits.how}.")


def tell_all(facts: Facts, splits: Splits, progress: Progress) -> None:
    """Say everything that inspection found, for whoever asked for nothing else."""
    tell(facts, splits, progress)
    for reason, count in Counter(item.reason for item in facts.left_out).most_common():
        progress.say(f"Left out in all: {count:,} ({reason}).")
    heights, widths = facts.original_height, facts.original_width
    progress.say(f"Sizes: {_span(widths)} × {_span(heights)} pixels (width × height).")
    if facts.kinds:
        progress.say(f"Files: {', '.join(f'{count:,} {kind}' for kind, count in facts.kinds.items())}.")
    progress.say(f"Target: {facts.target_name}, {_spread(facts, splits)}.")
    for finding in facts.findings:
        if finding.refs:
            progress.say(f"{finding.kind.capitalize()}, the first: {', '.join(finding.refs[:_NAMED])}.")
    counted = sizes(splits)
    parts = " + ".join(f"{count:,} {part}" for part, count in counted.items())
    given = f"{facts.rows_given:,} given = {facts.rows:,} used + {len(facts.left_out):,} left out"
    progress.say(f"Counted: {given}; {facts.rows:,} used = {parts}.")


def _span(ends: tuple[int, int]) -> str:
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]}–{ends[1]}"


def _spread(facts: Facts, splits: Splits) -> str:
    """The distribution of targets in the development data, in a line."""
    targets = np.concatenate([part.targets for part in _development(splits).values()])
    if facts.classes is None:
        low, first, middle, third, high = np.quantile(targets, [0, 0.25, 0.5, 0.75, 1])
        return (
            f"{value_words(low)} to {value_words(high)}, median {value_words(middle)}, "
            f"half of them from {value_words(first)} to {value_words(third)}"
        )
    counts = np.bincount(targets, minlength=len(facts.classes))
    order = np.argsort(-counts, kind="stable")
    listed = ", ".join(f"{facts.classes[code]} ({counts[code]:,})" for code in order[:_CLASSES])
    more = f" and {len(order) - _CLASSES:,} more" if len(order) > _CLASSES else ""
    return f"{len(facts.classes):,} classes: {listed}{more}"


def describe(splits: Splits, facts: Facts) -> dict[str, Json]:
    """Sizes of the splits, and how often each class or range of targets occurs in the development data."""
    edges: list[float] | None = None
    if facts.target_range is not None:
        edges = [float(edge) for edge in _edges(*facts.target_range, whole=facts.whole_numbers)]
    return {
        "split": splits.how,
        "folds": len(splits.folds),
        "sizes": sizes(splits),
        "distribution": {
            "edges": edges,
            **{name: _counts(part.targets, facts, edges) for name, part in _development(splits).items()},
        },
    }


def _development(splits: Splits) -> dict[str, Examples]:
    """The parts of the development data, by name."""
    if len(splits.folds) > 1:
        return {"development": splits.validation}
    return {"train": splits.train, "validation": splits.validation}


def sizes(splits: Splits) -> dict[str, int]:
    """How many pictures each part of the data has."""
    return {**{name: len(part) for name, part in _development(splits).items()}, "test": len(splits.test)}


def samples(train: Examples, facts: Facts) -> list[Picture]:
    """Training pictures from over the whole range of targets or all classes, for the report."""
    order = np.argsort(train.targets, kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, _SAMPLES).round().astype(int))]
    return [Picture("sample", train.store[train.rows[row]], train.refs[row], _label(train.targets[row], facts)) for row in chosen]


def found(splits: Splits, facts: Facts) -> list[Picture]:
    """Pictures of what stands out, a few a finding: of the development data alone, since the test set is still sealed."""
    known = (
        {
            ref: (part.store[row], target)
            for part in _development(splits).values()
            for ref, row, target in zip(part.refs, part.rows, part.targets, strict=True)
        }
        if facts.findings
        else {}
    )
    return [
        Picture(finding.kind, known[ref][0], ref, _label(known[ref][1], facts))
        for finding in facts.findings
        for ref in [ref for ref in finding.refs if ref in known][:_SHOWN_A_FINDING]
    ]


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
