"""Tables with a column of paths and a column of targets: CSV, TSV, Parquet and JSON Lines files, and pandas DataFrames."""

from __future__ import annotations

import csv
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

import numpy as np

from pixelfit.data.arrays import part_named, printable_name
from pixelfit.data.targets import as_tuples, is_missing, number_in
from pixelfit.errors import DataError, OptionError
from pixelfit.files import ALWAYS_FINE, MOST_GROWTH, UNREADABLE, open_plain, parse_json
from pixelfit.types import Array, Columns, Json, LeftOut, PictureFile, Table

if TYPE_CHECKING:  # half a second to load, which runs without a table need not wait for
    import pandas as pd
    import pyarrow as pa

T = TypeVar("T")
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
_SPLIT_COLUMN = "split"
_LOOKED_AT = 100  # rows in which paths are looked for
_MOST_COLUMNS = 10_000  # pandas took more than a minute for two million
_BLOCK, _LINE_END = 1 << 20, b"\n"
_HEAD_LINES = 1_000  # that the header of a CSV file and the row below it may take
_PARQUET_BUFFER = 1 << 20  # bytes
_PARQUET_ROWS = 256  # at once: a long text that all rows share is kept once in the file, and as often as there are rows in memory
# A table with more cells than this has something in one of twenty of them, or takes a byte of a file for twenty.
_FEW_CELLS = 10_000_000
_LEAST_FILLED = _CELLS_A_BYTE = 20


@dataclass(frozen=True)
class _Kind:
    title: str
    read: Callable[[Path], pd.DataFrame]
    pieces: Callable[[Path, str | None, int], Iterator[pd.DataFrame]]  # of one column (None: of all), so many rows in each


def _read_csv(path: Path, separator: str = ",") -> pd.DataFrame:
    import pandas as pd

    _check_csv(path, separator)
    return _strictly(lambda: pd.read_csv(path, sep=separator, encoding="utf-8-sig", index_col=False))


def _strictly(read: Callable[[], T]) -> T:
    """What ``read`` gives; raises ValueError where pandas would only warn that it leaves cells out."""
    from pandas.errors import ParserWarning

    with warnings.catch_warnings():
        warnings.simplefilter("error", ParserWarning)
        try:
            return read()
        except ParserWarning as warning:
            raise ValueError("a row has more cells than the header") from warning


def _check_csv(path: Path, separator: str) -> None:
    """Raise ValueError for what pandas would take for something else, or for ever."""
    with open_plain(path) as file:
        row = 1
        while block := file.read(_BLOCK):
            if (place := block.find(b"\0")) >= 0:
                raise ValueError(f"line {row + block.count(_LINE_END, 0, place)} holds a zero byte, as no text in UTF-8 does")
            row += block.count(_LINE_END)
    with path.open(encoding="utf-8-sig", newline="") as text:
        lines = islice(iter(lambda: text.readline(_BLOCK), ""), _HEAD_LINES)
        rows = (row for row in csv.reader(lines, delimiter=separator) if row)
        header, first = next(rows, []), next(rows, [])
    if len(header) > _MOST_COLUMNS:
        raise ValueError(f"it has more columns than the {_MOST_COLUMNS:,} that are read")
    if len(first) > len(header):  # pandas would take the first ones for names of the rows
        raise ValueError(f"the row below the header has {len(first):,} cells, and the header {len(header):,}")


def _read_json_lines(path: Path) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(_json_rows(path)))


