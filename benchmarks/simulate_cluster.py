"""What a search would do with 1 to 1,000 workers and 10⁴ to 10⁹ pictures, simulated; and checked against real searches.

The simulation knows the search's rule (see ``search/searching.py``): one process decides, one trial after the other; a trial
begins when a worker is free and is decided only when all but the latest ``2 × workers - 1`` have ended. It takes from
measurements what a decision costs and what a trial costs beside its training. The check runs the search's own code with
trials that sleep, and compares how many end a minute.
"""

from __future__ import annotations

import heapq
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from benchmarks import cluster, shared
from pixelfit.search.searching import AHEAD
from pixelfit.types import Json

ROWS = ("check", "workers", "pictures")
_CHECKED = ((1, 0.5, 40), (4, 1.0, 80), (16, 2.0, 200), (64, 4.0, 400))  # workers, mean seconds of a trial, trials
_SPREAD = 0.3  # standard deviation of the logarithm of a trial's seconds
_WORKERS = (1, 10, 100, 1_000)
_TRIAL_S = (10.0, 60.0, 600.0)
_PICTURES = (10**4, 10**5, 10**6, 10**7, 10**8, 10**9)
_FORMS = {"28×28 grey": 28 * 28, "224×224 colour": 224 * 224 * 3}  # bytes a picture
_NODE_CORES = 16
_GIGABIT = 1e9 / 8  # bytes a second
_NETWORK = 10 * _GIGABIT
_OBJECT_STORE = 38e9  # bytes: 30 % of a node of 128 GB, which is Ray's default
_CHECKPOINT = 16e6  # bytes: a net of 1 million weights with its optimiser's and its best weights
_CHECKPOINT_EVERY_S = 30.0


@dataclass(frozen=True)
class Costs:
    """Seconds: of a decision, and more for each trial that is known; of a round trip; until a node is ready."""

    decision_s: float
    decision_s_a_trial: float
    round_trip_s: float
    ready_s: float = 0.0


@dataclass(frozen=True)
class Simulated:
    """What a simulated search came to."""

    seconds: float
    busy: float  # share of the workers' time in trials
    deciding: float  # share of the time in which the search decides

    def trials_a_minute(self, trials: int) -> float:
        """Trials that end a minute."""
        return 60 * trials / self.seconds


def simulated(workers: int, trials: int, trial_s: Callable[[int], float], costs: Costs) -> Simulated:
    """A search of so many trials. ``trial_s`` gives the seconds of each."""
    now, deciding, worked = costs.ready_s, 0.0, 0.0
    running: list[float] = []  # the times at which trials will end
    ends: list[float] = []  # by number
    ahead = 0 if workers == 1 else AHEAD * workers - 1
    known = 0
    for number in range(trials):
        while len(running) >= workers:
            now = max(now, heapq.heappop(running))
        must = number - ahead
        if must > known:
            now = max(now, *ends[known:must])
            known = must
        while running and running[0] <= now:
            heapq.heappop(running)
        took = costs.decision_s + costs.decision_s_a_trial * known
        now, deciding = now + took, deciding + took
        seconds = trial_s(number)
        worked += seconds
        ends.append(now + seconds + costs.round_trip_s)
        heapq.heappush(running, ends[-1])
    end = max(ends)
    return Simulated(end, worked / (workers * end), deciding / end)


def drawn(mean_s: float, number: int) -> float:
    """Seconds of the trial of this number, log-normal around the mean."""
    return mean_s * math.exp(random.Random(number).gauss(-(_SPREAD**2) / 2, _SPREAD))


