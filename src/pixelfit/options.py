"""What a user may choose for a run, checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_serializer

from pixelfit.deadline import parse_budget
from pixelfit.errors import OptionError, PixelfitError
from pixelfit.types import CHANGES, METRICS_OF, METRICS_OF_SEVERAL, TASK_WORDS, Columns, Json, Metric, Task
from pixelfit.words import change_words

DEFAULT_BUDGET_S = 600.0
MOST_LEFT_OUT = 0.01
MOST_FOLDS = 20
MOST_WORKERS = 10_000
_SHORTEST_FOLDED_S = 60.0
LEAST_MEMORY = 1_000_000_000
TRACKERS = ("mlflow", "tensorboard")
# What ``MLFLOW_TRACKING_URI`` takes for files of this machine: what stands before their path, and the path.
_LOCAL = re.compile(r"(sqlite(?:\+\w+)?:///(?!:memory:|file:)|file:(?!/)|(?!databricks$|[\w+]+:))(.+)")


def _one_or_several(names: Json) -> Json:
    """The name of one target, or the names of several; raises OptionError if one is named twice."""
    if names is None or isinstance(names, str):
        return names
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise OptionError(f"--target {twice!r} is named twice.")
    return (names[0] if len(names) == 1 else tuple(names)) if len(names) else None


class FitOptions(BaseModel):
    """The options of ``fit``; the same for the command line and the estimators.

    With neither ``budget`` nor ``trials`` the budget is ten minutes. With ``trials`` alone no clock is looked at, so
    that the run can be repeated to the last digit; with both, the budget is an upper bound.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task | None = None
    target: Annotated[str | tuple[str, ...] | None, BeforeValidator(_one_or_several)] = None
    pictures: str | None = None
    group: str | None = None
    test: Json = None  # any source, as ``load_table`` takes them
    max_left_out: Annotated[float | None, Field(ge=0, le=1)] = None
    metric: Metric | None = None
    budget: Annotated[float | None, BeforeValidator(lambda value: None if value is None else parse_budget(value))] = None
    trials: Annotated[int | None, Field(ge=1)] = None
    steps: Annotated[int | None, Field(ge=1)] = None
    max_latency: Annotated[float | None, BeforeValidator(lambda value: None if value is None else parse_latency(value))] = None
    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    workers: Annotated[int | None, Field(ge=1, le=MOST_WORKERS)] = None
    ranks: Annotated[int, Field(ge=1, le=MOST_WORKERS)] = 1
    memory: Annotated[int | None, BeforeValidator(lambda value: None if value is None else parse_memory(value))] = None
    distill: bool = False
    folds: Annotated[int | None, Field(ge=1, le=MOST_FOLDS)] = None
    augment: Annotated[str | None, BeforeValidator(lambda value: None if value is None else parse_changes(value))] = None
    weights: Path | None = None
    backbone: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    out: Path | None = None
    overwrite: bool = False
    resume: bool = False
    data_dir: Path | None = None
    track: Annotated[tuple[str, ...] | None, BeforeValidator(lambda value: None if value is None else parse_trackers(value))] = (
        None
    )

    @property
    def most_left_out(self) -> float:
        """Share of the rows that may be left out, as unreadable or without a target, before that is an error."""
        return MOST_LEFT_OUT if self.max_left_out is None else self.max_left_out

    @property
    def columns(self) -> Columns:
        """Which columns of a table hold what."""
        targets = (self.target,) if isinstance(self.target, str) else self.target or ()
        return Columns(targets, self.pictures, self.group)

    @property
    def folds_wanted(self) -> int | None:
        """In how many folds to cross-validate; None where the number of pictures decides.

        One small or fast model is one model, and a minute is too short for several trainings of each recipe.
        """
        if self.folds is not None:
            return self.folds
        hurried = self.budget_s is not None and self.budget_s < _SHORTEST_FOLDED_S
        return 1 if hurried or self.distill or self.max_latency is not None else None

    @property
    def changes(self) -> tuple[str, ...] | None:
        """The changes of pictures that recipes may make; None where the data are to decide."""
        if self.augment is None:
            return None
        return tuple(name for name in CHANGES if change_words(name) in self.augment.split(","))

    @field_serializer("test")
    def _named(self, test: object) -> str | None:
        return None if test is None else str(test) if isinstance(test, (str, Path)) else "(arrays)"

    @property
    def budget_s(self) -> float | None:
        """Seconds that the whole run may take; None where only the number of trials counts."""
        return DEFAULT_BUDGET_S if self.budget is None and self.trials is None else self.budget


def parse_latency(text: str | float) -> float:
    """Milliseconds in a time such as ``5ms``, ``0.5s`` or a plain number of milliseconds; raises OptionError for others."""
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)?", str(text).strip().lower())
    if parts is None or float(parts[1]) <= 0:
        raise OptionError(f"--max-latency {str(text)!r} is no length of time; write it like 5ms or 0.2s.")
    return float(parts[1]) * (1000 if parts[2] == "s" else 1)


