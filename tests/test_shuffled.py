"""Shards read in random order: each sample once, the same again, shared by ranks, and nearly as mixed as a full shuffle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from pixelfit.data.shuffled import Shuffle, Shuffled
from pixelfit.errors import OptionError
from pixelfit.types import Floats, Ints

SHARDS, ROWS, CLASSES, BATCH = 50, 400, 10, 64


def numbers(shard: int) -> Iterator[int]:
    yield from range(shard * ROWS, (shard + 1) * ROWS)


def order(shuffle: Shuffle, *, epoch: int = 0, shards: int = SHARDS, position: int = 0) -> Ints:
    return np.fromiter(Shuffled(range(shards), numbers, shuffle).epoch(epoch, position=position), dtype=np.int64)


def labels_sorted(emitted: Sequence[int] | Ints) -> Ints:
    """The classes of samples whose shards are sorted by class."""
    return np.asarray(emitted) * CLASSES // (SHARDS * ROWS)


def entropy_in_batches(labels: Ints) -> float:
    """The mean entropy of the classes within batches, in nats."""
    batches = labels[: len(labels) // BATCH * BATCH].reshape(-1, BATCH)
    shares: Floats = np.stack([(batches == label).mean(axis=1) for label in range(CLASSES)], axis=1)
    return float(-(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1).mean())


def correlation(emitted: Ints) -> float:
    """Between where a sample was and where it came out."""
    return float(np.corrcoef(emitted, np.arange(len(emitted)))[0, 1])


@pytest.mark.parametrize("shuffle", [Shuffle(0), Shuffle(0, opened=1, waiting=1), Shuffle(1, opened=3, waiting=100_000)])
def test_each_sample_comes_once_in_an_epoch(shuffle: Shuffle) -> None:
    assert sorted(order(shuffle)) == list(range(SHARDS * ROWS))
    assert order(shuffle, shards=0).tolist() == []


def test_the_order_follows_from_seed_and_epoch() -> None:
    shuffle = Shuffle(3, opened=4, waiting=500)
    first = order(shuffle).tolist()
    assert first == order(shuffle).tolist()
    assert first != order(shuffle, epoch=1).tolist()
    assert first != order(Shuffle(4, opened=4, waiting=500)).tolist()


@pytest.mark.parametrize("position", [0, 1, 7_777, SHARDS * ROWS - 1, SHARDS * ROWS])
def test_an_epoch_goes_on_from_where_it_was(position: int) -> None:
    shuffle = Shuffle(3, opened=4, waiting=500)
    assert order(shuffle, position=position).tolist() == order(shuffle).tolist()[position:]


@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_ranks_share_the_samples_without_overlap(ranks: int) -> None:
    for epoch in range(2):
        each = [order(Shuffle(0, opened=2, waiting=100, rank=rank, ranks=ranks), epoch=epoch) for rank in range(ranks)]
        assert sorted(np.concatenate(each)) == list(range(SHARDS * ROWS))


def test_few_shards_are_open_and_few_samples_wait() -> None:
    opened, most = set(), 0

    def watched(shard: int) -> Iterator[int]:
        nonlocal most
        opened.add(shard)
        most = max(most, len(opened))
        yield from numbers(shard)
        opened.remove(shard)

    for _ in Shuffled(range(SHARDS), watched, Shuffle(0, opened=5, waiting=10)).epoch(0):
        pass
    assert most == 5


@pytest.mark.parametrize(
    ("opened", "waiting", "least", "most_correlated"),
    [(1, 1, 0.0, 0.5), (4, 500, 0.6, 0.5), (16, 2_000, 0.88, 0.4), (16, 10_000, 0.98, 0.15), (50, 20_000, 0.995, 0.03)],
)
def test_how_near_it_is_to_a_full_shuffle(opened: int, waiting: int, least: float, most_correlated: float) -> None:
    """The table of docs/data.md: the entropy of classes in batches, as a share of that of a full shuffle, and the correlation."""
    full = entropy_in_batches(labels_sorted(np.random.default_rng(0).permutation(SHARDS * ROWS)))
    found = [order(Shuffle(seed, opened=opened, waiting=waiting)) for seed in range(5)]
    shares = [entropy_in_batches(labels_sorted(emitted)) / full for emitted in found]
    correlations = [abs(correlation(emitted)) for emitted in found]
    assert np.mean(shares) >= least, np.mean(shares)
    assert np.mean(correlations) <= most_correlated, np.mean(correlations)


def test_what_makes_no_shuffle_is_refused() -> None:
    for words in ({"opened": 0}, {"waiting": 0}, {"rank": 2, "ranks": 2}, {"rank": -1}):
        with pytest.raises(OptionError):
            Shuffle(0, **words)
