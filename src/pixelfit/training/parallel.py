"""One training on several GPUs, or shares of the cores, of this machine."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

from pixelfit.files import written_beside
from pixelfit.threads import spin_briefly
from pixelfit.training.checkpoint import Checkpoint
from pixelfit.training.job import Job, Monitor, Trained
from pixelfit.training.loop import train_as_one_of
from pixelfit.training.machine import machine
from pixelfit.training.one_rank import STOP, Errand, Message
from pixelfit.training.passing import StoreAt, packed
from pixelfit.training.ranks import ALONE
from pixelfit.types import Array

SILENT_S = 300.0  # for which a rank may say nothing to the others: far longer than a step, a look or writing a checkpoint takes
_LOOK_EVERY_S = 0.25
_LAST_WORDS_S = 2.0  # after the first rank has failed: others may know better why


class RankError(RuntimeError):
    """A rank of a training has failed or is gone; the message says which, and why."""


@dataclass(frozen=True)
class Owner:
    """The side of the process that wants the model: answers what rank 0 tells and asks."""

    monitor: Monitor
    end: float  # of the training, on this process's monotonic clock
    checkpoint: Checkpoint | None = None  # where rank 0, on another machine, cannot read and write it itself

    def answer(self, message: Message) -> Any:
        """The answer, or None where none is expected."""
        kind, *told = message
        match kind:
            case "progress":
                self.monitor.on_progress(*told)
            case "look":
                self.monitor.on_look(*told)
            case "losing?":
                return self.monitor.on_check(*told)
            case "seconds left?":
                return max(0.0, self.end - time.monotonic())
            case "kept?":
                return self.checkpoint.file.read_bytes() if self.checkpoint and self.checkpoint.file.is_file() else b""
            case "kept" if self.checkpoint is not None:
                # A full disk must not end a training: see ``Checkpoint.write``.
                with contextlib.suppress(OSError), written_beside(self.checkpoint.file) as beside:
                    beside.write_bytes(told[0])
        return None


def train_on(
    ranks: int,
    job: Job,
    *,
    monitor: Monitor,
    stopped: Callable[[], bool],
    checkpoint: Checkpoint | None = None,
    silent_s: float = SILENT_S,
) -> Trained:
    """Train on so many ranks of this machine, each a process with a GPU, or an even share of the cores, of its own.

    Pictures lie once in memory, whatever the number of ranks. Starting them takes some 3 s, which the job's seconds include.

    Args:
        ranks: with 1 the training takes place in this process.
        job: what is trained; ``Job.most_ranks`` says over how many ranks it can be divided.
        monitor: as for ``train``; called in this process.
        stopped: as for ``train``; called in this process.
        checkpoint: as for ``train``; what was kept by one number of ranks is gone on from by any other.
        silent_s: a rank that the others have waited for so many seconds ends the training.

    Raises:
        RankError: a rank failed, was killed or has hung. All of them are ended.
        ValueError: the training cannot be divided so, there are not so many GPUs, or this system is not Linux.
    """
    job.check_divisible(ranks)
    if ranks == 1:
        return train_as_one_of(ALONE, job, monitor=monitor, stopped=stopped, checkpoint=checkpoint)
    if sys.platform != "linux":
        raise ValueError("A training is divided over several ranks on Linux alone.")
    own = machine()
    if own.device == "cuda" and ranks > torch.cuda.device_count():
        raise ValueError(f"{ranks} ranks need a GPU each, and there are {torch.cuda.device_count()}.")
    owner = Owner(monitor, time.monotonic() + job.pace.seconds)
    store = job.lesson.train.store
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    share = replace(own, threads=max(1, own.threads // ranks))
    errands = [Errand(rank, ranks, meeting.port, silent_s, share, job, checkpoint) for rank in range(ranks)]
    with _mapped(store) as (at, descriptors), contextlib.ExitStack() as stack:
        processes = [stack.enter_context(_Process(rank, descriptors)) for rank in range(ranks)]
        for process, errand in zip(processes, errands, strict=True):
            # One that has died already is noticed below.
            with contextlib.suppress(OSError):
                process.connection.send(at)
                process.connection.send_bytes(packed(errand, store))
        return _followed(processes, owner, stopped)


class _Process:
    """A rank's process and the connection to it; it is gone when the block ends."""

    def __init__(self, rank: int, descriptors: Sequence[int]) -> None:
        self.rank, self.said = rank, ""
        ours, theirs = socket.socketpair()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        # The ranks are on this machine; where its name cannot be resolved, gloo would not find them.
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
        spin_briefly(environment)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "pixelfit.training.one_rank", str(theirs.fileno())],
                pass_fds=[theirs.fileno(), *descriptors],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        self.connection = Connection(ours.detach())

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()

    def heard(self) -> Message:
        """The next message; when the process has ended, that it is ``gone``."""
        try:
            message: Message = self.connection.recv()
        except (EOFError, OSError):
            return ("gone", f"its process {_how(self.process.wait(_LAST_WORDS_S))}")
        return message


