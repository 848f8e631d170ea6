"""What every engine keeps to: the same trial gives the same result wherever it runs, and what it does costs it alone."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import forks
import psutil
import pytest
import torch
from conftest import bars

from pixelfit.data.reading import read
from pixelfit.deadline import Deadline
from pixelfit.errors import OptionError
from pixelfit.files import write_json
from pixelfit.options import checked_options
from pixelfit.progress import Progress, Silent
from pixelfit.search.apart import TrialsApart
from pixelfit.search.engine import Engine, LocalEngine, Outcome, Plan
from pixelfit.search.losing import Bar
from pixelfit.search.nursery import Nursery
from pixelfit.search.space import build_space
from pixelfit.training.job import Start
from pixelfit.training.pace import Pace
from pixelfit.training.recipe import Recipe
from pixelfit.types import Facts, Splits

Made = Callable[..., AbstractContextManager[Engine]]
pytestmark = [pytest.mark.timeout(600), pytest.mark.apart]


@pytest.fixture(scope="module")
def data() -> tuple[Facts, Splits]:
    return read(bars(120), checked_options(task="regression", folds=1), Silent())


@pytest.fixture(scope="module")
def recipe(data: tuple[Facts, Splits]) -> Recipe:
    return replace(build_space(data[0], data[1].train).known_good({"family": "mlp"})[0], batch_size=32)


@pytest.fixture(params=["here", "apart", "side by side"])
def made(request: pytest.FixtureRequest, data: tuple[Facts, Splits]) -> Made:
    """A function that makes the engine: of a deadline and a progress, for a block."""
    name: str = request.param

    @contextmanager
    def make(deadline: Deadline | None = None, progress: Progress | None = None) -> Iterator[Engine]:
        means = (data[1].folds, data[0], deadline or Deadline(None), progress or Silent())
        if name == "here":
            yield LocalEngine(*means)
        else:
            with TrialsApart(nursery=Nursery(["hostile_families"]), workers=1 if name == "apart" else 2) as apart:
                apart.ready(*means)
                yield apart

    return make


@pytest.fixture
def dividing() -> tuple[Any, Callable[[], list[psutil.Process]]]:
    """An engine that divides trainings over two ranks, and a function that gives the ranks' processes."""
    return TrialsApart(ranks=2), partial(forks.running, "pixelfit.training.one_rank")


def planned(recipe: Recipe, number: int = 1, **others: Any) -> Plan:
    return Plan(number, recipe=recipe, **{"purpose": "portfolio", "pace": Pace(steps=60), "seed": 4, "threads": 1, **others})


def same(one: Outcome, other: Outcome) -> bool:
    mine, theirs = one.models[0].module.state_dict(), other.models[0].module.state_dict()
    return (
        one.trial.metrics == other.trial.metrics
        and (one.trial.steps, one.trial.state, one.trial.recipe) == (other.trial.steps, other.trial.state, other.trial.recipe)
        and [look["score"] for look in one.history] == [look["score"] for look in other.history]
        and all(torch.equal(mine[name], theirs[name]) for name in mine)
    )


