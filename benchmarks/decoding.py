"""Decoding and store building beside Pillow's own decode-and-resize loop, and training under a limit of memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import shared
from pixelfit.data.sources import load_table
from pixelfit.data.store import decode
from pixelfit.progress import Silent
from pixelfit.types import UNNAMED

_LIMIT_GIB = 2
_LIMITED = "memory-200000x64"
_PAIRS = 3
_STORED_SIDE = 224  # the longest side at which so few pictures are stored
_SAMPLED_EVERY_S = 0.1


@dataclass(frozen=True)
class Set:
    """Files of one kind and size."""

    suffix: str
    width: int
    height: int
    count: int


SETS = {
    "jpeg-2000x1500": Set(".jpg", 2000, 1500, 150),
    "jpeg-500x375": Set(".jpg", 500, 375, 1500),
    "png-500x375": Set(".png", 500, 375, 800),
    "jpeg-64x64": Set(".jpg", 64, 64, 5_000),
    "png-64x64": Set(".png", 64, 64, 5_000),
}
_WAYS = ("pillow", "store", "store, all cores", "store, second run")


def main() -> None:
    """Measure the rows that are not measured yet, and write the tables of all that are."""
    parser = shared.options_parser("decoding", __doc__, [*SETS, _LIMITED])
    parser.add_argument("--way", choices=_WAYS, help="(for itself) decode one set in this way and print seconds")
    parser.add_argument("--folder", type=Path, help="(for itself) where the files lie")
    options = parser.parse_args()
    if options.way is not None:
        print(json.dumps(_seconds(options.way, options.folder)))
        return
    journal = shared.journal_of("decoding", options)
    for name in options.only or [*SETS, _LIMITED]:
        key = {"row": name, "quick": options.quick}
        if name == _LIMITED:
            journal.once(key, lambda: _limited(2_000 if options.quick else 200_000))
        else:
            journal.once(key, lambda chosen=SETS[name], name=name: _compared(name, chosen, quick=options.quick))
    records = [record for record in journal.records() if record["key"]["quick"] == options.quick]
    shared.write_results(
        "decoding",
        options,
        tables=[text for text in (_speed_table(records), _memory_table(records)) if text],
        notes=[
            "pictures: smooth colour noise, written by Pillow; brought to 224 pixels on the longer side, or kept at 64",
            "Pillow's loop: open, convert to RGB, resize (bilinear), to an array; one process on one core",
            "store: all that a run does with the files until it has the pictures: comparing with earlier runs, reading sizes, "
            "decoding, writing the store, looking for exact duplicates; JPEG files are decoded at the smallest scale that is at "
            "least twice the wanted size, which the loop does not do",
            f"all in processes of their own, the files in the page cache, in turns, {_PAIRS} times each",
            f"memory: the whole command `pixelfit fit` in a control group of {_LIMIT_GIB} GiB, pages of files included; the "
            "pictures are mapped from disk; its own memory is what it cannot give back, resident counts the mapped pictures too",
        ],
        figures={"runs": records},
        commits=[record["commit"] for record in records],
    )


def _files(folder: Path, kind: Set) -> None:
    """Make the set's files, unless they are there."""
    if folder.is_dir() and len(list(folder.iterdir())) == kind.count:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    different = min(kind.count, 50)
    pictures = [
        Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize(
            (kind.width, kind.height), Image.Resampling.BICUBIC
        )
        for _ in range(different)
    ]
    for number in range(kind.count):
        pictures[number % different].save(folder / f"{number:06d}{kind.suffix}")


def _compared(name: str, kind: Set, *, quick: bool) -> shared.Json:
    kind = Set(kind.suffix, kind.width, kind.height, 20) if quick else kind
    folder = shared.WORK / f"decoding{'-quick' if quick else ''}" / name
    _files(folder, kind)
    seconds: dict[str, list[float]] = {way: [] for way in _WAYS}
    for _ in range(1 if quick else _PAIRS):
        cache = shared.fresh_folder("decoding-cache")
        for way in _WAYS:
            if way == "store, all cores":
                shutil.rmtree(cache, ignore_errors=True)
            seconds[way].append(_in_a_process(way, folder, cache))
        shutil.rmtree(cache, ignore_errors=True)
    return {"count": kind.count, "seconds": seconds}


def _in_a_process(way: str, folder: Path, cache: Path) -> float:
    command = [sys.executable, "-P", "-m", "benchmarks.decoding", "--way", way, "--folder", str(folder)]
    environment = {**shared.child_environment(), "XDG_CACHE_HOME": str(cache)}
    core = min(os.sched_getaffinity(0))
    ran = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=(lambda: os.sched_setaffinity(0, {core})) if way in ("pillow", "store") else None,
    )
    return float(json.loads(ran.stdout))


