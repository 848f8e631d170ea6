"""Folders with a sub-folder a class, with or without train/, val/ and test/ above them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pixelfit.data.arrays import part_named, printable_name
from pixelfit.data.tables import PICTURE_SUFFIXES
from pixelfit.errors import DataError
from pixelfit.types import Table

_LEFT_BY_DESKTOPS = frozenset({"thumbs.db", "desktop.ini"})


def sub_folders(folder: Path) -> list[Path]:
    """The folders in it that are meant for people, in the order of their names."""
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith((".", "__")))


def from_folder(folder: Path) -> Table:
    """A table of every file below the folder, its class the uppermost folder around it, leaving train/, val/ and test/ aside.

    Raises:
        DataError: pictures lie beside the classes, or there are none.
    """
    children = sub_folders(folder)
    _refuse_strays(folder)
    parts = {child: part_named(child.name) for child in children}
    if children and all(parts.values()):
        for child in children:
            _refuse_strays(child)
        found = [(child.name, file, parts[top]) for top in children for child in sub_folders(top) for file in _files_below(child)]
    else:
        found = [(child.name, file, None) for child in children for file in _files_below(child)]
    if not found:
        raise DataError(f"The folder {folder} holds no pictures; it needs a sub-folder with pictures for each class.")
    table = Table(
        name=folder.resolve().name,
        refs=tuple(printable_name(file.relative_to(folder).as_posix()) for _, file, _ in found),
        targets=np.array([printable_name(name) for name, _, _ in found], dtype=object),
        target_name="folder",
        files=tuple(file for _, file, _ in found),
        targets_are_folder_names=True,
    )
    given = all(part is not None for _, _, part in found)
    return replace(table, parts=np.array([part for _, _, part in found], dtype=object)) if given else table


def _refuse_strays(folder: Path) -> None:
    strays = [child for child in sorted(folder.iterdir()) if child.is_file() and child.suffix.lower() in PICTURE_SUFFIXES]
    if strays:
        raise DataError(
            f"{strays[0]} lies in {folder} itself ({len(strays):,} such pictures): "
            f"put every picture into a sub-folder named after its class, or list them in a table (CSV, TSV, Parquet, JSON Lines)."
        )


def _files_below(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not file.name.startswith(".") and file.name.lower() not in _LEFT_BY_DESKTOPS
    )
