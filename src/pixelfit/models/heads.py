"""Heads: what a model's raw outputs mean, the loss they are trained with, and the prediction they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import torch
from torch.nn import functional as F

from pixelfit.errors import DataError
from pixelfit.models.checked import checked
from pixelfit.models.several import HistogramHeads, HuberHeads, LabelsHead, Outputs, SquaredHeads
from pixelfit.types import Array, Json, Metric, Task

Center: TypeAlias = Literal["mean", "median"]
# Heads whose loss takes label smoothing. A histogram's targets are smooth already.
SMOOTHED = frozenset({"discrete", "classes"})
_TEMPERED = SMOOTHED | {"labels"}  # heads whose outputs a temperature divides
TEMPERATURES = np.geomspace(0.25, 4.0, 41)
# A discrete head is offered up to this many values, each seen at least this often on average.
_MOST_VALUES = 64
_SEEN_EACH = 5
_FEWEST_BINS, _MOST_BINS = 20, 100
_PICTURES_A_BIN = 40  # for the angles of turned digits, 1,360 to train on, 30 bins had RMSE 0.48 and 100 bins 0.57 (one run)
_BINS_BEYOND = 3  # on each side of the training targets: four standard deviations of a smoothed target
_HEAVY = 1.5  # skewness; that of an exponential distribution is 2
_LEAST_POSITIVE = 1e-300  # what is no positive number has no logarithm, and counts as the smallest
_SIGMA = 0.75  # of a smoothed target, in bin widths (Farebrother et al. 2024)
# Errors beyond this many standard deviations of the target count linearly. Good models' errors are a small share of
# one deviation; for the mean absolute error nearly all should count linearly.
_MEDIAN = frozenset({"mae", "nmae"})  # metrics for which a distribution's median is the best prediction
_DELTA: dict[Center, float] = {"mean": 0.5, "median": 0.1}


@dataclass(frozen=True)
class SquaredHead:
    """One output: the target, standardised; trained with squared error."""

    mean: float
    std: float
    name: str = "squared"
    gives: ClassVar[Outputs] = "values"

    @property
    def outputs(self) -> int:
        """Raw outputs a picture."""
        return 1

    def encode(self, targets: Array) -> torch.Tensor:
        """Targets as the loss takes them, shape (N,)."""
        return _standardised(targets, self.mean, self.std)

    def loss(self, outputs: torch.Tensor, encoded: torch.Tensor, smoothing: float) -> torch.Tensor:
        """Mean loss over a batch; ``smoothing`` is for heads over classes."""
        return F.mse_loss(outputs[:, 0], encoded)

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """Predicted values, shape (N,)."""
        return outputs[:, 0].double() * self.std + self.mean

    def spread(self, outputs: torch.Tensor) -> torch.Tensor:
        """Standard deviation of the predicted distribution, shape (N,): 0, since there is none."""
        return outputs.new_zeros(outputs.shape[0], dtype=torch.float64)

    def prior(self, encoded: torch.Tensor) -> torch.Tensor:
        """The raw outputs of a model that never looks at the picture, shape (outputs,)."""
        return encoded.mean().reshape(1)


@dataclass(frozen=True)
class HuberHead:
    """One output: the target, standardised; trained with the Huber loss, on which outliers pull less (Huber 1964).

    Errors up to ``delta`` standard deviations of the target count squared, larger ones linearly.
    """

    mean: float
    std: float
    delta: float
    name: str = "huber"
    gives: ClassVar[Outputs] = "values"

    @property
    def outputs(self) -> int:
        """Raw outputs a picture."""
        return 1

    def encode(self, targets: Array) -> torch.Tensor:
        """Targets as the loss takes them, shape (N,)."""
        return _standardised(targets, self.mean, self.std)

    def loss(self, outputs: torch.Tensor, encoded: torch.Tensor, smoothing: float) -> torch.Tensor:
        """Mean loss over a batch; ``smoothing`` is for heads over classes."""
        return F.huber_loss(outputs[:, 0], encoded, delta=self.delta)

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """Predicted values, shape (N,)."""
        return outputs[:, 0].double() * self.std + self.mean

    def spread(self, outputs: torch.Tensor) -> torch.Tensor:
        """Standard deviation of the predicted distribution, shape (N,): 0, since there is none."""
        return outputs.new_zeros(outputs.shape[0], dtype=torch.float64)

    def prior(self, encoded: torch.Tensor) -> torch.Tensor:
        """The raw outputs of a model that never looks at the picture, shape (outputs,): the median target."""
        return torch.from_numpy(np.median(encoded.numpy(), keepdims=True))


@dataclass(frozen=True)
class DiscreteHead:
    """One output for each value that the target takes; the prediction is the mean or median of the predicted distribution.

    Trained with cross-entropy. For targets with few values this beats squared error, since the loss does not chase
    the scale of the errors (regression as classification; Farebrother et al. 2024, arXiv:2403.03950).
    """

    values: tuple[float, ...]
    center: Center = "mean"
    name: str = "discrete"
    gives: ClassVar[Outputs] = "shares"

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
        shares = outputs.double().softmax(dim=1)
        if self.center == "median":  # the first value at which half of the probability is reached
            return self._values(outputs.device)[(shares.cumsum(dim=1) < 0.5).sum(dim=1)]
        return shares @ self._values(outputs.device)

    def spread(self, outputs: torch.Tensor) -> torch.Tensor:
        """Standard deviation of the predicted distribution, in the target's unit, shape (N,)."""
        return _deviation(outputs.double().softmax(dim=1), self._values(outputs.device))

    def prior(self, encoded: torch.Tensor) -> torch.Tensor:
        """The raw outputs of a model that never looks at the picture, shape (outputs,)."""
        return _log_frequencies(encoded, self.outputs)

    def _values(self, device: torch.device) -> torch.Tensor:
        return torch.tensor(self.values, dtype=torch.float64, device=device)


