"""Nets a sixteenth as large as users': 4 channels teach a test of the search as much as 16 do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pixelfit.models import FAMILIES
from pixelfit.models.family import Choice, Family

FULL_SIZE: Mapping[str, Family] = {name: FAMILIES[name] for name in ("convnet", "resnet")}


def _small(family: Family) -> Family:
    widths = family.space["width"]
    assert isinstance(widths, Choice)
    smaller = Choice(tuple(int(width) // 4 for width in widths.values), int(widths.start) // 4)
    return replace(family, space={**family.space, "width": smaller})


SMALL: Mapping[str, Family] = {name: _small(family) for name, family in FULL_SIZE.items()}
