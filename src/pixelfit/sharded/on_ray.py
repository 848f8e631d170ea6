"""Shards predicted for on a Ray cluster: a worker a core, each with the model in its memory, and a shard at a time for each.

The driver alone puts parts in their place, so that a worker that was given up and answers after all does no harm.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from pixelfit.batch import Examiner
from pixelfit.cluster import connected
from pixelfit.data.places import Place
from pixelfit.errors import ShardError
from pixelfit.progress import Progress
from pixelfit.sharded.parts import Job, checksum_of
from pixelfit.sharded.work import ATTEMPTS, Failed, Outcome, outcome_of
from pixelfit.words import number_of

_PIECE = 8 << 20  # bytes of a part that are carried at once
_MOST_LOST_STARTS = 3  # in a row, before it is said that workers do not start


class Worker:
    """A process of the cluster that holds the model and predicts for one shard after the other.

    It writes into ``folder`` where it sees the driver's ``token`` there, else into a folder of its own, from which the driver
    carries the parts away. Relative paths start where the driver is, if there is such a folder here.
    """

    def __init__(self, examiner: Examiner, job: Job, folder: str, token: str, home: str) -> None:
        self._examiner, self._job = examiner, job
        if Path(home).is_dir():
            os.chdir(home)
        self._shared = (Path(folder) / token).is_file()
        # The folder lasts as long as this process, which Ray may end by force: then the machine's own habits clear it.
        self._own = tempfile.TemporaryDirectory(prefix="pixelfit-")
        self._folder = Path(folder) if self._shared else Path(self._own.name)

    def ready(self) -> bool:
        """Whether what this worker writes lies where the driver can rename it."""
        return self._shared

    def outcome(self, shard: Place) -> Outcome:
        """The rows of a shard, or why there are none; one thread decodes, since Ray counts a core for each worker."""
        return outcome_of(self._examiner, shard, self._job, self._folder, decoders=1)

    def piece(self, file: Path, start: int) -> bytes:
        """Some bytes of what it has written."""
        with file.open("rb") as opened:
            opened.seek(start)
            return opened.read(_PIECE)

    def forget(self, file: Path) -> None:
        """Remove what has been carried away."""
        file.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Errand:
    """What a worker is busy with: a shard, or (None) getting ready."""

    worker: Any
    shard: Place | None


@dataclass(frozen=True)
class OnRay:
    """The cluster at ``address``, or (None) a Ray that is started here and ended with the work."""

    examiner: Examiner
    job: Job
    folder: Path
    address: str | None
    progress: Progress

    def outcomes(self, shards: Iterable[Place]) -> Iterator[Outcome]:
        """As they come; a shard whose worker died, or could not reach it, is tried again, and failed after the third time.

        Raises:
            OptionError: ray is not installed, or no cluster answers.
            ShardError: workers do not start.
        """
        with connected(self.address), _token(self.folder) as token:
            yield from _Pool(self, token).outcomes(deque(shards))


class _Pool:
    """The workers of one command, and what each is busy with."""

    def __init__(self, engine: OnRay, token: str) -> None:
        self._engine, self._token, self._folder = engine, token, engine.folder.absolute()
        self._model = ray.put(engine.examiner)
        self._busy: dict[Any, _Errand] = {}
        self._idle: list[Any] = []
        self._attempts: Counter[str] = Counter()
        self._lost_starts = 0

    def outcomes(self, waiting: deque[Place]) -> Iterator[Outcome]:
        """Of the shards that wait; workers that die are replaced."""
        cores = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
        workers = max(1, min(len(waiting), int(cores)))
        self._engine.progress.say(f"Predicting on Ray with {number_of(workers, 'worker')}.")
        for _ in range(workers):
            self._start()
        try:
            while waiting or any(errand.shard for errand in self._busy.values()):
                while waiting and self._idle:
                    worker, shard = self._idle.pop(), waiting.popleft()
                    self._busy[worker.outcome.remote(shard)] = _Errand(worker, shard)
                outcome = self._next()
                if isinstance(outcome, Failed) and not self._is_given_up(outcome.shard):
                    waiting.append(outcome.shard)
                elif outcome is not None:
                    yield outcome
        finally:
            for worker in (*self._idle, *(errand.worker for errand in self._busy.values())):
                ray.kill(worker)

    def _start(self) -> None:
        # No restarts by Ray itself: it would not say that a shard was lost, and the shard's attempts are counted here.
        remote = ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(Worker)
        worker: Any = remote.remote(self._model, self._engine.job, str(self._folder), self._token, str(Path.cwd()))
        self._busy[worker.ready.remote()] = _Errand(worker, None)

    def _next(self) -> Outcome | None:
        """The next outcome; None where it was a worker that is ready, or has not become so."""
        (answer,), _ = ray.wait(list(self._busy), num_returns=1)
        errand = self._busy.pop(answer)
        try:
            given = ray.get(answer)
            outcome = None if errand.shard is None else self._carried(errand.worker, given)
        except RayError as error:
            self._replace(errand, error)
            return None if errand.shard is None else Failed(errand.shard, f"its worker was lost ({_said(error)})")
        self._lost_starts = 0
        self._idle.append(errand.worker)
        return outcome

    def _replace(self, errand: _Errand, error: RayError) -> None:
        """Start another worker for one that is lost, or that raised what it should not have."""
        ray.kill(errand.worker)
        self._lost_starts += errand.shard is None
        if self._lost_starts >= _MOST_LOST_STARTS:
            raise ShardError(f"Workers of the Ray cluster do not start: {_said(error)}.") from error
        self._start()

    def _carried(self, worker: Any, outcome: Outcome) -> Outcome:
        """The outcome with its file in the driver's folder."""
        if isinstance(outcome, Failed) or outcome.file.parent == self._folder:
            return outcome
        beside, size = self._folder / f".{secrets.token_hex(8)}.part", 0
        with beside.open("wb") as file:
            while piece := ray.get(worker.piece.remote(outcome.file, size)):
                size += file.write(piece)
            os.fsync(file.fileno())
        worker.forget.remote(outcome.file)
        if checksum_of(beside) != outcome.checksum:
            beside.unlink()
            return Failed(outcome.shard, "its part was damaged on the way")
        return replace(outcome, file=beside)

    def _is_given_up(self, shard: Place) -> bool:
        self._attempts[shard.name] += 1
        return self._attempts[shard.name] >= ATTEMPTS


@contextmanager
def _token(folder: Path) -> Iterator[str]:
    """The name of an empty file in the folder, by which workers see whether they share it."""
    file = folder / f".{secrets.token_hex(8)}.part"
    file.touch()
    try:
        yield file.name
    finally:
        file.unlink(missing_ok=True)


def _said(error: Exception) -> str:
    """The last line that says something: the first ones of Ray's are about itself."""
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1].rstrip(".")
