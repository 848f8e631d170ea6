"""Helper processes that decode: the same as without them, whatever becomes of them, and nothing left of them."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import bars
from PIL import Image

from pixelfit.data import helpers
from pixelfit.data.attempts import Attempt, Task, attempt
from pixelfit.data.helpers import Helper, attempt_shared
from pixelfit.data.pictures import PictureHead, read_head
from pixelfit.progress import Silent
from pixelfit.types import Array, Embedded, PictureFile, PictureSpec

SPEC = PictureSpec(12, 12, 1)
COUNT = 400


@pytest.fixture
def files(tmp_path: Path) -> list[PictureFile]:
    """Small files, of which some are damaged, missing, of another size or no files of their own."""
    files: list[PictureFile] = [tmp_path / f"{number}.png" for number in range(COUNT)]
    for number, picture in enumerate(bars(COUNT)[0]):
        out = io.BytesIO()
        Image.fromarray(picture[..., 0]).resize((20, 20) if number == 90 else (12, 12)).save(out, "PNG")
        whole = out.getvalue()
        (tmp_path / f"{number}.png").write_bytes(whole[:-40] if number in (7, 333) else whole)
        if number % 50 == 0:
            files[number] = Embedded(partial(bytes, whole))
    (tmp_path / "201.png").unlink()
    return files


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> list[Helper]:
    """Helpers are started for little work, on any machine, and this process leaves most of it to them. Those started."""
    started: list[Helper] = []

    def kept(self: Helper) -> None:
        begin(self)
        started.append(self)

    begin = Helper.__init__
    monkeypatch.setattr(Helper, "__init__", kept)
    monkeypatch.setattr(helpers, "_START_S", 1e-9)
    monkeypatch.setattr(helpers, "_TASK_S", 1e-9)
    monkeypatch.setattr(helpers, "usable_cores", lambda: 3)
    here = threading.current_thread()

    def slowly(task: Task, into: Array) -> Attempt:
        if threading.current_thread() is here and started:
            time.sleep(0.01)
        return attempt(task, into)

    monkeypatch.setattr(helpers, "attempt", slowly)
    return started


def head_of(file: PictureFile) -> PictureHead:
    head = read_head(file)
    assert isinstance(head, PictureHead)
    return head


@pytest.mark.slow
@pytest.mark.parametrize("expecting", [True, False])
@pytest.mark.parametrize("mapped", [True, False])
def test_what_helpers_decode_is_the_same(
    *, expecting: bool, mapped: bool, files: list[PictureFile], eager: list[Helper], tmp_path: Path
) -> None:
    work = Task(files, SPEC, head_of(files[1]) if expecting else None)
    alone = work.room()
    expected = attempt(work, alone)
    assert [row for row in range(COUNT) if not expected.done[row]] == [7, *([90] if expecting else []), 201, 333]
    shared = work.room()
    if mapped:
        shared = np.lib.format.open_memmap(tmp_path / "store.npy", mode="w+", dtype=shared.dtype, shape=shared.shape)
    assert attempt_shared(work, shared, "Decoding", Silent()) == expected
    np.testing.assert_array_equal(shared[expected.done], alone[expected.done])
    assert len(eager) == 2
    assert all(helper.process.returncode is not None for helper in eager)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before the first task", "in the middle"])
def test_a_helper_that_is_killed_is_done_without(when: str, files: list[PictureFile], eager: list[Helper]) -> None:
    work = Task(files, SPEC, None)
    alone, shared = work.room(), work.room()
    expected = attempt(work, alone)

    class Killing(Silent):
        def count(self, title: str, done: int, total: int) -> None:
            for helper in eager:
                if helper.process.returncode is None and (when == "before the first task" or done > COUNT / 4):
                    helper.process.send_signal(signal.SIGKILL)

    assert attempt_shared(work, shared, "Decoding", Killing()) == expected
    np.testing.assert_array_equal(shared[expected.done], alone[expected.done])


def test_where_no_helper_can_be_started_threads_decode(
    files: list[PictureFile], eager: list[Helper], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpers.subprocess, "Popen", lambda *_, **__: (_ for _ in ()).throw(OSError("no more processes")))
    work = Task(files, SPEC, None)
    assert attempt_shared(work, work.room(), "Decoding", Silent()) == attempt(work, work.room())
    assert not eager


@pytest.mark.slow
def test_what_breaks_off_decoding_ends_the_helpers(files: list[PictureFile], eager: list[Helper]) -> None:
    class Stopping(Silent):
        def count(self, title: str, done: int, total: int) -> None:
            if eager:
                raise KeyboardInterrupt

    work = Task(files, SPEC, None)
    with pytest.raises(KeyboardInterrupt):
        attempt_shared(work, work.room(), "Decoding", Stopping())
    assert eager
    assert all(helper.process.returncode is not None for helper in eager)


_UNGUARDED = """
import sys, time
print("begun", flush=True)
from pathlib import Path
from pixelfit.data import helpers
from pixelfit.data.attempts import Task
from pixelfit.progress import Silent
from pixelfit.types import PictureSpec
helpers._START_S = helpers._TASK_S = 1e-9
helpers.usable_cores = lambda: 3

class Waiting(Silent):
    def count(self, title, done, total):
        if "wait" in sys.argv and done > total / 2:
            print("waiting", flush=True)
            time.sleep(60)

work = Task(sorted(Path(sys.argv[1]).glob("*.png")), PictureSpec(12, 12, 1), None)
found = helpers.attempt_shared(work, work.room(), "Decoding", Waiting())
print(sum(found.done), flush=True)
"""


@pytest.mark.slow
def test_a_script_without_a_guard_runs_once(files: list[PictureFile], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_UNGUARDED)
    ran = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.split() == ["begun", str(COUNT - 3)]
    assert ran.stderr == ""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_helpers_end_with_the_process_that_they_help(sent: signal.Signals, files: list[PictureFile], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_UNGUARDED)
    with subprocess.Popen(
        [sys.executable, script, tmp_path, "wait"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline() != b"waiting\n":
            assert process.poll() is None
        children = psutil.Process(process.pid).children()
        assert len(children) == 2
        process.send_signal(sent)
        process.wait(30)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
