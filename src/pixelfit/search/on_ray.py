"""Trials as tasks of a Ray cluster: the pictures go once to each node, and what a lost worker had done is gone on from."""

from __future__ import annotations

import hashlib
import itertools
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pixelfit.cluster import connected
from pixelfit.deadline import Deadline
from pixelfit.errors import OptionError
from pixelfit.files import written_beside
from pixelfit.progress import Progress
from pixelfit.runlog import note
from pixelfit.search import ray_tasks
from pixelfit.search.births import Household, tell
from pixelfit.search.board import Board
from pixelfit.search.engine import (
    MOST_RETRIES,
    NOT_DONE,
    LocalEngine,
    Outcome,
    Plan,
    SearchOverError,
    Until,
    divided,
    failed,
    interrupted,
    is_divided,
)
from pixelfit.search.memory import Means, as_memory_allows, need_of_plan
from pixelfit.search.ray_tasks import Errand, Shared, Versions
from pixelfit.training.machine import Machine, machine
from pixelfit.training.on_ray import Workers, train_on_ray
from pixelfit.training.passing import StoreAt, packed
from pixelfit.types import Array, Facts, Fold

_MOST_THREADS = 4  # for a trial: nets for small pictures hardly gain from more
_LISTEN_EVERY_S = 0.25
_LOOK_EVERY_S = 1.0
_LAST_WORDS_S = 10.0  # for the threads of trials, when a search is broken off
_LATE, _LATE_S = 1.5, 20.0  # a trial that takes so many times its seconds, and so many more, is one of a straggler
_OF_OBJECT_STORE = 0.5  # larger pictures are read from their file, if it is on a shared file system
_PROBED_WITHIN_S, _PROBED_AT_LEAST_S = 300.0, 60.0


