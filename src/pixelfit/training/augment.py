"""Augmentation of whole batches on the device that trains."""

from __future__ import annotations

import functools
import math

import torch
from torch.nn import functional as F

from pixelfit.training.recipe import Augmentation


def augment(pictures: torch.Tensor, amount: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Turn, scale, slant, shift and flip each picture of a batch (N, C, H, W) by random amounts of its own."""
    if amount == Augmentation():
        return pictures
    count, _, height, width = pictures.shape
    matrix = _matrices(count, height / width, amount, generator).to(pictures.device, non_blocking=True)
    # One product with the pixels' places: torch's affine_grid takes 15 times as long on small pictures (0.37 against
    # 0.02 ms for 128 of 28×28 on 2 cores).
    grid = (matrix.view(-1, 3) @ _places(height, width, pictures.device)).view(count, 2, height, width)
    # What comes in from outside repeats the border: for scans and digits that is the background.
    warped = F.grid_sample(pictures, grid.permute(0, 2, 3, 1), mode="bilinear", padding_mode="border", align_corners=False)
    return warped.contiguous(memory_format=torch.channels_last)


def _matrices(count: int, aspect: float, amount: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Random affine maps, shape (count, 2, 3); drawn on the CPU, so that they are the same whatever device trains."""
    normal = torch.randn(6, count, generator=generator)
    angle = normal[0] * math.radians(amount.rotate)
    slant = normal[1] * amount.shear
    scale_x, scale_y = (normal[2:4] * amount.scale).exp()
    cosine, sine = angle.cos(), angle.sin()
    matrix = torch.empty(count, 2, 3)
    matrix[:, 0, 0] = scale_x * cosine
    matrix[:, 0, 1] = (slant - sine) * scale_y * aspect
    matrix[:, 1, 0] = sine * scale_x / aspect
    matrix[:, 1, 1] = scale_y * cosine
    matrix[:, :, 2] = (normal[4:6] * 2 * amount.shift).T
    if amount.flip:
        mirrored = 1 - 2 * torch.randint(0, 2, (count,), generator=generator).float()
        matrix[:, 0] *= mirrored[:, None]
    return matrix


@functools.lru_cache(maxsize=8)
def _places(height: int, width: int, device: torch.device) -> torch.Tensor:
    """The pixels' middles as (x, y, 1) between -1 and 1, shape (3, height × width)."""
    y, x = torch.meshgrid((torch.arange(height) * 2 + 1) / height - 1, (torch.arange(width) * 2 + 1) / width - 1, indexing="ij")
    return torch.stack([x.flatten(), y.flatten(), torch.ones(height * width)]).to(device)
