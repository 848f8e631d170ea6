"""Trials in processes of their own: one that crashes, hangs or takes all memory costs itself and nothing else."""

from __future__ import annotations

import math
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil
import torch

from pixelfit.deadline import Deadline
from pixelfit.environment import memory_limit, usable_cores
from pixelfit.models import FAMILIES
from pixelfit.progress import Progress
from pixelfit.runlog import note
from pixelfit.search.births import Household, message, tell
from pixelfit.search.engine import NOT_DONE, LocalEngine, Outcome, Plan, SearchOverError, Until, divided, failed, is_divided
from pixelfit.search.memory import Means, as_memory_allows
from pixelfit.search.nursery import Child, Nursery
from pixelfit.training.machine import machine
from pixelfit.training.parallel import train_on
from pixelfit.training.passing import StoreAt, packed, unpacked
from pixelfit.types import Facts, Fold

_LOOK_EVERY_S = 0.25
_LATE, _LATE_S = 1.5, 10.0  # a trial that takes so many times its seconds, and so many more, hangs


class TrialsApart:
    """Runs trials in children of a process that is started early, so that its imports take no time of the search.

    Where there can be no such process, trials run in this one. ``workers`` is how many trials run side by side, each with
    its share of the processor; by default one, or one on each GPU. A long training that has nothing beside it is divided
    over ``ranks`` processes. ``silent_s`` is how long a trial may be silent;
    ``most_memory`` bytes may this process and its trials take together; ``nursery`` is the process, if it has begun
    already, and is ended from here.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        ranks: int = 1,
        silent_s: float = 1800.0,
        most_memory: float = math.inf,
        nursery: Nursery | None = None,
    ) -> None:
        self._silent_s, self._most_memory = silent_s, most_memory
        self._nursery = nursery or (Nursery() if Nursery.can_be() else None)
        self._ranks = ranks
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        self._gpus = Turns(gpus)
        self.slots = (workers or max(1, gpus)) if self._nursery is not None else 1
        self.threads = max(1, usable_cores() // self.slots) if self.slots > 1 else 0
        self._has_household = False
        self._here: LocalEngine | None = None
        self._births = threading.Lock()  # one at a time
        self._children: set[int] = set()
        self._over = False
        self._nurse: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def ready(self, folds: Sequence[Fold], facts: Facts, deadline: Deadline, progress: Progress) -> None:
        """Hand over what all trials share, and wait until they can begin."""
        self._folds, self._facts, self._deadline, self._progress = folds, facts, deadline, progress
        self._here = LocalEngine(folds, facts, deadline, progress)
        self._store = folds[0].train.store
        if self._nursery is not None:
            self._at = StoreAt.of(self._store) or StoreAt.copied(self._store, self._nursery.memory)
            if not self._nursery.is_ready():
                note("nursery did not start")
                self._end()
                self.slots, self.threads, self._over = 1, 0, False

    def run(self, plan: Plan) -> Outcome:
        """Run one trial; where its memory does not suffice, once more with half the batch. Failures are recorded."""
        assert self._here is not None
        plan = plan if plan.threads or self.slots == 1 or plan.alone else replace(plan, threads=self.threads)
        run = self._here.run if self._nursery is None else self._once
        if is_divided(plan, self._ranks, self._folds, self._facts):
            run = self._over_several
        means = Means(self._folds[0].train, self._facts, self._deadline, self._progress)
        beside = self._ranks if run == self._over_several else 1 if plan.alone else self.slots
        return as_memory_allows(plan, run, means, room=self._room(beside))

    def _over_several(self, plan: Plan) -> Outcome:
        """One trial whose training is divided over processes here."""
        trainer, until = partial(train_on, self._ranks), Until(self._deadline, lambda: self._over)
        outcome = divided(plan, LocalEngine(self._folds, self._facts, until, self._progress, trainer), self._ranks, until)
        if self._over:
            raise SearchOverError
        return outcome

    def _room(self, beside: int) -> float:
        """Bytes that one of so many trials may take; on a GPU its own memory counts, which is not planned."""
        if machine().device != "cpu":
            return math.inf
        shared = 0 if isinstance(self._store, np.memmap) or self._nursery is None else self._store.nbytes
        return max(0.0, min(self._most_memory, memory_limit()) - _private(os.getpid()) - shared) / beside

    def _once(self, plan: Plan) -> Outcome:
        begun = time.monotonic()
        try:
            child = self._born(plan)
        except OSError as error:
            return failed(plan, f"ProcessError: no process for the trial could be started: {error}", begun)
        self._children.add(child.process)
        with child.connection, self._gpus.one() as gpu:
            outcome, why = self._followed(plan, child, gpu, begun)
        status = child.how_it_ended()
        self._children.discard(child.process)
        if self._over:
            raise SearchOverError
        if outcome is not None:
            return outcome
        return failed(plan, why or _reason(status), begun)

    def _born(self, plan: Plan) -> Child:
        """A process for the trial, from a new nursery if the old one has ended; OSError if there can be none."""
        with self._births:
            nursery = self._nursery
            if nursery is None or self._over:
                raise SearchOverError
            try:
                return self._child(nursery, plan)
            except OSError as error:  # the nursery itself has ended
                note("nursery ended", error=error)
                # It ends with the thread that has begun it, and this one may end before the search.
                self._nurse = self._nurse or ThreadPoolExecutor(1, "nurse")
                self._nurse.submit(nursery.again).result()
                self._has_household = False
                if not nursery.is_ready():
                    raise
                return self._child(nursery, plan)

    def _child(self, nursery: Nursery, plan: Plan) -> Child:
        if not self._has_household:
            # Not sooner: the machine is measured once this process and that one have loaded everything, and are quiet.
            household = Household(self._folds, self._facts, machine())
            self._has_household = nursery.takes(message(pickle.dumps(self._at)) + message(packed(household, self._store)))
        family = FAMILIES.get(plan.recipe.family)  # a child may know others
        return nursery.child(family.loads if family else ())

    def _followed(self, plan: Plan, child: Child, gpu: int | None, begun: float) -> tuple[Outcome | None, str | None]:
        """The trial's outcome; or None, with the reason if it was ended from here."""
        heard, told_to_stop, connection = time.monotonic(), False, child.connection
        try:
            connection.send_bytes(packed((plan, gpu), self._store))
            while True:
                if connection.poll(_LOOK_EVERY_S):
                    heard = time.monotonic()
                    told: tuple[Any, ...] = unpacked(connection.recv_bytes(), self._store)
                    if told[0] == "outcome":
                        return told[1], None
                    tell(self._progress, *told)
                if self._deadline.interrupted and not told_to_stop:
                    told_to_stop = True
                    connection.send("stop")
                why = self._fault(plan, child.process, begun, heard)
                if why is not None:
                    with suppress(ProcessLookupError):
                        os.kill(child.process, signal.SIGKILL)
                    return None, why
        except (EOFError, ConnectionError):
            return None, None

    def _fault(self, plan: Plan, child: int, begun: float, heard: float) -> str | None:
        """Why the trial must be ended now, if it must."""
        now = time.monotonic()
        if plan.pace.seconds < math.inf and now - begun > _LATE * plan.pace.seconds + _LATE_S:
            return f"TimeoutError: the trial had {plan.pace.seconds:.0f} s, took {now - begun:.0f} s and was ended"
        if self._deadline.overstayed and now - begun > plan.pace.seconds:
            return NOT_DONE
        if now - heard > self._silent_s:
            return f"TimeoutError: nothing was heard of the trial for {now - heard:.0f} s, and it was ended"
        if self._most_memory < math.inf:
            children = {each: _private(each) for each in tuple(self._children)}
            taken = _private(os.getpid()) + sum(children.values())
            # Of several trials the largest has to go.
            if taken > self._most_memory and children.get(child, 0.0) >= max(children.values(), default=0.0):
                return f"MemoryError: the trial would have taken {taken / 1e9:.2f} GB, more than --memory allows"
        return None

    def _end(self) -> None:
        self._over = True
        with self._births:
            if self._nursery is not None:
                self._nursery.end()
                self._nursery = None
        if self._nurse is not None:
            self._nurse.shutdown()
            self._nurse = None


class Turns:
    """Which of so many GPUs a trial is to use: the one that the fewest use."""

    def __init__(self, count: int) -> None:
        self._users = [0] * count
        self._lock = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[int | None]:
        """The GPU's number, taken for the block; None where there is none."""
        if not self._users:
            yield None
            return
        with self._lock:
            gpu = self._users.index(min(self._users))
            self._users[gpu] += 1
        try:
            yield gpu
        finally:
            with self._lock:
                self._users[gpu] -= 1


def _reason(status: int | None) -> str:
    if status is None:
        return "ProcessError: the trial's process ended with the one that had started it"
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        if name == "SIGKILL":
            return "MemoryError: the trial's process was killed (SIGKILL), most likely for want of memory"
        return f"ProcessError: the trial's process crashed ({name})"
    return f"ProcessError: the trial's process ended with code {os.waitstatus_to_exitcode(status)} and no result"


def _private(process: int) -> float:
    """Bytes of memory that are the process's own."""
    try:
        found = psutil.Process(process).memory_info()
    except psutil.NoSuchProcess:
        return 0.0
    return float(found.rss - found.shared)
