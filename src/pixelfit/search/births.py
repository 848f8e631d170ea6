"""What runs in the nursery: a process that has everything loaded, trains nothing itself, and forks a child for each trial.

A fork of the program that the user started could hang, since OpenMP's threads do not survive one; this process never runs
any. A child takes 10 ms to start, and gives all its memory back when it ends.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import pickle
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, BinaryIO

import torch

from pixelfit.deadline import Deadline
from pixelfit.progress import Progress, Silent
from pixelfit.runlog import FIELDS, LOGGER, pass_on
from pixelfit.search.engine import LocalEngine, Plan, Until
from pixelfit.search.nursery import LONGEST_ORDER, READY, STATUS
from pixelfit.training.machine import Machine, hand_down
from pixelfit.training.passing import StoreAt, packed, unpacked
from pixelfit.types import Array, Facts, Fold

# Loaded with the first optimiser, which would take each child a second.
_LATER_OTHERWISE = ("torch._dynamo",)
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Household:
    """What all trials of a search share, but for the pictures."""

    folds: Sequence[Fold]
    facts: Facts
    machine: Machine


def main() -> None:
    """Wait for trials until the other end is gone."""
    die_with_parent(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    for module in (*_LATER_OTHERWISE, *sys.argv[3:]):
        importlib.import_module(module)
    control.sendall(READY)
    with control.makefile("rb") as incoming:
        at: StoreAt = pickle.loads(_message(incoming))  # noqa: S301 - from the process that started this one
        store = at.mapped()
        household: Household = unpacked(_message(incoming), store)
    control.sendall(READY)
    nursery = os.getpid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no one waits for those who wait for the trials
    while True:
        order, handed, _, _ = socket.recv_fds(control, LONGEST_ORDER, 2)
        if len(handed) < 2:
            return
        for module in order.decode().split():  # here, since each child would load it anew
            importlib.import_module(module)
        if os.fork() == 0:
            die_with_parent(nursery)
            control.close()
            _wait_for_a_trial(handed[0], handed[1], household, store)
        for descriptor in handed:
            os.close(descriptor)


def message(content: bytes) -> bytes:
    """The content with its length before it."""
    return struct.pack("Q", len(content)) + content


def _message(incoming: BinaryIO) -> bytes:
    (length,) = struct.unpack("Q", incoming.read(8))
    return incoming.read(length)


def die_with_parent(parent: int) -> None:
    """End this process when ``parent``, the one that started it, ends, however that happens."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _wait_for_a_trial(handed: int, told: int, household: Household, store: Array) -> None:
    """Start a trial, and tell of its end: a process for that alone, so that several trials can run side by side."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    here = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(told)
        die_with_parent(here)
        _be_a_trial(handed, household, store)
    os.close(handed)
    try:
        os.write(told, STATUS.pack(child))
        os.write(told, STATUS.pack(os.waitpid(child, 0)[1]))
    except OSError:
        os._exit(1)  # the other end is gone, and the trial will go with this process
    os._exit(0)


def _be_a_trial(handed: int, household: Household, store: Array) -> None:
    connection = Connection(handed)
    try:
        plan: Plan
        plan, gpu = unpacked(connection.recv_bytes(), store)
        if gpu is not None:
            torch.cuda.set_device(gpu)
        hand_down(household.machine)
        LOGGER.handlers[:] = [Told(lambda event, fields: connection.send(("note", plan.number, event, fields)))]
        LOGGER.setLevel(logging.INFO)
        teller = _Teller(connection)
        outcome = LocalEngine(household.folds, household.facts, Until(Deadline(None), teller.look_for_stop), teller).run(plan)
        connection.send_bytes(packed(("outcome", outcome), store))
    except (EOFError, OSError):
        os._exit(1)  # the other end is gone
    os._exit(0)


class _Teller(Silent):
    """A Progress that tells the search's own process, and hears from it whether to end."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.is_stopped = False

    def advance_trial(self, number: int, fraction: float, detail: str) -> None:
        self._connection.send(("advance", number, fraction, detail))

    def check_trial(self, number: int, epoch: float, score: float, *, fold: int, folds: int) -> None:
        self._connection.send(("check", number, epoch, score, fold, folds))

    def look_for_stop(self) -> bool:
        """Whether the search's process wants this one to end."""
        while not self.is_stopped and self._connection.poll(0):
            self.is_stopped = self._connection.recv() == "stop"
        return self.is_stopped


def tell(progress: Progress, kind: str, number: int, *rest: Any) -> None:
    """Have the search's own display and log say what a trial elsewhere tells."""
    if kind == "advance":
        progress.advance_trial(number, *rest)
    elif kind == "check":
        epoch, score, fold, folds = rest
        progress.check_trial(number, epoch, score, fold=fold, folds=folds)
    else:
        pass_on(*rest)


class Told(logging.Handler):
    """Tells the search's process what is logged, whose log it goes into."""

    def __init__(self, tell: Callable[[str, dict[str, Any]], object]) -> None:
        super().__init__()
        self._told = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Tell it."""
        fields = dict(getattr(record, FIELDS, {}))
        if record.exc_info is not None and record.exc_info[1] is not None:
            error = record.exc_info[1]
            fields |= {"error": f"{type(error).__name__}: {error}", "traceback": "".join(traceback.format_exception(error))}
        self._told(record.getMessage(), fields)


if __name__ == "__main__":
    main()
