"""Whether a picture is like those that a model learned from, and which of them it is most like."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from pixelfit.files import inside, written_beside
from pixelfit.models.model import Model
from pixelfit.models.parts import parts_of
from pixelfit.types import Array, Examples, Floats

NEAREST = 5  # pictures whose distances are averaged, and which are shown
USUAL = 0.99  # the share of pictures of the same kind that are not called unlike
MOST_PICTURES = 1_000  # that new ones are compared with, and as many more that say which distances are usual
_MOST_DIRECTIONS = 64  # of features that are kept: with all 256 of a net for digits no more was found
_FILE = "familiarity.safetensors"


@dataclass(frozen=True)
class Familiarity:
    """Training pictures as a model sees them, and how far from the nearest of them pictures of the same kind usually are.

    Two distances count. One is between the features in which the model's last layer thinks (deep nearest neighbours: Sun et al.
    2022, arXiv:2204.06507). A net maps much that it never saw, such as noise or photographs among digits, to features that it
    knows; so the other is between plain statistics of the pixels: mean, deviation, and roughness down and across. Of a net for
    MNIST's digits, with 1,000 training pictures to compare with, the first alone told apart 5 % of noise, 51 % of photographs,
    95 % of negatives, 84 % of digits lying down and no empty picture; both together 100, 100, 100, 77 and 100 %, with 0.6 % of
    4,000 other digits.
    """

    mean: Floats  # (features,)
    directions: Floats  # (features, D): an orthonormal set, drawn at random
    points: Floats  # (pictures, D): features less their mean, in these directions, of length 1
    statistics: Floats  # (pictures, 4), each in deviations
    deviations: Floats  # (4,)
    usual: Floats  # (2,): the distances of features and of statistics that count as 1

    @staticmethod
    def of(model: Model, known: Examples, others: Examples, *, seed: int) -> Familiarity:
        """Compare with the pictures ``known``; ``others``, that the model was not trained on, say what is usual."""
        features, statistics = _seen(model, known)
        rng = np.random.default_rng(seed)
        wide = features.shape[1]
        drawn = rng.normal(size=(wide, min(wide, _MOST_DIRECTIONS)))
        mean, directions = features.mean(axis=0), np.linalg.qr(drawn)[0]
        deviations = np.maximum(statistics.std(axis=0), 1e-6)
        points = _directed(torch.from_numpy(features), torch.from_numpy(mean), torch.from_numpy(directions)).numpy()
        unscaled = Familiarity(mean, directions, points, statistics / deviations, deviations, np.ones(2))
        distances = unscaled.distances(*map(torch.from_numpy, _seen(model, others)))[0].numpy()
        # Each so that it seldom passes 1, and then both so that their larger one does so in a share of 1 - USUAL.
        usual = np.maximum(_usual(distances, (1 + USUAL) / 2), 1e-3)
        scaled = replace(unscaled, usual=usual * _usual((distances / usual).max(axis=1), USUAL))
        return Familiarity(**{name: _as_saved(values) for name, values in vars(scaled).items()})

    def distances(self, features: torch.Tensor, statistics: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How far pictures are from those that are known.

        Args:
            features: (N, features).
            statistics: (N, 4), as ``statistics_of`` gives them.

        Returns:
            The distances of features and of statistics, (N, 2), 1 being the largest that are usual; and the places of the
            known pictures with the nearest features, (N, n), the nearest first.
        """
        # Kept in single precision, which an exported graph keeps in half the room.
        arrays = (torch.from_numpy(each.astype(np.float32)).double() for each in vars(self).values())
        mean, directions, points, known, deviations, usual = arrays
        count = min(NEAREST, self.points.shape[0])
        nearest = (_directed(features.double(), mean, directions) @ points.T).topk(count, dim=1)
        apart = ((statistics.double() / deviations)[:, None] - known).square().sum(dim=2).sqrt()
        closest = apart.topk(count, dim=1, largest=False).values
        both = torch.stack([1 - nearest.values.mean(dim=1), closest.mean(dim=1)], dim=1)
        return both / usual, nearest.indices

    def save(self, folder: Path) -> None:
        """Write one file into the folder."""
        with written_beside(folder / _FILE) as beside:
            save_file({name: np.ascontiguousarray(values, dtype=np.float32) for name, values in vars(self).items()}, beside)

    @staticmethod
    def load(folder: Path) -> Familiarity | None:
        """What was saved in the folder; None of a model that knows of no pictures."""
        if not (folder / _FILE).is_file():
            return None
        arrays = load_file(inside(folder, _FILE))
        found = Familiarity(**{field.name: arrays[field.name].astype(np.float64) for field in fields(Familiarity)})
        (wide, count), known = found.directions.shape, len(found.points)
        shapes = ((wide,), (wide, count), (known, count), (known, 4), (4,), (2,))
        if known < 1 or tuple(values.shape for values in vars(found).values()) != shapes:
            raise ValueError(f"{_FILE} has arrays of shapes that do not belong together")
        return found


def statistics_of(prepared: torch.Tensor) -> torch.Tensor:
    """Of each picture (N, C, H, W) mean, deviation, and mean difference between neighbours down and across, (N, 4)."""
    wide = prepared.double()
    mean = wide.mean(dim=(1, 2, 3))
    deviation = (wide - mean[:, None, None, None]).square().mean(dim=(1, 2, 3)).sqrt()
    down = (wide[:, :, 1:] - wide[:, :, :-1]).abs().mean(dim=(1, 2, 3)) if prepared.shape[2] > 1 else torch.zeros_like(mean)
    across = (wide[..., 1:] - wide[..., :-1]).abs().mean(dim=(1, 2, 3)) if prepared.shape[3] > 1 else torch.zeros_like(mean)
    return torch.stack([mean, deviation, down, across], dim=1)


@torch.inference_mode()
def _seen(model: Model, examples: Examples) -> tuple[Array, Array]:
    """Features and statistics of pictures, in double precision."""
    features, statistics = [], []
    for prepared in model.batches(examples.store, examples.rows):
        features.append(parts_of(model.module)[0](prepared).double().cpu().numpy())
        statistics.append(statistics_of(prepared).cpu().numpy())
    return np.concatenate(features), np.concatenate(statistics)


def _directed(features: torch.Tensor, mean: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    away = (features - mean) @ directions
    return away / away.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-12)


def _usual(distances: Floats, share: float) -> Floats:
    """The smallest distance (per column) that so large a share of new pictures does not pass; of too few the largest."""
    ordered = np.sort(distances, axis=0)
    place = min(len(ordered), math.ceil((len(ordered) + 1) * share))
    return np.asarray(ordered[place - 1])


def _as_saved(values: Floats) -> Floats:
    """In double precision what single precision keeps, so that a model predicts the same before it is saved and after."""
    return values.astype(np.float32).astype(np.float64)
