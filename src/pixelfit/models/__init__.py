"""The registry of model families. A new family is one file and one entry here."""

from __future__ import annotations

from pixelfit.models import constant, convnet, frozen_trees, linear, mlp, pretrained, resnet, trees
from pixelfit.models.family import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        constant.FAMILY,
        convnet.FAMILY,
        resnet.FAMILY,
        mlp.FAMILY,
        trees.FAMILY,
        linear.FAMILY,
        pretrained.FAMILY,
        frozen_trees.FAMILY,
        pretrained.TUNED,
    )
}

__all__ = ["FAMILIES", "Family"]
