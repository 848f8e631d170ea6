"""The space of recipes for a data set: what may be chosen, and the known-good recipes that a search starts from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pixelfit.models import FAMILIES, Family
from pixelfit.models.family import Between, Choice, Dimension
from pixelfit.models.heads import SMOOTHED, fitting_heads
from pixelfit.training.recipe import Augmentation, Recipe
from pixelfit.types import Examples, Facts, Json, PictureSpec

# One unit of augmentation: what an even hand varies when it writes or photographs the same thing again.
_UNIT = Augmentation(rotate=7.0, scale=0.08, shear=0.10, shift=0.05, brightness=0.15, contrast=0.15, saturation=0.3)
WARPS = ("rotate", "scale", "shear", "shift")  # small ones, which recipes have as a habit
_SWAPS = ("flip", "flip_vertical", "turns")
COLOURS = ("brightness", "contrast", "saturation")
# Longest sides at which nets may see pictures; two cores can train on pictures of the usual one in minutes.
_SIDES, _USUAL_SIDE = (48, 96, 160, 224), 96
_STEPS_WANTED = 1_000  # fewer leave a net from scratch unfinished
_FEWEST_EPOCHS, _MOST_EPOCHS = 12.0, 100.0


class Ask(Protocol):
    """Answers the questions of which a recipe consists."""

    def __call__(self, name: str, dimension: Dimension) -> Json:
        """A value for the named dimension."""


@dataclass(frozen=True)
class Changes:
    """Which changes of training pictures recipes may make, and which of them the known-good ones make; names of ``CHANGES``."""

    allowed: frozenset[str]
    usual: frozenset[str]
    chosen: bool = False  # by the user, so that there is nothing to be found out

    @staticmethod
    def as_usual(channels: int) -> Changes:
        """Small ones. Mirrored photographs mostly mean the same, mirrored writing does not: the search may try that in colour.

        The known-good recipes keep pictures as they are, since a wrong mirror ruins a model and a missing one costs little.
        """
        return Changes(frozenset({*WARPS, "flip"} if channels == 3 else WARPS), frozenset(WARPS))

    @staticmethod
    def just(names: Collection[str]) -> Changes:
        """Those that the user lists, and no others."""
        return Changes(frozenset(names), frozenset(names), chosen=True)


@dataclass(frozen=True)
class Space:
    """Every recipe that may be tried on one data set."""

    heads: tuple[str, ...]
    batch_sizes: Choice
    epochs: float
    changes: Changes
    sides: Choice
    backbone: Mapping[str, Json] | None = None  # what pretrained families begin with, as part of their architecture

    def recipe(self, ask: Ask) -> Recipe:
        """A recipe from the answers to its questions; which questions are asked depends on earlier answers."""
        able = (family for family in FAMILIES.values() if family.searched and (self.backbone or not family.pretrained))
        searched = tuple(family.name for family in able)
        return self._of_family(FAMILIES[ask("family", Choice(searched, searched[0]))], ask)

    def baseline(self) -> Recipe:
        """The recipe of the model that never looks at a picture."""
        return self._of_family(FAMILIES["constant"], lambda name, dimension: dimension.start)

    def tuned(self) -> Recipe:
        """The recipe of the pretrained backbone that is trained on."""
        return self._of_family(FAMILIES["tuned"], lambda name, dimension: dimension.start)

    def known_good(self, wanted: Mapping[str, Json]) -> tuple[Recipe, dict[str, Json]]:
        """The recipe with the ``wanted`` answers, or the usual ones where the space does not allow them; and all its answers.

        Where targets take few values the head is the discrete one, whatever is wanted: recipes that were found on other
        targets name other heads. After 30 s on MNIST a residual net with squared error had RMSE 1.03, two convolutional nets
        with the discrete head 0.33 and 0.35.
        """
        answers: dict[str, Json] = {}

        def answer(name: str, dimension: Dimension) -> Json:
            fits = name in wanted and dimension.allows(wanted[name]) and not (name == "head" and self.heads[0] == "discrete")
            # Recipes that were found on other data do not know what suits these.
            fits = fits and not (name in _SWAPS and name in self.changes.usual)
            answers[name] = wanted[name] if fits else dimension.start
            return answers[name]

        return self.recipe(answer), answers

    def _of_family(self, family: Family, ask: Ask) -> Recipe:
        head = ask("head", Choice(self.heads, self.heads[0])) if len(self.heads) > 1 and family.searched else self.heads[0]
        if family.heads and head not in family.heads:
            head = next(name for name in self.heads if name in family.heads)
        architecture = {name: ask(f"{family.name}.{name}", dimension) for name, dimension in family.space.items()}
        if family.pretrained:
            architecture |= self.backbone or {}
        if family.fit is not None:
            return Recipe(family.name, head, architecture, epochs=1.0)
        return Recipe(
            family=family.name,
            head=head,
            architecture=architecture,
            learning_rate=ask(f"{family.name}.learning_rate", family.learning_rate),
            weight_decay=ask("weight_decay", Between(1e-4, 1e-1, 1e-2, log=True)),
            batch_size=ask("batch_size", self.batch_sizes),
            epochs=self.epochs,
            # Smoothing with calibration afterwards: on 3,400 digits the mean of the distribution had RMSE 0.342 and 0.357
            # on 10,000 others, without smoothing 0.383 and 0.413 (2 seeds, 1,500 steps); accuracy 99.3 % against 99.0 %.
            label_smoothing=ask("label_smoothing", Choice((0.0, 0.05, 0.1), 0.05)) if head in SMOOTHED else 0.0,
            averaging=ask("averaging", Choice((0.0, 0.02, 0.1), 0.0)),
            augmentation=self._augmentation(ask) if family.augmented else Augmentation(),
            side=0 if family.pretrained or len(self.sides.values) == 1 else int(ask("side", self.sides)),
        )

    def _augmentation(self, ask: Ask) -> Augmentation:
        allowed, usual = self.changes.allowed, self.changes.usual
        amount = ask("augment", Choice((0.0, 0.5, 1.0, 1.5), 1.0)) if allowed.intersection(WARPS) else 0.0
        swaps = {name: ask(name, Choice((False, True), name in usual)) for name in _SWAPS if name in allowed}
        colours = allowed.intersection(COLOURS)
        recolour = ask("recolour", Choice((0.0, 0.5, 1.0), 1.0 if colours <= usual else 0.0)) if colours else 0.0
        amounts = {name: amount for name in WARPS if name in allowed} | dict.fromkeys(colours, recolour)
        return Augmentation(**{name: getattr(_UNIT, name) * times for name, times in amounts.items()}, **swaps)


def build_space(
    facts: Facts, train: Examples, backbone: Mapping[str, Json] | None = None, changes: Collection[str] | None = None
) -> Space:
    """The space that suits the task, the targets and the number of pictures; ``changes`` are those that the user lists."""
    sizes = tuple(size for size in (64, 128, 256) if size <= max(64, len(train) // 8))
    return Space(
        heads=fitting_heads(facts.task, train.targets, len(facts.classes or ()), facts.metric),
        batch_sizes=Choice(sizes, 128 if 128 in sizes else sizes[-1]),
        epochs=float(np.clip(np.ceil(_STEPS_WANTED * 128 / len(train)), _FEWEST_EPOCHS, _MOST_EPOCHS)),
        changes=Changes.as_usual(facts.spec.channels) if changes is None else Changes.just(changes),
        sides=_sides(facts.spec),
        backbone=backbone,
    )


def _sides(spec: PictureSpec) -> Choice:
    """At how many pixels of their longer side nets may see the pictures; 0 stands for all that are stored."""
    longest = max(spec.height, spec.width)
    if longest <= _USUAL_SIDE:
        return Choice((0,), 0)
    return Choice((*(side for side in _SIDES if side < longest), 0), _USUAL_SIDE)
