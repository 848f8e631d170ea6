"""What runs on the nodes of a Ray cluster: trials, what they tell, and a look at whether a node can run them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayError

from pixelfit.deadline import Deadline
from pixelfit.progress import Silent
from pixelfit.runlog import LOGGER
from pixelfit.search.births import Household, Told
from pixelfit.search.engine import LocalEngine, Outcome, Plan, Until
from pixelfit.training.machine import Machine, hand_down, machine
from pixelfit.training.passing import StoreAt, unpacked
from pixelfit.types import Json

_ASK_EVERY_S = 0.5
_CARRY_EVERY_S = 1.0
_TELL_EVERY_S = 0.5


@dataclass(frozen=True)
class Shared:
    """What all trials share, in the cluster's object store; the pictures there, too, or in a file that all nodes see."""

    household: Any  # a reference to bytes
    store: Any  # a reference to an array, or StoreAt


@dataclass(frozen=True)
class Errand:
    """One attempt at a trial: its plan, and what an earlier attempt had kept.

    ``token`` is the checksum of the plan's file, by which a worker sees whether it has the run folder before it, too.
    """

    plan: Plan
    attempt: int
    token: str | None
    kept: Mapping[str, bytes]


@dataclass(frozen=True)
class Versions:
    """What has to be the same on all nodes: results would differ otherwise, or not be understood."""

    pixelfit: str
    torch: str
    python: str

    @staticmethod
    def here() -> Versions:
        """Those of this process."""
        return Versions(importlib.metadata.version("pixelfit"), torch.__version__, platform.python_version())

    def __str__(self) -> str:
        return f"pixelfit {self.pixelfit}, torch {self.torch}, Python {self.python}"


_households: dict[Any, Household] = {}  # of the search for which this worker works, since taking it apart takes time


def trial(errand: Errand, shared: Shared, board: Any) -> tuple[Outcome, dict[str, bytes]]:
    """Run a trial in this worker; its outcome, and the checkpoints of one that was interrupted where they are not seen."""
    teller = _Teller(board, errand.plan.number, errand.attempt)
    teller.tell("begun")
    household = _households.get(shared.household)
    if household is None:
        _households.clear()
        store = shared.store.mapped() if isinstance(shared.store, StoreAt) else ray.get(shared.store)
        household = _households[shared.household] = unpacked(ray.get(shared.household), store)
    hand_down(household.machine)
    before = LOGGER.handlers[:], LOGGER.level
    LOGGER.handlers[:] = [Told(lambda event, fields: teller.tell("note", event, fields))]
    LOGGER.setLevel(logging.INFO)
    try:
        with _checkpoints_kept(errand, teller) as plan:
            outcome = LocalEngine(household.folds, household.facts, Until(Deadline(None), teller.look_for_stop), teller).run(plan)
            elsewhere = plan.kept_in != errand.plan.kept_in and outcome.trial.state == "interrupted"
            kept = _checkpoints(plan.kept_in) if elsewhere and plan.kept_in is not None else {}
    finally:
        LOGGER.handlers[:], LOGGER.level = before
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the worker waits for another trial, and others share the GPU
    return outcome, kept


def _checkpoints(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("checkpoint-*.safetensors")}


def probe(at: StoreAt | None) -> tuple[Versions, bool, Machine | None]:
    """Versions here, whether the file of the pictures is seen, and what this node's GPU can do. Loads all that trials need."""
    sees_file = True
    if at is not None:
        file, pictures = Path(at.name), int(np.prod(at.shape)) * np.dtype(at.dtype).itemsize
        sees_file = file.is_file() and file.stat().st_size >= at.offset + pictures
    importlib.import_module("torch._dynamo")
    return Versions.here(), sees_file, machine() if torch.cuda.is_available() else None


@contextmanager
def _checkpoints_kept(errand: Errand, teller: _Teller) -> Iterator[Plan]:
    """The plan with a folder for its checkpoints: the run's own, or one here whose files are carried there."""
    plan = errand.plan
    if plan.kept_in is None or (errand.token is not None and _checksum(plan.kept_in / "plan.json") == errand.token):
        yield plan
        return
    here = Path(tempfile.mkdtemp(prefix="pixelfit-trial-"))
    for name, content in errand.kept.items():
        (here / name).write_bytes(content)
    over = threading.Event()
    courier = threading.Thread(target=_carry, args=(here, str(plan.kept_in), teller, over), daemon=True)
    courier.start()
    try:
        yield replace(plan, kept_in=here)
    finally:
        over.set()
        courier.join()
        shutil.rmtree(here, ignore_errors=True)


def _carry(here: Path, there: str, teller: _Teller, over: threading.Event) -> None:
    """Send each checkpoint that is new."""
    sent: dict[str, int] = {}
    while not over.wait(_CARRY_EVERY_S):
        for file in here.glob("checkpoint-*.safetensors"):  # replaced as a whole, so never seen half-written
            changed = file.stat().st_mtime_ns
            if sent.get(file.name) != changed:
                sent[file.name] = changed
                teller.tell("kept", there, file.name, file.read_bytes())


def _checksum(file: Path) -> str | None:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


class _Teller(Silent):
    """A Progress that writes on the board."""

    def __init__(self, board: Any, number: int, attempt: int) -> None:
        self._board, self._number, self._attempt = board, number, attempt
        self._asked = board.is_stopped.remote()
        self._ask_at = time.monotonic() + _ASK_EVERY_S
        self._tell_at = 0.0
        self.is_stopped = False

    def tell(self, kind: str, *rest: Json) -> None:
        self._board.tell.remote(self._number, self._attempt, kind, *rest)

    def advance_trial(self, number: int, fraction: float, detail: str) -> None:
        if time.monotonic() >= self._tell_at:
            self._tell_at = time.monotonic() + _TELL_EVERY_S
            self.tell("advance", fraction, detail)

    def check_trial(self, number: int, epoch: float, score: float, *, fold: int, folds: int) -> None:
        self.tell("check", epoch, score, fold, folds)

    def look_for_stop(self) -> bool:
        """Whether the search wants trials to end, as it was some moments ago: this is asked at every step."""
        now = time.monotonic()
        if not self.is_stopped and now >= self._ask_at:
            self._ask_at = now + _ASK_EVERY_S
            try:
                answered, _ = ray.wait([self._asked], timeout=0)
                if answered:
                    self.is_stopped = bool(ray.get(self._asked))
            except RayError:  # the board is being begun anew
                answered = [self._asked]
            if answered:
                self._asked = self._board.is_stopped.remote()
        return self.is_stopped
