"""A pretrained backbone, kept as it is, with extremely randomised trees on its features."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from pixelfit.models.family import Architecture, Family
from pixelfit.models.heads import Head
from pixelfit.models.pretrained import SIDES, Backbone, all_features_of, begin, features_of
from pixelfit.models.trees import HEADS, SPACE, Trees, grow
from pixelfit.types import PictureSpec


class FrozenTrees(Backbone):
    """A backbone's features, and trees on them."""

    def __init__(self, spec: PictureSpec, outputs: int, architecture: Architecture) -> None:
        super().__init__(spec, architecture)
        self.trees = Trees(outputs)

    def answers(self, features: torch.Tensor) -> torch.Tensor:
        """(N, features) to (N, outputs)."""
        return self.trees.answers(features)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, outputs)."""
        return self.answers(self.features(pictures))


def build(spec: PictureSpec, outputs: int, architecture: Architecture) -> nn.Module:
    """The backbone with fresh weights, which ``begin`` replaces, and trees without nodes."""
    return FrozenTrees(spec, outputs, architecture)


def fit(
    module: nn.Module,
    chunks: Iterable[torch.Tensor],
    targets: torch.Tensor,
    *,
    head: Head,
    architecture: Architecture,
    seed: int,
    time_left: Callable[[], float],
) -> int:
    """Compute the features of as many pictures as the time allows, and grow trees on them."""
    assert isinstance(module, FrozenTrees)
    features = features_of(module, chunks, time_left)
    encoded = targets[: len(features)]
    return grow(module.trees, features, encoded, head=head, architecture=architecture, seed=seed, time_left=time_left)


def cross_fit(
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
    """Compute the features once, and grow trees without each fold, and those that are kept on all of them."""
    assert isinstance(module, FrozenTrees)
    features = all_features_of(module, chunks, len(targets), time_left)
    outputs = torch.zeros(len(features), head.outputs)
    for fold in range(int(folds.max()) + 1):
        others = folds != fold
        grow(
            module.trees, features[others], targets[others],
            head=head, architecture=architecture, seed=seed, time_left=time_left,
        )  # fmt: skip
        outputs[~others] = module.trees.answers(features[~others]).float()
    grow(module.trees, features, targets, head=head, architecture=architecture, seed=seed, time_left=time_left)
    return outputs


FAMILY = Family(
    "frozen_trees",
    "extremely randomised trees on the features of a pretrained backbone",
    build,
    space={"side": SIDES, **SPACE},
    fit=fit,
    cross_fit=cross_fit,
    begin=begin,
    heads=HEADS,
    pretrained=True,
    augmented=False,
    loads=("sklearn.ensemble",),
)
