"""The whole command from start to report, beside the figures that it should reach."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks import shared, tasks

_ALSO = ("rounded_accuracy", "ece", "covered")  # shown without a goal where a row has none for them


@dataclass(frozen=True)
class Row:
    """A command, how often it runs, and what its median should reach."""

    task: str
    budget: str
    seeds: tuple[int, ...]
    goals: dict[str, float] = field(default_factory=dict)


ROWS = {
    "mnist-regression-10m": Row("mnist-regression", "10m", (0, 1, 2), {"rmse": 0.20, "r2": 0.995, "covered": 0.885}),
    "mnist-classification-10m": Row("mnist-classification", "10m", (0, 1, 2), {"accuracy": 0.9965, "ece": 0.003}),
    "angle-3m": Row("angle", "3m", (0, 1, 2), {"miscovered": 0.015, "covered_worst_fifth": 0.85}),
    "mnist-regression-60m": Row("mnist-regression", "60m", (0,), {"rmse": 0.17, "r2": 0.9965}),
    "mnist-classification-60m": Row("mnist-classification", "60m", (0,), {"accuracy": 0.9972}),
}


def main() -> None:
    """Run the rows that are not measured yet, and write the table of all that are."""
    parser = shared.options_parser("goals", __doc__, list(ROWS))
    shared.seeds_option(parser)
    shared.data_option(parser)
    options = parser.parse_args()
    journal = shared.journal_of("goals", options)
    for name, row in ROWS.items():
        if options.only and name not in options.only:
            continue
        for seed in options.seeds or ((0,) if options.quick else row.seeds):
            out = shared.fresh_folder("goals", f"{'quick-' if options.quick else ''}{name}-{seed}")
            command = tasks.command(row.task, options, budget=row.budget, seed=seed, out=out)
            key = {"row": name, "seed": seed, "quick": options.quick}
            journal.once(key, lambda command=command, out=out: shared.fit_measured(command, out))
    records = [record for record in journal.records() if record["key"]["quick"] == options.quick]
    shared.write_results(
        "goals",
        options,
        tables=[_table(records)],
        notes=[
            "seconds: of the whole command, from its process's start to its end, report included; "
            "peak memory: resident, summed over the command's processes, looked at five times a second",
            "angle: MNIST's 60,000 training digits, each turned by a random angle between -60 and 60 degrees; "
            "pixelfit cuts a fifth off as its test set",
        ],
        figures={"goals": {name: row.goals for name, row in ROWS.items()}, "runs": records},
        commits=[record["commit"] for record in records],
    )


def _table(records: list[dict[str, shared.Json]]) -> str:
    lines = []
    for name, row in ROWS.items():
        runs = [record["figures"] for record in records if record["key"]["row"] == name]
        for place, metric in enumerate((*row.goals, *(name for name in _ALSO if name not in row.goals))):
            values = [run["test"][metric] for run in runs if metric in run["test"]]
            if not values:
                continue
            goal = row.goals.get(metric)
            lines.append(
                [
                    f"{tasks.TITLES[row.task]}, {row.budget}" if place == 0 else "",
                    str(len(values)),
                    metric,
                    tasks.spread_text(metric, values),
                    tasks.goal_text(metric, goal) if goal is not None else "",
                    "" if goal is None else "yes" if tasks.reaches(metric, shared.median(values), goal) else "no",
                    shared.spread([run["wall_s"] for run in runs], "{:.0f}") if place == 0 else "",
                    shared.spread([run["peak_rss_mb"] / 1000 for run in runs], "{:.2f}") if place == 0 else "",
                ]
            )
    return shared.table(["command", "runs", "test figure", "median", "goal", "reached", "seconds", "peak memory, GB"], lines)


if __name__ == "__main__":
    shared.run(main)
