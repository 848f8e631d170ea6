"""Pictures in shards: many of them a file, in tar archives as WebDataset writes them or in Parquet files, here or behind a URL.

A shard is read from front to back, so that it takes little memory whatever its size, and nothing of it is unpacked or unpickled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pixelfit.data.arrays import printable_name
from pixelfit.data.items import Item
from pixelfit.data.places import Place, contents, opened, places, seen
from pixelfit.data.tables import PICTURE_SUFFIXES, record_batches
from pixelfit.data.tars import MOST_BYTES, Entry, entries
from pixelfit.errors import DataError, OptionError, ShardError
from pixelfit.files import UNREADABLE, open_plain
from pixelfit.types import Embedded, Json
from pixelfit.words import number_of

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 16  # of a Parquet file at once, since each may hold a large picture
_NAMED = 5  # of what a sample holds instead of a picture


@dataclass(frozen=True)
class _Form:
    """How shards of one kind are read."""

    title: str
    items: Callable[[IO[bytes], Place, str | None], Iterator[Item]]
    check: Callable[[IO[bytes], Place, str | None], None]  # raises PixelfitError where the column cannot be had


def shards_of(given: Sequence[str | Path], column: str | None) -> tuple[Place, ...] | None:
    """The shards that are meant by globs, lists in braces, folders, files and URLs; None where the sources are something else.

    Args:
        given: such as ``train-{000000..000099}.tar``, ``s3://bucket/train-*.parquet`` or a folder with nothing but shards in it.
        column: the Parquet files' column of pictures where there are several, or which of a sample's files it is.

    Raises:
        DataError: there is no such shard, one is given twice, or a URL cannot be reached.
        OptionError: some sources are shards and others not, or the column cannot be had.
    """
    looks = [_looks_like_shards(str(each)) for each in given]
    if not any(looks):
        return None
    if not all(looks):
        if any(_are_several(str(each)) for each in given):
            other = given[looks.index(False)]
            raise OptionError(f"{other} is no shard (a tar or Parquet file with pictures in it), and others are: give it alone.")
        return None
    found = [place for each in given for place in places(str(each), tuple(FORMS))]
    twice = next((name for name, count in Counter(place.name for place in found).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"The shard {twice} is given twice.")
    for suffix, form in FORMS.items():
        first = next((place for place in found if place.suffix == suffix), None)
        if first is not None:
            with opened(first) as source:
                form.check(source.buffered(), first, column)
    return tuple(found)


def items_of(shard: Place, column: str | None) -> Iterator[Item]:
    """The pictures of a shard; what in it cannot be read has its reason, also where the whole shard cannot.

    Raises:
        ShardError: the shard cannot be reached, or changed while it was read.
        OptionError: it has not the ``column``.
    """
    read = FORMS[shard.suffix].items
    yield from contents(shard, lambda stream: read(stream, shard, column), damaged=lambda reason: Item(shard.name, reason))
    if seen(shard) != shard:
        raise ShardError(f"{shard.name} changed while it was read.")


def labelled_shards_of(given: str, column: str | None) -> tuple[Place, ...] | None:
    """As ``shards_of``, but for a single tar, which is an archive like others to those who look for targets in it too."""
    path = Path(given).expanduser()
    alone = path.is_file() and path.suffix.lower() == ".parquet" and _holds_pictures(path)
    return shards_of([given], column) if alone or _are_several(given) else None


def _looks_like_shards(given: str) -> bool:
    if _are_several(given):
        return True
    path = Path(given).expanduser()
    if path.is_file() and path.suffix.lower() == ".parquet":
        return _holds_pictures(path)
    return path.is_file() and path.suffix.lower() in FORMS


def _are_several(given: str) -> bool:
    """Whether these can be nothing but shards: a URL, a pattern, or a folder with none but shards in it."""
    path = Path(given).expanduser()
    if path.is_dir():
        inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        first = next((entry for entry in inside if entry.suffix.lower() in FORMS), None)
        holds = first is not None and (first.suffix.lower() != ".parquet" or _holds_pictures(first))
        return holds and not any(entry.is_dir() or entry.suffix.lower() in PICTURE_SUFFIXES for entry in inside)
    return "://" in given or (not path.exists() and any(sign in given for sign in "*[{") and given.lower().endswith(tuple(FORMS)))


def _holds_pictures(path: Path) -> bool:
    """Whether a Parquet file holds pictures, and not their paths; False also where it cannot be read."""
    try:
        from pyarrow import parquet

        with open_plain(path) as file:
            return bool(_picture_columns(parquet.ParquetFile(file).schema_arrow))
    except (ImportError, *UNREADABLE):
        return False


def _of_tar(stream: IO[bytes], shard: Place, column: str | None) -> Iterator[Item]:
    """A row for each picture of a sample, and for a sample that has none."""

    def wanted(name: str) -> bool:
        ending = sample_of(name)[1]
        return ending == column if column is not None else is_picture(ending)

    found = entries(stream, lambda name: not is_hidden(name) and wanted(name))
    for (sample, _), files in groupby(found, lambda entry: (sample_of(entry.name)[0], is_hidden(entry.name))):
        yield from _of_sample(sample, files, shard, column)


def _of_sample(sample: str, files: Iterator[Entry], shard: Place, column: str | None) -> Iterator[Item]:
    names, others = set(), []
    for file in files:
        if is_hidden(file.name):
            return
        if file.content is None and file.reason is None:
            others.append(sample_of(file.name)[1])
            del others[_NAMED:]
            continue
        name = f"{shard.name}/{file.name}"
        again = "the sample holds a file of this name twice" if file.name in names else None
        names.add(file.name)
        yield _item(name, file.content, again or file.reason)
    if not names:
        yield Item(f"{shard.name}/{sample}", f"the sample holds no {column or 'picture'}, only {', '.join(sorted(others))}")


def _item(name: str, content: bytes | None, reason: str | None) -> Item:
    if reason is not None or content is None:
        return Item(name, reason or "there is no picture")
    return Item(name, Embedded(lambda: content), held=len(content))


def sample_of(name: str) -> tuple[str, str]:
    """What all files of a sample are called, up to the first dot of the last part of their paths, and what follows it."""
    folder, slash, file = name.rpartition("/")
    sample, _, ending = file.partition(".")
    return folder + slash + sample, ending.lower()


def is_picture(ending: str) -> bool:
    """Whether a sample's file with this ending, such as ``jpg`` or ``left.jpg``, is a picture."""
    return f".{ending.rpartition('.')[2]}" in PICTURE_SUFFIXES


