"""Which changes of pictures leave their targets alone, found out with a model that was trained without any."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch

from pixelfit import metrics
from pixelfit.models.model import Model, Preparation
from pixelfit.runs import RunFolder
from pixelfit.search.space import COLOURS, Changes
from pixelfit.training.augment import affine, recoloured, turned, warped
from pixelfit.training.machine import machine
from pixelfit.types import CHANGES, Array, Examples, Facts, Fold, Json, Trial
from pixelfit.words import change_words

PROBE = "probe"  # the purpose of the trial whose model is asked
Judgement = Literal["safe", "unsafe", "undecided"]
View: TypeAlias = Callable[[torch.Tensor, Preparation], torch.Tensor]

_BATCH = 256
_CLEARLY = 2.0  # standard errors

_MOST_PICTURES = 1_000
# The rules were set by what is known of 15 data sets (``benchmarks/safety.py``): the portfolio's first recipe after 150 steps
# (angles of 5,000 digits: 300) on 360 to 3,400 pictures, judged by 64 to 600 others, one to four seeds each. Growth is in
# per cent of what the model was better than the baseline; "apart" is the shift in standard deviations of the target.
# - Mirrors and quarter turns that change the target: digits 57 to 126, angles 176 to 265, a spot's place 263 to 400, arrows 266
#   to 570. Ones that do not: cells, areas, colours of fruit and the arrows' other mirror -0.7 to 0.5, shapes 2.4. (A triangle
#   upside down is one still, but 57, and the shapes' turns are 37: no such picture was ever seen.)
# - Small changes that leave the target alone: up to 10, apart by up to 0.05. A turned digit's angle under turns: 8 to 9, but
#   apart by 0.35 to 0.41; a spot's place under shifts: 7 and 0.65; the area of blobs under sizes: 10 and 0.48.
# - A model of angles that errs by half a deviation (1,000 digits) has opposite contrasts 0.27 apart, for nothing: hence the
#   second limit on the shift, by the error. It leaves turns undecided there. A shift is judged unsafe for angles (30 to 61, 0.9
#   to 1.3 apart) though it is not; without it the net was better all the same, see ``decided``.
# - Turns, sizes and slants move a spot's place both ways, so that nothing is apart, and the loss grows by 1.6 to 2.8 only, but
#   to 6 to 14 times what it was. Of regressions whose target stays, blobs under shifts come nearest, with 5.2 (4.7 at least).
# - Colours: brightness for lightness 78 and 1.6, saturation for ripeness 21 and 0.26. Nets that count or sort cells do badly
#   on darker ones (25 to 49) and would rather learn that they are the same: such a change is judged unsafe though it is not.
UNSAFE_LOSS, SAFE_LOSS, FREE_LOSS = 0.2, 0.05, 0.02  # growth
UNSAFE_SHIFT = 0.2  # standard deviations of the target, and no less than the model errs
SAFE_SHIFT = 0.5  # of that
UNSAFE_TIMES, LEAST_GROWTH = 5.0, 0.01  # for numbers
_DEGREES, _SIZE, _SLANT, _SHIFT, _COLOUR = 10.0, 1.15, 0.15, 0.075, 1.25


@dataclass(frozen=True)
class Change:
    """A change of pictures at the strength at which it is tried: the views that it makes, opposite ones in a row."""

    name: str
    strength: str
    views: tuple[tuple[View, ...], ...]


@dataclass(frozen=True)
class Verdict:
    """What a change does to a model's loss and predictions, and what follows.

    ``growth`` is how much the loss grows, as a share of what the model is better than the baseline; ``growth_error`` the
    standard error of that. ``shift`` is how far the predictions for opposite changes lie apart on average, in standard
    deviations of the target; None where there is nothing opposite, or no order among targets.
    """

    change: str
    strength: str
    loss: float
    growth: float
    growth_error: float
    shift: float | None
    judgement: Judgement
    why: str

    @property
    def free(self) -> bool:
        """Whether the model loses so little under it that the known-good recipes may have it from the start."""
        return self.judgement == "safe" and self.growth < FREE_LOSS


@dataclass(frozen=True)
class Probe:
    """A model's losses per validation picture, as they are and under each change."""

    pictures: int
    baseline_loss: float
    loss: float
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class Decision:
    """Which changes the recipes of a search may make, who decided that, and from what."""

    by: Literal["probe", "user", "habit"]
    why: str
    changes: Changes
    trial: int | None = None
    probe: Probe | None = None

    def to_json(self) -> Json:
        """The decision as JSON."""
        return {
            "by": self.by,
            "why": self.why,
            "allowed": [name for name in CHANGES if name in self.changes.allowed],
            "usual": [name for name in CHANGES if name in self.changes.usual],
            "trial": self.trial,
            "probe": None if self.probe is None else asdict(self.probe),
        }

    def sentence(self) -> str:
        """The decision in one line."""
        if self.probe is None:
            return f"Changes of training pictures: {_listed(self.changes.allowed)} ({self.why})."
        parts = []
        for judgement in ("safe", "unsafe", "undecided"):
            names = {verdict.change for verdict in self.probe.verdicts if verdict.judgement == judgement}
            if names:
                parts.append(f"{judgement} {_listed(names)}")
        return f"Changes of training pictures, judged by trial {self.trial}: {'; '.join(parts)}."


