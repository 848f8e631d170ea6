"""A trained model: a module with its head and the way its pictures are prepared, saved without any code in the file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from pixelfit.errors import DataError, RunError
from pixelfit.files import inside, read_json, write_json, written_beside
from pixelfit.models import FAMILIES
from pixelfit.models.checked import checked
from pixelfit.models.heads import Head, head_from_json, head_to_json
from pixelfit.models.parts import parts_of
from pixelfit.models.stored import check_architecture, check_form, read_weights
from pixelfit.models.views import VIEWS, views
from pixelfit.types import Array, Examples, Forecast, Json, PictureSpec

FORMAT = 1
_BATCH = 512
_BATCH_NUMBERS = 1 << 22  # in a batch of larger pictures: the first layers' maps take some twenty times as much memory
_NUMBERS_AT_ONCE = 1 << 22  # measured together: 32 MiB in double precision
Watch: TypeAlias = Callable[[torch.Tensor, torch.Tensor], None]


@dataclass(frozen=True)
class Preparation:
    """From stored pictures to what modules take: floats, shape (N, C, H, W), each channel with mean 0 and deviation 1.

    ``size`` is the height and width to which pictures are made smaller; None where they stay as they are stored.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = None

    @staticmethod
    def of(train_set: Examples, spec: PictureSpec, side: int = 0) -> Preparation:
        """Measure the channels of the training pictures; the model will see their longer side as ``side`` pixels, 0 as stored."""
        seen = spec.within(side)
        size = None if seen == spec else (seen.height, seen.width)
        # Ten thousand pictures fix a mean to far more digits than matter.
        mean, std = _channel_statistics(train_set.store, train_set.rows[:: max(1, len(train_set) // 10_000)])
        return Preparation(tuple(map(float, mean)), tuple(float(value) or 1.0 for value in std), size)

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """Stored pictures (N, H, W, C) to normalised floats (N, C, H, W), channels-last in memory."""
        mean = torch.tensor(self.mean, dtype=torch.float32, device=pictures.device)
        std = torch.tensor(self.std, dtype=torch.float32, device=pictures.device)
        floats = pictures.float()
        if self.size is not None:  # before the rest, which is then done on fewer pixels
            floats = F.adaptive_avg_pool2d(floats.permute(0, 3, 1, 2), self.size).permute(0, 2, 3, 1)
        return ((floats - mean) / std).permute(0, 3, 1, 2)

    def seen(self, spec: PictureSpec) -> PictureSpec:
        """The form in which a module sees pictures that are stored in the form ``spec``."""
        return spec if self.size is None else replace(spec, height=self.size[0], width=self.size[1])


@dataclass(frozen=True)
class Model:
    """A module with all that is needed to predict with it.

    ``temperature`` divides the raw outputs of heads over classes or values before the softmax, so that probabilities
    are as sure as they should be (Guo et al. 2017). ``views`` names the views of a picture, of ``VIEWS``, whose outputs
    are averaged.
    """

    family: str
    architecture: Mapping[str, Json]
    spec: PictureSpec
    preparation: Preparation
    head: Head
    module: nn.Module
    temperature: float = 1.0
    views: str = "single"

    @staticmethod
    def new(
        family: str,
        architecture: Mapping[str, Json],
        spec: PictureSpec,
        preparation: Preparation,
        head: Head,
        temperature: float = 1.0,
        view_kind: str = "single",
    ) -> Model:
        """An untrained model of the family."""
        module = FAMILIES[family].build(preparation.seen(spec), head.outputs, architecture)
        return Model(family, architecture, spec, preparation, head, _channels_last(module), temperature, view_kind)

    def parameters(self) -> int:
        """How many numbers the model holds."""
        return sum(tensor.numel() for tensor in self.module.state_dict().values())

    @torch.inference_mode()
    def outputs(self, store: Array, rows: Array | None = None, watch: Watch | None = None) -> torch.Tensor:
        """Raw outputs in full precision, shape (N, head.outputs), for all or some rows of pictures (N, H, W, C).

        ``watch`` is shown each batch's prepared pictures and what the module sees in them (``parts_of``).
        """
        see, answer = parts_of(self.module)
        parts = []
        for prepared in self.batches(store, rows):
            seen = []
            for place, view in enumerate(views(prepared, self.views)):
                features = see(view)
                if place == 0 and watch is not None:
                    watch(prepared, features)
                seen.append(answer(features).float())
            parts.append(torch.stack(seen).mean(dim=0).cpu() if len(seen) > 1 else seen[0].cpu())
        return torch.cat(parts) if parts else torch.zeros(0, self.head.outputs)

    def batches(self, store: Array, rows: Array | None = None) -> Iterator[torch.Tensor]:
        """All or some rows of pictures (N, H, W, C), prepared, some at a time; the module is ready to predict."""
        self.module.eval()
        device = next(iter(self.module.state_dict().values())).device
        chosen = np.arange(len(store)) if rows is None else rows
        at_once = max(1, min(_BATCH, _BATCH_NUMBERS // math.prod(store.shape[1:])))
        for start in range(0, len(chosen), at_once):
            batch = torch.from_numpy(np.ascontiguousarray(store[chosen[start : start + at_once]])).to(device)
            yield self.preparation(batch)

    def predict(self, store: Array, rows: Array | None = None) -> Array:
        """Predictions: values (N,) or, for several targets, (N, targets); for labels probabilities (N, classes)."""
        return self.head.predict(self.outputs(store, rows) / self.temperature).numpy()

    def forecast(self, store: Array, rows: Array | None = None, watch: Watch | None = None) -> Forecast:
        """Predictions with their sureness, from one pass through the module; ``watch`` as for ``outputs``."""
        return self.forecast_of(self.outputs(store, rows, watch))

    def forecast_of(self, outputs: torch.Tensor) -> Forecast:
        """What raw outputs (N, head.outputs) mean, with their sureness."""
        tempered, head = outputs / self.temperature, self.head
        return Forecast(head.predict(tempered).numpy(), head.spread(tempered).numpy(), head.predict(outputs).numpy())

    def save(self, folder: Path) -> None:
        """Write ``model.json`` and ``model.safetensors`` into the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        with written_beside(folder / "model.safetensors") as beside:
            save_file({name: tensor.cpu().contiguous() for name, tensor in self.module.state_dict().items()}, beside)
        description = {
            "format": FORMAT,
            "family": self.family,
            "architecture": dict(self.architecture),
            "spec": asdict(self.spec),
            "preparation": asdict(self.preparation),
            "head": head_to_json(self.head),
            "temperature": self.temperature,
            "views": self.views,
        }
        write_json(folder / "model.json", description)

    @staticmethod
    def load(folder: Path) -> Model:
        """Read a saved model; raises RunError if something is missing, cut short or from another version."""
        try:
            described = read_json(inside(folder, "model.json"))
            if described.get("format") != FORMAT:
                raise RunError(
                    f"{folder / 'model.json'} is of format {described.get('format')}; this pixelfit reads format {FORMAT}."
                )
            if described["family"] not in FAMILIES:
                raise RunError(f"{folder / 'model.json'} names the unknown model family {described['family']!r}.")
            family, architecture = FAMILIES[described["family"]], described["architecture"]
            spec, preparation = checked(PictureSpec, described["spec"]), checked(Preparation, described["preparation"])
            head, view_kind = head_from_json(described["head"]), described.get("views", "single")
            if view_kind not in VIEWS:
                raise RunError(f"{folder / 'model.json'} names the unknown views {view_kind!r}.")
            check_form(spec, preparation.size)
            if not len(preparation.mean) == len(preparation.std) == spec.channels or 0 in preparation.std:
                raise ValueError("its preparation is not for its pictures")
            check_architecture(family, architecture, head.outputs)
            with torch.device("meta"):  # shapes without the room for them
                like = family.build(preparation.seen(spec), head.outputs, architecture)
            weights = read_weights(inside(folder, "model.safetensors"), like)
            temperature = float(described["temperature"])
            model = Model.new(described["family"], architecture, spec, preparation, head, temperature, view_kind)
            model.module.load_state_dict(weights)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError, DataError) as error:
            raise RunError(f"The model in {folder} cannot be loaded: {str(error).rstrip('.')}.") from error
        _channels_last(model.module).eval()
        return model


def _channel_statistics(store: Array, rows: Array) -> tuple[Array, Array]:
    """Mean and deviation of each channel, (C,); some pictures at a time, since in doubles they take much memory."""
    at_once = max(1, _NUMBERS_AT_ONCE // store[0].size)
    origin = store[rows[0]].mean(axis=(0, 1), dtype=np.float64)  # numbers far from 0 would lose their digits when squared
    sums, squares, count = np.zeros(len(origin)), np.zeros(len(origin)), 0
    for start in range(0, len(rows), at_once):
        away = store[rows[start : start + at_once]].reshape(-1, len(origin)) - origin
        sums, squares, count = sums + away.sum(axis=0), squares + (away**2).sum(axis=0), count + len(away)
    mean = sums / count
    return origin + mean, np.sqrt(np.maximum(squares / count - mean**2, 0))


def _channels_last(module: nn.Module) -> nn.Module:
    # Not ``contiguous``: it leaves weights with one input channel as they are, and the whole net would then compute
    # channels-first.
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
