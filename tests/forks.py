"""Processes that run a module of pixelfit, forked from one that has loaded everything: 7 s of the processor less than a new one.

The nets that they train are as small as in tests. ``Popen`` stands in for ``subprocess.Popen`` where a test does not test how
processes start. What it forks is a process like any other, with its own id, group, files and environment, but the server's child
and not the test's.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import psutil

_PRELOADED = (
    "torch", "torch._dynamo", "sklearn.ensemble", "pandas", "bokeh.plotting", "jinja2", "optuna", "hostile_families",
    "pixelfit.automl", "pixelfit.cli", "pixelfit.resume", "pixelfit.sharded", "pixelfit.search.births",
    "pixelfit.training.one_rank",
)  # fmt: skip
_LENGTH, _STATUS = struct.Struct("Q"), struct.Struct("i")
_ABOVE = 512  # descriptors are put here first, so that none is put over another
_FLAGS = {"-P": {}, "-u": {"PYTHONUNBUFFERED": "1"}}
_MOST_FILES = 16


class Popen(subprocess.Popen[Any]):
    """``[sys.executable, "-m", module, ...]``, forked. It overrides what CPython's own class does to start and to wait."""

    def _execute_child(  # type: ignore[no-untyped-def]  # noqa: PLR0917
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, gid, gids, uid, umask, start_new_session,
        *process_group,
    ) -> None:  # fmt: skip
        words = [os.fspath(word) for word in args]
        place = words.index("-m")
        environment = dict(os.environ if env is None else env)
        for flag in words[1:place]:
            environment |= _FLAGS[flag]
        files = {0: p2cread, 1: c2pwrite, 2: errwrite}
        given = {number: own if own >= 0 else number for number, own in files.items()} | {each: each for each in pass_fds}
        request = {
            "module": words[place + 1], "words": words[place + 2 :], "cwd": os.fspath(cwd or Path.cwd()),
            "environment": environment, "files": list(given), "session": start_new_session,
        }  # fmt: skip
        try:
            self._told = socket.socket(socket.AF_UNIX)
            self._told.connect(_server().address)
            content = json.dumps(request).encode()
            socket.send_fds(self._told, [_LENGTH.pack(len(content))], list(given.values()))
            self._told.sendall(content)
            self.pid = _STATUS.unpack(self._told.recv(_STATUS.size))[0]
            self._child_created = True
            _BEGUN.append((request["module"], self.pid))
        finally:
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)

    def _ended(self, wait: bool) -> bool:
        """Whether it has, once it did or at once."""
        with self._waitpid_lock:
            if self.returncode is None:
                self._told.setblocking(wait)
                with contextlib.suppress(BlockingIOError):
                    content = self._told.recv(_STATUS.size)
                    self.returncode = os.waitstatus_to_exitcode(_STATUS.unpack(content)[0]) if content else -signal.SIGKILL
                    self._told.close()
        return self.returncode is not None

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        self._ended(wait=False)
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if timeout is None:
            self._ended(wait=True)
        else:
            end = time.monotonic() + timeout
            while not self._ended(wait=False):
                if time.monotonic() > end:
                    raise subprocess.TimeoutExpired(self.args, timeout)
                time.sleep(0.005)
        return self.returncode


_BEGUN: list[tuple[str, int]] = []  # modules and processes


def running(module: str) -> list[psutil.Process]:
    """The processes that this one had forked to run the module and that are there still, in the order of their beginning."""
    return [psutil.Process(pid) for name, pid in _BEGUN if name == module and psutil.pid_exists(pid)]


def run(words: Sequence[str | Path], **others: Any) -> subprocess.CompletedProcess[Any]:
    """As ``subprocess.run`` with ``check``, ``capture_output``, ``input`` and what ``Popen`` takes."""
    check, given = others.pop("check", False), others.pop("input", None)
    if others.pop("capture_output", False):
        others |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if given is not None:
        others["stdin"] = subprocess.PIPE
    with Popen(words, **others) as process:
        out, err = process.communicate(given)
    done = subprocess.CompletedProcess(words, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def stand_in() -> SimpleNamespace:
    """What a module of pixelfit has of ``subprocess``, with this ``Popen``."""
    return SimpleNamespace(Popen=Popen, DEVNULL=subprocess.DEVNULL, PIPE=subprocess.PIPE)


class _Server:
    """The process that forks, started when it is first wanted, ended with the one that started it."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="forks-")
        self.address = f"{self._folder}/address"
        theirs, self._ours = os.pipe()  # whose end tells the server that this process is gone
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        words = [sys.executable, "-P", __file__, self.address, str(theirs)]
        process = subprocess.Popen(
            words, pass_fds=[theirs], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment, start_new_session=True
        )
        os.close(theirs)
        assert process.stdout is not None
        assert process.stdout.read(1) == b"r", "the server of forks did not start"
        process.wait()


_SERVERS: list[Any] = []


def _server() -> Any:
    if not _SERVERS:
        _SERVERS.append(_Server())
    return _SERVERS[0]


def main() -> None:
    """Be the server."""
    address, alive = sys.argv[1], int(sys.argv[2])
    for module in _PRELOADED:
        importlib.import_module(module)
    from nets import SMALL

    from pixelfit.models import FAMILIES

    cast(dict[str, Any], FAMILIES).update(SMALL)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    if os.fork():  # so that it is no child of the tests' process, some of which count those
        os._exit(0)
    sys.stdout.write("r")
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        if alive in select.select([listening, alive], [], [])[0]:
            shutil.rmtree(Path(address).parent, ignore_errors=True)
            return
        told = listening.accept()[0]
        if os.fork() == 0:
            listening.close()
            os.close(alive)
            _wait_for_one(told, address)
        told.close()


def _wait_for_one(told: socket.socket, address: str) -> None:
    """Start what is asked for, and tell its id and its end: in a process for that alone."""
    length, files, _, _ = socket.recv_fds(told, _LENGTH.size, _MOST_FILES)
    request = json.loads(told.recv(_LENGTH.unpack(length)[0], socket.MSG_WAITALL))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        told.close()
        _be(request, files, address)
    for file in files:
        os.close(file)
    with contextlib.suppress(OSError):  # who asked is gone
        told.send(_STATUS.pack(child))
        told.send(_STATUS.pack(os.waitpid(child, 0)[1]))
    os._exit(0)


def _be(request: dict[str, Any], files: Sequence[int], address: str) -> NoReturn:
    high = [fcntl.fcntl(file, fcntl.F_DUPFD, _ABOVE) for file in files]
    for file in files:
        os.close(file)
    for number, file in zip(request["files"], high, strict=True):
        os.dup2(file, number)
        os.close(file)
    if request["session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:0] = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place and place not in sys.path]
    unbuffered = "PYTHONUNBUFFERED" in os.environ
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False, buffering=1 if unbuffered else -1)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _SERVERS[:] = [SimpleNamespace(address=address)]
    in_pixelfit()
    if request["module"] == "pixelfit.search.births":
        request["words"][1] = str(os.getppid())  # with which it ends
    sys.argv = [request["module"], *request["words"]]
    for name in [name for name in sys.modules if name == request["module"] or name.startswith("pixelfit.cli")]:
        del sys.modules[name]  # the one is run, the others note when the command began
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    sys.exit()


def in_pixelfit() -> None:
    """Let the processes of trials and ranks be forked, too."""
    from pixelfit.search import nursery
    from pixelfit.training import parallel

    nursery.subprocess = parallel.subprocess = stand_in()  # type: ignore[assignment]


if __name__ == "__main__":
    sys.modules["forks"] = sys.modules["__main__"]
    main()
