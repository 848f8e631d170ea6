"""How time and memory grow with the number of pictures and with their size."""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks import pixelfit_side, shared

MOST_GIB = 12.0
_COPIES = 5  # arrays of the pictures' size that loading, splitting and training may hold at once
_FIXED_GIB = 1.0  # the libraries, and a training of large pictures
_PREDICTED = 10_000


@dataclass(frozen=True)
class Point:
    """One data set: how many square pictures, of how many pixels a side."""

    count: int
    side: int
    channels: int = 1

    def name(self) -> str:
        """Such as ``100000x28``."""
        return f"{self.count}x{self.side}" + ("" if self.channels == 1 else f"x{self.channels}")

    def input_gib(self) -> float:
        """What the pictures alone take."""
        return self.count * self.side**2 * self.channels / 2**30


COUNTS = [Point(count, side) for side in (8, 28) for count in (1_000, 10_000, 100_000, 1_000_000)]
SIDES = [Point(5_000, side) for side in (8, 16, 28, 48, 64, 96, 128, 160, 224)]
QUICK = [Point(200, 8), Point(100, 28)]


def main() -> None:
    """Measure the points that are not measured yet, each in a process of its own, and write the tables of all that are."""
    points = {point.name(): point for point in (*COUNTS, *SIDES, *QUICK)}
    parser = shared.options_parser("scaling", __doc__, list(points))
    parser.add_argument("--point", type=Path, help="(for itself) measure the point that --only names, and write JSON here")
    parser.add_argument("--seeds", type=int, default=None, help="repetitions of each point (default 3)")
    options = parser.parse_args()
    if options.point is not None:
        shared.write_json(options.point, measure(points[options.only[0]], quick=options.quick))
        return
    journal = shared.journal_of("scaling", options)
    for name in options.only or list(dict.fromkeys(point.name() for point in (QUICK if options.quick else [*COUNTS, *SIDES]))):
        for repetition in range(options.seeds or (1 if options.quick else 3)):
            key = {"row": name, "repetition": repetition, "quick": options.quick}
            journal.once(key, lambda point=points[name]: _measured(point, quick=options.quick))
    records = [record for record in journal.records() if record["key"]["quick"] == options.quick]
    tables = [("By the number of pictures:\n", COUNTS), ("By their size:\n", SIDES), ("A quick look:\n", QUICK)]
    shared.write_results(
        "scaling",
        options,
        tables=[text for title, chosen in tables if (body := _table(chosen, records)) for text in (title, body)],
        notes=[
            "pictures: grey uint8 arrays of noise with a stroke in one of ten places, given through the Python API; "
            "load: from the arrays to train, validation and test sets, duplicates looked for",
            "step: of the known-good convolutional net with its batch size, a long training less a short one; larger pictures "
            "are made smaller first, as in a run",
            "peak memory: resident, of the point's own process, the arrays given to pixelfit included",
            f"a process is ended when it holds more than {MOST_GIB:g} GiB, and a point that would is left out",
        ],
        figures={"runs": records},
        commits=[record["commit"] for record in records],
    )


def _measured(point: Point, *, quick: bool) -> shared.Json:
    """Measure a point in a process of its own; its figures, or why there are none."""
    wanted = _FIXED_GIB + _COPIES * point.input_gib()
    if wanted > min(MOST_GIB, psutil.virtual_memory().available / 2**30):
        return {"left_out": f"may take {wanted:.1f} GiB"}
    file = shared.fresh_folder("scaling", f"{point.name()}.json")
    command = [sys.executable, "-m", "benchmarks.scaling", "--only", point.name(), "--point", str(file)]
    log = file.with_suffix(".log")
    ran = shared.run_measured([*command, *(["--quick"] if quick else [])], log=log, most_rss_mb=MOST_GIB * 2**30 / 1e6)
    if not file.is_file():
        if ran.peak_rss_mb > MOST_GIB * 2**30 / 1e6:
            return {"left_out": f"took more than {MOST_GIB:g} GiB"}
        raise shared.BenchmarkError(f"{point.name()} ended with code {ran.code}: {shared.tail(log)}")
    return {**json.loads(file.read_text(encoding="utf-8")), "wall_s": ran.wall_s}


def measure(point: Point, *, quick: bool) -> shared.Json:
    """A point's figures, measured in this process."""
    X, y = pixelfit_side.digits_like(point.count, point.side, channels=point.channels)
    began = time.perf_counter()
    ready = pixelfit_side.prepared(X, y, "regression")
    load_s = time.perf_counter() - began
    recipe = pixelfit_side.known_good(ready, "convnet")
    steps = (1, 2) if quick else (5, 45)
    model, _ = pixelfit_side.trained(recipe, ready, steps[0])  # first of all, since it allocates memory and picks kernels
    step_s = pixelfit_side.step_seconds(recipe, ready, steps)
    rows = np.resize(ready.train.rows, 100 if quick else _PREDICTED)
    began = time.perf_counter()
    model.predict(ready.train.store, rows)
    predict_s = time.perf_counter() - began
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return {
        "load_s": load_s,
        "step_s": step_s,
        "batch": min(recipe.batch_size, len(ready.train)),
        "seen_as": f"{ready.facts.spec.height}×{ready.facts.spec.width}",
        "predict_s": predict_s,
        "predicted": len(rows),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6,
    }


def _table(points: list[Point], records: list[dict[str, shared.Json]]) -> str:
    lines = []
    for point in points:
        found = [record["figures"] for record in records if record["key"]["row"] == point.name()]
        if not found:
            continue
        start = [f"{point.count:,}", f"{point.side}×{point.side}"]
        good = [figures for figures in found if "left_out" not in figures]
        if not good:
            lines.append([*start, found[0]["left_out"], "", "", "", "", "", "0"])
            continue
        lines.append(
            [
                *start,
                good[0]["seen_as"],
                shared.spread([figures["load_s"] for figures in good]),
                shared.spread([1e3 * figures["step_s"] for figures in good]),
                shared.spread([1e6 * figures["step_s"] / figures["batch"] for figures in good]),
                shared.spread([figures["predict_s"] * _PREDICTED / figures["predicted"] for figures in good]),
                shared.spread([figures["peak_rss_mb"] / 1000 for figures in good], "{:.2f}"),
                str(len(good)),
            ]
        )
    header = [
        "pictures",
        "size",
        "trained at",
        "load, s",
        "step, ms",
        "a picture of it, µs",
        "predict 10,000, s",
        "peak memory, GB",
        "runs",
    ]
    return shared.table(header, lines) if lines else ""


if __name__ == "__main__":
    shared.run(main)
