"""Files: written so that a kill at any moment leaves either the old content or the new; read as a stranger's may be."""

from __future__ import annotations

import csv
import io
import json
import lzma
import math
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn

import platformdirs

from pixelfit.types import Json

# What is unpacked may grow by so much; pictures and tables do not. A bomb (such as 42.zip) grows by a thousand and more.
MOST_GROWTH = 100
ALWAYS_FINE = 100 << 20  # bytes: small flat drawings may well grow by more
# What the readers of pictures, tables, arrays and archives raise for files that are damaged, or were made to break them.
UNREADABLE = (
    OSError, ValueError, SyntaxError, EOFError, LookupError, ArithmeticError, TypeError, AttributeError, AssertionError,
    RuntimeError, MemoryError, struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, csv.Error,
    tokenize.TokenError,
)  # fmt: skip
_MOST_JSON = 256 << 20  # bytes: a run on millions of pictures has less in each of its files
# With these a spreadsheet takes a cell's text for a formula and computes it (OWASP, "CSV Injection").
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_TEXT_MARK = "'"  # which tells spreadsheets that a text follows


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; when the block ends well, flush it to disk and rename it over ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.chmod(0o644)  # mkstemp makes files that only their owner can read
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def cache_folder(name: str = "") -> Path:
    """The user's cache of pixelfit, or the folder ``name`` in it; it need not exist."""
    return Path(platformdirs.user_cache_dir("pixelfit", appauthor=False)) / name


def cache_contents() -> dict[str, int]:
    """Bytes in each folder of the cache."""
    if not cache_folder().is_dir():
        return {}
    return {
        folder.name: sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())
        for folder in sorted(cache_folder().iterdir())
    }


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with written_beside(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Json) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinities are refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Json:
    """Read a JSON file; ValueError as for ``parse_json``, and for one that is too large to be ours."""
    with open_plain(path) as file:
        content = file.read(_MOST_JSON + 1)
    if len(content) > _MOST_JSON:
        raise ValueError(f"it is larger than {_MOST_JSON >> 20} MiB")
    return parse_json(content)


def parse_json(content: str | bytes) -> Json:
    """JSON as its standard has it: ValueError also for what is nested too deep, and for numbers that are not finite."""
    try:
        return json.loads(content, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"it holds {digits}, which is too large a number")
    return number


def open_plain(path: Path) -> IO[bytes]:
    """Open a file to read; raises OSError for a pipe or a device, which might never end."""
    if not (stat.S_ISREG(mode := path.stat().st_mode) or stat.S_ISDIR(mode)):  # of a folder ``open`` says so itself
        raise OSError("it is a pipe or a device, and no plain file")
    return path.open("rb")


class Wrapped(io.RawIOBase):
    """A stream that is read through another object; what derives from it says how much of it may be read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        """As of any file."""
        return self._stream.seek(place, whence)

    def tell(self) -> int:
        """As of any file."""
        return self._stream.tell()

    def seekable(self) -> bool:
        """It is."""
        return True

    def readable(self) -> bool:
        """It is."""
        return True


def inside(folder: Path, name: str) -> Path:
    """What is called so in the folder; raises ValueError for a name, or a link, that leads out of it."""
    file = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts or not file.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{file} leads out of the folder")
    return file


def write_rows(out: IO[str], rows: Iterable[Iterable[Json]]) -> None:
    """Write rows of CSV in which no text is taken for a formula by a spreadsheet: such texts get an apostrophe before them."""
    plain, quoted = (csv.writer(out, lineterminator="\n", quoting=how) for how in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    for row in rows:
        cells = [_as_text(cell) for cell in row]
        # A lone carriage return ends a row for whoever reads it, but the writer quotes it for no other reason.
        (quoted if any(isinstance(cell, str) and "\r" in cell for cell in cells) else plain).writerow(cells)


def read_rows(lines: Iterable[str]) -> Iterator[list[str]]:
    """Rows of CSV as they were before ``write_rows``."""
    for row in csv.reader(lines):
        yield [written_text(cell) for cell in row]


def written_text(cell: str) -> str:
    """A cell of text as it was before ``write_rows``."""
    return cell[1:] if _is_marked(cell) else cell


def _as_text(cell: Json) -> Json:
    risky = isinstance(cell, str) and (_is_marked(cell) or (cell.startswith(_FORMULA_STARTS) and not _is_number(cell)))
    return _TEXT_MARK + cell if risky else cell


def _is_marked(cell: str) -> bool:
    return cell.startswith(_TEXT_MARK) and cell[1:].startswith((_TEXT_MARK, *_FORMULA_STARTS))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@contextmanager
def made_beside(place: Path) -> Iterator[Path]:
    """A new folder that takes this place when the block ends well; if another process was quicker, its content is the same."""
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f"{place.name}.", dir=place.parent))
    try:
        yield beside
        try:
            beside.rename(place)
        except OSError:
            if not place.is_dir():
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
