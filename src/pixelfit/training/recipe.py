"""A recipe: everything that decides how a model is built and trained, as plain numbers and words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from pixelfit.types import Json


@dataclass(frozen=True)
class Augmentation:
    """How far training pictures are moved and recoloured, each anew in every epoch."""

    rotate: float = 0.0  # standard deviation of the angle, in degrees
    scale: float = 0.0  # standard deviation of the logarithm of the size
    shear: float = 0.0  # standard deviation of the slant
    shift: float = 0.0  # standard deviation of the shift, as a share of the side
    flip: bool = False  # left and right swapped in half of them
    flip_vertical: bool = False  # up and down swapped in half of them
    turns: bool = False  # by none to three quarters; oblong pictures by a half or none
    brightness: float = 0.0  # standard deviation of the logarithm of the factor
    contrast: float = 0.0  # of the same
    saturation: float = 0.0  # of the same, for pictures of three channels

    @property
    def moves(self) -> bool:
        """Whether anything is changed but colours."""
        return replace(self, brightness=0.0, contrast=0.0, saturation=0.0) != Augmentation()

    @property
    def recolours(self) -> bool:
        """Whether colours are changed."""
        return max(self.brightness, self.contrast, self.saturation) > 0


@dataclass(frozen=True)
class Recipe:
    """How one model is built and trained. ``epochs`` is the length of training where the clock does not set it."""

    family: str
    head: str
    architecture: Mapping[str, Json]
    learning_rate: float = 1e-2
    weight_decay: float = 1e-2
    batch_size: int = 128
    epochs: float = 12.0
    label_smoothing: float = 0.0
    averaging: float = 0.0  # share of the steps over which the final weights are averaged; 0: they are the last ones
    augmentation: Augmentation = field(default_factory=Augmentation)
    side: int = 0  # longest side at which the model sees pictures, in pixels; 0: as they are stored

    def to_json(self) -> dict[str, Json]:
        """The recipe as JSON."""
        return {**asdict(self), "architecture": dict(self.architecture)}

    @staticmethod
    def from_json(value: Mapping[str, Json]) -> Recipe:
        """A recipe from its JSON."""
        return Recipe(**{**value, "augmentation": Augmentation(**value["augmentation"])})
