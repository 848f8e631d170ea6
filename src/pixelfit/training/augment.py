"""Augmentation of whole batches on the device that trains."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from pixelfit.training.recipe import Augmentation


def augment(pictures: torch.Tensor, amount: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Turn, scale, slant, shift and flip each picture of a batch (N, C, H, W) by random amounts of its own."""
    if not any((amount.rotate, amount.scale, amount.shear, amount.shift, amount.flip)):
        return pictures
    count, _, height, width = pictures.shape
    normal = torch.randn(6, count, generator=generator)
    angle = normal[0] * math.radians(amount.rotate)
    slant = normal[1] * amount.shear
    scale_x, scale_y = (normal[2:4] * amount.scale).exp()
    cosine, sine = angle.cos(), angle.sin()
    aspect = height / width
    matrix = torch.empty(count, 2, 3)
    matrix[:, 0, 0] = scale_x * cosine
    matrix[:, 0, 1] = (slant - sine) * scale_y * aspect
    matrix[:, 1, 0] = sine * scale_x / aspect
    matrix[:, 1, 1] = scale_y * cosine
    matrix[:, :, 2] = (normal[4:6] * 2 * amount.shift).T
    if amount.flip:
        mirrored = 1 - 2 * torch.randint(0, 2, (count,), generator=generator).float()
        matrix[:, 0] *= mirrored[:, None]
    grid = F.affine_grid(matrix, [count, 1, height, width], align_corners=False).to(pictures.device)
    # What comes in from outside repeats the border: for scans and digits that is the background.
    warped = F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return warped.contiguous(memory_format=torch.channels_last)