def _seconds(way: str, folder: Path) -> float:
    paths = sorted(folder.iterdir())
    with Image.open(paths[0]) as first:
        shrink = min(1.0, _STORED_SIDE / max(first.size))
        size = (round(first.width * shrink), round(first.height * shrink))
    targets = np.arange(len(paths)) / 7
    began = time.perf_counter()
    if way == "pillow":
        for path in paths:
            with Image.open(path) as picture:
                np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BILINEAR))
    else:
        table = load_table((paths, targets), UNNAMED, data_dir=None, progress=Silent())
        decode(table, Silent())
    return time.perf_counter() - began


def _limited(count: int) -> shared.Json:
    """A whole run on so many pictures of 64 × 64 under the limit of memory: its exit code, seconds and peak memory."""
    folder = shared.WORK / f"decoding-{count}"
    _files(folder, Set(".jpg", 64, 64, count))
    table = folder.with_suffix(".csv")
    names = [f"{folder.name}/{number:06d}.jpg" for number in range(count)]
    values = np.arange(count) % 50 / 7
    table.write_text("file,value\n" + "".join(f"{name},{value}\n" for name, value in zip(names, values, strict=True)))
    cache, out = shared.fresh_folder("decoding-cache"), shared.fresh_folder("decoding-run")
    command = [sys.executable, "-m", "pixelfit", "fit", str(table), "--task", "regression", "--trials", "3", "--steps", "200"]
    log = out.with_name(f"{out.name}.log")
    began = time.perf_counter()
    peaks = {"own": 0.0, "resident": 0.0}
    with log.open("wb") as written, _control_group(_LIMIT_GIB << 30) as members:
        process = subprocess.Popen(
            [*command, "--out", str(out)],
            env={**shared.child_environment(), "XDG_CACHE_HOME": str(cache)},
            stdout=written,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: members.write_text(str(os.getpid()), encoding="ascii"),  # noqa: PLW1509
        )
        while process.poll() is None:
            for what, line in (("own", "RssAnon"), ("resident", "VmRSS")):
                peaks[what] = max(peaks[what], _status_mb(process.pid, line))
            time.sleep(_SAMPLED_EVERY_S)
    if process.returncode != 0:
        raise shared.BenchmarkError(f"The command ended with code {process.returncode}: {shared.tail(log)}")
    store_mb = sum(file.stat().st_size for file in cache.rglob("pictures.npy")) / 1e6
    shutil.rmtree(cache, ignore_errors=True)
    return {
        "count": count,
        "wall_s": time.perf_counter() - began,
        "store_mb": store_mb,
        **{f"{k}_mb": v for k, v in peaks.items()},
    }


@contextmanager
def _control_group(limit: int) -> Iterator[Path]:
    """A control group that may hold so many bytes; whoever writes a process's number into the file puts it there."""
    version_1 = Path("/sys/fs/cgroup/memory")
    root, name = (version_1, "memory.limit_in_bytes") if version_1.is_dir() else (Path("/sys/fs/cgroup"), "memory.max")
    group = root / f"pixelfit-{os.getpid()}"
    try:
        group.mkdir()
        (group / name).write_text(str(limit), encoding="ascii")
    except OSError as error:
        raise shared.BenchmarkError(f"No control group can be made ({error}); this row needs root on Linux.") from error
    try:
        yield group / "cgroup.procs"
    finally:
        group.rmdir()


def _status_mb(pid: int, name: str) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{name}:")), 0.0)


def _speed_table(records: list[dict[str, shared.Json]]) -> str:
    lines = []
    for record in records:
        if record["key"]["row"] not in SETS:
            continue
        count, seconds = record["figures"]["count"], record["figures"]["seconds"]
        pillow, one, all_cores, again = (seconds[way] for way in _WAYS)
        lines.append(
            [
                record["key"]["row"],
                f"{count:,}",
                *(shared.spread([count / each for each in column], "{:,.0f}") for column in (pillow, one, all_cores, again)),
                shared.spread([a / b for a, b in zip(pillow, one, strict=True)], "{:.2f}"),
                shared.spread([a / b for a, b in zip(one, all_cores, strict=True)], "{:.2f}"),
            ]
        )
    header = [
        "files", "number", "Pillow, pictures/s", "store on one core", "store on all cores", "second run",
        "store ÷ Pillow, one core", "all cores ÷ one",
    ]  # fmt: skip
    return shared.table(header, lines) if lines else ""


def _memory_table(records: list[dict[str, shared.Json]]) -> str:
    lines = [
        [
            f"{figures['count']:,} of 64×64",
            f"{figures['store_mb'] / 1000:.2f}",
            f"{_LIMIT_GIB} GiB",
            f"{figures['own_mb'] / 1000:.2f}",
            f"{figures['resident_mb'] / 1000:.2f}",
            f"{figures['wall_s']:.0f}",
        ]
        for record in records
        if record["key"]["row"] == _LIMITED
        for figures in [record["figures"]]
    ]
    header = ["pictures", "decoded, GB", "limit", "peak of its own memory, GB", "peak resident, GB", "seconds"]
    return shared.table(header, lines) if lines else ""


if __name__ == "__main__":
    shared.run(main)
