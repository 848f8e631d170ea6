"""Views of a picture over which a prediction is averaged: test-time augmentation (Krizhevsky et al. 2012)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional as F

# How many forward passes each kind of views takes.
VIEWS = {"single": 1, "mirrored": 2, "shifted": 5}
_SHIFT = 1 / 28  # of the side


def views(pictures: torch.Tensor, kind: str) -> Iterator[torch.Tensor]:
    """The pictures (N, C, H, W), and after them the further views of this kind, each of the same shape."""
    yield pictures
    if kind == "mirrored":
        yield pictures.flip(3)
    elif kind == "shifted":
        down, right = (max(1, round(side * _SHIFT)) for side in pictures.shape[2:])
        height, width = pictures.shape[2:]
        padded = F.pad(pictures, (right, right, down, down), mode="replicate")
        for top, left in ((0, right), (2 * down, right), (down, 0), (down, 2 * right)):
            yield padded[:, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
