"""Trials on a Ray cluster: the contract of every engine, and what else becomes of workers and nodes that are lost."""

from __future__ import annotations

import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import forks
import psutil
import pytest
from conftest import bars
from shared import OBJECTS
from test_engines import (
    Made,
    data,
    planned,
    recipe,
    same,
    test_a_long_training_that_runs_alone_is_divided_and_survives_the_loss_of_a_rank,
    test_a_request_to_stop_reaches_every_trial,
    test_the_contract_of_an_engine,
)

from pixelfit.automl import Run, fit
from pixelfit.deadline import Deadline
from pixelfit.environment import usable_cores
from pixelfit.files import write_json
from pixelfit.models.model import Model
from pixelfit.options import checked_options
from pixelfit.progress import Progress, Silent
from pixelfit.resume import begun
from pixelfit.runs import RunFolder
from pixelfit.sealed import is_sealed
from pixelfit.search.engine import Engine, LocalEngine, Outcome, Plan
from pixelfit.training.pace import Pace
from pixelfit.training.recipe import Recipe
from pixelfit.types import Facts, Splits

# Fixtures and the tests of the contract, which are run here with engines on Ray.
__all__ = [
    "data",
    "recipe",
    "test_a_long_training_that_runs_alone_is_divided_and_survives_the_loss_of_a_rank",
    "test_a_request_to_stop_reaches_every_trial",
    "test_the_contract_of_an_engine",
]
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.apart,
    pytest.mark.ray,
    pytest.mark.long("Ray's workers each load torch, six seconds of a core"),
]


@pytest.fixture(params=["with a shared folder", "without"])
def made(request: pytest.FixtureRequest, cluster: Any, data: tuple[Facts, Splits]) -> Made:
    """A function that makes the engine: of a deadline and a progress, for a block."""
    from pixelfit.search.on_ray import TrialsOnRay

    @contextmanager
    def make(deadline: Deadline | None = None, progress: Progress | None = None) -> Iterator[Engine]:
        with TrialsOnRay(carry=request.param == "without") as on_ray:
            on_ray.ready(data[1].folds, data[0], deadline or Deadline(None), progress or Silent())
            yield on_ray

    return make


# A long fault run: Ray Train starts a dozen processes, once more after the loss, which takes two minutes of one core. Without
# the loss it is in test_parallel_ray.py, and the loss of a rank on one machine in test_engines.py.
@pytest.fixture(params=[pytest.param("ray", marks=pytest.mark.exhaustive)])
def dividing(cluster: Any) -> tuple[Any, Callable[[], list[psutil.Process]]]:
    """An engine that divides trainings over two ranks, and a function that gives the ranks' processes."""
    from pixelfit.search.on_ray import TrialsOnRay

    return TrialsOnRay(ranks=2), lambda: running("RayTrainWorker")


def scored(run: Run) -> list[tuple[int, str, str, object]]:
    return [(trial.number, trial.family, trial.state, dict(trial.metrics)) for trial in run.trials]


@pytest.mark.usefixtures("short_portfolio")
def test_a_search_side_by_side_and_one_on_ray_come_to_the_same(cluster: Any, tmp_path: Path) -> None:
    """The same recipes in the same order with the same scores, sampled ones among them, and so the same final model."""
    chosen = {"task": "regression", "trials": 9, "steps": 30, "folds": 1, "seed": 3}
    here = fit(bars(100), checked_options(**chosen, workers=2, out=tmp_path / "here"), progress=Silent())
    on_ray = fit(bars(100), checked_options(**chosen, engine="ray", out=tmp_path / "ray"), progress=Silent())
    again = fit(bars(100), checked_options(**chosen, workers=2, out=tmp_path / "again"), progress=Silent())
    assert scored(here) == scored(again)
    if usable_cores() <= 2:  # so that a trial has one core in both
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


@pytest.fixture(scope="module")
def whole(data: tuple[Facts, Splits], recipe: Recipe) -> Outcome:
    """What comes of a trial of 2,500 steps that nothing befalls."""
    return LocalEngine(data[1].folds, data[0], Deadline(None), Silent()).run(planned(recipe, pace=Pace(steps=2_500)))


@pytest.mark.parametrize("carry", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_a_worker_that_is_killed_costs_no_more_than_since_its_checkpoint(
    carry: bool, cluster: Any, data: tuple[Facts, Splits], recipe: Recipe, whole: Outcome, tmp_path: Path
) -> None:
    plan = planned(recipe, pace=Pace(steps=2_500), kept_in=tmp_path / "trial")
    with begun_on_ray(data, plan, carry=carry) as (future, said, _):
        (worker,) = workers()
        worker.kill()
        outcome = future.result(timeout=200)
    assert same(outcome, whole)
    assert len(outcome.trial.tried_again) == 1
    assert "WorkerCrashedError" in outcome.trial.tried_again[0]
    assert said == [f"Trial 1 is tried again on another worker: {outcome.trial.tried_again[0]}."]
    assert dataclasses.asdict(outcome.trial)["error"] is None


def test_a_node_that_is_lost_costs_no_trial(
    cluster: Any, data: tuple[Facts, Splits], recipe: Recipe, whole: Outcome, tmp_path: Path
) -> None:
    plan = planned(recipe, pace=Pace(steps=2_500), kept_in=tmp_path / "trial")
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


@pytest.mark.exhaustive
def test_a_trial_that_always_crashes_is_tried_three_times_and_recorded(
    cluster: Any, data: tuple[Facts, Splits], recipe: Recipe, request: pytest.FixtureRequest
) -> None:
    import ray

    from pixelfit.search.on_ray import TrialsOnRay

    said: list[str] = []

    class Hearing(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    ray.shutdown()  # only this test's workers have hostile families, which take long to load
    ray.init(cluster.address, log_to_driver=False, runtime_env={"worker_process_setup_hook": "hostile_families.on_ray"})
    request.addfinalizer(ray.shutdown)
    with TrialsOnRay() as engine:
        engine.ready(data[1].folds, data[0], Deadline(None), Hearing())
        trial = engine.run(planned(replace(recipe, family="crashes"))).trial
        assert trial.state == "failed"
        assert trial.error is not None
        assert "WorkerCrashedError" in trial.error
        assert len(said) == 2
        assert engine.run(planned(recipe)).trial.state == "complete"


@pytest.mark.exhaustive
def test_a_straggler_is_tried_elsewhere_and_counts_once(
    cluster: Any, data: tuple[Facts, Splits], recipe: Recipe, whole: Outcome, tmp_path: Path
) -> None:
    plan = planned(recipe, pace=Pace(steps=2_500), kept_in=tmp_path / "trial")
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


@pytest.mark.exhaustive
def test_a_search_whose_process_was_killed_goes_on_on_ray(cluster: Any, tmp_path: Path) -> None:
    save(tmp_path / "bars")
    run = tmp_path / "run"
    options = ["--task", "regression", "--trials", "8", "--steps", "30", "--folds", "1", "--out", str(run)]
    there = ["--engine", "ray", "--address", cluster.address]
    process = forks.Popen([sys.executable, "-P", "-m", "pixelfit", "fit", str(tmp_path / "bars"), *options, *there])
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


def test_a_model_survives_the_way_there_and_back(cluster: Any, data: tuple[Facts, Splits], recipe: Recipe) -> None:
    import ray

    model = LocalEngine(data[1].folds, data[0], Deadline(None), Silent()).run(planned(recipe)).models[0]
    back: Model = ray.get(ray.put(model))
    validation = data[1].validation
    assert (back.predict(validation.store, validation.rows) == model.predict(validation.store, validation.rows)).all()