@dataclass(frozen=True)
class Room:
    """What a cluster has: trials side by side, each with so many threads and so much of a GPU."""

    slots: int
    threads: int
    gpus: float
    memory: float  # bytes for a trial

    @staticmethod
    def of(nodes: Sequence[dict[str, Any]], workers: int | None) -> Room:
        """That of these nodes, as ``_nodes`` tells of them; ``workers`` is how many trials the user wants side by side.

        Where there are GPUs, a trial has one, or a share if more trials are wanted than there are.
        """
        having = [node["Resources"] for node in nodes if node["Resources"].get("CPU", 0) >= 1]
        if not having:
            raise OptionError("The Ray cluster has no node with a processor for trials.")
        gpus = sum(int(has.get("GPU", 0)) for has in having)
        having = [has for has in having if has.get("GPU", 0)] if gpus else having
        cores = [int(has["CPU"]) for has in having]
        if gpus:
            on_one = math.ceil(workers / gpus) if workers else 1
            slots = min(workers or gpus, gpus * on_one)
            threads = max(1, min(int(has["CPU"] / (has["GPU"] * on_one)) for has in having))
        else:
            on_one = 0
            threads = max(1, min(sum(cores) // workers, max(cores))) if workers else min(_MOST_THREADS, *cores)
            while workers and threads > 1 and sum(each // threads for each in cores) < workers:
                threads -= 1
            slots = workers or sum(each // threads for each in cores)
        beside = [max(1, each // threads) for each in cores]
        memory = min(has.get("memory", math.inf) / each for has, each in zip(having, beside, strict=True))
        return Room(slots, threads, 1 / on_one if on_one else 0.0, memory)


def most_threads(nodes: Sequence[dict[str, Any]], *, with_gpu: bool) -> int:
    """The cores of the largest node, for a trial that has nothing beside it."""
    having = [node["Resources"] for node in nodes if node["Resources"].get("GPU", 0) or not with_gpu]
    return max((int(has.get("CPU", 0)) for has in having), default=1) or 1


class TrialsOnRay:
    """Runs trials on the Ray cluster at ``address``; None starts one on this machine, for this search alone.

    ``workers`` is how many trials run side by side, by default as many as the cluster has room for; a long training that has
    nothing beside it is divided over ``ranks`` of them. ``silent_s`` is how long a trial may be silent before it is tried
    elsewhere. With ``carry`` a worker never looks for the run folder, which it otherwise writes checkpoints into if it is on
    a file system that both share.

    Raises:
        OptionError: ray is not installed, or no cluster answers.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int | None = None,
        ranks: int = 1,
        most_memory: float = math.inf,
        silent_s: float = 1800.0,
        carry: bool = False,
    ) -> None:
        self._ranks, self._most_memory, self._silent_s, self._carry = ranks, most_memory, silent_s, carry
        self._during = ExitStack()
        self._during.enter_context(connected(address))
        self._room = Room.of(_nodes(), workers)
        self.slots, self.threads = self._room.slots, self._room.threads
        # The latest attempt of each trial under way, and when it was heard of; of others nothing is kept any more.
        self._latest: dict[int, int] = {}
        self._heard: dict[int, float] = {}
        self._keeping = threading.Lock()
        self._attempts = itertools.count()
        self._over = threading.Event()
        self._began: dict[int, float] = {}
        self._stopped_at: float | None = None
        self._put: Shared | None = None
        self._putting = threading.Lock()
        self._listener: threading.Thread | None = None
        self._running, self._idle = 0, threading.Condition()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # A thread that asked Ray for something after its end would end the whole process.
        self._over.set()
        if self._listener is not None:
            self._listener.join()
        with self._idle:
            self._idle.wait_for(lambda: self._running == 0, timeout=_LAST_WORDS_S)
        self._during.close()

    def ready(self, folds: Sequence[Fold], facts: Facts, deadline: Deadline, progress: Progress) -> None:
        """Hand over what all trials share, and see that every node can run them.

        Raises:
            OptionError: a node has other versions than this machine, or does not see the file of the pictures.
        """
        self._facts, self._deadline, self._progress = facts, deadline, progress
        self._train = folds[0].train
        store = folds[0].train.store
        by_name = _by_name(store)
        self._gpu = self._probed(by_name)
        self._folds, self._store = folds, by_name or ray.put(np.asarray(store))
        # With the search itself, whose end it may share; elsewhere it would be lost with a node.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self._board: Any = ray.remote(Board).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()
        self._trial = ray.remote(max_calls=0)(ray_tasks.trial)  # a worker that has loaded everything is used again
        self._listener = threading.Thread(target=self._listen, name="ray board", daemon=True)
        self._listener.start()

    def run(self, plan: Plan) -> Outcome:
        """Run one trial somewhere; on another worker, from its last checkpoint, if that one is lost. Failures are recorded."""
        threads = most_threads(_nodes(), with_gpu=bool(self._room.gpus)) if plan.alone else self.threads
        plan = plan if plan.threads else replace(plan, threads=threads)
        means = Means(self._train, self._facts, self._deadline, self._progress)
        room = math.inf if self._room.gpus else min(self._room.memory, self._most_memory)
        if is_divided(plan, self._ranks, self._folds, self._facts):
            return as_memory_allows(plan, self._over_several, means, room=room)
        return as_memory_allows(plan, self._tried, means, room=room)

    def _over_several(self, plan: Plan) -> Outcome:
        """One trial whose training is divided over workers of the cluster; what follows it is done here."""
        workers = Workers(self._ranks, self.threads, bool(self._room.gpus), None if self._room.gpus else machine())
        until = Until(self._deadline, self._over.is_set)
        engine = LocalEngine(self._folds, self._facts, until, self._progress, partial(train_on_ray, workers))
        with self._counted():
            outcome = divided(replace(plan, threads=0), engine, self._ranks, until)
            if self._over.is_set():
                raise SearchOverError
            return outcome

    def _shared(self) -> Shared:
        """What all trials share, put into the cluster with the first: a run that goes on knows its machine only then."""
        with self._putting:
            if self._put is None:
                here = machine()
                if self._gpu is None and here.device != "cpu":  # a GPU here, and none where trials run
                    here = replace(here, device="cpu", low_precision=False)
                household = Household(self._folds, self._facts, self._gpu or here)
                self._put = Shared(ray.put(packed(household, self._train.store)), self._store)
            return self._put

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Within this block a thread waits for a trial."""
        with self._idle:
            self._running += 1
        try:
            yield
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def _tried(self, plan: Plan) -> Outcome:
        """One trial, tried up to three times; the first attempt that comes to an end counts, and no other."""
        begun = time.monotonic()
        with self._counted():
            try:
                return self._followed(plan)
            except RayError as error:  # a task that could not even be begun
                return failed(plan, f"{type(error).__name__}: {_first_line(error)}", begun)

    def _followed(self, plan: Plan) -> Outcome:
        begun, troubles, attempts = time.monotonic(), list[str](), self._attempt(plan)
        try:
            while True:
                ended, _ = ray.wait(list(attempts), timeout=_LOOK_EVERY_S)
                if self._over.is_set():
                    raise SearchOverError
                found: Outcome | str | None
                if ended:
                    found = self._result(plan, ended[0], attempts.pop(ended[0]), begun)
                else:
                    found = self._given_up(plan, begun) or self._straggles(plan)
                if isinstance(found, Outcome):
                    return replace(found, trial=replace(found.trial, tried_again=tuple(troubles)))
                if found is None:
                    continue
                note("trial lost", trial=plan.number, attempt=len(troubles), why=found)
                troubles.append(found)
                if ended and attempts:
                    continue  # another attempt is under way already
                if len(troubles) > MOST_RETRIES or self._deadline.left() <= 0:
                    return failed(plan, found, begun)
                self._progress.say(f"Trial {plan.number} is tried again on another worker: {found}.")
                plan = plan.going_on(self._deadline.left())
                attempts |= self._attempt(plan)
        finally:
            with self._keeping:
                self._latest.pop(plan.number, None)
            self._cancel(attempts)

    def _result(self, plan: Plan, task: Any, attempt: int, begun: float) -> Outcome | str:
        """What an attempt that has ended gives; or why it is lost."""
        try:
            outcome: Outcome
            outcome, kept = ray.get(task)
        except RayTaskError as error:
            why = f"{type(error.cause).__name__}: {error.cause}".split("\n")[0]
            # The node's fault, and perhaps no other's; anything else would come again.
            return why if isinstance(error.cause, (OSError, ImportError)) else failed(plan, why, begun)
        except RayError as error:
            return f"{type(error).__name__}: {_first_line(error)}"
        self._keep(plan.number, attempt, plan.kept_in, kept)
        return outcome

    def _given_up(self, plan: Plan, begun: float) -> Outcome | None:
        """What is recorded of a trial that is waited for no longer: the budget is used up, or the user wants to stop."""
        now = time.monotonic()
        if self._deadline.overstayed and now - begun > plan.pace.seconds:
            return failed(plan, NOT_DONE, begun)
        if self._stopped_at is not None and now - max(self._stopped_at, self._heard.get(plan.number, 0.0)) > _LAST_WORDS_S:
            return interrupted(plan, begun)
        return None

    def _straggles(self, plan: Plan) -> str | None:
        """Why the latest attempt should be made again elsewhere, if it should; one that waits for a place is not late."""
        now = time.monotonic()
        began = self._began.get(plan.number, math.inf)
        if now - began > _LATE * plan.pace.seconds + _LATE_S:
            return f"TimeoutError: the trial had {plan.pace.seconds:.0f} s and was not done after {now - began:.0f} s"
        silent_s = now - self._heard[plan.number]
        return f"TimeoutError: nothing was heard of the trial for {silent_s:.0f} s" if silent_s > self._silent_s else None

    def _attempt(self, plan: Plan) -> dict[Any, int]:
        """The task, which waits in the cluster for a place with the cores, memory and GPU that it needs, and its number."""
        attempt = next(self._attempts)
        with self._keeping:
            self._latest[plan.number] = attempt
            self._began.pop(plan.number, None)
            self._heard[plan.number] = time.monotonic()
        kept: dict[str, bytes] = {}
        token = None
        if plan.kept_in is not None:
            with suppress(OSError):
                kept = {file.name: file.read_bytes() for file in plan.kept_in.glob("checkpoint-*.safetensors")}
                token = None if self._carry else hashlib.sha256((plan.kept_in / "plan.json").read_bytes()).hexdigest()
        need = need_of_plan(plan, self._train, self._facts).of(plan.recipe.batch_size)
        placed = self._trial.options(
            name=f"trial {plan.number}",
            num_cpus=plan.threads,
            num_gpus=self._room.gpus,
            memory=None if self._room.gpus else int(min(need, self._room.memory)) or None,
            max_retries=0,  # tried again from here, where checkpoints and the time that is left are known
        )
        return {placed.remote(Errand(plan, attempt, token, kept), self._shared(), self._board): attempt}

    def _cancel(self, attempts: Iterable[Any]) -> None:
        for each in attempts:
            with suppress(RayError, ValueError):
                ray.cancel(each, force=True)

    def _probed(self, by_name: StoreAt | None) -> Machine | None:
        """Load everything on every node, and see that it is fit; what one with a GPU can do, as measured there.

        Where there is none, trials run as on this machine: in the same precision everywhere, and as in a run without Ray.
        """
        probe = ray.remote(ray_tasks.probe)
        nodes = [node for node in _nodes() if node["Resources"].get("CPU", 0) >= 1]
        tasks: dict[Any, dict[str, Any]] = {}
        for node in nodes:
            place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            gpus = min(self._room.gpus, node["Resources"].get("GPU", 0))
            threads = min(self.threads, int(node["Resources"]["CPU"]))
            placed = probe.options(num_cpus=threads, num_gpus=gpus, scheduling_strategy=place)
            # As many as there will be trials, so that none of these waits for libraries.
            for _ in range(int(node["Resources"]["CPU"]) // threads):
                tasks[placed.remote(by_name)] = node
        try:
            within_s = max(_PROBED_AT_LEAST_S, min(_PROBED_WITHIN_S, self._deadline.left()))
            answers = dict(zip(tasks, ray.get(list(tasks), timeout=within_s), strict=True))
        except RayError as error:
            raise OptionError(f"A node of the Ray cluster cannot run pixelfit: {_first_line(error)}.") from error
        here = Versions.here()
        found: Machine | None = None
        for task, node in tasks.items():
            name, (versions, sees_file, measured) = node["NodeManagerHostname"], answers[task]
            if versions != here:
                raise OptionError(f"The node {name} has {versions}, and this machine {here}: install the same versions.")
            if not sees_file:
                assert by_name is not None
                raise OptionError(
                    f"The node {name} does not see {by_name.name}: put the cache of pictures on a shared file system "
                    "(XDG_CACHE_HOME), or give Ray a larger object store."
                )
            if measured is not None:
                found = measured
        gpu = found and found.to_json()
        note("cluster", nodes=len(nodes), slots=self.slots, threads=self.threads, gpus=self._room.gpus, gpu=gpu)
        return found

    def _listen(self) -> None:
        """Pass on what trials tell, and tell them when the user wants to stop."""
        while not self._over.wait(_LISTEN_EVERY_S):
            try:
                for number, attempt, kind, *rest in ray.get(self._board.heard.remote()):
                    self._tell(number, attempt, kind, rest)
                if self._deadline.interrupted:
                    self._stopped_at = self._stopped_at or time.monotonic()
                    self._board.stop.remote()  # again and again, since a board that had to be begun anew knows nothing
            except RayError as error:
                note("board lost", error=error)
            except Exception as error:  # noqa: BLE001 - whoever watches must not make the search deaf
                note("not passed on", error=error)

    def _tell(self, number: int, attempt: int, kind: str, rest: Sequence[Any]) -> None:
        self._heard[number] = time.monotonic()
        if kind == "begun":
            if self._latest.get(number) == attempt:
                self._began[number] = time.monotonic()
        elif kind == "kept":
            folder, name, content = rest
            self._keep(number, attempt, Path(folder), {name: content})
        else:
            tell(self._progress, kind, number, *rest)

    def _keep(self, number: int, attempt: int, folder: Path | None, files: Mapping[str, bytes]) -> None:
        """Write checkpoints that a worker has sent, unless its attempt counts no longer."""
        with self._keeping:
            if folder is None or self._latest.get(number) != attempt:
                return
            for name, content in files.items():
                with suppress(OSError), written_beside(folder / name) as beside:
                    beside.write_bytes(content)


def _by_name(store: Array) -> StoreAt | None:
    """Where workers find pictures that are too many for their nodes' object stores; None if these can hold them."""
    room = min((node["Resources"].get("object_store_memory", 0.0) for node in _nodes()), default=0.0)
    if store.nbytes <= _OF_OBJECT_STORE * room:
        return None
    return StoreAt.of(store)  # or Ray keeps on disk what its store cannot hold


def _nodes() -> list[dict[str, Any]]:
    """The cluster's nodes, with what each of them has."""
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
