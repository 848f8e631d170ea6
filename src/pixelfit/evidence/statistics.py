"""Simple properties of pictures, by which they can be parted and compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pixelfit.types import Array, Examples, Floats, PictureSpec, Splits

AT_ONCE = 100  # pictures: in floats those of 224 pixels in colour take 60 MB
# What counts as one: a hundredth of full brightness, or of pictures that have no such thing a unit of their own.
_UNIT: Mapping[str, float] = {"byte": 2.55, "unit": 2.55, "wide": 655.35, "raw": 1.0}


@dataclass(frozen=True)
class Statistic:
    """One property of each picture (N,), and the unit that it is in."""

    name: str
    unit: str
    values: Floats


def statistics(examples: Examples, splits: Splits, spec: PictureSpec) -> tuple[Statistic, ...]:
    """Brightness, contrast, sharpness and, where they differ, original sizes of the examples' pictures.

    Brightness is the mean pixel, contrast the standard deviation of the pixels, sharpness the mean difference of neighbours;
    all in per cent of full brightness, or in the pictures' own numbers where these have no such thing.
    """
    parts = [
        _of_pixels(examples.store[examples.rows[start : start + AT_ONCE]].astype(np.float32) / _UNIT[spec.scale])
        for start in range(0, len(examples), AT_ONCE)
    ]
    brightness, contrast, sharpness = np.concatenate(parts, axis=1)
    unit = "pixel value" if spec.scale == "raw" else "%"
    sizes = splits.original_sizes[examples.rows]
    megapixels = sizes.prod(axis=1) / 1e6
    return (
        Statistic("brightness", unit, brightness),
        Statistic("contrast", unit, contrast),
        Statistic("sharpness", unit, sharpness),
        Statistic("size", "megapixels", megapixels),
        Statistic("shape", "width / height", sizes[:, 1] / np.maximum(1, sizes[:, 0])),
    )


def _of_pixels(pictures: Floats) -> Array:
    """Brightness, contrast and sharpness of pictures (n, H, W, C), shape (3, n)."""
    grey = pictures.mean(axis=3)
    steps = [np.abs(np.diff(grey, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2) if grey.shape[axis] > 1]
    sharpness = np.mean(steps, axis=0) if steps else np.zeros(len(grey))
    return np.stack([grey.mean(axis=(1, 2)), grey.std(axis=(1, 2)), sharpness]).astype(np.float64)
