"""How trials scale, on a Ray cluster of one-core nodes and side by side on this machine; and what the search itself takes."""

from __future__ import annotations

import math
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import psutil

from benchmarks import pixelfit_side, shared
from pixelfit.data.reading import read
from pixelfit.deadline import Deadline
from pixelfit.files import read_json
from pixelfit.options import checked_options
from pixelfit.progress import Silent
from pixelfit.runs import RunFolder
from pixelfit.search.apart import TrialsApart
from pixelfit.search.engine import Engine, Outcome, Plan
from pixelfit.search.searching import Limits, Search
from pixelfit.search.space import build_space
from pixelfit.training.pace import Pace
from pixelfit.training.recipe import Recipe
from pixelfit.types import Facts, Json, Splits, Trial

ROWS = ("ray", "local", "round-trip", "driver")
_PICTURES, _STEPS = 2_000, 60
_TRIALS = 6  # for each worker, after one that loads
_OBJECTS = 200_000_000  # bytes of a node's object store
_RECORDED, _EVERY = 10_000, 1_000
_TRIPS = {"round_trip_s": "later", "ready_s": "ready"}
_FAMILIES = ("mlp", "convnet")


def main() -> None:
    """Run the benchmark."""
    parser = shared.options_parser("cluster", (__doc__ or "").strip(), ROWS)
    parser.add_argument("--rounds", type=int, default=3, help="times that each is measured, in turns (default 3)")
    options = parser.parse_args()
    journal = shared.journal_of("cluster", options)
    rounds, trials = (1, 2) if options.quick else (options.rounds, _TRIALS)
    wanted = options.only or list(ROWS)
    for turn in range(rounds):
        for family in _FAMILIES:
            for workers in (1, 2) if "ray" in wanted else ():
                key = {"row": "ray", "family": family, "workers": workers, "turn": turn}
                journal.once(key, partial(_on_ray, workers, family, trials))
            for workers in (1, 2) if "local" in wanted else ():
                key = {"row": "local", "family": family, "workers": workers, "turn": turn}
                journal.once(key, partial(_here, workers, family, trials))
        if "round-trip" in wanted:
            journal.once({"row": "round-trip", "turn": turn}, partial(_round_trips, 5 if options.quick else 20))
    if "driver" in wanted:
        journal.once({"row": "driver"}, partial(_driver, *((40, 20) if options.quick else (_RECORDED, _EVERY))))
    records = list(journal.records())
    shared.write_results(
        "cluster",
        options,
        tables=[*_scaling(records), _overhead(records), _own(records)],
        notes=[
            f"ray, local: trials of {_STEPS} steps of 128 on {_PICTURES:,} made-up pictures of 28×28, by the portfolio's first "
            "recipe of the family, all of one length, after one for each worker that does not count; on Ray each worker is a "
            "node with one core; local: one worker with two threads, and two with one each",
            "round trip: a trial that answers the same for every picture, from the call to its outcome, less the trial's own "
            "seconds",
            "driver: a whole search of recorded trials whose engine answers at once, so that all time is the search's own: "
            "deciding, Optuna's sampling, writing trials, plans and the leaderboard; seconds of the processor",
        ],
        figures={"runs": records},
        commits=[record["commit"] for record in records],
    )


def _scaling(records: list[Json]) -> list[str]:
    rows = []
    for row, one in (("ray", "1 worker of 1 core"), ("local", "1 worker of 2 threads")):
        for family in _FAMILIES:
            found = [
                [
                    each["figures"]["trials_a_minute"]
                    for each in records
                    if each["key"].items() >= {"row": row, "family": family, "workers": workers}.items()
                ]
                for workers in (1, 2)
            ]
            if not all(found):
                continue
            ratios = [two / one for one, two in zip(*found, strict=False)]
            other = one.replace("1 worker", "2 workers").replace("2 threads", "1 thread")
            cells = [shared.spread(values, "{:.1f}") for values in found]
            rows.append([row, family, f"{one}: {cells[0]}", f"{other}: {cells[1]}", shared.spread(ratios, "{:.2f}")])
    return [shared.table(["where", "family", "trials a minute", "trials a minute", "ratio"], rows)]


def _overhead(records: list[Json]) -> str:
    found = [each["figures"] for each in records if each["key"]["row"] == "round-trip"]
    rows = [[name, shared.spread([each[name] for each in found], "{:.3f}")] for name in ("ready_s", "first_s", "later_s")]
    return shared.table(["on Ray", "s"], rows if found else [])


def _own(records: list[Json]) -> str:
    found = [each["figures"]["points"] for each in records if each["key"]["row"] == "driver"]
    rows = [[f"{point['trials']:,}", f"{point['ms']:.0f}", f"{point['rss_mb']:.0f}"] for points in found for point in points]
    return shared.table(["recorded trials", "ms a trial", "memory of the process, MB"], rows)


def measured() -> dict[str, float]:
    """What ``benchmarks/simulate_cluster`` takes from the last run of this one, as far as it was measured."""
    file = shared.RESULTS / "cluster.json"
    runs = read_json(file)["runs"] if file.is_file() else []
    trips = [each["figures"] for each in runs if each["key"]["row"] == "round-trip"]
    found = {name: shared.median([each[f"{part}_s"] for each in trips]) for name, part in _TRIPS.items()} if trips else {}
    for each in runs:
        if each["key"]["row"] == "driver" and len(each["figures"]["points"]) > 1:
            first, last = each["figures"]["points"][0], each["figures"]["points"][-1]
            slope = (last["ms"] - first["ms"]) / (last["trials"] - first["trials"]) / 1000
            found["decision_s_a_trial"] = max(0.0, slope)
    return found


