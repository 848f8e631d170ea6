"""The run folder: everything about a run, in files that a kill at any moment leaves readable."""

from __future__ import annotations

import csv
import errno
import io
import itertools
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pixelfit.data.arrays import read_npz
from pixelfit.data.targets import shown_targets
from pixelfit.errors import DataError, PixelfitError, RunError
from pixelfit.files import read_json, read_rows, write_json, write_rows, write_text, written_beside
from pixelfit.runlog import read_lines
from pixelfit.sealed import SUMS, damaged, is_sealed, refuse_damaged, refuse_foreign, seal
from pixelfit.types import Array, Examples, Facts, Forecast, Json, Picture, PictureSpec, Scores, Trial
from pixelfit.words import value_words

LEADERBOARD_COLUMNS = (
    "rank", "trial", "family", "head", "purpose", "state", "ranked_by", "score", "weight", "epochs", "steps", "seconds",
    "parameters", "predict_ms", "error",
)  # fmt: skip

_LARGEST_PNG, _LARGEST_SHOWN = 64, 224  # pixels; a gallery shows them at 112, on sharp screens with twice as many
# Over a picture, where it raised the prediction and where it lowered it: Okabe & Ito's vermilion and blue.
_RAISED, _LOWERED = (213, 94, 0), (0, 114, 178)
_OVERLAY = 0.8  # of the strongest part
_THUMBNAIL_QUALITY = 70  # of WebP
_LOCK_FILE = ".lock"
_HELD_OUT_FILE = "held-out.safetensors"
_MOST_HELD_OUT, _MOST_HELD_OUT_BYTES = 1_000, 8 << 20
_TEACHINGS_FILE = "teachings.safetensors"
_TRACKING_FILE = "tracking.json"
_REMEMBERED_FILE, _REMEMBERED_NAMES = "remembered.safetensors", "remembered.json"
_MOST_REMEMBERED_BYTES = 8 << 20  # 52 pixels a side for 1,000 in colour


@dataclass(frozen=True)
class HeldOut:
    """Some validation pictures as they are stored, (N, height, width, channels), with their targets: to check a model with."""

    pictures: Array
    targets: Array

    @staticmethod
    def of(validation: Examples) -> HeldOut:
        """As many as a small file holds, evenly from all over them."""
        room = _MOST_HELD_OUT_BYTES // max(1, validation.store[0].nbytes)
        chosen = validation.every(math.ceil(len(validation) / max(1, min(_MOST_HELD_OUT, room))))
        return HeldOut(np.ascontiguousarray(chosen.store[chosen.rows]), chosen.targets)


@dataclass(frozen=True)
class Remembered:
    """The training pictures that the model compares new ones with, small, (N, height, width, 1 or 3), with their targets."""

    pictures: Array
    names: tuple[str, ...]
    targets: tuple[str, ...]

    @staticmethod
    def of(examples: Examples, facts: Facts) -> Remembered:
        """As large as a small file allows."""
        spec = facts.spec
        room = _MOST_REMEMBERED_BYTES // (len(examples) * min(3, spec.channels))
        small = spec.within(max(1, int(math.sqrt(room))))
        drawn = [drawable(examples.store[row], spec).resize((small.width, small.height)) for row in examples.rows]
        pictures = np.stack([np.asarray(picture) for picture in drawn])
        targets = shown_targets(facts, examples.targets)
        words = tuple(map(value_words, targets))
        return Remembered(pictures.reshape(*pictures.shape[:3], -1), examples.refs, words)

    def picture(self, place: int) -> Image.Image:
        """One of them."""
        pixels = self.pictures[place]
        return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


class Saveable(Protocol):
    """Anything that can write itself into a folder."""

    def save(self, folder: Path) -> None:
        """Write into the folder."""


