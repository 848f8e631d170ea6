"""Nets a quarter as wide as users' and a stage less deep, which teach a test of the search as much as theirs do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from pixelfit.models import FAMILIES
from pixelfit.models.family import Choice, Family

FULL_SIZE: Mapping[str, Family] = {name: FAMILIES[name] for name in ("convnet", "resnet")}


def _small(family: Family) -> Family:
    smaller = {"width": _each(family, "width", lambda width: width // 4)}
    if "stages" in family.space:
        smaller["stages"] = _each(family, "stages", lambda stages: stages - 1)
    return replace(family, space={**family.space, **smaller})


def _each(family: Family, name: str, smaller: Callable[[int], int]) -> Choice:
    choice = family.space[name]
    assert isinstance(choice, Choice)
    return Choice(tuple(smaller(int(value)) for value in choice.values), smaller(int(choice.start)))


SMALL: Mapping[str, Family] = {name: _small(family) for name, family in FULL_SIZE.items()}
