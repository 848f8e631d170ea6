"""Augmentation of whole batches on the device that trains."""

from __future__ import annotations

import functools
import math

import torch
from torch.nn import functional as F

from pixelfit.models.model import Preparation
from pixelfit.training.recipe import Augmentation

_AS_THEY_ARE = Preparation((0.0,), (1.0,))
_GREY = (0.299, 0.587, 0.114)  # the eye's weights of red, green and blue (ITU-R BT.601)
# Black is 0 in most pictures; numbers of any kind (temperatures, heights) may lie far from it, and are made brighter and
# darker around this many deviations below their mean, so that a few per cent stay a small change.
_BLACK = 4.0


def augment(
    pictures: torch.Tensor,
    amount: Augmentation,
    generator: torch.Generator,
    preparation: Preparation = _AS_THEY_ARE,
    of: tuple[int, slice] | None = None,
) -> torch.Tensor:
    """Turn, scale, slant, shift, mirror and recolour each picture of a batch (N, C, H, W) by random amounts of its own.

    Args:
        pictures: as ``preparation`` makes them of stored ones; it says what their numbers stand for.
        amount: how far each change goes.
        generator: on the CPU, whatever device trains, so that the same numbers are drawn on each.
        preparation: what colours are changed by; by default numbers mean what they are.
        of: the size of a larger batch, and which of its pictures these are. Numbers are drawn for all of it, so that each
            picture is changed in the same way however the batch is divided.
    """
    if amount == Augmentation():
        return pictures
    height, width = pictures.shape[2:]
    count, part = of or (len(pictures), slice(None))
    changed = pictures
    if amount.moves:
        changed = warped(changed, _matrices(count, height / width, amount, generator)[part])
    if amount.recolours:
        deviations = torch.tensor([[amount.brightness], [amount.contrast], [amount.saturation]])
        factors = (torch.randn(3, count, generator=generator) * deviations).exp()
        changed = recoloured(changed, factors[:, part], preparation)
    return changed


def warped(pictures: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """The pictures (N, C, H, W) through affine maps (N, 2, 3), or one map (1, 2, 3) for all of them.

    A map says for each place of the result where it comes from, as (x, y, 1) between -1 and 1.
    """
    _, _, height, width = pictures.shape
    # One product with the pixels' places: torch's affine_grid takes 15 times as long on small pictures (0.37 against
    # 0.02 ms for 128 of 28×28 on 2 cores).
    maps = matrix.to(pictures.device, non_blocking=True)
    grid = (maps.view(-1, 3) @ _places(height, width, pictures.device)).view(len(maps), 2, height, width)
    grid = grid.expand(len(pictures), -1, -1, -1).permute(0, 2, 3, 1)
    # What comes in from outside repeats the border: for scans and digits that is the background.
    changed = F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return changed.contiguous(memory_format=torch.channels_last)


def affine(angle: torch.Tensor, slant: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, aspect: float) -> torch.Tensor:
    """Maps for ``warped``, shape (N, 2, 3).

    Args:
        angle: in radians, shape (N,).
        slant: shape (N,).
        scale: across and down, shape (2, N); above 1 things become smaller.
        shift: across and down, shape (2, N); 2 is the whole side.
        aspect: the pictures' height over their width.
    """
    scale_x, scale_y = scale
    cosine, sine = angle.cos(), angle.sin()
    matrix = torch.empty(len(angle), 2, 3)
    matrix[:, 0, 0] = scale_x * cosine
    matrix[:, 0, 1] = (slant - sine) * scale_y * aspect
    matrix[:, 1, 0] = sine * scale_x / aspect
    matrix[:, 1, 1] = scale_y * cosine
    matrix[:, :, 2] = shift.T
    return matrix


def turned(matrix: torch.Tensor, quarters: torch.Tensor) -> torch.Tensor:
    """The maps (N, 2, 3) after a turn of the picture by so many quarters (N,): exact, without rounding."""
    cosine, sine = (torch.tensor(values)[quarters][:, None] for values in ((1.0, 0.0, -1.0, 0.0), (0.0, 1.0, 0.0, -1.0)))
    across, down = matrix[:, 0], matrix[:, 1]
    return torch.stack([cosine * across - sine * down, sine * across + cosine * down], dim=1)


def recoloured(pictures: torch.Tensor, factors: torch.Tensor, preparation: Preparation) -> torch.Tensor:
    """The prepared pictures (N, C, H, W) as if brightness, contrast and saturation of the original ones were multiplied.

    ``factors`` has shape (3, N), or (3, 1) for all alike. Brightness multiplies every value. Contrast moves each channel away
    from its mean in the picture. Saturation, for three channels alone, moves each pixel away from its grey. Values that
    leave the range of the original are not cut off.
    """
    brightness, contrast, saturation = factors.to(pictures.device, non_blocking=True).view(3, -1, 1, 1, 1).unbind()
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=pictures.device).view(1, -1, 1, 1)
        for values in (preparation.mean, preparation.std)
    )
    if pictures.shape[1] == len(_GREY) and bool((factors[2] != 1).any()):
        weights = torch.tensor(_GREY, device=pictures.device).view(1, -1, 1, 1)
        grey = ((pictures * std + mean) * weights).sum(dim=1, keepdim=True)
        pictures = pictures * saturation + (1 - saturation) * (grey - mean) / std
    own = pictures.mean(dim=(2, 3), keepdim=True)
    offset = brightness * (1 - contrast) * own + (brightness - 1) * (mean / std).clamp(0, _BLACK)
    return torch.addcmul(offset, pictures, brightness * contrast)


def _matrices(count: int, aspect: float, amount: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Random affine maps, shape (count, 2, 3); drawn on the CPU, so that they are the same whatever device trains."""
    normal = torch.randn(6, count, generator=generator)
    matrix = affine(
        normal[0] * math.radians(amount.rotate),
        normal[1] * amount.shear,
        (normal[2:4] * amount.scale).exp(),
        normal[4:6] * 2 * amount.shift,
        aspect,
    )
    for wanted, row in ((amount.flip, 0), (amount.flip_vertical, 1)):
        if wanted:
            mirrored = 1 - 2 * torch.randint(0, 2, (count,), generator=generator).float()
            matrix[:, row] *= mirrored[:, None]
    if amount.turns:
        # An oblong picture is turned by halves: a quarter would cut off its ends, or stretch what it shows.
        quarters = 1 if aspect == 1 else 2
        matrix = turned(matrix, quarters * torch.randint(0, 4 // quarters, (count,), generator=generator))
    return matrix


@functools.lru_cache(maxsize=8)
def _places(height: int, width: int, device: torch.device) -> torch.Tensor:
    """The pixels' middles as (x, y, 1) between -1 and 1, shape (3, height × width)."""
    y, x = torch.meshgrid((torch.arange(height) * 2 + 1) / height - 1, (torch.arange(width) * 2 + 1) / width - 1, indexing="ij")
    return torch.stack([x.flatten(), y.flatten(), torch.ones(height * width)]).to(device)
