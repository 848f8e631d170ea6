"""The processes that share one training, as each of them sees the others, and how they agree.

Every rank holds the whole model and takes its part of each batch (synchronous data parallelism: Goyal et al. 2017,
arXiv:1706.02677; the gradients are averaged by torch's DistributedDataParallel: Li et al. 2020, arXiv:2006.15704). The batch is
the recipe's, whatever the number of ranks, so that the learning rate fits as it is.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pixelfit.types import Array

T = TypeVar("T")
FEWEST_ROWS = 2  # of a batch for each rank: batch normalisation needs more than one


@dataclass(frozen=True)
class Ranks:
    """``count`` processes that share a training, seen from the one with the number ``own``.

    ``group`` is a process group that is set up already and takes tensors on the CPU and on the device that trains: the
    backend "gloo", or "cpu:gloo,cuda:nccl". A process alone needs none. Each method that hears from the others must be called
    by all of them in the same order; it raises RuntimeError where one of them is gone or says nothing for longer than the
    group's timeout.
    """

    own: int = 0
    count: int = 1
    group: dist.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, whose clock counts and who speaks with whoever wants the model."""
        return self.own == 0

    def part(self, rows: int) -> slice:
        """Which of so many rows are this rank's; the parts differ by one row at most."""
        return slice(rows * self.own // self.count, rows * (self.own + 1) // self.count)

    def weight(self, rows: int) -> float:
        """What this rank's mean over its part of so many rows counts, if the mean over all ranks is to be that of all rows."""
        return len(range(rows)[self.part(rows)]) * self.count / rows

    def decided(self, *values: float) -> tuple[float, ...]:
        """The values that rank 0 gave, on every rank.

        Once after each step: 0.1 ms for two ranks on 2 cores, beside 30 ms and more for a step.
        """
        if self.count == 1:
            return values
        told = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(told, group=self.group, group_src=0)
        return tuple(told.tolist())

    def from_first(self, thing: T) -> T:
        """The thing that rank 0 has, on every rank; it is pickled on the way."""
        if self.count == 1:
            return thing
        things = [thing]
        dist.broadcast_object_list(things, group=self.group, group_src=0, device=torch.device("cpu"))
        return things[0]

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each of the tensors, of one type and device, by its mean over the ranks."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat, group=self.group)
        flat /= self.count
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, parts, strict=True):
            tensor.copy_(mean.view_as(tensor))

    def joined(self, own: Array, rows: int) -> Array:
        """What all ranks have found for their parts of so many rows, one after the other; ``own`` is this one's (n,)."""
        if self.count == 1:
            return own
        # Parts differ in length, which gathering does not allow; a sum with zeros is exact.
        together = np.zeros(rows)
        together[self.part(rows)] = own
        dist.all_reduce(torch.from_numpy(together), group=self.group)
        return together

    def synchronised(self, module: nn.Module) -> nn.Module:
        """What to train in place of a module on its device: the module, or on a GPU one with the same weights and buffers.

        On a GPU batch normalisation takes mean and deviation over the whole batch (torch's SyncBatchNorm, which has no kernel
        for processors). On a processor each rank takes them over its own part, and the running ones are averaged
        (``statistics``).
        """
        if self.count == 1 or next(module.parameters()).device.type == "cpu":
            return module
        shared = {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}
        convert: Callable[[nn.Module, dist.ProcessGroup | None], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
        return convert(copy.deepcopy(module, shared), self.group)

    def forward(self, module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        """The module's forward pass; after a backward pass from it the gradients are the mean over the ranks."""
        if self.count == 1:
            return module
        with warnings.catch_warnings():
            # Buffers are averaged where they are wanted instead of being sent before each step. The argument's new name, which
            # torch 2.13 asks for, is unknown to torch 2.6.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
            return nn.parallel.DistributedDataParallel(module, process_group=self.group, broadcast_buffers=False)


ALONE = Ranks()


def statistics(module: nn.Module) -> tuple[str, ...]:
    """Names, in the module's state, of the running means and variances of batch normalisation."""
    return tuple(
        f"{name}.{kind}".lstrip(".")
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats
        for kind in ("running_mean", "running_var")
    )
