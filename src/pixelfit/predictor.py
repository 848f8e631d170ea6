"""The finished product: a weighted ensemble of models that predicts, and is saved without any code in its files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pixelfit.answers import Answers, answers_of
from pixelfit.assess import Assessment, Known, assess
from pixelfit.batch import predicted
from pixelfit.conformal import Conformal, Intervals, Sets, SeveralIntervals, enough, quantile
from pixelfit.data.arrays import check_arrays
from pixelfit.data.sources import Source
from pixelfit.data.store import decode_files, to_spec
from pixelfit.data.streams import stream_of
from pixelfit.errors import DataError, RunError
from pixelfit.files import inside, read_json, write_json, written_beside
from pixelfit.models.checked import checked
from pixelfit.models.familiarity import Familiarity, statistics_of
from pixelfit.models.model import Model
from pixelfit.progress import Progress, Silent
from pixelfit.sealed import SUMS, damaged, refuse_foreign, seal
from pixelfit.types import Array, Columns, Forecast, Json, Kind, Label, PictureSpec, Strangeness, Task, Yardstick, kind_of

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
COVERAGE = 0.9  # of intervals and sets, unless the user says otherwise
_SCORES_FILE = "calibration.safetensors"


@dataclass(frozen=True)
class Member:
    """One model of the ensemble, the trial it came from and its weight; weights sum to 1.

    A trial that was cross-validated has a model a fold, each a member with an even share of the trial's weight.
    """

    model: Model
    trial: int
    weight: float


@dataclass(frozen=True)
class _ToldMember:
    """What ``predictor.json`` says of a member."""

    folder: str
    trial: int
    weight: float


@dataclass(frozen=True)
class _Told:
    """What ``predictor.json`` says, but for the format and the intervals."""

    task: Task
    classes: tuple[Label, ...] | None
    target_name: str
    members: tuple[_ToldMember, ...]
    temperature: float = 1.0
    target_names: tuple[str, ...] = ()
    yardstick: Yardstick | None = None


@dataclass(frozen=True)
class Predictor:
    """Predicts numbers or classes for pictures. Made by ``fit``, or read back by ``pixelfit.load``.

    ``temperature`` divides the logarithms of the ensemble's class probabilities, as each model's does its own.
    ``conformal`` gives intervals or sets around predictions; None in a predictor that was never calibrated, or of several
    labels a picture. ``target_names`` are those of several numbers a picture, and empty for all other kinds of targets.
    ``familiarity`` compares pictures with those that the first member learned from; None where none are remembered.
    ``yardstick`` says how predictions are measured; None in a predictor of an older version.
    """

    task: Task
    classes: tuple[Label, ...] | None
    target_name: str
    members: tuple[Member, ...]
    temperature: float = 1.0
    conformal: Conformal | None = None
    target_names: tuple[str, ...] = ()
    familiarity: Familiarity | None = None
    yardstick: Yardstick | None = None

    @property
    def kind(self) -> Kind:
        """What it predicts for a picture."""
        return kind_of(self.task, several=bool(self.target_names))

    @property
    def answers(self) -> Answers:
        """What its raw predictions are to the user."""
        return answers_of(self.kind, self.target_name, self.target_names, self.classes)

    @property
    def spec(self) -> PictureSpec:
        """The form in which the models see pictures."""
        return self.members[0].model.spec

    @cached_property
    def version(self) -> str:
        """What tells this model from all others: 8 hexadecimal digits that its numbers decide."""
        digest = hashlib.blake2b(repr((self.task, self.classes, self.temperature)).encode(), digest_size=4)
        for member in self.members:
            digest.update(f"{member.weight} {member.model.temperature} {member.model.views}".encode())
            for tensor in member.model.module.state_dict().values():
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def trial_weights(self) -> dict[int, float]:
        """The weight of each trial, by number, over all of its models."""
        weights: dict[int, float] = {}
        for member in self.members:
            weights[member.trial] = weights.get(member.trial, 0.0) + member.weight
        return weights

    def predict(self, X: object, *, progress: Progress | None = None) -> Array:
        """Predicted values (regression) or labels (classification), shape (N,).

        Of several numbers a picture (N, targets); of several labels 1 for those that are predicted and 0 for the others, shape
        (N, classes) in the order of ``classes``.

        Args:
            X: pictures as an array of shape (N, H, W) or (N, H, W, C), or a list of paths. Arrays of another size
                than the training pictures' are resized.
            progress: is told how far the decoding has come.

        Raises:
            DataError: X holds no pictures that this model could take; the message names what is wrong.
        """
        return self.labels(self.predict_raw(X, progress=progress))

    def predict_proba(self, X: object, *, progress: Progress | None = None) -> Array:
        """Probabilities of the classes in the order of ``classes``, shape (N, classes); of several labels each for itself.

        Raises:
            DataError: as for ``predict``, and for a regression, which has no classes.
        """
        self.answers.refuse(probabilities=True)
        return self.predict_raw(X, progress=progress)

    def predict_interval(self, X: object, coverage: float = COVERAGE, *, progress: Progress | None = None) -> Array:
        """Lower and upper ends, in the target's unit, that hold the true value in a share ``coverage`` of new pictures, (N, 2).

        Of several numbers a picture (N, targets, 2): each target's true value is held in such a share of the pictures.

        Raises:
            DataError: as for ``predict``, for a classification, and for a coverage outside (0, 1) or beyond what the
                number of validation pictures allows.
        """
        self.check_coverage(coverage)
        self.answers.refuse(intervals=True)
        return self.intervals(self.predict_forecast(X, progress=progress), coverage)

    def predict_sets(self, X: object, coverage: float = COVERAGE, *, progress: Progress | None = None) -> Array:
        """Which classes, in the order of ``classes``, are in sets that hold the true one in a share ``coverage`` of pictures.

        Returns:
            Booleans of shape (N, classes), at least one True in each row.

        Raises:
            DataError: as for ``predict_interval``, but for a regression.
        """
        self.check_coverage(coverage)
        self.answers.refuse(sets=True)
        return self.sets(self.predict_forecast(X, progress=progress), coverage)

    def predict_strangeness(self, X: object, *, progress: Progress | None = None) -> Array:
        """How unlike anything seen in training pictures are, shape (N,): above 1 where only 1 in 100 of their kind would be.

        Raises:
            DataError: as for ``predict``, and for a model that remembers no training pictures.
        """
        strangeness = self.examined(self._stored(X, progress or Silent()))[1]
        if strangeness is None:
            raise DataError("This model was saved without training pictures to compare with; fit it again to have them.")
        return strangeness.values

    def predict_frames(
        self,
        *sources: str | Path,
        coverage: float | None = None,
        pictures: str | None = None,
        progress: Progress | None = None,
    ) -> Iterator[pd.DataFrame]:
        """Predictions for any number of pictures in files, folders, tables, archives or ``.npz`` files, some rows at a time.

        Args:
            sources: their paths.
            coverage: of the intervals or sets; 0 for none, None for 0.9 where the model was calibrated on enough pictures for it.
            pictures: the tables' column of paths, where they have several.
            progress: is told how far it is.

        Returns:
            Frames with the columns ``picture``, the predictions, ``low`` and ``high`` or ``set``, the probabilities of classes,
            ``unlike`` (anything seen in training) and ``strangeness``, and the ``error`` of a picture that cannot be read.

        Raises:
            DataError: a source is missing, or holds no pictures.
        """
        import pandas as pd

        source = stream_of(sources, column=pictures, lines=None, progress=progress or Silent())
        wanted = self.usual_coverage(coverage)
        for rows in predicted(self, source.items(), wanted):
            yield pd.DataFrame(rows)

    def evaluate(
        self, source: Source, *, target: str | Sequence[str] | None = None, coverage: float | None = None,
        pictures: str | None = None, data_dir: Path | None = None, progress: Progress | None = None,
    ) -> Assessment:  # fmt: skip
        """How good the model is on pictures whose targets are known.

        Args:
            source: as for ``fit``; every picture counts, whatever part of the data it is said to be of.
            target: a table's column of targets, or several; by default those of the names that the model was trained with.
            coverage: of the intervals or sets; 0 for none, None for 0.9 where the model was calibrated on enough pictures for it.
            pictures: a table's column of paths, where there are several.
            data_dir: where the files of a named data set are.
            progress: is told how far it is.

        Raises:
            DataError: nothing can be read, or the targets are not of the model's kind, or hold classes that it does not know.
        """
        if self.yardstick is None:
            raise DataError("This model was saved by a version of pixelfit that did not note how to measure it; fit it again.")
        known = Known(self.task, self.yardstick, self.target_name, self.target_names, self.classes)
        targets = (target,) if isinstance(target, str) else tuple(target or ())
        return assess(
            self, known, source, Columns(targets, pictures),
            coverage=self.usual_coverage(coverage), data_dir=data_dir, progress=progress or Silent(),
        )  # fmt: skip

    def predict_forecast(self, X: object, *, progress: Progress | None = None) -> Forecast:
        """Predictions with their sureness; X as for ``predict``."""
        return self.forecast(self._stored(X, progress or Silent()))

    def predict_raw(self, X: object, *, progress: Progress | None = None) -> Array:
        """Values (N,) or (N, targets) for a regression, probabilities (N, classes) for labels; X as for ``predict``."""
        return self.raw(self._stored(X, progress or Silent()))

    def raw(self, store: Array, rows: Array | None = None) -> Array:
        """The ensemble's values (N,) or probabilities (N, classes), for pictures already in this model's form."""
        return self.forecast(store, rows).raw

    def forecast(self, store: Array, rows: Array | None = None) -> Forecast:
        """The ensemble's predictions with their sureness, for pictures already in this model's form."""
        return self.mixed([(member.weight, member.model.forecast(store, rows)) for member in self.members])

    def examined(self, store: Array, rows: Array | None = None) -> tuple[Forecast, Strangeness | None]:
        """What ``forecast`` gives, and from the same pass how unlike the training pictures these are."""
        if self.familiarity is None:
            return self.forecast(store, rows), None
        distances, nearest = [], []

        def watch(prepared: torch.Tensor, features: torch.Tensor) -> None:
            assert self.familiarity is not None
            found = self.familiarity.distances(features.cpu(), statistics_of(prepared).cpu())
            distances.append(found[0].max(dim=1).values.numpy())
            nearest.append(found[1].numpy())

        parts = [
            (member.weight, member.model.forecast(store, rows, None if place else watch))
            for place, member in enumerate(self.members)
        ]
        return self.mixed(parts), Strangeness(np.concatenate(distances), np.concatenate(nearest))

    def mixed(self, parts: Sequence[tuple[float, Forecast]]) -> Forecast:
        """What members' forecasts and their weights make together.

        The spread is that of the members' distributions mixed by weight: their own and how far they are apart.
        """
        return self.answers.mixed(parts, self.temperature)

    def check_coverage(self, coverage: float) -> None:
        """Raise DataError if this model has no intervals or sets of that coverage."""
        if self.kind == "labels":
            self.answers.refuse(sets=True)
        if self.conformal is None:
            raise DataError("This model was saved without calibrated intervals or sets; fit it again to have them.")
        quantile(self.conformal.scores, coverage)

    def usual_coverage(self, wanted: float | None) -> float | None:
        """The coverage of intervals or sets in a table: the wanted one, or the usual one where there is any; None for none.

        Raises:
            DataError: the wanted one cannot be had.
        """
        if wanted is None:
            return COVERAGE if self.allows(COVERAGE) else None
        if wanted == 0:
            return None
        self.check_coverage(wanted)
        return wanted

    def allows(self, coverage: float) -> bool:
        """Whether the model was calibrated, on enough pictures for intervals or sets of that coverage."""
        return self.conformal is not None and enough(len(self.conformal.scores), coverage)

    def intervals(self, forecast: Forecast, coverage: float) -> Array:
        """Ends (N, 2) or (N, targets, 2) of intervals around forecast values; see ``predict_interval``."""
        assert isinstance(self.conformal, (Intervals, SeveralIntervals))
        return self.conformal.around(forecast.raw, forecast.spread, coverage)

    def sets(self, forecast: Forecast, coverage: float) -> Array:
        """Sets (N, classes) for forecast probabilities; see ``predict_sets``."""
        assert isinstance(self.conformal, Sets)
        return self.conformal.of(forecast.raw, coverage)

    def sureness_columns(self, forecast: Forecast, coverage: float) -> dict[str, list[float] | list[str]]:
        """What stands beside predictions in a table: ``low`` and ``high``, or the ``set`` of classes as ``cat|dog``."""
        assert self.conformal is not None
        return self.answers.sureness(self.conformal, forecast, coverage)

    def labels(self, raw: Array) -> Array:
        """Values as they are, probabilities as the most probable label, or as 1 for each that is likely."""
        return self.answers.given(raw)

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
        if self.familiarity is not None:
            self.familiarity.save(folder)
        description = {
            "format": FORMAT,
            "task": self.task,
            "classes": self.classes,
            "target_name": self.target_name,
            "temperature": self.temperature,
            "conformal": _save_conformal(self.conformal, folder),
            "members": [
                {"folder": f"member-{place}", "trial": member.trial, "weight": member.weight}
                for place, member in enumerate(self.members)
            ],
        }
        if self.target_names:
            description["target_names"] = self.target_names
        if self.yardstick is not None:
            description["yardstick"] = asdict(self.yardstick)
        write_json(folder / "predictor.json", description)
        seal(folder, (file for file in folder.rglob("*") if file.is_file() and file.name != SUMS))

    @staticmethod
    def load(folder: Path) -> Predictor:
        """Read a saved predictor, from its own folder or from a run folder; raises RunError if there is none."""
        place = folder / "model" if (folder / "model" / "predictor.json").is_file() else folder
        file = place / "predictor.json"
        if not file.is_file():
            raise RunError(f"{folder} holds no finished model (there is no {file.name} in it).")
        refuse_foreign(place)
        for lost in damaged(place):
            raise RunError(f"{lost} is damaged or missing: it is not what its checksum in {place / SUMS} says.")
        try:
            described = read_json(file)
            if described["format"] != FORMAT:
                raise RunError(f"{file} is of format {described['format']}; this pixelfit reads format {FORMAT}.")
            told = checked(_Told, {name: value for name, value in described.items() if name in _Told.__dataclass_fields__})
            if len({member.folder for member in told.members}) < len(told.members):
                raise ValueError("it names a member twice")
            members = tuple(
                Member(Model.load(inside(place, member.folder)), member.trial, member.weight) for member in told.members
            )
            if not members or any(member.model.spec != members[0].model.spec for member in members):
                raise RunError(f"{file} describes no model.")
            predictor = Predictor(
                told.task,
                told.classes,
                told.target_name,
                members,
                told.temperature,
                _load_conformal(described.get("conformal"), place),
                told.target_names,
                Familiarity.load(place),
                told.yardstick,
            )
            predictor.check_widths()
        except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
            raise RunError(f"{file} cannot be read: {str(error).rstrip('.')}.") from error
        return predictor

    def check_widths(self) -> None:
        """Raise ValueError if what members predict is not of the width that the targets have."""
        targets = len(self.classes or ()) if self.task != "regression" else len(self.target_names) or 1
        for member in self.members:
            empty = torch.zeros(1, member.model.head.outputs)
            width = member.model.head.predict(empty).shape[1:].numel()
            if width != targets:
                raise ValueError(f"its members predict {width:,} numbers a picture, where it has {targets:,}")


def _save_conformal(conformal: Conformal | None, folder: Path) -> Json:
    """Write the scores, and return what else there is to know of them."""
    if conformal is None:
        return None
    with written_beside(folder / _SCORES_FILE) as beside:
        scores = np.stack([one.scores for one in conformal.each]) if isinstance(conformal, SeveralIntervals) else conformal.scores
        save_file({"scores": scores}, beside)
    if isinstance(conformal, Sets):
        return {"kind": "sets"}
    if isinstance(conformal, SeveralIntervals):
        each = [{"floor": one.floor, "scaled": one.scaled} for one in conformal.each]
        return {"kind": "several intervals", "each": each}
    return {"kind": "intervals", "floor": conformal.floor, "scaled": conformal.scaled}


def _load_conformal(described: Json, folder: Path) -> Conformal | None:
    if described is None:
        return None
    scores = load_file(inside(folder, _SCORES_FILE))["scores"]
    if scores.dtype.kind != "f" or scores.ndim != (2 if described["kind"] == "several intervals" else 1):
        raise ValueError(f"{_SCORES_FILE} holds no scores")
    if described["kind"] == "sets":
        return Sets(scores)
    if described["kind"] == "several intervals":
        pieces = zip(scores, described["each"], strict=True)
        return SeveralIntervals(tuple(Intervals(row, float(one["floor"]), bool(one["scaled"])) for row, one in pieces))
    return Intervals(scores, float(described["floor"]), bool(described["scaled"]))
