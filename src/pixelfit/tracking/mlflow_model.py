"""A run's model in MLflow's own format, without pickle: pixelfit's own model folder, and this module to load it with."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pandas as pd

from pixelfit.batch import ERROR, NAME, predicted
from pixelfit.data.items import Item
from pixelfit.predictor import COVERAGE, Predictor
from pixelfit.runs import RunFolder
from pixelfit.types import Embedded

PICTURE = "picture"
_NEEDED = ("pixelfit", "torch")


class Served:
    """What MLflow loads and serves."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._coverage = COVERAGE if predictor.allows(COVERAGE) else None

    def predict(self, model_input: pd.DataFrame, params: object = None) -> pd.DataFrame:
        """A row a picture, as ``pixelfit predict`` has them; one that cannot be read has an ``error``.

        Args:
            model_input: a column ``picture`` with the contents of picture files, as bytes.
            params: nothing can be chosen here.
        """

        def items() -> Iterator[Item]:
            for place, content in enumerate(model_input[PICTURE]):
                yield Item(str(place), Embedded(lambda content=bytes(content): content))  # type: ignore[misc]

        rows = [row for chunk in predicted(self._predictor, items(), self._coverage) for row in chunk]
        answers = pd.DataFrame(rows).drop(columns=NAME)
        answers[ERROR] = answers[ERROR].fillna("")
        return answers


def save_model(folder: RunFolder, place: Path) -> None:
    """Write the run's model into a new folder, as MLflow keeps models."""
    from mlflow import pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*input example was not provided")
        pyfunc.save_model(
            path=str(place),
            loader_module=__name__,
            data_path=str(folder.model_folder),
            signature=ModelSignature(inputs=Schema([ColSpec("binary", PICTURE)])),
            pip_requirements=[f"{name}=={metadata.version(name).split('+')[0]}" for name in _NEEDED],
        )


def _load_pyfunc(path: str) -> Served:
    """What MLflow calls, with the folder of the model."""
    return Served(Predictor.load(Path(path)))
