"""A picture to predict for, and some of them at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pixelfit.types import Array, PictureFile

_MOST_HELD = 32 << 20  # bytes of files


@dataclass(frozen=True)
class Item:
    """A picture to predict for: a file, an array (H, W, C), or the reason why there is neither.

    ``held`` counts the bytes of a file that are in memory already.
    """

    name: str
    picture: PictureFile | Array | str
    held: int = 0


def in_chunks(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """So many at a time, or fewer where they are large and in memory already."""
    chunk: list[Item] = []
    held = 0
    for item in items:
        chunk.append(item)
        held += item.held
        if len(chunk) == size or held > _MOST_HELD:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk
