"""The training loop: a recipe, pictures and a slice of time in; a trained model and its history out."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from pixelfit import metrics
from pixelfit.models import FAMILIES
from pixelfit.models.heads import make_head
from pixelfit.models.model import Model, Preparation
from pixelfit.training.augment import augment
from pixelfit.training.averaging import WeightAverage
from pixelfit.training.checkpoint import Batches, Checkpoint, Kept, Underway, pulse_from
from pixelfit.training.job import Job, Lesson, Monitor, Start, Trained
from pixelfit.training.machine import machine
from pixelfit.training.pace import FEWEST_STEPS, MOST_LOOKS, REPLAN_EVERY_S, Check, Pace, Pulse, look_cost, looks_worth
from pixelfit.training.ranks import ALONE, Ranks, statistics
from pixelfit.training.recipe import Recipe
from pixelfit.types import Array, Examples, TrialState

__all__ = ["Job", "Lesson", "Monitor", "Start", "Trained", "train", "train_as_one_of"]

_WARM_STEPS = 3  # the first steps allocate memory and pick kernels, and would mislead
MEASURING_STEPS = _WARM_STEPS + 8
_VALIDATION_ROWS_IN_TRAINING = 2_000
_CHUNK = 1_024  # pictures at a time for models that are fitted directly
_FLOATS_AT_ONCE = 1 << 24  # and at most so many of their numbers
_SEEDS_A_TRAINING = 10_000_000  # more than it has steps
_COMPILED_FROM_S = 60.0  # on a GPU: a shorter training would not earn back the time that compiling its graph takes
_MEMORY_FOR_PICTURES = 0.3  # of what a GPU has free


def train(
    recipe: Recipe,
    lesson: Lesson,
    *,
    seed: int,
    pace: Pace,
    monitor: Monitor,
    stopped: Callable[[], bool],
    start: Start | None = None,
    checkpoint: Checkpoint | None = None,
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
        checkpoint: where the training is kept now and then. What is kept there already is gone on from, for the same result;
            families that are fitted without steps begin anew.

    Raises:
        FloatingPointError: the loss is no longer a finite number.
    """
    job = Job(recipe, lesson, seed, pace, start or Start())
    return train_alone(job, monitor=monitor, stopped=stopped, checkpoint=checkpoint)


def train_alone(job: Job, *, monitor: Monitor, stopped: Callable[[], bool], checkpoint: Checkpoint | None = None) -> Trained:
    """Do a training in this process: see ``train``."""
    return train_as_one_of(ALONE, job, monitor=monitor, stopped=stopped, checkpoint=checkpoint)


def train_as_one_of(
    ranks: Ranks, job: Job, *, monitor: Monitor, stopped: Callable[[], bool], checkpoint: Checkpoint | None = None
) -> Trained:
    """Take part in a training; every rank calls this with the same job, and all have the same model in the end.

    Without dropout and batch normalisation it is the training that one process would do, but for the order in which floats
    are added. What is watched, asked and kept is rank 0's business alone: nobody hears the others' ``monitor`` or asks their
    ``stopped``, and their ``checkpoint`` is not used. Raises as ``train`` does, ValueError if the job cannot be divided so,
    and RuntimeError if another rank is gone.
    """
    job.check_divisible(ranks.count)
    recipe, lesson, start = job.recipe, job.lesson, job.start
    torch.manual_seed(job.seed)
    model = _begin(recipe, lesson, start)
    targets = model.head.encode(lesson.train.targets) if start.targets is None else start.targets
    if FAMILIES[recipe.family].fit is not None:
        return _fit_directly(recipe, model, lesson, targets, seed=job.seed, pace=job.pace, stopped=stopped)
    return _Training(job, model, targets, ranks, checkpoint).run(job.pace, monitor, stopped)


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
    asked, out_of_time_at = 0, 0

    def time_left() -> float:
        nonlocal asked, out_of_time_at
        asked += 1
        if pace.course is not None:
            left = float("inf") if not pace.course.out_of_time_at or asked < pace.course.out_of_time_at else 0.0
        else:
            left = 0.0 if stopped() else begun + pace.seconds - time.monotonic()
        if left <= 0 and not out_of_time_at:
            out_of_time_at = asked
        return left

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
    return Trained(
        model, state, steps, 1.0, (), steps,
        planned=steps, out_of_time_at=out_of_time_at, step_s=time.monotonic() - begun, held_out=held_out,
    )  # fmt: skip


class _Training:
    """One training by gradients: its data on the device, its optimiser, its clock."""

    def __init__(
        self,
        job: Job,
        model: Model,
        targets: torch.Tensor,
        ranks: Ranks,
        checkpoint: Checkpoint | None,
    ) -> None:
        lesson = job.lesson
        self.recipe, self.model, self.seed, self.facts = job.recipe, model, job.seed, lesson.facts
        self.ranks, self.checkpoint = ranks, checkpoint if ranks.leads else None
        self.machine = machine()
        self.device = torch.device(self.machine.device)
        self.windows = lesson.windows
        self.an_epoch = len(lesson.train) if self.windows is None else self.windows.pictures  # pictures
        on_gpu = self.device.type == "cuda" and lesson.train.store.nbytes < _MEMORY_FOR_PICTURES * torch.cuda.mem_get_info()[0]
        self.pictures_on = self.device if on_gpu else torch.device("cpu")
        self._see(lesson.train, targets)
        self.batch = job.batch
        self.part, self.weight = ranks.part(self.batch), ranks.weight(self.batch)
        self.module = ranks.synchronised(model.module.to(self.device))
        self.forward = ranks.forward(self.module)
        self.statistics = statistics(model.module) if ranks.count > 1 and self.device.type == "cpu" else ()
        self.validation_rows = len(lesson.validation) if lesson.validation else 0
        self.final_s = 0.0  # what the last prediction of the whole validation set will take
        self.checked = lesson.validation and _every_nth(lesson.validation)
        self.look_steps = look_cost(len(self.checked), self.batch) if self.checked else 0.0

    def _see(self, train_set: Examples, targets: torch.Tensor) -> None:
        """Have these pictures and their encoded targets to train on."""
        with warnings.catch_warnings():
            # What is mapped from disk or from Ray's store cannot be written to, which PyTorch warns of; nothing here does.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self.pictures = torch.from_numpy(train_set.store).to(self.pictures_on)
            self.rows = torch.from_numpy(train_set.rows).to(self.pictures_on)
        self.targets = targets.to(self.pictures_on)

    def _next_window(self, give_up: Callable[[], bool]) -> None:
        """Have the next window to train on; where it is not there in time, the same once more."""
        assert self.windows is not None
        window = self.windows.next(give_up)
        if window is not None:
            self._see(window, self.model.head.encode(window.targets))

    def run(self, pace: Pace, monitor: Monitor, stopped: Callable[[], bool]) -> Trained:
        begun = time.monotonic()
        earlier = self.ranks.from_first(self.checkpoint.read() if self.checkpoint else None)
        if earlier is not None:
            begun -= earlier[1]["spent_s"]
        steps_an_epoch = self.an_epoch / self.batch
        most = max(FEWEST_STEPS, round(pace.most_epochs * steps_an_epoch))
        # On several GPUs no graph is compiled: how CUDA graphs get on with the averaging of gradients has not been tried.
        if self.device.type == "cuda" and self.ranks.count == 1 and _COMPILED_FROM_S <= pace.seconds < float("inf"):
            torch._dynamo.config.suppress_errors = True  # where the graph cannot be compiled, it runs as it is
            self.forward = torch.compile(self.model.module, mode="reduce-overhead")
        if earlier is not None:
            self.final_s = earlier[1]["final_s"]
            pulse = pulse_from(earlier[1])
        elif pace.course is not None:
            pulse = Pulse(total=pace.course.planned, most=most, look_steps=self.look_steps)
        elif pace.steps is not None:
            pulse = Pulse(total=pace.steps, most=pace.steps, look_steps=self.look_steps)
        else:
            total = most if pace.seconds == float("inf") else self._steps_that_fit(most, begun + pace.seconds)
            pulse = Pulse(total=total, most=most, look_steps=self.look_steps)
        underway = self._fresh(pulse)
        if earlier is not None:
            underway.restore(*earlier)
            for check in underway.pulse.history:
                monitor.on_look(check)
        kept, averaged = self._steps(underway, pace, begun, monitor, stopped)
        pulse = underway.pulse
        self.model.module.eval()
        return Trained(
            model=self.model,
            state=pulse.state,
            steps=pulse.step,
            epochs=round(pulse.step / steps_an_epoch, 2),
            history=tuple(pulse.history),
            best_at_step=kept,
            planned=pulse.planned,
            replans=tuple(pulse.replans),
            step_s=pulse.step_s,
            averaged=averaged,
            passed=None if self.windows is None else self.windows.passed,
        )

    def _steps(
        self, underway: Underway, pace: Pace, begun: float, monitor: Monitor, stopped: Callable[[], bool]
    ) -> tuple[int, bool]:
        """Train; return the step whose weights the model has in the end, and whether they are averaged."""
        pulse, course, stepping = underway.pulse, pace.course, time.monotonic()
        replanned, end = stepping, begun + pace.seconds - self.final_s
        while pulse.step < pulse.total:
            if self.windows is not None and pulse.step and not len(underway.batches.left):
                self._next_window(lambda: stopped() or time.monotonic() > end)
            rate = pulse.learning_rate(self.recipe.learning_rate)
            underway.loss_sum += self._step(underway, rate)
            underway.losses += 1
            pulse.step += 1
            if underway.average:
                underway.average.update()
            clock = time.monotonic()
            if clock - replanned > REPLAN_EVERY_S and self.ranks.leads:
                replanned = clock
                monitor.on_progress(pulse.step / pulse.total, f"step {pulse.step:,} of {pulse.total:,}")
                # step_s: minus the checks so far
                pulse.replan(clock - stepping + pulse.step_s, end - clock, underway.check_s)
            if course:
                pulse.follow(course)
            leave = stopped() or bool(course and course.state == "interrupted" and pulse.step >= course.steps)
            at_end = pulse.step >= pulse.total
            due = self.checkpoint is not None and self.checkpoint.is_due(self._epochs(pulse), at_end=at_end)
            leave, due = self._agreed(pulse, leave, due)
            if leave:  # before the look, which a training that goes on from here will not have had
                self._keep(underway, begun, stepping)
            losing = False
            if pulse.step >= min(underway.next_look, pulse.total) or leave:
                losing = self._look(underway, begun, monitor)
                losing = losing or bool(course and course.state == "pruned" and pulse.step >= course.steps)
            if leave or losing:
                pulse.state = "interrupted" if leave else "pruned"
                break
            if due:
                self._keep(underway, begun, stepping)
        pulse.step_s += time.monotonic() - stepping
        self._agree(underway)
        return self._settle(pulse, underway.latest, underway.best, underway.average)

    def _agreed(self, pulse: Pulse, leave: bool, due: bool) -> tuple[bool, bool]:
        """Whether the training ends here and whether it is kept: as rank 0 says, whose clock tells how long it is, too."""
        total, leaves, keeps = self.ranks.decided(pulse.total, leave, due)
        pulse.total = int(total)
        return bool(leaves), bool(keeps)

    def _agree(self, underway: Underway) -> None:
        """Let all ranks have the mean of what each has counted from its own parts of the batches."""
        held = (self.model.module.state_dict(), underway.average.kept() if underway.average else {})
        counted = [state[name] for state in held for name in self.statistics if name in state]
        self.ranks.average([underway.loss_sum, *counted])

    def _look(self, underway: Underway, begun: float, monitor: Monitor) -> bool:
        """Look at the training loss and the validation set; True if the training is losing."""
        pulse = underway.pulse
        self._agree(underway)
        mean_loss = float(underway.loss_sum) / underway.losses  # waits for the device, so the clock is read after it
        started = time.monotonic()
        if not np.isfinite(mean_loss):
            raise FloatingPointError(f"the loss is {mean_loss} after {pulse.step} steps")
        losing = False
        if self.checked is not None:
            rows = self._row_losses(self.checked)
            score = metrics.score_of_losses(self.facts, rows)
            pulse.history.append(Check(pulse.step, round(self._epochs(pulse), 3), mean_loss, score, round(started - begun, 3)))
            monitor.on_look(pulse.history[-1])
            latest = underway.latest = Kept(pulse.step, rows, _copy(self.model))
            if underway.best is None or latest.losses.mean() < underway.best.losses.mean():
                underway.best = latest
            losing = bool(self.ranks.decided(monitor.on_check(pulse.step / pulse.total, score))[0])
        underway.loss_sum, underway.losses = torch.zeros((), device=self.device), 0
        underway.check_s = time.monotonic() - started
        pulse.step_s -= underway.check_s
        underway.next_look = pulse.next_look()
        return losing

    def _keep(self, underway: Underway, begun: float, stepping: float) -> None:
        self._agree(underway)
        if self.checkpoint is not None:
            now, epoch = time.monotonic(), self._epochs(underway.pulse)
            step_s = underway.pulse.step_s + now - stepping
            self.checkpoint.write(underway, epoch=epoch, step_s=step_s, spent_s=now - begun, final_s=self.final_s)

    def _epochs(self, pulse: Pulse) -> float:
        return pulse.step * self.batch / self.an_epoch

    def _settle(self, pulse: Pulse, last: Kept | None, best: Kept | None, average: WeightAverage | None) -> tuple[int, bool]:
        """Give the model its final weights: the last, their average if it is better, or an earlier check's if clearly so."""
        averaged = average.state() if average else {}
        if averaged:
            self.model.module.load_state_dict(averaged)
        if self.checked is None or last is None or best is None:
            return pulse.step, bool(averaged)
        chosen = last
        if averaged and (rows := self._row_losses(self.checked)).mean() < last.losses.mean():
            chosen = Kept(pulse.step, rows, averaged)
        # A training that was ended early has not had its low learning rates: there the best check is as good as any.
        ended_early = pulse.state != "complete" and best.losses.mean() < chosen.losses.mean()
        if ended_early or _clearly_better(best.losses, chosen.losses):
            chosen = best
        self.model.module.load_state_dict(chosen.state)
        return chosen.step, chosen.state is averaged

    def _fresh(self, pulse: Pulse) -> Underway:
        """The training before its first step."""
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
        return Underway(
            self.model.module,
            pulse,
            optimizer,
            Batches(len(self.rows), self.batch, self.seed, self.pictures.device),
            torch.Generator().manual_seed(self.seed + 1),
            WeightAverage(module, self.recipe.averaging * pulse.planned) if self.recipe.averaging else None,
            next_look=pulse.next_look(),
            loss_sum=torch.zeros((), device=self.device),
        )

    def _step(self, underway: Underway, rate: float) -> torch.Tensor:
        """One step; returns the loss, which with several ranks is to be averaged over them."""
        optimizer, preparation, ranks = underway.optimizer, self.model.preparation, self.ranks
        self.module.train()
        if ranks.count > 1:
            # For dropout, which must differ from rank to rank; of the step, so that a checkpoint need not hold each rank's state.
            torch.manual_seed((self.seed * _SEEDS_A_TRAINING + underway.pulse.step) * ranks.count + ranks.own)
        positions = underway.batches.next()[self.part]
        pictures, targets = self.pictures[self.rows[positions]], self.targets[positions]
        prepared = preparation(pictures.to(self.device, non_blocking=True))
        prepared = augment(prepared, self.recipe.augmentation, underway.dice, preparation, (self.batch, self.part))
        with self._autocast():
            outputs = self.forward(prepared)
        targets = targets.to(self.device, non_blocking=True)
        loss = self.weight * self.model.head.loss(outputs.float(), targets, self.recipe.label_smoothing)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.machine.low_precision else nullcontext()

    def _row_losses(self, checked: Examples) -> Array:
        part = self.ranks.part(len(checked))
        with self._autocast():
            predictions = self.model.predict(checked.store, checked.rows[part])
        return self.ranks.joined(metrics.row_losses(self.facts, checked.targets[part], predictions), len(checked))

    def _steps_that_fit(self, most: int, end: float) -> int:
        """Time a few steps and one check, put everything back as it was, and say how many steps fit until ``end``."""
        before = _copy(self.model)
        fresh = self._fresh(Pulse(total=most, most=most))
        seconds = []
        for _ in range(MEASURING_STEPS):
            started = time.monotonic()
            float(self._step(fresh, 0.0))
            seconds.append(time.monotonic() - started)
            if self.ranks.decided(time.monotonic() > end)[0]:
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
        return int(self.ranks.decided(np.clip((left - looks * check_s) / step_s, min(FEWEST_STEPS, most), most))[0])


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
