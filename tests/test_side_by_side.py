"""Trials side by side: who waits for whom, what is known when something is decided, and what a cluster has room for."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import simulate_cluster as simulation
from benchmarks.cluster import Instant, searched
from pixelfit.errors import OptionError
from pixelfit.search.engine import Plan
from pixelfit.search.losing import Bar, bar
from pixelfit.search.searching import Sparingly
from pixelfit.search.side_by_side import SideBySide
from pixelfit.training.pace import Pace
from pixelfit.training.recipe import Recipe
from pixelfit.types import Trial


def trial(number: int, score: float | None = 1.0, *, purpose: str = "sampled", state: str = "complete") -> Trial:
    looks = () if score is None else tuple((eighth, score + 8 - eighth) for eighth in range(1, 9))
    return Trial(number, "mlp", purpose, {}, state, 0, 1.0, score=score, looks=looks)  # type: ignore[arg-type]


def plan(number: int) -> Plan:
    return Plan(number, "sampled", Recipe("mlp", "squared", {}), Pace(), seed=number)


def test_trials_that_end_early_wait_for_older_ones() -> None:
    go = {number: threading.Event() for number in (1, 2, 3)}
    shown: list[list[int]] = []

    def run(wanted: Plan) -> Trial:
        assert go[wanted.number].wait(30)
        return trial(wanted.number)

    def show(ended: object) -> None:
        shown.append([one.number for one in ended])  # type: ignore[attr-defined]

    with SideBySide(2, run, show, first=trial(0)) as side_by_side:
        for number in (1, 2):
            side_by_side.wait_for_slot()
            side_by_side.begin(plan(number))
        go[2].set()
        side_by_side.wait_for_slot()  # that of the second
        assert shown == [[0, 2]]
        side_by_side.begin(plan(3))
        go[1].set()
        assert [one.number for one in side_by_side.until(2)] == [1]
        assert side_by_side.until(2) == []
        go[3].set()
        assert [one.number for one in side_by_side.until(4)] == [2, 3]
    assert sorted(shown[-1]) == [0, 1, 2, 3]


def test_what_a_thread_raises_reaches_the_search() -> None:
    def run(wanted: Plan) -> Trial:
        raise OSError("no space left")

    with SideBySide(2, run, lambda ended: None, first=trial(0)) as side_by_side:
        side_by_side.begin(plan(1))
        with pytest.raises(OSError, match="no space"):
            side_by_side.until(2)


def test_trials_of_an_earlier_process_take_no_slot() -> None:
    with SideBySide(1, lambda wanted: trial(wanted.number), lambda ended: None, first=trial(0)) as side_by_side:
        side_by_side.begin(trial(1, 3.0))
        side_by_side.begin(plan(2))
        assert [one.score for one in side_by_side.until(3)] == [3.0, 1.0]


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 3])
def test_a_search_decides_the_same_whatever_ends_first(slots: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same recipes, though the trials' lengths differ each time."""
    found = []
    for hurry in (0.0, 0.02):
        recipes: dict[int, object] = {}

        class Noting(Instant):
            def run(self, wanted: Plan, recipes: dict[int, object] = recipes) -> object:  # type: ignore[override]
                recipes[wanted.number] = (wanted.recipe.to_json(), wanted.bar)
                return super().run(wanted)

        monkeypatch.setattr("benchmarks.shared.WORK", tmp_path / str(hurry))
        searched(Noting(slots, trial_s=lambda number, hurry=hurry: hurry * (number % 5)), 30)  # type: ignore[misc]
        found.append(recipes)
    assert len(found[0]) == 29
    assert found[0] == found[1]


def test_the_bar_is_the_median_of_sampled_trials_that_ended_well() -> None:
    assert bar([trial(number, 1.0) for number in range(3)]) is None
    trials = [trial(0, 9.0, purpose="portfolio"), *(trial(number, float(number)) for number in (1, 2, 6))]
    found = bar([*trials, trial(7, 0.0, state="pruned"), trial(8, None, state="failed")])
    assert found is not None
    assert found.medians == {eighth: 2.0 + 8 - eighth for eighth in range(1, 9)}
    assert found.is_losing(8, 2.1)
    assert not found.is_losing(8, 2.0)
    assert not Bar({}).is_losing(3, 1e9)


def test_the_leaderboard_takes_a_twentieth_of_the_time_at_most() -> None:
    written: list[int] = []

    def write(trials: object) -> None:
        time.sleep(0.02)
        written.append(len(trials))  # type: ignore[arg-type]

    board, end = Sparingly(write), time.monotonic() + 1.0
    while time.monotonic() < end:
        board([trial(0)])
        time.sleep(0.001)
    assert 1 <= len(written) <= 4


GIGABYTE = 1e9


def node(cpus: float, gpus: float = 0.0) -> dict[str, object]:
    return {"Resources": {"CPU": cpus, "GPU": gpus, "memory": 16 * GIGABYTE} | ({} if gpus else {"GPU": 0})}


@pytest.mark.parametrize(
    ("nodes", "workers", "slots", "threads", "gpus", "most"),
    [
        ([node(1), node(1)], None, 2, 1, 0.0, 1),
        ([node(8), node(8)], None, 4, 4, 0.0, 8),
        ([node(2), node(7)], None, 4, 2, 0.0, 7),
        ([node(8)], 2, 2, 4, 0.0, 8),
        ([node(8)], 16, 16, 1, 0.0, 8),
        ([node(3), node(3)], 3, 3, 1, 0.0, 3),
        ([node(16, 2), node(64)], None, 2, 8, 1.0, 16),
        ([node(16, 2)], 8, 8, 2, 0.25, 16),
        ([node(12, 3), node(0, 1)], 4, 4, 2, 0.5, 12),
    ],
)
def test_what_a_cluster_has_room_for(
    nodes: list[dict[str, object]], workers: int | None, slots: int, threads: int, gpus: float, most: int
) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    from pixelfit.search.on_ray import Room, most_threads

    room = Room.of(nodes, workers)
    assert (room.slots, room.threads, room.gpus) == (slots, threads, gpus)
    assert most_threads(nodes, with_gpu=gpus > 0) == most
    assert room.memory <= 16 * GIGABYTE
    with pytest.raises(OptionError, match="no node with a processor"):
        Room.of([node(0)], None)


def test_the_simulation_agrees_with_what_is_plain() -> None:
    free = simulation.Costs(0.0, 0.0, 0.0)
    for workers in (1, 4):
        whole = simulation.simulated(workers, 40, lambda number: 2.0, free)
        assert whole.seconds == pytest.approx(40 * 2.0 / workers)
        assert whole.busy == pytest.approx(1.0)
    slow = simulation.simulated(1_000, 2_000, lambda number: 1.0, replace(free, decision_s=0.1))
    assert slow.seconds == pytest.approx(2_000 * 0.1 + 1.0, rel=0.01)  # the decisions are what takes the time
    assert slow.deciding > 0.99
    # A trial of a hundred seconds among short ones holds up what may be planned ahead, and no more.
    held = simulation.simulated(2, 20, lambda number: 100.0 if number == 0 else 1.0, free)
    assert held.seconds == pytest.approx(100.0 + (20 - 4) / 2, abs=1.0)