def _prepared(family: str) -> tuple[Facts, Splits, Recipe]:
    pictures = pixelfit_side.digits_like(_PICTURES, 28)
    facts, splits = read(pictures, checked_options(task="classification", folds=1), Silent())
    return facts, splits, replace(build_space(facts, splits.train).known_good({"family": family})[0], batch_size=128)


@contextmanager
def _cluster(workers: int) -> Iterator[None]:
    """A Ray cluster of a head for the search and so many nodes of one core, to which this process is connected."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": _OBJECTS})
    try:
        for _ in range(workers):
            cluster.add_node(num_cpus=1, object_store_memory=_OBJECTS)
        ray.init(cluster.address, log_to_driver=False)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def _on_ray(workers: int, family: str, trials: int) -> Json:
    from pixelfit.search.on_ray import TrialsOnRay

    facts, splits, recipe = _prepared(family)
    with _cluster(workers), TrialsOnRay() as engine:
        engine.ready(splits.folds, facts, Deadline(None), Silent())
        return _rate(engine, recipe, workers, trials)


def _here(workers: int, family: str, trials: int) -> Json:
    facts, splits, recipe = _prepared(family)
    with TrialsApart(workers=workers) as engine:
        engine.ready(splits.folds, facts, Deadline(None), Silent())
        return _rate(engine, recipe, workers, trials)


def _rate(engine: Engine, recipe: Recipe, workers: int, trials: int) -> Json:
    def run(number: int) -> Trial:
        return engine.run(Plan(number, "benchmark", recipe, Pace(steps=_STEPS), seed=number)).trial

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, range(workers)))
        begun = time.monotonic()
        done = list(pool.map(run, range(workers, workers + trials * workers)))
        wall_s = time.monotonic() - begun
    failed = next((trial.error for trial in done if trial.error), None)
    if failed:
        raise shared.BenchmarkError(f"A trial failed: {failed}")
    return {"trials_a_minute": round(60 * len(done) / wall_s, 2), "trial_s": round(statistics.median(t.seconds for t in done), 3)}


def _round_trips(trials: int) -> Json:
    from pixelfit.search.on_ray import TrialsOnRay

    facts, splits, _ = _prepared("mlp")
    recipe = build_space(facts, splits.train).baseline()
    with _cluster(1):
        begun = time.monotonic()
        with TrialsOnRay() as engine:
            engine.ready(splits.folds, facts, Deadline(None), Silent())
            ready_s, overheads = time.monotonic() - begun, []
            for number in range(1 + trials):
                begun = time.monotonic()
                trial = engine.run(Plan(number, "benchmark", recipe, Pace(steps=1), seed=0)).trial
                if trial.error:
                    raise shared.BenchmarkError(f"A trial failed: {trial.error}")
                overheads.append(time.monotonic() - begun - trial.seconds)
    return {
        "ready_s": round(ready_s, 3),
        "first_s": round(overheads[0], 3),
        "later_s": round(statistics.median(overheads[1:]), 4),
    }


class Instant:
    """An engine that answers at once, with a score that depends on the recipe a little."""

    threads = 1

    def __init__(self, slots: int, *, trial_s: Callable[[int], float] = lambda number: 0.0) -> None:
        self.slots, self._trial_s = slots, trial_s
        self.on_end: Callable[[int], None] = lambda ended: None
        self._lock, self._ended = threading.Lock(), 0

    def run(self, plan: Plan) -> Outcome:
        """Make something up."""
        seconds = self._trial_s(plan.number)
        time.sleep(seconds)
        score = abs(math.log(plan.recipe.learning_rate or 1e-3) + 5) + float(np.random.default_rng(plan.number).random())
        with self._lock:
            self._ended += 1
            self.on_end(self._ended)
        trial = Trial(
            plan.number, plan.recipe.family, plan.purpose, plan.recipe.to_json(), "complete", plan.seed, seconds or 1.0,
            steps=_STEPS, epochs=1.0, step_s=1.0, score=score, metrics={"log_loss": score}, interval=(score, score),
            looks=tuple((eighth, score) for eighth in range(1, 9)),
        )  # fmt: skip
        return Outcome(trial, [])


def searched(engine: Instant, trials: int) -> None:
    """A search of so many trials with that engine, in a run folder of its own."""
    facts, splits, _ = _prepared("mlp")
    folder = RunFolder.create(shared.fresh_folder("cluster", "driver"))
    folder.write_run({})
    space = build_space(facts, splits.train, changes=())
    search = Search(space, splits, facts, folder, Deadline(None), Limits(trials, _STEPS), Silent())
    search.trials(engine, after=search.first_model())


def _driver(recorded: int, every: int) -> Json:
    engine, points, since = Instant(1), [], [time.process_time()]

    def on_end(ended: int) -> None:
        if ended % every == 0:
            now = time.process_time()
            rss = psutil.Process().memory_info().rss / 1e6
            points.append({"trials": ended, "ms": round(1000 * (now - since[0]) / every, 2), "rss_mb": round(rss, 1)})
            since[0] = now
            shared.say(f"{ended:,} trials: {points[-1]['ms']} ms each, {points[-1]['rss_mb']} MB")

    engine.on_end = on_end
    searched(engine, recorded + 1)  # with the first model, which is not the engine's
    return {"points": points}


if __name__ == "__main__":
    shared.run(main)
