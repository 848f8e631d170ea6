"""Predictions for shards of pictures: a part a shard, each row exactly once however often the command is killed and resumed."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pixelfit.batch import FORMS, Examiner, Totals, check_form, headers, to_parquet
from pixelfit.cluster import RAY_IS_MISSING
from pixelfit.data.places import Place
from pixelfit.errors import DataError, OptionError
from pixelfit.files import write_rows
from pixelfit.progress import Progress
from pixelfit.sharded.parts import Job, Parts, Record
from pixelfit.sharded.work import Engine, Failed, Local
from pixelfit.words import number_of

_TITLE = "Predicting, by shards"


def is_folder(out: Path) -> bool:
    """Whether parts are wanted, and not one file: the path is a folder's, or has no ending."""
    return out.is_dir() or not out.suffix


def parts_of(out: Path, model: str, coverage: float | None, column: str | None) -> Parts:
    """The parts of predictions for shards: in ``out`` where that is a folder, else in ``OUT.parts`` until they are joined.

    Raises:
        OptionError: ``out`` has another ending than tables have, or a package is missing.
    """
    if is_folder(out):
        check_form(out / "part.parquet")
        return Parts(out, Job(model, coverage, column, ".parquet"), stay=True)
    check_form(out)
    return Parts(out.with_name(f"{out.name}.parts"), Job(model, coverage, column, FORMS[0]), stay=False)


def engine_of(
    engine: Literal["local", "ray"], address: str | None, examiner: Examiner, parts: Parts, progress: Progress
) -> Engine:
    """Where shards are predicted for; raises OptionError without the package ray where it is to be Ray.

    ``address`` is that of the Ray cluster (see ``cluster.connected``); None starts one here.
    """
    if engine == "local":
        return Local(examiner, parts.job, parts.folder)
    try:
        from pixelfit.sharded.on_ray import OnRay
    except ImportError as error:
        raise OptionError(RAY_IS_MISSING) from error
    return OnRay(examiner, parts.job, parts.folder, address, progress)


def predict_shards(
    examiner: Examiner,
    shards: Sequence[Place],
    parts: Parts,
    out: Path,
    *,
    resume: bool,
    engine: Engine,
    progress: Progress,
) -> Totals:
    """Write a part for each shard that has none, and join them in the shards' order where ``out`` is one file.

    Args:
        examiner: what predicts.
        shards: no two of one name.
        parts: of ``parts_of(out, ...)``.
        out: a file (CSV or Parquet), or a folder for the parts alone.
        resume: go on with the parts that are there.
        engine: where shards are predicted for.
        progress: is told how many shards are done.

    Raises:
        OptionError: there is nothing to resume, or something else; or the folder is in use or holds other files.
        DataError: shards failed, or have changed since they were predicted for; what is done is kept.
    """
    with parts.alone():
        done: dict[str, Record] = {}
        if resume:
            done = parts.go_on(shards)
        else:
            parts.begin()
        failed = _worked_off(engine, [shard for shard in shards if shard.name not in done], parts, done, progress)
        if failed:
            raise DataError(
                f"{number_of(len(failed), 'shard')} of {len(shards):,} failed; the first is {failed[0].shard.name}: "
                f"{failed[0].reason.rstrip('.')}. The same command with --resume tries them again, and keeps what is done."
            )
        records = [done[shard.name] for shard in shards]
        if parts.stay:
            return _sum(records)
        _join(parts, records, out, examiner)
    parts.remove()
    return _sum(records)


def _worked_off(
    engine: Engine, waiting: Sequence[Place], parts: Parts, done: dict[str, Record], progress: Progress
) -> list[Failed]:
    """Keep what comes of the shards that wait; those that failed are given back."""
    failed: list[Failed] = []
    total = len(done) + len(waiting)
    for outcome in engine.outcomes(waiting) if waiting else ():
        if isinstance(outcome, Failed):
            failed.append(outcome)
            progress.say(f"{outcome.shard.name} failed: {outcome.reason}")
        elif outcome.shard.name in done:  # a worker that was given up has answered after all
            outcome.file.unlink(missing_ok=True)
        else:
            done[outcome.shard.name] = parts.keep(outcome)
        progress.count(_TITLE, len(done), total)
    return failed


def _join(parts: Parts, records: Sequence[Record], out: Path, examiner: Examiner) -> None:
    """All parts as one file, which is there whole or not at all."""
    beside = out.with_name(f"{out.name}.part")
    top = io.StringIO()
    write_rows(top, [headers(examiner, parts.job.coverage)])
    with beside.open("wb") as file:
        parts.joined(records, file, top.getvalue().encode())
        os.fsync(file.fileno())
    if out.suffix.lower() == ".parquet":
        to_parquet(beside, out, examiner)
        beside.unlink()
    else:
        beside.replace(out)


def _sum(records: Sequence[Record]) -> Totals:
    totals = [record.totals for record in records]
    return Totals(
        sum(each.rows for each in totals),
        sum(each.failed for each in totals),
        sum(each.unlike for each in totals),
        next((each.first_failure for each in totals if each.first_failure), ""),
    )
