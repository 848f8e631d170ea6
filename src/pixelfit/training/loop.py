"""The training loop: a recipe, pictures and a slice of time in; a trained model and its history out."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from pixelfit import metrics
from pixelfit.models import FAMILIES
from pixelfit.models.heads import make_head
from pixelfit.models.model import Model, Preparation
from pixelfit.training.augment import augment
from pixelfit.training.averaging import WeightAverage
from pixelfit.training.machine import machine
from pixelfit.training.pace import FEWEST_STEPS, MOST_LOOKS, REPLAN_EVERY_S, Check, Pace, Pulse, look_cost, looks_worth
from pixelfit.training.recipe import Recipe
from pixelfit.types import Array, Examples, Facts, Ints, TrialState

_WARM_STEPS = 3  # the first steps allocate memory and pick kernels, and would mislead
MEASURING_STEPS = _WARM_STEPS + 8
_VALIDATION_ROWS_IN_TRAINING = 2_000
_CHUNK = 1_024  # pictures at a time for models that are fitted directly
_FLOATS_AT_ONCE = 1 << 24  # and at most so many of their numbers
_COMPILED_FROM_S = 60.0  # on a GPU: a shorter training would not earn back the time that compiling its graph takes
_MEMORY_FOR_PICTURES = 0.3  # of what a GPU has free


class Monitor(Protocol):
    """Watches a training."""

    def on_progress(self, fraction: float, detail: str) -> None:
        """``fraction`` of the steps are done."""

    def on_check(self, fraction: float, score: float) -> bool:
        """A validation score (smaller is better) after ``fraction`` of the steps; True ends the training as losing."""


@dataclass(frozen=True)
class Lesson:
    """What there is to learn from; the same for every trial of a search.

    ``validation`` tells how well a training goes: its last weights are kept, unless those of an earlier check were
    clearly better. Without it nothing is looked at on the way. ``fold_of`` (N,) numbers the folds of the training pictures
    for a family that cross-validates by itself.
    """

    train: Examples
    validation: Examples | None
    facts: Facts
    fold_of: Ints | None = None


@dataclass(frozen=True)
class Start:
    """What a training begins with, other than a fresh model that learns its own targets.

    ``model`` gives head, preparation and temperature, so that what was calibrated for them goes on holding. ``weights``
    are those of a model to go on from. ``targets`` are learned in place of the lesson's, encoded for the head.
    """

    model: Model | None = None
    weights: Model | None = None
    targets: torch.Tensor | None = None


@dataclass(frozen=True)
class Trained:
    """A trained model and how it came about."""

    model: Model
    state: TrialState
    steps: int
    epochs: float
    history: tuple[Check, ...]
    best_at_step: int
    replans: tuple[tuple[int, int], ...] = ()
    step_s: float = 0.0  # seconds in training steps; without set-up, checks and predictions
    averaged: bool = False  # whether the weights are an average over the last steps
    held_out: torch.Tensor | None = None  # raw outputs for the training pictures, each from a fit without its fold


@dataclass(frozen=True)
class _Kept:
    """Weights at a check, and each checked row's loss with them."""

    step: int
    losses: Array
    state: dict[str, torch.Tensor]


def train(
    recipe: Recipe,
    lesson: Lesson,
    *,
    seed: int,
    pace: Pace,
    monitor: Monitor,
    stopped: Callable[[], bool],
    start: Start | None = None,
    looked: Callable[[Check], None] | None = None,
) -> Trained:
    """Train one recipe.

    Args:
        recipe: what to build and how to train it.
        lesson: pictures and targets.
        seed: of the weights, the order of pictures and the augmentation.
        pace: how long to train.
        monitor: is told of progress and may end a losing training.
        stopped: whether the user asked to stop.
        start: what to begin with; by default a fresh model.
        looked: is told of each look at the validation set.

    Raises:
        FloatingPointError: the loss is no longer a finite number.
    """
    start = start or Start()
    torch.manual_seed(seed)
    model = _begin(recipe, lesson, start)
    targets = model.head.encode(lesson.train.targets) if start.targets is None else start.targets
    if FAMILIES[recipe.family].fit is not None:
        return _fit_directly(recipe, model, lesson, targets, seed=seed, pace=pace, stopped=stopped)
    return _Training(recipe, model, lesson, targets, seed, looked).run(pace, monitor, stopped)


