"""Seconds of the whole command until a given test figure: growing budgets, until the median of the seeds reaches it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import shared, tasks
from pixelfit.deadline import parse_budget

BUDGETS = ("10s", "15s", "20s", "30s", "45s", "60s", "90s", "2m", "3m", "4m", "5m", "7m", "10m")


@dataclass(frozen=True)
class Target:
    """A test figure to reach; ``of_baseline`` makes the goal a share of what the run's constant baseline has."""

    metric: str
    goal: float
    of_baseline: bool = False
    most: str = "10m"  # the longest budget that is tried

    def reached(self, run: shared.Json | None) -> bool:
        """Whether a run has reached it; a command that failed in so short a time has not."""
        if run is None:
            return False
        goal = self.goal * run["baseline"][self.metric] if self.of_baseline else self.goal
        return tasks.reaches(self.metric, run["test"][self.metric], goal)

    def text(self) -> str:
        """The target as people read it."""
        if self.of_baseline:
            return f"{self.metric} ≤ {self.goal:.0%} of the constant baseline's"
        return f"{self.metric} {tasks.goal_text(self.metric, self.goal)}"


# The first two are AutoKeras' figures on the same test digits (README).
TARGETS = {
    "mnist-regression": Target("rmse", 0.454),
    "mnist-classification": Target("accuracy", 0.984),
    "angle": Target("mae", 5.0),
    "houses": Target("rmse", 0.9, of_baseline=True, most="5m"),
}


def main() -> None:
    """Try the budgets that are not measured yet, and write the table of all that are."""
    parser = shared.options_parser("time_to_quality", __doc__, list(TARGETS))
    shared.seeds_option(parser)
    shared.data_option(parser)
    parser.add_argument("--houses", help="houses.csv; default: houses/houses.csv in --data-dir", type=Path)
    parser.add_argument("--budgets", type=lambda text: tuple(text.split(",")), help=f"default: {','.join(BUDGETS)}")
    options = parser.parse_args()
    seeds: tuple[int, ...] = options.seeds or ((0,) if options.quick else (0, 1, 2))
    budgets: Sequence[str] = options.budgets or (BUDGETS[:1] if options.quick else BUDGETS)
    journal = shared.journal_of("time_to_quality", options)
    for name, target in TARGETS.items():
        if options.only and name not in options.only:
            continue
        for budget in budgets:
            if parse_budget(budget) > parse_budget(target.most) or _try(name, target, budget, seeds, options, journal):
                break
    records = [record for record in journal.records() if record["key"]["quick"] == options.quick]
    shared.write_results(
        "time_to_quality",
        options,
        tables=[_summary(records), "Every budget that was tried:\n", _every(records)],
        notes=[
            "seconds: of the whole command at the first budget whose median test figure reaches the target, from its "
            "process's start to its end, report included",
            "a budget is given up as soon as half of its seeds miss the target, since its median cannot reach it then",
            "a command that cannot finish in so short a budget counts as missing the target",
        ],
        figures={"targets": {name: target.text() for name, target in TARGETS.items()}, "runs": records},
        commits=[record["commit"] for record in records],
    )


def _try(
    name: str, target: Target, budget: str, seeds: tuple[int, ...], options: argparse.Namespace, journal: shared.Journal
) -> bool:
    """Measure one budget; whether its median reaches the target."""
    missed = 0
    for seed in seeds:
        out = shared.fresh_folder("time_to_quality", f"{'quick-' if options.quick else ''}{name}-{budget}-{seed}")
        command = tasks.command(name, options, budget=budget, seed=seed, out=out)

        def measure(command: list[str] = command, out: Path = out) -> shared.Json:
            try:
                return shared.fit_measured(command, out)
            except shared.BenchmarkError as error:
                shared.say(str(error))
                return None

        run = journal.once({"row": name, "budget": budget, "seed": seed, "quick": options.quick}, measure)["figures"]
        missed += not target.reached(run)
        if 2 * missed >= len(seeds):
            return False
    return True


def _by_budget(name: str, records: Sequence[dict[str, shared.Json]]) -> dict[str, list[shared.Json]]:
    found: dict[str, list[shared.Json]] = {}
    for record in records:
        if record["key"]["row"] == name:
            found.setdefault(record["key"]["budget"], []).append(record["figures"])
    return dict(sorted(found.items(), key=lambda item: parse_budget(item[0])))


def _summary(records: Sequence[dict[str, shared.Json]]) -> str:
    lines = []
    for name, target in TARGETS.items():
        tried = _by_budget(name, records)
        first = next((budget for budget, runs in tried.items() if 2 * sum(map(target.reached, runs)) > len(runs)), None)
        if first is not None:
            runs = [run for run in tried[first] if run is not None]
            seconds = shared.spread([run["wall_s"] for run in runs], "{:.1f}")
            figure = tasks.spread_text(target.metric, [run["test"][target.metric] for run in runs])
            lines.append([tasks.TITLES[name], target.text(), seconds, figure, first, str(len(runs))])
        elif tried:
            lines.append([tasks.TITLES[name], target.text(), f"not within {list(tried)[-1]}", "", "", ""])
    return shared.table(["task", "target", "seconds", "test figure then", "--budget", "runs"], lines)


def _every(records: Sequence[dict[str, shared.Json]]) -> str:
    lines = []
    for name, target in TARGETS.items():
        for budget, runs in _by_budget(name, records).items():
            good = [run for run in runs if run is not None]
            lines.append(
                [
                    tasks.TITLES[name],
                    budget,
                    f"{target.metric} {tasks.spread_text(target.metric, [run['test'][target.metric] for run in good])}"
                    if good
                    else "failed",
                    f"{sum(map(target.reached, runs))} of {len(runs)}",
                    shared.spread([run["wall_s"] for run in good], "{:.1f}") if good else "",
                ]
            )
    return shared.table(["task", "--budget", "test figure", "runs that reach the target", "seconds"], lines)


if __name__ == "__main__":
    shared.run(main)
