"""A multi-layer perceptron on the pixels."""

from __future__ import annotations

from torch import nn

from pixelfit.models.family import Architecture, Between, Choice, Family
from pixelfit.types import PictureSpec


def build(spec: PictureSpec, outputs: int, architecture: Architecture) -> nn.Module:
    """``layers`` hidden layers of ``hidden`` units, each with batch normalisation, ReLU and dropout."""
    width = spec.height * spec.width * spec.channels
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(architecture["layers"]):
        layers += [
            nn.Linear(width, architecture["hidden"], bias=False),
            nn.BatchNorm1d(architecture["hidden"]),
            nn.ReLU(),
            nn.Dropout(architecture["dropout"]),
        ]
        width = architecture["hidden"]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


FAMILY = Family(
    "mlp",
    "multi-layer perceptron on the pixels",
    build,
    space={
        "layers": Choice((1, 2, 3), 2),
        "hidden": Choice((128, 256, 512), 256),
        "dropout": Between(0.0, 0.5, 0.1),
    },
    learning_rate=Between(3e-4, 3e-2, 5e-3, log=True),
)
