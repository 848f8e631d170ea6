"""Extremely randomised trees (Geurts et al. 2006) on the pixels: grown by scikit-learn, kept as plain arrays.

As arrays the forest is saved without pickle, and predicts in the same way as every other model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pixelfit.models.family import Architecture, Choice, Dimension, Family
from pixelfit.models.heads import Head
from pixelfit.models.several import Outputs
from pixelfit.types import Array, PictureSpec

if TYPE_CHECKING:
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

_LONGEST_SIDE = 28  # pixels: beyond this trees gain little and slow down much
_MOST_LEAVES = 2048
_LEAST_PROBABILITY = 1e-3
_AT_ONCE = 4  # trees between two looks at the clock
SPACE: Mapping[str, Dimension] = {"trees": Choice((50, 100, 200), 100), "smallest_leaf": Choice((1, 2, 5), 1)}
# Trees split by squared error or by class: the histogram's and Huber's losses would be theirs in name only.
HEADS = ("classes", "discrete", "squared", "labels")


class Trees(nn.Module):
    """Decision trees as arrays over all their nodes, one tree after the other.

    A node sends a picture left where its number ``feature`` is at most ``threshold``. Leaves point to themselves, so
    ``depth`` rounds bring every picture to its leaf in every tree.
    """

    feature: torch.Tensor
    threshold: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    value: torch.Tensor
    roots: torch.Tensor
    depth: torch.Tensor
    lengths_from_file = True
    link: torch.Tensor | None

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        for name, dtype in (("feature", torch.int64), ("left", torch.int64), ("right", torch.int64)):
            self.register_buffer(name, torch.zeros(1, dtype=dtype))
        self.register_buffer("threshold", torch.zeros(1, dtype=torch.float64))
        self.register_buffer("value", torch.zeros(1, outputs))
        self.register_buffer("roots", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("depth", torch.zeros((), dtype=torch.int64))
        self.register_buffer("link", None)  # a place in _LINKS; None where one value or the shares of classes are predicted
        self._rounds = 0  # set with the nodes
        self._linked: int | None = None

    def answers(self, features: torch.Tensor) -> torch.Tensor:
        """(N, features) to (N, outputs): the mean over trees, or the logarithms of such probabilities or of their odds."""
        features = features.double()
        node = self.roots.expand(features.shape[0], -1)  # not len: an exported graph would keep the number
        for _ in range(self._rounds):
            goes_left = features.gather(1, self.feature[node]) <= self.threshold[node]
            node = torch.where(goes_left, self.left[node], self.right[node])
        mean = self.value[node].mean(dim=1)
        if self._linked is not None:
            return _LINKS[self._linked](mean)
        return mean.clamp_min(_LEAST_PROBABILITY).log() if self.outputs > 1 else mean

    def set_nodes(self, arrays: dict[str, torch.Tensor]) -> None:
        """Take over arrays of any length; the buffers' shapes follow."""
        for name, array in arrays.items():
            setattr(self, name, array)
        self._take_note()

    def _take_note(self) -> None:
        """Keep as plain numbers what decides which operations there are: a graph is traced without looking into arrays."""
        self._rounds = int(self.depth)
        self._linked = None if self.link is None else int(self.link)

    def _load_from_state_dict(self, state_dict: dict[str, torch.Tensor], prefix: str, *rest: object) -> None:
        # The number of nodes is known only from the file, so the buffers take its shapes before torch compares them.
        self.set_nodes(
            {name: torch.empty_like(state_dict[prefix + name]) for name in self._buffers if prefix + name in state_dict}
        )
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._check_nodes()
        self._take_note()

    def _check_nodes(self) -> None:
        """Raise ValueError for arrays that are no trees: a file may be a stranger's, and would be walked through for ever."""
        nodes = len(self.feature)
        arrays = (self.threshold, self.left, self.right, self.value)
        places = torch.cat([self.left, self.right, self.roots])
        if any(len(each) != nodes for each in arrays) or self.value.shape[1:] != (self.outputs,):
            raise ValueError("its trees' arrays are of different lengths")
        if not 0 <= int(self.depth) <= _MOST_LEAVES or int(places.min()) < 0 or int(places.max()) >= nodes:
            raise ValueError("its trees lead nowhere")
        if self.link is not None and not 0 <= int(self.link) < len(_LINKS):
            raise ValueError(f"its trees have an unknown link {int(self.link)}")


