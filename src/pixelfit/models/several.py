"""Heads for several numbers or several labels a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from torch.nn import functional as F

from pixelfit.types import Array

if TYPE_CHECKING:
    from pixelfit.models.heads import HistogramHead

# What raw outputs are: values in the head's unit, logarithms of shares that sum to 1, or logarithms of odds.
Outputs: TypeAlias = Literal["values", "shares", "odds"]


@dataclass(frozen=True)
class SquaredHeads:
    """One output a target, each standardised; trained with the mean of their squared errors."""

    means: tuple[float, ...]
    stds: tuple[float, ...]
    name: str = "several_squared"
    gives: ClassVar[Outputs] = "values"

    @property
    def outputs(self) -> int:
        """Raw outputs a picture."""
        return len(self.means)

    def encode(self, targets: Array) -> torch.Tensor:
        """Targets as the loss takes them, shape (N, targets)."""
        return _standardised(targets, self.means, self.stds)

    def loss(self, outputs: torch.Tensor, encoded: torch.Tensor, smoothing: float) -> torch.Tensor:
        """Mean loss over a batch; ``smoothing`` is for heads over classes."""
        return F.mse_loss(outputs, encoded)

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """Predicted values, shape (N, targets)."""
        return _in_their_units(outputs, self.means, self.stds)

    def spread(self, outputs: torch.Tensor) -> torch.Tensor:
        """Standard deviations of the predicted distributions, shape (N, targets): 0, since there are none."""
        return torch.zeros_like(outputs, dtype=torch.float64)

    def prior(self, encoded: torch.Tensor) -> torch.Tensor:
        """The raw outputs of a model that never looks at the picture, shape (outputs,)."""
        return encoded.mean(dim=0)


@dataclass(frozen=True)
class HuberHeads:
    """One output a target, each standardised; trained with the mean of their Huber losses (Huber 1964).

    Errors up to ``delta`` standard deviations of their target count squared, larger ones linearly.
    """

    means: tuple[float, ...]
    stds: tuple[float, ...]
    delta: float
    name: str = "several_huber"
    gives: ClassVar[Outputs] = "values"

    @property
    def outputs(self) -> int:
        """Raw outputs a picture."""
        return len(self.means)

    def encode(self, targets: Array) -> torch.Tensor:
        """Targets as the loss takes them, shape (N, targets)."""
        return _standardised(targets, self.means, self.stds)

    def loss(self, outputs: torch.Tensor, encoded: torch.Tensor, smoothing: float) -> torch.Tensor:
        """Mean loss over a batch; ``smoothing`` is for heads over classes."""
        return F.huber_loss(outputs, encoded, delta=self.delta)

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """Predicted values, shape (N, targets)."""
        return _in_their_units(outputs, self.means, self.stds)

    def spread(self, outputs: torch.Tensor) -> torch.Tensor:
        """Standard deviations of the predicted distributions, shape (N, targets): 0, since there are none."""
        return torch.zeros_like(outputs, dtype=torch.float64)

    def prior(self, encoded: torch.Tensor) -> torch.Tensor:
        """The raw outputs of a model that never looks at the picture, shape (outputs,): the median of each target."""
        return torch.from_numpy(np.median(encoded.numpy(), axis=0))


@dataclass(frozen=True)
class HistogramHeads:
    """A histogram head a target, its bins beside those of the others; trained with the mean of their losses."""

    parts: tuple[HistogramHead, ...]
    name: str = "several_histograms"
    gives: ClassVar[Outputs] = "shares"

    @property
    def outputs(self) -> int:
        """Raw outputs a picture."""
        return sum(part.outputs for part in self.parts)

    def encode(self, targets: Array) -> torch.Tensor:
        """Targets as the loss takes them, shape (N, targets)."""
        return torch.stack([part.encode(column) for part, column in zip(self.parts, targets.T, strict=True)], dim=1)

    def loss(self, outputs: torch.Tensor, encoded: torch.Tensor, smoothing: float) -> torch.Tensor:
        """Mean cross-entropy over a batch and the targets; ``smoothing`` is ignored, since the targets are smooth already."""
        pieces = zip(self.parts, self._pieces(outputs), encoded.unbind(dim=1), strict=True)
        return torch.stack([part.loss(piece, column, smoothing) for part, piece, column in pieces]).mean()

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """Predicted values, shape (N, targets)."""
        pieces = zip(self.parts, self._pieces(outputs), strict=True)
        return torch.stack([part.predict(piece) for part, piece in pieces], dim=1)

    def spread(self, outputs: torch.Tensor) -> torch.Tensor:
        """Standard deviations of the predicted distributions, in each target's unit, shape (N, targets)."""
        pieces = zip(self.parts, self._pieces(outputs), strict=True)
        return torch.stack([part.spread(piece) for part, piece in pieces], dim=1)

    def prior(self, encoded: torch.Tensor) -> torch.Tensor:
        """The raw outputs of a model that never looks at the picture, shape (outputs,)."""
        return torch.cat([part.prior(column) for part, column in zip(self.parts, encoded.unbind(dim=1), strict=True)])

    def _pieces(self, outputs: torch.Tensor) -> Sequence[torch.Tensor]:
        return torch.split(outputs, [part.outputs for part in self.parts], dim=1)


@dataclass(frozen=True)
class LabelsHead:
    """One output a label: the logarithm of its odds. The prediction is the labels' probabilities, each for itself.

    Trained with binary cross-entropy. There is no label smoothing: it would draw the probabilities of rare labels to one half,
    and a temperature cannot take that back for rare and frequent ones at once.
    """

    labels: int
    name: str = "labels"
    gives: ClassVar[Outputs] = "odds"

    @property
    def outputs(self) -> int:
        """Raw outputs a picture."""
        return self.labels

    def encode(self, targets: Array) -> torch.Tensor:
        """Targets as the loss takes them, shape (N, labels): 1 where the picture has the label."""
        return torch.from_numpy(targets.astype(np.float32))

    def loss(self, outputs: torch.Tensor, encoded: torch.Tensor, smoothing: float) -> torch.Tensor:
        """Mean binary cross-entropy over a batch and the labels; ``smoothing`` is ignored."""
        return F.binary_cross_entropy_with_logits(outputs, encoded)

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """Probabilities of the labels, shape (N, labels)."""
        return outputs.double().sigmoid()

    def spread(self, outputs: torch.Tensor) -> torch.Tensor:
        """Zeros, shape (N,): labels have no unit in which they could spread."""
        return outputs.new_zeros(outputs.shape[0], dtype=torch.float64)

    def prior(self, encoded: torch.Tensor) -> torch.Tensor:
        """The raw outputs of a model that never looks at the picture, shape (outputs,)."""
        # Half a picture more with the label and without it keeps the odds finite.
        return ((encoded.sum(dim=0) + 0.5) / (len(encoded) + 1)).logit()


def _standardised(targets: Array, means: Sequence[float], stds: Sequence[float]) -> torch.Tensor:
    return torch.from_numpy(((targets - np.array(means)) / np.array(stds)).astype(np.float32))


def _in_their_units(outputs: torch.Tensor, means: Sequence[float], stds: Sequence[float]) -> torch.Tensor:
    return outputs.double() * outputs.new_tensor(stds, dtype=torch.float64) + outputs.new_tensor(means, dtype=torch.float64)