def test_the_contract_of_an_engine(made: Made, data: tuple[Facts, Splits], recipe: Recipe, tmp_path: Path) -> None:
    """One long test, since beginning an engine takes longer than any part of it."""
    checks: dict[int, list[float]] = {}

    class Hearing(Silent):
        def check_trial(self, number: int, epoch: float, score: float, *, fold: int, folds: int) -> None:
            checks.setdefault(number, []).append(score)

    here = LocalEngine(data[1].folds, data[0], Deadline(None), Silent())
    with made(progress=Hearing()) as engine:
        assert engine.slots >= 1
        plain = here.run(planned(recipe))
        assert same(engine.run(planned(recipe)), plain)

        # As many at a time as there are slots, each for itself.
        plans = [planned(recipe, number, seed=number) for number in range(2, 2 + engine.slots)]
        with ThreadPoolExecutor(engine.slots) as pool:
            outcomes = list(pool.map(engine.run, plans))
        assert all(same(outcome, here.run(plan)) for outcome, plan in zip(outcomes, plans, strict=True))
        assert [outcome.trial.number for outcome in outcomes] == [plan.number for plan in plans]

        # On from the weights of another, and with the bar that goes with it.
        plan = planned(recipe, 10, starts=(Start(weights=plain.models[0]),), continues=1)
        assert same(engine.run(plan), here.run(plan))
        low = engine.run(planned(recipe, 11, pace=Pace(steps=400), bar=Bar({1: -1.0})))
        assert (low.trial.state, len(low.history)) == ("pruned", 1)

        # What fails is recorded, and the next one runs.
        failed = engine.run(planned(replace(recipe, family="nosuch"), 12)).trial
        assert failed.state == "failed"
        assert failed.error is not None

        # What was kept is gone on from.
        folder = tmp_path / "0013"
        folder.mkdir()
        write_json(folder / "plan.json", {"what": "this one"})
        long = planned(recipe, 13, pace=Pace(steps=400), kept_in=folder)
        whole = here.run(replace(long, kept_in=None))
        stopped = Deadline(None)

        class Stops(Silent):
            def check_trial(self, number: int, epoch: float, score: float, *, fold: int, folds: int) -> None:
                stopped.interrupt()

        interrupted = LocalEngine(data[1].folds, data[0], stopped, Stops()).run(long)
        assert interrupted.trial.state == "interrupted"
        assert (folder / "checkpoint-0.safetensors").is_file()
        assert same(engine.run(long), whole)
    until = time.monotonic() + 60  # what is told comes a moment later, on a busy machine many
    while len(checks.get(1, ())) < len(plain.history):
        assert time.monotonic() < until
        threading.Event().wait(0.05)
    assert checks[1] == [look["score"] for look in plain.history]


def test_a_request_to_stop_reaches_every_trial(made: Made, recipe: Recipe) -> None:
    deadline = Deadline(None)

    class Stops(Silent):
        def advance_trial(self, number: int, fraction: float, detail: str) -> None:
            deadline.interrupt()

    with made(deadline=deadline, progress=Stops()) as engine, ThreadPoolExecutor(engine.slots) as pool:
        plans = [planned(recipe, number, pace=Pace(steps=50_000)) for number in range(engine.slots)]
        outcomes = list(pool.map(engine.run, plans))
    assert {outcome.trial.state for outcome in outcomes} == {"interrupted"}
    assert all(0 < outcome.trial.steps < 50_000 for outcome in outcomes)


@pytest.mark.long("trains three times, once from before a loss")
def test_a_long_training_that_runs_alone_is_divided_and_survives_the_loss_of_a_rank(
    dividing: tuple[Any, Callable[[], list[psutil.Process]]],
    data: tuple[Facts, Splits],
    recipe: Recipe,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plan = planned(replace(recipe, batch_size=64), purpose="full length", alone=True, kept_in=tmp_path, pace=Pace(steps=1_200))
    whole = LocalEngine(data[1].folds, data[0], Deadline(None), Silent()).run(replace(plan, kept_in=None))
    engine, ranks = dividing
    checkpoint = tmp_path / "checkpoint-0.safetensors"
    with caplog.at_level(logging.INFO, logger="pixelfit"), engine, ThreadPoolExecutor(1) as pool:
        engine.ready(data[1].folds, data[0], Deadline(None), Silent())
        future = pool.submit(engine.run, plan)
        while not checkpoint.is_file():
            assert not future.done()
            time.sleep(0.05)
        ranks()[-1].kill()
        outcome = future.result(timeout=200)
        beside = engine.run(replace(plan, alone=False, pace=Pace(steps=60), kept_in=None)).trial
    assert "rank lost" in caplog.messages
    assert (beside.state, beside.ranks) == ("complete", 1)
    assert (outcome.trial.state, outcome.trial.ranks, outcome.trial.steps) == ("complete", 2, 1_200)
    assert len(outcome.history) == len(whole.history)
    assert outcome.trial.metrics["rmse"] < 2 * whole.trial.metrics["rmse"] + 0.1


def test_options_of_engines_are_checked() -> None:
    with pytest.raises(OptionError, match="give --engine ray, too"):
        checked_options(address="auto")
    with pytest.raises(OptionError, match="--workers 0 cannot be used"):
        checked_options(workers=0)