def main() -> None:
    """Check the simulation, and simulate."""
    parser = shared.options_parser("simulate_cluster", (__doc__ or "").strip(), ROWS)
    options = parser.parse_args()
    journal = shared.journal_of("simulate_cluster", options)
    wanted = options.only or list(ROWS)
    checked = [(1, 0.1, 10), (4, 0.2, 20)] if options.quick else _CHECKED
    if "check" in wanted:
        for workers, mean_s, trials in checked:
            key = {"workers": workers, "mean_s": mean_s, "trials": trials}
            journal.once(key, partial(_real, workers, mean_s, trials))
    records = list(journal.records())
    tables = [_checks(records)]
    costs = _costs(records)
    tables += [_by_workers(costs)] if "workers" in wanted else []
    tables += [_by_pictures()] if "pictures" in wanted else []
    shared.write_results(
        "simulate_cluster",
        options,
        tables=tables,
        notes=[
            "check: the search's own code, with trials that sleep, and the simulation with the decision time of that search",
            f"trial lengths: log-normal with a standard deviation of {_SPREAD:g} of the logarithm",
            f"by pictures: nodes of {_NODE_CORES} cores and 128 GB, a network of {_NETWORK / _GIGABIT:g} gigabit a second; "
            f"checkpoints of {_CHECKPOINT / 1e6:g} MB every {_CHECKPOINT_EVERY_S:g} s",
        ],
        figures={"runs": records},
        commits=[record["commit"] for record in records],
    )


def _real(workers: int, mean_s: float, trials: int) -> Json:
    """A real search whose trials sleep."""
    engine = cluster.Instant(workers, trial_s=partial(drawn, mean_s))
    own, begun = time.process_time(), time.monotonic()
    cluster.searched(engine, trials)
    return {"seconds": round(time.monotonic() - begun, 3), "own_s": round(time.process_time() - own, 3)}


def _checks(records: list[Json]) -> str:
    rows = []
    for record in records:
        workers, mean_s, trials = (record["key"][name] for name in ("workers", "mean_s", "trials"))
        real = record["figures"]
        costs = Costs(real["own_s"] / trials, 0.0, 0.0)
        found = simulated(workers, trials, partial(drawn, mean_s), costs)
        rates = 60 * trials / real["seconds"], found.trials_a_minute(trials)
        rows.append(
            [f"{workers}", f"{mean_s:g}", f"{trials}", f"{rates[0]:.1f}", f"{rates[1]:.1f}", f"{rates[1] / rates[0] - 1:+.1%}"]
        )
    header = ["workers", "mean s a trial", "trials", "real trials a minute", "simulated", "off by"]
    return shared.table(header, rows)


def _costs(records: list[Json]) -> Costs:
    """What decisions cost, from the checks; a trial's round trip, and what more known trials cost, from benchmarks/cluster."""
    own = [record["figures"]["own_s"] / record["key"]["trials"] for record in records]
    found = {"decision_s": shared.median(own)} if own else {}
    measured = cluster.measured()
    return replace(Costs(0.03, 2e-5, 0.05, 5.0), **found, **measured)


def _by_workers(costs: Costs) -> str:
    rows = []
    for mean_s in _TRIAL_S:
        for workers in _WORKERS:
            trials = 20 * workers
            found = simulated(workers, trials, partial(drawn, mean_s), costs)
            row = [f"{workers:,}", f"{mean_s:g}", f"{trials:,}", f"{found.trials_a_minute(trials):,.1f}"]
            rows.append([*row, f"{found.busy:.0%}", f"{found.deciding:.0%}"])
    return shared.table(["workers", "mean s a trial", "trials", "trials a minute", "workers busy", "search deciding"], rows)


def _by_pictures() -> str:
    """Bytes and seconds until every node has the pictures, for nodes that pass them on to one another as Ray's do."""
    rows = []
    for form, size in _FORMS.items():
        for pictures in _PICTURES:
            stored = size * pictures
            fits = stored <= _OBJECT_STORE / 2
            cells = []
            for workers in (10, 1_000):
                nodes = math.ceil(workers / _NODE_CORES)
                hops = math.ceil(math.log2(nodes + 1))
                cells.append(f"{hops * stored / _NETWORK:,.0f} s" if fits else "shards")
            rows.append([form, f"10^{round(math.log10(pictures))}", _amount(stored), *cells])
    traffic = 1_000 * _CHECKPOINT / _CHECKPOINT_EVERY_S
    header = ["pictures", "how many", "stored", "to 10 workers", "to 1,000 workers"]
    return shared.table(header, rows) + f"\n\nCheckpoints of 1,000 workers: {traffic / 1e6:,.0f} MB a second in all."


def _amount(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:,.3g} {unit}"
        size /= 1000
    raise AssertionError


if __name__ == "__main__":
    shared.run(main)
