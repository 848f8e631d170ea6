"""What runs in a process that is one rank of a training, and how rank 0 speaks with the process that wants the model."""

from __future__ import annotations

import contextlib
import datetime
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from pixelfit.training.checkpoint import Checkpoint
from pixelfit.training.job import Job, Trained
from pixelfit.training.loop import train_as_one_of
from pixelfit.training.machine import Machine, hand_down
from pixelfit.training.pace import Check
from pixelfit.training.passing import StoreAt, unpacked
from pixelfit.training.ranks import Ranks

Message = tuple[Any, ...]
STOP = "stop"


@dataclass(frozen=True)
class Errand:
    """What a rank on this machine is started for: its number, how it finds the others, and the training."""

    own: int
    count: int
    port: int  # of the others' meeting place, on this machine
    silent_s: float  # for which a rank may say nothing to the others
    machine: Machine
    job: Job
    checkpoint: Checkpoint | None


class Teller:
    """Rank 0's monitor: passes what it hears to the process that wants the model, and asks it.

    ``send`` and ``receive`` a message; ``waiting`` is whether there is one to be received. A request to stop may come at any
    time, also before an answer.
    """

    def __init__(self, send: Callable[[Message], None], receive: Callable[[], Any], waiting: Callable[[], bool]) -> None:
        self._send, self._receive, self._waiting = send, receive, waiting
        self._is_stopped = False

    def on_progress(self, fraction: float, detail: str) -> None:
        """Pass it on."""
        self._send(("progress", fraction, detail))

    def on_look(self, check: Check) -> None:
        """Pass it on."""
        self._send(("look", check))

    def on_check(self, fraction: float, score: float) -> bool:
        """Ask."""
        return bool(self._ask(("losing?", fraction, score)))

    def seconds_left(self) -> float:
        """How long the training may take from now on: less than was planned, since ranks take some seconds to start."""
        return float(self._ask(("seconds left?",)))

    def kept(self) -> bytes:
        """The content of the checkpoint; nothing if there is none."""
        content: bytes = self._ask(("kept?",))
        return content

    def stopped(self) -> bool:
        """Whether the other process wants the training to end."""
        while not self._is_stopped and self._waiting():
            self._is_stopped = self._receive() == STOP
        return self._is_stopped

    def _ask(self, question: Message) -> Any:
        self._send(question)
        while (answer := self._receive()) == STOP:
            self._is_stopped = True
        return answer


class _Unheard:
    """The monitor of every other rank."""

    def on_progress(self, fraction: float, detail: str) -> None:
        """Nothing is done."""

    def on_look(self, check: Check) -> None:
        """Nothing is done."""

    def on_check(self, fraction: float, score: float) -> bool:
        """Nobody is asked: rank 0's answer is for all."""
        return False


def take_part(ranks: Ranks, job: Job, teller: Teller, checkpoint: Checkpoint | None) -> Trained:
    """Train as one of the ranks, which have found one another; only rank 0 uses its ``teller``. The model is on the CPU then."""
    (seconds,) = ranks.decided(teller.seconds_left() if ranks.leads else 0.0)
    job = replace(job, pace=replace(job.pace, seconds=seconds))
    if ranks.leads:
        trained = train_as_one_of(ranks, job, monitor=teller, stopped=teller.stopped, checkpoint=checkpoint)
    else:
        trained = train_as_one_of(ranks, job, monitor=_Unheard(), stopped=lambda: False)
    trained.model.module.cpu()
    return trained


def backend(device: str) -> str:
    """The process group's backend; on a GPU what ranks agree about goes another way than gradients, for which nobody waits."""
    return "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"


def failure(error: BaseException) -> Message:
    """What to say of an error: that this rank ``failed``, or, where it says no more than this, ``lost`` the others."""
    lost = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())
    trace = "".join(traceback.format_exception(error))
    return "lost" if lost else "failed", f"{type(error).__name__}: {error}".split("\n")[0], trace


def main() -> None:
    """Be the rank that the process at the other end of the connection wants."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the other process to decide about
    with Connection(int(sys.argv[1])) as connection:
        try:
            at: StoreAt = connection.recv()
            errand: Errand = unpacked(connection.recv_bytes(), at.mapped())
            trained = _run(errand, connection)
            # As bytes: the connection's own way with tensors is to lend their memory, which ends with this process.
            connection.send(("trained", pickle.dumps(trained) if errand.own == 0 else b""))
        except Exception as error:  # noqa: BLE001 - the other end raises it
            with contextlib.suppress(OSError):
                connection.send(failure(error))
    # Not through the interpreter's end, which would wait for a process group whose other ranks may be gone.
    os._exit(0)


def _run(errand: Errand, connection: Connection) -> Trained:
    if errand.machine.device == "cuda":
        torch.cuda.set_device(errand.own)
    hand_down(errand.machine)
    teller = Teller(connection.send, connection.recv, lambda: connection.poll(0))
    with _met(errand) as ranks:
        return take_part(ranks, errand.job, teller, errand.checkpoint)


@contextlib.contextmanager
def _met(errand: Errand) -> Iterator[Ranks]:
    timeout = datetime.timedelta(seconds=errand.silent_s)
    meeting = dist.TCPStore("127.0.0.1", errand.port, is_master=False, timeout=timeout)  # type: ignore[attr-defined]
    dist.init_process_group(
        backend(errand.machine.device), store=meeting, rank=errand.own, world_size=errand.count, timeout=timeout
    )
    yield Ranks(errand.own, errand.count, dist.group.WORLD)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
