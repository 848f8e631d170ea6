"""What the stages hand on to one another: frozen, and with nothing in them that could not be written as JSON or arrays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Task = Literal["regression", "classification", "multilabel"]
# What a picture's target is. A regression has one number or several a picture, each task over labels its own kind.
Kind = Literal["number", "numbers", "label", "labels"]
Metric = Literal[
    "rmse", "mae", "log_loss", "accuracy", "macro_f1", "micro_f1", "mean_ap", "exact_match", "nrmse", "nmae"
]  # fmt: skip
# What trials may be ranked by, the default first. R² is not among them: it ranks as RMSE does. Log loss tells
# classifiers apart more finely than accuracy, which on a few hundred validation pictures is mostly ties.
METRICS_OF: Mapping[Task, tuple[Metric, ...]] = {
    "regression": ("rmse", "mae"),
    "classification": ("log_loss", "accuracy", "macro_f1"),
    "multilabel": ("log_loss", "macro_f1", "micro_f1", "mean_ap", "exact_match"),
}
# Changes of training pictures, by the names that recipes have for them.
CHANGES = (
    "rotate", "scale", "shear", "shift", "flip", "flip_vertical", "turns", "brightness", "contrast", "saturation",
)  # fmt: skip
TASK_WORDS: Mapping[str, str] = {"multilabel": "multi-label classification"}  # where the task's own name is not what people say
# What these become where each picture has several numbers, which may have units of their own.
METRICS_OF_SEVERAL: Mapping[Metric, Metric] = {"rmse": "nrmse", "mae": "nmae"}
BASELINE = "baseline"  # the purpose of the first trial, which answers the same for every picture
FULL_LENGTH = "full length"  # the purpose of trials that are meant to be final
SNAPSHOT = "snapshot"  # the purpose of trials that go on from the weights of such a one, to be averaged with it
DISTILLED = "distilled"  # the purpose of a trial that learns what the ensemble predicts
REFIT = "refit"  # the purpose of a training on all development pictures, of which none is left to tell how good it is
STREAMED = "streamed"  # the purpose of a trial that goes on over all training pictures of shards
SIZES = "learning curve"  # the purpose of trials on a share of the pictures, which show what more of them are worth
Json: TypeAlias = Any
Label: TypeAlias = str | int | float | bool
Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]
PixelScale = Literal["byte", "unit", "wide", "raw"]
Part = Literal["train", "validation", "test"]
TrialState = Literal["complete", "pruned", "interrupted", "failed"]


@dataclass(frozen=True)
class Embedded:
    """A picture's file that is no file of its own: ``load`` gives its bytes."""

    load: Callable[[], bytes]


PictureFile: TypeAlias = Path | Embedded


@dataclass(frozen=True)
class LeftOut:
    """A row of the user's data that cannot be used, and why."""

    ref: str
    reason: str


