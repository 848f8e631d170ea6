"""What the data are: the task and why, the classes, the sizes, the duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from pixelfit.data.duplicates import joined, near_pairs, pair_groups
from pixelfit.data.findings import FEWEST_A_CLASS, findings
from pixelfit.errors import DataError
from pixelfit.options import metric_for
from pixelfit.types import Array, Facts, Inspected, Ints, Label, Metric, Pictures, Table, Task

FEWEST_PICTURES = 10
# Up to this many distinct whole numbers are taken for labels, unless the user says otherwise.
_MOST_NUMBERED_CLASSES = 20
# Whole numbers over a wider range, such as prices, are not meant to be hit exactly.
_WIDEST_COUNT = 200
_NAMED = 5  # rare classes in a message


def inspect(table: Table, pictures: Pictures, task: Task | None, metric: Metric | None = None) -> Inspected:
    """Find out what the data are, and turn targets into numbers.

    Args:
        table: every row with a target, readable or not.
        pictures: the readable pictures.
        task: what the user forces, or None to infer it from the targets.
        metric: what the user wants trials ranked by, or None for the task's own.

    Returns:
        The facts, a number for each readable picture as its target, and which pictures must not be parted.

    Raises:
        DataError: fewer than ten pictures, a target that is not a number, one class or one value only.
        OptionError: the metric is not one of the task's.
    """
    if len(pictures.rows) < FEWEST_PICTURES:
        raise DataError(
            f"{table.name} has {len(pictures.rows)} picture(s); at least {FEWEST_PICTURES} are needed to train and test a model."
        )
    numbers, not_number = _as_numbers(table.targets)
    inferred, reason = _infer_task(table, numbers)
    if task is None:
        task = inferred
    elif task != inferred:
        reason = f"as asked for; the target alone ({reason}) would have meant {inferred}"
    else:
        reason = f"as asked for; the target says the same: {reason}"
    metric = metric_for(task, metric)
    classes: tuple[Label, ...] | None = None
    if task == "regression":
        if numbers is None:
            raise DataError(
                f"{table.refs[not_number]} of {table.name} has {table.targets.tolist()[not_number]!r} in {table.target_name!r}, "
                f"which is no number; a regression needs numbers (or use --task classification)."
            )
        targets: Array = numbers[pictures.rows]
        if np.ptp(targets) == 0:
            raise DataError(
                f"Every target in {table.target_name!r} of {table.name} is {targets[0]:g}: there is nothing to learn."
            )
    else:
        classes, targets = _as_classes(table.targets[pictures.rows], numbers)
        if len(classes) < 2:
            raise DataError(
                f"{table.name} has one class only ({classes[0]!r} in {table.target_name!r}); at least two are needed."
            )
        counts = np.bincount(targets, minlength=len(classes))
        rare = [f"{classes[code]!r} ({counts[code]})" for code in np.flatnonzero(counts < FEWEST_A_CLASS)]
        listed = ", ".join(rare[:_NAMED]) + (f" and {len(rare) - _NAMED:,} more" if len(rare) > _NAMED else "")
        if (counts >= FEWEST_A_CLASS).sum() < 2:
            raise DataError(
                f"{table.name} needs two classes with at least {FEWEST_A_CLASS} pictures each; too few are in {listed}."
            )
    # In MNIST there are none; on 2 cores looking takes a second, a twentieth of the shortest useful budget.
    near = np.zeros((0, 2), dtype=np.int64) if table.studied else near_pairs(pictures.store, pictures.groups)
    near_groups = pair_groups(near, len(pictures.rows))
    exact, alike = _grouped(pictures.groups), _grouped(near_groups)
    heights, widths = pictures.original_sizes[:, 0], pictures.original_sizes[:, 1]
    whole = numbers is not None and bool((numbers == np.round(numbers)).all())
    facts = Facts(
        data=table.name,
        target_name=table.target_name,
        task=task,
        task_reason=reason,
        metric=metric,
        rows_given=len(table.refs) + len(table.left_out),
        rows=len(pictures.rows),
        left_out=pictures.left_out,
        spec=pictures.spec,
        original_height=(int(heights.min()), int(heights.max())),
        original_width=(int(widths.min()), int(widths.max())),
        kinds=dict(Counter(pictures.kinds).most_common()),
        classes=classes,
        whole_numbers=task == "regression" and whole and bool(np.ptp(targets) <= _WIDEST_COUNT),
        distinct_targets=len(np.unique(targets)),
        target_range=(float(targets.min()), float(targets.max())) if task == "regression" else None,
        duplicate_groups=exact[0],
        duplicate_rows=exact[1],
        near_groups=alike[0],
        near_rows=alike[1],
        studied=table.studied,
        findings=findings(table, pictures, classes, targets, near),
    )
    named = [] if table.groups is None else [np.unique(table.groups[pictures.rows], return_inverse=True)[1]]
    return Inspected(facts, targets, joined(pictures.groups, *([near_groups] if len(near) else []), *named))


def _grouped(groups: Ints) -> tuple[int, int]:
    """How many groups have several members, and how many members these have together."""
    _, sizes = np.unique(groups, return_counts=True)
    return int((sizes > 1).sum()), int(sizes[sizes > 1].sum())


def _as_numbers(targets: Array) -> tuple[Array | None, int]:
    """Targets as float64 and -1, or None and the first row that is no finite number."""
    if targets.dtype.kind in "buif":
        numbers = targets.astype(np.float64)
    else:
        converted = []
        for row, value in enumerate(targets.tolist()):
            try:
                converted.append(float(value))
            except (TypeError, ValueError):
                return None, row
        numbers = np.array(converted, dtype=np.float64)
    endless = np.flatnonzero(~np.isfinite(numbers))
    return (None, int(endless[0])) if len(endless) else (numbers, -1)


def _infer_task(table: Table, numbers: Array | None) -> tuple[Task, str]:
    if table.targets_are_folder_names:
        return "classification", "the targets are the names of folders"
    if numbers is None:
        return "classification", f"{table.target_name!r} holds text"
    distinct = len(np.unique(numbers))
    if table.targets.dtype.kind == "b":
        return "classification", f"{table.target_name!r} is true or false"
    if (numbers != np.round(numbers)).any():
        return "regression", f"{table.target_name!r} holds numbers with decimals"
    if distinct <= min(_MOST_NUMBERED_CLASSES, len(numbers) // 5):
        return "classification", f"{table.target_name!r} has only {distinct} distinct whole numbers"
    return "regression", f"{table.target_name!r} has {distinct:,} distinct whole numbers"


def _as_classes(targets: Array, numbers: Array | None) -> tuple[tuple[Label, ...], Ints]:
    """The sorted labels, and for each row the position of its label. Labels that are numbers sort as numbers."""
    values: Sequence[Label] = targets.tolist()
    labels = sorted(set(values), key=(float if numbers is not None else str))
    position = {label: code for code, label in enumerate(labels)}
    return tuple(labels), np.array([position[value] for value in values], dtype=np.int64)
