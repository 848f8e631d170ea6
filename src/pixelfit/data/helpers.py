"""Decoding shared out among this process and helper processes.

Threads do not do for small files: Pillow lets go of the interpreter's lock while it decodes, but opening a file of 64 × 64 pixels
is Python and takes as long, so that two threads were slower than one. Helpers are plain commands that talk over pipes. Those of
``multiprocessing`` would run the user's script again, which need not be guarded, or be forks of a process with torch's threads.
Pixels come through the pipe right into their place, in memory or mapped, so that there is nothing to be left behind.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial

from pixelfit.data.attempts import Attempt, Task, attempt
from pixelfit.data.pictures import UNREADABLE
from pixelfit.environment import memory_limit, usable_cores
from pixelfit.progress import Progress
from pixelfit.runlog import note
from pixelfit.types import Array, Embedded, PictureFile

_START_S = 0.25  # a helper takes half of it to start, and must save that
_TASK_S = 0.02  # seconds a task
_MOST_FILES = 256  # a task
_PIPE = 1 << 20  # bytes
_COMMAND = "import sys; sys.path[:] = {path!r}; from pixelfit.data.attempts import answer_tasks; answer_tasks()"


def attempt_shared(work: Task, into: Array, title: str, progress: Progress) -> Attempt:
    """``attempt``, by this thread and, where that is enough work for them, by helpers for the other cores."""
    return _Shared(work, into).all_done(title, progress)


class _Shared:
    """Work of which several threads take their next part, each with a helper of its own but for the first."""

    def __init__(self, work: Task, into: Array) -> None:
        self._work, self._into = work, into
        self._result = Attempt([b""] * len(work.files), [False] * len(work.files))
        self._lock = threading.Lock()
        self._taken = self._finished = 0
        self._at_once = 4  # until it is known how long one takes
        self._stopped = threading.Event()

    def all_done(self, title: str, progress: Progress) -> Attempt:
        total, cores, began = len(self._work.files), usable_cores(), time.perf_counter()
        others: list[Future[None]] = []
        with ExitStack() as at_the_end:
            try:
                while self._next_done(None):
                    progress.count(title, self._finished, total)
                    spent = time.perf_counter() - began
                    if not others and spent > _TASK_S:
                        a_file = spent / self._finished
                        self._at_once = max(1, min(_MOST_FILES, int(_TASK_S / a_file)))
                        count = min(cores - 1, int(a_file * (total - self._taken) / _START_S))
                        others = self._begun(count, at_the_end) if count > 0 else []
                for other in others:
                    other.result()
            finally:
                self._stopped.set()  # on Ctrl-C there are parts that nobody has taken
        progress.count(title, total, total)
        return self._result

    def _begun(self, count: int, at_the_end: ExitStack) -> list[Future[None]]:
        """Threads for other cores, each with a helper as far as memory goes."""
        pool = at_the_end.enter_context(ThreadPoolExecutor(count))
        most_helpers = memory_limit() >> 30  # each takes 30 MB of its own
        helpers = [Helper.started(at_the_end) if number < most_helpers else None for number in range(count)]
        return [pool.submit(self._rest_done, helper) for helper in helpers]

    def _rest_done(self, helper: Helper | None) -> None:
        while self._next_done(helper):
            pass

    def _next_done(self, helper: Helper | None) -> bool:
        """Do the next part; whether there was one."""
        with self._lock:
            start = self._taken
            stop = self._taken = min(start + self._at_once, len(self._work.files))
        if start >= stop or self._stopped.is_set():
            return False
        part, place = replace(self._work, files=self._work.files[start:stop]), self._into[start:stop]
        found = helper.attempt(part, place) if helper else None
        if found is None:
            if self._stopped.is_set():
                return False
            found = attempt(part, place)
        self._result.fingerprints[start:stop], self._result.done[start:stop] = found.fingerprints, found.done
        with self._lock:
            self._finished += stop - start
        return True


class Helper:
    """A process of its own that answers tasks. It ends when this one does, in whatever way: its standard input is closed then."""

    def __init__(self) -> None:
        # A session of its own, so that Ctrl-C does not reach it: it is ended from here.
        self.process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            pipesize=_PIPE,
            start_new_session=True,
        )
        self._lost = False

    @classmethod
    def started(cls, helpers: ExitStack) -> Helper | None:
        """A helper that is ended with the others, or None where none can be started."""
        if not sys.executable or getattr(sys, "frozen", False):  # a program that is no Python interpreter would run itself
            return None
        try:
            helper = cls()
        except OSError as error:
            note("no helper process could be started", error=error)
            return None
        helpers.callback(helper.end)
        return helper

    def attempt(self, task: Task, into: Array) -> Attempt | None:
        """What the helper made of a task; None if it cannot be asked or gets lost, so that the task is still to be done."""
        if self._lost:
            return None
        tasks, answers = self.process.stdin, self.process.stdout
        assert tasks is not None
        assert answers is not None
        try:
            portable = replace(task, files=[_portable(file) for file in task.files])
        except UNREADABLE:
            return None
        try:
            pickle.dump(portable, tasks)
            tasks.flush()
            found: Attempt = pickle.load(answers)  # noqa: S301  # it comes from our own code
            pixels = into.data.cast("B")
            if answers.readinto(pixels) < len(pixels):  # type: ignore[attr-defined]
                raise EOFError
        except (OSError, ValueError, EOFError, pickle.UnpicklingError):
            self._lost = True
            note("a helper process was lost")
            return None
        return found

    def end(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(OSError):  # what was to be written has no reader any more
                pipe.close()


def _portable(file: PictureFile) -> PictureFile:
    return Embedded(partial(bytes, file.load())) if isinstance(file, Embedded) else file
