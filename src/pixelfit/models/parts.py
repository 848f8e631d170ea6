"""A module in two parts: what it sees in a picture, and what it answers to that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import nn


class InParts(Protocol):
    """A module that is no plain sequence of layers."""

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """Prepared pictures (N, C, H, W) to (N, features)."""

    def answers(self, features: torch.Tensor) -> torch.Tensor:
        """(N, features) to raw outputs (N, outputs)."""


def parts_of(module: nn.Module) -> tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]:
    """From prepared pictures to features (N, features), and from these to raw outputs; one after the other they are ``module``.

    Of a sequence of layers the features are what the last layer takes.
    """
    if isinstance(module, nn.Sequential):
        return module[:-1], module[-1]
    in_parts = cast(InParts, module)
    return in_parts.features, in_parts.answers
