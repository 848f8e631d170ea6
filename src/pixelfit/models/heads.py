"""Heads: what a model's raw outputs mean, the loss they are trained with, and the prediction they give."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch.nn import functional as F

from pixelfit.errors import DataError
from pixelfit.types import Array, Json, Task

# A discrete head is offered up to this many values, each seen at least this often on average.
_MOST_VALUES = 64
_SEEN_EACH = 5


@dataclass(frozen=True)
class SquaredHead:
    """One output: the target, standardised; trained with squared error."""

    mean: float
    std: float
    name: str = "squared"

    @property
    def outputs(self) -> int:
        """Raw outputs a picture."""
        return 1

    def encode(self, targets: Array) -> torch.Tensor:
        """Targets as the loss takes them, shape (N,)."""
        return torch.from_numpy(((targets - self.mean) / self.std).astype(np.float32))

    def loss(self, outputs: torch.Tensor, encoded: torch.Tensor, smoothing: float) -> torch.Tensor:
        """Mean loss over a batch; ``smoothing`` is for heads over classes."""
        return F.mse_loss(outputs[:, 0], encoded)

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """Predicted values, shape (N,)."""
        return outputs[:, 0].double() * self.std + self.mean

    def prior(self, encoded: torch.Tensor) -> torch.Tensor:
        """The raw outputs of a model that never looks at the picture, shape (outputs,)."""
        return encoded.mean().reshape(1)


@dataclass(frozen=True)
class DiscreteHead:
    """One output for each value that the target takes; the prediction is the mean of the predicted distribution.

    Trained with cross-entropy. For targets with few values this beats squared error, since the loss does not chase
    the scale of the errors (regression as classification; Farebrother et al. 2024, arXiv:2403.03950).
    """

    values: tuple[float, ...]
    name: str = "discrete"

    @property
    def outputs(self) -> int:
        """Raw outputs a picture."""
        return len(self.values)

    def encode(self, targets: Array) -> torch.Tensor:
        """Targets as the loss takes them: the position of the nearest value, shape (N,)."""
        values = np.array(self.values)
        right = np.clip(np.searchsorted(values, targets), 1, len(values) - 1)
        nearer_left = targets - values[right - 1] < values[right] - targets
        return torch.from_numpy((right - nearer_left).astype(np.int64))

    def loss(self, outputs: torch.Tensor, encoded: torch.Tensor, smoothing: float) -> torch.Tensor:
        """Mean cross-entropy over a batch, with label smoothing."""
        return F.cross_entropy(outputs, encoded, label_smoothing=smoothing)

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """Predicted values, shape (N,)."""
        values = torch.tensor(self.values, dtype=torch.float64, device=outputs.device)
        return outputs.double().softmax(dim=1) @ values

    def prior(self, encoded: torch.Tensor) -> torch.Tensor:
        """The raw outputs of a model that never looks at the picture, shape (outputs,)."""
        return _log_frequencies(encoded, self.outputs)


@dataclass(frozen=True)
class ClassHead:
    """One output a class; the prediction is the classes' probabilities."""

    classes: int
    name: str = "classes"

    @property
    def outputs(self) -> int:
        """Raw outputs a picture."""
        return self.classes

    def encode(self, targets: Array) -> torch.Tensor:
        """Targets as the loss takes them, shape (N,)."""
        return torch.from_numpy(targets.astype(np.int64))

    def loss(self, outputs: torch.Tensor, encoded: torch.Tensor, smoothing: float) -> torch.Tensor:
        """Mean cross-entropy over a batch, with label smoothing."""
        return F.cross_entropy(outputs, encoded, label_smoothing=smoothing)

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """Class probabilities, shape (N, classes)."""
        return outputs.double().softmax(dim=1)

    def prior(self, encoded: torch.Tensor) -> torch.Tensor:
        """The raw outputs of a model that never looks at the picture, shape (outputs,)."""
        return _log_frequencies(encoded, self.outputs)


Head: TypeAlias = SquaredHead | DiscreteHead | ClassHead
_KINDS: dict[str, type[SquaredHead] | type[DiscreteHead] | type[ClassHead]] = {
    "squared": SquaredHead,
    "discrete": DiscreteHead,
    "classes": ClassHead,
}


def fitting_heads(task: Task, train_targets: Array, classes: int) -> tuple[str, ...]:
    """Names of the heads that suit the data, the known-good one first."""
    if task == "classification":
        return ("classes",)
    values = len(np.unique(train_targets))
    if 2 <= values <= _MOST_VALUES and len(train_targets) >= _SEEN_EACH * values:
        return ("discrete", "squared")
    return ("squared",)


def make_head(name: str, train_targets: Array, classes: int) -> Head:
    """The head of that name, with what it has to know of the training targets."""
    if name == "classes":
        return ClassHead(classes)
    if name == "discrete":
        return DiscreteHead(tuple(float(value) for value in np.unique(train_targets)))
    return SquaredHead(float(train_targets.mean()), float(train_targets.std()) or 1.0)


def head_to_json(head: Head) -> Json:
    """A head as JSON."""
    return asdict(head)


def head_from_json(value: Json) -> Head:
    """A head from its JSON; raises DataError for an unknown kind."""
    if value.get("name") not in _KINDS:
        raise DataError(f"This model has a head of the unknown kind {value.get('name')!r}.")
    if value["name"] == "discrete":
        value = {**value, "values": tuple(value["values"])}
    return _KINDS[value["name"]](**value)


def _log_frequencies(encoded: torch.Tensor, outputs: int) -> torch.Tensor:
    counts = torch.bincount(encoded, minlength=outputs).float()
    # Half a count keeps a class that was never drawn at a probability above zero.
    return ((counts + 0.5) / (counts + 0.5).sum()).log()
