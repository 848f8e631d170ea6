"""What the owner of the data should know of them before a model is trained: one check a function, one entry in CHECKS."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np

from pixelfit.data.duplicates import pair_groups
from pixelfit.data.targets import Understood
from pixelfit.types import Array, Finding, Ints, Kind, Label, Pictures, Table, kind_of
from pixelfit.words import number_of, value_words

FEWEST_A_CLASS = 3  # a class with fewer pictures cannot be in all three parts
_SHOWN = 20  # rows by name
_NAMED = 5  # things in a sentence
_EMPTY = 2.0  # grey levels of deviation over the whole picture
_ODD_SIDE = 4.0  # times the median side
_ODD_SHAPE = 3.0  # times the median ratio of the sides
_ODD_KIND = 0.02  # share of the pictures
_OUTLYING = 3.0  # interquartile ranges beyond the quartiles (Tukey's "far out")
_IMBALANCE = 20.0
_NAME_TELLS = 0.5  # share of the file names that contain their label
_NUMBER_TELLS = 0.9  # rank correlation of a number in the file names with the target
_FORM_TELLS = 0.5  # share of the constant prediction's errors (or variance) that size and format take away
_NUMBERS_AT_ONCE = 1 << 23  # pixels looked at together: 64 MiB, since their deviation is taken in double precision
_MOST_TARGETS = 20  # of several a picture, that are looked at one by one


@dataclass(frozen=True)
class Look:
    """The usable rows: names, targets as numbers (for classes: positions in ``classes``), pictures, near pairs."""

    refs: tuple[str, ...]
    targets: Array
    target_name: str
    classes: tuple[Label, ...] | None
    classes_are_folders: bool
    pictures: Pictures
    near: Ints
    shown: int = _SHOWN  # rows that a finding names


def findings(table: Table, pictures: Pictures, understood: Understood, near: Ints) -> tuple[Finding, ...]:
    """Everything that the checks find, in their order. Of several targets each is looked at for itself, and named."""
    refs = tuple(table.refs[row] for row in pictures.rows)
    look = Look(refs, understood.targets, table.target_name, understood.classes, table.targets_are_folder_names, pictures, near)
    looks = _looks(look, understood)
    checks = _CHECKS_OF[kind_of(understood.task, several=bool(understood.names))]
    each = [_check(look, looks, check) for check in checks]
    return tuple(found for found in each if found is not None)


def _looks(look: Look, understood: Understood) -> list[Look]:
    """The rows with one of their several targets or labels each, as if it were the only one."""
    if look.targets.ndim == 1:
        return []
    names = understood.names or tuple(f"label {label!r}" for label in understood.classes or ())
    classes = None if understood.names else (False, True)
    columns = list(zip(names, look.targets.T, strict=True))[:_MOST_TARGETS]
    return [
        replace(look, targets=column, target_name=name, classes=classes, classes_are_folders=False, shown=len(look.refs))
        for name, column in columns
    ]


def _check(look: Look, looks: Sequence[Look], check: Callable[[Look], Finding | None]) -> Finding | None:
    """What the check finds, in all of the looks together where it is about targets."""
    if not looks or check not in _OF_EACH:
        return check(look)
    found = [one for each in looks if (one := check(each)) is not None]
    if not found:
        return None
    refs = tuple(dict.fromkeys(ref for one in found for ref in one.refs))
    more = f" So it is with {len(found) - _NAMED:,} more." if len(found) > _NAMED else ""
    return Finding(found[0].kind, " ".join(one.text for one in found[:_NAMED]) + more, len(refs), refs[:_SHOWN])


def _found(look: Look, kind: str, text: str, rows: Ints | Sequence[int]) -> Finding:
    return Finding(kind, text, len(rows), tuple(look.refs[row] for row in rows[: look.shown]))


def _exact_duplicates(look: Look) -> Finding | None:
    _, group, sizes = np.unique(look.pictures.groups, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(sizes[group] > 1)
    if not len(rows):
        return None
    rows = rows[np.argsort(group[rows], kind="stable")]
    text = (
        f"{len(rows):,} pictures in {number_of(int((sizes > 1).sum()), 'group')} have the same pixels as others of their group."
    )
    return _found(look, "duplicates", text, rows)


def _near_duplicates(look: Look) -> Finding | None:
    if not len(look.near):
        return None
    group = pair_groups(look.near, len(look.refs))
    rows = np.unique(look.near)
    rows = rows[np.argsort(group[rows], kind="stable")]
    text = f"{len(rows):,} pictures are nearly the same as another (a copy of another size, brightness or compression)."
    return _found(look, "near duplicates", text, rows)


def _contradictions(look: Look) -> Finding | None:
    """The same picture with different targets."""
    _, group = np.unique(look.pictures.groups, return_inverse=True)
    low, high = np.full(group.max() + 1, np.inf), np.full(group.max() + 1, -np.inf)
    np.minimum.at(low, group, look.targets)
    np.maximum.at(high, group, look.targets)
    rows = np.flatnonzero(high[group] > low[group])
    if not len(rows):
        return None
    rows = rows[np.argsort(group[rows], kind="stable")]
    text = (
        f"{len(rows):,} pictures share all their pixels with one that has another {look.target_name}: at most one can be right."
    )
    return _found(look, "contradictions", text, rows)


def _label_contradictions(look: Look) -> Finding | None:
    """The same picture with different labels."""
    _, group = np.unique(look.pictures.groups, return_inverse=True)
    have = np.zeros((group.max() + 1, look.targets.shape[1]), dtype=np.int64)
    np.add.at(have, group, look.targets)
    differ = np.logical_and(have > 0, have < np.bincount(group)[:, None])
    rows = np.flatnonzero(np.any(differ, axis=1)[group])
    if not len(rows):
        return None
    assert look.classes is not None
    rows = rows[np.argsort(group[rows], kind="stable")]
    labels = np.flatnonzero(np.any(differ, axis=0))
    more = f" and {len(labels) - _NAMED:,} more" if len(labels) > _NAMED else ""
    listed = ", ".join(repr(look.classes[code]) for code in labels[:_NAMED])
    text = (
        f"{len(rows):,} pictures share all their pixels with one of other labels: at most one can be right. "
        f"They differ in {listed}{more}."
    )
    return _found(look, "contradictions", text, rows)


def _empty(look: Look) -> Finding | None:
    store = look.pictures.store
    at_once = max(1, _NUMBERS_AT_ONCE // store[0].size)
    chunks = (store[start : start + at_once] for start in range(0, len(store), at_once))
    deviations = np.concatenate([chunk.reshape(len(chunk), -1).std(axis=1) for chunk in chunks])
    faintest = _EMPTY if look.pictures.spec.scale in ("byte", "unit") else _EMPTY / 255 * float(np.percentile(deviations, 90))
    rows = np.flatnonzero(deviations < faintest)
    return (
        _found(look, "empty", f"{number_of(len(rows), 'picture')} of one colour nearly everywhere.", rows) if len(rows) else None
    )


def _odd_sizes(look: Look) -> Finding | None:
    height, width = look.pictures.original_sizes.T.astype(np.float64)
    side, shape = np.sqrt(height * width), width / height
    far, long = side / np.median(side), shape / np.median(shape)
    rows = np.flatnonzero((np.maximum(far, 1 / far) > _ODD_SIDE) | (np.maximum(long, 1 / long) > _ODD_SHAPE))
    if not len(rows):
        return None
    text = (
        f"{number_of(len(rows), 'picture')} of an odd size: {_ODD_SIDE:g} times as large or small as the median of "
        f"{np.median(width):.0f} × {np.median(height):.0f} pixels, or {_ODD_SHAPE:g} times as long or as high."
    )
    return _found(look, "odd sizes", text, rows)


def _odd_kinds(look: Look) -> Finding | None:
    kinds = Counter(look.pictures.kinds)
    odd = {kind for kind, count in kinds.items() if count < _ODD_KIND * len(look.refs)}
    if not odd:
        return None
    rows = [row for row, kind in enumerate(look.pictures.kinds) if kind in odd]
    listed = ", ".join(f"{kind} ({kinds[kind]:,})" for kind in sorted(odd)[:_NAMED])
    usual = ", ".join(f"{kind} ({count:,})" for kind, count in kinds.most_common() if kind not in odd)
    return _found(
        look,
        "odd kinds",
        f"{number_of(len(rows), 'picture')} of a kind that is rare here: {listed}; the others are {usual}.",
        rows,
    )


def _rare_classes(look: Look) -> Finding | None:
    if look.classes is None:
        return None
    counts = np.bincount(look.targets, minlength=len(look.classes))
    rare = np.flatnonzero(counts < FEWEST_A_CLASS)
    if not len(rare):
        return None
    more = f" and {len(rare) - _NAMED:,} more" if len(rare) > _NAMED else ""
    listed = ", ".join(f"{look.classes[code]!r} ({counts[code]})" for code in rare[:_NAMED])
    text = f"Classes with fewer than {FEWEST_A_CLASS} pictures are in the training set only: {listed}{more}."
    return _found(look, "rare classes", text, np.flatnonzero(np.isin(look.targets, rare)))


def _rare_labels(look: Look) -> Finding | None:
    """Labels of which too few pictures, or too few without them, are there to learn and to test them by."""
    counts, rows = look.targets.sum(axis=0), len(look.targets)
    rare = np.flatnonzero(np.minimum(counts, rows - counts) < FEWEST_A_CLASS)
    if not len(rare):
        return None
    assert look.classes is not None
    more = f" and {len(rare) - _NAMED:,} more" if len(rare) > _NAMED else ""
    listed = ", ".join(f"{look.classes[code]!r} ({counts[code]:,} of {rows:,})" for code in rare[:_NAMED])
    text = f"Labels that fewer than {FEWEST_A_CLASS} pictures have, or have not, can hardly be learned: {listed}{more}."
    few = [code for code in rare if counts[code] < FEWEST_A_CLASS]
    return _found(look, "rare labels", text, np.flatnonzero(look.targets[:, few].any(axis=1)))


def _label_imbalance(look: Look) -> Finding | None:
    assert look.classes is not None
    counts = look.targets.sum(axis=0)
    most, least = int(counts.argmax()), int(counts.argmin())
    if counts[most] < _IMBALANCE * counts[least]:
        return None
    text = (
        f"Labels are of very different frequency: {look.classes[most]!r} is on {counts[most]:,} pictures, "
        f"{look.classes[least]!r} on {counts[least]:,}."
    )
    return Finding("imbalance", text)


def _label_in_name(look: Look) -> Finding | None:
    """Whether the file names of pictures with a label hold it, and those of the others do not."""
    if look.pictures.kinds == ():
        return None
    assert look.classes is not None
    words = [set(_words(PurePosixPath(ref).stem.lower())) for ref in look.refs]
    told = []
    for label, has in zip(look.classes, look.targets.T, strict=True):
        named = np.array([str(label).lower() in each for each in words])
        by_chance = min(has.mean(), 1 - has.mean())
        if by_chance > 0 and (named != has).mean() <= (1 - _NAME_TELLS) * by_chance:
            told.append(f"{label!r} ({int((named & (has == 1)).sum()):,})")
    if not told:
        return None
    more = f" and {len(told) - _NAMED:,} more" if len(told) > _NAMED else ""
    text = (
        f"File names tell which pictures have the labels {', '.join(told[:_NAMED])}{more}. "
        f"Models do not see names; your own use might."
    )
    return Finding("target in the file name", text)


def _imbalance(look: Look) -> Finding | None:
    if look.classes is None:
        return None
    counts = np.bincount(look.targets, minlength=len(look.classes))
    most, least = int(counts.argmax()), int(counts.argmin())
    if counts[most] < _IMBALANCE * counts[least]:
        return None
    text = (
        f"Classes are of very different sizes: {look.classes[most]!r} has {counts[most]:,} pictures, "
        f"{look.classes[least]!r} has {counts[least]:,}."
    )
    return Finding("imbalance", text)


def _outliers(look: Look) -> Finding | None:
    if look.classes is not None:
        return None
    low, high = np.quantile(look.targets, [0.25, 0.75])
    reach = _OUTLYING * (high - low)
    rows = (
        np.flatnonzero((look.targets < low - reach) | (look.targets > high + reach))
        if reach > 0
        else np.array([], dtype=np.int64)
    )
    if not len(rows):
        return None
    rows = rows[np.argsort(-np.abs(look.targets[rows] - (low + high) / 2), kind="stable")]
    text = (
        f"{number_of(len(rows), 'value')} of {look.target_name} more than {_OUTLYING:g} interquartile ranges beyond the "
        f"quartiles ({value_words(low)} and {value_words(high)}); the farthest is {value_words(look.targets[rows[0]])}."
    )
    return _found(look, "outliers", text, rows)


def _target_in_name(look: Look) -> Finding | None:
    """Whether file names tell the target: no model sees them, but they often mean that pictures come in series."""
    if look.classes_are_folders or look.pictures.kinds == ():
        return None
    stems = [PurePosixPath(ref).stem.lower() for ref in look.refs]
    if look.classes is not None:
        labels = [str(label).lower() for label in look.classes]
        rows = [row for row, stem in enumerate(stems) if labels[look.targets[row]] in _words(stem)]
        told = len(rows) / len(stems)
        most = np.bincount(look.targets).max() / len(stems)  # names that all hold the same word tell nothing
        if told < max(_NAME_TELLS, most + _NAME_TELLS * (1 - most)):
            return None
        text = f"{len(rows):,} file names contain their {look.target_name}. Models do not see names; your own use might."
        return _found(look, "target in the file name", text, rows)
    return _number_in_name(look, stems)


def _words(stem: str) -> list[str]:
    return re.split(r"[^a-z0-9]+|(?<=\D)(?=\d)", stem)


def _number_in_name(look: Look, stems: Sequence[str]) -> Finding | None:
    from scipy.stats import spearmanr

    numbers = [re.findall(r"\d+(?:\.\d+)?", stem) for stem in stems]
    for place in range(min(map(len, numbers))):
        values = np.array([float(found[place]) for found in numbers])
        if np.ptp(values) == 0 or np.ptp(look.targets) == 0:
            continue
        if abs(float(spearmanr(values, look.targets).statistic)) >= _NUMBER_TELLS:
            text = (
                f"A number in the file names runs with {look.target_name} (as in {look.refs[0]}). "
                f"Models do not see names; but pictures may come in series that belong together (see --group)."
            )
            return Finding("target in the file name", text)
    return None


def _target_in_form(look: Look) -> Finding | None:
    """Whether size and format of the files tell the target, as they do where each class came from a source of its own."""
    _, kinds = np.unique(look.pictures.kinds, return_inverse=True) if look.pictures.kinds else (None, np.zeros(len(look.refs)))
    form = np.column_stack([look.pictures.original_sizes, kinds])
    if (form == form[0]).all():
        return None
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    tree = (DecisionTreeRegressor if look.classes is None else DecisionTreeClassifier)(
        max_depth=4, min_samples_leaf=5, random_state=0
    )
    told = cross_val_predict(tree, form, look.targets, cv=KFold(3, shuffle=True, random_state=0))
    if look.classes is None:
        wrong, by_chance = ((look.targets - told) ** 2).mean(), look.targets.var()
    else:
        wrong, by_chance = (look.targets != told).mean(), 1 - np.bincount(look.targets).max() / len(told)
    if wrong > (1 - _FORM_TELLS) * by_chance:
        return None
    text = (
        f"{look.target_name} can be told from the size and the format of the files alone, with {1 - wrong / by_chance:.0%} of "
        f"{'the variance explained' if look.classes is None else 'the errors of guessing gone'}: "
        f"pictures may come from sources that differ in more than what you mean."
    )
    return Finding("target in the form", text)


CHECKS: tuple[Callable[[Look], Finding | None], ...] = (
    _exact_duplicates,
    _near_duplicates,
    _contradictions,
    _empty,
    _odd_sizes,
    _odd_kinds,
    _rare_classes,
    _imbalance,
    _outliers,
    _target_in_name,
    _target_in_form,
)
# Where a picture has several numbers, or several labels.
_CHECKS_OF: Mapping[Kind, tuple[Callable[[Look], Finding | None], ...]] = {
    "number": CHECKS,
    "label": CHECKS,
    "numbers": (
        _exact_duplicates,
        _near_duplicates,
        _contradictions,
        _empty,
        _odd_sizes,
        _odd_kinds,
        _outliers,
        _target_in_name,
        _target_in_form,
    ),
    "labels": (
        _exact_duplicates,
        _near_duplicates,
        _label_contradictions,
        _empty,
        _odd_sizes,
        _odd_kinds,
        _rare_labels,
        _label_imbalance,
        _label_in_name,
        _target_in_form,
    ),
}
# Of these checks, those that look at one target at a time.
_OF_EACH = frozenset({_contradictions, _outliers, _target_in_name, _target_in_form})
