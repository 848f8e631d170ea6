"""What the benchmarks share: measured commands, resumable records, tables, and where and by what a figure was measured."""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from pixelfit.environment import environment
from pixelfit.errors import PixelfitError
from pixelfit.files import read_json, write_json, write_text
from pixelfit.types import Json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
WORK = ROOT / "benchmarks" / "work"  # run folders, arrays and logs; git ignores it
_SAMPLED_EVERY_S = 0.2
_PATHS = ("--data-dir", "--houses", "--results", "--run")  # options whose values say where things lie on one machine


class BenchmarkError(Exception):
    """A measurement that cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Measured:
    """One finished command. ``peak_rss_mb`` sums the process tree, so pages that processes share count in each."""

    wall_s: float
    peak_rss_mb: float
    code: int


def run_measured(command: Sequence[str], *, log: Path, most_rss_mb: float = float("inf")) -> Measured:
    """Run a command with its output in ``log``; it is killed when its memory passes ``most_rss_mb``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    peak = 0.0
    with log.open("wb") as out:
        began = time.perf_counter()
        # A session of its own: Ctrl-C ends this benchmark, and must not make a half-measured run look like a whole one.
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=child_environment(), start_new_session=True)
        try:
            while True:
                peak = max(peak, tree_rss_mb(process.pid))
                if peak > most_rss_mb:
                    os.killpg(process.pid, signal.SIGKILL)
                try:
                    process.wait(_SAMPLED_EVERY_S)
                    break
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        return Measured(time.perf_counter() - began, peak, process.returncode)


def child_environment() -> dict[str, str]:
    """The environment in which children find this checkout's pixelfit and benchmarks, and no other."""
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), *([before] if before else [])])}


def tree_rss_mb(pid: int) -> float:
    """Resident memory of a process and all its descendants, in MB."""
    total = 0
    try:
        process = psutil.Process(pid)
        tree = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for member in tree:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:  # it ended between the two looks
            continue
    return total / 1e6


def fresh_folder(*parts: str) -> Path:
    """A path under the working folder at which nothing lies: the first free one of NAME, NAME-2, ..."""
    wanted = WORK.joinpath(*parts)
    number, path = 1, wanted
    while path.exists():
        number += 1
        path = wanted.with_name(f"{wanted.name}-{number}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def fit_measured(command: Sequence[str], out: Path) -> dict[str, Json]:
    """Run a command that fits into the run folder ``out``; its seconds, memory and test figures.

    Raises:
        BenchmarkError: the command failed; its last lines are in the message.
    """
    log = out.with_name(f"{out.name}.log")
    measured = run_measured(command, log=log)
    if measured.code != 0:
        raise BenchmarkError(f"The command ended with code {measured.code}: {tail(log)}")
    scores = read_json(out / "scores.json")
    return {
        "wall_s": round(measured.wall_s, 2),
        "peak_rss_mb": round(measured.peak_rss_mb),
        "test_rows": scores["rows"],
        "test": test_figures(scores),
        "baseline": {name: interval["value"] for name, interval in scores["baseline"].items()},
    }


def test_figures(scores: Mapping[str, Json]) -> dict[str, float]:
    """The metrics on the test set, with calibration error and coverage where the run has measured them."""
    figures = {name: float(interval["value"]) for name, interval in scores["test"].items()}
    # Runs of earlier versions have none of these, and small validation sets give no intervals.
    if reliability := scores.get("reliability"):
        figures["ece"] = float(reliability["error"])
    for block in ("intervals", "sets"):
        if measured := scores.get(block):
            figures["covered"] = float(measured["covered"]["value"])
    intervals = scores.get("intervals") or {}
    if "ranges" in intervals:
        figures["miscovered"] = abs(figures["covered"] - intervals["coverage"])  # how far the coverage is off, either way
        figures["covered_worst_fifth"] = min(part["covered"]["value"] for part in intervals["ranges"])
    return figures


test_figures.__test__ = False  # type: ignore[attr-defined]  # it is no test, whatever pytest thinks of its name


def tail(log: Path, lines: int = 5) -> str:
    """The last lines of a log, as one."""
    return " | ".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-lines:])