@dataclass(frozen=True)
class Table:
    """One row a picture: where it is, and its target. Nothing is decoded yet.

    Exactly one of ``files`` and ``arrays`` is given. ``refs`` are the words by which a row is named to the user
    (a file name, or ``row 17``). ``parts`` says for each row in which part of the data its owner put it, ``""`` where
    pixelfit is to choose; ``groups`` names things that belong together, such as the pictures of one patient.
    Rows that were left out already are in ``left_out`` and nowhere else.

    ``targets`` are one number or label a row (N,), a tuple of labels or numbers a row (N,), or numbers (N, T) with a name
    for each column in ``target_names``.
    """

    name: str
    refs: tuple[str, ...]
    targets: Array
    target_name: str
    files: tuple[PictureFile, ...] | None = None
    arrays: Array | None = None
    parts: Array | None = None  # (N,) of Part or ""
    groups: Array | None = None  # (N,) text
    group_name: str = ""
    targets_are_folder_names: bool = False
    studied: bool = False  # a named data set, which others have looked through: near duplicates are not looked for
    left_out: tuple[LeftOut, ...] = ()
    target_names: tuple[str, ...] = ()  # of the columns of ``targets``, where it has several


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what; None, or no target, where pixelfit is to find out, or there is no such column."""

    targets: tuple[str, ...] = ()
    pictures: str | None = None
    group: str | None = None

    def named(self) -> tuple[tuple[str, str], ...]:
        """The columns that the user named, each with its option."""
        options = [*(("target", name) for name in self.targets), ("pictures", self.pictures), ("group", self.group)]
        return tuple((option, name) for option, name in options if name is not None)


UNNAMED = Columns()


@dataclass(frozen=True)
class PictureSpec:
    """The form in which models see pictures: ``height`` × ``width`` pixels, ``channels`` (1 grey, 3 colour).

    ``scale`` says what the numbers mean: ``byte`` 0 to 255, ``unit`` 0 to 1 (kept as 0 to 255 in floats), ``wide`` 0 to
    65,535 (in floats), ``raw`` anything else, taken as it is.
    """

    height: int
    width: int
    channels: int
    scale: PixelScale = "byte"

    def within(self, longest: int) -> PictureSpec:
        """The same form with the longer side made at most ``longest`` pixels, in proportion; 0 leaves it as it is."""
        shrink = min(1.0, longest / max(self.height, self.width)) if longest else 1.0
        return replace(self, height=max(1, round(self.height * shrink)), width=max(1, round(self.width * shrink)))


@dataclass(frozen=True)
class Pictures:
    """Every usable picture, decoded: ``store`` of shape (N, height, width, channels), uint8 or float32.

    ``rows`` gives for each picture its row in the table; pictures of the same number in ``groups`` have the same pixels.
    """

    store: Array
    rows: Ints
    groups: Ints
    spec: PictureSpec
    left_out: tuple[LeftOut, ...]
    original_sizes: Ints  # (N, 2): height and width in the source, in pixels
    kinds: tuple[str, ...]  # (N,): format and mode of each file; none for arrays


@dataclass(frozen=True)
class Finding:
    """Something about the data that their owner should know, with the rows that show it."""

    kind: str
    text: str  # a sentence
    count: int = 0  # rows concerned; 0 where it concerns all
    refs: tuple[str, ...] = ()  # the first of them


@dataclass(frozen=True)
class Yardstick:
    """What has to be known of targets to measure predictions of them; ``Facts`` explain each."""

    kind: Kind
    metric: Metric
    whole_numbers: bool
    target_scales: tuple[float, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What inspection found: the task and why, the classes, sizes, duplicates, and what is odd."""

    data: str
    target_name: str
    task: Task
    task_reason: str
    metric: Metric  # what trials are ranked by
    rows_given: int
    rows: int  # those that are used
    left_out: tuple[LeftOut, ...]  # the others, each with its reason
    spec: PictureSpec
    original_height: tuple[int, int]  # smallest and largest, in pixels
    original_width: tuple[int, int]
    kinds: Mapping[str, int]  # pictures of each format and mode
    classes: tuple[Label, ...] | None
    whole_numbers: bool  # over a range so narrow that a prediction may be rounded to one of them
    distinct_targets: int
    target_range: tuple[float, float] | None
    duplicate_groups: int  # of pictures with the same pixels
    duplicate_rows: int
    near_groups: int  # of pictures that are nearly the same
    near_rows: int
    studied: bool  # whether near duplicates were not looked for
    findings: tuple[Finding, ...] = ()
    # Of each target where a picture has several numbers; empty for all other kinds.
    target_names: tuple[str, ...] = ()
    target_ranges: tuple[tuple[float, float], ...] = ()
    target_scales: tuple[float, ...] = ()  # standard deviation in the development data: errors are counted in it
    fingerprint: str = ""  # of the pictures as decoded and their targets: the same for the same data in the same order

    @property
    def kind(self) -> Kind:
        """What a picture's target is."""
        return kind_of(self.task, several=bool(self.target_names))

    @property
    def yardstick(self) -> Yardstick:
        """How predictions of such targets are measured."""
        return Yardstick(self.kind, self.metric, self.whole_numbers, self.target_scales)

    def to_json(self) -> dict[str, Json]:
        """The facts as JSON; what only several targets have is left out for one."""
        record = asdict(self)
        return record if self.target_names else {name: value for name, value in record.items() if name not in _OF_SEVERAL}

    @staticmethod
    def from_json(record: Mapping[str, Json]) -> Facts:
        """The facts that ``to_json`` wrote."""
        plain: Json = {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}
        plain["spec"] = PictureSpec(**record["spec"])
        plain["left_out"] = tuple(LeftOut(**each) for each in record["left_out"])
        plain["findings"] = tuple(Finding(**{**each, "refs": tuple(each["refs"])}) for each in record["findings"])
        plain["target_ranges"] = tuple(map(tuple, record.get("target_ranges", ())))
        return Facts(**plain)


_OF_SEVERAL = frozenset({"target_names", "target_ranges", "target_scales"})


def kind_of(task: str, *, several: bool) -> Kind:
    """What a picture's target is, where it is a single number or label, or several."""
    if task == "regression":
        return "numbers" if several else "number"
    return "labels" if task == "multilabel" else "label"


@dataclass(frozen=True)
class Inspected:
    """What inspection hands on: the facts, targets as numbers, and which pictures belong together."""

    facts: Facts
    # (N,) float64, or int64 positions in ``facts.classes``; for several (N, T) float64, or (N, labels) int64 of 0 and 1
    targets: Array
    together: Ints  # (N,): pictures of one number must be on one side of a split


