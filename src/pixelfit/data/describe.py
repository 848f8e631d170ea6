"""What is told and kept of the data: sizes, the targets' distribution, sample pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from pixelfit.data.targets import outline, shown_targets
from pixelfit.progress import Progress
from pixelfit.types import Array, Examples, Facts, Ints, Json, Picture, Splits
from pixelfit.words import number_of, value_words

_SAMPLES = 30
_BINS = 30
_NAMED = 5
_SHOWN_A_FINDING = 6
_CLASSES = 12  # by name in a line
_TARGETS = 12  # of several numbers, a line each
_TOGETHER = 12  # of several targets, in a table of how they go together


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
    for line in _spread(facts, splits):
        progress.say(f"Target: {line}.")
    for finding in facts.findings:
        if finding.refs:
            progress.say(f"{finding.kind.capitalize()}, the first: {', '.join(finding.refs[:_NAMED])}.")
    counted = sizes(splits)
    parts = " + ".join(f"{count:,} {part}" for part, count in counted.items())
    given = f"{facts.rows_given:,} given = {facts.rows:,} used + {len(facts.left_out):,} left out"
    progress.say(f"Counted: {given}; {facts.rows:,} used = {parts}.")


def _span(ends: tuple[int, int]) -> str:
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]}–{ends[1]}"


def _spread(facts: Facts, splits: Splits) -> list[str]:
    """The distribution of targets in the development data: a line, or one for each of several numbers."""
    targets = np.concatenate([part.targets for part in splits.development.values()])
    if facts.kind == "numbers":
        shown = list(zip(facts.target_names, targets.T, strict=True))[:_TARGETS]
        more = [f"and {len(facts.target_names) - _TARGETS:,} more"] if len(facts.target_names) > _TARGETS else []
        return [*(f"{name}, {_range_of(column)}" for name, column in shown), *more]
    if facts.classes is None:
        return [f"{facts.target_name}, {_range_of(targets)}"]
    counts = _class_counts(targets, facts)
    order = np.argsort(-counts, kind="stable")
    listed = ", ".join(f"{facts.classes[code]} ({counts[code]:,})" for code in order[:_CLASSES])
    more_classes = f" and {len(order) - _CLASSES:,} more" if len(order) > _CLASSES else ""
    if facts.kind == "label":
        return [f"{facts.target_name}, {len(facts.classes):,} classes: {listed}{more_classes}"]
    each = targets.sum(axis=1)
    return [
        f"{facts.target_name}, {len(facts.classes):,} labels, {each.mean():.2g} a picture "
        f"({number_of(int((each == 0).sum()), 'picture')} without any): {listed}{more_classes}"
    ]


def _range_of(targets: Array) -> str:
    low, first, middle, third, high = np.quantile(targets, [0, 0.25, 0.5, 0.75, 1])
    return (
        f"{value_words(low)} to {value_words(high)}, median {value_words(middle)}, "
        f"half of them from {value_words(first)} to {value_words(third)}"
    )


def _class_counts(targets: Array, facts: Facts) -> Ints:
    """How many pictures have each class or label."""
    counts: Ints = targets.sum(axis=0) if targets.ndim > 1 else np.bincount(targets, minlength=len(facts.classes or ()))
    return counts


def describe(splits: Splits, facts: Facts) -> dict[str, Json]:
    """Sizes of the splits, and how often each class or range of targets occurs in the development data."""
    described = {
        "split": splits.how,
        "folds": len(splits.folds),
        "sizes": sizes(splits),
        "distribution": _distribution(splits, facts),
    }
    together = _together(splits, facts)
    return described if together is None else {**described, "together": together}


def _distribution(splits: Splits, facts: Facts) -> Json:
    parts = {name: part.targets for name, part in splits.development.items()}
    if facts.kind == "numbers":
        columns = enumerate(zip(facts.target_names, facts.target_ranges, strict=True))
        return [
            {"name": name, **_histograms({part: each[:, place] for part, each in parts.items()}, _edges(*ends, whole=False))}
            for place, (name, ends) in columns
        ]
    if facts.target_range is not None:
        return _histograms(parts, _edges(*facts.target_range, whole=facts.whole_numbers))
    return {
        "edges": None,
        **{name: [int(count) for count in _class_counts(part, facts)] for name, part in parts.items()},
    }


def _histograms(parts: Mapping[str, Array], edges: Array) -> dict[str, Json]:
    return {
        "edges": [float(edge) for edge in edges],
        **{name: [int(count) for count in np.histogram(part, bins=edges)[0]] for name, part in parts.items()},
    }


def _together(splits: Splits, facts: Facts) -> Json:
    """How several targets go together in the development data: correlations, or how many pictures have two labels both."""
    if facts.kind not in ("numbers", "labels"):
        return None
    targets = np.concatenate([part.targets for part in splits.development.values()])[:, :_TOGETHER]
    if facts.kind == "labels":
        return {"counts": (targets.T @ targets).tolist()}
    away = (targets - targets.mean(axis=0)) / np.where(targets.std(axis=0) > 0, targets.std(axis=0), 1.0)
    return {"correlations": np.round(away.T @ away / len(away), 4).tolist()}


def sizes(splits: Splits) -> dict[str, int]:
    """How many pictures each part of the data has."""
    return {**{name: len(part) for name, part in splits.development.items()}, "test": len(splits.test)}


def samples(train: Examples, facts: Facts) -> list[Picture]:
    """Training pictures from over the whole range of targets or all classes, for the report."""
    order = np.argsort(outline(facts.kind, train.targets), kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, _SAMPLES).round().astype(int))]
    labels = shown_targets(facts, train.targets[chosen])
    return [
        Picture("sample", train.store[train.rows[row]], train.refs[row], label) for row, label in zip(chosen, labels, strict=True)
    ]


def found(splits: Splits, facts: Facts) -> list[Picture]:
    """Pictures of what stands out, a few a finding: of the development data alone, since the test set is still sealed."""
    wanted = {ref for finding in facts.findings for ref in finding.refs}
    # Of those alone: a view of a mapped store takes a kilobyte, which for each of 160,000 pictures was half a gigabyte.
    known = {ref: (part, place) for part in splits.development.values() for place, ref in enumerate(part.refs) if ref in wanted}
    shown = [
        (finding.kind, ref, *known[ref])
        for finding in facts.findings
        for ref in [ref for ref in finding.refs if ref in known][:_SHOWN_A_FINDING]
    ]
    return [
        Picture(kind, part.store[part.rows[place]], ref, shown_targets(facts, part.targets[place : place + 1])[0])
        for kind, ref, part, place in shown
    ]


def _edges(low: float, high: float, *, whole: bool) -> Array:
    if whole and high - low < _BINS:
        return np.arange(low - 0.5, high + 1.5)  # a bar a whole number
    return np.linspace(low, high, _BINS + 1)
