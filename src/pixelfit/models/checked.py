"""Dataclasses from JSON that may be a stranger's."""

from __future__ import annotations

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from pixelfit.types import Json

T = TypeVar("T")


def checked(kind: type[T], value: Json) -> T:
    """A dataclass from its JSON; raises ValueError for fields that are missing, unknown or of another type."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{kind.__name__} {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
