"""Trials as tasks of a Ray cluster: the pictures go once to each node, and what a lost worker had done is gone on from."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Iterator, Sequence
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
from pixelfit.runlog import note, pass_on
from pixelfit.search import ray_tasks
from pixelfit.search.births import Household
from pixelfit.search.engine import LocalEngine, Outcome, Plan, divided, failed, is_divided
from pixelfit.search.memory import Means, as_memory_allows, need_of_plan
from pixelfit.search.ray_tasks import Board, Errand, Shared, Versions
from pixelfit.training.machine import Machine, machine
from pixelfit.training.on_ray import Workers, train_on_ray
from pixelfit.training.passing import StoreAt, packed
from pixelfit.types import Array, Facts, Fold

_MOST_THREADS = 4  # for a trial: nets for small pictures hardly gain from more
_LISTEN_EVERY_S = 0.25
_LOOK_EVERY_S = 1.0
_LAST_WORDS_S = 10.0  # for the threads of trials, when a search is broken off
_MOST_RETRIES = 2
_LATE, _LATE_S = 1.5, 20.0  # a trial that takes so many times its seconds, and so many more, is one of a straggler
_OF_OBJECT_STORE = 0.5  # larger pictures are read from their file, if it is on a shared file system
_PROBED_WITHIN_S = 300.0


@dataclass(frozen=True)
class Room:
    """What a cluster has: trials side by side, each with so many threads and so much of a GPU; and its largest node's cores."""

    slots: int
    threads: int
    gpus: float
    most_threads: int
    memory: float  # bytes for a trial

    @staticmethod
    def of(nodes: Sequence[dict[str, Any]], workers: int | None) -> Room:
        """That of these nodes, as ``_nodes`` tells of them; ``workers`` is how many trials the user wants side by side.

        Where there are GPUs, a trial has one, or a share if more trials are wanted than there are.
        """
        having = [node["Resources"] for node in nodes]
        gpus = sum(int(has.get("GPU", 0)) for has in having)
        if gpus:
            having = [has for has in having if has.get("GPU", 0)]
        cores = [int(has.get("CPU", 0)) for has in having if has.get("CPU", 0) >= 1]
        if not cores:
            raise OptionError("The Ray cluster has no node with a processor for trials.")
        if gpus:
            slots = workers or gpus
            threads = max(1, min(int(has["CPU"] * gpus / (has["GPU"] * slots)) for has in having))
        elif workers:
            slots, threads = workers, max(1, min(sum(cores) // workers, max(cores)))
        else:
            threads = min(_MOST_THREADS, *cores)
            slots = sum(each // threads for each in cores)
        beside = [max(1, int(has.get("CPU", 1)) // threads) for has in having]
        memory = min(has.get("memory", math.inf) / each for has, each in zip(having, beside, strict=True))
        return Room(slots, threads, min(1.0, gpus / slots), max(cores), memory)


class TrialsOnRay:
    """Runs trials on the Ray cluster at ``address``; None starts one on this machine, for this search alone.

    ``workers`` is how many trials run side by side, by default as many as the cluster has room for; a long training that has
    nothing beside it is divided over ``ranks`` of them. ``silent_s`` is how long
    a trial may be silent before it is tried elsewhere. With ``carry`` a worker never looks for the run folder, which it
    otherwise writes checkpoints into if it is on a file system that both share.

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
        self._heard: dict[int, float] = {}
        self._over = threading.Event()
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
        self._board: Any = ray.remote(Board).options(num_cpus=0, max_concurrency=1).remote()
        self._trial = ray.remote(max_calls=0)(ray_tasks.trial)  # a worker that has loaded everything is used again
        self._listener = threading.Thread(target=self._listen, name="ray board", daemon=True)
        self._listener.start()

    def run(self, plan: Plan) -> Outcome:
        """Run one trial somewhere; on another worker, from its last checkpoint, if that one is lost. Failures are recorded."""
        threads = self._room.most_threads if plan.alone else self.threads
        plan = plan if plan.threads else replace(plan, threads=threads)
        means = Means(self._train, self._facts, self._deadline, self._progress)
        room = math.inf if self._room.gpus else min(self._room.memory, self._most_memory)
        if is_divided(plan, self._ranks, self._folds, self._facts):
            return as_memory_allows(plan, self._over_several, means, room=room)
        return as_memory_allows(plan, self._tried, means, room=room)

    def _over_several(self, plan: Plan) -> Outcome:
        """One trial whose training is divided over workers of the cluster; what follows it is done here."""
        workers = Workers(self._ranks, self.threads, bool(self._room.gpus), None if self._room.gpus else machine())
        trainer = partial(train_on_ray, workers)
        engine = LocalEngine(self._folds, self._facts, self._deadline, self._progress, trainer)
        return divided(engine.run(replace(plan, threads=0)), self._ranks)

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
        with self._counted():
            return self._followed(plan)

    def _followed(self, plan: Plan) -> Outcome:
        begun = late_after = self._heard[plan.number] = time.monotonic()
        troubles: list[str] = []
        attempts = [self._attempt(plan, 0)]
        why: str | None
        while True:
            ended, waiting = ray.wait(attempts, timeout=_LOOK_EVERY_S)
            if self._over.is_set():
                return failed(plan, "InterruptedError: the search has ended", begun)
            if ended:
                try:
                    outcome: Outcome = ray.get(ended[0])
                except RayTaskError as error:  # the task's own error, which would come again
                    return failed(plan, f"{type(error.cause).__name__}: {error.cause}".split("\n")[0], begun)
                except RayError as error:
                    why, attempts = f"{type(error).__name__}: {_first_line(error)}", waiting
                else:
                    self._cancel(waiting)
                    trial = replace(outcome.trial, tried_again=tuple(troubles))
                    return replace(outcome, trial=trial)
            else:
                why = self._straggles(plan, late_after)
            if why is None:
                continue
            note("trial lost", trial=plan.number, attempt=len(troubles), why=why)
            troubles.append(why)
            if len(troubles) > _MOST_RETRIES or self._deadline.left() <= 0:
                self._cancel(attempts)
                return failed(plan, troubles[-1], begun)
            self._progress.say(f"Trial {plan.number} is tried again on another worker: {why}.")
            late_after = self._heard[plan.number] = time.monotonic()
            attempts = [*attempts, self._attempt(self._going_on(plan), len(troubles))]

    def _straggles(self, plan: Plan, since: float) -> str | None:
        """Why the latest attempt, begun at that time, should be made again elsewhere, if it should."""
        now = time.monotonic()
        if now - since > _LATE * plan.pace.seconds + _LATE_S:
            return f"TimeoutError: the trial had {plan.pace.seconds:.0f} s and was not done after {now - since:.0f} s"
        if now - self._heard[plan.number] > self._silent_s:
            return f"TimeoutError: nothing was heard of the trial for {now - self._heard[plan.number]:.0f} s"
        return None

    def _going_on(self, plan: Plan) -> Plan:
        """The plan with the time that is left for it."""
        kept = plan.checkpoint(0, folds=1)
        spent_s = kept.spent_s() if kept else 0.0
        return replace(plan, pace=replace(plan.pace, seconds=min(plan.pace.seconds, spent_s + self._deadline.left())))

    def _attempt(self, plan: Plan, attempt: int) -> Any:
        """The task, which waits in the cluster for a place with the cores, memory and GPU that it needs."""
        kept: dict[str, bytes] = {}
        token = None
        if plan.kept_in is not None:
            kept = {file.name: file.read_bytes() for file in plan.kept_in.glob("checkpoint-*.safetensors")}
            with suppress(OSError):
                token = None if self._carry else hashlib.sha256((plan.kept_in / "plan.json").read_bytes()).hexdigest()
        need = need_of_plan(plan, self._train, self._facts).of(plan.recipe.batch_size)
        placed = self._trial.options(
            name=f"trial {plan.number}",
            num_cpus=plan.threads,
            num_gpus=self._room.gpus,
            memory=None if self._room.gpus else int(min(need, self._room.memory)) or None,
            max_retries=0,  # tried again from here, where checkpoints and the time that is left are known
        )
        return placed.remote(Errand(plan, attempt, token, kept), self._shared(), self._board)

    def _cancel(self, attempts: Sequence[Any]) -> None:
        for each in attempts:
            with suppress(RayError, ValueError):
                ray.cancel(each, force=True)

    def _probed(self, by_name: StoreAt | None) -> Machine | None:
        """Load everything on every node, and see that it is fit; what one with a GPU can do, as measured there.

        Where there is none, trials run as on this machine: in the same precision everywhere, and as in a run without Ray.
        """
        probe = ray.remote(ray_tasks.probe)
        nodes = [node for node in _nodes() if node["Resources"].get("CPU", 0) >= 1]
        tasks = {
            probe.options(
                num_cpus=1,
                num_gpus=min(self._room.gpus, node["Resources"].get("GPU", 0)),
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            ).remote(by_name): node
            for node in nodes
        }
        try:
            answers = dict(zip(tasks, ray.get(list(tasks), timeout=_PROBED_WITHIN_S), strict=True))
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
        stopped = False
        while not self._over.wait(_LISTEN_EVERY_S):
            try:
                for number, kind, *rest in ray.get(self._board.heard.remote()):
                    self._heard[number] = time.monotonic()
                    self._tell(number, kind, rest)
                if self._deadline.interrupted and not stopped:
                    stopped = True
                    self._board.stop.remote()
            except (RayError, RuntimeError) as error:
                if not self._over.is_set():
                    note("board lost", error=error)
                return

    def _tell(self, number: int, kind: str, rest: Sequence[Any]) -> None:
        if kind == "advance":
            self._progress.advance_trial(number, *rest)
        elif kind == "check":
            epoch, score, fold, folds = rest
            self._progress.check_trial(number, epoch, score, fold=fold, folds=folds)
        elif kind == "kept":
            folder, name, content = rest
            with suppress(OSError), written_beside(Path(folder) / name) as beside:
                beside.write_bytes(content)
        else:
            pass_on(*rest)


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
