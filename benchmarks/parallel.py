"""One training on two ranks of one thread each, beside one process with one thread and with two: steps a second, in turns."""

from __future__ import annotations

import time
from dataclasses import replace

from benchmarks import pixelfit_side, shared
from pixelfit.training.machine import hand_down, machine

ROWS = ("mlp", "convnet", "resnet")
_PICTURES = 20_000
# Threads of the one process, or of all ranks together; and ranks.
_WAYS = {"one process, 1 thread": (1, 1), "2 ranks of 1 thread": (2, 2), "one process, 2 threads": (2, 1)}


def main() -> None:
    """Measure the rows that are not measured yet, and write the table of all that are."""
    parser = shared.options_parser("parallel", __doc__, ROWS)
    parser.add_argument("--rounds", type=int, help="trainings of each kind, in turns (default 5)")
    parser.add_argument("--steps", type=int, help="steps of a training (default 60)")
    options = parser.parse_args()
    rounds, steps, count = (1, 4, 600) if options.quick else (options.rounds or 5, options.steps or 60, _PICTURES)
    journal = shared.journal_of("parallel", options)
    for family in options.only or ROWS:
        key = {"row": family, "quick": options.quick, "steps": steps}
        journal.once(key, lambda family=family: _measured(family, count, steps=steps, rounds=rounds))
    records = [record for record in journal.records() if record["key"]["quick"] == options.quick]
    shared.write_results(
        "parallel",
        options,
        tables=[_table(records)],
        notes=[
            "Steps a second of the same recipe with the same batch of 128, in float32, on made-up pictures of 28×28 without a "
            "validation set; the three ways take turns, each in a training of its own. Ranks are processes on this machine "
            "(gloo); their start is not counted.",
            "against 1 thread: the median of the ratios within each round.",
        ],
        figures={"runs": records},
        commits=[record["commit"] for record in records],
    )


def _measured(family: str, count: int, *, steps: int, rounds: int) -> shared.Json:
    X, y = pixelfit_side.digits_like(count, 28)
    lesson = pixelfit_side.prepared(X, y, "classification")
    recipe = pixelfit_side.known_good(lesson, family)
    measured = replace(machine(), low_precision=False)
    rates: dict[str, list[float]] = {way: [] for way in _WAYS}
    starts = []
    for number in range(rounds):
        for way, (threads, ranks) in _WAYS.items():
            hand_down(replace(measured, threads=threads))
            began = time.perf_counter()
            step_s = pixelfit_side.divided_step_seconds(recipe, lesson, steps, ranks)
            rates[way].append(1 / step_s)
            if ranks > 1:
                starts.append(time.perf_counter() - began - steps * step_s)
        told = ", ".join(f"{way}: {found[-1]:.1f}" for way, found in rates.items())
        shared.say(f"  round {number + 1} of {rounds}, steps a second: {told}")
    return {"batch": recipe.batch_size, "steps_a_second": rates, "start_s": starts}


def _table(records: list[dict[str, shared.Json]]) -> str:
    lines = []
    for record in records:
        rates, starts = record["figures"]["steps_a_second"], record["figures"]["start_s"]
        base = rates["one process, 1 thread"]
        for way, found in rates.items():
            gained = "" if found is base else shared.spread([a / b for a, b in zip(found, base, strict=True)], "{:.2f}")
            start = shared.spread(starts, "{:.1f}") if "ranks" in way else ""
            lines.append([record["key"]["row"], way, shared.spread(found, "{:.1f}"), gained, start, str(len(found))])
    header = ["net", "trained by", "steps/s", "against 1 thread", "start, s", "rounds"]
    return shared.table(header, lines)


if __name__ == "__main__":
    shared.run(main)
