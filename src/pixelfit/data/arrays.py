"""Pictures that come as numbers: NumPy arrays, pairs (X, y), and ``.npz`` files of them."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import psutil
from numpy.lib import format as npy

from pixelfit.data.targets import as_tuples, is_missing, is_number, width_of
from pixelfit.errors import DataError
from pixelfit.files import ALWAYS_FINE, MOST_GROWTH, UNREADABLE, open_plain
from pixelfit.types import Array, LeftOut, Part, PictureFile, Table

# What people call pictures and targets in .npz files: Keras' mnist.npz has x_train and y_train, MedMNIST train_images.
_PICTURES = frozenset({"x", "image", "images", "picture", "pictures", "data", "imgs"})
_TARGETS = frozenset({"y", "label", "labels", "target", "targets"})
_PARTS: Mapping[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


def part_named(name: str) -> Part | None:
    """The part of the data that a word such as ``val`` or ``Testing`` means; None for any other word."""
    return _PARTS.get(name.strip().lower())


def from_pair(X: object, y: object) -> Table:
    """A table of N pictures, as an array or as a list of paths, and their N targets."""
    targets = _targets(y)
    files: tuple[PictureFile, ...] | None = None
    arrays: Array | None = None
    if isinstance(X, (list, tuple)) and X and all(isinstance(item, (str, Path)) for item in X):
        files = tuple(Path(item) for item in X)
        refs = tuple(printable_name(str(item)) for item in X)
    else:
        arrays = check_arrays(X)
        refs = tuple(f"row {row}" for row in range(len(arrays)))
    if len(refs) != len(targets):
        raise DataError(f"X and y must be of equal length; X has {len(refs):,} pictures and y has {len(targets):,} targets.")
    names = tuple(f"y_{place}" for place in range(targets.shape[1])) if targets.ndim == 2 else ()
    reasons: dict[int, str] = {}
    for column, name in zip(targets.T, names, strict=True) if names else [(targets, "y")]:
        for row in np.flatnonzero(_missing(column)):
            reasons.setdefault(int(row), f"no target in {name!r}")
    left_out = tuple(LeftOut(refs[row], reason) for row, reason in sorted(reasons.items()))
    if left_out:
        kept = np.array([row for row in range(len(refs)) if row not in reasons], dtype=np.int64)
        refs, targets = tuple(refs[row] for row in kept), targets[kept]
        files, arrays = files and tuple(files[row] for row in kept), None if arrays is None else arrays[kept]
    return Table(
        name="arrays",
        refs=refs,
        targets=targets,
        target_name="y",
        files=files,
        arrays=arrays,
        left_out=left_out,
        target_names=names,
    )


_LISTS = (list, tuple, set, frozenset, np.ndarray)


def _numeric(value: object) -> bool:
    return is_number(value) or is_missing(value)


def _targets(y: object) -> Array:
    """The targets of arrays as a table has them; raises DataError for what are none."""
    given = y if isinstance(y, (list, tuple)) else np.asarray(y)
    rows = list(given) if isinstance(given, (list, tuple)) or (given.dtype == object and given.ndim == 1) else []
    lists = [row for row in rows if isinstance(row, _LISTS)]
    if lists:
        alone = next((place for place, row in enumerate(rows) if not isinstance(row, _LISTS) and not is_missing(row)), None)
        if alone is not None:
            raise DataError(f"Row {alone} of y is {rows[alone]!r}, where other rows are lists.")
        if len(lists) < len(rows) or not all(len(row) == len(lists[0]) and all(map(_numeric, row)) for row in lists):
            return as_tuples(rows, [f"Row {place} of y" for place in range(len(rows))], "y")
        given = np.array([list(row) for row in rows], dtype=np.float64)
    targets = np.asarray(given)
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.ndim not in (1, 2):
        raise DataError(f"y must have one target a picture, shape (N,), or several, shape (N, T); its shape is {targets.shape}.")
    if targets.ndim == 2:
        try:
            targets = targets if targets.dtype.kind in "buif" else targets.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"y of shape {targets.shape} must hold numbers; for labels give a list of them for each picture."
            ) from error
    return targets


def _missing(targets: Array) -> Array:
    """Which targets are None, NaN or what else pandas takes for missing; it is loaded for Python objects alone."""
    if targets.dtype.kind != "O":
        return np.isnan(targets) if targets.dtype.kind == "f" else np.zeros(len(targets), dtype=bool)
    import pandas as pd

    return np.asarray(pd.isna(targets))


def from_npz(path: Path) -> Table:
    """A table from an ``.npz`` file: one array of pictures and one of targets, or a pair of them for each part of the data.

    Raises:
        DataError: the file is damaged, holds Python objects, or its arrays cannot be told apart by their names.
    """
    contents = read_npz(path)
    pairs = _pairs(path, contents)
    tables = {}
    for part, (pictures, targets) in pairs.items():
        try:
            tables[part] = from_pair(contents[pictures], contents[targets])
        except DataError as error:
            raise DataError(f"{pictures} and {targets} of {path} cannot be used: {error}") from error
    widths = {pairs[part][1]: width_of(table) for part, table in tables.items()}
    if len(set(widths.values())) > 1:
        found = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise DataError(f"The pictures of {path} must have equally many targets; there are in {found}.")
    shapes = {part: arrays_of(table).shape[1:] for part, table in tables.items()}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{pairs[part][0]} {shape}" for part, shape in shapes.items())
        raise DataError(f"The pictures of {path} must be of one shape; it has {found}.")
    return Table(
        name=path.stem,
        refs=tuple(f"{part} {ref}".strip() for part, table in tables.items() for ref in table.refs),
        targets=np.concatenate([table.targets for table in tables.values()]),
        target_name=pairs[""][1] if "" in pairs else "target",
        arrays=np.concatenate([arrays_of(table) for table in tables.values()]),
        parts=None if "" in pairs else np.repeat(list(tables), [len(table.refs) for table in tables.values()]).astype(object),
        left_out=tuple(
            LeftOut(f"{part} {item.ref}".strip(), item.reason) for part, table in tables.items() for item in table.left_out
        ),
        target_names=next(iter(tables.values())).target_names,
    )


def pictures_of_npz(path: Path) -> Array:
    """The pictures (N, H, W, C) of an ``.npz`` file, whether or not targets lie beside them, its parts one after the other.

    Raises:
        DataError: the file is damaged, or its pictures cannot be told by their names.
    """
    contents = read_npz(path)
    names = [name for name in contents if _kind_and_part(name)[0] == "pictures"]
    if not names and len(contents) == 1:
        names = list(contents)
    if not names:
        raise DataError(f"{path} needs an array of pictures, named x or images; it holds {', '.join(contents) or 'nothing'}.")
    try:
        return np.concatenate([check_arrays(contents[name]) for name in names])
    except (DataError, ValueError) as error:
        raise DataError(f"{', '.join(names)} of {path} cannot be used: {error}") from error


def read_npz(path: Path) -> dict[str, Array]:
    """All arrays of an ``.npz`` file by name; raises DataError if it is damaged, holds Python objects or is too large."""
    try:
        with open_plain(path) as file:
            with zipfile.ZipFile(file) as members:
                _check_sizes(path, members)
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                if not isinstance(stored, np.lib.npyio.NpzFile):
                    raise DataError(f"{path} is an .npy file: pictures and their targets lie in an .npz file together.")
                return {name: stored[name] for name in stored.files}
    except UNREADABLE as error:
        if isinstance(error, DataError):
            raise
        reason = "it holds Python objects, which are not loaded" if "allow_pickle" in str(error) else str(error)
        raise DataError(f"{path} cannot be read as an .npz file: {reason}.") from error


def _check_sizes(path: Path, members: zipfile.ZipFile) -> None:
    """Raise DataError, before room is made for any array, if they are not of the sizes that their heads tell, or too large."""
    unpacked, size = sum(member.file_size for member in members.infolist()), path.stat().st_size
    if unpacked > psutil.virtual_memory().available:
        raise DataError(f"{path} would take {unpacked / 2**30:,.1f} GiB of memory, more than there is.")
    if unpacked > max(MOST_GROWTH * size, ALWAYS_FINE):
        raise DataError(f"{path} would grow to more than {MOST_GROWTH} times its size: it holds hardly pictures.")
    for member in members.infolist():
        with members.open(member) as file:
            version = npy.read_magic(file)
            read_head = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read_head(file)
            told = math.prod(shape) * dtype.itemsize
            if not dtype.hasobject and told != member.file_size - file.tell():
                raise DataError(f"{path} is damaged: {member.filename} tells of {told:,} bytes and holds others.")


def _pairs(path: Path, contents: Mapping[str, Array]) -> dict[str, tuple[str, str]]:
    """For each part of the data (``""``: all of them) the names of its pictures and its targets."""
    found: dict[str, dict[str, str]] = {}
    for name in contents:
        kind, part = _kind_and_part(name)
        if kind is not None and found.setdefault(part, {}).setdefault(kind, name) != name:
            raise DataError(f"{path} has two arrays of {kind}, {found[part][kind]!r} and {name!r}; leave one.")
    lone = [name for kinds in found.values() if len(kinds) == 1 for name in kinds.values()]
    if not found or lone or ("" in found and len(found) > 1):
        raise DataError(
            f"{path} needs an array of pictures and one of targets, named x and y or images and labels, or such a pair for "
            f"each part, as in x_train, y_train, x_test, y_test; it holds {', '.join(contents) or 'nothing'}."
        )
    return {part: (kinds["pictures"], kinds["targets"]) for part, kinds in found.items()}


def arrays_of(table: Table) -> Array:
    """The pictures of a table that has them as an array."""
    assert table.arrays is not None
    return table.arrays


def _kind_and_part(name: str) -> tuple[str | None, str]:
    """What an array of that name holds, ``pictures`` or ``targets`` (None: neither), and of which part (``""``: of all)."""
    if name in ("arr_0", "arr_1"):  # what np.savez calls arrays that were given no name
        return ("pictures", "targets")[int(name[-1])], ""
    words = re.split(r"[_\-. ]", name.lower())
    part = next((found for word in words if (found := part_named(word))), "")
    kinds = [("pictures" if word in _PICTURES else "targets") for word in words if word in _PICTURES | _TARGETS]
    rest = [word for word in words if word not in _PICTURES | _TARGETS and part_named(word) is None]
    return (kinds[0] if len(kinds) == 1 and not rest else None), part


def printable_name(name: str) -> str:
    """A file's name with the bytes that are no UTF-8 spelled out, so that it can be written into files."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def check_arrays(X: object) -> Array:
    """Pictures as an array of shape (N, H, W, C), uint8 or float32; raises DataError naming what is wrong."""
    try:
        arrays = np.asarray(X)
    except ValueError as error:
        raise DataError(f"X is no array of pictures of one size: {error}.") from error
    if arrays.ndim == 3:
        arrays = arrays[..., np.newaxis]
    if arrays.ndim != 4:
        raise DataError(f"X must have shape (N, H, W) or (N, H, W, C); its shape is {arrays.shape}.")
    if arrays.size == 0:
        raise DataError(f"X holds no pictures; its shape is {arrays.shape}.")
    if arrays.shape[1] in (1, 3) and arrays.shape[3] > 4:
        raise DataError(f"X of shape {arrays.shape} looks channels-first; give (N, H, W, C), as np.moveaxis(X, 1, -1) makes it.")
    if arrays.dtype == np.uint8:
        return arrays
    if arrays.dtype == np.bool_:
        return arrays.astype(np.uint8) * np.uint8(255)
    if np.issubdtype(arrays.dtype, np.integer):
        return arrays.astype(np.uint8) if arrays.min() >= 0 and arrays.max() <= 255 else arrays.astype(np.float32)
    if np.issubdtype(arrays.dtype, np.floating):
        bad = np.flatnonzero(~np.isfinite(arrays).all(axis=(1, 2, 3)))
        if len(bad):
            raise DataError(f"Picture {int(bad[0])} of X (and {len(bad) - 1:,} more) has NaN or infinite pixels.")
        return arrays.astype(np.float32)
    raise DataError(f"X must hold numbers; its type is {arrays.dtype}.")
