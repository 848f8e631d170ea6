"""A run's log: what happened when, with memory and tracebacks, a line of JSON each, beside what the terminal shows."""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil

from pixelfit.deadline import Deadline
from pixelfit.progress import Silent
from pixelfit.types import Json, Trial

LOGGER = logging.getLogger("pixelfit")
_AT_WORK_EVERY_S = 5.0
FIELDS = "pixelfit_fields"  # of a record: what the line has beside the event


def note(event: str, *, error: BaseException | None = None, **fields: Json) -> None:
    """Write a line, with the traceback of an ``error``."""
    level = logging.INFO if error is None else logging.ERROR
    LOGGER.log(
        level, event, extra={FIELDS: fields}, exc_info=None if error is None else (type(error), error, error.__traceback__)
    )


def pass_on(event: str, fields: dict[str, Json]) -> None:
    """Write a line that another process noted."""
    LOGGER.log(logging.ERROR if "error" in fields else logging.INFO, event, extra={FIELDS: fields})


@contextmanager
def logged(file: Path, deadline: Deadline) -> Iterator[None]:
    """Within this block what is noted goes into ``file``, one line of JSON after the other; so does what ends the block early.

    A file that is there already is gone on with.
    """
    handler = _Lines(file, deadline)
    before = LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        note("begun")
        yield
        note("ended")
    except BaseException as error:
        note("broken off", error=error)
        raise
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before)
        handler.close()


def read_lines(file: Path) -> list[dict[str, Json]]:
    """The lines of a log; what a kill left half-written is passed over."""
    if not file.is_file():
        return []
    found = []
    for line in file.read_bytes().splitlines():
        try:
            read = json.loads(line)
        except (ValueError, RecursionError):
            continue
        found += [read] if isinstance(read, dict) else []
    return found


class Noted(Silent):
    """A Progress that notes what is worth keeping of it."""

    def __init__(self) -> None:
        self._noted = time.monotonic()

    def advance_trial(self, number: int, fraction: float, detail: str) -> None:
        """Note now and then that there is work going on: how far the budget is used is known from the log after a kill."""
        if time.monotonic() - self._noted > _AT_WORK_EVERY_S:
            self._noted = time.monotonic()
            note("at work", done=round(fraction, 3))

    def say(self, text: str) -> None:
        """Note what the user was told."""
        note("said", text=text)

    def start_trial(self, number: int, title: str) -> None:
        """Note the beginning."""
        note("trial begun", trial=number, what=title)

    def end_trial(self, trial: Trial, *, best: Trial | None) -> None:
        """Note the end."""
        note(
            "trial ended", trial=trial.number, state=trial.state, score=trial.score, seconds=round(trial.seconds, 3),
            steps=trial.steps, best=None if best is None else best.number,
        )  # fmt: skip


class _Lines(logging.Handler):
    """Writes records as lines of JSON, each at once, so that a kill loses none."""

    def __init__(self, file: Path, deadline: Deadline) -> None:
        super().__init__()
        self._deadline, self._process = deadline, psutil.Process()
        torn = file.is_file() and not file.read_bytes().endswith(b"\n")  # by a kill
        self._out = file.open("a", encoding="utf-8", newline="\n")
        if torn:
            self._out.write("\n")

    def emit(self, record: logging.LogRecord) -> None:
        """Write one."""
        line: dict[str, Json] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "elapsed_s": round(self._deadline.elapsed(), 3),
            "memory_mb": round(self._process.memory_info().rss / 1e6, 1),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info is not None and record.exc_info[1] is not None:
            line["error"] = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
            line["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        try:
            self._out.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
            self._out.flush()
        except (OSError, ValueError):  # a full disk must not end a search
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say nothing: the terminal is the display's."""

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # of what a full disk did not take
            self._out.close()
        super().close()
