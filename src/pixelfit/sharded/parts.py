"""A folder with a part for each shard that is predicted for, there whole or not at all, so that a kill loses one shard.

For each part there is a record in JSON of what it was made from. A part counts once its record is there, which is written last.
The records lie in a folder below, by a name that readers of folders of Parquet files pass over.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from pixelfit.batch import Totals
from pixelfit.data.places import Place
from pixelfit.errors import DataError, OptionError
from pixelfit.files import read_json, write_json
from pixelfit.types import Json

_RECORDS, _TASK, _LOCK = "_records", "predictions.json", ".lock"
_BLOCK = 1 << 20
_FORMAT = 1
_ODD = re.compile(r"[^\w.-]+")
_LONGEST_STEM = 80
_WORDS = {"model": "weights", "coverage": "coverage", "column": "--pictures", "suffix": "form"}


@dataclass(frozen=True)
class Job:
    """What the predictions for all shards have in common; ``suffix`` is the ending of the parts, ``.csv`` or ``.parquet``."""

    model: str
    coverage: float | None
    column: str | None
    suffix: str


@dataclass(frozen=True)
class Written:
    """The rows of a shard in a file that is not in its place yet, and the file's SHA-256."""

    shard: Place
    file: Path
    totals: Totals
    checksum: str


@dataclass(frozen=True)
class Record:
    """What a part was made from, and what it holds."""

    shard: str
    size: int
    mark: str
    model: str
    part: str
    checksum: str
    rows: int
    failed: int
    unlike: int
    first_failure: str

    @property
    def totals(self) -> Totals:
        """Of the part."""
        return Totals(self.rows, self.failed, self.unlike, self.first_failure)


