"""Several trials under way at the same time, each in a thread that waits for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self

from pixelfit.search.engine import Plan
from pixelfit.types import Trial


class SideBySide:
    """Runs trials, at most ``slots`` at a time; tells ``on_end`` of all that have ended whenever one has.

    ``run`` is called from a thread of the trial's own; with one slot in the thread that begins the trial.
    """

    def __init__(
        self, slots: int, run: Callable[[Plan], Trial], on_end: Callable[[Sequence[Trial]], None], *, first: Trial
    ) -> None:
        self._slots, self._run, self._on_end = slots, run, on_end
        self._ended = {first.number: first}  # in the order in which they ended
        self._known = first.number + 1  # all with smaller numbers have been handed out
        self._under_way: set[Future[Trial]] = set()
        self._threads = ThreadPoolExecutor(slots, "trial") if slots > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._threads is not None:
            # After an error no one waits: the engine ends its trials, and with them the threads.
            self._threads.shutdown(wait=error is None, cancel_futures=True)

    def wait_for_slot(self) -> None:
        """Wait until a trial that is begun now begins at once."""
        while len(self._under_way) >= self._slots:
            self._wait()

    def begin(self, plan: Plan | Trial) -> None:
        """Begin a trial; one that an earlier process has run has ended already."""
        if isinstance(plan, Trial):
            self._end(plan)
        elif self._threads is None:
            self._end(self._run(plan))
        else:
            self._under_way.add(self._threads.submit(self._run, plan))

    def until(self, number: int) -> list[Trial]:
        """Wait for all trials with smaller numbers than this; those of them that were not handed out before, in order."""
        while any(each not in self._ended for each in range(self._known, number)):
            self._wait()
        found = [self._ended[each] for each in range(self._known, number)]
        self._known = max(self._known, number)
        return found

    def _wait(self) -> None:
        ended, self._under_way = wait(self._under_way, return_when=FIRST_COMPLETED)
        for future in ended:
            self._end(future.result())

    def _end(self, trial: Trial) -> None:
        self._ended[trial.number] = trial
        self._on_end(tuple(self._ended.values()))
