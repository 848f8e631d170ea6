"""What a training will cost, predicted before it starts, so that none starts that cannot finish."""

from __future__ import annotations

import functools
import itertools

import torch
from torch import nn

from pixelfit.models import FAMILIES
from pixelfit.training.loop import MEASURING_STEPS
from pixelfit.training.recipe import Recipe
from pixelfit.types import PictureSpec, Trial

_BACKWARD = 3  # a step costs the forward pass and twice as much again backwards
_LEAST_STEP_S = 5e-4  # Python and the optimiser, however small the net
_FEW_NETS = 20
_counted = itertools.count()
_SHARE_OF_PROBE = 0.8  # of the speed that `machine` times, whole nets with their augmentation reach about so much


class CostModel:
    """Predicts seconds a training step from the net's operations, and learns the machine's speed for each family."""

    def __init__(self, spec: PictureSpec, flops: float, folds: int = 1) -> None:
        self._spec, self._folds = spec, folds
        self._speed = flops * _SHARE_OF_PROBE
        self._of_family: dict[str, float] = {}
        self._fitted_s: dict[str, float] = {}

    def step_s(self, recipe: Recipe) -> float:
        """Seconds that a step of the recipe will take, in every fold one; 0 for families that are fitted without steps."""
        if FAMILIES[recipe.family].fit is not None:
            return 0.0
        speed = self._of_family.get(recipe.family, self._speed)
        try:
            return self._folds * max(_LEAST_STEP_S, self._operations(recipe) / speed)
        except (ValueError, RuntimeError):
            return self._folds * _LEAST_STEP_S  # a net that cannot be built: its trial will say why

    def least_s(self, recipe: Recipe, steps: int, validation: int) -> float:
        """Seconds that a trial of so many steps takes with all that belongs to it, or as long as its family took last time.

        Measuring the steps and the looks at ``validation`` pictures come on top; a prediction costs a third of a step
        for each picture, and twice that in full precision.
        """
        if FAMILIES[recipe.family].fit is not None:
            return self._fitted_s.get(recipe.family, 0.0)
        step_s = self.step_s(recipe)
        return (steps + MEASURING_STEPS) * step_s + validation / self._folds / recipe.batch_size * step_s

    def learn(self, recipe: Recipe, trial: Trial) -> None:
        """What a trial of the recipe took."""
        if trial.step_s <= 0:
            return
        if FAMILIES[recipe.family].fit is not None:
            self._fitted_s[recipe.family] = trial.seconds
        elif trial.steps > 0:
            self._of_family[recipe.family] = self._operations(recipe) * trial.steps * trial.folds / trial.step_s

    def _operations(self, recipe: Recipe) -> float:
        forward = _forward_operations(recipe.family, tuple(sorted(recipe.architecture.items())), self._spec.within(recipe.side))
        return float(_BACKWARD * forward * recipe.batch_size)


@functools.lru_cache(maxsize=256)
def _forward_operations(family: str, architecture: tuple[tuple[str, object], ...], spec: PictureSpec) -> int:
    """Floating-point operations for one picture in convolutions and linear layers, where nearly all of them are.

    Counted while one empty picture passes. (torch.utils.flop_counter counts the same, and torch's meta device does without
    the pass, but each takes more than a second to load, a tenth of the shortest useful budget. A long search is another
    matter: of 300 trials' decisions half the time went into these passes, a tenth of a second for each net.)
    """
    device = torch.device("cpu" if next(_counted) < _FEW_NETS else "meta")
    with device, torch.random.fork_rng(devices=[]):
        module = FAMILIES[family].build(spec, 1, dict(architecture)).eval()
    counted = 0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal counted
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        counted += 2 * weight.numel() * (output.numel() // output.shape[1])

    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        module(torch.zeros(1, spec.channels, spec.height, spec.width, device=device))
    return counted
