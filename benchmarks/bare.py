"""A training loop of plain PyTorch, as one would write it by hand for one net: what pixelfit's loop is measured against.

It takes over nothing of pixelfit but the net's definition and the recipe's numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pixelfit.training.recipe import Recipe
from pixelfit.types import Array

_WARM_STEPS = 3  # the first steps allocate memory and pick kernels


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronized() -> float:
    """The clock, once the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def warp(pictures: torch.Tensor, recipe: Recipe, dice: torch.Generator) -> torch.Tensor:
    """Random turns, sizes, slants and shifts of a batch (N, C, H, W), by torch's own affine_grid; no mirrors."""
    amount = recipe.augmentation
    count, _, height, width = pictures.shape
    angles, slants, log_x, log_y, right, down = torch.randn(6, count, generator=dice)
    angles = torch.deg2rad(angles * amount.rotate)
    scale_x, scale_y = torch.exp(log_x * amount.scale), torch.exp(log_y * amount.scale)
    upper = [
        scale_x * torch.cos(angles),
        scale_y * (slants * amount.shear - torch.sin(angles)) * height / width,
        2 * amount.shift * right,
    ]
    lower = [scale_x * torch.sin(angles) * width / height, scale_y * torch.cos(angles), 2 * amount.shift * down]
    matrices = torch.stack([torch.stack(upper, dim=1), torch.stack(lower, dim=1)], dim=1)
    grid = F.affine_grid(matrices, [count, 1, height, width], align_corners=False).to(pictures.device)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


class BareLoop:
    """A net, its data on the device, and its optimiser."""

    def __init__(self, net: nn.Module, recipe: Recipe, pictures: Array, labels: Array, *, low_precision: bool) -> None:
        self.device = device()
        self.recipe = recipe
        self.net = net.to(self.device, memory_format=torch.channels_last).train()
        self.pictures = (
            torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last).to(self.device)
        )
        self.labels = torch.from_numpy(labels).to(self.device)
        sample = self.pictures[:: max(1, len(labels) // 10_000)].float()
        self.mean, self.std = sample.mean((0, 2, 3), keepdim=True), sample.std((0, 2, 3), keepdim=True)
        matrices = [weight for weight in self.net.parameters() if weight.ndim > 1]
        vectors = [weight for weight in self.net.parameters() if weight.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
            betas=(0.9, 0.99),
            fused=True,
        )
        self.dice = torch.Generator().manual_seed(0)
        self.low_precision = low_precision

    def autocast(self) -> AbstractContextManager[object]:
        """bfloat16 products and convolutions, if the loop is of low precision."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.low_precision else nullcontext()

    def batches(self) -> Iterator[torch.Tensor]:
        """Rows of the training set, a batch at a time, shuffled anew each epoch."""
        size = self.recipe.batch_size
        while True:
            order = torch.randperm(len(self.labels), generator=self.dice).to(self.device)
            for start in range(0, len(order) - size + 1, size):
                yield order[start : start + size]

    def step(self, rows: torch.Tensor, rate: float, *, augmented: bool) -> None:
        """One step of the optimiser."""
        batch = (self.pictures[rows].float() - self.mean) / self.std
        if augmented:
            batch = warp(batch, self.recipe, self.dice)
        batch = batch.contiguous(memory_format=torch.channels_last)
        with self.autocast():
            outputs = self.net(batch)
        loss = F.cross_entropy(outputs.float(), self.labels[rows], label_smoothing=self.recipe.label_smoothing)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def step_seconds(self, steps: int, *, augmented: bool) -> float:
        """Seconds of one step, over ``steps`` of them along a cosine of the learning rate."""
        batches = self.batches()
        for _ in range(_WARM_STEPS):
            self.step(next(batches), self.recipe.learning_rate, augmented=augmented)
        began = synchronized()
        for number in range(steps):
            rate = self.recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * number / steps))
            self.step(next(batches), rate, augmented=augmented)
        return (synchronized() - began) / steps

    def step_flops(self) -> int:
        """Floating-point operations of one step's forward and backward pass, as torch counts them (convolutions, products)."""
        batch = self.pictures[: self.recipe.batch_size].float()
        with FlopCounterMode(display=False) as counter:
            F.cross_entropy(self.net(batch), self.labels[: len(batch)]).backward()
        return counter.get_total_flops()


def gemm_flops(dtype: torch.dtype, *, side: int = 2048, repeats: int = 20) -> float:
    """Floating-point operations a second in the best of ``repeats`` products of two square matrices."""
    left, right = (torch.randn(side, side, device=device()).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repeats + 1):
        began = synchronized()
        left @ right
        best = min(best, synchronized() - began)
    return 2 * side**3 / best
