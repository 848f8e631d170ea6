"""Predictions for any number of pictures, some at a time, as rows of a table that is written as they come."""

from __future__ import annotations

import csv
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Protocol, TypeAlias

import numpy as np

from pixelfit.answers import Answers
from pixelfit.conformal import Conformal
from pixelfit.data.items import Item, in_chunks
from pixelfit.data.pictures import read_picture
from pixelfit.data.store import to_spec
from pixelfit.data.streams import Stream
from pixelfit.environment import usable_cores
from pixelfit.errors import DataError, OptionError
from pixelfit.files import read_json, read_rows, write_json, write_rows, written_text
from pixelfit.progress import Progress
from pixelfit.types import Array, Forecast, Json, PictureSpec, Strangeness
from pixelfit.words import single_precision

_AT_ONCE = 256  # pictures
_TASK = 16  # of them decoded by one thread at a stretch
_TITLE = "Predicting"
_WORDS = {"model": "weights", "sources": "sources", "coverage": "coverage"}  # of a task
FORMS = (".csv", ".parquet")
NAME, UNLIKE, STRANGENESS, ERROR = "picture", "unlike", "strangeness", "error"
_OWN = frozenset({NAME, UNLIKE, STRANGENESS, ERROR})  # a target of such a name is written as predicted_NAME
_SET = "set"  # the column of sets of classes
_KINDS = {str: "text", int: "whole"}
Row: TypeAlias = dict[str, Json]
Rows: TypeAlias = Iterator[list[Row]]


class Examiner(Protocol):
    """What predicts: pictures in the form ``spec`` to forecasts, and how unlike the training pictures they are."""

    @property
    def spec(self) -> PictureSpec:
        """The form in which it sees pictures."""

    @property
    def answers(self) -> Answers:
        """What its forecasts are to the user."""

    @property
    def conformal(self) -> Conformal | None:
        """What makes intervals or sets of its forecasts."""

    @property
    def version(self) -> str:
        """What tells it from all others."""

    def examined(self, store: Array) -> tuple[Forecast, Strangeness | None]:
        """The forecasts for pictures (N, height, width, channels)."""


@dataclass(frozen=True)
class Totals:
    """How many rows there are, how many of them have no prediction, and how many are unlike anything seen in training."""

    rows: int = 0
    failed: int = 0
    unlike: int = 0
    first_failure: str = ""

    def with_row(self, row: Row) -> Totals:
        """With one row more."""
        failure = "" if row[ERROR] is None else f"{row[NAME]}: {row[ERROR]}"
        return Totals(
            self.rows + 1,
            self.failed + bool(failure),
            self.unlike + bool(row.get(UNLIKE)),
            self.first_failure or failure,
        )


@dataclass(frozen=True)
class Chunk:
    """Some pictures, what is predicted for those that can be read (None where none can), and why the others cannot be."""

    items: tuple[Item, ...]
    reasons: tuple[str | None, ...]
    forecast: Forecast | None
    strangeness: Strangeness | None


def examined(examiner: Examiner, items: Iterator[Item], decoders: int | None = None) -> Iterator[Chunk]:
    """Pictures with their predictions, some at a time; the next are decoded while these are predicted for.

    ``decoders`` is the number of threads that decode; by default one a core.
    """
    for chunk, pictures in _decoded(items, examiner.spec, decoders or usable_cores()):
        reasons = tuple(picture if isinstance(picture, str) else None for picture in pictures)
        good = [picture for picture in pictures if not isinstance(picture, str)]
        forecast, strangeness = examiner.examined(np.stack(good)) if good else (None, None)
        yield Chunk(tuple(chunk), reasons, forecast, strangeness)


def predicted(examiner: Examiner, items: Iterator[Item], coverage: float | None, *, decoders: int | None = None) -> Rows:
    """Rows for pictures, some at a time, each with the same columns; those that cannot be read have their ``error`` and no more.

    The columns are ``picture``, the prediction by its target's name, ``low`` and ``high`` or ``set`` where a ``coverage`` is
    given, the probabilities of classes, ``unlike`` and ``strangeness`` of a model that can tell, and ``error``.
    """
    _, *names, _ = headers(examiner, coverage)
    for chunk in examined(examiner, items, decoders):
        columns: dict[str, Sequence[Json]] = {}
        if chunk.forecast is not None:
            columns = _columns(examiner, chunk.forecast, chunk.strangeness, coverage)
        places = iter(range(len(chunk.items)))
        rows: list[Row] = []
        for item, reason in zip(chunk.items, chunk.reasons, strict=True):
            place = next(places) if reason is None else None
            values = {name: None if place is None else columns[name][place] for name in names}
            rows.append({NAME: item.name, **values, ERROR: reason})
        yield rows


