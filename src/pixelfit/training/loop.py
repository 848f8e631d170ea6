"""The training loop: a recipe, pictures and a slice of time in; a trained model and its history out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from pixelfit import metrics
from pixelfit.models import FAMILIES
from pixelfit.models.heads import make_head
from pixelfit.models.model import Model, Preparation
from pixelfit.training.augment import augment
from pixelfit.training.recipe import Recipe
from pixelfit.types import Array, Examples, Facts, Json, TrialState

_WARM_UP = 0.15  # share of the steps in which the learning rate rises
_FINAL_LR = 0.01  # share of the highest learning rate at the end
_CHECKS = 8  # looks at the validation set in one training
_MEASURED_STEPS = 8
_WARM_STEPS = 3  # the first steps allocate memory and pick kernels, and would mislead
_REPLAN_EVERY_S = 2.0
_GROWS_UNTIL = 0.3  # share of the steps
_FEWEST_STEPS = 4
_VALIDATION_ROWS_IN_TRAINING = 2_000
_CHUNK = 1_024  # pictures at a time for models that are fitted directly


class Monitor(Protocol):
    """Watches a training."""

    def on_progress(self, fraction: float, detail: str) -> None:
        """``fraction`` of the steps are done."""

    def on_check(self, fraction: float, score: float) -> bool:
        """A validation score (smaller is better) after ``fraction`` of the steps; True ends the training as losing."""


@dataclass(frozen=True)
class Pace:
    """How long a training may be.

    With ``steps`` it takes just these. Otherwise it takes the steps of at most ``most_epochs`` epochs that fit into
    ``seconds``, measured on its first steps and then fixed, but for a correction where the machine proves faster or
    slower (``Trained.replans``). It is shortened in both cases if it would run over ``seconds``; with no limit there,
    nothing depends on the clock.
    """

    seconds: float = float("inf")
    most_epochs: float = 12.0
    steps: int | None = None


@dataclass(frozen=True)
class Check:
    """One look at the validation set."""

    step: int
    epoch: float
    train_loss: float
    score: float
    seconds: float


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


@dataclass(frozen=True)
class _Kept:
    """Weights at a check, and each checked row's loss with them."""

    step: int
    losses: Array
    state: dict[str, torch.Tensor]


@dataclass
class _Pulse:
    """What changes from step to step."""

    total: int
    most: int
    step: int = 0
    state: TrialState = "complete"
    replans: list[tuple[int, int]] = field(default_factory=list)
    history: list[Check] = field(default_factory=list)


def pick_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def low_precision(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())


def train(
    recipe: Recipe,
    train_set: Examples,
    validation: Examples,
    facts: Facts,
    *,
    seed: int,
    pace: Pace,
    monitor: Monitor,
    stopped: Callable[[], bool],
) -> Trained:
    """Train one recipe.

    Args:
        recipe: what to build and how to train it.
        train_set: pictures and targets to learn from.
        validation: pictures and targets that tell how well it goes; the last weights are kept, unless those of an
            earlier check were clearly better.
        facts: the task, the classes and the form of the pictures.
        seed: of the weights, the order of pictures and the augmentation.
        pace: how long to train.
        monitor: is told of progress and may end a losing training.
        stopped: whether the user asked to stop.

    Raises:
        FloatingPointError: the loss is no longer a finite number.
    """
    head = make_head(recipe.head, train_set.targets, len(facts.classes or ()), facts.metric)
    preparation = Preparation.of(train_set)
    torch.manual_seed(seed)
    model = Model.new(recipe.family, recipe.architecture, facts.spec, preparation, head)
    if FAMILIES[recipe.family].fit is not None:
        return _fit_directly(recipe, model, train_set, seed=seed, pace=pace, stopped=stopped)
    model.module.to(pick_device())
    return _Training(recipe, model, train_set, validation, facts, seed).run(pace, monitor, stopped)


def _fit_directly(
    recipe: Recipe, model: Model, train_set: Examples, *, seed: int, pace: Pace, stopped: Callable[[], bool]
) -> Trained:
    fit = FAMILIES[recipe.family].fit
    assert fit is not None
    end = time.monotonic() + pace.seconds
    chunks = np.array_split(train_set.rows, math.ceil(len(train_set) / _CHUNK))
    with torch.inference_mode():
        steps = fit(
            model.module,
            (model.preparation(torch.from_numpy(train_set.store[rows])) for rows in chunks),
            model.head.encode(train_set.targets),
            head=model.head,
            architecture=recipe.architecture,
            seed=seed,
            time_left=lambda: 0.0 if stopped() else end - time.monotonic(),
        )
    return Trained(model, "interrupted" if stopped() else "complete", steps, 1.0, (), steps)


