"""The finished product: a weighted ensemble of models that predicts, and is saved without any code in its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pixelfit.data.sources import check_arrays
from pixelfit.data.store import decode_files, to_spec
from pixelfit.errors import DataError, RunError
from pixelfit.files import read_json, write_json
from pixelfit.models.model import Model
from pixelfit.progress import Progress, Silent
from pixelfit.types import Array, Label, PictureSpec, Task

FORMAT = 1


@dataclass(frozen=True)
class Member:
    """One model of the ensemble, the trial it came from and its weight; weights sum to 1."""

    model: Model
    trial: int
    weight: float


@dataclass(frozen=True)
class Predictor:
    """Predicts numbers or classes for pictures. Made by ``fit``, or read back by ``pixelfit.load``."""

    task: Task
    classes: tuple[Label, ...] | None
    target_name: str
    members: tuple[Member, ...]

    @property
    def spec(self) -> PictureSpec:
        """The form in which the models see pictures."""
        return self.members[0].model.spec

    def predict(self, X: object, *, progress: Progress | None = None) -> Array:
        """Predicted values (regression) or labels (classification), shape (N,).

        Args:
            X: pictures as an array of shape (N, H, W) or (N, H, W, C), or a list of paths. Arrays of another size
                than the training pictures' are resized.
            progress: is told how far the decoding has come.

        Raises:
            DataError: X holds no pictures that this model could take; the message names what is wrong.
        """
        return self.labels(self.predict_raw(X, progress=progress))

    def predict_proba(self, X: object, *, progress: Progress | None = None) -> Array:
        """Probabilities of the classes in the order of ``classes``, shape (N, classes).

        Raises:
            DataError: as for ``predict``, and for a regression, which has no classes.
        """
        if self.task == "regression":
            raise DataError("A regression has no class probabilities; use predict.")
        return self.predict_raw(X, progress=progress)

    def predict_raw(self, X: object, *, progress: Progress | None = None) -> Array:
        """Values (N,) for a regression, class probabilities (N, classes) for a classification; X as for ``predict``."""
        return self.raw(self._stored(X, progress or Silent()))

    def raw(self, store: Array, rows: Array | None = None) -> Array:
        """The ensemble's values (N,) or probabilities (N, classes), for pictures already in this model's form."""
        return np.asarray(sum(member.weight * member.model.predict(store, rows) for member in self.members))

    def labels(self, raw: Array) -> Array:
        """Values as they are, probabilities as the most probable label."""
        if self.classes is None:
            return raw
        labels: Array = np.array(self.classes)[raw.argmax(axis=1)]
        return labels

    def _stored(self, X: object, progress: Progress) -> Array:
        if isinstance(X, (str, Path)):
            X = [X]
        if isinstance(X, Sequence) and X and all(isinstance(item, (str, Path)) for item in X):
            return decode_files([Path(item) for item in X], self.spec, progress)
        return to_spec(check_arrays(X), self.spec)

    def save(self, folder: Path) -> None:
        """Write the predictor into ``folder``: JSON and safetensors only."""
        for place, member in enumerate(self.members):
            member.model.save(folder / f"member-{place}")
        description = {
            "format": FORMAT,
            "task": self.task,
            "classes": self.classes,
            "target_name": self.target_name,
            "members": [
                {"folder": f"member-{place}", "trial": member.trial, "weight": member.weight}
                for place, member in enumerate(self.members)
            ],
        }
        write_json(folder / "predictor.json", description)  # last: a folder without it is not yet a predictor

    @staticmethod
    def load(folder: Path) -> Predictor:
        """Read a saved predictor, from its own folder or from a run folder; raises RunError if there is none."""
        place = folder / "model" if (folder / "model" / "predictor.json").is_file() else folder
        file = place / "predictor.json"
        if not file.is_file():
            raise RunError(f"{folder} holds no finished model (there is no {file.name} in it).")
        try:
            described = read_json(file)
            if described["format"] != FORMAT:
                raise RunError(f"{file} is of format {described['format']}; this pixelfit reads format {FORMAT}.")
            members = tuple(
                Member(Model.load(place / Path(member["folder"]).name), int(member["trial"]), float(member["weight"]))
                for member in described["members"]
            )
            classes = described["classes"]
            if not members or described["task"] not in ("regression", "classification"):
                raise RunError(f"{file} describes no model.")
            return Predictor(
                described["task"], tuple(classes) if classes is not None else None, described["target_name"], members
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file} cannot be read: {error}.") from error