def _followed(processes: Sequence[_Process], owner: Owner, stopped: Callable[[], bool]) -> Trained:
    """Answer the first rank until it has trained; RankError as soon as any rank has not."""
    first, told_to_stop = processes[0], False
    waited_for = {process.connection: process for process in processes}
    while True:
        for ready in wait([*waited_for], _LOOK_EVERY_S):
            assert isinstance(ready, Connection)
            process = waited_for[ready]
            message = process.heard()
            if message[0] in ("failed", "lost", "gone"):
                raise _why(processes, process, message)
            if message[0] == "trained":
                if process is first:
                    trained: Trained = pickle.loads(message[1])  # noqa: S301 - from a process that this one started
                    return trained
                del waited_for[ready]
            elif (answer := owner.answer(message)) is not None:
                with contextlib.suppress(OSError):  # if it is gone, that is noticed next
                    first.connection.send(answer)
        if not told_to_stop and stopped():
            told_to_stop = True
            with contextlib.suppress(OSError):
                first.connection.send(STOP)


def _why(processes: Sequence[_Process], process: _Process, message: Message) -> RankError:
    """Which rank is to blame. A rank that lost the others tells of a failure that was another's."""
    said = {process.rank: message}
    end = time.monotonic() + _LAST_WORDS_S
    waited_for = {each.connection: each for each in processes if each is not process}
    while waited_for and time.monotonic() < end:
        for ready in wait([*waited_for], max(0.0, end - time.monotonic())):
            assert isinstance(ready, Connection)
            heard = waited_for[ready].heard()
            if heard[0] in ("failed", "lost", "gone"):
                said[waited_for.pop(ready).rank] = heard
    return blamed(said, len(processes))


def blamed(said: Mapping[int, Message], count: int) -> RankError:
    """The error that names the rank at fault, by what ranks said: that they ``failed``, are ``gone``, or ``lost`` others."""
    for kind in ("failed", "gone"):
        for rank, (how, why, *trace) in sorted(said.items()):
            if how == kind:
                error = RankError(f"rank {rank} of {count}: {why}")
                for line in trace:
                    error.add_note(line)
                return error
    silent = [rank for rank in range(count) if rank not in said]
    if silent:
        return RankError(f"rank {silent[0]} of {count}: nothing was heard of it")
    rank, message = min(said.items())
    return RankError(f"rank {rank} of {count}: {message[1]}")


def _how(code: int) -> str:
    return f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code} and no result"


@contextlib.contextmanager
def _mapped(store: Array) -> Iterator[tuple[StoreAt, Sequence[int]]]:
    """Where ranks find the store, with the descriptors that they need for it: its own file, or memory that they share."""
    if (at := StoreAt.of(store)) is not None:
        yield at, ()
        return
    memory = os.memfd_create("pixelfit-pictures")
    try:
        yield StoreAt.copied(store, memory), [memory]
    finally:
        os.close(memory)
