"""A uniform sample of the samples in shards, for a search where all of them would fit neither memory nor disk.

Which are in it, and which part of the data each is in, follow from a hash of their names, and not from the order of the shards.
They are streamed once, and those that are chosen are kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO

from pixelfit.data.labelled import Labelled, labelled
from pixelfit.data.places import Place
from pixelfit.data.tables import check_columns, table_of
from pixelfit.errors import DataError
from pixelfit.files import cache_folder, made_beside, parse_json, write_json
from pixelfit.progress import Progress
from pixelfit.types import Columns, Embedded, Json, LeftOut, Table
from pixelfit.words import number_of

MOST_ROWS = 200_000  # which a search takes in a control group of 2 GiB, at 64 pixels a side
MOST_BYTES = 8 << 30  # of pictures
_OF_FREE_DISK = 0.5
_FORMAT = 1
_PICTURES, _ROWS, _ABOUT = "pictures.bin", "rows.jsonl", "about.json"
_PICTURE, _SPLIT = "picture", "split"  # columns of the table
_TEST, _VALIDATION = 0.2, 0.12  # shares: a fifth, and 15 % of the rest, as where pixelfit cuts
_TITLE = "Reading shards"


@dataclass(frozen=True)
class _Row:
    """A chosen sample: its place below 1 by the hash of its name, where its picture is kept, and what is known of it."""

    place: float
    name: str
    start: int
    size: int
    reason: str | None
    fields: dict[str, Json]


def from_shards(shards: Sequence[Place], columns: Columns, *, name: str, told_as: str, progress: Progress) -> Table:
    """A table of a sample of what is in the shards, with its parts; all of it where that is not too much.

    Raises:
        DataError: a shard cannot be reached, or there is nothing in them.
        OptionError: the target is not plain.
    """
    folder = _kept(shards, columns.pictures, progress)
    about = parse_json((folder / _ABOUT).read_bytes())
    rows = [_Row(**parse_json(line)) for line in (folder / _ROWS).read_text(encoding="utf-8").splitlines()]
    good = [row for row in rows if row.reason is None]
    if not good:
        first = f", such as {rows[0].name}: {rows[0].reason}" if rows else ""
        raise DataError(f"{told_as} holds no pictures that can be read{first}.")
    if about["share"] < 1:
        progress.say(
            f"{told_as}: {number_of(about['rows'], 'picture')}, of which the search sees a uniform sample of {len(rows):,} "
            f"(1 in {round(1 / about['share'])}), chosen by a hash of their names."
        )
    import pandas as pd

    frame = pd.DataFrame([row.fields for row in good], index=range(len(good)))
    frame.columns = [str(column) for column in frame.columns]
    frame[_PICTURE] = [row.name for row in good]
    if not any(column.lower() == _SPLIT for column in frame.columns):
        frame[_SPLIT] = [part_by_name(row.name) for row in good]
    chosen, split = check_columns(frame, Columns(columns.targets, _PICTURE, columns.group), told_as=told_as, folder=Path())

    def file_of(row: int, _: str) -> Embedded:
        return Embedded(partial(_read, folder / _PICTURES, good[row].start, good[row].size))

    table = table_of(frame, chosen, split, name=name, told_as=told_as, file_of=file_of)
    left_out = tuple(LeftOut(row.name, row.reason) for row in rows if row.reason is not None)
    return replace(table, left_out=table.left_out + left_out)


@dataclass(frozen=True)
class Kept:
    """What the cache has of some shards: which share of their samples, with how many bytes a picture on average."""

    share: float
    picture_bytes: float


def kept_of(shards: Sequence[Place], column: str | None) -> Kept | None:
    """What the cache has of these shards; None where nobody has read them."""
    folder = _place(shards, column)
    if not folder.is_dir():
        return None
    about = parse_json((folder / _ABOUT).read_bytes())
    return Kept(about["share"], (folder / _PICTURES).stat().st_size / max(1, round(about["rows"] * about["share"])))


def _place(shards: Sequence[Place], column: str | None) -> Path:
    told = sorted((shard.name, shard.size, shard.mark) for shard in shards)
    key = json.dumps([_FORMAT, MOST_ROWS, MOST_BYTES, column, told])
    return cache_folder("shards") / hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def _kept(shards: Sequence[Place], column: str | None, progress: Progress) -> Path:
    """The folder in the cache with the sample, made now or by an earlier run."""
    place = _place(shards, column)
    if place.is_dir():
        return place
    with made_beside(place) as beside:
        most_bytes = min(MOST_BYTES, round(shutil.disk_usage(beside).free * _OF_FREE_DISK))
        with (beside / _PICTURES).open("w+b") as pictures:
            drawn = _Drawn(pictures, MOST_ROWS, most_bytes)
            drawn.add_all(_samples(shards, column, progress))
        with (beside / _ROWS).open("w", encoding="utf-8") as file:
            for row in sorted(drawn.rows, key=lambda row: row.place):
                file.write(json.dumps(vars(row), default=str) + "\n")
        write_json(beside / _ABOUT, {"rows": drawn.seen, "share": drawn.share})
    return place


def _samples(shards: Sequence[Place], column: str | None, progress: Progress) -> Iterator[Labelled]:
    for number, shard in enumerate(shards):
        progress.count(_TITLE, number, len(shards))
        yield from labelled(shard, column)
    progress.count(_TITLE, len(shards), len(shards))


class _Drawn:
    """Those samples whose place by their hash lies below a share, which is halved whenever they become too many.

    The share that is left at the end is the largest such that all below it fit, in whatever order they came.
    """

    def __init__(self, pictures: IO[bytes], most_rows: int, most_bytes: int) -> None:
        self._pictures, self._most_rows, self._most_bytes = pictures, most_rows, most_bytes
        self.rows: list[_Row] = []
        self.seen, self.share, self._bytes = 0, 1.0, 0

    def add_all(self, samples: Iterable[Labelled]) -> None:
        """Keep those that are drawn."""
        for sample in samples:
            self.seen += 1
            place = place_by_name(sample.name)
            if place >= self.share:
                continue
            content = b"" if isinstance(sample.picture, str) else sample.picture
            reason = sample.picture if isinstance(sample.picture, str) else None
            self._pictures.write(content)
            self.rows.append(_Row(place, sample.name, self._bytes, len(content), reason, dict(sample.fields)))
            self._bytes += len(content)
            while len(self.rows) > self._most_rows or self._bytes > self._most_bytes:
                self._halve()

    def _halve(self) -> None:
        """Drop about half of the samples, and move the others' pictures together."""
        self.share /= 2
        kept, end = [], 0
        for row in self.rows:
            if row.place < self.share:
                self._pictures.seek(row.start)
                content = self._pictures.read(row.size)
                self._pictures.seek(end)
                self._pictures.write(content)
                kept.append(replace(row, start=end))
                end += row.size
        self._pictures.seek(end)
        self._pictures.truncate()
        self.rows, self._bytes = kept, end


def _places(name: str) -> tuple[float, float]:
    """Two numbers from 0 to 1 that a name's hash decides, independent of one another."""
    digest = hashlib.blake2b(name.encode("utf-8", "backslashreplace"), digest_size=16).digest()
    first, second = (int.from_bytes(half) / 2**64 for half in (digest[:8], digest[8:]))
    return first, second


def place_by_name(name: str) -> float:
    """A number from 0 to 1: a sample is chosen where it lies below the share of those that are."""
    return _places(name)[0]


def part_by_name(name: str) -> str:
    """The part of the data in which a sample of this name is, where its owner says nothing."""
    place = _places(name)[1]
    return "test" if place < _TEST else "val" if place < _TEST + _VALIDATION else "train"


def _read(pictures: Path, start: int, size: int) -> bytes:
    with pictures.open("rb") as file:
        file.seek(start)
        return file.read(size)