@dataclass(frozen=True)
class Examples:
    """Rows of a picture store with their targets: float64 numbers, or int64 positions in ``Facts.classes``.

    Several numbers a picture are a column each. Of several labels each of ``Facts.classes`` has a column of 0 and 1 (int64).
    """

    store: Array
    rows: Ints  # (N,) positions in the store
    targets: Array  # (N,), (N, targets) or (N, labels)
    refs: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def every(self, step: int) -> Examples:
        """Each ``step``-th of them."""
        return Examples(self.store, self.rows[::step], self.targets[::step], self.refs[::step])

    @staticmethod
    def joined(parts: Sequence[Examples]) -> Examples:
        """Examples of one store, one after the other."""
        return Examples(
            parts[0].store,
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.targets for part in parts]),
            tuple(ref for part in parts for ref in part.refs),
        )


class SealedTest:
    """The test set, which can be opened once. ``evaluate.py`` is its only reader."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples
        self._opened = False
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._examples)

    def open(self) -> Examples:
        """Hand out the test examples; a second call raises RuntimeError, since a test set is read once."""
        with self._lock:
            if self._opened:
                raise RuntimeError("The test set has been opened already: it is read once, after everything is chosen.")
            self._opened = True
        return self._examples


@dataclass(frozen=True)
class Forecast:
    """Predictions, and how sure they are."""

    raw: Array  # values (N,) or (N, targets), or probabilities (N, classes)
    # (N,), or (N, targets) for several: standard deviations in the target's unit; zeros where no distribution is predicted
    spread: Array
    uncalibrated: Array  # as ``raw``, but with every temperature at 1


@dataclass(frozen=True)
class Strangeness:
    """How unlike the training pictures others are, (N,), above 1 what 1 in 100 of their kind is; and the nearest, (N, n)."""

    values: Array
    nearest: Array


@dataclass(frozen=True)
class Fold:
    """Pictures to train on, and others that tell how good the training was."""

    train: Examples
    validation: Examples


@dataclass(frozen=True)
class Splits:
    """Development data in one fold (train and validation) or several, and the sealed test set.

    With several folds each development picture is in the validation part of one of them, and in the others' train parts.
    """

    folds: tuple[Fold, ...]
    test: SealedTest
    how: str
    original_sizes: Ints  # (pictures in the store, 2): height and width in the source, in pixels
    kinds: tuple[str, ...]  # format and mode of each picture's file; none for arrays

    @property
    def train(self) -> Examples:
        """Every picture that is trained on: with several folds, all of the development data."""
        return self.folds[0].train if len(self.folds) == 1 else self.validation

    @property
    def development(self) -> dict[str, Examples]:
        """The development data by part: train and validation, or all of it where it is in several folds."""
        if len(self.folds) > 1:
            return {"development": self.validation}
        return {"train": self.train, "validation": self.validation}

    @cached_property
    def validation(self) -> Examples:
        """Every picture that is validated with, the folds' one after the other."""
        parts = [fold.validation for fold in self.folds]
        return parts[0] if len(parts) == 1 else Examples.joined(parts)


@dataclass(frozen=True)
class Reference:
    """Somebody else's published figures on the same data, shown beside ours."""

    name: str
    task: Task
    metrics: Mapping[str, float]
    note: str


@dataclass(frozen=True)
class Trial:
    """One recipe tried: what it was, how far it came, what it scored on validation data.

    ``metrics`` holds every validation metric, the one that ranks first; it is empty for a failed trial. ``score`` is
    that metric turned so that smaller is better (``metrics.cost``).
    """

    number: int
    family: str
    purpose: str  # "baseline", "portfolio", "second round", "sampled", "full length", ...
    recipe: Mapping[str, Json]
    state: TrialState
    seed: int
    seconds: float
    steps: int = 0
    epochs: float = 0.0
    parameters: int = 0
    score: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    step_s: float = 0.0  # of ``seconds``, those in training steps
    averaged: bool = False  # whether the weights are an average over the last steps
    predict_ms: float | None = None  # milliseconds a picture, in batches
    latency_ms: float | None = None  # milliseconds for one picture alone
    planned: int = 0  # steps, before any of ``replans``
    replans: Sequence[tuple[int, int]] = ()
    out_of_time_at: int = 0  # which question whether there was time left was the first to be answered with no; 0: none
    error: str | None = None
    best_at_step: int = 0
    continues: int | None = None  # the number of the trial from whose weights it went on
    folds: int = 1  # models, each trained on a fold of its own; ``steps`` and ``epochs`` are those of each
    share: float = 1.0  # of the training pictures that it was trained on
    interval: tuple[float, float] | None = None  # 95 %, of the metric that trials are ranked by; None for a failed trial
    looks: Sequence[tuple[int, float]] = ()  # the first fold's scores, each after so many eighths of its steps
    threads: int = 0  # with which it was trained; 0: all that the machine has
    ranks: int = 1  # processes over which each training was divided
    tried_again: Sequence[str] = ()  # what became of each attempt before the one that this is

    @staticmethod
    def from_json(record: Mapping[str, Json]) -> Trial:
        """The trial whose fields were written as JSON."""
        interval = record["interval"]
        pairs = {name: tuple((step, value) for step, value in record.get(name, ())) for name in ("replans", "looks")}
        known = {**record, "interval": interval and (interval[0], interval[1]), **pairs}
        return Trial(**{**known, "tried_again": tuple(record.get("tried_again", ()))})


