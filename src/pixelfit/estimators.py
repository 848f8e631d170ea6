"""scikit-learn-style estimators over ``automl.fit``."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from rich.console import Console
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from pixelfit import metrics
from pixelfit.automl import Run, fit
from pixelfit.data.sources import Source
from pixelfit.display import Display
from pixelfit.options import checked_options
from pixelfit.predictor import COVERAGE
from pixelfit.progress import Silent
from pixelfit.types import Array, Metric, Task


class _ImageEstimator(BaseEstimator):
    """What both estimators share.

    Args:
        budget: time for the whole of ``fit``, such as ``"10m"`` or a number of seconds. Default, unless ``trials``
            is given: ten minutes.
        trials: number of trials; without ``budget`` the fit then repeats exactly.
        steps: training steps of each trial, instead of what its time allows.
        metric: what trials are ranked by: ``"rmse"`` (default) or ``"mae"``; for classes ``"log_loss"`` (default),
            ``"accuracy"`` or ``"macro_f1"``; for several labels a picture ``"log_loss"`` (default), ``"macro_f1"``,
            ``"micro_f1"``, ``"mean_ap"`` or ``"exact_match"``.
        max_latency: longest time that the model may take for one picture, such as ``"5ms"`` or a number of milliseconds.
        engine: where trials run: ``"local"``, or ``"ray"`` for a Ray cluster.
        address: of the Ray cluster: ``"auto"`` or ``"HOST:PORT"``. Default: one that is started for this fit.
        workers: trials side by side. Default: one here, or one a GPU; on Ray as many as there is room for.
        ranks: workers of the cluster, or GPUs here, over which each long training that runs alone is divided.
        memory: what the search and a trial may take together, such as ``"2GB"``. Default: what there is.
        distill: whether one small model is to learn what the best ensemble predicts, and take its place.
        folds: folds of a cross-validation; 1 for a single validation set. Default: 5 where pictures are few.
        augment: changes of training pictures that leave the target alone: ``"auto"`` (default) finds them out from the data,
            ``"none"``, or a list of words such as ``"rotate,flip"`` or ``["rotate", "flip"]``.
        weights: file of pretrained weights for the backbone, safetensors or a torch file.
        backbone: timm's name of the pretrained backbone. Default: ``"efficientnet_lite0"``.
        max_left_out: share of the rows that may be left out because they cannot be used, before that is an error.
            Default: 0.01.
        seed: seed of every random choice.
        out: run folder to make. Default: a new one under ``runs/`` in the current folder.
        resume: go on with the run in ``out``, if there is one that was broken off.
        track: where the run is tracked, too: ``"mlflow:URI"``, ``"tensorboard:FOLDER"``, or a list of such.
        verbose: whether progress is printed.
    """

    _task: Task

    def __init__(
        self,
        *,
        budget: str | float | None = None,
        trials: int | None = None,
        steps: int | None = None,
        metric: Metric | None = None,
        max_latency: str | float | None = None,
        engine: str = "local",
        address: str | None = None,
        workers: int | None = None,
        ranks: int = 1,
        memory: str | int | None = None,
        distill: bool = False,
        folds: int | None = None,
        augment: str | Sequence[str] | None = None,
        weights: str | Path | None = None,
        backbone: str | None = None,
        max_left_out: float | None = None,
        seed: int = 0,
        out: str | Path | None = None,
        resume: bool = False,
        track: str | Sequence[str] | None = None,
        verbose: bool = False,
    ) -> None:
        self.budget = budget
        self.trials = trials
        self.steps = steps
        self.metric = metric
        self.max_latency = max_latency
        self.engine = engine
        self.address = address
        self.workers = workers
        self.ranks = ranks
        self.memory = memory
        self.distill = distill
        self.folds = folds
        self.augment = augment
        self.weights = weights
        self.backbone = backbone
        self.max_left_out = max_left_out
        self.seed = seed
        self.out = out
        self.resume = resume
        self.track = track
        self.verbose = verbose

    def fit(
        self,
        X: object,
        y: object = None,
        *,
        target: str | Sequence[str] | None = None,
        pictures: str | None = None,
        group: str | None = None,
        test: object = None,
        data_dir: str | Path | None = None,
    ) -> Self:
        """Search for the best model, measure it once on pictures set aside, and write the report.

        Args:
            X: pictures as an array of shape (N, H, W) or (N, H, W, C), uint8 or float, or a list of N paths; or,
                without ``y``, anything that ``pixelfit fit`` takes (a folder, a table's file, an archive, a data set's
                name), a pandas DataFrame with a column of paths, or a ``Dataset`` of the package ``datasets``.
            y: N targets; for a regressor also (N, T), several numbers a picture; for a classifier also (N, labels) of 0 and 1,
                or a list of labels for each picture.
            target: the target column of a table, or several columns of numbers.
            pictures: its column of paths.
            group: its column that names what belongs together and must not be parted by a split.
            test: a source like X, or a pair like ``(X, y)``, whose pictures are the test set.
            data_dir: where the files of a named data set lie.

        Raises:
            PixelfitError: X or y cannot be used; the message says which row or file, and why.
        """
        options = checked_options(
            task=self._task,
            budget=self.budget,
            trials=self.trials,
            steps=self.steps,
            metric=self.metric,
            max_latency=self.max_latency,
            engine=self.engine,
            address=self.address,
            workers=self.workers,
            ranks=self.ranks,
            memory=self.memory,
            distill=self.distill,
            folds=self.folds,
            augment=self.augment,
            weights=self.weights,
            backbone=self.backbone,
            max_left_out=self.max_left_out,
            seed=self.seed,
            out=self.out,
            resume=self.resume,
            track=self.track,
            target=target,
            pictures=pictures,
            group=group,
            test=test,
            data_dir=data_dir,
        )
        started = time.monotonic()
        source: Source = (X, y) if y is not None or isinstance(X, (list, np.ndarray)) else X  # type: ignore[assignment]
        shows = Display(Console(highlight=False), budget_s=options.budget_s, started=started) if self.verbose else None
        with shows or nullcontext():
            self.run_: Run = fit(source, options, progress=shows or Silent(), started=started)
        self.predictor_ = self.run_.predictor
        return self

    def predict(self, X: object) -> Array:
        """Predictions for an array of pictures or a list of paths, shape (N,); several numbers or labels are a column each."""
        check_is_fitted(self)
        return self.predictor_.predict(X)

    def leaderboard(self) -> pd.DataFrame:
        """The trials, best first, a row each."""
        check_is_fitted(self)
        return pd.read_csv(self.run_.folder.path / "leaderboard.csv")

    def report(self, path: str | Path) -> Path:
        """Copy the report to ``path`` and return it."""
        check_is_fitted(self)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copyfile(self.run_.folder.report_file, path))

    def save(self, path: str | Path) -> Path:
        """Write the model into the folder ``path``, for ``pixelfit.load``."""
        check_is_fitted(self)
        self.predictor_.save(Path(path))
        return Path(path)


class ImageRegressor(RegressorMixin, _ImageEstimator):
    """Predicts a number for each picture, or several.

    After ``fit``: ``predictor_`` is the model, ``run_`` the run with its scores and folder.
    """

    _task: Task = "regression"

    def predict_interval(self, X: object, coverage: float = COVERAGE) -> Array:
        """Lower and upper ends that hold the true value in a share ``coverage`` of new pictures, shape (N, 2).

        For several numbers a picture the shape is (N, T, 2), and the coverage that of each for itself.
        """
        check_is_fitted(self)
        return self.predictor_.predict_interval(X, coverage)

    def score(self, X: object, y: Array) -> float:
        """R² of the predictions for X against y; of several numbers a picture, the mean of their R²."""
        predicted = self.predict(X)
        return (metrics.r2 if predicted.ndim == 1 else metrics.mean_r2)(_numbers(y), predicted)


class ImageClassifier(ClassifierMixin, _ImageEstimator):
    """Predicts a label for each picture, or several.

    Several are 0 and 1 of shape (N, labels), as scikit-learn has them, a column each in the order of ``classes_``.

    After ``fit``: ``predictor_`` is the model, ``classes_`` its labels, ``run_`` the run with its scores and folder.
    """

    _task: Task = "classification"

    @property
    def classes_(self) -> Array:
        """The labels, in the order of ``predict_proba``'s columns."""
        check_is_fitted(self, "predictor_")
        return pd.Series(self.predictor_.classes).to_numpy()

    def predict_proba(self, X: object) -> Array:
        """Probabilities of the classes in the order of ``classes_``, shape (N, classes)."""
        check_is_fitted(self)
        return self.predictor_.predict_proba(X)

    def predict_sets(self, X: object, coverage: float = COVERAGE) -> Array:
        """Which classes are in sets that hold the true one in a share ``coverage`` of new pictures.

        Returns:
            Booleans of shape (N, classes) in the order of ``classes_``, at least one True in each row.
        """
        check_is_fitted(self)
        return self.predictor_.predict_sets(X, coverage)

    def score(self, X: object, y: Array) -> float:
        """Share of the pictures X whose predicted label is that in y, or whose labels are all those in y."""
        predicted = self.predict(X)
        if predicted.ndim > 1:
            return float((predicted == self._zeros_and_ones(y)).all(axis=1).mean())
        return float((predicted == pd.Series(y).to_numpy()).mean())

    def _zeros_and_ones(self, y: object) -> Array:
        """Several labels a picture, given as a list for each or as 0 and 1 already, as 0 and 1 of shape (N, labels)."""
        if isinstance(y, np.ndarray) and y.ndim == 2:
            return y
        rows: list[Sequence[object]] = list(y)  # type: ignore[call-overload]
        classes = self.classes_.tolist()
        return np.array([[int(label in row) for label in classes] for row in rows])


def _numbers(y: object) -> Array:
    return np.asarray(y, dtype=np.float64) if np.ndim(y) > 1 else pd.Series(y).to_numpy(dtype="float64")  # type: ignore[arg-type]
