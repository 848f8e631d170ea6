"""How good a finished model is on pictures whose targets are known, wherever they come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pixelfit import metrics
from pixelfit.batch import Chunk, Examiner, examined
from pixelfit.conformal import Conformal, Intervals, Sets, SeveralIntervals
from pixelfit.data.items import Item
from pixelfit.data.sources import Source, load_table
from pixelfit.data.tables import columns_of
from pixelfit.data.targets import understand
from pixelfit.errors import DataError
from pixelfit.progress import Progress
from pixelfit.types import Array, Columns, Forecast, Interval, Json, Label, LeftOut, Table, Task, Yardstick, kind_of

_TITLE = "Predicting"
_NAMED = 5  # classes in a message
_WORDS = {"number": "one number", "numbers": "several numbers", "label": "one label", "labels": "several labels"}


@dataclass(frozen=True)
class Known:
    """What has to be known of a model, beside its predictions, to measure them."""

    task: Task
    yardstick: Yardstick
    target_name: str
    target_names: tuple[str, ...]
    classes: tuple[Label, ...] | None


@dataclass(frozen=True)
class Assessment:
    """The metrics with 95 % intervals, on so many pictures; those that could not be used, each with its reason.

    ``covered`` is the share of pictures (of several targets, of pictures and targets) whose truth lies in the interval or set of
    the asked ``coverage``; None where there are none. ``unlike`` is the share that is unlike anything seen in training; None of
    a model that cannot tell.
    """

    source: str
    rows: int
    left_out: tuple[LeftOut, ...]
    metrics: dict[str, Interval]
    coverage: float | None
    covered: Interval | None
    unlike: float | None

    def to_json(self) -> Json:
        """As JSON."""

        def ends(interval: Interval | None) -> Json:
            return None if interval is None else vars(interval)

        return {
            "source": self.source,
            "rows": self.rows,
            "left_out": [vars(item) for item in self.left_out],
            "metrics": {name: ends(interval) for name, interval in self.metrics.items()},
            "coverage": self.coverage,
            "covered": ends(self.covered),
            "unlike": self.unlike,
        }


def assess(
    examiner: Examiner,
    known: Known,
    source: Source,
    columns: Columns,
    *,
    coverage: float | None,
    data_dir: Path | None,
    progress: Progress,
) -> Assessment:
    """Predict for every picture of a source with targets, and compare.

    Args:
        examiner: the model.
        known: what it predicts.
        source: as for a fit; every picture counts, whatever part of the data it is said to be of.
        columns: a table's columns; where no target is named, the model's own names are looked for.
        coverage: of intervals or sets; None for none.
        data_dir: where the files of a named data set are.
        progress: is told how far it is.

    Raises:
        DataError: nothing can be read, or the targets are not of the model's kind, or hold classes that it does not know.
    """
    table = load_table(source, _with_own_targets(source, columns, known), data_dir=data_dir, progress=progress)
    forecasts: list[Forecast] = []
    strange: list[Array] = []
    rows: list[int] = []
    left_out = list(table.left_out)
    seen = 0
    for chunk in examined(examiner, _items(table)):
        for item, reason in zip(chunk.items, chunk.reasons, strict=True):
            if reason is None:
                rows.append(seen)
            else:
                left_out.append(LeftOut(item.name, reason))
            seen += 1
        _gather(chunk, forecasts, strange)
        progress.count(_TITLE, seen, len(table.refs))
    if not rows:
        raise DataError(
            f"None of the {seen:,} pictures of {table.name} can be used; the first is {left_out[0].ref}: {left_out[0].reason}."
        )
    targets = _targets(table, np.array(rows), known)
    forecast = Forecast(
        *(np.concatenate([getattr(each, name) for each in forecasts]) for name in ("raw", "spread", "uncalibrated"))
    )
    covered = None
    if coverage is not None and examiner.conformal is not None:
        covered = metrics.share_interval(_covered(examiner.conformal, targets, forecast, coverage).ravel())
    return Assessment(
        table.name,
        len(rows),
        tuple(left_out),
        metrics.measure_with_intervals(known.yardstick, targets, forecast.raw, seed=0),
        None if covered is None else coverage,
        covered,
        float((np.concatenate(strange) > 1).mean()) if strange else None,
    )


def _with_own_targets(source: Source, columns: Columns, known: Known) -> Columns:
    """The columns, with the model's targets where none are named and the table has columns of these names."""
    own = known.target_names or (known.target_name,)
    if columns.targets or not set(own) <= set(columns_of(source)):
        return columns
    return Columns(own, columns.pictures, columns.group)


def _items(table: Table) -> Iterator[Item]:
    pictures = table.files if table.files is not None else table.arrays
    assert pictures is not None
    return (Item(ref, picture) for ref, picture in zip(table.refs, pictures, strict=True))


def _gather(chunk: Chunk, forecasts: list[Forecast], strange: list[Array]) -> None:
    if chunk.forecast is not None:
        forecasts.append(chunk.forecast)
    if chunk.strangeness is not None:
        strange.append(chunk.strangeness.values)


def _targets(table: Table, rows: Array, known: Known) -> Array:
    """The targets as the model knows them: numbers, or places in its classes."""
    understood = understand(table, rows, known.task)
    kind, own = known.yardstick.kind, kind_of(known.task, several=bool(understood.names))
    if own != kind:
        raise DataError(f"{table.name} has {_WORDS[own]} a picture, and the model predicts {_WORDS[kind]}.")
    if known.classes is None:
        if understood.targets.shape[1:] != (() if kind == "number" else (len(known.target_names),)):
            width = understood.targets.shape[1]
            raise DataError(f"{table.name} has {width} numbers a picture, and the model predicts {len(known.target_names)}.")
        return understood.targets
    place_of = {str(label): place for place, label in enumerate(known.classes)}
    theirs = understood.classes or ()
    unknown = [str(label) for label in theirs if str(label) not in place_of]
    if unknown:
        raise DataError(
            f"{table.name} has {', '.join(map(repr, unknown[:_NAMED]))}{' and more' if len(unknown) > _NAMED else ''} in "
            f"{table.target_name!r}, which the model has never seen; it knows {', '.join(map(repr, list(place_of)[:_NAMED]))}"
            f"{' and more' if len(place_of) > _NAMED else ''}."
        )
    places = np.array([place_of[str(label)] for label in theirs], dtype=np.int64)
    if kind == "label":
        return places[understood.targets]
    targets = np.zeros((len(rows), len(known.classes)), dtype=np.int64)
    targets[:, places] = understood.targets
    return targets


def _covered(conformal: Conformal, targets: Array, forecast: Forecast, coverage: float) -> Array:
    """Whether each truth is in its interval or set."""
    if isinstance(conformal, Sets):
        return conformal.of(forecast.raw, coverage)[np.arange(len(targets)), targets]
    assert isinstance(conformal, (Intervals, SeveralIntervals))
    ends = conformal.around(forecast.raw, forecast.spread, coverage)
    inside: Array = (ends[..., 0] <= targets) & (targets <= ends[..., 1])
    return inside
