"""What the user's targets mean: one number or label a picture, several numbers, or several labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

import numpy as np

from pixelfit.errors import DataError
from pixelfit.types import Array, Facts, Floats, Ints, Json, Kind, Label, Table, Task
from pixelfit.words import value_words

# Up to this many distinct whole numbers are taken for labels, unless the user says otherwise.
_MOST_NUMBERED_CLASSES = 20
_BETWEEN = ";"  # labels in a text
_NAMED = 4  # numbers beside a picture


@dataclass(frozen=True)
class Understood:
    """The targets of all rows, as models take them.

    ``targets`` are float64 (N,) or, with ``names``, (N, T). For ``classes`` they are int64: positions (N,), or 0 and 1
    (N, classes) where the task is multi-label. ``numbers`` are the targets as plain numbers, where they are any.
    """

    task: Task
    reason: str
    targets: Array
    classes: tuple[Label, ...] | None = None
    names: tuple[str, ...] = ()
    numbers: Array | None = None


def understand(table: Table, rows: Ints, task: Task | None) -> Understood:
    """What the targets of these rows of the table mean, and why.

    Args:
        table: its targets in any of the forms that a table has them in.
        rows: the rows whose pictures can be used; the others count when the task is inferred, but give no classes.
        task: what the user forces, or None to infer it.

    Raises:
        DataError: the targets do not suit the task, or have no one form.
    """
    matrix, names = _matrix(table, task)
    if matrix is not None and len(names) == 1:
        return _of_one(replace(table, targets=matrix[:, 0]), rows, task)
    if matrix is not None:
        return _of_matrix(table, matrix, names, rows, task)
    lists = _label_lists(table, task)
    if lists is not None:
        return _of_lists(table, lists, rows, task)
    return _of_one(table, rows, task)


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a number; infinite ones are, missing ones are not."""
    return isinstance(value, (int, float, np.number, np.bool_)) and not math.isnan(float(value))