class _Training:
    """One training by gradients: its data on the device, its optimiser, its clock."""

    def __init__(self, recipe: Recipe, model: Model, train_set: Examples, validation: Examples, facts: Facts, seed: int) -> None:
        self.recipe, self.model, self.seed = recipe, model, seed
        self.facts = facts
        self.device = pick_device()
        self.pictures = torch.from_numpy(train_set.store)
        if self.device.type == "cuda" and self.pictures.nbytes < 0.3 * torch.cuda.mem_get_info()[0]:
            self.pictures = self.pictures.to(self.device)
        self.rows = torch.from_numpy(train_set.rows).to(self.pictures.device)
        self.targets = model.head.encode(train_set.targets).to(self.device)
        self.batch = min(recipe.batch_size, len(train_set))
        self.low_precision = low_precision(self.device)
        self.validation_rows = len(validation)
        self.final_s = 0.0  # what the last prediction of the whole validation set will take
        # A fixed part of a large validation set is enough to see where a training is going.
        every = max(1, len(validation) // _VALIDATION_ROWS_IN_TRAINING)
        self.check_store, self.check_rows = validation.store, validation.rows[::every]
        self.check_targets = validation.targets[::every]

    def run(self, pace: Pace, monitor: Monitor, stopped: Callable[[], bool]) -> Trained:
        begun = time.monotonic()
        steps_an_epoch = len(self.rows) / self.batch
        most = max(_FEWEST_STEPS, round(pace.most_epochs * steps_an_epoch))
        if pace.steps is not None:
            pulse = _Pulse(total=pace.steps, most=pace.steps)
        elif pace.seconds == float("inf"):
            pulse = _Pulse(total=most, most=most)
        else:
            pulse = _Pulse(total=self._steps_that_fit(most, begun + pace.seconds), most=most)
        best_at = self._steps(pulse, begun + pace.seconds - self.final_s, monitor, stopped)
        self.model.module.cpu().eval()
        return Trained(
            model=self.model,
            state=pulse.state,
            steps=pulse.step,
            epochs=round(pulse.step / steps_an_epoch, 2),
            history=tuple(pulse.history),
            best_at_step=best_at,
            replans=tuple(pulse.replans),
        )

    def _steps(self, pulse: _Pulse, end: float, monitor: Monitor, stopped: Callable[[], bool]) -> int:
        """Train, and return the step whose weights the model has in the end."""
        begun = time.monotonic()
        optimizer, batches, dice = self._fresh()
        kept: _Kept | None = None
        loss_sum, losses = torch.zeros((), device=self.device), 0
        check_s, replanned = 0.0, time.monotonic()
        next_check = self._next_check(pulse)
        while pulse.step < pulse.total:
            loss_sum += self._step(optimizer, next(batches), dice, _learning_rate(self.recipe.learning_rate, pulse))
            losses += 1
            pulse.step += 1
            now = time.monotonic()
            if now - replanned > _REPLAN_EVERY_S:
                replanned = now
                monitor.on_progress(pulse.step / pulse.total, f"step {pulse.step:,} of {pulse.total:,}")
                _replan(pulse, now, begun, end, check_s)
            leave = stopped()
            if pulse.step >= min(next_check, pulse.total) or leave:
                started = time.monotonic()
                mean_loss = float(loss_sum) / losses
                if not np.isfinite(mean_loss):
                    raise FloatingPointError(f"the loss is {mean_loss} after {pulse.step} steps")
                losses_now = self._check()
                value = metrics.score_of_losses(self.facts, losses_now)
                epoch = round(pulse.step * self.batch / len(self.rows), 3)
                pulse.history.append(Check(pulse.step, epoch, mean_loss, value, round(started - begun, 3)))
                if kept is None or losses_now.mean() < kept.losses.mean():
                    kept = _Kept(pulse.step, losses_now, _copy(self.model))
                loss_sum, losses = torch.zeros((), device=self.device), 0
                losing = monitor.on_check(pulse.step / pulse.total, value)
                check_s = time.monotonic() - started
                next_check = self._next_check(pulse)
                if leave or losing:
                    pulse.state = "interrupted" if leave else "pruned"
                    break
        assert kept is not None
        # A training that was ended early has not had its low learning rates: there the best check is as good as any.
        if pulse.state == "complete" and not _clearly_better(kept.losses, losses_now):
            kept = _Kept(pulse.step, losses_now, _copy(self.model))
        self.model.module.load_state_dict(kept.state)
        return kept.step

    def _next_check(self, pulse: _Pulse) -> int:
        done = len(pulse.history) + 1
        return pulse.total if done >= _CHECKS else max(pulse.step + 1, round(pulse.total * done / _CHECKS))

    def _fresh(self) -> tuple[torch.optim.Optimizer, Iterator[torch.Tensor], torch.Generator]:
        """An optimiser, the order of batches and the dice for augmentation, as they are at the start of a training."""
        torch.manual_seed(self.seed)  # for dropout
        decayed = [weight for weight in self.model.module.parameters() if weight.ndim > 1]
        others = [weight for weight in self.model.module.parameters() if weight.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": self.recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.recipe.learning_rate, betas=(0.9, 0.99), fused=True)
        return optimizer, self._batches(), torch.Generator().manual_seed(self.seed + 1)

    def _batches(self) -> Iterator[torch.Tensor]:
        """Positions in the training set, a batch at a time, shuffled anew each epoch; a batch may span two epochs."""
        dice = torch.Generator().manual_seed(self.seed)
        left = torch.empty(0, dtype=torch.int64)
        while True:
            while len(left) < self.batch:
                left = torch.cat([left, torch.randperm(len(self.rows), generator=dice)])
            yield left[: self.batch]
            left = left[self.batch :]

    def _step(
        self, optimizer: torch.optim.Optimizer, positions: torch.Tensor, dice: torch.Generator, rate: float
    ) -> torch.Tensor:
        self.model.module.train()
        positions = positions.to(self.rows.device)
        prepared = self.model.preparation(self.pictures[self.rows[positions]].to(self.device))
        prepared = augment(prepared, self.recipe.augmentation, dice)
        with self._autocast():
            outputs = self.model.module(prepared)
        loss = self.model.head.loss(outputs.float(), self.targets[positions.to(self.device)], self.recipe.label_smoothing)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.low_precision else nullcontext()

    def _check(self) -> Array:
        """Each checked row's loss."""
        with self._autocast():
            predictions = self.model.predict(self.check_store, self.check_rows)
        return metrics.row_losses(self.facts, self.check_targets, predictions)

    def _steps_that_fit(self, most: int, end: float) -> int:
        """Time a few steps and one check, put everything back as it was, and say how many steps fit until ``end``."""
        before = _copy(self.model)
        optimizer, batches, dice = self._fresh()
        seconds = []
        for _ in range(_WARM_STEPS + _MEASURED_STEPS):
            started = time.monotonic()
            float(self._step(optimizer, next(batches), dice, 0.0))
            seconds.append(time.monotonic() - started)
            if time.monotonic() > end:
                break
        started = time.monotonic()
        self._check()
        check_s = time.monotonic() - started
        self.model.module.load_state_dict(before)
        step_s = float(np.median(seconds[_WARM_STEPS:] or seconds))
        # At the end the whole validation set is predicted twice, to calibrate and to score, in full precision, which
        # takes about twice as long.
        self.final_s = 4 * check_s * self.validation_rows / len(self.check_rows)
        left = end - self.final_s - time.monotonic() - _CHECKS * check_s
        return int(np.clip(left / step_s, min(_FEWEST_STEPS, most), most))


def _learning_rate(highest: float, pulse: _Pulse) -> float:
    """One cycle (Smith & Topin 2017): a linear rise, then a cosine down to a hundredth."""
    done = pulse.step / pulse.total
    if done < _WARM_UP:
        return highest * (0.1 + 0.9 * done / _WARM_UP)
    fall = (done - _WARM_UP) / (1 - _WARM_UP)
    return highest * (_FINAL_LR + (1 - _FINAL_LR) * 0.5 * (1 + float(np.cos(np.pi * fall))))


def _replan(pulse: _Pulse, now: float, begun: float, end: float, check_s: float) -> None:
    """Shorten the training if it would run over its end, or lengthen it early on if it would end long before.

    The machine may have become slower or faster than in the few steps that were measured.
    """
    if end == float("inf"):
        return
    step_s = (now - begun) / pulse.step
    checks_left = max(1, _CHECKS - len(pulse.history))
    fit = min(pulse.most, pulse.step + max(1, int((end - now - checks_left * check_s) / step_s)))
    # Later a longer schedule would raise the learning rate again after it has fallen.
    may_grow = pulse.step < _GROWS_UNTIL * pulse.total
    if fit < 0.98 * pulse.total or (may_grow and fit > 1.1 * pulse.total):
        pulse.total = fit
        pulse.replans.append((pulse.step, fit))


def _clearly_better(earlier: Array, last: Array) -> bool:
    """Whether earlier weights beat the last ones by more than one standard error of the rows' differences.

    The falling learning rate makes the last weights the best ones, unless the model has begun to learn the training
    pictures by heart; on a few hundred validation rows a smaller lead is luck.
    """
    gain = last - earlier
    return bool(gain.mean() > gain.std() / math.sqrt(len(gain)))


def _copy(model: Model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.module.state_dict().items()}


def history_to_json(trained: Trained) -> Json:
    """The checks of a training as JSON."""
    return [vars(check) for check in trained.history]
