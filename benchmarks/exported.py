"""The exported model of a regression on MNIST beside the original: size, scores on the test set, time for one picture."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import pixelfit
from benchmarks import shared
from pixelfit import metrics
from pixelfit.data.sources import load_table
from pixelfit.export.onnx import write_int8, write_onnx
from pixelfit.graphs import INPUT, session_of
from pixelfit.progress import Silent
from pixelfit.runs import RunFolder
from pixelfit.types import UNNAMED, Array

ROWS = ("torch", "onnx", "onnx int8")
_BATCH = 256
_ROUNDS, _ALONE = 7, 200  # turns of each row, and pictures shown one by one in each


def main() -> None:
    """Measure the rows, and write the table."""
    parser = shared.options_parser("exported", __doc__, ROWS)
    shared.data_option(parser)
    parser.add_argument("--run", type=Path, help="take this finished run instead of a new one")
    parser.add_argument("--budget", default="10m", help="of a new run (default 10m)")
    options = parser.parse_args()
    journal = shared.journal_of("exported", options)
    record = journal.once({"quick": options.quick}, lambda: _measured(options))
    rows = record["figures"]
    shared.write_results(
        "exported",
        options,
        tables=[_table(rows)],
        notes=[
            "a run's final model on MNIST as numbers; RMSE and accuracy after rounding on 10,000 test digits; size of all files",
            f"one picture: pictures shown one by one, {_ROUNDS} turns of {_ALONE}, the rows one after another in each turn; the "
            "median of the turns' medians, with the smallest and the largest; in batches: 256 at a time; all on both cores",
            "torch: predict_raw of the loaded predictor; onnx: ONNX Runtime on the exported graph, resizing included",
        ],
        figures={"rows": rows},
        commits=[record["commit"]],
    )


def _measured(options: argparse.Namespace) -> shared.Json:
    run = options.run or new_run(options)
    folder = RunFolder.existing(run)
    graph, small = folder.path / "export" / "model.onnx", folder.path / "export" / "model-int8.onnx"
    parity = write_onnx(folder, graph)
    write_int8(folder, small)
    predictor = pixelfit.load(run)
    predicts = {"torch": predictor.predict_raw, "onnx": _session_predicts(graph), "onnx int8": _session_predicts(small)}
    sizes = {
        "torch": sum(file.stat().st_size for file in folder.model_folder.rglob("*") if file.is_file()),
        "onnx": graph.stat().st_size,
        "onnx int8": small.stat().st_size,
    }
    pictures, targets = _test_set(options)
    rows: dict[str, shared.Json] = {name: {"bytes": sizes[name], "alone_ms": [], "batch_ms": []} for name in ROWS}
    for name, predict in predicts.items():
        said = np.concatenate([predict(pictures[start : start + _BATCH]) for start in range(0, len(pictures), _BATCH)])
        rows[name] |= {"rmse": metrics.rmse(targets, said), "accuracy": metrics.rounded_accuracy(targets, said)}
    for _ in range(1 if options.quick else _ROUNDS):
        for name, predict in predicts.items():
            rows[name]["alone_ms"].append(_ms(predict, pictures[:_ALONE], 1))
            rows[name]["batch_ms"].append(_ms(predict, pictures[: 8 * _BATCH], _BATCH))
    return {"difference": parity.largest, "checked": parity.pictures, "rows": rows}


def new_run(options: argparse.Namespace) -> Path:
    """A finished regression on MNIST."""
    out = shared.fresh_folder("exported", "run")
    command = [sys.executable, "-P", "-m", "pixelfit", "fit", "mnist-5k" if options.quick else "mnist", "--task", "regression"]
    command += ["--trials", "3", "--steps", "20"] if options.quick else ["--budget", options.budget]
    command += ["--data-dir", str(options.data_dir)] if options.data_dir and not options.quick else []
    shared.fit_measured([*command, "--out", str(out)], out)
    return out


def _test_set(options: argparse.Namespace) -> tuple[Array, Array]:
    table = load_table("mnist-5k" if options.quick else "mnist", UNNAMED, data_dir=options.data_dir, progress=Silent())
    assert table.arrays is not None
    chosen = np.ones(len(table.targets), dtype=bool) if table.parts is None else table.parts == "test"
    return table.arrays[chosen], table.targets[chosen].astype(np.float64)


def _session_predicts(file: Path) -> Callable[[Array], Array]:
    session = session_of(file)
    return lambda pictures: np.asarray(session.run(["prediction"], {INPUT: pictures})[0], dtype=np.float64)


def _ms(predict: Callable[[Array], Array], pictures: Array, at_once: int) -> float:
    """The median of milliseconds a picture, so many shown at once."""
    predict(pictures[:at_once])
    taken = []
    for start in range(0, len(pictures), at_once):
        begun = time.perf_counter()
        predict(pictures[start : start + at_once])
        taken.append((time.perf_counter() - begun) / at_once)
    return 1000 * float(np.median(taken))


def _table(figures: shared.Json) -> str:
    lines = [
        [
            name,
            f"{row['bytes'] / 2**20:.2f}",
            f"{row['rmse']:.4f}",
            f"{100 * row['accuracy']:.2f} %",
            shared.spread(row["alone_ms"]),
            shared.spread(row["batch_ms"]),
        ]
        for name, row in figures["rows"].items()
    ]
    head = ["model", "size, MiB", "RMSE", "accuracy, rounded", "one picture, ms", "in batches, ms a picture"]
    difference = (
        f"On {figures['checked']:,} held-out pictures the graph differs by at most {figures['difference']:.1g} deviations."
    )
    return f"{shared.table(head, lines)}\n{difference}\n"


if __name__ == "__main__":
    shared.run(main)