def as_usual(changes: Changes, why: str) -> Decision:
    """What is done where nothing is found out."""
    return Decision("user" if changes.chosen else "habit", "--augment" if changes.chosen else why, changes)


def decided(changes: Changes, trial: Trial, baseline: Trial, folder: RunFolder, folds: Sequence[Fold], facts: Facts) -> Decision:
    """What the model of a trial without augmentation says about every change.

    Of the small ones, which recipes have as a habit, those that are unsafe are left out. The others are added where they are
    safe; undecided ones stay as they are. On angles of 3,400
    turned digits (the portfolio's first recipe, 600 steps, one seed) the RMSE on 600 others was 15.3 degrees as by habit, 14.1
    without turns, 12.3 without turns, sizes and shifts as the verdicts say, 13.2 without any change. On 680 pictures each (300
    steps, one seed) the area of blobs had RMSE 1.95 as by habit, 0.83 as the verdicts say, without sizes and with mirrors and
    turns, and 0.76 without sizes alone; the kind of cells log loss 0.086 and, with mirrors and turns, 0.057.

    Colours of grey pictures are left to the search even so: a net that loses nothing by them has little to learn from them.
    """
    if trial.state != "complete" or trial.score is None:
        return as_usual(changes, f"trial {trial.number}, which was to judge them, did not come to its end")
    every = max(1, math.ceil(sum(len(fold.validation) for fold in folds) / _MOST_PICTURES))
    models = [Model.load(place) for place in folder.model_folders(trial)]
    for model in models:
        model.module.to(torch.device(machine().device))
    asked = [fold.validation.every(every) for fold in folds]
    ends = np.cumsum([len(fold.validation) for fold in folds])[:-1]
    constant = [part[::every] for part in np.split(folder.validation_predictions(baseline), ends)]
    found = probe(models, asked, np.concatenate(constant), facts)
    unsafe = {verdict.change for verdict in found.verdicts if verdict.judgement == "unsafe"}
    safe = {verdict.change for verdict in found.verdicts if verdict.judgement == "safe"}
    free = {verdict.change for verdict in found.verdicts if verdict.free}
    free -= set() if facts.spec.channels == 3 else set(COLOURS)
    narrowed = Changes(frozenset(changes.allowed - unsafe | safe), frozenset(changes.usual - unsafe | free))
    return Decision("probe", "measured on validation pictures", narrowed, trial.number, found)