def number_in(value: object) -> float | None:
    """The number that a value is, or that its text spells; None where there is none."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number


def is_missing(value: object) -> bool:
    """Whether an entry of a list holds nothing."""
    return value is None or (isinstance(value, (float, np.floating)) and math.isnan(value))


def as_tuples(rows: Sequence[Json], told: Sequence[str], name: str) -> Array:
    """Lists as an array of tuples, shape (N,), None for one that is missing.

    Raises:
        DataError: a list holds anything but numbers and labels; the message names its row.
    """
    tuples = np.empty(len(rows), dtype=object)
    for place, row in enumerate(rows):
        if is_missing(row):
            continue
        entries = tuple(entry.item() if isinstance(entry, np.generic) else entry for entry in row)
        wrong = next((entry for entry in entries if not isinstance(entry, (str, int, float, bool))), None)
        if wrong is not None or None in entries:
            raise DataError(f"{told[place]} has {wrong!r} within its list in {name!r}; a list may hold numbers or labels.")
        tuples[place] = entries
    return tuples


def width_of(table: Table) -> int:
    """How many columns of targets the table has."""
    return int(table.targets.shape[1]) if table.targets.ndim == 2 else 1


def outline(kind: Kind, targets: Array) -> Array:
    """One number a picture that stands for its targets, shape (N,), by which cuts are stratified and samples are drawn.

    Of several numbers it is their first principal component, standardised, which tells more of them apart than any other
    one number; of several labels the position of the picture's rarest one, or the number of labels where it has none.
    """
    return _OUTLINES[kind](targets) if kind in _OUTLINES else targets


def _principal_component(targets: Floats) -> Floats:
    deviations = targets.std(axis=0)
    standardised = (targets - targets.mean(axis=0)) / np.where(deviations > 0, deviations, 1.0)
    axis = np.linalg.eigh(standardised.T @ standardised)[1][:, -1]
    component: Floats = standardised @ (axis * (1 if axis.sum() >= 0 else -1))
    return component


def _rarest_label(targets: Ints) -> Ints:
    rarity = np.where(targets == 1, targets.sum(axis=0), len(targets) + 1)
    rarest: Ints = np.where(targets.any(axis=1), rarity.argmin(axis=1), targets.shape[1])
    return rarest


_OUTLINES: Mapping[Kind, Callable[[Array], Array]] = {"numbers": _principal_component, "labels": _rarest_label}


def shown_targets(facts: Facts, targets: Array) -> list[Label]:
    """Targets as the user knows them, one a picture; of several numbers or labels a text."""
    return _SHOWN[facts.kind](facts, targets)


def _shown_numbers(facts: Facts, targets: Floats) -> list[Label]:
    more = ", …" if len(facts.target_names) > _NAMED else ""
    return [
        ", ".join(
            f"{name}\N{NO-BREAK SPACE}{value_words(value)}" for name, value in zip(facts.target_names[:_NAMED], row, strict=False)
        )
        + more
        for row in targets.tolist()
    ]


def _shown_labels(facts: Facts, targets: Ints) -> list[Label]:
    assert facts.classes is not None
    names = np.array([str(label) for label in facts.classes], dtype=object)
    return ["; ".join(names[row]) or "no label" for row in targets == 1]


_SHOWN: Mapping[Kind, Callable[[Facts, Array], list[Label]]] = {
    "number": lambda facts, targets: [float(target) for target in targets],
    "numbers": _shown_numbers,
    "label": lambda facts, targets: [(facts.classes or ())[int(target)] for target in targets],
    "labels": _shown_labels,
}


def development_scales(facts: Facts, parts: Sequence[Array]) -> tuple[float, ...]:
    """The standard deviation of each of several numbers in these parts of the data; none for other kinds of targets."""
    if facts.kind != "numbers":
        return ()
    return tuple(float(deviation) or 1.0 for deviation in np.concatenate(parts).std(axis=0))


# --- several numbers or labels


def _matrix(table: Table, task: Task | None) -> tuple[Floats | None, tuple[str, ...]]:
    """The targets as numbers (N, T) with the names of their columns, if they have that form."""
    values = table.targets
    if values.ndim == 2:
        return values.astype(np.float64), table.target_names
    if not _holds_lists(values):
        return None, ()
    lists = values.tolist()
    lengths = {len(row) for row in lists}
    if len(lengths) > 1 or lengths == {0} or not all(is_number(entry) for row in lists for entry in row):
        return None, ()
    matrix = np.array(lists, dtype=np.float64)
    # Lists of numbers that are no zeros and ones are labels, where labels are asked for.
    if task in ("classification", "multilabel") and not _zeros_and_ones(matrix):
        return None, ()
    return matrix, tuple(f"{table.target_name}_{place}" for place in range(matrix.shape[1]))


def _of_matrix(table: Table, matrix: Floats, names: tuple[str, ...], rows: Ints, task: Task | None) -> Understood:
    zeros_and_ones = _zeros_and_ones(matrix)
    named = table.target_name == ", ".join(names)
    things = "zeros and ones" if zeros_and_ones else "numbers"
    what = (
        f"{len(names)} columns of {things} are named" if named else f"{table.target_name!r} holds {len(names)} {things} a picture"
    )
    inferred: Task = "multilabel" if zeros_and_ones else "regression"
    chosen: Task = "multilabel" if task == "classification" else task or inferred
    reason = _reason(task, chosen, inferred, what)
    if chosen == "regression":
        endless = np.argwhere(~np.isfinite(matrix))
        if len(endless):
            row, place = endless[0]
            raise DataError(
                f"{table.refs[row]} of {table.name} has {matrix[row, place]} in {names[place]!r}, which is no number; "
                f"a regression needs numbers."
            )
        return Understood(chosen, reason, matrix[rows], names=names)
    if not zeros_and_ones:
        row, place = np.argwhere((matrix != 0) & (matrix != 1))[0]
        raise DataError(
            f"{table.refs[row]} of {table.name} has {matrix[row, place]:g} in {names[place]!r}; "
            f"columns of labels hold 0 and 1 alone."
        )
    # The columns of an array are known by their numbers, as scikit-learn knows them; those that the user named by their names.
    classes: tuple[Label, ...] = names if named else tuple(range(matrix.shape[1]))
    return Understood(chosen, reason, matrix[rows].astype(np.int64), classes=classes)


def _zeros_and_ones(matrix: Floats) -> bool:
    return bool(((matrix == 0) | (matrix == 1)).all())


def _holds_lists(values: Array) -> bool:
    return values.dtype == object and any(isinstance(value, tuple) for value in values)


def _label_lists(table: Table, task: Task | None) -> list[tuple[Label, ...]] | None:
    """Each row's labels, if it may have several."""
    values = table.targets
    if _holds_lists(values):
        return list(values)
    texts = values.dtype.kind in "OUT" and any(isinstance(value, str) and _BETWEEN in value for value in values)
    if task == "multilabel" or (texts and task is None and not table.targets_are_folder_names):
        return [labels_in(value) if isinstance(value, str) else (value,) for value in values.tolist()]
    return None