def headers(examiner: Examiner, coverage: float | None) -> list[str]:
    """The names of the columns of a table of predictions."""
    return [NAME, *_columns(examiner, *_of_black(examiner), coverage), ERROR]


def to_stream(rows: Rows, out: IO[str], progress: Progress, total: int | None) -> Totals:
    """Write rows as CSV as they come."""
    return _write(rows, out, progress, total, Totals())


@dataclass(frozen=True)
class Task:
    """What makes an unfinished table that of the same predictions: it can be gone on with by the same task alone."""

    model: str
    sources: tuple[str, ...]
    coverage: float | None


def to_file(examiner: Examiner, stream: Stream, task: Task, out: Path, *, resume: bool, progress: Progress) -> Totals:
    """Write ``out`` (CSV or Parquet) by way of ``OUT.part``, which an interrupted run leaves and ``resume`` goes on with.

    Raises:
        OptionError: ``out`` has another ending, or there is nothing to resume, or something else.
        DataError: the sources do not bring the pictures any more that are in the unfinished table.
    """
    check_form(out)
    part, described = out.with_name(f"{out.name}.part"), out.with_name(f"{out.name}.part.json")
    totals = Totals()
    out.parent.mkdir(parents=True, exist_ok=True)
    items = stream.items()
    if resume:
        totals = _resumed(part, described, task, items)
    else:
        part.unlink(missing_ok=True)
        write_json(described, asdict(task))
    with part.open("a", encoding="utf-8", newline="") as file:
        totals = _write(predicted(examiner, items, task.coverage), file, progress, stream.total, totals)
        os.fsync(file.fileno())
    if out.suffix.lower() == ".parquet":
        to_parquet(part, out, examiner)
        part.unlink()
    else:
        part.replace(out)
    described.unlink()
    return totals


def check_form(out: Path) -> None:
    """Raise OptionError if tables cannot be written to such a file here."""
    if out.suffix.lower() not in FORMS:
        raise OptionError(f"{out} cannot be written: its name must end in {' or '.join(FORMS)}.")
    if out.suffix.lower() == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise OptionError(f"{out} needs the package pyarrow: pip install 'pixelfit[parquet]'.") from error


def _columns(
    examiner: Examiner, forecast: Forecast, strangeness: Strangeness | None, coverage: float | None
) -> dict[str, Sequence[Json]]:
    answers = examiner.answers
    columns: dict[str, Sequence[Json]] = dict(answers.said(forecast.raw, alone=True))
    if coverage is not None:
        assert examiner.conformal is not None
        columns |= answers.sureness(examiner.conformal, forecast, coverage)
    columns |= dict(answers.shares(forecast.raw))
    columns = {f"predicted_{name}" if name in _OWN else name: list(map(_plain, values)) for name, values in columns.items()}
    if strangeness is not None:
        columns[UNLIKE] = [bool(value > 1) for value in strangeness.values]
        columns[STRANGENESS] = [float(f"{value:.4g}") for value in strangeness.values]
    return columns


def _plain(value: Json) -> Json:
    return single_precision(value) if isinstance(value, float) else value


def _of_black(examiner: Examiner) -> tuple[Forecast, Strangeness | None]:
    """What is said of a black picture, which tells what the columns are before any picture can be read."""
    spec = examiner.spec
    return examiner.examined(
        np.zeros((1, spec.height, spec.width, spec.channels), np.uint8 if spec.scale == "byte" else np.float32)
    )


def _decoded(items: Iterator[Item], spec: PictureSpec, decoders: int) -> Iterator[tuple[list[Item], list[Array | str]]]:
    """Chunks of pictures as the model sees them, or why they cannot be read; the next chunk is decoded while one is used."""
    waiting: deque[tuple[list[Item], list[Future[list[Array | str]]]]] = deque()
    with ThreadPoolExecutor(decoders) as pool:
        try:
            for chunk in in_chunks(items, _AT_ONCE):
                tasks = [chunk[start : start + _TASK] for start in range(0, len(chunk), _TASK)]
                waiting.append((chunk, [pool.submit(_read_all, task, spec) for task in tasks]))
                if len(waiting) > 1:
                    yield _done(*waiting.popleft())
            while waiting:
                yield _done(*waiting.popleft())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _done(chunk: list[Item], futures: list[Future[list[Array | str]]]) -> tuple[list[Item], list[Array | str]]:
    return chunk, [picture for future in futures for picture in future.result()]