def changes_for(channels: int, *, square: bool) -> tuple[Change, ...]:
    """Every change that pictures of this form can have, about one and a half times as strong as recipes make them."""
    turns = (1, 2, 3) if square else (2,)
    found = (
        Change("flip", "left and right swapped", ((_moved(mirror=(-1.0, 1.0)),),)),
        Change("flip_vertical", "up and down swapped", ((_moved(mirror=(1.0, -1.0)),),)),
        Change("turns", "by quarters" if square else "by a half", tuple((_moved(quarters=turn),) for turn in turns)),
        Change("rotate", f"±{_DEGREES:g}°", (_both(lambda to: _moved(angle=to * math.radians(_DEGREES))),)),
        Change(
            "scale",
            f"larger and smaller by {_SIZE - 1:.0%}, whole or across alone",
            (_both(lambda to: _moved(scale=(_SIZE**to, _SIZE**to))), _both(lambda to: _moved(scale=(_SIZE**to, 1.0)))),
        ),
        Change("shear", f"±{_SLANT:g}", (_both(lambda to: _moved(slant=to * _SLANT)),)),
        Change(
            "shift",
            f"by {_SHIFT:.1%} of the side",
            (_both(lambda to: _moved(shift=(2 * to * _SHIFT, 0.0))), _both(lambda to: _moved(shift=(0.0, 2 * to * _SHIFT)))),
        ),
        Change("brightness", f"× and ÷ {_COLOUR:g}", (_both(lambda to: _coloured((_COLOUR**to, 1.0, 1.0))),)),
        Change("contrast", f"× and ÷ {_COLOUR:g}", (_both(lambda to: _coloured((1.0, _COLOUR**to, 1.0))),)),
    )
    if channels != 3:
        return found
    return (
        *found,
        Change("saturation", f"× and ÷ {_COLOUR**2:.2g}", (_both(lambda to: _coloured((1.0, 1.0, _COLOUR ** (2 * to)))),)),
    )


def probe(models: Sequence[Model], asked: Sequence[Examples], baseline: Array, facts: Facts) -> Probe:
    """Judge every change by predictions for validation pictures.

    Args:
        models: one a fold.
        asked: the validation pictures of each fold.
        baseline: what the baseline predicts for all of them, one fold after the other.
        facts: what is known of the data.
    """
    seen = models[0].preparation.seen(models[0].spec)
    changes = changes_for(seen.channels, square=seen.height == seen.width)
    views = [view for change in changes for row in change.views for view in row]
    views = [lambda pictures, preparation: pictures, *views]
    parts = [_predictions(model, examples, views) for model, examples in zip(models, asked, strict=True)]
    as_is, *changed = [np.concatenate(part) for part in zip(*parts, strict=True)]
    targets = np.concatenate([examples.targets for examples in asked])
    before = metrics.row_losses(facts, targets, as_is)
    gap = metrics.row_losses(facts, targets, baseline) - before
    numbers = facts.task == "regression"
    deviation = np.where(np.std(targets, axis=0) > 0, np.std(targets, axis=0), 1.0)
    # A model that errs by half a deviation may well answer so differently to pictures of a kind that it has never seen.
    limit = max(UNSAFE_SHIFT, float(np.std((as_is - targets) / deviation))) if numbers else math.inf
    verdicts, left = [], iter(changed)
    for change in changes:
        rows = [[next(left) for _ in row] for row in change.views]
        losses = np.mean([metrics.row_losses(facts, targets, each) for row in rows for each in row], axis=0)
        shift = None
        if numbers and len(change.views[0]) == 2:
            shift = max(_apart(one, other, deviation) for one, other in rows)
        verdicts.append(_judged(change, losses, before, gap, shift=shift, limit=limit))
    return Probe(len(targets), float((gap + before).mean()), float(before.mean()), tuple(verdicts))


def _apart(one: Array, other: Array, deviation: Array) -> float:
    """How far predictions lie apart on average, in standard deviations of the target; of several targets' the furthest."""
    return float(np.abs((one - other).mean(axis=0) / deviation).max())


