"""What a stored model says of itself, checked before any room is made for it: it may be a stranger's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load
from torch import nn

from pixelfit.files import open_plain
from pixelfit.models.family import Choice, Family
from pixelfit.types import Json, PictureSpec

_MOST_OUTPUTS = 1_000_000
_MOST_NUMBERS = 1 << 26  # of a picture: more than 4,000 × 4,000 pixels in colour
# Beyond what a search would choose: other versions may have other choices.
_BEYOND = 16


def check_form(spec: PictureSpec, size: tuple[int, int] | None) -> None:
    """Raise ValueError for pictures that are stored or seen in a size that no model has."""
    for height, width in ((spec.height, spec.width), size or (1, 1)):
        if min(height, width, spec.channels) < 1 or height * width * spec.channels > _MOST_NUMBERS:
            raise ValueError(f"it takes pictures of {height:,} × {width:,} × {spec.channels:,}")


def check_architecture(family: Family, architecture: Mapping[str, Json], outputs: int) -> None:
    """Raise ValueError for choices that no search could have made, or make by far."""
    if not 1 <= outputs <= _MOST_OUTPUTS:
        raise ValueError(f"it has {outputs:,} outputs")
    for name, dimension in family.space.items():
        if name not in architecture:
            raise ValueError(f"its architecture lacks {name!r}")
        value, start = architecture[name], dimension.start
        if isinstance(dimension, Choice) and isinstance(start, str):
            fine = dimension.allows(value)
        elif isinstance(dimension, Choice):
            most = max(each for each in dimension.values if not isinstance(each, str))
            fine = isinstance(value, int) and 0 <= value <= _BEYOND * most
        else:
            fine = isinstance(value, (int, float)) and abs(value) <= _BEYOND * max(abs(dimension.low), abs(dimension.high))
        if not fine:
            raise ValueError(f"its architecture has {value!r} for {name!r}")


def read_weights(file: Path, like: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, once its head is found to tell of those that ``like``, a module on ``meta``, has.

    Raises:
        ValueError: names or shapes are others.
        SafetensorError: the file is damaged; its head tells of more or less than there is, for example.
    """
    open_plain(file).close()
    wanted = {name: list(tensor.shape) for name, tensor in like.state_dict().items()}
    # Modules such as trees take the lengths of their arrays from the file, and so no more room than that has.
    free = tuple(
        f"{place}." if place else "" for place, part in like.named_modules() if getattr(part, "lengths_from_file", False)
    )
    with safe_open(file, framework="pt") as opened:
        found = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118 - not a mapping
    for name in sorted({*wanted, *found}):
        if not (free and name.startswith(free)) and wanted.get(name) != found.get(name):
            raise ValueError(f"{file.name} has the shape {found.get(name)} for {name}, where {wanted.get(name)} is wanted")
    return load(file.read_bytes())