@dataclass(frozen=True)
class HistogramHead:
    """One output a bin of the target's range; the prediction is the mean or median of the predicted distribution.

    Trained with cross-entropy against a normal distribution around the target, cut into the same bins (HL-Gaussian of
    Imani & White 2018, "Improving Regression Performance with Distributional Losses"; Farebrother et al. 2024,
    arXiv:2403.03950). The bins reach from ``low`` to ``high`` in standardised units; probability is even within a bin.

    With ``log`` the bins divide the target's logarithm. For heavy tails, such as prices, that gives the many small values as
    fine a scale as the few large ones need; the mean is still that of the target and not of its logarithm.
    """

    mean: float
    std: float
    low: float
    high: float
    bins: int
    center: Center = "mean"
    log: bool = False
    name: str = "histogram"
    gives: ClassVar[Outputs] = "shares"

    @property
    def outputs(self) -> int:
        """Raw outputs a picture."""
        return self.bins

    def encode(self, targets: Array) -> torch.Tensor:
        """Targets as the loss takes them: standardised, of their logarithms if ``log``, shape (N,)."""
        return _standardised(np.log(np.maximum(targets, _LEAST_POSITIVE)) if self.log else targets, self.mean, self.std)

    def smoothed(self, encoded: torch.Tensor) -> torch.Tensor:
        """Each target's share of every bin, shape (N, bins); a target outside the bins counts as at their end."""
        edges = torch.linspace(self.low, self.high, self.bins + 1, device=encoded.device)
        deviation = _SIGMA * (self.high - self.low) / self.bins
        below = torch.special.ndtr((edges - encoded.clamp(self.low, self.high)[:, None]) / deviation)
        # What lies beyond the bins is shared out, so that each row sums to 1.
        shares: torch.Tensor = below.diff(dim=1) / (below[:, -1:] - below[:, :1])
        return shares

    def loss(self, outputs: torch.Tensor, encoded: torch.Tensor, smoothing: float) -> torch.Tensor:
        """Mean cross-entropy over a batch; ``smoothing`` is ignored, since the targets are smooth already."""
        return F.cross_entropy(outputs, self.smoothed(encoded))

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """Predicted values, shape (N,)."""
        shares = outputs.double().softmax(dim=1)
        if self.center == "mean":
            return shares @ self._means(outputs.device)
        median = self._median(shares) * self.std + self.mean
        return median.exp() if self.log else median

    def spread(self, outputs: torch.Tensor) -> torch.Tensor:
        """Standard deviation of the predicted distribution, in the target's unit, shape (N,)."""
        shares, means = outputs.double().softmax(dim=1), self._means(outputs.device)
        return (_deviation(shares, means).square() + shares @ self._variances(outputs.device)).sqrt()

    def prior(self, encoded: torch.Tensor) -> torch.Tensor:
        """The raw outputs of a model that never looks at the picture, shape (outputs,)."""
        return self.smoothed(encoded).mean(dim=0).clamp_min(1e-9).log()

    def _edges(self, device: torch.device) -> torch.Tensor:
        """The bins' ends in the unit that they divide evenly: the target's, or its logarithm's."""
        return torch.linspace(self.low, self.high, self.bins + 1, dtype=torch.float64, device=device) * self.std + self.mean

    def _means(self, device: torch.device) -> torch.Tensor:
        """The target's mean within each bin, in its unit."""
        edges = self._edges(device)
        return edges.exp().diff() / edges.diff() if self.log else (edges[1:] + edges[:-1]) / 2

    def _variances(self, device: torch.device) -> torch.Tensor:
        """The target's variance within each bin, in its unit squared."""
        edges = self._edges(device)
        if not self.log:
            return edges.diff().square() / 12
        return ((2 * edges).exp().diff() / (2 * edges.diff()) - self._means(device).square()).clamp_min(0)

    def _median(self, shares: torch.Tensor) -> torch.Tensor:
        """Where half of the probability is reached, between the ends of a bin by linear interpolation."""
        reached = shares.cumsum(dim=1)
        place = (reached < 0.5).sum(dim=1, keepdim=True)
        share = shares.gather(1, place)
        inside = (0.5 - (reached.gather(1, place) - share)) / share
        return (self.low + (place + inside) * (self.high - self.low) / self.bins)[:, 0]


