"""Samples of shards with what is known of them: a tar's texts and JSON, a Parquet file's other columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import IO

from pixelfit.data.items import Item
from pixelfit.data.places import Place, contents
from pixelfit.data.shards import chosen_column, is_hidden, is_picture, item_of_cell, sample_of
from pixelfit.data.tables import record_batches
from pixelfit.data.tars import Entry, entries
from pixelfit.errors import OptionError
from pixelfit.files import parse_json
from pixelfit.types import Embedded, Json

_ROWS = 16  # of a Parquet file at once
_TEXTS = ("cls", "txt")  # what WebDataset calls a class or another target
_JSON = "json"
_MOST_TEXT = 1 << 20  # bytes
_WHOLE = re.compile(r"[+-]?\d{1,18}")


@dataclass(frozen=True)
class Labelled:
    """A sample: its name in the data set, its picture or why there is none, and what else is known of it, by name."""

    name: str
    picture: bytes | str
    fields: Mapping[str, Json]


def labelled(shard: Place, column: str | None) -> Iterator[Labelled]:
    """The samples of a shard; one whose picture cannot be had has the reason, and so has what follows any damage.

    Raises:
        ShardError: the shard cannot be reached.
        OptionError: a sample has several pictures, and ``column`` names none of them.
    """
    read = _READERS[shard.suffix]
    return contents(shard, lambda stream: read(stream, shard, column), damaged=lambda reason: Labelled(shard.file, reason, {}))


def _of_tar(stream: IO[bytes], shard: Place, column: str | None) -> Iterator[Labelled]:
    def wanted(name: str) -> bool:
        ending = sample_of(name)[1]
        picture = ending == column if column is not None else is_picture(ending)
        return not is_hidden(name) and (picture or ending in (*_TEXTS, _JSON))

    found = (entry for entry in entries(stream, wanted) if not is_hidden(entry.name))
    for sample, files in groupby(found, lambda entry: sample_of(entry.name)[0]):
        yield _of_sample(f"{shard.file}/{sample}", files, column)


def _of_sample(name: str, files: Iterator[Entry], column: str | None) -> Labelled:
    picture: bytes | str | None = None
    fields: dict[str, Json] = {}
    for file in files:
        ending = sample_of(file.name)[1]
        is_text = ending in (*_TEXTS, _JSON)
        if is_text and file.content is not None:
            fields |= _told(ending, file.content)
        elif not is_text and (file.content is not None or file.reason is not None):
            if picture is not None:
                raise OptionError(f"The sample {name} holds several pictures: name the ending of one with --pictures.")
            picture = file.content if file.reason is None and file.content is not None else str(file.reason)
    return Labelled(name, "the sample holds no picture" if picture is None else picture, fields)


def _told(ending: str, content: bytes) -> dict[str, Json]:
    """What a file beside a picture says; nothing where it is too large or cannot be read, so that a target is missing."""
    if len(content) > _MOST_TEXT:
        return {}
    try:
        if ending == _JSON:
            found = parse_json(content)
            return found if isinstance(found, dict) else {_JSON: found}
        return {ending: _value(content.decode("utf-8").strip())}
    except ValueError:
        return {}


def _value(text: str) -> Json:
    """A number where the text is one, as tables in CSV have it; None where it is empty."""
    if _WHOLE.fullmatch(text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text or None


def _of_parquet(stream: IO[bytes], shard: Place, column: str | None) -> Iterator[Labelled]:
    import pyarrow as pa
    from pyarrow import parquet

    schema = parquet.ParquetFile(stream).schema_arrow
    chosen = chosen_column(schema, shard, column)
    others = [field.name for field in schema if not (pa.types.is_binary(field.type) or pa.types.is_struct(field.type))]
    row = 0
    for batch in record_batches(stream, shard.size, [chosen, *others], _ROWS):
        for values in batch.to_pylist():
            row += 1
            item = item_of_cell(f"{shard.file} row {row}", values.pop(chosen))
            yield Labelled(item.name, _content(item), values)


def _content(item: Item) -> bytes | str:
    return item.picture.load() if isinstance(item.picture, Embedded) else str(item.picture)


_READERS: Mapping[str, Callable[[IO[bytes], Place, str | None], Iterator[Labelled]]] = {".tar": _of_tar, ".parquet": _of_parquet}
