"""Decoded pictures as one array: every picture read once, brought to one size, kept as uint8 where it can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pixelfit.data.cached import SHARE_OF_MEMORY, Expectation, Heads, build, find, in_threads, outline_of
from pixelfit.data.duplicates import exact_groups
from pixelfit.data.pictures import PictureHead, read_head, read_picture, resize
from pixelfit.environment import memory_limit
from pixelfit.errors import DataError
from pixelfit.options import MOST_LEFT_OUT
from pixelfit.progress import Progress
from pixelfit.types import Array, LeftOut, PictureFile, Pictures, PictureSpec, PixelScale, Table

# Longest sides at which pictures may be stored, in pixels: the largest at which so many colour pictures fit into memory.
_SIDES = (224, 160, 128, 96)
_NAMED = 5  # rows in a message
_LOOKED_AT = 64  # files whose heads are read first


def decode(table: Table, progress: Progress, *, most_left_out: float = MOST_LEFT_OUT) -> Pictures:
    """Decode every picture of the table to one size, chosen from the sizes found.

    Raises:
        DataError: a larger share than ``most_left_out`` of the rows cannot be used; the message names the first of them.
    """
    if table.arrays is not None:
        return _from_arrays(table, table.arrays, most_left_out)
    assert table.files is not None
    longest = _longest_side(len(table.files))
    outline = outline_of(table.files, longest)
    stored = find(outline, table.files, progress)
    if stored is None:

        def plan(heads: Heads) -> PictureSpec:
            _refuse_if_many(table, heads, most_left_out)
            return _common_form(table, [head for head in heads if not isinstance(head, str)]).within(longest)

        stored = build(outline, table.files, plan, _expectation(table.files, plan), progress)
    left_out = _refuse_if_many(table, stored.heads, most_left_out)
    used = [(row, head) for row, head in enumerate(stored.heads) if not isinstance(head, str)]
    return Pictures(
        store=stored.pictures,
        rows=np.array([row for row, _ in used], dtype=np.int64),
        groups=exact_groups(stored.pictures),
        spec=stored.spec,
        left_out=left_out,
        original_sizes=np.array([(head.height, head.width) for _, head in used], dtype=np.int64).reshape(-1, 2),
        kinds=tuple(head.kind for _, head in used),
    )


def _expectation(files: Sequence[PictureFile], plan: Callable[[Heads], PictureSpec]) -> Expectation | None:
    """What all files are likely to be: what some from all over them are, if these are alike."""
    heads = [read_head(file) for file in files[:: max(1, len(files) // _LOOKED_AT)]]
    first = heads[0] if heads else ""
    return None if isinstance(first, str) or any(head != first for head in heads) else Expectation(first, plan(heads))


def _common_form(table: Table, heads: Sequence[PictureHead]) -> PictureSpec:
    """The form in which most pictures can be had without loss; the others cannot be read in it, and are left out."""
    if not heads:
        raise DataError(f"None of the {len(table.refs):,} pictures of {table.name} can be read.")
    floats = sum(head.depth == "float" for head in heads)
    numbers = floats > len(heads) / 2
    kept = [head for head in heads if (head.depth == "float") == numbers] or heads
    scale: PixelScale = "raw" if numbers else "wide" if any(head.depth == "wide" for head in kept) else "byte"
    usual = [head for head in kept if head.channels in (1, 3)]
    if len(usual) < len(kept) / 2:
        channels = Counter(head.channels for head in kept).most_common(1)[0][0]
    else:
        channels = 1 if all(head.channels == 1 for head in usual) else 3
    height, width = np.median([(head.height, head.width) for head in kept], axis=0)
    return PictureSpec(round(height), round(width), channels, scale)


def decode_files(paths: Sequence[Path], spec: PictureSpec, progress: Progress) -> Array:
    """Decode files for prediction, shape (N, height, width, channels); raises DataError naming one it cannot read."""
    bodies = in_threads(lambda path: read_picture(path, spec), paths, "Decoding pictures", progress)
    for path, body in zip(paths, bodies, strict=True):
        if isinstance(body, str):
            raise DataError(f"{path} cannot be read as a picture: {body}.")
    return np.stack([body for body in bodies if not isinstance(body, str)])


def to_spec(arrays: Array, spec: PictureSpec) -> Array:
    """Bring checked arrays (N, H, W, C) to the form in which a model was trained.

    Raises:
        DataError: other channels than the model's, or numbers on another scale.
    """
    if arrays.shape[3] != spec.channels:
        raise DataError(f"The model takes pictures of {spec.channels} channel(s); X has {arrays.shape[3]}: shape {arrays.shape}.")
    if arrays.dtype == np.uint8 and spec.scale in ("wide", "raw"):
        raise DataError("The model was trained on numbers outside 0 to 255, so it cannot take uint8 pictures.")
    if arrays.dtype != np.uint8 and spec.scale == "unit":
        arrays = arrays * np.float32(255)
    elif arrays.dtype != np.uint8 and spec.scale == "byte" and 0 < arrays.max() <= 1:
        raise DataError("The model was trained on pixels of 0 to 255, and X lies between 0 and 1: multiply it by 255.")
    return resize(arrays, spec)


def _refuse_if_many(table: Table, results: Sequence[object], most: float) -> tuple[LeftOut, ...]:
    """All rows that are left out, for whatever reason: those without a target and those whose result is a reason."""
    bad = table.left_out + tuple(
        LeftOut(table.refs[row], result) for row, result in enumerate(results) if isinstance(result, str)
    )
    rows = len(table.refs) + len(table.left_out)
    if len(bad) > most * rows:
        listed = "; ".join(f"{item.ref} ({item.reason})" for item in bad[:_NAMED])
        more = f"; and {len(bad) - _NAMED:,} more" if len(bad) > _NAMED else ""
        raise DataError(
            f"{len(bad):,} of {rows:,} pictures of {table.name} cannot be used, more than the {most:.3g} that --max-left-out "
            f"allows: {listed}{more}."
        )
    return bad


def _from_arrays(table: Table, arrays: Array, most_left_out: float) -> Pictures:
    left_out = _refuse_if_many(table, [], most_left_out)
    scale: PixelScale = "byte"
    if arrays.dtype != np.uint8:
        low, high = float(arrays.min()), float(arrays.max())
        scale = "unit" if low >= 0 and high <= 1 else "byte" if low >= 0 and high <= 255 else "raw"
        if scale == "unit":
            arrays = arrays * np.float32(255)
    sizes = np.tile(np.array(arrays.shape[1:3], dtype=np.int64), (len(arrays), 1))
    spec = PictureSpec(arrays.shape[1], arrays.shape[2], arrays.shape[3], scale).within(_longest_side(len(arrays)))
    store = resize(arrays, spec)
    return Pictures(store, np.arange(len(arrays)), exact_groups(store), spec, left_out, sizes, ())


def _longest_side(count: int) -> int:
    room = SHARE_OF_MEMORY * memory_limit()
    return next((side for side in _SIDES if count * side**2 * 3 <= room), _SIDES[-1])