@dataclass(frozen=True)
class ClassHead:
    """One output a class; the prediction is the classes' probabilities."""

    classes: int
    name: str = "classes"
    gives: ClassVar[Outputs] = "shares"

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

    def spread(self, outputs: torch.Tensor) -> torch.Tensor:
        """Zeros, shape (N,): classes have no unit in which they could spread."""
        return outputs.new_zeros(outputs.shape[0], dtype=torch.float64)

    def prior(self, encoded: torch.Tensor) -> torch.Tensor:
        """The raw outputs of a model that never looks at the picture, shape (outputs,)."""
        return _log_frequencies(encoded, self.outputs)


Head: TypeAlias = (
    SquaredHead | HuberHead | DiscreteHead | HistogramHead | ClassHead | SquaredHeads | HuberHeads | HistogramHeads | LabelsHead
)
_KINDS: Mapping[str, type[Head]] = {
    "squared": SquaredHead,
    "huber": HuberHead,
    "discrete": DiscreteHead,
    "histogram": HistogramHead,
    "log_histogram": HistogramHead,
    "classes": ClassHead,
    "several_squared": SquaredHeads,
    "several_huber": HuberHeads,
    "several_histograms": HistogramHeads,
    "labels": LabelsHead,
}
_OF_LABELS: Mapping[Task, str] = {"classification": "classes", "multilabel": "labels"}
_MOST_HISTOGRAMS = 8  # targets: beyond that, bins outnumber what a net of the usual width has to say


def fitting_heads(task: Task, train_targets: Array, classes: int, metric: Metric) -> tuple[str, ...]:
    """Names of the heads that suit the data and the user's metric, the known-good one first.

    Histograms pay off on some data and not on others, so the search tries them: a convolutional net of 137 steps had
    RMSE 0.98 and 1.01 standard deviations on 535 photographs of houses (36 bins, 2 seeds; with squared error 1.03 and
    1.07), one of 300 steps 0.48 for the angles of 2,500 turned digits (30 bins, one run; 0.47).
    """
    if task in _OF_LABELS:
        return (_OF_LABELS[task],)
    heads: tuple[str, ...] = ("huber", "histogram", "squared") if metric in _MEDIAN else ("squared", "histogram", "huber")
    if train_targets.ndim > 1:
        return heads if train_targets.shape[1] <= _MOST_HISTOGRAMS else tuple(name for name in heads if name != "histogram")
    if heavy_tailed(train_targets):
        heads = ("log_histogram", *heads)
    values = len(np.unique(train_targets))
    if 2 <= values <= _MOST_VALUES and len(train_targets) >= _SEEN_EACH * values:
        return ("discrete", *heads)
    return heads


def heavy_tailed(targets: Array) -> bool:
    """Whether the targets are positive, with a long tail of large ones that their logarithms have not."""
    return bool(targets.min() > 0) and _skewness(targets) > _HEAVY > 2 * abs(_skewness(np.log(targets)))


def _skewness(values: Array) -> float:
    return float(((values - values.mean()) ** 3).mean() / max(float(values.std()), 1e-300) ** 3)