class RunFolder:
    """A run's folder. Methods write or read one thing each."""

    def __init__(self, path: Path, made: Sequence[Path] = ()) -> None:
        self.path = path
        self._made = tuple(made)  # the folders that were not there before, this one first

    @staticmethod
    def create(path: Path, *, taken: bool = False) -> RunFolder:
        """Make the folder; raises RunError if something is in the way, which a run may be where it may be ``taken``."""
        refuse_taken(path, overwrite=taken)
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"The folder {path} cannot be made: {error.strerror or error}.") from error
        return RunFolder(path, made)

    @staticmethod
    def create_free(wanted: Path) -> RunFolder:
        """Make the first of ``PATH``, ``PATH-2``, ... that does not exist; two runs that begin at once get two."""
        for number in itertools.count(1):
            path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
            made = [folder for folder in (path, *path.parents) if not folder.exists()]
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise RunError(f"The folder {path} cannot be made: {error.strerror or error}.") from error
            return RunFolder(path, made)
        raise AssertionError("unreachable")

    @contextmanager
    def kept_for_itself(self, *, overwrite: bool = False, resume: bool = False) -> Iterator[None]:
        """Within this block no other process may work on this run.

        What an earlier run left is refused unless ``overwrite`` or ``resume`` asks for it; with ``resume``, files that were
        not written to their end are removed.

        The lock is the system's (``flock``), so a process that dies does not hold it.

        Raises:
            RunError: another process holds it, or has finished a run here meanwhile.
        """
        lock = FileLock(self.path / _LOCK_FILE, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise RunError(f"Another process is at work on the run in {self.path}; wait until it has ended.") from None
        try:
            if resume:
                for part in self.path.rglob(".*.part"):
                    part.unlink()
            else:
                refuse_taken(self.path, overwrite=overwrite)
            yield
        finally:
            lock.release()

    @contextmanager
    def gone_if_refused(self) -> Iterator[None]:
        """Take the folder away, with those above it that were made for it, if what the run is of turns out to be of no use.

        What ends the block once the data have been written leaves the folder; so does a disk that is full.
        """
        try:
            yield
        except (PixelfitError, OSError) as error:
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            if not full and not (self.path / "data.json").exists():
                self.clear()
                (self.path / _LOCK_FILE).unlink(missing_ok=True)
                for folder in self._made:
                    with suppress(OSError):  # another run has begun beside this one
                        folder.rmdir()
            raise

    def clear(self) -> None:
        """Remove everything but the lock, the run's own description last: without it nothing else would be known as a run's."""
        for entry in sorted(self.path.iterdir(), key=lambda entry: entry.name == "run.json"):
            if entry.name != _LOCK_FILE:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    @staticmethod
    def existing(path: Path) -> RunFolder:
        """A folder that holds a run; raises RunError if it does not."""
        if not (path / "run.json").is_file():
            raise RunError(f"{path} is no run folder (there is no run.json in it).")
        refuse_foreign(path)
        return RunFolder(path)

    def has_begun(self) -> bool:
        """Whether the folder holds a run, finished or not."""
        return (self.path / "run.json").is_file()

    @property
    def study_file(self) -> Path:
        """The search's database: a journal that is only ever appended to."""
        return self.path / "study.log"

    @property
    def model_folder(self) -> Path:
        """The final predictor."""
        return self.path / "model"

    @property
    def report_file(self) -> Path:
        """The report."""
        return self.path / "report.html"

    @property
    def log_file(self) -> Path:
        """What happened when."""
        return self.path / "log.jsonl"

    @property
    def thumbnails_file(self) -> Path:
        """Small test pictures in one image."""
        return self.path / "pictures" / "thumbnails.webp"

    def trial_folder(self, number: int) -> Path:
        """Everything about one trial."""
        return self.path / "trials" / f"{number:04d}"

    def model_folders(self, trial: Trial) -> list[Path]:
        """Where the trial's models are, one a fold."""
        folder = self.trial_folder(trial.number)
        return [folder] if trial.folds == 1 else [folder / f"fold-{place}" for place in range(trial.folds)]

    def write_run(self, description: Json) -> None:
        """What was asked for and where it runs."""
        write_json(self.path / "run.json", description)

    def write_data(self, facts: Facts, description: Json) -> None:
        """What the data are, in ``facts.json``, and how they were split, in ``data.json``."""
        write_json(self.path / "facts.json", facts.to_json())
        write_json(self.path / "data.json", description)

    def write_plan(self, number: int, plan: Json) -> None:
        """``plan.json`` of a trial that begins."""
        write_json(self.trial_folder(number) / "plan.json", plan)

    def read_plan(self, number: int) -> Json:
        """The plan of a trial that has begun; None if it has not, or its plan is damaged."""
        try:
            return self.read_if_there(f"trials/{number:04d}/plan.json")
        except RunError:
            return None

    def write_search(self, record: Json) -> None:
        """``search.json``: when the search began, and whether it is over."""
        write_json(self.path / "search.json", record)

    def write_trial(self, trial: Trial, history: Json, models: Sequence[Saveable], validation: Forecast | None) -> None:
        """One ended trial: its checksums last, so that a trial that has them is whole."""
        folder = self.trial_folder(trial.number)
        if validation is not None:
            for model, place in zip(models, self.model_folders(trial), strict=True):
                model.save(place)
            _write_forecast(folder / "validation.npz", validation)
        write_json(folder / "history.json", history)
        write_json(folder / "trial.json", asdict(trial))
        kept = set(folder.glob("checkpoint-*.safetensors"))
        seal(folder, (file for file in folder.rglob("*") if file.is_file() and file.name != SUMS and file not in kept))
        if trial.state != "interrupted":  # from there it may go on
            for file in kept:
                file.unlink()

    def write_tracking(self, known: Mapping[str, Json]) -> None:
        """``tracking.json``: what trackers have been told of the run, each under its name."""
        write_json(self.path / _TRACKING_FILE, dict(known))

    def read_tracking(self) -> dict[str, Json]:
        """What ``write_tracking`` wrote, if anything."""
        return dict(self.read_if_there(_TRACKING_FILE) or {})

    def write_teachings(self, number: int, teachings: Array) -> None:
        """``teachings.safetensors`` of a trial that is distilled: what its teacher says of the training pictures."""
        with written_beside(self.trial_folder(number) / _TEACHINGS_FILE) as beside:
            save_file({"targets": np.ascontiguousarray(teachings)}, beside)

    def read_teachings(self, number: int) -> Array:
        """What ``write_teachings`` wrote; raises RunError if it is missing or damaged."""
        file = self.trial_folder(number) / _TEACHINGS_FILE
        try:
            found: Array = load_file(file)["targets"]
        except (OSError, SafetensorError, KeyError) as error:
            raise RunError(f"{file} is missing or damaged, which trial {number} was distilled with: {error}.") from error
        return found

    def ended_trial(self, number: int) -> Trial | None:
        """A trial that has ended; None if it did not, was interrupted, or is of a version without checksums.

        Raises:
            RunError: a file of it is damaged; the message names it.
        """
        folder = self.trial_folder(number)
        if not is_sealed(folder) or not (folder / "trial.json").is_file():
            return None
        for file in damaged(folder):
            raise RunError(f"{file} is damaged or missing: it is not what its checksum in {folder / SUMS} says.")
        trial = Trial.from_json(self.read(f"trials/{number:04d}/trial.json"))
        return None if trial.state == "interrupted" else trial

    def ended_trials(self) -> tuple[Trial, ...]:
        """All trials that have ended, in order; raises RunError if a file of one is damaged."""
        numbers = sorted(int(folder.name) for folder in self.path.glob("trials/*") if folder.name.isdigit())
        return tuple(trial for trial in map(self.ended_trial, numbers) if trial is not None)

    def validation_forecast(self, number: int) -> Forecast:
        """What a trial's models predict for validation pictures, each by a model that has not seen it."""
        return _read_forecast(self.trial_folder(number) / "validation.npz")

    def validation_predictions(self, trial: Trial) -> Array:
        """The values or class probabilities of ``validation_forecast``."""
        return self.validation_forecast(trial.number).raw

    def write_leaderboard(self, trials: Sequence[Trial], ranked_by: str, weights: Mapping[int, float]) -> None:
        """``leaderboard.csv``: the trials, best first, with every validation metric."""
        ranked = rank(trials)
        names = sorted({name for trial in trials for name in trial.metrics})
        out = io.StringIO()
        columns = [*LEADERBOARD_COLUMNS, *(f"val_{name}" for name in names)]
        rows: list[Sequence[Json]] = [columns]
        for place, trial in enumerate(ranked, start=1):
            row = {name: getattr(trial, name) for name in LEADERBOARD_COLUMNS if hasattr(trial, name)}
            row |= {"rank": place, "trial": trial.number, "head": trial.recipe["head"], "ranked_by": ranked_by}
            row |= {"score": trial.metrics.get(ranked_by)}  # as people know it, not as the cost that is minimised
            row |= {"error": trial.error or "; ".join(f"tried again after {why}" for why in trial.tried_again)}
            row |= {"weight": round(weights.get(trial.number, 0.0), 6), "seconds": round(trial.seconds, 2)}
            row |= {f"val_{name}": value for name, value in trial.metrics.items()}
            rows.append([row.get(column, "") for column in columns])
        write_rows(out, rows)
        write_text(self.path / "leaderboard.csv", out.getvalue())

    def write_predictions(self, name: str, columns: Sequence[tuple[str, Sequence[Json]]]) -> None:
        """``predictions/NAME.csv``: a row a picture, given as columns with their headers."""
        out = io.StringIO()
        write_rows(out, [[header for header, _ in columns], *zip(*(values for _, values in columns), strict=True)])
        write_text(self.path / "predictions" / f"{name}.csv", out.getvalue())

    def read_predictions(self, name: str) -> tuple[list[str], list[list[str]]]:
        """The header and the rows of ``predictions/NAME.csv``; raises RunError if it holds no table."""
        file = self.path / "predictions" / f"{name}.csv"
        try:
            with file.open(encoding="utf-8", newline="") as opened:
                header, *rows = read_rows(opened)
        except (OSError, ValueError, csv.Error) as error:
            raise RunError(f"{file} is missing or damaged: {error}.") from error
        return header, rows

    def write_pictures(self, pictures: Sequence[Picture], spec: PictureSpec) -> None:
        """``pictures/``: what the report shows, with a list of what is known of each.

        Small ones are PNG files, pixel for pixel; larger ones WebP and not larger than they are shown, so that the report of
        photographs stays small: 57 of 224 pixels took 7.7 MB as PNG.
        """
        listed = []
        folder = self.path / "pictures"
        small = max(spec.height, spec.width) <= _LARGEST_PNG
        for place, item in enumerate(pictures):
            name = f"{item.kind.replace(' ', '-')}-{place:03d}.{'png' if small else 'webp'}"
            image = drawable(item.picture, spec)
            if item.heat is not None:
                image = _beside(image, _heated(image, item.heat))
            image.thumbnail((_LARGEST_SHOWN * (1 if item.heat is None else 2), _LARGEST_SHOWN))
            with written_beside(folder / name) as beside:
                image.save(beside, format="PNG" if small else "WEBP")
            listed.append(
                {
                    "file": name,
                    "kind": item.kind,
                    "ref": item.ref,
                    "target": item.target,
                    "prediction": item.prediction,
                    "note": item.note,
                }
            )
        write_json(folder / "pictures.json", listed)

    def write_thumbnails(self, image: Image.Image) -> None:
        """``pictures/thumbnails.webp``: small test pictures in one; ``evidence.json`` says which is where."""
        with written_beside(self.thumbnails_file) as beside:
            image.save(beside, format="WEBP", quality=_THUMBNAIL_QUALITY)

    def write_forecast(self, on_validation: Forecast) -> None:
        """``validation.npz``: what the final model's members say of the validation set."""
        _write_forecast(self.path / "validation.npz", on_validation)

    def read_forecast(self) -> Forecast:
        """What ``write_forecast`` wrote."""
        return _read_forecast(self.path / "validation.npz")

    def write_held_out(self, held_out: HeldOut) -> None:
        """``held-out.safetensors``: pictures with which an exported model is checked against this one."""
        with written_beside(self.path / _HELD_OUT_FILE) as beside:
            save_file(vars(held_out), beside)

    def read_held_out(self) -> HeldOut:
        """The pictures that were set aside; raises RunError if there are none, or they are damaged."""
        file = self.path / _HELD_OUT_FILE
        if not file.is_file():
            raise RunError(f"The run in {self.path} set no pictures aside to check an exported model with: fit it again.")
        try:
            return HeldOut(**load_file(file))
        except (SafetensorError, TypeError) as error:
            raise RunError(f"{file} is damaged: {error}.") from error

    def write_remembered(self, remembered: Remembered) -> None:
        """``remembered.safetensors`` and ``.json``: the training pictures that the model compares new ones with."""
        with written_beside(self.path / _REMEMBERED_FILE) as beside:
            save_file({"pictures": np.ascontiguousarray(remembered.pictures)}, beside)
        write_json(self.path / _REMEMBERED_NAMES, {"names": remembered.names, "targets": remembered.targets})

    def read_remembered(self) -> Remembered | None:
        """Those pictures; None of a run that has none. Raises RunError if they are damaged."""
        described = self.read_if_there(_REMEMBERED_NAMES)
        if described is None:
            return None
        try:
            pictures = load_file(self.path / _REMEMBERED_FILE)["pictures"]
            return Remembered(pictures, tuple(described["names"]), tuple(described["targets"]))
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise RunError(f"{self.path / _REMEMBERED_FILE} is damaged: {error}.") from error

    def write_augmentation(self, decision: Json) -> None:
        """``augmentation.json``: which changes of pictures the recipes may make, and why."""
        write_json(self.path / "augmentation.json", decision)

    def write_suspects(self, record: Json) -> None:
        """``suspects.json``: pictures whose targets look wrong, and among how many they were looked for."""
        write_json(self.path / "suspects.json", record)

    def write_importance(self, record: Json) -> None:
        """``importance.json``: which choices in the recipes decided how good trials were; null where too few were tried."""
        write_json(self.path / "importance.json", record)

    def write_evidence(self, record: Json) -> None:
        """``evidence.json``: scores on parts of the test set, and how like the development data it is."""
        write_json(self.path / "evidence.json", record)

    def write_final(self, decisions: Json) -> None:
        """``final.json``: how the final model came from the trials."""
        write_json(self.path / "final.json", decisions)

    def write_timeline(self, phases: Mapping[str, float], *, interrupted: bool) -> None:
        """Seconds that each phase before the report took, and in how many sittings."""
        sittings = sum(line.get("event") == "begun" for line in read_lines(self.log_file))
        record = {"seconds": dict(phases), "interrupted": interrupted, "sittings": max(1, sittings)}
        write_json(self.path / "timeline.json", record)

    def spent_s(self) -> float:
        """Seconds that the run had taken when it was broken off, as far as its log knows; it is written every few seconds."""
        return max((float(line.get("elapsed_s", 0.0)) for line in read_lines(self.log_file)), default=0.0)

    def seal(self) -> None:
        """Write the checksums of what a finished run is; its log, the search's database and the trials are not among it."""
        parts = [file for name in ("pictures", "predictions") for file in (self.path / name).rglob("*")]
        files = [file for file in (*self.path.iterdir(), *parts) if file.is_file() and not file.name.startswith(".")]
        unsealed = {SUMS, _TRACKING_FILE, self.log_file.name, self.study_file.name}
        seal(self.path, (file for file in files if file.name not in unsealed))

    @contextmanager
    def drawn_again(self) -> Iterator[None]:
        """Within this block files of a finished run may be replaced; their checksums are written anew.

        Raises:
            RunError: a file is damaged already; the message names it.
        """
        for file in damaged(self.path):
            raise RunError(f"{file} is damaged or missing: it is not what its checksum in {self.path / SUMS} says.")
        sealed = is_sealed(self.path)
        (self.path / SUMS).unlink(missing_ok=True)
        yield
        if sealed:
            self.seal()

    def is_finished(self) -> bool:
        """Whether the run came to its end, and was not ended early by its user."""
        return is_sealed(self.path) and not self.read("timeline.json")["interrupted"]

    def reopen(self) -> None:
        """Take back what a run that its user ended early wrote after its search, which is to go on."""
        timeline = self.read_if_there("timeline.json")
        (self.path / SUMS).unlink(missing_ok=True)
        if timeline is not None and timeline["interrupted"]:
            search = self.read("search.json")
            self.write_search({**search, "reopened": search.get("reopened", 0) + 1})
            shutil.rmtree(self.model_folder, ignore_errors=True)
            for name in ("scores.json", "timeline.json", "final.json"):
                (self.path / name).unlink(missing_ok=True)
            self.report_file.unlink(missing_ok=True)

    def write_scores(self, facts: Facts, scores: Scores, *, seed: int, budget_s: float | None, wall_s: float) -> None:
        """``scores.json``: the figures that count."""
        record = {
            "task": facts.task,
            "metric": facts.metric,
            "seed": seed,
            "budget_s": budget_s,
            "wall_s": round(wall_s, 3),
            "data": facts.data,
            "rows": scores.rows,
            "test": {name: asdict(interval) for name, interval in scores.test.items()},
            "baseline": {name: asdict(interval) for name, interval in scores.baseline.items()},
            "classes": facts.classes,
            "confusion": scores.confusion,
            "intervals": None if scores.intervals is None else asdict(scores.intervals),
            "sets": None if scores.sets is None else asdict(scores.sets),
            "reliability": None if scores.reliability is None else asdict(scores.reliability),
        }
        # Only runs on several numbers or labels a picture have these.
        each = {"targets": [asdict(one) for one in scores.targets], "labels": [asdict(one) for one in scores.labels]}
        write_json(self.path / "scores.json", {**record, **{name: part for name, part in each.items() if part}})

    def read(self, name: str) -> Json:
        """One of the folder's JSON files; raises RunError if the run did not come so far, or the file is damaged."""
        file = self.path / name
        if not file.is_file():
            raise RunError(f"The run in {self.path} is not finished: it has no {name}.")
        refuse_damaged(file)
        try:
            return read_json(file)
        except ValueError as error:
            raise RunError(f"{file} is damaged: {error}.") from error

    def read_facts(self) -> Facts:
        """What the data are; raises RunError if the run did not come so far, or the file is of another version."""
        record = self.read("facts.json")
        try:
            return Facts.from_json(record)
        except (TypeError, KeyError) as error:
            raise RunError(f"{self.path / 'facts.json'} was written by another version of pixelfit: {error}.") from error

    def read_if_there(self, name: str) -> Json:
        """One of the folder's JSON files, or None where the run is older than that file; raises RunError if it is damaged."""
        return self.read(name) if (self.path / name).is_file() else None

    def read_trials(self) -> list[Json]:
        """The records of all ended trials, in order, each with its ``history``."""
        records = []
        for file in sorted(self.path.glob("trials/*/trial.json")):
            name = file.relative_to(self.path)
            records.append({**self.read(str(name)), "history": self.read(str(name.with_name("history.json")))})
        return records


def _write_forecast(file: Path, forecast: Forecast) -> None:
    with written_beside(file) as beside, beside.open("wb") as opened:
        np.savez(opened, **vars(forecast))


def _read_forecast(file: Path) -> Forecast:
    """Raises RunError if there is no such file, or it is damaged."""
    try:
        return Forecast(**read_npz(file))
    except (DataError, TypeError) as error:
        raise RunError(f"{file} is missing or damaged: {str(error).rstrip('.')}.") from error


def rank(trials: Sequence[Trial]) -> list[Trial]:
    """Best first; failed trials last, in their order."""
    return sorted(trials, key=lambda trial: (trial.score is None, trial.score if trial.score is not None else trial.number))


def refuse_taken(path: Path, *, overwrite: bool = False) -> None:
    """Raise RunError if the path is a file, or a folder with something in it; with ``overwrite`` that may be a run."""
    if path.is_file():
        raise RunError(f"{path} is a file; --out needs a folder.")
    if not path.is_dir() or all(entry.name == _LOCK_FILE or _is_part(entry) for entry in path.iterdir()):
        return
    if not (path / "run.json").is_file():
        raise RunError(f"The folder {path} holds files that are no run; choose another --out, or remove them first.")
    if not overwrite:
        raise RunError(
            f"The folder {path} holds a run already; choose another --out, go on with that run with --resume, or replace it with "
            "--overwrite."
        )


def _is_part(file: Path) -> bool:
    """Whether this is a file that a kill left before it was whole."""
    return file.name.startswith(".") and file.name.endswith(".part")


def drawable(picture: Array, spec: PictureSpec) -> Image.Image:
    """A picture (height, width, channels) as a screen shows it, grey or in colour."""
    values = picture.astype(np.float32)
    if spec.scale in ("wide", "raw"):  # any range: stretched to what a screen shows
        values = (values - values.min()) * (255 / max(float(np.ptp(values)), 1e-12))
    pixels = np.clip(values.round(), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., 0])


def _heated(image: Image.Image, heat: Array) -> Image.Image:
    """The picture in grey, with colours over the parts that raised and lowered the prediction."""
    grey = np.asarray(image.convert("L").convert("RGB"), dtype=np.float32)
    colour = np.where(heat[..., None] > 0, np.array(_RAISED, np.float32), np.array(_LOWERED, np.float32))
    share = (_OVERLAY * np.abs(heat))[..., None].astype(np.float32)
    return Image.fromarray(((1 - share) * grey + share * colour).round().astype(np.uint8))


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    both = Image.new("RGB", (left.width + right.width, left.height))
    both.paste(left, (0, 0))
    both.paste(right, (left.width, 0))
    return both
