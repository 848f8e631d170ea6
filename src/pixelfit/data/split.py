"""Development data and a sealed test set. Pictures with the same pixels always land on the same side."""

from __future__ import annotations

import numpy as np

from pixelfit.errors import DataError
from pixelfit.types import Array, Examples, Facts, Ints, Pictures, SealedTest, Splits, Table

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.15
MOST_VALIDATION = 5_000  # more tells recipes apart no better and is missing in training
_BINS = 10
_ROWS_A_BIN = 5
_FEWEST_TO_SHARE = 3


def split(table: Table, pictures: Pictures, facts: Facts, targets: Array, *, seed: int) -> Splits:
    """Cut the data into train, validation and test.

    The data's own test set is used where there is one, otherwise a fifth is cut off. Cuts are stratified: by class,
    or by value or tenth of the target's distribution for a regression.

    Raises:
        DataError: too many pictures are the same for three parts that share none.
    """
    rng = np.random.default_rng(seed)
    groups = pictures.groups
    strata = _strata(facts, targets)
    rows: Ints = np.arange(len(pictures.rows))
    by = "class" if facts.task == "classification" else "target value"
    if table.official_test is not None:
        official = table.official_test[pictures.rows]
        test, development = rows[official], rows[~official]
        how = "test set: the one that comes with the data"
        shared = len(np.intersect1d(groups[test], groups[development]))
        if shared:
            how += f" ({shared:,} of its pictures are also in the development data, pixel for pixel)"
    else:
        test, development = _cut(rows, groups, strata, TEST_SHARE, rng)
        how = f"test set: {TEST_SHARE:.0%} of the pictures, stratified by {by}"
    share = min(VALIDATION_SHARE, MOST_VALIDATION / len(development))
    validation, train = _cut(development, groups, strata, share, rng)
    how += f"; validation set: {len(validation) / len(development):.1%} of the rest, likewise stratified (seed {seed})"

    if not (len(train) and len(validation) and len(test)):
        different = len(np.unique(groups))
        raise DataError(f"{table.name} has only {different:,} different picture(s), too few to train, validate and test on.")

    def examples(chosen: Ints) -> Examples:
        return Examples(pictures.store, chosen, targets[chosen], tuple(table.refs[row] for row in pictures.rows[chosen]))

    return Splits(examples(train), examples(validation), SealedTest(examples(test)), how)


def _strata(facts: Facts, targets: Array) -> Ints:
    few_values = facts.distinct_targets * _ROWS_A_BIN <= len(targets) and facts.distinct_targets <= 2 * _BINS
    if facts.task == "classification" or few_values:
        return np.unique(targets, return_inverse=True)[1].astype(np.int64)
    bins = int(np.clip(len(targets) // _ROWS_A_BIN, 1, _BINS))
    edges = np.quantile(targets, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, targets).astype(np.int64)


def _cut(rows: Ints, groups: Ints, strata: Ints, share: float, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Cut ``share`` of each stratum off. Whole groups move, and a stratum of fewer than three groups stays whole."""
    _, first = np.unique(groups[rows], return_index=True)
    leaders = rows[first]  # one row a group stands for it
    chosen = []
    owed = 0.0  # what rounding left over goes to the next stratum, so that the total comes out right
    for stratum in np.unique(strata[leaders]):
        members = rng.permutation(leaders[strata[leaders] == stratum])
        if len(members) < _FEWEST_TO_SHARE:
            continue
        wanted = share * len(members) + owed
        take = int(np.clip(round(wanted), 1, len(members) - 1))
        owed = wanted - take
        chosen.append(groups[members[:take]])
    cut_off = np.isin(groups[rows], np.concatenate(chosen) if chosen else np.array([], dtype=np.int64))
    return rows[cut_off], rows[~cut_off]
