"""How the suite runs: on two cores, at which level, and where its time goes. A plugin of pytest, entered in ``conftest.py``."""

from __future__ import annotations

import ast
import json
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[1]
LONG_S = 20.0  # a test that takes longer carries the mark `long`, with the reason
SHOWN = 20  # slowest tests in the summary

# Files that end in one of these share what they need, so one worker has them all; and first, since it takes them longest.
_SHARED = ("_ray", "_browser")
_PROCESSES = {
    "subprocess.Popen",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
}  # audit events, see the table in Python's documentation


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pixelfit")
    group.addoption("--all", action="store_true", help="run exhaustive matrices and long fuzz runs, too")
    group.addoption("--fast", action="store_true", help="run only tests that start no process and train nothing")
    group.addoption("--of", action="append", default=[], metavar="PATH", help="run only the tests of this file or folder")
    group.addoption("--times", metavar="FILE", help="append each test's seconds to this file")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_AFFECTED] = affected_by(config.getoption("--of"))
    # A shell hands it down ignored to what runs in the background, and so to the processes that tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--fast"):
        _refuse_processes_and_training()


_AFFECTED: pytest.StashKey[set[Path] | None] = pytest.StashKey()


# --- both cores


class _ByFile(LoadScopeScheduling):
    """A worker gets the tests of a whole file, or of all those that share something."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(Path(nodeid.partition("::")[0]))


def _group(file: Path) -> str:
    return next((shared for shared in _SHARED if file.stem.endswith(shared)), file.stem)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByFile:
    return _ByFile(config, log)


def _place(item: pytest.Item) -> int:
    group = _group(item.path)
    return _SHARED.index(group) if group in _SHARED else len(_SHARED)


# --- levels


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("long"):
            if not (mark.args and isinstance(mark.args[0], str)):
                raise pytest.UsageError(f"{item.nodeid}: the mark `long` says why the test takes so long")
        if set(getattr(item, "fixturenames", ())) & _MAKE_SLOW:
            item.add_marker(pytest.mark.slow)
    unwanted = {"exhaustive"} if not config.getoption("--all") else set()
    unwanted |= {"slow", "apart", "browser", "ray"} if config.getoption("--fast") else set()
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in unwanted)]
    items[:] = [item for item in items if item not in set(left_out)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    items.sort(key=_place)  # which is stable


# Fixtures that train.
_MAKE_SLOW = {"regression_run", "classification_run", "numbers_run", "labels_run"}

_under_way: list[str] = []  # the test, in a fast run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    _under_way.append(item.nodeid)
    try:
        return (yield)
    finally:
        _under_way.pop()


def _refuse_processes_and_training() -> None:
    """Fail what ``--fast`` should have left out, so that its promise is kept by whoever writes the next test."""
    import forks

    from pixelfit.training import loop

    def refused(*_: object, **__: object) -> None:
        pytest.fail("it trains: mark it `slow`, so that scripts/test-fast leaves it out")

    def heard(event: str, _: tuple[object, ...]) -> None:
        if event in _PROCESSES and _under_way:
            pytest.fail(f"it starts a process ({event}): mark it `slow`, so that scripts/test-fast leaves it out")

    def not_forked() -> None:
        pytest.fail("it starts a process (forks): mark it `slow`, so that scripts/test-fast leaves it out")

    loop.train_as_one_of = refused  # type: ignore[assignment]
    forks._server = not_forked
    sys.addaudithook(heard)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    affected = config.stash[_AFFECTED]
    if affected is not None and collection_path.name.startswith("test_") and collection_path not in affected:
        return True
    return None


def affected_by(paths: Iterable[str]) -> set[Path] | None:
    """Test files of what lies at the paths: those named, and those that import from it; None where no path is given.

    A file that is no module, such as a template, counts as its folder does. What only other modules import is tested by the
    tests of those.
    """
    given = [Path(path).resolve() for path in paths]
    if not given:
        return None
    for path in given:
        if not path.exists():
            raise pytest.UsageError(f"--of {path}: there is no such file or folder")
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    changed = tuple(_module_of(path) for path in given)
    found = {
        test for test in tests
        if any(test == path or path in test.parents for path in given)
        or any(name == module or name.startswith(f"{module}.") for name in _imports(test) for module in changed)
    }  # fmt: skip
    if not found:
        raise pytest.UsageError(f"no test imports from {', '.join(map(str, given))}")
    return found


def _module_of(path: Path) -> str:
    place = path.parent if path.is_file() and path.suffix != ".py" else path.with_suffix("")
    for root in (ROOT / "src", ROOT / "tests", ROOT):
        if place.is_relative_to(root):
            return ".".join(place.relative_to(root).parts).removesuffix(".__init__")
    raise pytest.UsageError(f"--of {path}: it is no part of this project")


def _imports(file: Path) -> set[str]:
    """Full names of what a file imports, both of ``from a import b`` as module and as what is in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


# --- times


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Write down how long each test took: with its fixtures, of which the first test that wants one waits for it, and alone."""
    if not (file := config.getoption("--times")) or hasattr(config, "workerinput"):
        return
    records: dict[str, dict[str, Any]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                record = records.setdefault(report.nodeid, {"test": report.nodeid, "seconds": 0.0, "own": 0.0})
                record["seconds"] += report.duration
                record["own"] += report.duration if report.when == "call" else 0.0
                record["long"] = "long" in report.keywords
    with Path(file).open("a", encoding="utf-8") as lines:
        lines.writelines(json.dumps(record) + "\n" for record in records.values())


def main() -> None:
    """Say where the time of a run of ``scripts/test`` went: FILE of ``--times``, seconds in all, seconds of the budget."""
    file, taken, budget = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    records.sort(key=lambda record: -record["seconds"])
    say = sys.stdout.write
    say(f"\nThe {SHOWN} slowest of {len(records)} tests, with their fixtures:\n")
    for record in records[:SHOWN]:
        say(f"{record['seconds']:7.1f} s  {record['test']}\n")
    unexplained = [record["test"] for record in records if record["own"] > LONG_S and not record["long"]]
    if unexplained:
        say(f"\nAbove {LONG_S:.0f} s without the mark `long`, which says why:\n" + "".join(f"  {name}\n" for name in unexplained))
    say(f"\nIn all {taken:.0f} s of the {budget:.0f} s that the suite may take on 2 cores, set-up included.\n")
    if taken > budget:
        line = "!" * 80
        say(f"\n{line}\n!!  OVER BUDGET by {taken - budget:.0f} s. Make the slowest tests faster.\n{line}\n")


if __name__ == "__main__":
    main()
