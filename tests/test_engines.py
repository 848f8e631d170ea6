"""What every engine keeps to: the same trial gives the same result wherever it runs, and what it does costs it alone."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import bars

from pixelfit.automl import Run, fit
from pixelfit.data.reading import read
from pixelfit.deadline import Deadline
from pixelfit.environment import usable_cores
from pixelfit.errors import OptionError
from pixelfit.files import write_json
from pixelfit.models.model import Model
from pixelfit.options import checked_options
from pixelfit.progress import Progress, Silent
from pixelfit.resume import begun
from pixelfit.runs import RunFolder
from pixelfit.sealed import is_sealed
from pixelfit.search.apart import TrialsApart
from pixelfit.search.engine import Engine, LocalEngine, Outcome, Plan
from pixelfit.search.losing import Bar
from pixelfit.search.nursery import Nursery
from pixelfit.search.space import build_space
from pixelfit.training.job import Start
from pixelfit.training.pace import Pace
from pixelfit.training.recipe import Recipe
from pixelfit.types import Facts, Splits

OBJECTS = 100_000_000  # bytes of a node's object store
Made = Callable[..., AbstractContextManager[Engine]]
pytestmark = [pytest.mark.timeout(600), pytest.mark.apart]


@pytest.fixture(scope="module")
def data() -> tuple[Facts, Splits]:
    return read(bars(120), checked_options(task="regression", folds=1), Silent())


@pytest.fixture(scope="module")
def recipe(data: tuple[Facts, Splits]) -> Recipe:
    return replace(build_space(data[0], data[1].train).known_good({"family": "mlp"})[0], batch_size=32)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of three nodes: one for the search, two with a core each for trials."""
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    from ray.cluster_utils import Cluster

    before = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": OBJECTS})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=OBJECTS)
        ray.init(
            cluster.address, log_to_driver=False, runtime_env={"worker_process_setup_hook": "hostile_families.on_ray"}
        )  # and so the engines stay connected to it
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module", params=["here", "apart", "side by side", "ray", "ray, without a shared folder"])
def made(request: pytest.FixtureRequest, data: tuple[Facts, Splits]) -> Made:
    """A function that makes the engine: of a deadline and a progress, for a block."""
    name: str = request.param
    if name.startswith("ray"):
        request.getfixturevalue("cluster")

    @contextmanager
    def make(deadline: Deadline | None = None, progress: Progress | None = None) -> Iterator[Engine]:
        means = (data[1].folds, data[0], deadline or Deadline(None), progress or Silent())
        if name == "here":
            yield LocalEngine(*means)
        elif name.startswith("ray"):
            from pixelfit.search.on_ray import TrialsOnRay

            with TrialsOnRay(carry=name != "ray") as on_ray:
                on_ray.ready(*means)
                yield on_ray
        else:
            with TrialsApart(nursery=Nursery(["hostile_families"]), workers=1 if name == "apart" else 2) as apart:
                apart.ready(*means)
                yield apart

    return make


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
    for _ in range(50):  # what is told comes a moment later
        if len(checks[1]) == len(plain.history):
            break
        threading.Event().wait(0.1)
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


