"""What a training under way is made of, kept in a file now and then, so that it can go on from there to the last bit."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from pixelfit.files import written_beside
from pixelfit.training.averaging import WeightAverage
from pixelfit.training.pace import Check, Pulse
from pixelfit.types import Array

Tensors = dict[str, torch.Tensor]
_FORMAT = 1
LEAST_S = 1.0  # between two checkpoints
_MOST_S = 30.0  # and at most so long, however long an epoch is
_SHARE = 0.02  # of the time, at most, for writing them: a net of 1 million weights takes about 20 ms


@dataclass(frozen=True)
class Kept:
    """Weights at a check, and each checked row's loss with them."""

    step: int
    losses: Array
    state: Tensors


class Batches:
    """Positions in the training set, a batch at a time, shuffled anew each epoch; a batch may span two epochs."""

    def __init__(self, pictures: int, batch: int, seed: int, device: torch.device) -> None:
        self._pictures, self._batch, self._device = pictures, batch, device
        self.dice = torch.Generator().manual_seed(seed)
        self.left = torch.empty(0, dtype=torch.int64, device=device)

    def next(self) -> torch.Tensor:
        """The next batch (batch,)."""
        while len(self.left) < self._batch:
            self.left = torch.cat([self.left, torch.randperm(self._pictures, generator=self.dice).to(self._device)])
        taken, self.left = self.left[: self._batch], self.left[self._batch :]
        return taken


@dataclass
class Underway:
    """A training by gradients between two steps."""

    module: nn.Module
    pulse: Pulse
    optimizer: torch.optim.Optimizer
    batches: Batches
    dice: torch.Generator  # of the augmentation
    average: WeightAverage | None
    next_look: int
    loss_sum: torch.Tensor
    losses: int = 0
    check_s: float = 0.0
    best: Kept | None = None
    latest: Kept | None = None

    def tensors(self) -> Tensors:
        """Every tensor that the next step depends on, by name."""
        found = dict(_named("model", self.module.state_dict()))
        for place, weight in enumerate(_weights(self.optimizer)):
            found |= _named(f"optimizer.{place}", self.optimizer.state[weight])
        found |= _named("average", self.average.kept()) if self.average else {}
        for name, kept in (("best", self.best), ("latest", self.latest)):
            if kept is not None:
                found |= _named(name, kept.state)
                found[f"losses.{name}"] = torch.from_numpy(np.ascontiguousarray(kept.losses))
        found |= {"dice.batches": self.batches.dice.get_state(), "dice.augmentation": self.dice.get_state()}
        found |= {"dice.global": torch.get_rng_state(), "left": self.batches.left, "loss_sum": self.loss_sum}
        if self.loss_sum.device.type == "cuda":
            found["dice.cuda"] = torch.cuda.get_rng_state()
        return found

    def record(self, *, step_s: float) -> dict[str, Any]:
        """Everything else; ``step_s`` seconds went into steps."""
        return {
            "pulse": {**asdict(self.pulse), "step_s": step_s},
            "next_look": self.next_look,
            "losses": self.losses,
            "check_s": self.check_s,
            "averaged": self.average.steps if self.average else 0,
            "best": self.best.step if self.best else None,
            "latest": self.latest.step if self.latest else None,
        }

    def restore(self, tensors: Tensors, record: Mapping[str, Any]) -> None:
        """Stand where the checkpoint stood; raises KeyError, ValueError or RuntimeError if it is of another training."""
        like = self.module.state_dict()
        self.module.load_state_dict(_part("model", tensors))
        for place, weight in enumerate(_weights(self.optimizer)):
            for name, tensor in _part(f"optimizer.{place}", tensors).items():
                self.optimizer.state[weight][name] = _laid_out(tensor, weight)
        if self.average:
            parts = _part("average", tensors)
            self.average.go_on({name: _laid_out(tensor, like[name]) for name, tensor in parts.items()}, record["averaged"])
        kept = {}
        for name in ("best", "latest"):
            if record[name] is not None:
                state = {part: _laid_out(tensor, like[part]) for part, tensor in _part(name, tensors).items()}
                kept[name] = Kept(record[name], tensors[f"losses.{name}"].numpy(), state)
        self.best, self.latest = kept.get("best"), kept.get("latest")
        self.batches.dice.set_state(tensors["dice.batches"])
        self.batches.left = tensors["left"].to(self.batches.left.device)
        self.dice.set_state(tensors["dice.augmentation"])
        torch.set_rng_state(tensors["dice.global"])
        if "dice.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["dice.cuda"])
        self.loss_sum = tensors["loss_sum"].to(self.loss_sum.device)
        self.losses, self.check_s, self.next_look = record["losses"], record["check_s"], record["next_look"]
        self.pulse = pulse_from(record)


