"""How targets and predictions are written for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import SupportsFloat

from pixelfit.types import Json


def number_of(count: int, thing: str) -> str:
    """A number of things: ``1 group``, ``2,000 groups``."""
    return f"{count:,} {thing}" + ("" if count == 1 else "s")


def value_words(value: Json) -> str:
    """A target or prediction in few characters."""
    if not isinstance(value, float):  # a NumPy float is one, too
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def single_precision(value: SupportsFloat) -> float:
    """A number to the seven digits that single precision has, in which models compute."""
    return float(f"{float(value):.7g}")


def change_words(name: str) -> str:
    """A change of pictures as the user writes it."""
    return name.replace("_", "-")


def choices_of(recipe: Mapping[str, Json]) -> dict[str, Json]:
    """A recipe's choices (``Recipe.to_json``), each under a name for people; what a family has of its own goes under its name."""
    named: dict[str, Json] = {}
    for name, value in recipe.items():
        if isinstance(value, Mapping):
            group = str(recipe["family"]) if name == "architecture" else name
            named |= {f"{group} {inner}".replace("_", " "): each for inner, each in value.items()}
        else:
            named[name.replace("_", " ")] = value
    return named
