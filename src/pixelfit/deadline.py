"""The one clock of a run: how much of the budget is left, and whether the user asked to stop."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pixelfit.errors import OptionError

_SHORTEST = 5.0  # seconds: less does not even load the libraries
_OVERDUE = 0.02  # of the budget


def parse_budget(text: str | float) -> float:
    """Seconds in a budget such as ``90s``, ``10m``, ``1.5h``, ``1h30m`` or a plain number of seconds.

    Raises:
        OptionError: the text is no length of time, or it is shorter than 5 seconds.
    """
    words = str(text).strip().lower().replace(" ", "")
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", words)
    if not words or parts is None:
        raise OptionError(f"--budget {str(text)!r} is no length of time; write it like 90s, 10m or 1h30m.")
    hours, minutes, seconds = (float(part or 0) for part in parts.groups())
    total = hours * 3600 + minutes * 60 + seconds
    if not _SHORTEST <= total < float("inf"):
        raise OptionError(f"--budget {str(text)!r} is too short: give at least {_SHORTEST:g} seconds.")
    return total


class Deadline:
    """Counts down from a budget in seconds (None: no limit), starting at ``started`` on the monotonic clock.

    A clock that is set, or jumps, changes nothing. A request to stop (Ctrl-C) is the same thing to every stage as a clock
    that has run out.
    """

    def __init__(self, budget_s: float | None, *, started: float | None = None) -> None:
        self._start = time.monotonic() if started is None else started
        self._shown: float | None = None  # while the clock stands
        self.budget_s = budget_s
        self._reserve = 0.0
        self._slowed = 1.0
        self._stop = threading.Event()

    def elapsed(self) -> float:
        """Seconds since the command began, with those that its run took before it was broken off."""
        return time.monotonic() - self._start if self._shown is None else self._shown

    def add(self, seconds: float) -> None:
        """Count the seconds that the run took before it was broken off."""
        self._start -= seconds

    @contextmanager
    def standing(self, elapsed: float | None) -> Iterator[None]:
        """Within this block the clock shows ``elapsed``, so that what was decided then is decided again; None: it runs on."""
        self._shown = elapsed
        try:
            yield
        finally:
            self._shown = None

    def reserve(self, seconds: float, *, as_it_is: float = 0.0) -> None:
        """Keep this many seconds for what comes after the search, scoring and the report; more on a machine that is slowed.

        With them ``as_it_is`` seconds for what takes the time that it is given.
        """
        self._reserve = seconds * self._slowed + as_it_is

    def slowed_by(self, factor: float) -> None:
        """Reckon with other programs, for which everything takes so many times as long as on an idle machine."""
        self._slowed = factor

    def left(self) -> float:
        """Seconds left for the search; 0 after a request to stop, infinite without a budget."""
        if self._stop.is_set():
            return 0.0
        if self.budget_s is None:
            return float("inf")
        return max(0.0, self.budget_s - self._reserve - self.elapsed())

    @property
    def overstayed(self) -> bool:
        """Whether the budget was used up so long ago that what is not done is not waited for."""
        return self.budget_s is not None and self.elapsed() > (1 + _OVERDUE) * self.budget_s

    @property
    def interrupted(self) -> bool:
        """Whether the user asked to stop."""
        return self._stop.is_set()

    def interrupt(self) -> None:
        """Ask every stage to end as soon as it can with what it has."""
        self._stop.set()

    @contextmanager
    def stopped_by_ctrl_c(self) -> Iterator[None]:
        """Within this block the first Ctrl-C ends the search in order; a second one raises KeyboardInterrupt."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals reach only the main thread
            return

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self._stop.is_set():
                raise KeyboardInterrupt
            self._stop.set()

        before = signal.signal(signal.SIGINT, on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
