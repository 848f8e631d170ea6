"""Shards read in random order within little memory: what a training sees in an epoch when its pictures fit nowhere.

Three things are drawn at random, much as WebDataset does (Aizman et al. 2019): the order of shards, anew in each epoch; which of
a few open shards the next sample is from; and which of the samples that wait in a buffer comes out. How near that is to a full
shuffle is measured in ``tests/test_shuffled.py`` and told in ``docs/data.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

import numpy as np

from pixelfit.errors import OptionError

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Shuffle:
    """How samples are mixed: the order follows from these and the number of the epoch alone.

    ``opened`` shards are read side by side, and ``waiting`` samples are in memory. Of ``ranks`` processes that share the shards
    this is number ``rank``, counted from 0.
    """

    seed: int
    opened: int = 16
    waiting: int = 10_000
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if self.opened < 1 or self.waiting < 1 or not 0 <= self.rank < self.ranks:
            raise OptionError(
                f"A shuffle needs at least 1 open shard and 1 sample that waits, and a rank below the number of ranks; "
                f"these are {self.opened}, {self.waiting}, {self.rank} and {self.ranks}."
            )


@dataclass(frozen=True)
class Shuffled(Generic[S, T]):
    """The samples of shards, each once in an epoch over all ranks.

    ``read`` gives the samples of a shard, the same ones in the same order each time.
    """

    shards: Sequence[S]
    read: Callable[[S], Iterator[T]]
    shuffle: Shuffle

    def epoch(self, number: int, *, position: int = 0) -> Iterator[T]:
        """The samples of an epoch, from ``position`` on: so many of this rank's have been seen before a break.

        What comes before the position is read again and dropped, so that what follows is what would have followed.
        """
        order = np.random.default_rng((self.shuffle.seed, number)).permutation(len(self.shards))
        mine = [self.shards[place] for place in order[self.shuffle.rank :: self.shuffle.ranks]]
        rng = np.random.default_rng((self.shuffle.seed, number, self.shuffle.rank))
        for place, sample in enumerate(_mixed(self._interleaved(mine, rng), self.shuffle.waiting, rng)):
            if place >= position:
                yield sample

    def _interleaved(self, shards: Sequence[S], rng: np.random.Generator) -> Iterator[T]:
        """Samples of some shards side by side; the next shard is opened where one has come to its end."""
        waiting = iter(shards)
        opened = [self.read(shard) for shard in islice(waiting, self.shuffle.opened)]
        while opened:
            place = int(rng.integers(len(opened)))
            for sample in opened[place]:
                yield sample
                break
            else:
                following = next(waiting, None)
                if following is None:
                    del opened[place]
                else:
                    opened[place] = self.read(following)


def _mixed(samples: Iterator[T], waiting: int, rng: np.random.Generator) -> Iterator[T]:
    """Each sample takes the place of a random one of those that wait, which comes out."""
    buffer: list[T] = []
    for sample in samples:
        if len(buffer) < waiting:
            buffer.append(sample)
            continue
        place = int(rng.integers(waiting))
        yield buffer[place]
        buffer[place] = sample
    for place in rng.permutation(len(buffer)):
        yield buffer[place]