@pytest.mark.parametrize("where", ["apart", "ray"])
def test_a_long_training_that_runs_alone_is_divided_and_survives_the_loss_of_a_rank(
    where: str,
    request: pytest.FixtureRequest,
    data: tuple[Facts, Splits],
    recipe: Recipe,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plan = planned(replace(recipe, batch_size=64), purpose="full length", alone=True, kept_in=tmp_path, pace=Pace(steps=1_200))
    whole = LocalEngine(data[1].folds, data[0], Deadline(None), Silent()).run(replace(plan, kept_in=None))
    if where == "ray":
        request.getfixturevalue("cluster")
        from pixelfit.search.on_ray import TrialsOnRay

        engine: Any = TrialsOnRay(ranks=2)
    else:
        engine = TrialsApart(ranks=2)
    checkpoint = tmp_path / "checkpoint-0.safetensors"
    of_a_rank = {"apart": "pixelfit.training.one_rank", "ray": "RayTrainWorker"}[where]
    with caplog.at_level(logging.INFO, logger="pixelfit"), engine, ThreadPoolExecutor(1) as pool:
        engine.ready(data[1].folds, data[0], Deadline(None), Silent())
        future = pool.submit(engine.run, plan)
        while not checkpoint.is_file():
            assert not future.done()
            time.sleep(0.05)
        running(of_a_rank)[-1].kill()
        outcome = future.result(timeout=200)
        beside = engine.run(replace(plan, alone=False, pace=Pace(steps=60), kept_in=None)).trial
    assert "rank lost" in caplog.messages
    assert (beside.state, beside.ranks) == ("complete", 1)
    assert (outcome.trial.state, outcome.trial.ranks, outcome.trial.steps) == ("complete", 2, 1_200)
    assert len(outcome.history) == len(whole.history)
    assert outcome.trial.metrics["rmse"] < 2 * whole.trial.metrics["rmse"] + 0.1


def scored(run: Run) -> list[tuple[int, str, str, object]]:
    return [(trial.number, trial.family, trial.state, dict(trial.metrics)) for trial in run.trials]


def test_a_search_side_by_side_and_one_on_ray_come_to_the_same(cluster: Any, tmp_path: Path) -> None:
    """The same recipes in the same order with the same scores, sampled ones among them, and so the same final model."""
    chosen = {"task": "regression", "trials": 14, "steps": 30, "folds": 1, "seed": 3}
    here = fit(bars(100), checked_options(**chosen, workers=2, out=tmp_path / "here"), progress=Silent())
    on_ray = fit(bars(100), checked_options(**chosen, engine="ray", out=tmp_path / "ray"), progress=Silent())
    again = fit(bars(100), checked_options(**chosen, workers=2, out=tmp_path / "again"), progress=Silent())
    assert scored(here) == scored(again)
    if usable_cores() == 2:  # so that a trial has one core in both
        assert scored(here) == scored(on_ray)
        assert here.scores.test == on_ray.scores.test
    assert [trial.recipe for trial in here.trials] == [trial.recipe for trial in on_ray.trials]
    assert sum(trial.purpose == "sampled" for trial in here.trials) >= 2


def running(what: str) -> list[psutil.Process]:
    """The processes of whose command lines this is a part."""
    return [each for each in psutil.process_iter(["cmdline"]) if what in " ".join(each.info["cmdline"] or ())]


def workers() -> list[psutil.Process]:
    """The processes in which Ray runs trials now."""
    return running("ray::trial")


@contextmanager
def begun_on_ray(data: tuple[Facts, Splits], plan: Plan, **others: Any) -> Iterator[tuple[Future[Outcome], list[str], Any]]:
    """A trial on Ray that is under way and has kept a checkpoint; what the search says; and the engine."""
    from pixelfit.search.on_ray import TrialsOnRay

    said: list[str] = []

    class Hearing(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    assert plan.kept_in is not None
    plan.kept_in.mkdir(exist_ok=True)
    write_json(plan.kept_in / "plan.json", {"what": plan.number})
    with TrialsOnRay(**others) as engine, ThreadPoolExecutor(1) as pool:
        engine.ready(data[1].folds, data[0], Deadline(None), Hearing())
        future = pool.submit(engine.run, plan)
        checkpoint = plan.kept_in / "checkpoint-0.safetensors"
        until = time.monotonic() + 120
        while not checkpoint.is_file() and not future.done():
            assert time.monotonic() < until
            threading.Event().wait(0.05)
        yield future, said, engine


@pytest.mark.parametrize("carry", [False, True])
def test_a_worker_that_is_killed_costs_no_more_than_since_its_checkpoint(
    carry: bool, cluster: Any, data: tuple[Facts, Splits], recipe: Recipe, tmp_path: Path
) -> None:
    plan = planned(recipe, pace=Pace(steps=2_500), kept_in=tmp_path / "trial")
    whole = LocalEngine(data[1].folds, data[0], Deadline(None), Silent()).run(replace(plan, kept_in=None))
    with begun_on_ray(data, plan, carry=carry) as (future, said, _):
        (worker,) = workers()
        worker.kill()
        outcome = future.result(timeout=200)
    assert same(outcome, whole)
    assert len(outcome.trial.tried_again) == 1
    assert "WorkerCrashedError" in outcome.trial.tried_again[0]
    assert said == [f"Trial 1 is tried again on another worker: {outcome.trial.tried_again[0]}."]
    assert dataclasses.asdict(outcome.trial)["error"] is None


def test_a_node_that_is_lost_costs_no_trial(cluster: Any, data: tuple[Facts, Splits], recipe: Recipe, tmp_path: Path) -> None:
    plan = planned(recipe, pace=Pace(steps=2_500), kept_in=tmp_path / "trial")
    whole = LocalEngine(data[1].folds, data[0], Deadline(None), Silent()).run(replace(plan, kept_in=None))
    with begun_on_ray(data, plan) as (future, said, _):
        (worker,) = workers()
        parents = {parent.pid for parent in worker.parents()}
        (node,) = [
            each for each in cluster.list_all_nodes()
            if each.all_processes["raylet"][0].process.pid in parents
        ]  # fmt: skip
        cluster.remove_node(node, allow_graceful=False)
        try:
            outcome = future.result(timeout=200)
        finally:
            cluster.add_node(num_cpus=1, object_store_memory=OBJECTS)
            cluster.wait_for_nodes()
    assert same(outcome, whole)
    assert len(outcome.trial.tried_again) == 1
    assert len(said) == 1


def test_a_trial_that_always_crashes_is_tried_three_times_and_recorded(
    cluster: Any, data: tuple[Facts, Splits], recipe: Recipe
) -> None:
    from pixelfit.search.on_ray import TrialsOnRay

    said: list[str] = []

    class Hearing(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    with TrialsOnRay() as engine:
        engine.ready(data[1].folds, data[0], Deadline(None), Hearing())
        trial = engine.run(planned(replace(recipe, family="crashes"))).trial
        assert trial.state == "failed"
        assert trial.error is not None
        assert "WorkerCrashedError" in trial.error
        assert len(said) == 2
        assert engine.run(planned(recipe)).trial.state == "complete"


def test_a_straggler_is_tried_elsewhere_and_counts_once(
    cluster: Any, data: tuple[Facts, Splits], recipe: Recipe, tmp_path: Path
) -> None:
    plan = planned(recipe, pace=Pace(steps=2_500), kept_in=tmp_path / "trial")
    whole = LocalEngine(data[1].folds, data[0], Deadline(None), Silent()).run(replace(plan, kept_in=None))
    with begun_on_ray(data, plan, silent_s=8.0) as (future, _, _):
        (worker,) = workers()
        worker.suspend()
        try:
            outcome = future.result(timeout=200)
        finally:
            if worker.is_running():
                worker.send_signal(signal.SIGCONT)
    assert same(outcome, whole)
    assert [why.split(" for ")[0] for why in outcome.trial.tried_again] == ["TimeoutError: nothing was heard of the trial"]


def test_a_search_on_ray_that_was_broken_off_goes_on_here(cluster: Any, tmp_path: Path) -> None:
    """And with the recipes that it would have tried there."""
    chosen = {"task": "regression", "trials": 6, "steps": 30, "folds": 1, "seed": 5}
    whole = fit(bars(80), checked_options(**chosen, workers=2, out=tmp_path / "whole"), progress=Silent())
    files = tmp_path / "bars"
    save(files)
    stopping = checked_options(**chosen, engine="ray", out=tmp_path / "run")

    class Breaks(Silent):
        def end_trial(self, trial: object, *, best: object) -> None:
            if trial.number == 2:  # type: ignore[attr-defined]
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(str(files), stopping, progress=Breaks())
    assert not RunFolder.existing(tmp_path / "run").is_finished()
    source, options = begun(tmp_path / "run", {"engine": "local", "workers": 2})
    assert (options.engine, options.workers, options.resume) == ("local", 2, True)
    resumed = fit(source, options, progress=Silent())
    assert [trial.number for trial in resumed.trials] == [trial.number for trial in whole.trials]
    assert [trial.state for trial in resumed.trials] == ["complete"] * 6


def test_a_search_whose_process_was_killed_goes_on_on_ray(cluster: Any, tmp_path: Path) -> None:
    save(tmp_path / "bars")
    run = tmp_path / "run"
    options = ["--task", "regression", "--trials", "8", "--steps", "30", "--folds", "1", "--out", str(run)]
    there = ["--engine", "ray", "--address", cluster.address]
    process = subprocess.Popen([sys.executable, "-P", "-m", "pixelfit", "fit", str(tmp_path / "bars"), *options, *there])
    while not is_sealed(run / "trials" / "0002"):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    folder = RunFolder.existing(run)
    before = folder.ended_trials()
    assert 2 <= len(before) < 8  # 0001 may have been under way
    assert not folder.is_finished()
    source, goes_on = begun(run, {"engine": "ray"})
    resumed = fit(source, goes_on, progress=Silent())
    assert all(trial in resumed.trials for trial in before)
    assert [(trial.number, trial.state) for trial in resumed.trials] == [(number, "complete") for number in range(8)]
    assert folder.is_finished()


def save(folder: Path) -> None:
    from PIL import Image

    pictures, columns = bars(80)
    folder.mkdir()
    lines = ["file,column"]
    for row, (picture, column) in enumerate(zip(pictures, columns, strict=True)):
        Image.fromarray(picture[..., 0]).save(folder / f"{row}.png")
        lines.append(f"{row}.png,{column}")
    (folder / "bars.csv").write_text("\n".join(lines))


def test_options_of_engines_are_checked() -> None:
    with pytest.raises(OptionError, match="give --engine ray, too"):
        checked_options(address="auto")
    with pytest.raises(OptionError, match="--workers 0 cannot be used"):
        checked_options(workers=0)


def test_a_model_survives_the_way_there_and_back(cluster: Any, data: tuple[Facts, Splits], recipe: Recipe) -> None:
    import ray

    model = LocalEngine(data[1].folds, data[0], Deadline(None), Silent()).run(planned(recipe)).models[0]
    back: Model = ray.get(ray.put(model))
    validation = data[1].validation
    assert (back.predict(validation.store, validation.rows) == model.predict(validation.store, validation.rows)).all()