class Forest(Trees):
    """Trees on the pixels."""

    def __init__(self, spec: PictureSpec, outputs: int) -> None:
        super().__init__(outputs)
        shrink = min(1.0, _LONGEST_SIDE / max(spec.height, spec.width))
        self.side = (max(1, round(spec.height * shrink)), max(1, round(spec.width * shrink)))

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pixels as the trees see them, shape (N, features)."""
        return F.adaptive_avg_pool2d(pictures, self.side).flatten(1)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, outputs)."""
        return self.answers(self.features(pictures))


_LINKS: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    lambda mean: mean,
    lambda mean: mean.clamp(_LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY).logit(),
)
# Which of these the heads for several numbers or labels take.
_LINK_OF: Mapping[Outputs, int] = {"values": 0, "odds": 1}


def build(spec: PictureSpec, outputs: int, architecture: Architecture) -> nn.Module:
    """A forest without nodes."""
    return Forest(spec, outputs)


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
    """Grow trees on the pictures' pixels."""
    assert isinstance(module, Forest)
    features = torch.cat([module.features(chunk) for chunk in chunks])
    return grow(module, features, targets, head=head, architecture=architecture, seed=seed, time_left=time_left)


def grow(
    trees: Trees,
    features: torch.Tensor,
    targets: torch.Tensor,
    *,
    head: Head,
    architecture: Architecture,
    seed: int,
    time_left: Callable[[], float],
) -> int:
    """Grow trees on features (N, F), a few at a time until there are enough or time is up; return how many."""
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor  # a second to load: not needed to predict

    shares = head.gives == "shares"
    kind = ExtraTreesClassifier if shares else ExtraTreesRegressor  # which splits 0 and 1 as a classifier would
    grower = kind(
        n_estimators=0,
        min_samples_leaf=architecture["smallest_leaf"],
        max_features=1 / 3 if head.gives == "values" else "sqrt",
        max_leaf_nodes=_MOST_LEAVES,
        warm_start=True,
        n_jobs=-1,
        random_state=seed,
    )
    while len(getattr(grower, "estimators_", ())) < architecture["trees"]:
        grower.n_estimators += min(_AT_ONCE, architecture["trees"] - grower.n_estimators)
        grower.fit(features.numpy(), targets.numpy())
        if time_left() <= 0:
            break
    trees.set_nodes(_as_arrays(grower, head.outputs if shares else 0))
    if head.outputs > 1 and not shares:
        trees.set_nodes({"link": torch.tensor(_LINK_OF[head.gives])})
    return len(grower.estimators_)


def _as_arrays(grower: ExtraTreesClassifier | ExtraTreesRegressor, classes: int) -> dict[str, torch.Tensor]:
    parts: dict[str, list[Array]] = {name: [] for name in ("feature", "threshold", "left", "right", "value")}
    roots, offset = [], 0
    for estimator in grower.estimators_:
        tree = estimator.tree_
        here = np.arange(tree.node_count)
        leaf = tree.children_left < 0
        parts["feature"].append(np.where(leaf, 0, tree.feature))
        parts["threshold"].append(tree.threshold)
        parts["left"].append(np.where(leaf, here, tree.children_left) + offset)
        parts["right"].append(np.where(leaf, here, tree.children_right) + offset)
        parts["value"].append(_class_shares(tree.value[:, 0, :], grower, classes) if classes else tree.value[:, :, 0])
        roots.append(offset)
        offset += tree.node_count
    depth = max(estimator.tree_.max_depth for estimator in grower.estimators_)
    arrays = {name: torch.from_numpy(np.concatenate(pieces)) for name, pieces in parts.items()}
    arrays["value"] = arrays["value"].float()
    return {**arrays, "roots": torch.tensor(roots), "depth": torch.tensor(depth)}


def _class_shares(values: Array, grower: ExtraTreesClassifier | ExtraTreesRegressor, classes: int) -> Array:
    full = np.zeros((len(values), classes))
    full[:, grower.classes_] = values / values.sum(axis=1, keepdims=True)  # a class never seen stays at 0
    return full


FAMILY = Family(
    "trees",
    "extremely randomised trees on the pixels",
    build,
    space=SPACE,
    fit=fit,
    heads=HEADS,
    augmented=False,
    loads=("sklearn.ensemble",),
)
