"""Whether predictions for shards hold each row exactly once in constant memory, though the command is killed twice on the way."""

from __future__ import annotations

import csv
import io
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from benchmarks import shared
from pixelfit.models.heads import ClassHead
from pixelfit.models.model import Model, Preparation
from pixelfit.predictor import Member, Predictor
from pixelfit.types import Array, Json, PictureSpec

_ROWS = {"20k": 20_000, "200k": 200_000, "2m": 2_000_000}
_SIDE, _DISTINCT = 28, 2_000
_IN_A_SHARD = 10_000
_KILLED_AT = (1 / 3, 2 / 3)  # of the shards
_SAMPLED_EVERY_S = 0.1
_END = bytes(2 * tarfile.BLOCKSIZE)


@dataclass
class _Watched:
    """What was seen of the processes: their own memory in MB before and after half of the shards were done."""

    halves: list[float] = field(default_factory=lambda: [0.0, 0.0])
    kills: int = 0


def main() -> None:
    """Run the benchmark."""
    parser = shared.options_parser("shards", (__doc__ or "").strip(), list(_ROWS))
    options = parser.parse_args()
    journal, rows = shared.journal_of("shards", options), []
    for name in options.only or (["20k"] if options.quick else list(_ROWS)):
        count = 2_000 if options.quick else _ROWS[name]
        figures = journal.once({"rows": name}, partial(measure, count))["figures"]
        speed = figures["rows"] / figures["wall_s"]
        peaks = (f"{figures[f'{half}_half_mb']:,.0f}" for half in ("first", "second"))
        rows.append(
            [
                f"{figures['rows']:,}",
                str(figures["shards"]),
                str(figures["kills"]),
                f"{figures['once']:,}",
                f"{figures['missing']:,} / {figures['twice']:,}",
                f"{figures['wall_s']:,.0f}",
                f"{speed:,.0f}",
                *peaks,
            ]
        )
    header = [
        "pictures", "shards", "kills", "rows once", "missing / twice", "s, kills and restarts included", "pictures a second",
        "peak of the first half, MB", "of the second half, MB",
    ]  # fmt: skip
    shared.write_results(
        "shards",
        options,
        tables=[shared.table(header, rows)],
        notes=[
            f"`pixelfit predict RUN shards/ -o out.csv`: PNG files of {_SIDE} × {_SIDE}, {_DISTINCT:,} distinct ones again "
            f"and again, at most {_IN_A_SHARD:,} in a tar; a linear model with random weights for ten classes.",
            "Killed (SIGKILL) when a third and two thirds of the shards were done, and gone on with by `--resume`; rows are "
            "counted by their keys in the joined file.",
            "Memory is the process's own: resident without what is shared with files and other processes.",
        ],
        figures={"rows": rows},
        commits=[record["commit"] for record in journal.records()],
    )


def measure(rows: int) -> Json:
    """Figures of predictions for so many pictures."""
    folder = shared.fresh_folder("shards", str(rows))
    in_a_shard = min(_IN_A_SHARD, rows // 20)
    shards = make_shards(folder / "shards", rows, in_a_shard)
    small_predictor().save(folder / "run")
    out, log = folder / "out.csv", folder / "predict.log"
    command = [sys.executable, "-P", "-m", "pixelfit", "predict", str(folder / "run"), str(folder / "shards"), "-o", str(out)]
    watched, began = _Watched(), time.perf_counter()
    for kill_at in (*(round(share * shards) for share in _KILLED_AT), shards + 1):
        code = _run([*command, *(["--resume"] if watched.kills else [])], log, out, shards, kill_at, watched)
        if code not in (0, -signal.SIGKILL):
            raise shared.BenchmarkError(f"The command ended with code {code}: {shared.tail(log)}")
    wall_s = time.perf_counter() - began
    counts = _counted(out, rows)
    shutil.rmtree(folder)
    return {
        "rows": rows,
        "shards": shards,
        "kills": watched.kills,
        "once": int((counts == 1).sum()),
        "missing": int((counts == 0).sum()),
        "twice": int((counts > 1).sum()),
        "wall_s": round(wall_s, 1),
        "first_half_mb": round(watched.halves[0]),
        "second_half_mb": round(watched.halves[1]),
    }


def _run(command: list[str], log: Path, out: Path, shards: int, kill_at: int, watched: _Watched) -> int:
    """Run the command, killing it when so many shards are done; its exit code."""
    records = out.with_name(f"{out.name}.parts") / "_records"
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=shared.child_environment())
        try:
            while process.poll() is None:
                done = sum(1 for _ in records.glob("shard-*.json"))
                half = int(done >= shards / 2)
                watched.halves[half] = max(watched.halves[half], _own_mb(process.pid))
                if done >= kill_at:
                    watched.kills += 1
                    break
                time.sleep(_SAMPLED_EVERY_S)
        finally:
            process.kill()
        return process.wait()


def _own_mb(pid: int) -> float:
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.NoSuchProcess:
        return 0.0
    return (memory.rss - memory.shared) / 1e6


def _counted(out: Path, rows: int) -> Array:
    """How often each picture's key is in the file, (rows,)."""
    counts = np.zeros(rows, dtype=np.int64)
    with out.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["error"]:
                raise shared.BenchmarkError(f"{row['picture']} was not predicted for: {row['error']}")
            counts[int(row["picture"].rpartition("/")[2].partition(".")[0])] += 1
    return counts


def make_shards(folder: Path, rows: int, in_a_shard: int) -> int:
    """Write tars of PNG files that are called after their number; how many tars."""
    folder.mkdir(parents=True)
    pictures = [_padded(_picture(number)) for number in range(_DISTINCT)]
    shards = -(-rows // in_a_shard)
    for shard in range(shards):
        with (folder / f"shard-{shard:05d}.tar").open("wb") as file:
            for row in range(shard * in_a_shard, min(rows, (shard + 1) * in_a_shard)):
                size, content = pictures[row % _DISTINCT]
                about = tarfile.TarInfo(f"{row:08d}.png")
                about.size = size
                file.write(about.tobuf(tarfile.USTAR_FORMAT))
                file.write(content)
            file.write(_END)
    return shards


def _picture(number: int) -> bytes:
    pixels = np.zeros((_SIDE, _SIDE), dtype=np.uint8)
    top, left, height, width = np.random.default_rng(number).integers(2, 13, 4)
    pixels[top : top + height, left : left + width] = 255 - number % 128
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


def _padded(content: bytes) -> tuple[int, bytes]:
    return len(content), content + bytes(-len(content) % tarfile.BLOCKSIZE)


def small_predictor() -> Predictor:
    """A linear model with random weights for ten classes."""
    model = Model.new("linear", {}, PictureSpec(_SIDE, _SIDE, 1), Preparation((20.0,), (60.0,)), ClassHead(10))
    torch.manual_seed(0)
    torch.nn.init.normal_(model.module[1].weight)  # type: ignore[index,arg-type]
    return Predictor("classification", tuple("0123456789"), "digit", (Member(model, 0, 1.0),))


if __name__ == "__main__":
    shared.run(main)
