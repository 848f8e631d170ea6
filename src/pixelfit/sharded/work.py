"""One shard predicted for: its rows in a file beside their place, or why there are none."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from pixelfit.batch import Examiner, headers, predicted, to_parquet, to_stream
from pixelfit.data.places import Place, is_remote
from pixelfit.data.shards import items_of
from pixelfit.errors import DataError
from pixelfit.files import write_rows
from pixelfit.progress import Silent
from pixelfit.sharded.parts import Job, Written, checksum_of

ATTEMPTS = 3  # of a shard, before it is listed as failed
_WAIT_S = 1.0  # before a URL is asked again, and twice as long the next time


@dataclass(frozen=True)
class Failed:
    """A shard without predictions, and why."""

    shard: Place
    reason: str


Outcome: TypeAlias = Written | Failed


class Engine(Protocol):
    """Where shards are predicted for."""

    def outcomes(self, shards: Iterable[Place]) -> Iterator[Outcome]:
        """What comes of each shard, in any order. Closing the iterator ends the work."""


@dataclass(frozen=True)
class Local:
    """In this process, a shard after the other."""

    examiner: Examiner
    job: Job
    folder: Path

    def outcomes(self, shards: Iterable[Place]) -> Iterator[Outcome]:
        """In the order of the shards."""
        for shard in shards:
            yield self._outcome(shard)

    def _outcome(self, shard: Place) -> Outcome:
        for attempt in range(ATTEMPTS):
            outcome = outcome_of(self.examiner, shard, self.job, self.folder)
            if isinstance(outcome, Written) or not is_remote(shard.address):
                break
            if attempt < ATTEMPTS - 1:
                time.sleep(_WAIT_S * 2**attempt)
        return outcome


def outcome_of(examiner: Examiner, shard: Place, job: Job, folder: Path, *, decoders: int | None = None) -> Outcome:
    """The rows of a shard, written into the folder under a name that no other attempt has; nothing where it failed.

    ``decoders`` is the number of threads that decode pictures; by default one a core.
    """
    beside = folder / f".{secrets.token_hex(8)}.part"
    try:
        with beside.open("w", encoding="utf-8", newline="") as file:
            rows = predicted(examiner, items_of(shard, job.column), job.coverage, decoders=decoders)
            totals = to_stream(rows, file, Silent(), None)
            if totals.rows == 0:
                write_rows(file, [headers(examiner, job.coverage)])
            os.fsync(file.fileno())
        if job.suffix == ".parquet":
            to_parquet(beside, beside, examiner)
        return Written(shard, beside, totals, checksum_of(beside))
    except DataError as error:
        beside.unlink(missing_ok=True)
        return Failed(shard, str(error))
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