def _read_all(items: Sequence[Item], spec: PictureSpec) -> list[Array | str]:
    return [_read(item.picture, spec) for item in items]


def _read(picture: object, spec: PictureSpec) -> Array | str:
    if isinstance(picture, str):
        return picture
    if isinstance(picture, np.ndarray):
        try:
            fitted: Array = to_spec(picture[np.newaxis], spec)[0]
        except DataError as error:
            return str(error)
        return fitted
    return read_picture(picture, spec)  # type: ignore[arg-type]


def _write(rows: Rows, out: IO[str], progress: Progress, total: int | None, totals: Totals) -> Totals:
    """Write rows below those that ``totals`` counts."""
    for chunk in rows:
        if totals.rows == 0:
            write_rows(out, [chunk[0]])
        write_rows(out, (row.values() for row in chunk))
        for row in chunk:
            totals = totals.with_row(row)
        out.flush()
        progress.count(_TITLE, totals.rows, 0 if total is None else max(total, totals.rows))
    return totals


def _resumed(part: Path, described: Path, task: Task, items: Iterator[Item]) -> Totals:
    """What the unfinished table holds; ``items`` are gone through as far as it goes."""
    if not part.is_file() or not described.is_file():
        raise OptionError(f"There is nothing to resume: {part} does not exist. Leave --resume out to begin.")
    before = read_json(described)
    for what, now in asdict(replace(task, sources=list(task.sources))).items():  # type: ignore[arg-type] # as JSON has it
        if before.get(what) != now:
            raise OptionError(
                f"{part} was begun with other {_WORDS[what]}: {before.get(what)}, now {now}. Leave --resume out to begin anew."
            )
    _drop_half_a_line(part)
    totals = Totals()
    with part.open(encoding="utf-8", newline="") as file:
        rows = read_rows(file)
        header = next(rows, [])
        for row in (dict(zip(header, cells, strict=True)) for cells in rows):
            item = next(items, None)
            if item is None or item.name != row[NAME]:
                there = "nothing" if item is None else item.name
                raise DataError(f"{part} has {row[NAME]} in row {totals.rows + 1}, where the sources have {there} now.")
            totals = totals.with_row({**row, UNLIKE: row.get(UNLIKE) == "True", ERROR: row[ERROR] or None})
    return totals


def _drop_half_a_line(part: Path) -> None:
    """Cut what was being written when the run was killed."""
    with part.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        while size > 0:
            start = max(0, size - (1 << 16))
            file.seek(start)
            found = file.read(size - start).rfind(b"\n")
            if found >= 0:
                size = start + found + 1
                break
            size = start
        file.truncate(size)


def to_parquet(part: Path, out: Path, examiner: Examiner) -> None:
    """The table ``part`` (CSV) as ``out`` (Parquet) with numbers as numbers; some rows at a time, as everything here."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    kinds = {"text": pa.string(), "number": pa.float64(), "whole": pa.int64(), "truth": pa.bool_()}
    with part.open(encoding="utf-8", newline="") as file:
        headers = next(csv.reader(file))
    types = {name: kinds[kind] for name, kind in _kinds(examiner, headers).items()}
    options = arrow_csv.ConvertOptions(
        column_types=types, strings_can_be_null=True, null_values=[""], true_values=["True"], false_values=["False"]
    )
    beside = out.with_name(f"{out.name}.part.parquet")
    with arrow_csv.open_csv(part, convert_options=options) as batches, parquet.ParquetWriter(beside, batches.schema) as writer:
        for batch in batches:
            columns = [
                pa.array([text and written_text(text) for text in column.to_pylist()], pa.string())
                if types.get(name) == pa.string() else column
                for name, column in zip(batch.schema.names, batch.columns, strict=True)
            ]  # fmt: skip
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=batch.schema))
    beside.replace(out)


def _kinds(examiner: Examiner, headers: Sequence[str]) -> dict[str, str]:
    """What each column holds."""
    forecast, strangeness = _of_black(examiner)
    columns = _columns(examiner, forecast, strangeness, None)
    shares = {name for name, _ in examiner.answers.shares(forecast.raw)}

    def kind(name: str) -> str:
        value = columns[name][0] if name in columns else ""
        if name in shares or name not in (*columns, NAME, ERROR, _SET):  # probabilities, and the ends of intervals
            return "number"
        return "truth" if isinstance(value, bool) else _KINDS.get(type(value), "number")

    return {name: kind(name) for name in headers}
