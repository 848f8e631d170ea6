"""One training on the workers of a Ray cluster, on one node or several, through Ray Train. The only importer of Ray here."""

from __future__ import annotations

import dataclasses
import pickle
import queue
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from pixelfit.training.checkpoint import Checkpoint
from pixelfit.training.job import Job, Lesson, Monitor, Trained
from pixelfit.training.machine import Machine, hand_down, machine
from pixelfit.training.one_rank import STOP, Message, Teller, backend, failure, take_part
from pixelfit.training.parallel import SILENT_S, Owner, RankError, blamed
from pixelfit.training.ranks import Ranks
from pixelfit.types import Examples

_LOOK_EVERY_S = 0.25
_ASK_EVERY_S = 0.5  # whether to stop: a question to another process, of some milliseconds


@dataclass(frozen=True)
class Workers:
    """``count`` ranks, each with so many CPUs, and a GPU of its own where ``gpu`` is set.

    With ``machine`` all of them train in its precision; otherwise rank 0 measures whether bfloat16 pays, for all.
    """

    count: int
    cpus: int = 1
    gpu: bool = False
    machine: Machine | None = None


@dataclass(frozen=True)
class _Errand:
    """What every worker gets. ``job`` is a reference into Ray's object store; ``up`` and ``down`` are queues of Ray's."""

    job: Any
    workers: Workers
    up: Any
    down: Any
    checkpoint: Checkpoint | None


def train_on_ray(
    workers: Workers,
    job: Job,
    *,
    monitor: Monitor,
    stopped: Callable[[], bool],
    checkpoint: Checkpoint | None = None,
    silent_s: float = SILENT_S,
) -> Trained:
    """Train on the workers of the Ray cluster that this process is connected to; it may be a driver, a task or an actor.

    The job goes into Ray's object store once, and from there once to each node, where the workers map it. Pixelfit must be
    installed on the nodes; they need not share any files. A task that calls this needs no CPU of its own meanwhile.

    Args:
        workers: how many, and what each has. They must be free at once; Ray Train waits a minute for them.
        job: what is trained; ``Job.most_ranks`` says over how many ranks it can be divided.
        monitor: as for ``train``; called in this process.
        stopped: as for ``train``; called in this process.
        checkpoint: as for ``train``; a file of this process's machine, to which rank 0 sends what is to be kept.
        silent_s: a rank that the others have waited for so many seconds ends the training.

    Raises:
        RankError: a rank failed or is gone, or the workers could not be had.
        ValueError: the training cannot be divided so.
    """
    import ray
    from ray.util.queue import Queue

    job.check_divisible(workers.count)
    owner = Owner(monitor, time.monotonic() + job.pace.seconds, checkpoint)
    up, down = (Queue(actor_options={"num_cpus": 0}) for _ in range(2))
    errand = _Errand(ray.put(replace(job, lesson=_plain(job.lesson))), workers, up, down, checkpoint)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as thread:
        try:
            return _followed(thread.submit(_fit, errand, silent_s, folder), errand, owner, stopped)
        finally:
            # Whoever still waits for an answer gets an error instead, so that the thread comes to its end.
            up.shutdown(force=True)
            down.shutdown(force=True)


def _plain(lesson: Lesson) -> Lesson:
    """The lesson with its store as a plain array: Ray maps those, where it copies arrays of a mapped file for each worker."""
    store = np.asarray(lesson.train.store)

    def on_store(examples: Examples) -> Examples:
        return dataclasses.replace(examples, store=store) if examples.store is lesson.train.store else examples

    validation = None if lesson.validation is None else on_store(lesson.validation)
    return dataclasses.replace(lesson, train=on_store(lesson.train), validation=validation)


def _fit(errand: _Errand, silent_s: float, folder: str) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    workers = errand.workers
    # Without the second limit Ray Train would wait for workers for ever. (The types are those of its older version.)
    once = FailureConfig(max_failures=0, controller_failure_limit=0)  # type: ignore[call-arg]
    TorchTrainer(
        _one_rank,
        train_loop_config={"errand": errand},
        torch_config=TorchConfig(backend=backend("cuda" if workers.gpu else "cpu"), timeout_s=round(silent_s)),
        scaling_config=ScalingConfig(
            num_workers=workers.count, use_gpu=workers.gpu, resources_per_worker={"CPU": workers.cpus, "GPU": int(workers.gpu)}
        ),
        run_config=RunConfig(storage_path=folder, failure_config=once),
    ).fit()


def _followed(fit: Future[None], errand: _Errand, owner: Owner, stopped: Callable[[], bool]) -> Trained:
    """Answer the first rank until Ray Train has ended; RankError if it has failed."""
    trained: Trained | None = None
    told_to_stop, said = False, dict[int, Message]()
    while True:
        try:
            kind, *told = message = errand.up.get(timeout=_LOOK_EVERY_S)
        except queue.Empty:
            if fit.done():
                break
        else:
            if kind == "trained":
                trained = pickle.loads(told[0])  # noqa: S301 - from a worker that this process started
            elif kind == "failure":
                said[told[0]] = told[1]
            elif (answer := owner.answer(message)) is not None:
                errand.down.put(answer)
        if not told_to_stop and stopped():
            told_to_stop = True
            errand.down.put(STOP)
    error = fit.exception()
    if error is not None or trained is None:
        for rank, failed in getattr(error, "worker_failures", {}).items():
            said.setdefault(rank, ("gone", f"{type(failed).__name__}: {failed}".split("\n")[0]))
        if not said:
            raise RankError(f"The {errand.workers.count} workers could not be had: {error}") from error
        raise blamed(said, errand.workers.count) from error
    return trained


def _one_rank(config: dict[str, Any]) -> None:
    """What runs in each of Ray Train's workers, whose process group is set up."""
    import ray.train

    errand: _Errand = config["errand"]
    context = ray.train.get_context()
    ranks = Ranks(context.get_world_rank(), context.get_world_size(), dist.group.WORLD)
    try:
        with tempfile.TemporaryDirectory() as folder:
            trained = _run(ranks, errand, Path(folder))
    except Exception as error:
        errand.up.put(("failure", ranks.own, failure(error)))
        raise
    if ranks.leads:
        errand.up.put(("trained", pickle.dumps(trained)))


def _run(ranks: Ranks, errand: _Errand, folder: Path) -> Trained:
    import ray

    workers = errand.workers
    measured = workers.machine or ranks.from_first(machine() if ranks.leads else None)
    assert measured is not None
    if (measured.device == "cuda") != workers.gpu:
        raise ValueError(f"the workers' GPUs are {'' if workers.gpu else 'not '}wanted, and the device is {measured.device}")
    hand_down(replace(measured, threads=workers.cpus))
    asked = time.monotonic()

    def waiting() -> bool:
        nonlocal asked
        if time.monotonic() - asked < _ASK_EVERY_S:
            return False
        asked = time.monotonic()
        return not errand.down.empty()

    teller, checkpoint = Teller(errand.up.put, errand.down.get, waiting), None
    if ranks.leads and errand.checkpoint is not None:
        checkpoint = errand.checkpoint.elsewhere(folder / "kept", lambda content: errand.up.put(("kept", content)))
        checkpoint.file.write_bytes(teller.kept())  # an empty file counts as none
    return take_part(ranks, ray.get(errand.job), teller, checkpoint)
