"""Development data, in one fold or several, and a sealed test set. No cut parts pictures that belong together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pixelfit.data.targets import outline
from pixelfit.errors import DataError, OptionError
from pixelfit.types import Array, Examples, Facts, Fold, Inspected, Ints, Kind, Pictures, SealedTest, Splits, Table

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.15
MOST_VALIDATION = 5_000  # more tells recipes apart no better and is missing in training
_BINS = 10
_ROWS_A_BIN = 5
_FEWEST_TO_SHARE = 3
FOLDS = 5
# With fewer pictures to develop on, 15 % of them are too few to tell recipes apart.
FEW = 1_000
_FEWEST_A_FOLD = 4  # groups of pictures
_STRATIFIED_BY: Mapping[Kind, str] = {
    "number": "target value",
    "numbers": "the first principal component of the targets",
    "label": "class",
    "labels": "each picture's rarest label",
}


def split(table: Table, pictures: Pictures, inspected: Inspected, *, seed: int, folds: int | None = 1) -> Splits:
    """Cut the data into development data and a test set, and the former into train and validation or into folds.

    The parts that the data come with are used where there are any; from the others a fifth is cut off for a test, and
    15 % of the rest for validation. Cuts are stratified: by class, or by value or tenth of the target's distribution for
    a regression; where a picture has several numbers or labels, by the one number that stands for them (``outline``).
    Pictures that belong together (``inspected.together``) are not parted by a cut.

    Args:
        table: what the user brought.
        pictures: those that could be decoded.
        inspected: what is known of them.
        seed: of the cuts.
        folds: how many, 1 for a single validation set; None for ``FOLDS`` where there are at most ``FEW`` pictures.

    Raises:
        DataError: too many pictures belong together for parts that share none.
        OptionError: several folds are wanted of data that come with a validation set.
    """
    rng = np.random.default_rng(seed)
    facts, targets, together = inspected.facts, inspected.targets, inspected.together
    rows: Ints = np.arange(len(pictures.rows))
    given = np.full(len(rows), "", dtype=object) if table.parts is None else table.parts[pictures.rows]
    rest = rows[(given == "") | (given == "train")]
    by = _STRATIFIED_BY[facts.kind]
    whole = f", whole groups of {table.group_name!r}" if table.groups is not None else ""

    test = rows[given == "test"]
    if len(test):
        how = f"test set: the one that comes with the data{_also_in(rows[given != 'test'], test, together)}"
    else:
        test, rest = _cut(rest, inspected, TEST_SHARE, rng)
        how = f"test set: {TEST_SHARE:.0%} of the pictures, stratified by {by}{whole}"
    validation, train = rows[given == "validation"], rest
    different = len(np.unique(together[rest]))
    if folds is None:
        folds = FOLDS if len(rest) <= FEW and different >= _FEWEST_A_FOLD * FOLDS and not len(validation) else 1

    def examples(chosen: Ints) -> Examples:
        return Examples(pictures.store, chosen, targets[chosen], tuple(table.refs[row] for row in pictures.rows[chosen]))

    if folds > 1:
        if len(validation):
            raise OptionError(f"--folds {folds} cannot be used with {table.name}, which comes with a validation set of its own.")
        if different < _FEWEST_A_FOLD * folds or not len(test):
            raise _too_few(table, together)
        fold_of = _folds(rest, inspected, folds, rng)
        parts = tuple(Fold(examples(rest[fold_of != fold]), examples(rest[fold_of == fold])) for fold in range(folds))
        how += (
            f"; validation: {folds}-fold cross-validation of the {len(rest):,} others, likewise stratified{whole} (seed {seed}): "
            f"each is predicted by models that were trained on the other folds"
        )
        return Splits(parts, SealedTest(examples(test)), how, pictures.original_sizes, pictures.kinds)
    if len(validation):
        how += f"; validation set: the one that comes with the data{_also_in(train, validation, together)}"
    else:
        share = min(VALIDATION_SHARE, MOST_VALIDATION / max(len(rest), 1))
        validation, train = _cut(rest, inspected, share, rng)
        how += (
            f"; validation set: {len(validation) / max(len(rest), 1):.1%} of the rest, likewise stratified{whole} (seed {seed})"
        )
    if not (len(train) and len(validation) and len(test)):
        raise _too_few(table, together)
    parts = (Fold(examples(train), examples(validation)),)
    return Splits(parts, SealedTest(examples(test)), how, pictures.original_sizes, pictures.kinds)


def _too_few(table: Table, together: Ints) -> DataError:
    different = len(np.unique(together))
    return DataError(
        f"{table.name} has only {different:,} different picture(s) or groups of them, "
        f"in parts too few to train, validate and test on."
    )


def _also_in(others: Ints, part: Ints, together: Ints) -> str:
    """Words for the pictures of a given part that are also in the other parts, or nearly so."""
    shared = int(np.isin(together[part], together[others]).sum())
    return f" ({shared:,} of its pictures are also in the rest, or belong to such a one)" if shared else ""


def _strata(facts: Facts, targets: Array) -> Ints:
    """In which stratum each of these rows is: its class, its value, or its part of the distribution of values."""
    few_values = facts.distinct_targets * _ROWS_A_BIN <= len(targets) and facts.distinct_targets <= 2 * _BINS
    if facts.classes is not None or few_values:
        strata = np.unique(targets, return_inverse=True)[1].astype(np.int64)
    else:
        bins = int(np.clip(len(targets) // _ROWS_A_BIN, 1, _BINS))
        edges = np.quantile(targets, np.linspace(0, 1, bins + 1)[1:-1])
        strata = np.searchsorted(edges, targets).astype(np.int64)
    # Where every stratum is too small to be cut, as with a handful of large groups, all are cut as one.
    return strata if np.bincount(strata).max(initial=0) >= _FEWEST_TO_SHARE else np.zeros_like(strata)


def _folds(rows: Ints, inspected: Inspected, folds: int, rng: np.random.Generator) -> Ints:
    """The fold of each row. The groups of each stratum are dealt out like cards, so that folds are alike."""
    groups = inspected.together[rows]
    _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    leaders = rows[first]
    strata = _strata(inspected.facts, outline(inspected.facts.kind, inspected.targets)[leaders])
    dealt: Ints = np.empty(len(leaders), dtype=np.int64)
    # Stratum after stratum, each in random order: where one ends, the next goes on.
    dealt[np.lexsort((rng.permutation(len(leaders)), strata))] = np.arange(len(leaders)) % folds
    return dealt[group_of]


def _cut(rows: Ints, inspected: Inspected, share: float, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Cut ``share`` of each stratum off. Whole groups move, and a stratum of fewer than three groups stays whole."""
    groups = inspected.together
    _, first = np.unique(groups[rows], return_index=True)
    leaders = rows[first]  # one row a group stands for it
    strata = _strata(inspected.facts, outline(inspected.facts.kind, inspected.targets)[leaders])
    chosen = []
    owed = 0.0  # what rounding left over goes to the next stratum, so that the total comes out right
    for stratum in np.unique(strata):
        members = rng.permutation(leaders[strata == stratum])
        if len(members) < _FEWEST_TO_SHARE:
            continue
        wanted = share * len(members) + owed
        take = int(np.clip(round(wanted), 1, len(members) - 1))
        owed = wanted - take
        chosen.append(groups[members[:take]])
    cut_off = np.isin(groups[rows], np.concatenate(chosen) if chosen else np.array([], dtype=np.int64))
    return rows[cut_off], rows[~cut_off]
