"""The process in which trials are born, as the search's process sees it: nothing heavy is loaded here, so it can begin first."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Self

from pixelfit.threads import spin_briefly

STATUS = struct.Struct("i")
READY = b"r"
LONGEST_ORDER = 1024  # bytes
_LOADING_S = 300.0  # at most, for libraries


@dataclass(frozen=True)
class Child:
    """A process for one trial, and the connection to it."""

    process: int
    connection: Connection
    status: socket.socket

    def how_it_ended(self) -> int | None:
        """Wait for its end: the status that ``os.waitpid`` gives; None if the nursery ended, and it with it."""
        with self.status:
            answer = self.status.recv(STATUS.size)
        return int(STATUS.unpack(answer)[0]) if len(answer) == STATUS.size else None


class Nursery:
    """A process that loads what trials need while this one does the same, then waits for a household to be born into.

    ``preload`` are modules that its children need beside pixelfit's own. Only Linux forks safely; see ``can_be``.
    """

    def __init__(self, preload: Sequence[str] = ()) -> None:
        self._preload = tuple(preload)
        self.memory = os.memfd_create("pixelfit-pictures")  # shared with it, for pictures
        self._begin()

    @staticmethod
    def can_be() -> bool:
        """Whether this system has what it takes."""
        return sys.platform == "linux" and bool(sys.executable)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def again(self) -> None:
        """Begin anew, in place of a process that has died."""
        self._stop()
        self._begin()

    def end(self) -> None:
        """End the process; doing so twice changes nothing."""
        self._stop()
        if self.memory >= 0:
            os.close(self.memory)
            self.memory = -1

    def is_ready(self) -> bool:
        """Wait until it has loaded everything; False if it could not, or not within some minutes."""
        try:
            return self._control.recv(1) == READY
        except OSError:  # also that the time is up
            return False

    def takes(self, household: bytes) -> bool:
        """Give it what all trials share; False if it could not take that."""
        try:
            self._control.sendall(household)
            return self._control.recv(1) == READY
        except OSError:
            return False

    def child(self, modules: Sequence[str] = ()) -> Child:
        """A child; the nursery loads the modules before. Not from two threads at once. OSError if the nursery has died."""
        ours, theirs = socket.socketpair()
        status, end = socket.socketpair()
        with theirs, end:
            socket.send_fds(self._control, [f"{' '.join(modules)}\n".encode()], [theirs.fileno(), end.fileno()])
        status.settimeout(_LOADING_S)
        try:
            answer = status.recv(STATUS.size)
        except TimeoutError:
            answer = b""
        status.settimeout(None)
        if len(answer) < STATUS.size:
            ours.close()
            status.close()
            raise BrokenPipeError("the process that starts trials has ended")
        return Child(int(STATUS.unpack(answer)[0]), Connection(ours.detach()), status)

    def _begin(self) -> None:
        self._control, theirs = socket.socketpair()
        self._control.settimeout(_LOADING_S)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        spin_briefly(environment)
        with theirs:
            words = [
                "-P",
                "-m",
                "pixelfit.search.births",
                str(theirs.fileno()),
                str(os.getpid()),
                *self._preload,
            ]
            self._process = subprocess.Popen(
                [sys.executable, *words],
                pass_fds=[theirs.fileno(), self.memory],
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the search to decide about
            )

    def _stop(self) -> None:
        self._control.close()
        self._process.kill()
        self._process.wait()