@dataclass(frozen=True)
class Interval:
    """A metric's value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Picture:
    """A picture that the report shows, with what is known of it."""

    kind: str  # "sample" of the training set, "worst" mistake on the test set, ..., or the kind of a finding
    picture: Array  # (height, width, channels)
    ref: str
    target: Label
    prediction: Label | None = None
    note: str = ""
    # (height, width), from -1 to 1: which parts lowered (below 0) and raised the prediction; None where nobody asked
    heat: Array | None = None


@dataclass(frozen=True)
class Slice:
    """Test pictures that have something in common, and how good the model is on them."""

    name: str
    rows: int
    score: Interval


@dataclass(frozen=True)
class Slicing:
    """The test pictures parted by one property, such as their brightness; ``unit`` is what its numbers are in."""

    by: str
    unit: str
    metric: str
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class Likeness:
    """How well test pictures can be told from development pictures (a classifier two-sample test: Lopez-Paz & Oquab 2017).

    ``auc`` is 0.5 where they cannot be, and 1 where each can. ``target_p`` is the probability that targets of one
    distribution differ as much as those of the two parts do, by the test named in ``target_test``.
    """

    auc: Interval
    rows: int  # pictures of both parts that were looked at
    telling: tuple[str, ...]  # the properties in which the parts differ most, if they do
    target_p: float | None
    target_test: str


@dataclass(frozen=True)
class RangeCoverage:
    """How often the prediction interval held the target, among test pictures with targets from ``low`` to ``high``."""

    low: float
    high: float
    rows: int
    covered: Interval
    mean_width: float


@dataclass(frozen=True)
class IntervalScores:
    """Prediction intervals on the test set, beside split-conformal intervals of one width for every picture.

    ``pinball`` is the mean pinball loss of the lower and the upper end as quantiles, in the target's unit.
    """

    coverage: float  # what was asked for
    calibrated_on: int  # validation pictures
    scaled: bool  # whether widths differ from picture to picture
    covered: Interval
    mean_width: float
    pinball: float
    constant_covered: Interval
    constant_width: float
    constant_pinball: float
    ranges: tuple[RangeCoverage, ...]  # from small to large targets


@dataclass(frozen=True)
class ClassCoverage:
    """How often the prediction set held the class, among test pictures of this class."""

    label: Label
    rows: int
    covered: Interval
    mean_size: float


@dataclass(frozen=True)
class SetScores:
    """Prediction sets on the test set."""

    coverage: float  # what was asked for
    calibrated_on: int  # validation pictures
    covered: Interval
    mean_size: float  # classes
    classes: tuple[ClassCoverage, ...]  # least covered first


@dataclass(frozen=True)
class ReliabilityBin:
    """Test pictures whose most probable class has a probability above ``low`` and up to ``high``."""

    low: float
    high: float
    rows: int
    confidence: float  # mean probability of the most probable class; 0 in an empty bin
    accuracy: float


@dataclass(frozen=True)
class Reliability:
    """Expected calibration error on the test set, after calibration and with every temperature at 1."""

    error: float
    error_before: float
    bins: tuple[ReliabilityBin, ...]
    bins_before: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class TargetScores:
    """One of several numbers a picture, on the test set."""

    name: str
    test: Mapping[str, Interval]
    baseline: Mapping[str, Interval]
    intervals: IntervalScores | None


@dataclass(frozen=True)
class LabelScores:
    """One of several labels a picture, on the test set; a figure is None where no picture has the label, or is said to."""

    label: Label
    rows: int  # test pictures that have it
    predicted: int  # test pictures that are said to have it
    precision: float | None
    recall: float | None
    f1: float | None
    average_precision: float | None


@dataclass(frozen=True)
class Scores:
    """The one look at the test set: the final model's metrics and the baseline's, and how sure it may be.

    ``intervals`` or ``sets`` is None where the validation set is too small to calibrate them.
    """

    test: Mapping[str, Interval]
    baseline: Mapping[str, Interval]
    rows: int
    confusion: tuple[tuple[int, ...], ...] | None = None
    intervals: IntervalScores | None = None
    sets: SetScores | None = None
    reliability: Reliability | None = None
    targets: tuple[TargetScores, ...] = ()  # of several numbers a picture
    labels: tuple[LabelScores, ...] = ()  # of several labels a picture
