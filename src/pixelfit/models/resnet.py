"""A small residual net (He et al. 2015, arXiv:1512.03385) for small pictures."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from pixelfit.models.convnet import classifier
from pixelfit.models.family import Architecture, Between, Choice, Family
from pixelfit.types import PictureSpec


class Block(nn.Module):
    """Two 3×3 convolutions around a shortcut; a stride of 2 halves the map."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        nn.init.zeros_(self.second_norm.weight)  # each block starts as its shortcut (Goyal et al. 2017)
        self.shortcut: nn.Module = nn.Identity()
        if channels != width or stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, channels, H, W) to (N, width, H / stride, W / stride)."""
        inner = F.relu(self.first_norm(self.first(pictures)))
        return F.relu(self.second_norm(self.second(inner)) + self.shortcut(pictures))


def build(spec: PictureSpec, outputs: int, architecture: Architecture) -> nn.Module:
    """Three stages of ``blocks`` residual blocks with ``width``, 2 ``width`` and 4 ``width`` channels."""
    width = architecture["width"]
    stem_stride = 2 if min(spec.height, spec.width) > 48 else 1
    layers: list[nn.Module] = [
        nn.Conv2d(spec.channels, width, 3, stride=stem_stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]
    channels = width
    for stage in range(3):
        for block in range(architecture["blocks"]):
            layers.append(Block(channels, width * 2**stage, stride=2 if stage and not block else 1))
            channels = width * 2**stage
    side = math.ceil(min(spec.height, spec.width) / (4 * stem_stride))
    return nn.Sequential(*layers, *classifier(channels, side, outputs, architecture))


FAMILY = Family(
    "resnet",
    "residual net",
    build,
    space={
        "width": Choice((16, 24, 32), 16),
        "blocks": Choice((1, 2), 1),
        "grid": Choice((1, 2, 4), 4),
        "dropout": Between(0.0, 0.3, 0.0),
    },
    learning_rate=Between(1e-3, 5e-2, 1e-2, log=True),
)
