"""What a model family has to say of itself, and the kinds of choices that a search may make for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import torch
from torch import nn

from pixelfit.models.heads import Head
from pixelfit.types import Json, PictureSpec

Architecture: TypeAlias = Mapping[str, Json]


@dataclass(frozen=True)
class Choice:
    """One of several values; ``start`` is the known-good one."""

    values: tuple[str | int | float | bool, ...]
    start: str | int | float | bool

    def allows(self, value: Json) -> bool:
        """Whether it is one of the values."""
        return value in self.values


@dataclass(frozen=True)
class Between:
    """A number between ``low`` and ``high``; ``start`` is the known-good one. ``log``: sampled evenly in its logarithm."""

    low: float
    high: float
    start: float
    log: bool = False

    def allows(self, value: Json) -> bool:
        """Whether it lies within the limits."""
        return isinstance(value, (int, float)) and self.low <= value <= self.high


Dimension: TypeAlias = Choice | Between


class Fit(Protocol):
    """Fits a module without gradients, straight from the pictures."""

    def __call__(
        self,
        module: nn.Module,
        chunks: Iterable[torch.Tensor],
        targets: torch.Tensor,
        *,
        head: Head,
        architecture: Architecture,
        seed: int,
        time_left: Callable[[], float],
    ) -> int:
        """Fit ``module`` in place and return how many steps it took.

        Args:
            module: what the family's ``build`` made.
            chunks: the pictures as normalised floats (n, C, H, W), some at a time, so that large ones need not fit together.
            targets: encoded by ``head``, shape (N,), or (N, targets) for several.
            head: says what the outputs mean.
            architecture: the family's own choices, as for ``build``.
            seed: makes the fit repeatable.
            time_left: seconds left, asked between steps; at 0 the fit ends with what it has.
        """


class CrossFit(Protocol):
    """As ``Fit``, and predicts each picture by what was learned without its fold."""

    def __call__(
        self,
        module: nn.Module,
        chunks: Iterable[torch.Tensor],
        targets: torch.Tensor,
        folds: torch.Tensor,
        *,
        head: Head,
        architecture: Architecture,
        seed: int,
        time_left: Callable[[], float],
    ) -> torch.Tensor:
        """Fit ``module`` in place on all pictures, and return raw outputs (N, outputs), each from fits without its fold.

        Args:
            folds: the fold of each picture, shape (N,).

        Raises:
            TimeoutError: the time was up before all pictures were looked at.
        """


@dataclass(frozen=True)
class Family:
    """A kind of model.

    ``build(spec, outputs, architecture)`` makes a module that maps normalised floats (N, C, H, W) to raw outputs
    (N, outputs), which the head turns into predictions. Families with ``fit`` are fitted without gradients.
    """

    name: str
    what: str
    build: Callable[[PictureSpec, int, Architecture], nn.Module]
    space: Mapping[str, Dimension] = field(default_factory=dict)
    learning_rate: Between = field(default_factory=lambda: Between(1e-4, 1e-1, 1e-2, log=True))
    fit: Fit | None = None
    # For families that spend their time on what is the same in every fold: one model, whatever the number of folds.
    cross_fit: CrossFit | None = None
    searched: bool = True
    heads: tuple[str, ...] = ()  # names of those that suit it; empty: all
    augmented: bool = True  # whether its training pictures are turned and shifted
    begin: Callable[[nn.Module, Architecture], None] | None = None  # what a fresh module is given before it is trained
    # Groups of weights with the share of the learning rate that each gets; None: all get the whole of it.
    layer_rates: Callable[[nn.Module], list[tuple[list[nn.Parameter], float]]] | None = None
    pretrained: bool = False  # whether it needs a backbone that was trained before
    loads: tuple[str, ...] = ()  # modules that take long to load, and only this needs

    def starting_architecture(self) -> dict[str, Json]:
        """The known-good architecture."""
        return {name: dimension.start for name, dimension in self.space.items()}
