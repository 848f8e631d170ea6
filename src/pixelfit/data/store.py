"""Decoded pictures as one array: every picture read once, brought to one size, kept as uint8 where it can be."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from pixelfit.errors import DataError
from pixelfit.progress import Progress, counted
from pixelfit.types import Array, Ints, Pictures, PictureSpec, PixelScale, Table, Unreadable

# Longest side that models see, in pixels. Twelve times MNIST's pixels: what two cores can train on in minutes.
LONGEST_SIDE = 96
UNREADABLE_SHARE = 0.01
_GREY_MODES = frozenset({"1", "L", "LA", "I;16", "I;16B", "I;16L"})
_WIDE_MODES = frozenset({"I", "F"})
T = TypeVar("T")


def decode(table: Table, progress: Progress) -> Pictures:
    """Decode every picture of the table to one size, chosen from the sizes found.

    Raises:
        DataError: more than 1 % of the pictures cannot be read; the message names the first of them.
    """
    if table.arrays is not None:
        return _from_arrays(table.arrays)
    assert table.paths is not None
    heads = _in_threads(_read_head, table.paths, "Reading sizes", progress)
    good = [head for head in heads if not isinstance(head, str)]
    _refuse_if_many(table, heads)
    sizes = np.array([(height, width) for height, width, _ in good], dtype=np.int64)
    height, width = _working_size(sizes)
    spec = PictureSpec(height, width, 1 if all(grey for _, _, grey in good) else 3)
    bodies: list[Array | str] = _in_threads(
        lambda item: item[1] if isinstance(item[1], str) else read_picture(item[0], spec),
        list(zip(table.paths, heads, strict=True)),
        "Decoding pictures",
        progress,
    )
    unreadable = _refuse_if_many(table, bodies)
    rows = np.array([row for row, body in enumerate(bodies) if not isinstance(body, str)], dtype=np.int64)
    size_of_row = dict(zip((row for row, head in enumerate(heads) if not isinstance(head, str)), sizes, strict=True))
    store = np.stack([body for body in bodies if not isinstance(body, str)])
    return Pictures(
        store=store,
        rows=rows,
        groups=duplicate_groups(store),
        spec=spec,
        unreadable=unreadable,
        original_sizes=np.stack([size_of_row[int(row)] for row in rows]),
    )


def duplicate_groups(store: Array) -> Ints:
    """For each picture the number of its group: pictures with the same pixels share one. Shape (N,)."""
    seen: dict[bytes, int] = {}
    groups = [seen.setdefault(hashlib.blake2b(picture.tobytes(), digest_size=16).digest(), len(seen)) for picture in store]
    return np.array(groups, dtype=np.int64)


def decode_files(paths: Sequence[Path], spec: PictureSpec, progress: Progress) -> Array:
    """Decode files for prediction, shape (N, height, width, channels); raises DataError naming one it cannot read."""
    bodies = _in_threads(lambda path: read_picture(path, spec), paths, "Decoding pictures", progress)
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
    if arrays.dtype == np.uint8 and spec.scale == "raw":
        raise DataError("The model was trained on numbers outside 0 to 255, so it cannot take uint8 pictures.")
    if arrays.dtype != np.uint8 and spec.scale == "unit":
        arrays = arrays * np.float32(255)
    elif arrays.dtype != np.uint8 and spec.scale == "byte" and 0 < arrays.max() <= 1:
        raise DataError("The model was trained on pixels of 0 to 255, and X lies between 0 and 1: multiply it by 255.")
    return _resize(arrays, spec)


def read_picture(path: Path, spec: PictureSpec) -> Array | str:
    """One picture as uint8 of shape (height, width, channels), or the reason why it cannot be read."""
    try:
        with Image.open(path) as opened:
            picture = _upright_8_bit(opened)
            # Transparent pixels have colours that nobody ever saw; on white they look as in a viewer.
            if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
                layers = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers)
            array = np.asarray(picture.convert("L" if spec.channels == 1 else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return _reason(path, error)
    return np.ascontiguousarray(_resize(array.reshape(1, *array.shape[:2], spec.channels), spec)[0])


def _upright_8_bit(picture: Image.Image) -> Image.Image:
    picture.load()
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in _WIDE_MODES:
        raise ValueError(f"pixels of kind {upright.mode} (32 bits) are not supported")
    if upright.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    return upright


def _read_head(path: Path) -> tuple[int, int, bool] | str:
    """Height, width and greyness from the file's head alone, or the reason why it cannot be read."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            if picture.getexif().get(0x0112, 1) >= 5:  # orientations 5 to 8 lie on their side
                width, height = height, width
            return height, width, picture.mode in _GREY_MODES
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return _reason(path, error)


