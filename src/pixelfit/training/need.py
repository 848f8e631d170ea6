"""What memory a training will take, estimated before it begins from the shapes of what its module computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from pixelfit.models import FAMILIES
from pixelfit.models.heads import make_head
from pixelfit.models.parts import parts_of
from pixelfit.training.recipe import Recipe
from pixelfit.types import Examples, Facts

_FLOAT = 4  # bytes
# Of what a training of the smallest net takes: kernels, code, buffers.
_PROGRAM = 100 << 20
# Weights, gradients, the optimiser's two averages, the average over steps, and the best ones so far.
_COPIES = 6
_FEW = 2  # pictures shown to a module: batch normalisation wants more than one
_SMALL = 64 * 64  # pixels
_CHUNK = 1 << 24  # numbers of the pictures that a family without gradients is shown at once
_AT_ONCE, _LIVE = 32, 3  # pictures in a backbone; and copies of them, or of the largest map, that are there at the same time


@dataclass(frozen=True)
class Need:
    """Bytes that a training takes beyond the stored pictures: some at any rate, and some for each picture of a batch."""

    fixed: float
    a_picture: float = 0.0

    def of(self, batch_size: int) -> float:
        """Bytes with batches of so many."""
        return self.fixed + batch_size * self.a_picture


def need_of(recipe: Recipe, train_set: Examples, facts: Facts) -> Need:
    """About what training a recipe will take.

    The peaks of trainings on a processor, of 28 to 224 pixels a side and with batches of 16 to 512, were 0.65 to 1.2 times as
    large (convnet, resnet, mlp, linear, a frozen and a tuned backbone; one run each).
    """
    head = make_head(recipe.head, train_set.targets, len(facts.classes or ()), facts.metric)
    family, spec = FAMILIES[recipe.family], facts.spec.within(recipe.side)
    # A pass without numbers takes no memory, but what it needs takes 1.4 s to load; small pictures take little as they are.
    device = torch.device("cpu" if spec.height * spec.width <= _SMALL else "meta")
    with device, torch.random.fork_rng(devices=[]):
        module = family.build(spec, head.outputs, recipe.architecture)
    weights = sum(tensor.numel() for tensor in module.state_dict().values())
    shown = torch.zeros(_FEW, spec.channels, spec.height, spec.width, device=device)
    if family.fit is not None:
        features, largest = _looked_at(module, shown)
        chunk = min(_CHUNK, len(train_set) * train_set.store[0].size)
        return Need(_PROGRAM + _FLOAT * (weights + _LIVE * (chunk + _AT_ONCE * largest) + 2 * len(train_set) * features))
    a_picture = _kept(module, shown) + spec.height * spec.width * spec.channels
    return Need(_PROGRAM + _FLOAT * weights * _COPIES, _FLOAT * a_picture)


def _kept(module: nn.Module, shown: torch.Tensor) -> float:
    """How many numbers a picture the layers give out, which are kept until the gradients are known."""
    sizes = _sizes(module, lambda: module.train()(shown))
    return sum(sizes) / len(shown)


def _looked_at(module: nn.Module, shown: torch.Tensor) -> tuple[float, float]:
    """Numbers a picture in its features, and in the largest map on the way to them."""
    found: list[torch.Tensor] = []
    sizes = _sizes(module, lambda: found.append(parts_of(module.eval())[0](shown)))
    return found[0].numel() / len(shown), max(sizes, default=0) / len(shown)


def _sizes(module: nn.Module, compute: Callable[[], object]) -> list[int]:
    """How many numbers each layer gives out that takes room of its own for them."""
    sizes: list[int] = []

    def count(layer: nn.Module, given: object, out: torch.Tensor) -> None:
        sizes.append(0 if getattr(layer, "inplace", False) else out.numel())

    handles = [layer.register_forward_hook(count) for layer in module.modules() if not list(layer.children())]
    with torch.inference_mode():
        compute()
    for handle in handles:
        handle.remove()
    return sizes