def _begin(recipe: Recipe, lesson: Lesson, start: Start) -> Model:
    facts = lesson.facts
    if start.model is None:
        head = make_head(recipe.head, lesson.train.targets, len(facts.classes or ()), facts.metric)
        model = Model.new(
            recipe.family, recipe.architecture, facts.spec, Preparation.of(lesson.train, facts.spec, recipe.side), head
        )
    else:
        like = start.model
        model = Model.new(recipe.family, recipe.architecture, like.spec, like.preparation, like.head, like.temperature)
    begin = FAMILIES[recipe.family].begin
    if start.weights is not None:
        model.module.load_state_dict(start.weights.module.state_dict())
    elif begin is not None:
        begin(model.module, recipe.architecture)
    return model


def _fit_directly(
    recipe: Recipe,
    model: Model,
    lesson: Lesson,
    targets: torch.Tensor,
    *,
    seed: int,
    pace: Pace,
    stopped: Callable[[], bool],
) -> Trained:
    family, train_set = FAMILIES[recipe.family], lesson.train
    begun = time.monotonic()

    def time_left() -> float:
        return 0.0 if stopped() else begun + pace.seconds - time.monotonic()

    at_once = max(1, min(_CHUNK, _FLOATS_AT_ONCE // train_set.store[0].size))
    chunks = np.array_split(train_set.rows, math.ceil(len(train_set) / at_once))
    prepared = (model.preparation(torch.from_numpy(train_set.store[rows])) for rows in chunks)
    module, head, architecture = model.module, model.head, recipe.architecture
    steps, held_out = 1, None
    with torch.inference_mode():
        if lesson.fold_of is None:
            assert family.fit is not None
            steps = family.fit(module, prepared, targets, head=head, architecture=architecture, seed=seed, time_left=time_left)
        else:
            assert family.cross_fit is not None
            held_out = family.cross_fit(
                module, prepared, targets, torch.from_numpy(lesson.fold_of),
                head=head, architecture=architecture, seed=seed, time_left=time_left,
            )  # fmt: skip
    state: TrialState = "interrupted" if stopped() else "complete"
    return Trained(model, state, steps, 1.0, (), steps, step_s=time.monotonic() - begun, held_out=held_out)


class _Training:
    """One training by gradients: its data on the device, its optimiser, its clock."""

    def __init__(
        self,
        recipe: Recipe,
        model: Model,
        lesson: Lesson,
        targets: torch.Tensor,
        seed: int,
        looked: Callable[[Check], None] | None,
    ) -> None:
        self.recipe, self.model, self.seed, self.facts, self.looked = recipe, model, seed, lesson.facts, looked
        self.machine = machine()
        self.device = torch.device(self.machine.device)
        with warnings.catch_warnings():
            # A store that is mapped from disk cannot be written to, which PyTorch warns of; nothing here does.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self.pictures = torch.from_numpy(lesson.train.store)
        if self.device.type == "cuda" and self.pictures.nbytes < _MEMORY_FOR_PICTURES * torch.cuda.mem_get_info()[0]:
            self.pictures = self.pictures.to(self.device)
        self.rows = torch.from_numpy(lesson.train.rows).to(self.pictures.device)
        self.targets = targets.to(self.pictures.device)
        self.batch = min(recipe.batch_size, len(self.rows))
        self.model.module.to(self.device)
        self.forward: Callable[[torch.Tensor], torch.Tensor] = model.module
        self.validation_rows = len(lesson.validation) if lesson.validation else 0
        self.final_s = 0.0  # what the last prediction of the whole validation set will take
        self.checked = lesson.validation and _every_nth(lesson.validation)
        self.look_steps = look_cost(len(self.checked), self.batch) if self.checked else 0.0

    def run(self, pace: Pace, monitor: Monitor, stopped: Callable[[], bool]) -> Trained:
        begun = time.monotonic()
        steps_an_epoch = len(self.rows) / self.batch
        most = max(FEWEST_STEPS, round(pace.most_epochs * steps_an_epoch))
        if self.device.type == "cuda" and _COMPILED_FROM_S <= pace.seconds < float("inf"):
            torch._dynamo.config.suppress_errors = True  # where the graph cannot be compiled, it runs as it is
            self.forward = torch.compile(self.model.module, mode="reduce-overhead")
        if pace.steps is not None:
            total = most = pace.steps
        elif pace.seconds == float("inf"):
            total = most
        else:
            total = self._steps_that_fit(most, begun + pace.seconds)
        pulse = Pulse(total=total, most=most, look_steps=self.look_steps)
        kept, averaged = self._steps(pulse, begun + pace.seconds - self.final_s, monitor, stopped)
        self.model.module.eval()
        return Trained(
            model=self.model,
            state=pulse.state,
            steps=pulse.step,
            epochs=round(pulse.step / steps_an_epoch, 2),
            history=tuple(pulse.history),
            best_at_step=kept,
            replans=tuple(pulse.replans),
            step_s=pulse.step_s,
            averaged=averaged,
        )

    def _steps(self, pulse: Pulse, end: float, monitor: Monitor, stopped: Callable[[], bool]) -> tuple[int, bool]:
        """Train; return the step whose weights the model has in the end, and whether they are averaged."""
        begun = replanned = time.monotonic()
        optimizer, batches, dice = self._fresh()
        average = WeightAverage(self.model.module, self.recipe.averaging * pulse.total) if self.recipe.averaging else None
        best: _Kept | None = None
        now: _Kept | None = None
        loss_sum, losses, check_s = torch.zeros((), device=self.device), 0, 0.0
        next_look = pulse.next_look()
        while pulse.step < pulse.total:
            loss_sum += self._step(optimizer, next(batches), dice, pulse.learning_rate(self.recipe.learning_rate))
            losses += 1
            pulse.step += 1
            if average:
                average.update()
            clock = time.monotonic()
            if clock - replanned > REPLAN_EVERY_S:
                replanned = clock
                monitor.on_progress(pulse.step / pulse.total, f"step {pulse.step:,} of {pulse.total:,}")
                pulse.replan(clock - begun + pulse.step_s, end - clock, check_s)  # step_s: minus the checks so far
            leave = stopped()
            if pulse.step >= min(next_look, pulse.total) or leave:
                mean_loss = float(loss_sum) / losses  # waits for the device, so the clock is read after it
                started = time.monotonic()
                if not np.isfinite(mean_loss):
                    raise FloatingPointError(f"the loss is {mean_loss} after {pulse.step} steps")
                losing = False
                if self.checked is not None:
                    now = self._look(pulse, mean_loss, started - begun)
                    best = now if best is None or now.losses.mean() < best.losses.mean() else best
                    losing = monitor.on_check(pulse.step / pulse.total, pulse.history[-1].score)
                loss_sum, losses = torch.zeros((), device=self.device), 0
                check_s = time.monotonic() - started
                pulse.step_s -= check_s
                next_look = pulse.next_look()
                if leave or losing:
                    pulse.state = "interrupted" if leave else "pruned"
                    break
        pulse.step_s += time.monotonic() - begun
        return self._settle(pulse, now, best, average)

    def _look(self, pulse: Pulse, mean_loss: float, seconds: float) -> _Kept:
        """Look at the validation set."""
        assert self.checked is not None
        rows = self._row_losses(self.checked)
        epoch = round(pulse.step * self.batch / len(self.rows), 3)
        pulse.history.append(Check(pulse.step, epoch, mean_loss, metrics.score_of_losses(self.facts, rows), round(seconds, 3)))
        if self.looked is not None:
            self.looked(pulse.history[-1])
        return _Kept(pulse.step, rows, _copy(self.model))

    def _settle(self, pulse: Pulse, last: _Kept | None, best: _Kept | None, average: WeightAverage | None) -> tuple[int, bool]:
        """Give the model its final weights: the last, their average if it is better, or an earlier check's if clearly so."""
        averaged = average.state() if average else {}
        if averaged:
            self.model.module.load_state_dict(averaged)
        if self.checked is None or last is None or best is None:
            return pulse.step, bool(averaged)
        chosen = last
        if averaged and (rows := self._row_losses(self.checked)).mean() < last.losses.mean():
            chosen = _Kept(pulse.step, rows, averaged)
        # A training that was ended early has not had its low learning rates: there the best check is as good as any.
        ended_early = pulse.state != "complete" and best.losses.mean() < chosen.losses.mean()
        if ended_early or _clearly_better(best.losses, chosen.losses):
            chosen = best
        self.model.module.load_state_dict(chosen.state)
        return chosen.step, chosen.state is averaged

    def _fresh(self) -> tuple[torch.optim.Optimizer, Iterator[torch.Tensor], torch.Generator]:
        """An optimiser, the order of batches and the dice for augmentation, as they are at the start of a training."""
        torch.manual_seed(self.seed)  # for dropout
        module, layer_rates = self.model.module, FAMILIES[self.recipe.family].layer_rates
        groups = []
        for weights, share in layer_rates(module) if layer_rates else [(list(module.parameters()), 1.0)]:
            for decay, chosen in (
                (self.recipe.weight_decay, [weight for weight in weights if weight.ndim > 1]),
                (0.0, [weight for weight in weights if weight.ndim <= 1]),
            ):
                groups.append({"params": chosen, "weight_decay": decay, "share": share})
        optimizer = torch.optim.AdamW(groups, lr=self.recipe.learning_rate, betas=(0.9, 0.99), fused=True)
        return optimizer, self._batches(), torch.Generator().manual_seed(self.seed + 1)

    def _batches(self) -> Iterator[torch.Tensor]:
        """Positions in the training set, a batch at a time, shuffled anew each epoch; a batch may span two epochs."""
        dice = torch.Generator().manual_seed(self.seed)
        left = torch.empty(0, dtype=torch.int64, device=self.pictures.device)
        while True:
            while len(left) < self.batch:
                left = torch.cat([left, torch.randperm(len(self.rows), generator=dice).to(left.device)])
            yield left[: self.batch]
            left = left[self.batch :]

    def _step(
        self, optimizer: torch.optim.Optimizer, positions: torch.Tensor, dice: torch.Generator, rate: float
    ) -> torch.Tensor:
        self.model.module.train()
        pictures, targets = self.pictures[self.rows[positions]], self.targets[positions]
        prepared = self.model.preparation(pictures.to(self.device, non_blocking=True))
        prepared = augment(prepared, self.recipe.augmentation, dice, self.model.preparation)
        with self._autocast():
            outputs = self.forward(prepared)
        loss = self.model.head.loss(outputs.float(), targets.to(self.device, non_blocking=True), self.recipe.label_smoothing)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.machine.low_precision else nullcontext()

    def _row_losses(self, checked: Examples) -> Array:
        with self._autocast():
            predictions = self.model.predict(checked.store, checked.rows)
        return metrics.row_losses(self.facts, checked.targets, predictions)

    def _steps_that_fit(self, most: int, end: float) -> int:
        """Time a few steps and one check, put everything back as it was, and say how many steps fit until ``end``."""
        before = _copy(self.model)
        optimizer, batches, dice = self._fresh()
        seconds = []
        for _ in range(MEASURING_STEPS):
            started = time.monotonic()
            float(self._step(optimizer, next(batches), dice, 0.0))
            seconds.append(time.monotonic() - started)
            if time.monotonic() > end:
                break
        check_s = 0.0
        if self.checked is not None:
            started = time.monotonic()
            self._row_losses(self.checked)
            check_s = time.monotonic() - started
            # At the end the whole validation set is predicted in full precision, which takes about twice as long as in low.
            longer = 2 if self.machine.low_precision else 1
            self.final_s = longer * check_s * self.validation_rows / len(self.checked)
        self.model.module.load_state_dict(before)
        step_s = float(np.median(seconds[_WARM_STEPS:] or seconds))
        left = end - self.final_s - time.monotonic()
        looks = MOST_LOOKS
        while looks > 1 and looks_worth(int((left - looks * check_s) / step_s), self.look_steps) < looks:
            looks //= 2
        return int(np.clip((left - looks * check_s) / step_s, min(FEWEST_STEPS, most), most))


def _every_nth(validation: Examples) -> Examples:
    """A fixed part of a large validation set, enough to see where a training is going."""
    return validation.every(max(1, len(validation) // _VALIDATION_ROWS_IN_TRAINING))


def _clearly_better(earlier: Array, last: Array) -> bool:
    """Whether earlier weights beat the last ones by more than one standard error of the rows' differences.

    The falling learning rate makes the last weights the best ones, unless the model has begun to learn the training
    pictures by heart; on a few hundred validation rows a smaller lead is luck.
    """
    gain = last - earlier
    return bool(gain.mean() > gain.std() / math.sqrt(len(gain)))


def _copy(model: Model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.module.state_dict().items()}
