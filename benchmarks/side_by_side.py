"""Whether short searches find better models with several trials side by side, each with fewer threads, than one by one."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import shared, synthetic, tasks
from pixelfit.environment import usable_cores
from pixelfit.files import read_json
from pixelfit.types import Json

_DATA = ("digits-1k", "digits-8k", "angles-5k", "shapes-3k", "blobs-2k")
_BUDGETS = ("30s", "90s", "5m")
_COST = {"regression": "rmse", "classification": "log_loss"}
_TRAINED = ("complete", "pruned")


def main() -> None:
    """Run the benchmark."""
    parser = shared.options_parser("side_by_side", (__doc__ or "").strip(), _DATA)
    shared.seeds_option(parser)
    shared.data_option(parser)
    parser.add_argument("--budgets", type=lambda text: tuple(text.split(",")), help=f"default: {','.join(_BUDGETS)}")
    options = parser.parse_args()
    options.houses = None
    journal = shared.journal_of("side_by_side", options)
    seeds: tuple[int, ...] = options.seeds or ((0,) if options.quick else (0, 1))
    cores, made = usable_cores(), synthetic.data_sets(options)
    for seed in seeds:
        for budget in options.budgets or (("5s",) if options.quick else _BUDGETS):
            for name in options.only or _DATA:
                for workers in (1, cores):
                    key = {"data": name, "budget": budget, "seed": seed, "workers": workers}
                    journal.once(key, partial(_measured, made[name], name, budget, seed, workers))
    records = list(journal.records())
    shared.write_results(
        "side_by_side",
        options,
        tables=[_compared(records, cores)],
        notes=[
            "unseen pictures: a fifth of each data set, which are digits of MNIST's training part and made-up pictures",
            "ratio: of the figures of the same seed, below 1 where trials side by side found the better model",
        ],
        figures={"runs": records},
        commits=[record["commit"] for record in records],
    )


def _measured(make: Callable[[], synthetic.Made], name: str, budget: str, seed: int, workers: int) -> Json:
    pictures, targets, task = make()
    data = shared.WORK / "side_by_side" / f"{name}.npz"
    data.parent.mkdir(parents=True, exist_ok=True)
    np.savez(data, x=np.asarray(pictures), y=targets)
    out = shared.fresh_folder("side_by_side", f"{name}-{budget}-{seed}-{workers}")
    run = shared.fit_measured(_command(data, task, budget, seed, workers, out), out)
    trials = [read_json(file) for file in sorted(out.glob("trials/*/trial.json"))]
    return {
        "metric": _COST[task],
        "cost": run["test"][_COST[task]],
        "wall_s": run["wall_s"],
        "trials": sum(trial["state"] in _TRAINED for trial in trials),
    }


def _command(data: Path, task: str, budget: str, seed: int, workers: int, out: Path) -> list[str]:
    words = ["-m", "pixelfit", "fit", str(data), "--task", task, "--budget", budget, "--seed", str(seed), "--out", str(out)]
    return [sys.executable, *words, "--workers", str(workers)]


def _compared(records: list[Json], cores: int) -> str:
    rows, logs = [], []
    for budget in dict.fromkeys(record["key"]["budget"] for record in records):
        for name in _DATA:
            found = [
                [
                    each["figures"]
                    for each in records
                    if each["key"].items() >= {"data": name, "budget": budget, "workers": workers}.items()
                ]
                for workers in (1, cores)
            ]
            if not all(found):
                continue
            ratios = [many["cost"] / max(one["cost"], 1e-9) for one, many in zip(*found, strict=False)]
            logs += [math.log(max(ratio, 1e-9)) for ratio in ratios]
            metric = found[0][0]["metric"]
            costs = [tasks.spread_text(metric, [each["cost"] for each in some]) for some in found]
            trials = [shared.spread([each["trials"] for each in some], "{:.0f}") for some in found]
            rows.append([name, budget, metric, *costs, shared.spread(ratios, "{:.2f}"), *trials])
    if logs:
        rows.append(["geometric mean", "", "", "", "", f"{math.exp(sum(logs) / len(logs)):.2f}", "", ""])
    many = f"{cores} side by side"
    return shared.table(["data", "budget", "figure", "one by one", many, "ratio", "trials", f"trials, {many}"], rows)


if __name__ == "__main__":
    shared.run(main)
