"""pixelfit: AutoML for pictures.

>>> from pixelfit import ImageRegressor  # doctest: +SKIP
>>> model = ImageRegressor(budget="10m").fit(X, y)  # doctest: +SKIP
>>> model.predict(new_pictures)  # doctest: +SKIP

Nothing heavy is loaded until it is used.
"""

from __future__ import annotations

import logging
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pixelfit.estimators import ImageClassifier, ImageRegressor
    from pixelfit.predictor import Predictor

logging.getLogger("pixelfit").addHandler(logging.NullHandler())  # who uses pixelfit decides what to do with its log

__all__ = ["ImageClassifier", "ImageRegressor", "load"]


def load(path: str | Path) -> Predictor:
    """The trained model of a run folder, or of a folder that ``save`` wrote.

    Raises:
        RunError: the folder holds no finished model, or one that cannot be read.
    """
    from pixelfit.predictor import Predictor

    return Predictor.load(Path(path))


def __getattr__(name: str) -> object:
    if name in ("ImageClassifier", "ImageRegressor"):
        from pixelfit import estimators

        return getattr(estimators, name)
    if name == "__version__":
        return metadata.version("pixelfit")
    raise AttributeError(f"module 'pixelfit' has no attribute {name!r}")