def is_hidden(name: str) -> bool:
    """Whether an entry is one that desktops leave behind, or hide."""
    file = name.rpartition("/")[2]
    return name.startswith("__MACOSX/") or (file.startswith(".") and file != "..")


def _nothing(stream: IO[bytes], shard: Place, column: str | None) -> None:
    """Of an archive it is not known beforehand what is in it."""


def _of_parquet(stream: IO[bytes], shard: Place, column: str | None) -> Iterator[Item]:
    from pyarrow import parquet

    chosen = chosen_column(parquet.ParquetFile(stream).schema_arrow, shard, column)
    row = 0
    for batch in record_batches(stream, shard.size, [chosen], _ROWS):
        for value in batch.column(0):
            row += 1
            yield item_of_cell(f"{shard.name} row {row}", value.as_py())


def item_of_cell(name: str, value: Json) -> Item:
    """A picture as Parquet files have it: its bytes, or a struct of them and of the path that it once had (Hugging Face)."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if content is None:
        path = value.get("path") if isinstance(value, dict) else None
        return _item(name, None, f"there is no picture, only the name {printable_name(path)}" if path else None)
    if len(content) > MOST_BYTES:
        return _item(name, None, f"it has {len(content):,} bytes, and {MOST_BYTES:,} are read at most")
    return _item(name, content, None)


def _check_parquet(stream: IO[bytes], shard: Place, column: str | None) -> None:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"{shard.name} is a Parquet file, which needs the package pyarrow: pip install 'pixelfit[shards]'."
        ) from error
    try:
        schema = parquet.ParquetFile(stream).schema_arrow
    except UNREADABLE:  # which is told when its turn comes
        return
    chosen_column(schema, shard, column)


def chosen_column(schema: pa.Schema, shard: Place, column: str | None) -> str:
    """The column of pictures, the named one or the only one."""
    found = _picture_columns(schema)
    if column is not None and column not in found:
        raise OptionError(
            f"--pictures {column!r} is no column of pictures in {shard.name}; there is {', '.join(found) or 'none'}."
        )
    if column is None and len(found) != 1:
        raise OptionError(
            f"{shard.name} has {number_of(len(found), 'column')} of pictures (bytes, or a struct of bytes and path)"
            + (f": name one of {', '.join(found)} with --pictures." if found else ".")
        )
    return column or found[0]


def _picture_columns(schema: pa.Schema) -> list[str]:
    import pyarrow as pa

    def is_bytes(kind: pa.DataType) -> bool:
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    def holds_bytes(kind: pa.DataType) -> bool:
        return bool(pa.types.is_struct(kind)) and any(field.name == "bytes" and is_bytes(field.type) for field in kind)

    return [field.name for field in schema if is_bytes(field.type) or holds_bytes(field.type)]


# One entry a kind of shard, by the ending of its name.
FORMS: Mapping[str, _Form] = {
    ".tar": _Form("a tar archive", _of_tar, _nothing),
    ".parquet": _Form("a Parquet file", _of_parquet, _check_parquet),
}