def parse_memory(text: str | int) -> int:
    """Bytes in an amount of memory such as ``2GB``, ``1.5GiB``, ``800MB`` or a plain number of bytes.

    Raises:
        OptionError: the text is no amount of memory, or less than the libraries alone take.
    """
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", str(text).strip().lower())
    if parts is None:
        raise OptionError(f"--memory {str(text)!r} is no amount of memory; write it like 2GB or 800MiB.")
    unit = (1024 if parts[3] else 1000) ** " kmgt".index(parts[2] or " ")
    if float(parts[1]) * unit < LEAST_MEMORY:
        raise OptionError(f"--memory {str(text)!r} is too little: the libraries alone take most of {LEAST_MEMORY / 1e9:g} GB.")
    return int(float(parts[1]) * unit)


def parse_changes(text: str | Sequence[str]) -> str | None:
    """A list of changes of pictures with commas between, in the usual order; ``none``, or None for ``auto``.

    Raises:
        OptionError: a word is no change.
    """
    words = [word.strip().lower().replace("_", "-") for word in (text.split(",") if isinstance(text, str) else text)]
    if words in (["auto"], ["none"]):
        return None if words == ["auto"] else "none"
    known = [change_words(name) for name in CHANGES]
    unknown = [word for word in words if word not in known]
    if unknown or not words:
        raise OptionError(
            f"--augment {unknown[0] if unknown else ''!r} is no change of pictures; take auto, none, or some of "
            f"{', '.join(known)}, with commas between."
        )
    return ",".join(word for word in known if word in words)


def parse_trackers(words: str | Sequence[str]) -> tuple[str, ...] | None:
    """Where a run is tracked: some of ``mlflow:URI`` and ``tensorboard:FOLDER``, with absolute paths.

    What a tracker has been told is kept under its address, so that this must mean the same in every working directory.

    Raises:
        OptionError: a word is neither, or holds a password, which would be kept in the run folder.
    """
    found = (words,) if isinstance(words, str) else tuple(words)
    for word in found:
        kind, _, where = word.partition(":")
        if kind not in TRACKERS or not where:
            raise OptionError(f"--track {word!r} is neither mlflow:URI nor tensorboard:FOLDER.")
        if "@" in where.partition("://")[2].partition("/")[0] or "password=" in where.lower():
            raise OptionError(
                "--track may hold no user and password, which would be kept in the run folder: set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
            )
    return tuple(map(_with_absolute_path, found)) or None


def _with_absolute_path(word: str) -> str:
    kind, _, where = word.partition(":")
    if kind == "tensorboard":
        return f"{kind}:{Path(where).expanduser().absolute()}"
    local = _LOCAL.fullmatch(where)
    return word if local is None else f"{kind}:{local[1]}{Path(local[2]).absolute()}"


def checked_options(**chosen: object) -> FitOptions:
    """Options from what the user wrote; raises OptionError naming the first that cannot be used."""
    try:
        options = FitOptions.model_validate({name: value for name, value in chosen.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, PixelfitError):
            raise cause from None
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise OptionError(f"{option} {first['input']!r} cannot be used: {first['msg'][0].lower()}{first['msg'][1:]}.") from None
    if options.distill and (options.folds or 1) > 1:
        raise OptionError(f"--distill makes one model, and --folds {options.folds} as many as folds: leave one of them out.")
    if options.address is not None and options.engine != "ray":
        raise OptionError("--address is that of a Ray cluster: give --engine ray, too, or leave it out.")
    if options.resume and options.overwrite:
        raise OptionError("--resume goes on with a run, and --overwrite replaces it: leave one of them out.")
    if options.resume and options.out is None:
        raise OptionError("--resume needs the run's folder: give --out, too.")
    if options.task is not None:  # otherwise the task is known only once the data are
        # A classification of several labels a picture is multi-label, which only the data tell.
        metric_for("multilabel" if _may_be_several(options) else options.task, options.metric)
    return options


def _may_be_several(options: FitOptions) -> bool:
    return options.task == "classification" and options.metric in METRICS_OF["multilabel"]


def metric_for(task: Task, wanted: Metric | None, *, several: bool = False) -> Metric:
    """What trials are ranked by: the metric that the user wants, or the task's own; raises OptionError if they do not fit.

    With ``several`` numbers a picture it is the same metric over all of them, each in its standard deviations.
    """
    if wanted is not None and wanted not in METRICS_OF[task] and not (several and wanted in METRICS_OF_SEVERAL.values()):
        words = TASK_WORDS.get(task, task)
        raise OptionError(f"--metric {wanted!r} is not for a {words}, which takes {' or '.join(METRICS_OF[task])}.")
    metric = wanted or METRICS_OF[task][0]
    return METRICS_OF_SEVERAL.get(metric, metric) if several else metric
