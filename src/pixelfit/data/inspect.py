"""What the data are: the task and why, the classes, the sizes, the duplicates."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from pixelfit.data.duplicates import joined, near_pairs, pair_groups
from pixelfit.data.findings import FEWEST_A_CLASS, findings
from pixelfit.data.targets import Understood, understand
from pixelfit.errors import DataError
from pixelfit.options import metric_for
from pixelfit.types import Array, Facts, Inspected, Ints, Metric, Pictures, Table, Task
from pixelfit.words import number_of

FEWEST_PICTURES = 10
# Whole numbers over a wider range, such as prices, are not meant to be hit exactly.
_WIDEST_COUNT = 200
_NAMED = 5  # rare classes in a message
_HASHED_BYTES = 2**31
_HASHED_AT_ONCE = 1_000  # pictures


def inspect(table: Table, pictures: Pictures, task: Task | None, metric: Metric | None = None) -> Inspected:
    """Find out what the data are, and turn targets into numbers.

    Args:
        table: every row with a target, readable or not.
        pictures: the readable pictures.
        task: what the user forces, or None to infer it from the targets.
        metric: what the user wants trials ranked by, or None for the task's own.

    Returns:
        The facts, the targets of each readable picture as numbers, and which pictures must not be parted.

    Raises:
        DataError: fewer than ten pictures, a target that is not a number, one class or one value only.
        OptionError: the metric is not one of the task's.
    """
    if len(pictures.rows) < FEWEST_PICTURES:
        raise DataError(
            f"{table.name} has {len(pictures.rows)} picture(s); at least {FEWEST_PICTURES} are needed to train and test a model."
        )
    understood = understand(table, pictures.rows, task)
    task, targets, classes = understood.task, understood.targets, understood.classes
    metric = metric_for(task, metric, several=bool(understood.names))
    _CHECKS[task](table, understood)
    # In MNIST there are none; on 2 cores looking takes a second, a twentieth of the shortest useful budget.
    near = np.zeros((0, 2), dtype=np.int64) if table.studied else near_pairs(pictures.store, pictures.groups)
    near_groups = pair_groups(near, len(pictures.rows))
    exact, alike = _grouped(pictures.groups), _grouped(near_groups)
    heights, widths = pictures.original_sizes[:, 0], pictures.original_sizes[:, 1]
    one_number = task == "regression" and not understood.names
    whole = understood.numbers is not None and bool((understood.numbers == np.round(understood.numbers)).all())
    facts = Facts(
        data=table.name,
        target_name=table.target_name,
        task=task,
        task_reason=understood.reason,
        metric=metric,
        rows_given=len(table.refs) + len(table.left_out),
        rows=len(pictures.rows),
        left_out=pictures.left_out,
        spec=pictures.spec,
        original_height=(int(heights.min()), int(heights.max())),
        original_width=(int(widths.min()), int(widths.max())),
        kinds=dict(Counter(pictures.kinds).most_common()),
        classes=classes,
        whole_numbers=one_number and whole and bool(np.ptp(targets) <= _WIDEST_COUNT),
        distinct_targets=len(np.unique(targets, axis=0)),
        target_range=_range(targets) if one_number else None,
        duplicate_groups=exact[0],
        duplicate_rows=exact[1],
        near_groups=alike[0],
        near_rows=alike[1],
        studied=table.studied,
        findings=findings(table, pictures, understood, near),
        target_names=understood.names,
        target_ranges=tuple(map(_range, targets.T)) if understood.names else (),
        fingerprint=fingerprint(pictures.store, targets),
    )
    named = [] if table.groups is None else [np.unique(table.groups[pictures.rows], return_inverse=True)[1]]
    return Inspected(facts, targets, joined(pictures.groups, *([near_groups] if len(near) else []), *named))


def fingerprint(store: Array, targets: Array) -> str:
    """Some of the SHA-256 of the decoded pictures, their form and their targets.

    Of pictures that take more than ``_HASHED_BYTES`` every second, third, ... counts, since a hash takes a second a gigabyte.
    """
    step = max(1, math.ceil(store.nbytes / _HASHED_BYTES))
    digest = hashlib.sha256(f"{store.shape} {store.dtype.str} {targets.dtype.str}".encode())
    for start in range(0, len(store), _HASHED_AT_ONCE * step):
        digest.update(np.ascontiguousarray(store[start : start + _HASHED_AT_ONCE * step : step]).data)
    digest.update(np.ascontiguousarray(targets).data)
    return digest.hexdigest()[:16]


def _check_numbers(table: Table, understood: Understood) -> None:
    """Raise DataError where the targets do not vary."""
    targets = understood.targets
    names = understood.names or (table.target_name,)
    for name, column in zip(names, targets.T if understood.names else [targets], strict=True):
        if np.ptp(column) == 0:
            raise DataError(f"Every target in {name!r} of {table.name} is {column[0]:g}: there is nothing to learn.")


def _check_classes(table: Table, understood: Understood) -> None:
    """Raise DataError where there are not two classes with enough pictures."""
    classes = understood.classes or ()
    if len(classes) < 2:
        raise DataError(f"{table.name} has one class only ({classes[0]!r} in {table.target_name!r}); at least two are needed.")
    counts = np.bincount(understood.targets, minlength=len(classes))
    rare = [f"{classes[code]!r} ({counts[code]})" for code in np.flatnonzero(counts < FEWEST_A_CLASS)]
    listed = ", ".join(rare[:_NAMED]) + (f" and {len(rare) - _NAMED:,} more" if len(rare) > _NAMED else "")
    if (counts >= FEWEST_A_CLASS).sum() < 2:
        raise DataError(f"{table.name} needs two classes with at least {FEWEST_A_CLASS} pictures each; too few are in {listed}.")


def _check_labels(table: Table, understood: Understood) -> None:
    """Raise DataError where there are not two labels, or none that some pictures have and others have not."""
    labels, targets = understood.classes or (), understood.targets
    if len(labels) < 2:
        raise DataError(f"{table.name} has {number_of(len(labels), 'label')} in {table.target_name!r}; at least two are needed.")
    counts = targets.sum(axis=0)
    if not ((counts >= FEWEST_A_CLASS) & (counts <= len(targets) - FEWEST_A_CLASS)).any():
        raise DataError(
            f"{table.name} needs a label in {table.target_name!r} that at least {FEWEST_A_CLASS} pictures have and as many "
            f"have not: there is nothing to learn."
        )


_CHECKS: Mapping[Task, Callable[[Table, Understood], None]] = {
    "regression": _check_numbers,
    "classification": _check_classes,
    "multilabel": _check_labels,
}


def _range(targets: Array) -> tuple[float, float]:
    return float(targets.min()), float(targets.max())


def _grouped(groups: Ints) -> tuple[int, int]:
    """How many groups have several members, and how many members these have together."""
    _, sizes = np.unique(groups, return_counts=True)
    return int((sizes > 1).sum()), int(sizes[sizes > 1].sum())
