"""Pictures without targets, one after the other from whatever the user has, so that any number of them takes little memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pixelfit.data.archives import is_archive, unpacked
from pixelfit.data.arrays import pictures_of_npz, printable_name
from pixelfit.data.items import Item
from pixelfit.data.shards import items_of, shards_of
from pixelfit.data.tables import PICTURE_SUFFIXES, is_table, path_column, path_entries
from pixelfit.errors import DataError, OptionError
from pixelfit.progress import Progress
from pixelfit.words import number_of

STANDARD_INPUT = "-"
_ROWS = 1_000  # of a table at once


@dataclass(frozen=True)
class Stream:
    """Pictures one after the other, which can be gone through again, but for standard input; and about how many there are."""

    items: Callable[[], Iterator[Item]]
    total: int | None


def stream_of(given: Sequence[str | Path], *, column: str | None, lines: Iterable[str] | None, progress: Progress) -> Stream:
    """The pictures of files, folders, tables, archives, ``.npz`` files or shards, in this order; in folders those below, by name.

    Args:
        given: their paths; ``-`` means ``lines``. Shards (see ``shards_of``) stand alone.
        column: the tables' column of paths, or the shards' of pictures, where there are several.
        lines: a path a line, as standard input brings them.
        progress: is told how far unpacking is, and what is passed over.

    Raises:
        DataError: something is missing, or holds no pictures.
        OptionError: ``column`` is named and none of the sources is a table.
    """
    shards = shards_of(given, column)
    if shards is not None:
        return Stream(lambda: (item for shard in shards for item in items_of(shard, column)), None)
    if column is not None and not any(is_table(Path(each)) for each in given):
        raise OptionError(f"--pictures {column!r} names a column, which only tables have, and none is among the sources.")
    parts = [_part(Path(each), column, progress) if str(each) != STANDARD_INPUT else _typed(lines) for each in given]
    totals = [part.total for part in parts]
    return Stream(
        lambda: (item for part in parts for item in part.items()), None if None in totals else sum(total or 0 for total in totals)
    )


def _part(path: Path, column: str | None, progress: Progress) -> Stream:
    path = path.expanduser()
    if not path.exists():
        raise DataError(f"{path} cannot be read as a picture: there is no such file.")
    if path.is_dir():
        return _below(path, path, progress)
    if is_archive(path):
        return _below(unpacked(path, progress), path, progress)
    if is_table(path):
        chosen = path_column(path, column)
        return Stream(lambda: _of_table(path, chosen), _lines_in(path))
    if path.suffix.lower() == ".npz":
        arrays = pictures_of_npz(path)
        return Stream(lambda: (Item(f"{path.name} row {row}", array) for row, array in enumerate(arrays)), len(arrays))
    return Stream(lambda: iter([Item(printable_name(str(path)), path)]), 1)


def _typed(lines: Iterable[str] | None) -> Stream:
    if lines is None:
        raise OptionError(f"{STANDARD_INPUT} stands for standard input, which there is none of here.")
    entries = (line.rstrip("\r\n") for line in lines)
    return Stream(lambda: (Item(printable_name(entry), Path(entry)) for entry in entries if entry), None)


def _below(folder: Path, told_as: Path, progress: Progress) -> Stream:
    total = others = 0
    for file in _files(folder):
        if file.suffix.lower() in PICTURE_SUFFIXES:
            total += 1
        else:
            others += 1
    if total == 0:
        raise DataError(f"{told_as} holds no pictures (files that end in {', '.join(sorted(PICTURE_SUFFIXES))}).")
    if others:
        progress.say(f"Passed over in {told_as}: {number_of(others, 'file')} whose names do not end as pictures' do.")

    def items() -> Iterator[Item]:
        for file in _files(folder):
            if file.suffix.lower() in PICTURE_SUFFIXES:
                yield Item(printable_name(str(told_as / file.relative_to(folder))), file)

    return Stream(items, total)


def _files(folder: Path) -> Iterator[Path]:
    """The files below the folder without hidden ones, those of each folder by name and then its folders'."""
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                (folders if entry.is_dir() else files).append(entry.name)
    yield from (folder / name for name in sorted(files))
    for name in sorted(folders):
        if not (folder / name).is_symlink():  # which may lead back up
            yield from _files(folder / name)


def _of_table(path: Path, column: str) -> Iterator[Item]:
    row = 0
    for entries in path_entries(path, column, _ROWS):
        for entry in entries:
            row += 1
            if entry is None:
                yield Item(f"row {row}", f"no path in {column!r}")
            else:
                yield Item(printable_name(entry), path.parent / entry)


def _lines_in(path: Path) -> int | None:
    """About how many rows a table has, for a bar; None where counting would take reading all of it."""
    if path.suffix.lower() == ".parquet":
        return None
    with path.open("rb") as file:
        blocks = iter(lambda: file.read(1 << 20), b"")
        return max(1, sum(block.count(b"\n") for block in blocks) - (path.suffix.lower() != ".jsonl"))
