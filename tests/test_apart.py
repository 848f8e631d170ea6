"""Trials in processes of their own: the same results, and whatever one of them does costs that one alone."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from conftest import bars

from pixelfit.automl import fit
from pixelfit.data.reading import read
from pixelfit.deadline import Deadline
from pixelfit.environment import usable_cores
from pixelfit.options import checked_options
from pixelfit.progress import Progress, Silent
from pixelfit.runs import RunFolder
from pixelfit.search.apart import TrialsApart, Turns
from pixelfit.search.engine import LocalEngine, Outcome, Plan
from pixelfit.search.losing import Bar
from pixelfit.search.nursery import Nursery
from pixelfit.search.space import build_space
from pixelfit.training.need import need_of
from pixelfit.training.pace import Pace
from pixelfit.training.recipe import Recipe
from pixelfit.types import Facts, Splits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="trials run in this process where forks are not safe")


@pytest.fixture(scope="module")
def data() -> tuple[Facts, Splits]:
    return read(bars(120), checked_options(task="regression", folds=1), Silent())


def recipe_of(data: tuple[Facts, Splits], family: str = "mlp") -> Recipe:
    known = build_space(data[0], data[1].train).known_good({"family": "mlp"})[0]
    return replace(known, family=family, batch_size=32)


@contextmanager
def engine(
    data: tuple[Facts, Splits], *, deadline: Deadline | None = None, progress: Progress | None = None, **others: object
) -> Iterator[TrialsApart]:
    with TrialsApart(nursery=Nursery(["hostile_families"]), **others) as apart:  # type: ignore[arg-type]
        apart.ready(data[1].folds, data[0], deadline or Deadline(None), progress or Silent())
        yield apart


def run(engine: TrialsApart | LocalEngine, recipe: Recipe, **others: object) -> Outcome:
    return engine.run(Plan(1, recipe=recipe, **{"purpose": "portfolio", "pace": Pace(steps=30), "seed": 4, **others}))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.own_processes
def test_a_trial_apart_gives_what_one_in_this_process_gives(data: tuple[Facts, Splits]) -> None:
    recipe = recipe_of(data)
    here = run(LocalEngine(data[1].folds, data[0], Deadline(None), Silent()), recipe)
    with engine(data) as apart:
        away = [run(apart, recipe) for _ in range(2)]
    for one in away:
        assert one.trial.metrics == here.trial.metrics
        assert (one.trial.steps, one.trial.state, one.trial.recipe) == (here.trial.steps, "complete", here.trial.recipe)
        assert [look["score"] for look in one.history] == [look["score"] for look in here.history]
        mine, theirs = here.models[0].module.state_dict(), one.models[0].module.state_dict()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "error"),
    [
        ("crashes", "ProcessError: the trial's process crashed (SIGSEGV)"),
        ("killed", "MemoryError: the trial's process was killed (SIGKILL), most likely for want of memory"),
        ("exits", "ProcessError: the trial's process ended with code 3 and no result"),
        ("raises", "ValueError: no such luck"),
        ("nan", "FloatingPointError: the loss is nan after"),
    ],
)
def test_what_a_trial_does_costs_that_trial_alone(family: str, error: str, data: tuple[Facts, Splits]) -> None:
    with engine(data) as apart:
        outcome = run(apart, recipe_of(data, family))
        assert outcome.trial.state == "failed"
        assert outcome.trial.error is not None
        assert outcome.trial.error.startswith(error)
        assert run(apart, recipe_of(data)).trial.state == "complete"


@pytest.mark.slow
def test_a_trial_that_hangs_is_ended(data: tuple[Facts, Splits]) -> None:
    with engine(data, silent_s=5.0) as apart:
        outcome = run(apart, recipe_of(data, "hangs"))
        assert outcome.trial.error is not None
        assert outcome.trial.error.startswith("TimeoutError: nothing was heard of the trial for")
        assert run(apart, recipe_of(data)).trial.state == "complete"
    late = Deadline(1.0, started=time.monotonic() - 2.0)
    with engine(data, deadline=late) as apart:
        outcome = run(apart, recipe_of(data, "hangs"), pace=Pace(seconds=0.1))
        assert outcome.trial.error is not None
        assert "was not done when the budget was used up" in outcome.trial.error
        baseline = replace(recipe_of(data), family="constant", head="squared", architecture={})
        assert run(apart, baseline, pace=Pace(seconds=0.0), purpose="baseline").trial.state == "complete"


@pytest.mark.slow
def test_a_trial_that_takes_too_much_memory_is_tried_with_smaller_batches(data: tuple[Facts, Splits]) -> None:
    said: list[str] = []

    class Hearing(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    allowed = psutil.Process().memory_info().rss + 300e6
    with engine(data, most_memory=allowed, progress=Hearing()) as apart:
        outcome = run(apart, recipe_of(data, "grows"))
        assert outcome.trial.error is not None
        assert "more than --memory allows" in outcome.trial.error
        assert [text.split()[-1] for text in said] == ["16.", "8.", "4."]
        assert outcome.trial.recipe["batch_size"] == 4
        assert run(apart, recipe_of(data)).trial.state == "complete"


@pytest.mark.slow
def test_memory_is_planned_before_a_trial_starts(data: tuple[Facts, Splits]) -> None:
    said: list[str] = []

    class Hearing(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    recipe = replace(recipe_of(data), batch_size=1 << 20)
    taken = psutil.Process().memory_info()
    own = taken.rss - taken.shared
    with engine(data, most_memory=own + 400e6, progress=Hearing()) as apart:
        outcome = run(apart, recipe)
        assert outcome.trial.state == "complete"
        size = outcome.trial.recipe["batch_size"]
        assert 4 <= size < 1 << 20
        assert said[0].startswith(f"Trial 1 gets batches of {size} for want of memory: it takes about 0.")
        need = need_of(recipe, data[1].folds[0].train, data[0])
        assert need.of(size) <= 450e6 < need.of(4 * size)
    with engine(data, most_memory=own + 20e6) as apart:
        refused = run(apart, recipe_of(data)).trial
        assert refused.error is not None
        assert refused.error.startswith("MemoryError: it would take about 0.1")
        assert "and there is room for 0.0" in refused.error


@pytest.mark.slow
@pytest.mark.own_processes
def test_a_nursery_that_dies_is_replaced(data: tuple[Facts, Splits]) -> None:
    with engine(data) as apart:
        assert run(apart, recipe_of(data)).trial.state == "complete"
        (nursery,) = psutil.Process().children()
        nursery.kill()
        nursery.wait()
        assert run(apart, recipe_of(data)).trial.state == "complete"
    assert not psutil.Process().children()


@pytest.mark.slow
def test_a_request_to_stop_reaches_a_trial(data: tuple[Facts, Splits]) -> None:
    deadline = Deadline(None)

    class Stops(Silent):
        def check_trial(self, number: int, epoch: float, score: float, *, fold: int, folds: int) -> None:
            deadline.interrupt()

    with engine(data, deadline=deadline, progress=Stops()) as apart:
        outcome = run(apart, recipe_of(data), pace=Pace(steps=4_000))
    assert outcome.trial.state == "interrupted"
    assert 0 < outcome.trial.steps < 4_000


@pytest.mark.slow
def test_a_trial_is_judged_by_its_looks(data: tuple[Facts, Splits]) -> None:
    whole = run(LocalEngine(data[1].folds, data[0], Deadline(None), Silent()), recipe_of(data), pace=Pace(steps=400))
    looks = dict(whole.trial.looks)
    assert list(looks) == list(range(1, 9))
    assert list(looks.values()) == [look["score"] for look in whole.history]
    best = min(looks[1], looks[2])
    with engine(data) as apart:
        outcome = run(apart, recipe_of(data), bar=Bar({1: looks[1], 2: best - 1e-9}), pace=Pace(steps=400))
        passed = run(apart, recipe_of(data), bar=Bar({1: looks[1], 2: best}), pace=Pace(steps=400))
    assert outcome.trial.state == "pruned"
    assert [look["score"] for look in outcome.history] == [looks[1], looks[2]]
    assert passed.trial.state == "complete"


@pytest.mark.long("a process that loads all that trials need, and two trainings at once and one after the other")
@pytest.mark.slow
@pytest.mark.own_processes
def test_trials_run_side_by_side(data: tuple[Facts, Splits]) -> None:
    recipe = recipe_of(data)
    alone = LocalEngine(data[1].folds, data[0], Deadline(None), Silent())
    with engine(data, workers=2) as apart:
        assert (apart.slots, apart.threads) == (2, max(1, usable_cores() // 2))
        both = threading.Barrier(2, timeout=60)

        def one(number: int) -> Outcome:
            both.wait()
            return apart.run(Plan(number, "portfolio", recipe, Pace(steps=800), seed=number))

        with ThreadPoolExecutor(2) as pool:
            begun = time.monotonic()
            side_by_side = [pool.submit(one, number) for number in (1, 2)]
            seen = 0
            while not all(future.done() for future in side_by_side):
                seen = max(seen, len(psutil.Process().children(recursive=True)))
                assert time.monotonic() - begun < 120
                threading.Event().wait(0.1)  # asking takes a part of the core
            outcomes = [future.result() for future in side_by_side]
    assert seen == 5  # the nursery; for each trial one that waits for it, and its own
    for number, outcome in enumerate(outcomes, start=1):
        here = alone.run(Plan(number, "portfolio", recipe, Pace(steps=800), seed=number, threads=apart.threads))
        assert outcome.trial.metrics == here.trial.metrics
        assert outcome.trial.threads == apart.threads


def test_trials_take_turns_at_the_gpus() -> None:
    gpus = Turns(2)
    with gpus.one() as first, gpus.one() as second:
        assert (first, second) == (0, 1)
        with gpus.one() as third:
            assert third == 0
    with gpus.one() as again:
        assert again == 0
    with Turns(0).one() as none:
        assert none is None


@pytest.mark.slow
@pytest.mark.own_processes
def test_a_search_without_a_nursery_goes_on(data: tuple[Facts, Splits], monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(data) as apart:
        assert run(apart, recipe_of(data)).trial.state == "complete"
        (nursery,) = psutil.Process().children()
        nursery.kill()
        nursery.wait()
        monkeypatch.setattr(Nursery, "is_ready", lambda self: False)
        outcome = run(apart, recipe_of(data))
    assert outcome.trial.state == "failed"
    assert outcome.trial.error is not None
    assert outcome.trial.error.startswith("ProcessError: no process for the trial could be started")


@pytest.mark.slow
@pytest.mark.own_processes
def test_a_search_with_a_crash_in_it_ends_well_and_says_so(tmp_path: Path) -> None:
    class Crashes(TrialsApart):
        def run(self, plan: Plan) -> Outcome:
            return super().run(replace(plan, recipe=replace(plan.recipe, family="crashes")) if plan.number == 1 else plan)

    options = checked_options(task="regression", trials=3, steps=10, folds=1, out=tmp_path / "run")
    ended = fit(bars(80), options, progress=Silent(), engine=Crashes(nursery=Nursery(["hostile_families"])))
    assert [trial.state for trial in ended.trials] == ["complete", "failed", "complete"]
    with (ended.folder.path / "leaderboard.csv").open(newline="") as lines:
        rows = {int(row["trial"]): row for row in csv.DictReader(lines)}
    assert "SIGSEGV" in rows[1]["error"]
    assert "SIGSEGV" in ended.folder.report_file.read_text()
    assert RunFolder.existing(tmp_path / "run").is_finished()
    assert not psutil.Process().children()


@pytest.mark.slow
def test_nothing_is_left_of_a_search_that_was_killed(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from conftest import bars\n"
        "from pixelfit.automl import fit\n"
        "from pixelfit.options import checked_options\n"
        "from pixelfit.progress import Silent\n"
        "fit(bars(80), checked_options(task='regression', trials=3, steps=100_000, folds=1, out='run'), progress=Silent())\n"
    )
    words = [sys.executable, "-c", code, str(Path(__file__).parent)]  # no guard of __main__, and none is needed
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begun = tmp_path / "run" / "trials" / "0001" / "plan.json"
    family: list[psutil.Process] = []
    while process.poll() is None and len(family) < 3:
        threading.Event().wait(0.05)
        family = psutil.Process(process.pid).children(recursive=True) if begun.is_file() else []
    assert len(family) == 3
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    gone, alive = psutil.wait_procs(family, timeout=30)
    assert len(gone) == 3
    assert not alive


@pytest.mark.slow
def test_elsewhere_trials_run_in_this_process(tmp_path: Path) -> None:
    options = checked_options(task="regression", trials=2, steps=5, folds=1, out=tmp_path / "run")
    with TrialsApart() as apart:
        assert not psutil.Process().children()
        assert len(fit(bars(60), options, progress=Silent(), engine=apart).trials) == 2
