"""How a run begins, what it began with, and whether that is still there: for one that goes on, and for one that is repeated."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pixelfit.data.places import without_query
from pixelfit.data.reading import read
from pixelfit.data.sources import Source, name_of
from pixelfit.deadline import Deadline
from pixelfit.environment import environment
from pixelfit.errors import PixelfitError, RunError
from pixelfit.models.pretrained import offered
from pixelfit.options import FitOptions, checked_options
from pixelfit.progress import Progress, Silent
from pixelfit.runlog import logged
from pixelfit.runs import RunFolder
from pixelfit.training.machine import Machine, adopted, machine
from pixelfit.types import Facts, Json, Splits

# Options that say where a run is and how it begins, not what it does.
_ABOUT_THE_FOLDER = ("out", "overwrite", "resume")
# Options that say what a run is done with: it may go on with others.
_MEANS = ("engine", "address", "workers", "ranks", "track")
_PATHS = ("test", "weights", "data_dir")  # options that may be relative to the folder in which the run was begun
_AS_BEFORE: Mapping[str, Json] = {}


@contextmanager
def begin(
    source: Source, options: FitOptions, deadline: Deadline, progress: Progress
) -> Iterator[tuple[RunFolder, Facts, Splits]]:
    """A run folder for this process alone, and the data; within this block the folder's log is written.

    The folder says what is run before anything is read, so that a run can go on whatever ends it. If the data or options
    cannot be used, it is taken away again. A run that is to be replaced stays until its successor's data have been read.

    Raises:
        PixelfitError: the data or options cannot be used, or the folder cannot.
    """
    path = Path("runs") / name_of(source) if options.out is None else options.out
    folder = (
        RunFolder.create_free(path) if options.out is None else RunFolder.create(path, taken=options.overwrite or options.resume)
    )
    with folder.kept_for_itself(overwrite=options.overwrite, resume=options.resume), ExitStack() as during:
        spent_s = 0.0
        going_on = options.resume and folder.has_begun()
        replaces = folder.has_begun() and not going_on
        if going_on:
            refuse_other_options(folder, options)
            spent_s = folder.spent_s()
            deadline.add(spent_s)
            progress.went_before(spent_s)
        elif not replaces:
            during.enter_context(folder.gone_if_refused())
            folder.write_run(description(source, options))
        if not replaces:
            during.enter_context(logged(folder.log_file, deadline))
        facts, splits = read(source, options, progress)
        if going_on:
            refuse_other_data(folder, facts)
            folder.reopen()
            progress.say(f"Going on with the run in {folder.path}, which has taken {spent_s:.0f} s so far.")
        elif replaces:
            offered(facts, options.weights, options.backbone, Silent())  # or it is refused while the old run is still there
            folder.clear()
            folder.write_run(description(source, options))
            during.enter_context(logged(folder.log_file, deadline))
        yield folder, facts, splits


def description(source: Source, options: FitOptions) -> Json:
    """What ``run.json`` says of a run that begins: what was asked for, where, and what it runs on."""
    given = str(source) if isinstance(source, (str, Path)) else None
    kept = given and without_query(given)
    return {
        "source": kept,
        "has_secret_query": kept != given,
        "begun_in": str(Path.cwd()),
        "options": options.model_dump(mode="json"),
        "budget_s": options.budget_s,
        "environment": environment(),
    }


def begun(path: Path, means: Mapping[str, Json] = _AS_BEFORE) -> tuple[str, FitOptions]:
    """The source and the options of the run in this folder, to go on with; ``means`` are those that have changed since.

    Raises:
        RunError: there is no run that can go on; the message says why.
    """
    folder = RunFolder.existing(path)
    source, options = _asked(folder, "go on with the same again, from Python with resume=True or by pixelfit fit --resume")
    return source, checked_options(**{**options, **means, "out": path, "resume": True})


def read_again(folder: RunFolder, progress: Progress) -> tuple[Facts, Splits]:
    """The run's facts and parts, made again from its source; raises RunError if that is gone or has changed."""
    source, options = _asked(folder, "fit it from files")
    known = folder.read("facts.json")
    if not known.get("fingerprint"):
        raise RunError(f"The run in {folder.path} is of an older pixelfit, which wrote no fingerprint of its data; fit it again.")
    try:
        facts, splits = read(source, checked_options(**options), progress)
    except PixelfitError as error:
        raise RunError(f"The data of the run in {folder.path} cannot be read again: {error}") from error
    if facts.fingerprint != known["fingerprint"]:
        raise RunError(f"{source} has changed since the run in {folder.path} was made; fit it again.")
    return facts, splits


@contextmanager
def as_begun(folder: RunFolder) -> Iterator[None]:
    """Within this block trainings run with the threads and in the precision that the run began with.

    A run that has trained nothing yet measures what the machine does best, and writes it down.
    """
    record = folder.read("run.json")
    try:
        recorded = record["environment"].get("training")
        known = None if recorded is None else Machine(**recorded)
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder.path / 'run.json'} was written by another version of pixelfit, which cannot be read.") from error
    if known is None:
        known = machine()
        folder.write_run({**record, "environment": {**record["environment"], "training": known.to_json()}})
    with adopted(known):
        yield


def _asked(folder: RunFolder, otherwise: str) -> tuple[str, dict[str, Json]]:
    """The source of a run and its options, but for those about its folder; paths as seen from here."""
    record = folder.read("run.json")
    try:
        source, options, where = record["source"], dict(record["options"]), Path(record.get("begun_in", ""))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{folder.path / 'run.json'} was written by another version of pixelfit, which cannot be read.") from error
    in_memory = source is None or options.get("test") == "(arrays)"
    if in_memory or record.get("has_secret_query"):
        what = "arrays in memory, which it does not keep" if in_memory else "a web address with a query, which it does not keep"
        raise RunError(f"The run in {folder.path} was made from {what}: {otherwise}.")
    for name in _PATHS:
        if options.get(name) is not None:
            options[name] = _found(str(options[name]), where)
    return _found(source, where), {name: value for name, value in options.items() if name not in _ABOUT_THE_FOLDER}


def refuse_other_options(folder: RunFolder, options: FitOptions) -> None:
    """Raise RunError if the run is finished, or began with other options."""
    if folder.is_finished():
        raise RunError(f"The run in {folder.path} is finished; its report is {folder.report_file}.")
    before = folder.read("run.json")["options"]
    now = json.loads(json.dumps(options.model_dump(mode="json")))
    for name in now:
        if name not in (*_ABOUT_THE_FOLDER, *_PATHS, *_MEANS) and now[name] != before.get(name):
            option = "--" + name.replace("_", "-")
            raise RunError(
                f"The run in {folder.path} began with another {option} ({before.get(name)}, now {now[name]}); "
                "it goes on with what it began with, or not at all."
            )


def refuse_other_data(folder: RunFolder, facts: Facts) -> None:
    """Raise RunError if the run began with other data."""
    if (folder.path / "data.json").is_file() and folder.read("facts.json") != json.loads(json.dumps(facts.to_json())):
        raise RunError(
            f"The data are not those that the run in {folder.path} began with, so it cannot go on; "
            "begin another run, or this one anew with --overwrite."
        )


def _found(path: str, where: Path) -> str:
    """The path as seen from here, if it was one where the run began; otherwise the word that it is."""
    return str(where / path) if (where / path).exists() else path