class Parts:
    """The parts of one job in a folder, which is the user's where the parts are to stay in it (``stay``)."""

    def __init__(self, folder: Path, job: Job, *, stay: bool) -> None:
        self.folder, self.job, self.stay = folder, job, stay
        self._records = folder / _RECORDS

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other commands away from the folder; raises OptionError where one is at work there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / _LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise OptionError(f"Another command writes into {self.folder}: wait for it, or choose another place.") from error
        try:
            yield
        finally:
            lock.release()

    def begin(self) -> None:
        """Note what the parts will be of, in an empty folder, or in the place of what was to be joined and never was.

        Raises:
            OptionError: the folder holds other files, or parts that were to stay.
        """
        ours = (self._records / _TASK).is_file()
        if not ours and any(entry.name not in (_LOCK, _RECORDS) for entry in self.folder.iterdir()):
            raise OptionError(f"{self.folder} holds other files: choose an empty folder or a new one.")
        if ours and self.stay:
            raise OptionError(f"{self.folder} holds predictions already: --resume goes on with them; or choose another folder.")
        self.clear()
        write_json(self._records / _TASK, {"format": _FORMAT, **asdict(self.job)})

    def go_on(self, shards: Sequence[Place]) -> dict[str, Record]:
        """The records of the parts that are there, by their shards' names.

        Raises:
            OptionError: there is nothing to go on with, or it is of another model, coverage, column or form.
            DataError: a shard has changed since its part was made, or is not among the ``shards`` any more.
        """
        file = self._records / _TASK
        if not file.is_file():
            raise OptionError(f"There is nothing to resume: {file} does not exist. Leave --resume out to begin.")
        before = self._read(file)
        for what, now in asdict(self.job).items():
            if before.get(what) != now:
                raise OptionError(
                    f"{self.folder} was begun with other {_WORDS[what]}: {before.get(what)}, now {now}. "
                    f"Leave --resume out, or choose another place, to begin anew."
                )
        self._clear_unfinished()
        given = {shard.name: shard for shard in shards}
        found: dict[str, Record] = {}
        for path in sorted(self._records.glob("*.json")):
            if path.name == _TASK:
                continue
            record = _record(self._read(path), path)
            self._check_shard(record, given.get(record.shard))
            if self._is_whole(record):
                found[record.shard] = record
            else:
                path.unlink()  # and is predicted for again
        return found

    def keep(self, written: Written) -> Record:
        """Put the rows of a shard in their place: the part first, and then its record, with which it counts."""
        shard, totals = written.shard, written.totals
        part = self._name(shard.name) + self.job.suffix
        record = Record(
            shard.name, shard.size, shard.mark, self.job.model, part, written.checksum,
            totals.rows, totals.failed, totals.unlike, totals.first_failure,
        )  # fmt: skip
        written.file.replace(self.folder / part)
        write_json(self._records / f"{self._name(shard.name)}.json", asdict(record))
        return record

    def joined(self, records: Sequence[Record], out: IO[bytes], header: bytes) -> None:
        """Write the CSV parts one after the other, below one header."""
        out.write(header)
        for record in records:
            with (self.folder / record.part).open("rb") as part:
                if part.read(len(header)) != header:
                    raise DataError(f"{self.folder / record.part} has other columns than the model's: remove it, and --resume.")
                while block := part.read(_BLOCK):
                    out.write(block)

    def clear(self) -> None:
        """Remove what this class has written; that there was a job at all last, so that a kill leaves nothing unknown."""
        self._clear_unfinished()
        for path in sorted(self._records.glob("*.json")):
            if path.name != _TASK:
                part = self._read(path).get("part")
                if isinstance(part, str) and Path(part).name == part:
                    (self.folder / part).unlink(missing_ok=True)
                path.unlink()
        (self._records / _TASK).unlink(missing_ok=True)
        if self._records.is_dir() and not any(self._records.iterdir()):
            self._records.rmdir()

    def remove(self) -> None:
        """Remove the whole folder, but for what is not ours."""
        self.clear()
        (self.folder / _LOCK).unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _clear_unfinished(self) -> None:
        for folder in (self.folder, self._records):
            for left in folder.glob(".*.part*"):
                left.unlink(missing_ok=True)

    def _check_shard(self, record: Record, shard: Place | None) -> None:
        if shard is None:
            raise DataError(f"{self.folder} has a part of {record.shard}, which is not among the sources any more.")
        if (record.size, record.mark) != (shard.size, shard.mark):
            raise DataError(
                f"{record.shard} has changed since it was predicted for ({record.size:,} bytes then, {shard.size:,} now): "
                f"remove {self._records / self._name(shard.name)}.json to predict for it anew, or choose another place for all."
            )
        if record.model != self.job.model:
            raise DataError(f"{self.folder / record.part} is of the model {record.model}, and this one is {self.job.model}.")

    def _is_whole(self, record: Record) -> bool:
        part = self.folder / record.part
        return part.is_file() and checksum_of(part) == record.checksum

    def _read(self, path: Path) -> Mapping[str, Json]:
        try:
            found = read_json(path)
            if not isinstance(found, dict):
                raise ValueError("it holds no object")
        except ValueError as error:
            raise DataError(f"{path} cannot be read: {error}.") from error
        return found

    def _name(self, shard: str) -> str:
        """What the part of a shard is called, without ending: as the shard, and told from others of that name elsewhere."""
        stem = _ODD.sub("_", shard.rpartition("/")[2].rpartition(".")[0])[:_LONGEST_STEM]
        return f"{stem}-{hashlib.blake2b(shard.encode(), digest_size=6).hexdigest()}"


def checksum_of(file: Path) -> str:
    """Its SHA-256."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _record(found: Mapping[str, Json], path: Path) -> Record:
    try:
        record = Record(**{name: found[name] for name in Record.__dataclass_fields__})
    except KeyError as error:
        raise DataError(f"{path} is no record of a part: it lacks {error}.") from error
    if Path(record.part).name != record.part:
        raise DataError(f"{path} names a part that lies elsewhere: {record.part}.")
    return record