def pulse_from(record: Mapping[str, Any]) -> Pulse:
    """Where the training stood."""
    plain = dict(record["pulse"])
    plain["history"] = [Check(**check) for check in plain["history"]]
    plain["replans"] = [(step, total) for step, total in plain["replans"]]
    return Pulse(**plain)


class Checkpoint:
    """The file in which a training is kept, written at the end of epochs and at least every 30 s.

    It is replaced as a whole; a file that is cut short or whose bits changed counts as none, so the training begins anew.
    With ``last`` the training's end is kept, too, for one of several folds that will be wanted once all are done. ``told`` is
    given the file's content after each time.
    """

    def __init__(
        self, file: Path, *, last: bool = False, least_s: float = LEAST_S, told: Callable[[bytes], None] | None = None
    ) -> None:
        self.file, self._last, self._least_s, self._told = file, last, least_s, told
        self._written = time.monotonic()
        self._epoch = 0
        self._took_s = 0.0

    def elsewhere(self, file: Path, told: Callable[[bytes], None]) -> Checkpoint:
        """One that is written as often into another file, on another machine."""
        return Checkpoint(file, last=self._last, least_s=self._least_s, told=told)

    def is_due(self, epoch: float, *, at_end: bool) -> bool:
        """Whether to write now, after so many epochs."""
        if at_end:
            return self._last
        since = time.monotonic() - self._written
        if since < max(self._least_s, self._took_s / _SHARE):
            return False
        return int(epoch) > self._epoch or since > _MOST_S

    def write(self, underway: Underway, *, epoch: float, step_s: float, spent_s: float, final_s: float) -> None:
        """Replace what was kept; ``spent_s`` seconds have gone into the training, ``final_s`` are planned for its end."""
        begun = time.monotonic()
        # Copies, since two names may share their memory, which safetensors refuses.
        tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in underway.tensors().items()}
        record = {
            **underway.record(step_s=step_s),
            "format": _FORMAT,
            "spent_s": spent_s,
            "final_s": final_s,
            "sums": _sums(tensors),
        }
        # A full disk must not end a training; what was kept before still is.
        with suppress(OSError, SafetensorError), written_beside(self.file) as beside:
            save_file(tensors, beside, {"training": json.dumps(record)})
        if self._told is not None and self.file.is_file():
            self._told(self.file.read_bytes())
        self._written, self._epoch = time.monotonic(), int(epoch)
        self._took_s = self._written - begun

    def spent_s(self) -> float:
        """Seconds that went into the training before it was kept; 0 if nothing is kept, or it is damaged."""
        kept = self.read()
        return float(kept[1]["spent_s"]) if kept else 0.0

    def read(self) -> tuple[Tensors, dict[str, Any]] | None:
        """What was kept; None if there is nothing, or it is damaged or of another version."""
        if not self.file.is_file():
            return None
        try:
            with safe_open(self.file, framework="pt") as opened:
                record = json.loads((opened.metadata() or {}).get("training", "null"))
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
        except (OSError, SafetensorError, ValueError, RecursionError):
            return None
        if not isinstance(record, dict) or record.get("format") != _FORMAT or record.get("sums") != _sums(tensors):
            return None
        return tensors, record


def _sums(tensors: Tensors) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def _weights(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _named(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _part(prefix: str, tensors: Tensors) -> Tensors:
    return {name.removeprefix(f"{prefix}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}


def _laid_out(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The tensor in the memory format of ``like``: the fused optimiser walks over both as they lie in memory."""
    if tensor.shape != like.shape:
        return tensor.to(like.device)  # a count of steps
    return torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