class Journal:
    """Finished measurements, a JSON line each, so that an interrupted benchmark goes on where it stood.

    A record counts for the machine that made it. The last one of a key counts.
    """

    def __init__(self, path: Path, *, again: bool = False) -> None:
        self._path, self._again = path, again
        self._made: list[Json] = []

    def records(self) -> list[dict[str, Json]]:
        """Records of this machine, the last of each key, in the order of their keys' first appearance."""
        found: dict[str, dict[str, Json]] = {}
        for line in self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else ():
            try:
                record = json.loads(line)
            except ValueError:  # a line that a kill cut short
                continue
            if record["machine"] == machine():
                found[json.dumps(record["key"], sort_keys=True)] = record
        return list(found.values())

    def once(self, key: Json, measure: Callable[[], Json]) -> dict[str, Json]:
        """The record of ``key``; measured now if there is none, or if all are to be measured again."""
        known = next((record for record in self.records() if record["key"] == key), None)
        if known is not None and (not self._again or key in self._made):
            say(f"{named(key)}: known from {known['date']} (code {known['commit']})")
            return known
        say(f"{named(key)}: measuring ...")
        record = {"key": key, "machine": machine(), "commit": commit(), "date": today(), "figures": measure()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        cut_short = self._path.is_file() and self._path.read_bytes()[-1:] not in (b"", b"\n")
        with self._path.open("a", encoding="utf-8") as lines:
            lines.write(("\n" if cut_short else "") + json.dumps(record, allow_nan=False) + "\n")
        self._made.append(key)
        return record


def named(key: Json) -> str:
    """A key as people read it."""
    return ", ".join(f"{name} {value}" for name, value in key.items())


def say(text: str) -> None:
    """Tell how far the benchmark is."""
    print(text, flush=True)


def today() -> str:
    """The date, as YYYY-MM-DD."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


@functools.cache
def machine() -> str:
    """The hardware, in one line."""
    where = environment()
    processor = f"{where['processor']} ({where['instructions']}), {where['cores']} cores"
    return f"{processor}, {where['memory_gib']} GiB, {where['gpu'] or 'no GPU'}"


def commit() -> str:
    """The code that is measured: the git commit, with ``+`` if ``src`` differs from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "--porcelain", "src") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def spread(values: Sequence[float], form: str = "{:.3g}") -> str:
    """The median with the smallest and the largest value; one value alone as it is."""
    middle = form.format(median(values))
    return middle if len(values) == 1 else f"{middle} ({form.format(min(values))} – {form.format(max(values))})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def run(main: Callable[[], None]) -> None:
    """Run a benchmark; what the user can mend becomes one sentence."""
    try:
        main()
    except (BenchmarkError, PixelfitError) as error:
        sys.exit(f"benchmark: {error}")
    except KeyboardInterrupt:
        sys.exit("benchmark: stopped; what is measured already is kept, and the same command goes on from there.")


def options_parser(name: str, what: str, rows: Sequence[str]) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(prog=f"benchmarks/{name}", description=what)
    parser.add_argument("--only", action="append", choices=rows, metavar="ROW", help=f"measure this row only: {', '.join(rows)}")
    parser.add_argument("--again", action="store_true", help="repeat what has been measured already")
    parser.add_argument("--quick", action="store_true", help="a tiny version that shows that it works; its figures mean nothing")
    parser.add_argument("--results", type=Path, help="where the results go (default: benchmarks/results)")
    return parser


def seeds_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--seeds``."""
    parser.add_argument("--seeds", type=lambda text: tuple(map(int, text.split(","))), help="such as 0,1,2")


def data_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--data-dir``."""
    given = os.environ.get("PIXELFIT_DATA")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path(given) if given else None,
        help="folder with the MNIST files; default: PIXELFIT_DATA",
    )


def results_folder(options: argparse.Namespace) -> Path:
    """Where the results go; those of ``--quick`` do not lie among the real ones."""
    chosen: Path | None = options.results
    return chosen or (WORK / "quick" if options.quick else RESULTS)


def journal_of(name: str, options: argparse.Namespace) -> Journal:
    """The benchmark's journal, beside its results."""
    return Journal(results_folder(options) / f"{name}.jsonl", again=options.again)


def write_results(
    name: str, options: argparse.Namespace, *, tables: Sequence[str], notes: Sequence[str], figures: Json, commits: Sequence[str]
) -> None:
    """Write ``NAME.md`` and ``NAME.json``: the tables, the raw figures, and under what they were measured."""
    where = environment()
    command = shlex.join([f"benchmarks/{name}", *_without_paths(sys.argv[1:])])
    about = {
        "date": today(),
        "hardware": machine(),
        "versions": {"python": where["python"], **where["versions"]},
        "code": sorted(set(commits)),
        "command": command,
    }
    folder = results_folder(options)
    write_json(folder / f"{name}.json", {"benchmark": name, **about, **figures})
    lines = [
        f"# benchmarks/{name}\n",
        "Figures are medians, with the smallest and the largest in brackets.\n"
        + ("**A quick run: the figures mean nothing.**\n" if options.quick else ""),
        *tables,
        "".join(f"- {note}\n" for note in notes),
        f"Measured on {about['hardware']}; {where['system']}; "
        + ", ".join(f"{what} {version}" for what, version in about["versions"].items())
        + f"; code {', '.join(about['code'])}; until {about['date']}; `{command}`.\n",
    ]
    text = "\n".join(line for line in lines if line)
    write_text(folder / f"{name}.md", text)
    say("\n" + text)


def _without_paths(arguments: Sequence[str]) -> list[str]:
    """The arguments with paths of this machine left out."""
    kept = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, equals, _ = argument.partition("=")
        if option in _PATHS and equals:
            kept.append(f"{option}=PATH")
        else:
            kept.append("PATH" if before in _PATHS else argument)
    return kept