def _reason(path: Path, error: Exception) -> str:
    if not path.exists():
        return "there is no such file"
    if path.is_dir():
        return "it is a folder"
    if path.stat().st_size == 0:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "it is not a picture"
    return str(error).split("\n")[0] or type(error).__name__


def _refuse_if_many(table: Table, results: Sequence[object]) -> tuple[Unreadable, ...]:
    bad = tuple(Unreadable(ref, result) for ref, result in zip(table.refs, results, strict=True) if isinstance(result, str))
    if len(bad) > UNREADABLE_SHARE * len(results):
        listed = "; ".join(f"{item.ref} ({item.reason})" for item in bad[:5])
        more = f"; and {len(bad) - 5:,} more" if len(bad) > 5 else ""
        raise DataError(
            f"{len(bad):,} of {len(results):,} pictures of {table.name} cannot be read, more than the 1 % that are left out: "
            f"{listed}{more}."
        )
    return bad


def _in_threads(work: Callable[..., T], items: Sequence[object], title: str, progress: Progress) -> list[T]:
    # Threads suffice: Pillow lets go of the interpreter's lock while it decodes.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = [pool.submit(work, item) for item in items]
        return [future.result() for future in counted(futures, title, progress)]


def _from_arrays(arrays: Array) -> Pictures:
    scale: PixelScale = "byte"
    if arrays.dtype != np.uint8:
        low, high = float(arrays.min()), float(arrays.max())
        scale = "unit" if low >= 0 and high <= 1 else "byte" if low >= 0 and high <= 255 else "raw"
        if scale == "unit":
            arrays = arrays * np.float32(255)
    sizes = np.tile(np.array(arrays.shape[1:3], dtype=np.int64), (len(arrays), 1))
    height, width = _working_size(sizes)
    spec = PictureSpec(height, width, arrays.shape[3], scale)
    store = _resize(arrays, spec)
    return Pictures(store, np.arange(len(arrays)), duplicate_groups(store), spec, (), sizes)


def _working_size(sizes: Ints) -> tuple[int, int]:
    """The median height and width, made smaller together until the longer is at most LONGEST_SIDE."""
    height, width = (float(side) for side in np.median(sizes, axis=0))
    shrink = min(1.0, LONGEST_SIDE / max(height, width))
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def _resize(arrays: Array, spec: PictureSpec) -> Array:
    """Resize (N, H, W, C) to the spec's size with antialiasing, in chunks so that memory stays small."""
    if arrays.shape[1:3] == (spec.height, spec.width):
        return arrays
    out = np.empty((len(arrays), spec.height, spec.width, arrays.shape[3]), dtype=arrays.dtype)
    for start in range(0, len(arrays), 256):
        chunk = torch.from_numpy(np.array(arrays[start : start + 256])).permute(0, 3, 1, 2).float()
        resized = torch.nn.functional.interpolate(
            chunk, size=(spec.height, spec.width), mode="bilinear", antialias=True, align_corners=False
        )
        if arrays.dtype == np.uint8:
            resized = resized.round().clamp(0, 255)
        out[start : start + 256] = resized.permute(0, 2, 3, 1).numpy().astype(arrays.dtype)
    return out