def labels_in(text: str) -> tuple[str, ...]:
    """The labels in a text such as ``cat; dog``; none in ``;``."""
    return tuple(part.strip() for part in text.split(_BETWEEN) if part.strip())


def _of_lists(table: Table, lists: Sequence[tuple[Label, ...]], rows: Ints, task: Task | None) -> Understood:
    what = f"{table.target_name!r} holds a list of labels a picture"
    if not _holds_lists(table.targets):
        what = f"{table.target_name!r} holds texts with {_BETWEEN!r} between labels"
    if task == "regression":
        uneven = next((row for row, labels in enumerate(lists) if len(labels) != len(lists[0])), None)
        if uneven is not None and all(is_number(label) for labels in lists for label in labels):
            raise DataError(
                f"{table.refs[uneven]} of {table.name} has {len(lists[uneven])} numbers in {table.target_name!r}, "
                f"{table.refs[0]} has {len(lists[0])}; a regression needs equally many for each picture."
            )
        found = next(label for labels in lists for label in labels if not is_number(label))
        raise DataError(f"{table.target_name!r} of {table.name} holds labels such as {found!r}; a regression needs numbers.")
    used = [lists[row] for row in rows]
    for row in rows:
        split = next((label for label in lists[row] if isinstance(label, str) and _BETWEEN in label), None)
        if split is not None:
            raise DataError(
                f"{table.refs[row]} of {table.name} has the label {split!r}; a label among several may not hold {_BETWEEN!r}."
            )
    known = {label for labels in used for label in labels}
    numbers = all(is_number(label) for label in known)
    classes = tuple(sorted(known, key=float if numbers else str))
    position = {label: place for place, label in enumerate(classes)}
    targets = np.zeros((len(used), len(classes)), dtype=np.int64)
    for row, labels in enumerate(used):
        targets[row, [position[label] for label in labels]] = 1
    return Understood("multilabel", _reason(task, "multilabel", "multilabel", what), targets, classes=classes)


def _reason(task: Task | None, chosen: Task, inferred: Task, what: str) -> str:
    if task is None:
        return what
    if chosen == inferred:
        return f"as asked for; the target says the same: {what}"
    return f"as asked for; the target alone ({what}) would have meant {inferred}"


# --- one number or label


def _of_one(table: Table, rows: Ints, task: Task | None) -> Understood:
    numbers, not_number = _as_numbers(table.targets)
    inferred, reason = _infer_task(table, numbers)
    chosen = task or inferred
    reason = _reason(task, chosen, inferred, reason)
    if chosen == "classification":
        classes, positions = _as_classes(table.targets[rows], numbers)
        return Understood(chosen, reason, positions, classes=classes, numbers=numbers)
    if numbers is None:
        raise DataError(
            f"{table.refs[not_number]} of {table.name} has {table.targets.tolist()[not_number]!r} in {table.target_name!r}, "
            f"which is no number; a regression needs numbers (or use --task classification)."
        )
    return Understood(chosen, reason, numbers[rows], numbers=numbers)


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