def make_head(name: str, train_targets: Array, classes: int, metric: Metric) -> Head:
    """The head of that name, with what it has to know of the training targets.

    Distributions give their mean as prediction, which the squared error is smallest for, or for the mean absolute error
    their median.
    """
    center: Center = "median" if metric in _MEDIAN else "mean"
    if name == "classes":
        return ClassHead(classes)
    if name == "labels":
        return LabelsHead(classes)
    if train_targets.ndim > 1:
        return _several(name, train_targets, center)
    mean, std = float(train_targets.mean()), float(train_targets.std()) or 1.0
    if name == "discrete":
        return DiscreteHead(tuple(float(value) for value in np.unique(train_targets)), center)
    if name == "huber":
        return HuberHead(mean, std, _DELTA[center])
    if name in ("histogram", "log_histogram"):
        return _histogram(train_targets, center, log=name == "log_histogram")
    return SquaredHead(mean, std)


def _several(name: str, train_targets: Array, center: Center) -> Head:
    """The head of that name for several numbers a picture (N, targets)."""
    if name == "histogram":
        return HistogramHeads(tuple(_histogram(each, center, log=heavy_tailed(each)) for each in train_targets.T))
    means = tuple(float(mean) for mean in train_targets.mean(axis=0))
    stds = tuple(float(std) or 1.0 for std in train_targets.std(axis=0))
    return HuberHeads(means, stds, _DELTA[center]) if name == "huber" else SquaredHeads(means, stds)


def _histogram(train_targets: Array, center: Center, *, log: bool) -> HistogramHead:
    if log:
        train_targets = np.log(train_targets)
    mean, std = float(train_targets.mean()), float(train_targets.std()) or 1.0
    bins = int(np.clip(len(train_targets) // _PICTURES_A_BIN, _FEWEST_BINS, _MOST_BINS))
    low, high = (float(train_targets.min()) - mean) / std, (float(train_targets.max()) - mean) / std
    beyond = ((high - low) or 1.0) / (bins - 2 * _BINS_BEYOND) * _BINS_BEYOND
    return HistogramHead(mean, std, low - beyond, high + beyond, bins, center, log, "log_histogram" if log else "histogram")


def head_to_json(head: Head) -> Json:
    """A head as JSON."""
    return asdict(head)


def head_from_json(value: Json) -> Head:
    """A head from its JSON; raises DataError for an unknown kind, and ValueError for what is none of that kind."""
    if value.get("name") not in _KINDS:
        raise DataError(f"This model has a head of the unknown kind {value.get('name')!r}.")
    kind = _KINDS[value["name"]]
    if kind is HistogramHeads:
        return HistogramHeads(tuple(checked(HistogramHead, part) for part in value["parts"]))
    return checked(kind, value)


def _log_frequencies(encoded: torch.Tensor, outputs: int) -> torch.Tensor:
    counts = torch.bincount(encoded, minlength=outputs).float()
    # Half a count keeps a class that was never drawn at a probability above zero.
    return ((counts + 0.5) / (counts + 0.5).sum()).log()


def _standardised(targets: Array, mean: float, std: float) -> torch.Tensor:
    return torch.from_numpy(((targets - mean) / std).astype(np.float32))


def _deviation(shares: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Standard deviations (N,) of distributions (N, K) over K values."""
    away = values - (shares @ values)[:, None]
    return (shares * away.square()).sum(dim=1).sqrt()


def temperature_for(parts: Sequence[tuple[Head, torch.Tensor, Array]]) -> float:
    """The one temperature under which the targets are most likely (Guo et al. 2017).

    Each part is the head of a model, its raw outputs (N, head.outputs) for held-out pictures, and their targets.
    1 for a head over values, which predicts no distribution, and for a histogram: spreading its probability over
    all bins draws the mean to the middle of the range. For the angles by which 2,500 digits were turned, the likeliest
    temperature, 2.1, took RMSE on others from 0.57 to 0.62 standard deviations (one run).

    Of several labels, too, the targets are taken as they are. Platt's cautious ones (1999) made labels that 72 validation
    pictures tell apart less sure than they are: log loss on 4,000 others 0.047, 0.092 and 0.092, instead of 0.015, 0.056 and
    0.059 (synthetic strokes and squares, three seeds).
    """
    if parts[0][0].name not in _TEMPERED:
        return 1.0
    losses = np.zeros(len(TEMPERATURES))
    for head, outputs, targets in parts:
        encoded = head.encode(targets)
        each = [float(head.loss(outputs / temperature, encoded, 0.0)) for temperature in TEMPERATURES]
        losses += len(targets) * np.array(each)
    return float(TEMPERATURES[int(np.argmin(losses))])