def _judged(change: Change, losses: Array, before: Array, gap: Array, *, shift: float | None, limit: float) -> Verdict:
    """The verdict on losses under a change, one a picture; ``limit`` is how far predictions may lie apart, inf for classes."""
    more, better = losses - before, float(gap.mean()) or math.inf
    growth = float(more.mean()) / better
    error = float(more.std()) / math.sqrt(len(more)) / abs(better)
    times = 1 + (growth - _CLEARLY * error) * better / (float(before.mean()) or 1.0) if limit < math.inf > better else 1.0
    clear = math.inf > better > _CLEARLY * float(gap.std()) / math.sqrt(len(gap))
    judgement, why = _judgement(growth, error, None if shift is None else shift / limit, times, clear=clear)
    return Verdict(change.name, change.strength, float(losses.mean()), growth, error, shift, judgement, why)


def _judgement(growth: float, error: float, shift: float | None, times: float, *, clear: bool) -> tuple[Judgement, str]:
    """What follows from a loss that grows by so much, give or take ``error``, and becomes at least so many times as large.

    ``shift`` is how far opposite predictions lie apart, as a share of how far they may; ``clear`` whether the model is better
    than the baseline by more than chance explains.
    """
    if not clear:
        return "undecided", "the model is not clearly better than the baseline"
    if shift is not None and shift > 1:
        return "unsafe", "opposite changes move the predictions apart"
    if growth - _CLEARLY * error > UNSAFE_LOSS:
        return "unsafe", "the loss grows by much of what the model is better than the baseline"
    if times > UNSAFE_TIMES and growth > LEAST_GROWTH:
        return "unsafe", f"the loss becomes more than {UNSAFE_TIMES:g} times as large"
    if growth + _CLEARLY * error < SAFE_LOSS and (shift is None or shift < SAFE_SHIFT):
        return "safe", "the loss hardly grows"
    return "undecided", "the model does worse, but perhaps only because it has never seen such pictures"


def _listed(names: Collection[str]) -> str:
    return ", ".join(change_words(name) for name in CHANGES if name in names) or "none"


@torch.inference_mode()
def _predictions(model: Model, examples: Examples, views: Sequence[View]) -> list[Array]:
    """The model's predictions for each view of the examples."""
    model.module.eval()
    device = next(iter(model.module.state_dict().values())).device
    outputs: list[list[torch.Tensor]] = [[] for _ in views]
    for start in range(0, len(examples), _BATCH):
        stored = np.ascontiguousarray(examples.store[examples.rows[start : start + _BATCH]])
        prepared = model.preparation(torch.from_numpy(stored).to(device))
        for place, view in enumerate(views):
            outputs[place].append(model.module(view(prepared, model.preparation)).float().cpu())
    return [model.forecast_of(torch.cat(parts)).raw for parts in outputs]


def _both(view: Callable[[int], View]) -> tuple[View, View]:
    """A change and its opposite."""
    return view(1), view(-1)


def _moved(
    *,
    angle: float = 0.0,
    slant: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    shift: tuple[float, float] = (0.0, 0.0),
    mirror: tuple[float, float] = (1.0, 1.0),
    quarters: int = 0,
) -> View:
    def view(pictures: torch.Tensor, preparation: Preparation) -> torch.Tensor:
        aspect = pictures.shape[2] / pictures.shape[3]
        pairs = [torch.tensor([pair]).T for pair in (scale, shift)]
        matrix = affine(torch.tensor([angle]), torch.tensor([slant]), pairs[0], pairs[1], aspect)
        matrix = matrix * torch.tensor(mirror)[:, None]
        return warped(pictures, turned(matrix, torch.tensor([quarters])))

    return view


def _coloured(factors: tuple[float, float, float]) -> View:
    return lambda pictures, preparation: recoloured(pictures, torch.tensor(factors)[:, None], preparation)
