"""Whatever the user has, turned into a Table: a named data set, a folder, a CSV file, or arrays."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TypeAlias

import numpy as np

from pixelfit.data import named
from pixelfit.errors import DataError, OptionError
from pixelfit.progress import Progress
from pixelfit.types import Array, Table

Source: TypeAlias = str | Path | tuple[object, object]

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
_LEFT_BY_DESKTOPS = frozenset({"thumbs.db", "desktop.ini"})
_SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


def load_table(source: Source, *, target: str | None, data_dir: Path | None, progress: Progress) -> Table:
    """Find every picture and its target.

    Args:
        source: the name of a data set (``pixelfit data list``), a folder with a sub-folder a class, a CSV file with
            a column of paths and a column of targets, or a pair ``(X, y)``: pictures as an array of shape (N, H, W)
            or (N, H, W, C), or as a list of N paths, and N targets.
        target: the target column, for a CSV file with more than two columns.
        data_dir: where the files of a named data set lie, if the user has them.
        progress: is told how far a download has come.

    Raises:
        DataError: there is no such path, or it holds nothing that could be used; the message names it.
    """
    if isinstance(source, tuple):
        return _from_pair(*source)
    path = Path(source).expanduser()
    if str(source) not in named.NAMED and path.suffix.lower() != ".csv" and target is not None:
        raise OptionError(f"--target {target!r} is for CSV files, and {source} is none.")
    if str(source) in named.NAMED:
        return named.NAMED[str(source)].load(data_dir, progress)
    if path.is_dir():
        return _from_folder(path)
    if path.is_file() and path.suffix.lower() == ".csv":
        return _from_csv(path, target)
    if path.is_file():
        raise DataError(f"{source} is neither a folder nor a CSV file; give one of these, or a name: {', '.join(named.NAMED)}.")
    raise DataError(f"There is no file or folder {source}, and no data set of that name (known: {', '.join(named.NAMED)}).")


def _from_folder(folder: Path) -> Table:
    classes = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    strays = [child for child in folder.iterdir() if child.is_file() and child.suffix.lower() in PICTURE_SUFFIXES]
    if classes and {child.name.lower() for child in classes} <= _SPLIT_NAMES:
        raise DataError(
            f"The sub-folders of {folder} ({', '.join(child.name for child in classes)}) are splits and not classes; "
            f"give one folder with a sub-folder a class."
        )
    if strays:
        raise DataError(
            f"{strays[0]} lies in {folder} itself ({len(strays):,} such pictures): "
            f"put every picture into a sub-folder named after its class, or list them in a CSV file."
        )
    found = [(child.name, file) for child in classes for file in _files_below(child)]
    if not found:
        raise DataError(f"The folder {folder} holds no pictures; it needs a sub-folder with pictures for each class.")
    return Table(
        name=folder.resolve().name,
        refs=tuple(_printable(file.relative_to(folder).as_posix()) for _, file in found),
        targets=np.array([_printable(name) for name, _ in found], dtype=object),
        target_name="folder",
        paths=tuple(file for _, file in found),
        targets_are_folder_names=True,
    )


def _printable(name: str) -> str:
    """A file's name with the bytes that are no UTF-8 spelled out, so that it can be written into files."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _files_below(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not file.name.startswith(".") and file.name.lower() not in _LEFT_BY_DESKTOPS
    )


def _from_csv(path: Path, target: str | None) -> Table:
    import pandas as pd

    try:
        frame = pd.read_csv(path, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV file: {error}.") from error
    if frame.empty:
        raise DataError(f"{path} has no rows below its header.")
    columns = [str(column) for column in frame.columns]
    frame.columns = pd.Index(columns)
    if target is not None and target not in columns:
        raise OptionError(f"--target {target!r} is no column of {path}; its columns are {', '.join(columns)}.")
    path_column = _path_column(frame, path, exclude=target)
    if target is None:
        others = [column for column in columns if column != path_column]
        if len(others) != 1:
            raise OptionError(
                f"{path} has {len(others)} columns besides {path_column!r}: name one with --target ({', '.join(others)})."
            )
        target = others[0]
    names = frame[path_column]
    if names.isna().any():
        row = int(np.flatnonzero(names.isna().to_numpy())[0])
        raise DataError(f"Row {row + 1} of {path} has no path in column {path_column!r}.")
    refs = tuple(str(name) for name in names)
    return Table(
        name=path.stem,
        refs=refs,
        targets=frame[target].to_numpy(),
        target_name=target,
        paths=tuple(path.parent / ref for ref in refs),  # a path that is absolute stays so
    )


def _path_column(frame: object, path: Path, *, exclude: str | None) -> str:
    import pandas as pd

    assert isinstance(frame, pd.DataFrame)
    candidates = [column for column in frame.columns if column != exclude]
    for column in candidates:
        # A few missing files must not hide the column: one that exists among the first hundred is enough.
        if any((path.parent / str(value)).is_file() for value in frame[column].head(100)):
            return str(column)
    for column in candidates:
        if any(Path(str(value)).suffix.lower() in PICTURE_SUFFIXES for value in frame[column].head(100)):
            first = path.parent / str(frame[column].iloc[0])
            raise DataError(f"Column {column!r} of {path} holds paths, but none of its first files exists, such as {first}.")
    raise DataError(f"No column of {path} holds paths of pictures (looked in {', '.join(map(str, candidates)) or 'none'}).")


def _from_pair(X: object, y: object) -> Table:
    targets = np.asarray(y)
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.ndim != 1:
        raise DataError(f"y must have one target a picture, shape (N,); its shape is {targets.shape}.")
    paths: tuple[Path, ...] | None = None
    arrays: Array | None = None
    if isinstance(X, (list, tuple)) and X and all(isinstance(item, (str, Path)) for item in X):
        paths = tuple(Path(item) for item in X)
        refs = tuple(_printable(str(item)) for item in X)
    else:
        arrays = check_arrays(X)
        refs = tuple(f"row {row}" for row in range(len(arrays)))
    if len(refs) != len(targets):
        raise DataError(f"X and y must be of equal length; X has {len(refs):,} pictures and y has {len(targets):,} targets.")
    return Table(name="arrays", refs=refs, targets=targets, target_name="y", paths=paths, arrays=arrays)


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
