"""A linear model on the pixels: linear or softmax regression, trained by the same loop as the networks."""

from __future__ import annotations

from torch import nn

from pixelfit.models.family import Architecture, Between, Family
from pixelfit.types import PictureSpec


def build(spec: PictureSpec, outputs: int, architecture: Architecture) -> nn.Module:
    """One weight a pixel and output."""
    layer = nn.Linear(spec.height * spec.width * spec.channels, outputs)
    nn.init.zeros_(layer.weight)  # the problem is convex: no symmetry to break
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Flatten(), layer)


FAMILY = Family(
    "linear",
    "linear on the pixels",
    build,
    learning_rate=Between(1e-4, 3e-2, 2e-3, log=True),
    augmented=False,
)
