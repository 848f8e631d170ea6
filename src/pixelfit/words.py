"""How targets and predictions are written for people."""

from __future__ import annotations

from pixelfit.types import Json


def number_of(count: int, thing: str) -> str:
    """A number of things: ``1 group``, ``2,000 groups``."""
    return f"{count:,} {thing}" + ("" if count == 1 else "s")


def value_words(value: Json) -> str:
    """A target or prediction in few characters."""
    if not isinstance(value, float):  # a NumPy float is one, too
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def change_words(name: str) -> str:
    """A change of pictures as the user writes it."""
    return name.replace("_", "-")