def _json_rows(path: Path) -> Iterator[dict[str, Json]]:
    """The objects in a file, one a line; raises ValueError naming the line that holds none, or where columns become too many."""
    names: set[str] = set()
    rows = filled = 0
    with open_plain(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no object with values by column")
            names.update(row)
            rows, filled = rows + 1, filled + len(row)
            if len(names) > _MOST_COLUMNS:
                raise ValueError(f"up to line {number} it has more columns than the {_MOST_COLUMNS:,} that are read")
            _check_cells(rows, len(names), most=_LEAST_FILLED * filled)
            yield row


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    batches = list(_parquet_batches(path, None, _PARQUET_ROWS))  # says so where pyarrow is missing
    import pyarrow as pa

    return pa.Table.from_batches(batches).to_pandas() if batches else pd.DataFrame()


def _parquet_batches(path: Path, columns: list[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise _needs_pyarrow(path) from error
    with open_plain(path) as opened:
        yield from record_batches(opened, path.stat().st_size, columns, rows)


def record_batches(stream: IO[bytes], size: int, columns: list[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
    """A Parquet file of so many bytes, so many rows at a time; raises ValueError where it grows too much."""
    from pyarrow import parquet

    # A page at a time, instead of all that a group of rows has of a column.
    file = parquet.ParquetFile(stream, buffer_size=_PARQUET_BUFFER, pre_buffer=False)
    _check_cells(file.metadata.num_rows, file.metadata.num_columns, most=_CELLS_A_BYTE * size)
    read = 0
    for batch in file.iter_batches(rows, columns=columns):
        read += batch.nbytes
        if read > max(ALWAYS_FINE, MOST_GROWTH * size):
            raise ValueError(f"it grows to more than {MOST_GROWTH} times its size")
        yield batch


def _check_cells(rows: int, columns: int, *, most: int) -> None:
    """Raise ValueError for a table of which nearly all would be empty, or made up."""
    if rows * columns > max(_FEW_CELLS, most):
        raise ValueError(f"it has {rows:,} rows and {columns:,} columns, and hardly anything in them")


def _needs_pyarrow(path: Path) -> DataError:
    return DataError(f"{path} is a Parquet file, which needs the package pyarrow: pip install 'pixelfit[parquet]'.")


def _csv_pieces(path: Path, column: str | None, rows: int, separator: str = ",") -> Iterator[pd.DataFrame]:
    import pandas as pd

    _check_csv(path, separator)
    columns = None if column is None else [column]
    options: Json = {"sep": separator, "encoding": "utf-8-sig", "usecols": columns, "index_col": False}
    with _strictly(lambda: pd.read_csv(path, chunksize=rows, **options)) as pieces:
        while (piece := _strictly(lambda: next(pieces, None))) is not None:
            yield piece


def _json_pieces(path: Path, column: str | None, rows: int) -> Iterator[pd.DataFrame]:
    import pandas as pd

    found = _json_rows(path)
    while piece := list(islice(found, rows)):
        yield pd.DataFrame(piece, columns=None if column is None else [column])


def _parquet_pieces(path: Path, column: str | None, rows: int) -> Iterator[pd.DataFrame]:
    for batch in _parquet_batches(path, None if column is None else [column], rows):
        yield batch.to_pandas()


KINDS: Mapping[str, _Kind] = {
    ".csv": _Kind("a CSV file", _read_csv, _csv_pieces),
    ".tsv": _Kind("a TSV file", partial(_read_csv, separator="\t"), partial(_csv_pieces, separator="\t")),
    ".parquet": _Kind("a Parquet file", _read_parquet, _parquet_pieces),
    ".jsonl": _Kind("a JSON Lines file", _read_json_lines, _json_pieces),
}


def is_table(path: Path) -> bool:
    """Whether the file's name is that of a table."""
    return path.suffix.lower() in KINDS


def from_table_file(path: Path, columns: Columns) -> Table:
    """A table from a file; relative paths in it start from its own folder.

    Raises:
        DataError: the file cannot be read, has no rows or no column of paths.
        OptionError: a column that was named does not exist, or the target column is not plain.
    """
    kind = KINDS[path.suffix.lower()]
    try:
        frame = kind.read(path)
    except UNREADABLE as error:
        raise _told(error, path, kind) from error
    return from_frame(frame, columns, name=path.stem, told_as=str(path), folder=path.parent)


def columns_of(source: object) -> list[str]:
    """The names of a table's columns, of its file or a DataFrame; none of anything else."""
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        first = next(_frames(path, None, 1), None) if is_table(path) and path.is_file() else None
        return [] if first is None else [str(name) for name in first.columns]
    return [str(name) for name in getattr(source, "columns", ())]


def path_column(path: Path, named: str | None) -> str:
    """The column of paths of a table's file, the named one or the one that looks like it.

    Raises:
        DataError: the file cannot be read, or has no such column.
        OptionError: the named column does not exist.
    """
    first = next(_frames(path, None, _LOOKED_AT), None)
    if first is None or first.empty:
        raise DataError(f"{path} has no rows below its header.")
    names = [str(name) for name in first.columns]
    if named is not None and named not in names:
        raise OptionError(f"--pictures {named!r} is no column of {path}; its columns are {', '.join(names)}.")
    return named or _picture_column(first.set_axis(names, axis=1), set(), str(path), path.parent)


def path_entries(path: Path, column: str, rows: int) -> Iterator[list[str | None]]:
    """The paths in a table's file, so many rows at a time; None where there is none."""
    for frame in _frames(path, column, rows):
        missing = frame[column].isna().tolist()
        yield [None if gone else str(entry) for gone, entry in zip(missing, frame[column].tolist(), strict=True)]


def _frames(path: Path, column: str | None, rows: int) -> Iterator[pd.DataFrame]:
    """A table's file in pieces of so many rows, with one column or with all of them."""
    kind = KINDS[path.suffix.lower()]
    try:
        yield from kind.pieces(path, column, rows)
    except UNREADABLE as error:
        raise _told(error, path, kind) from error


def _told(error: Exception, path: Path, kind: _Kind) -> Exception:
    if isinstance(error, (DataError, PermissionError)):
        return error
    said = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
    return DataError(f"{path} cannot be read as {kind.title}: {said}.")


def from_frame(frame: pd.DataFrame, columns: Columns, *, name: str, told_as: str, folder: Path) -> Table:
    """A table from a DataFrame; relative paths in it start from ``folder``, and messages call it ``told_as``."""
    frame = frame.set_axis([str(column) for column in frame.columns], axis=1)
    chosen, split = check_columns(frame, columns, told_as=told_as, folder=folder)
    # A path that is absolute stays so.
    return table_of(frame, chosen, split, name=name, told_as=told_as, file_of=lambda _, path: folder / path)


def check_columns(frame: pd.DataFrame, columns: Columns, *, told_as: str, folder: Path) -> tuple[Columns, str | None]:
    """The columns, with those that the user did not name, and the column that says which part of the data a row is in.

    Raises:
        DataError: there are no rows, two columns of one name, or no column of paths.
        OptionError: a named column does not exist, or the target column is not plain.
    """
    if frame.empty:
        raise DataError(f"{told_as} has no rows below its header.")
    names = list(frame.columns)
    twice = next((column for column, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{told_as} has two columns named {twice!r}.")
    for option, chosen in columns.named():
        if chosen not in names:
            raise OptionError(f"--{option} {chosen!r} is no column of {told_as}; its columns are {', '.join(names)}.")
    split = next((column for column in names if column.lower() == _SPLIT_COLUMN and column not in columns.targets), None)
    taken = {column for column in (*columns.targets, columns.group, split) if column is not None}
    pictures = columns.pictures or _picture_column(frame, taken, told_as, folder)
    others = [column for column in names if column not in {*taken, pictures}]
    targets = columns.targets or (_target_column(others, pictures, told_as),)
    return Columns(targets, pictures, columns.group), split


def table_of(
    frame: pd.DataFrame,
    columns: Columns,
    split: str | None,
    *,
    name: str,
    told_as: str,
    file_of: Callable[[int, str], PictureFile],
) -> Table:
    """A table of the frame's rows; ``file_of`` gives the picture of a row (counted from 0) and its entry in the path column."""
    assert columns.pictures is not None
    whole, left_out = _whole_rows(frame.reset_index(drop=True), columns, split)
    entries = [str(entry) for entry in whole[columns.pictures]]
    several = len(columns.targets) > 1
    return Table(
        name=name,
        refs=tuple(printable_name(entry) for entry in entries),
        targets=_side_by_side(whole[list(columns.targets)], told_as)
        if several
        else _plain(whole[columns.targets[0]], told_as, some_missing=bool(left_out)),
        target_name=", ".join(columns.targets),
        files=tuple(file_of(int(row), entry) for row, entry in zip(whole.index, entries, strict=True)),
        parts=None if split is None else _parts(whole[split], told_as),
        groups=None if columns.group is None else whole[columns.group].astype(str).to_numpy(dtype=object),
        group_name=columns.group or "",
        left_out=left_out,
        target_names=columns.targets if several else (),
    )


def _side_by_side(frame: pd.DataFrame, told_as: str) -> Array:
    """The columns of several targets as numbers, shape (N, T)."""
    columns = []
    for name in frame.columns:
        values = frame[name].tolist()
        numbers = [number_in(value) for value in values]
        if None in numbers:
            row = numbers.index(None)
            raise DataError(
                f"Row {frame.index[row] + 1} of {told_as} has {values[row]!r} in {name!r}, which is no number: "
                f"where several targets are named, all must be numbers."
            )
        columns.append(np.array(numbers, dtype=np.float64))
    return np.column_stack(columns)


def _plain(targets: pd.Series, told_as: str, *, some_missing: bool) -> Array:
    lists = [isinstance(value, (list, tuple, np.ndarray)) for value in targets]
    for row, value, listed in zip(targets.index.tolist(), targets, lists, strict=True):
        if isinstance(value, dict):
            raise DataError(
                f"Row {row + 1} of {told_as} has {value!r} in {targets.name!r}; "
                f"a target must be a number or a label, or a list of them."
            )
        if any(lists) and not listed:
            raise DataError(f"Row {row + 1} of {told_as} has {value!r} in {targets.name!r}, where other rows have lists.")
    if any(lists):
        return as_tuples(list(targets), [f"Row {row + 1} of {told_as}" for row in targets.index.tolist()], str(targets.name))
    values = np.asarray(targets.to_numpy())
    # Whole numbers become floats in a column in which some are missing, and a label 3 would be called 3.0.
    whole = values.dtype.kind == "f" and some_missing and bool((values == np.round(values)).all())
    return values.astype(np.int64) if whole else values


def _whole_rows(frame: pd.DataFrame, columns: Columns, split: str | None) -> tuple[pd.DataFrame, tuple[LeftOut, ...]]:
    """The rows with everything that is needed, and the others with what they lack. Rows count from 1 below the header."""
    lacks = [
        ("path", columns.pictures),
        *(("target", name) for name in columns.targets),
        ("group", columns.group),
        ("split", split),
    ]
    reasons: dict[int, str] = {}
    for what, column in lacks:
        if column is None:
            continue
        for row in np.flatnonzero(frame[column].isna().to_numpy()):
            reasons.setdefault(int(row), f"no {what} in {column!r}")
    for name in columns.targets:
        for place, value in enumerate(frame[name].tolist() if frame[name].dtype == object else []):
            if isinstance(value, (list, tuple, np.ndarray)) and any(is_missing(part) for part in value):
                reasons.setdefault(place, f"a value is missing in {name!r}")
    left_out = tuple(LeftOut(_row_name(frame, columns, row), reason) for row, reason in sorted(reasons.items()))
    whole = np.ones(len(frame), dtype=bool)
    whole[list(reasons)] = False
    return frame[whole], left_out


def _row_name(frame: pd.DataFrame, columns: Columns, row: int) -> str:
    paths = frame[columns.pictures]
    path = paths.iloc[row]
    return f"row {row + 1}" if paths.isna().iloc[row] else f"row {row + 1}, {printable_name(str(path))}"


def _parts(values: pd.Series, told_as: str) -> Array:
    parts = [part_named(str(value)) for value in values]
    for row, (part, value) in enumerate(zip(parts, values, strict=True)):
        if part is None:
            raise DataError(
                f"{told_as} has {value!r} in {values.name!r} (row {values.index[row] + 1}); it may be train, val or test. "
                f"Rename the column if it means something else."
            )
    return np.array(parts, dtype=object)


def _target_column(others: list[str], pictures: str, told_as: str) -> str:
    if len(others) != 1:
        raise OptionError(
            f"{told_as} has {len(others)} columns besides {pictures!r}: name one with --target ({', '.join(others)})."
            if others
            else f"{told_as} has no column of targets besides {pictures!r}."
        )
    return others[0]


def _picture_column(frame: pd.DataFrame, taken: set[str], told_as: str, folder: Path) -> str:
    candidates = [str(column) for column in frame.columns if column not in taken]
    first = frame.head(_LOOKED_AT)
    for column in candidates:
        # A few missing files must not hide the column: one that exists among the first hundred is enough.
        if any(_is_file(folder / str(value)) for value in first[column]):
            return column
    for column in candidates:
        if any(Path(str(value)).suffix.lower() in PICTURE_SUFFIXES for value in first[column]):
            missing = folder / str(frame[column].iloc[0])
            raise DataError(f"Column {column!r} of {told_as} holds paths, but none of its first files exists, such as {missing}.")
    raise DataError(f"No column of {told_as} holds paths of pictures (looked in {', '.join(candidates) or 'none'}).")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that is no path: too long, or with a zero byte in it
        return False
