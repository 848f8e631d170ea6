"""The baseline: the same answer for every picture, the mean or median target or the classes' frequencies."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn import functional as F

from pixelfit.models.family import Architecture, Family
from pixelfit.models.heads import Head
from pixelfit.types import PictureSpec

_GRID = 8


class Constant(nn.Module):
    """Gives the same raw outputs for every picture."""

    answer: torch.Tensor

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.register_buffer("answer", torch.zeros(outputs))

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """Coarse pixels, (N, features): nothing that the answer depends on."""
        return F.adaptive_avg_pool2d(pictures, _GRID).flatten(1)

    def answers(self, features: torch.Tensor) -> torch.Tensor:
        """(N, features) to (N, outputs)."""
        return self.answer.expand(features.shape[0], -1)  # not len: an exported graph would keep the number

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, outputs)."""
        return self.answers(pictures)


def build(spec: PictureSpec, outputs: int, architecture: Architecture) -> nn.Module:
    """A constant that is not fitted yet."""
    return Constant(outputs)


def fit(
    module: nn.Module,
    chunks: Iterable[torch.Tensor],
    targets: torch.Tensor,
    *,
    head: Head,
    architecture: Architecture,
    seed: int,
    time_left: Callable[[], float],
) -> int:
    """Set the answer to what the head calls its prior."""
    assert isinstance(module, Constant)
    module.answer.copy_(head.prior(targets))
    return 1


FAMILY = Family(
    "constant",
    "the same answer for every picture",
    build,
    fit=fit,
    searched=False,
    # Without the histogram, whose bins and smoothing would move the plain mean or median of the targets a little.
    heads=("classes", "discrete", "squared", "huber", "labels"),
    augmented=False,
)
