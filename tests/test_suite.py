"""The suite's own tools: which tests a path chooses, what a fast run refuses, where the time went, processes that are forked."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import forks
import psutil
import pytest
import suite

TESTS = Path(suite.__file__).parent
SOURCES = TESTS.parent / "src" / "pixelfit"


def names(*paths: Path) -> set[str]:
    found = suite.affected_by(map(str, paths))
    assert found is not None
    return {file.name for file in found}


def test_a_path_chooses_the_tests_that_import_from_it() -> None:
    assert suite.affected_by([]) is None
    assert names(TESTS / "test_suite.py") == {"test_suite.py"}
    assert names(TESTS / "forks.py") >= {"test_suite.py", "test_tracking.py"}
    assert "test_suite.py" not in names(SOURCES / "conformal.py")
    assert "test_conformal.py" in names(SOURCES / "conformal.py")
    # A folder's are those of its modules, and a template's those of its folder.
    assert names(SOURCES / "live") == names(SOURCES / "live" / "live.html.j2") >= {"test_live.py", "test_live_browser.py"}


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (SOURCES / "gone.py", "there is no such file or folder"),
        (SOURCES / "__main__.py", "no test imports from"),
        (Path(sys.executable), "it is no part of this project"),
    ],
)
def test_a_path_that_chooses_no_test_is_refused(path: Path, said: str) -> None:
    with pytest.raises(pytest.UsageError, match=said):
        suite.affected_by([str(path)])


_OTHERS = """
import subprocess

import forks
import pytest


def test_does_nothing():
    pass


def test_starts_a_process():
    subprocess.run(["true"])


def test_forks_one():
    forks.run(["python", "-m", "this"])


def test_trains():
    from pixelfit.training import loop

    loop.train_as_one_of()


@pytest.mark.slow
def test_starts_one_and_says_so():
    subprocess.run(["true"])
"""


@pytest.mark.slow
def test_a_fast_run_fails_what_starts_a_process_or_trains_without_the_mark(tmp_path: Path) -> None:
    (tmp_path / "test_others.py").write_text(_OTHERS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    words = [sys.executable, "-P", "-m", "pytest", "-p", "suite", "--fast", "-p", "no:cacheprovider", str(tmp_path)]
    done = forks.run(words, capture_output=True, cwd=tmp_path)
    said = done.stdout.decode()
    assert done.returncode == 1, said
    assert "3 failed, 1 passed, 1 deselected" in said
    for reason in ("it starts a process (subprocess.Popen)", "it starts a process (forks)", "it trains"):
        assert f"{reason}: mark it `slow`" in said


def test_the_summary_names_the_slowest_and_says_when_it_took_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = [
        {"test": "quick", "seconds": 0.1, "own": 0.1, "long": False},
        {"test": "waits", "seconds": 30.0, "own": 1.0, "long": False},
        {"test": "slow", "seconds": 25.0, "own": 24.0, "long": False},
        {"test": "slow and says why", "seconds": 40.0, "own": 39.0, "long": True},
    ]
    (tmp_path / "times").write_text("".join(json.dumps(each) + "\n" for each in times))
    for taken in ("900", "901"):
        monkeypatch.setattr(sys, "argv", ["suite.py", str(tmp_path / "times"), taken, "900"])
        suite.main()
        said = capsys.readouterr().out
        table, _, rest = said.partition("\nAbove 20 s without the mark `long`, which says why:\n")
        assert [line.split(" s  ")[1] for line in table.splitlines() if " s  " in line] == [
            "slow and says why",
            "waits",
            "slow",
            "quick",
        ]
        assert rest.splitlines()[0] == "  slow"
        assert ("OVER BUDGET by 1 s" in said) == (taken == "901")


@pytest.mark.slow
def test_a_forked_process_is_one_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "said.py").write_text(
        "import os, sys\n"
        "print(os.getcwd(), sys.argv[1:], os.environ['WORD'], sys.stdin.read(), 'torch' in sys.modules)\n"
        "print('complaint', file=sys.stderr)\n"
        "sys.exit(3)\n"
    )
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "", "WORD": "given"}
    words = [sys.executable, "-m", "said", "one", "two"]
    done = forks.run(words, cwd=tmp_path, env=environment, input=b"input", capture_output=True)
    assert done.stdout.decode().split("\n")[0] == f"{tmp_path} ['one', 'two'] given input True"
    assert done.stderr == b"complaint\n"
    assert done.returncode == 3
    with pytest.raises(subprocess.CalledProcessError):
        forks.run(words, cwd=tmp_path, env=environment, check=True, capture_output=True)


@pytest.mark.slow
def test_a_forked_process_is_waited_for_and_killed(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text("import time\nprint('there', flush=True)\ntime.sleep(600)\n")
    words, environment = [sys.executable, "-m", "waits"], {"PYTHONPATH": str(tmp_path), "PATH": ""}
    process = forks.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"there\n"
    assert process.poll() is None
    assert [each.pid for each in forks.running("waits")] == [process.pid]
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.05)
    process.kill()
    process.stdout.close()
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert not psutil.pid_exists(process.pid)
