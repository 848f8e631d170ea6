"""The whole predictor as one module: pictures of any size and number in, what ``predict`` and its intervals give out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import metadata

import torch
from torch import nn

from pixelfit.conformal import Intervals, Sets, SeveralIntervals, quantile
from pixelfit.data.pictures import UP_FROM_HALF
from pixelfit.models.familiarity import statistics_of
from pixelfit.models.parts import parts_of
from pixelfit.models.views import views
from pixelfit.predictor import COVERAGE, Member, Predictor
from pixelfit.types import Json, Kind

FORMAT = 1
_LEAST_PROBABILITY = 1e-15
Outputs = tuple[torch.Tensor, ...]


class Assembled(nn.Module):
    """Resizing, normalising, the ensemble, the inverse target transform and the intervals of a predictor in one module.

    ``forward`` takes stored pictures (N, H, W, C) of any height and width, uint8 or, for pictures of other numbers, float32. It
    returns ``output_names``: for numbers ``prediction``, ``spread`` and, of a calibrated predictor, ``low`` and ``high``, each
    (N,) or (N, targets); for labels ``probabilities`` (N, classes). Of a predictor that remembers training pictures these follow:
    ``strangeness`` (N,), above 1 for pictures unlike them, and ``nearest`` (N, n), the places of the nearest of them.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor
        self.modules_of_members = nn.ModuleList(member.model.module for member in predictor.members)
        self.eval()

    @property
    def output_names(self) -> tuple[str, ...]:
        """What ``forward`` returns, in order."""
        known = () if self.predictor.familiarity is None else ("strangeness", "nearest")
        if self.predictor.kind in ("label", "labels"):
            return ("probabilities", *known)
        return ("prediction", "spread", *(("low", "high") if self.predictor.allows(COVERAGE) else ()), *known)

    def forward(self, pictures: torch.Tensor) -> Outputs:
        """(N, H, W, C) to what ``output_names`` lists."""
        fitted = self._resized(pictures)
        predicted = self._predicted(fitted)
        familiarity = self.predictor.familiarity
        if familiarity is None:
            return predicted
        model = self.predictor.members[0].model
        prepared = model.preparation(fitted)
        # The net's own pass over these pictures, a second time: whatever runs the graph sees that it is the same.
        distances, nearest = familiarity.distances(parts_of(model.module)[0](prepared), statistics_of(prepared))
        return (*predicted, distances.amax(dim=1).float(), nearest)

    def _predicted(self, fitted: torch.Tensor) -> Outputs:
        parts = [(member.weight, *self._forecast(member, fitted)) for member in self.predictor.members]
        raw = torch.stack([weight * values for weight, values, _ in parts]).sum(dim=0)
        if self.predictor.kind in _SHARPENED:
            return (_SHARPENED[self.predictor.kind](raw, self.predictor.temperature).float(),)
        variance = torch.stack([weight * (spread**2 + (values - raw) ** 2) for weight, values, spread in parts]).sum(dim=0)
        spread = variance.sqrt()
        outputs: Outputs = (raw, spread)
        if self.predictor.allows(COVERAGE):
            half = self._half_width(raw, spread)
            outputs = (*outputs, raw - half, raw + half)
        return tuple(each.float() for each in outputs)

    def _forecast(self, member: Member, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        model = member.model
        seen = [model.module(view).float() for view in views(model.preparation(pictures), model.views)]
        outputs = (torch.stack(seen).mean(dim=0) if len(seen) > 1 else seen[0]) / model.temperature
        return model.head.predict(outputs), model.head.spread(outputs)

    def _half_width(self, raw: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
        conformal = self.predictor.conformal
        assert isinstance(conformal, (Intervals, SeveralIntervals))
        each = conformal.each if isinstance(conformal, SeveralIntervals) else (conformal,)
        factor = spread.new_tensor([quantile(one.scores, COVERAGE) for one in each])
        floor = spread.new_tensor([one.floor for one in each])
        scaled = torch.tensor([one.scaled for one in each])
        own = spread[..., None] if len(each) == 1 else spread
        half = factor * torch.where(scaled, (own**2 + floor**2).sqrt(), floor)  # ONNX has no hypot
        return half.reshape(raw.shape)

    def _resized(self, pictures: torch.Tensor) -> torch.Tensor:
        """As ``data.pictures.resize`` does it, in the same double precision, so that the same pixels come out."""
        spec = self.predictor.spec
        down = _resizing(spec.height, pictures.shape[1])
        across = _resizing(spec.width, pictures.shape[2])
        resized = down @ pictures.permute(0, 3, 1, 2).double() @ across.T
        if pictures.dtype == torch.uint8:
            resized = (resized + UP_FROM_HALF).floor().clamp(0, 255)
        return resized.permute(0, 2, 3, 1).float()


def description(predictor: Predictor, name: str) -> Json:
    """What a file has to say of the model in it beside its numbers; ``name`` is that of its run."""
    spec = predictor.spec
    return {
        "format": FORMAT,
        "pixelfit": metadata.version("pixelfit"),
        "run": name,
        "version": predictor.version,
        "kind": predictor.kind,
        "task": predictor.task,
        "target_name": predictor.target_name,
        "target_names": list(predictor.target_names),
        "classes": None if predictor.classes is None else list(predictor.classes),
        "pictures": {"height": spec.height, "width": spec.width, "channels": spec.channels, "scale": spec.scale},
        "coverage": COVERAGE if predictor.allows(COVERAGE) else None,
        "set_threshold": _set_threshold(predictor),
    }


def input_dtype(predictor: Predictor) -> torch.dtype:
    """Of the pictures that ``Assembled`` takes."""
    return torch.uint8 if predictor.spec.scale in ("byte", "unit") else torch.float32


def _set_threshold(predictor: Predictor) -> float | None:
    """The least probability of the classes in a set of the usual coverage."""
    if not isinstance(predictor.conformal, Sets) or not predictor.allows(COVERAGE):
        return None
    return 1 - quantile(predictor.conformal.scores, COVERAGE)


def _resizing(wanted: int, given: int) -> torch.Tensor:
    """The same weights as ``data.pictures.resizing``, for a side that is known only when the graph runs."""
    old, new = torch.arange(given, dtype=torch.float64), torch.arange(wanted, dtype=torch.float64)
    scale = (old[-1] + 1) / wanted  # not from the size, which a graph divides in single precision
    away = (old + 0.5 - ((new + 0.5) * scale)[:, None]).abs()
    weights = (1 - away / scale.clamp_min(1)).clamp_min(0)
    return weights / weights.sum(dim=1, keepdim=True)


def _sharpened(shares: torch.Tensor, temperature: float) -> torch.Tensor:
    return (shares.clamp_min(_LEAST_PROBABILITY).log() / temperature).softmax(dim=1) if temperature != 1.0 else shares


def _sharpened_odds(shares: torch.Tensor, temperature: float) -> torch.Tensor:
    if temperature == 1.0:
        return shares
    inside = shares.clamp(_LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    return 1 / (1 + ((1 - inside) / inside) ** (1 / temperature))


_SHARPENED: Mapping[Kind, Callable[[torch.Tensor, float], torch.Tensor]] = {"label": _sharpened, "labels": _sharpened_odds}
