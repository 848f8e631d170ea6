"""Whether the whole command ends with its budget: alone, beside a program that computes all the time, and with little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks import shared
from pixelfit.types import Json

BUDGETS = (30, 60, 300, 1800, 7200)  # seconds
_ROWS = {f"{budget}s": budget for budget in BUDGETS}
_RUNS = {30: 3, 60: 2}  # of the others one
_BUSY, _SHORT = "beside a busy program", "with 1 GB of memory"
_MACHINES: dict[str, tuple[str, ...]] = {"alone": (), _BUSY: (), _SHORT: ("--memory", "1GB")}
_SHORT_OF = (30, 60, 300)  # seconds: with little memory, too


def main() -> None:
    """Run the benchmark."""
    parser = shared.options_parser("budget", (__doc__ or "").strip(), list(_ROWS))
    options = parser.parse_args()
    journal, rows, ratios = shared.journal_of("budget", options), [], []
    for name in options.only or list(_ROWS):
        budget = 10 if options.quick else _ROWS[name]
        for beside in _MACHINES:
            if beside == _SHORT and _ROWS[name] not in _SHORT_OF:
                continue
            once = partial(measure, budget, beside)
            numbers = range(1 if options.quick else _RUNS.get(budget, 1))
            records = [journal.once({"budget": name, "beside": beside, "run": number}, once) for number in numbers]
            figures = [record["figures"] for record in records]
            ratios += [each["wall_s"] / budget for each in figures]
            rows.append(
                [
                    name,
                    beside,
                    str(len(figures)),
                    *(shared.spread([each[what] for each in figures], "{:.1f}") for what in ("wall_s", "model_after_s")),
                    *(shared.spread([100 * (each["wall_s"] / budget - 1) for each in figures], "{:+.1f} %"),),
                ]
            )
    shared.write_results(
        "budget",
        options,
        tables=[shared.table(["budget", "machine", "runs", "ended after s", "first model after s", "off by"], rows)],
        notes=["Of `mnist-5k`, regression; seconds from the start of the process to its end."],
        figures={"rows": rows},
        commits=[record["commit"] for record in journal.records()],
    )


def measure(budget: int, beside: str) -> Json:
    """Seconds of one command, and until its run folder had a first model."""
    out = shared.fresh_folder("budget", f"{budget}-{beside.replace(' ', '-')}")
    words = ["-P", "-m", "pixelfit", "fit", "mnist-5k", "--task", "regression", "--budget", str(budget), "--out", str(out)]
    log = out.with_name(f"{out.name}.log")
    with _beside(beside == _BUSY):
        measured = shared.run_measured([sys.executable, *words, *_MACHINES[beside]], log=log)
    if measured.code != 0:
        raise shared.BenchmarkError(
            f"The command ended with code {measured.code}: {shared.tail(out.with_name(f'{out.name}.log'))}"
        )
    lines = (json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines())
    first = next(line for line in lines if line["event"] == "trial ended" and line["state"] == "complete")
    return {"wall_s": round(measured.wall_s, 2), "model_after_s": first["elapsed_s"]}


@contextmanager
def _beside(busy: bool) -> Iterator[None]:
    if not busy:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    shared.run(main)
