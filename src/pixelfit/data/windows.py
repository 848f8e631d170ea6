"""All training pictures of shards, some at a time: what a training goes through when the search has seen a sample of them.

A background thread reads the next window of pictures while the training goes over the one before.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import Self

import numpy as np

from pixelfit.data.arrays import part_named, printable_name
from pixelfit.data.cached import in_threads
from pixelfit.data.labelled import Labelled, labelled
from pixelfit.data.pictures import read_picture
from pixelfit.data.places import Place, is_remote
from pixelfit.data.sampled import kept_of, part_by_name, place_by_name
from pixelfit.data.shuffled import Shuffle, Shuffled
from pixelfit.data.sources import Source, shards_behind
from pixelfit.data.targets import is_missing, labels_in, number_in
from pixelfit.environment import memory_limit
from pixelfit.errors import DataError
from pixelfit.progress import Silent
from pixelfit.runlog import note
from pixelfit.types import Array, Columns, Embedded, Examples, Facts, Ints, Json, Kind, Label, Splits

OPENED = 16  # shards side by side
_MOST_WAITING = 10_000  # samples, and of all that wait
_WAITING_BYTES = 128 << 20
_WINDOW_BYTES = 256 << 20
_MOST_ROWS = 32_768  # of a window: the training begins when the first is there
_SHARE_OF_MEMORY = 1 / 24  # for a window, of which there are three (the first, this and the next), and as much for what waits
_DECODED_AT_ONCE = 256
_LOOK_EVERY_S = 0.1
_LAST_WORDS_S = 5.0  # for the thread that reads, which may wait for a store that does not answer
_SPLIT = "split"


@dataclass(frozen=True)
class Whole:
    """The samples of shards of which a search has seen a ``share``, and among them ``train`` as its training pictures.

    ``train`` holds the places of their names in ``known``, which are their targets. ``elsewhere`` are checksums of the other
    pictures that the search has seen. ``targets`` are the fields that hold what is to be learned; a picture's file has
    ``picture_bytes`` on average; ``memory`` bytes may the program take.
    """

    shards: tuple[Place, ...]
    column: str | None
    targets: tuple[str, ...]
    share: float
    train: Mapping[str, int]
    known: Array
    elsewhere: frozenset[bytes]
    facts: Facts
    picture_bytes: float
    memory: int

    @property
    def pictures(self) -> int:
        """About how many training pictures there are."""
        return round(len(self.train) / self.share)

    def trains(self, sample: Labelled) -> bool:
        """Whether the sample is a training picture: as the search had it, or by its owner's word or its name's hash.

        What the search has seen and not trained on is in the validation or test set, or was left out.
        """
        if place_by_name(sample.name) < self.share:
            return printable_name(sample.name) in self.train
        told = next((value for name, value in sample.fields.items() if name.lower() == _SPLIT and name not in self.targets), None)
        if is_missing(told):
            return part_by_name(sample.name) == "train"
        return part_named(str(told)) == "train"

    def refuse_other_target(self, name: str, target: Array) -> None:
        """Raise DataError if this is a training picture of the search, which has seen another target."""
        row = self.train.get(printable_name(name))
        if row is not None and not np.allclose(target, self.known[row], rtol=1e-6):
            raise DataError(
                f"{name} has another target than in the search: the shards have changed, or two samples have this name"
            )


def whole_behind(source: Source, columns: Columns, facts: Facts, splits: Splits) -> Whole | None:
    """The shards of which these pictures are a sample; None where they are no shards, or all of their pictures are there.

    And where groups may not be cut, since which of them are held out is known of the sample alone.
    """
    shards = shards_behind(source, columns)
    kept = None if shards is None else kept_of(shards, columns.pictures)
    if shards is None or kept is None or kept.share >= 1 or len(splits.folds) > 1 or columns.group is not None:
        return None
    train = splits.train
    others = np.setdiff1d(np.arange(len(train.store)), train.rows)
    return Whole(
        tuple(
            place if is_remote(place.address) else replace(place, address=str(Path(place.address).absolute())) for place in shards
        ),
        columns.pictures,
        columns.targets or (facts.target_name,),
        kept.share,
        {name: row for row, name in enumerate(train.refs)},
        train.targets,
        frozenset(_checksum(train.store[row]) for row in others),
        facts,
        kept.picture_bytes,
        memory_limit(),
    )


def _checksum(picture: Array) -> bytes:
    return hashlib.blake2b(picture.tobytes(), digest_size=12).digest()


@dataclass
class Passed:
    """What has come by: training pictures given out, and in the first epoch those left out; shards that could not be read.

    ``lost`` says why no more could be read at all, if that is so.
    """

    pictures: int = 0
    windows: int = 0
    unreadable: int = 0
    unknown: int = 0  # whose target is missing, or a label that the search has not seen
    held_out: int = 0  # the same, pixel for pixel, as one on which the search does not train
    skipped: dict[str, str] = field(default_factory=dict)  # why, by the shard's name
    lost: str | None = None

    def to_json(self) -> Json:
        """The counts as JSON."""
        return asdict(self)


class Windows:
    """The training pictures of shards, a window at a time, without end: one epoch after the other, each in a new order.

    A window is a number of whole batches, so that each picture is seen once while it is there. The order follows from the
    seed alone. Whoever has taken a window has one more waiting, and no third is read before that is taken.
    """

    def __init__(self, whole: Whole, *, batch: int, seed: int, most_bytes: int = _WINDOW_BYTES) -> None:
        spec = whole.facts.spec
        self._whole, self.passed = whole, Passed()
        kind = np.uint8 if spec.scale == "byte" else np.float32
        self._shape = (spec.height, spec.width, spec.channels)
        share = _SHARE_OF_MEMORY * min(whole.memory, memory_limit())
        room = min(most_bytes, share) / (math.prod(self._shape) * np.dtype(kind).itemsize)
        self._rows = batch * max(1, math.ceil(min(room, whole.pictures, _MOST_ROWS) / batch))
        waiting_bytes = min(_WAITING_BYTES, share)
        waiting = int(np.clip(waiting_bytes / max(1.0, whole.picture_bytes), 1, _MOST_WAITING))
        self._stream = Shuffled(whole.shards, self._of_shard, Shuffle(seed, OPENED, waiting))
        self._first_epoch, self._over = True, threading.Event()
        self._wanted = threading.Semaphore(1)
        self._read = Passed()  # by the thread
        self._ready: Queue[tuple[Examples, Passed] | Exception] = Queue()
        self._thread = threading.Thread(target=self._read_ahead, daemon=True, name="windows")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._wanted.release()
        self._thread.join(_LAST_WORDS_S)

    @property
    def pictures(self) -> int:
        """About how many there are in an epoch."""
        return self._whole.pictures

    def next(self, give_up: Callable[[], bool]) -> Examples | None:
        """The next window, which is waited for; None where ``give_up`` becomes true before it is there, or no more can be read.

        Raises:
            DataError: there are no training pictures in the shards that can be read.
        """
        while self.passed.lost is None:
            try:
                found = self._ready.get(timeout=_LOOK_EVERY_S)
                break
            except Empty:
                if give_up():
                    return None
        else:
            return None
        if isinstance(found, Exception):
            if not self.passed.windows:
                raise found
            note("no more windows", error=found)
            self.passed = replace(self.passed, lost=str(found).rstrip("."))
            return None
        self._wanted.release()
        window, self.passed = found
        return window

    def _read_ahead(self) -> None:
        try:
            samples = self._pictures()
            while not self._over.is_set():
                self._wanted.acquire()
                window = None if self._over.is_set() else self._window(samples)
                if window is None:
                    return
                self._read.pictures += len(window)
                self._read.windows += 1
                self._ready.put((window, replace(self._read, skipped=dict(self._read.skipped))))
        except Exception as error:  # noqa: BLE001 - raised again in the thread that waits for the window
            self._ready.put(error)

    def _window(self, pictures: Iterator[tuple[str, Array, Array]]) -> Examples | None:
        """The next window; None where none is wanted any more."""
        names: list[str] = []
        targets: list[Array] = []
        store: Array | None = None
        for name, picture, target in pictures:
            if store is None:
                store = np.empty((self._rows, *self._shape), picture.dtype)
            store[len(names)] = picture
            names.append(name)
            targets.append(target)
            if len(names) == self._rows:
                return Examples(store, np.arange(self._rows), np.stack(targets), tuple(names))
        return None

    def _pictures(self) -> Iterator[tuple[str, Array, Array]]:
        """Name, picture and target of each sample that can be used, epoch after epoch, until the end is wanted."""
        for epoch in count():
            self._first_epoch, found = epoch == 0, False
            for samples in _chunks(self._stream.epoch(epoch), _DECODED_AT_ONCE):
                if self._over.is_set():
                    return
                for sample, picture in zip(samples, in_threads(self._decoded, samples, "", Silent()), strict=True):
                    target = self._target(sample)
                    if isinstance(picture, str):
                        self._read.unreadable += self._first_epoch
                    elif target is None:
                        self._read.unknown += self._first_epoch
                    elif _checksum(picture) in self._whole.elsewhere:
                        self._read.held_out += self._first_epoch
                    else:
                        self._whole.refuse_other_target(sample.name, target)
                        found = True
                        yield sample.name, picture, target
            if not found:
                raise DataError("The shards hold no training pictures that can be read.")

    def _of_shard(self, shard: Place) -> Iterator[Labelled]:
        """The training samples of a shard, with their targets alone; what cannot be read is passed over, with the reason."""
        if self._over.is_set():
            return
        try:
            for sample in labelled(shard, self._whole.column):
                if self._over.is_set():
                    return
                if sample.name == shard.file:
                    self._read.skipped[shard.name] = str(sample.picture)
                elif self._whole.trains(sample):
                    yield replace(sample, fields={name: sample.fields.get(name) for name in self._whole.targets})
        except DataError as error:
            self._read.skipped[shard.name] = str(error)

    def _decoded(self, sample: Labelled) -> Array | str:
        content = sample.picture
        return content if isinstance(content, str) else read_picture(Embedded(lambda: content), self._whole.facts.spec)

    def _target(self, sample: Labelled) -> Array | None:
        values = [_alone(sample.fields.get(name)) for name in self._whole.targets]
        return None if any(is_missing(value) for value in values) else _TARGETS[self._whole.facts.kind](values, self._whole.facts)


def _chunks(samples: Iterator[Labelled], size: int) -> Iterator[list[Labelled]]:
    chunk: list[Labelled] = []
    for sample in samples:
        chunk.append(sample)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


# --- targets as the facts have them; None where one is none of theirs


def _number(values: list[Json], facts: Facts) -> Array | None:
    found = number_in(values[0])
    return None if found is None or not math.isfinite(found) else np.asarray(found, dtype=np.float64)


def _numbers(values: list[Json], facts: Facts) -> Array | None:
    found = [number_in(value) for value in (values if len(values) > 1 else _listed(values[0]))]
    numbers = np.array([math.nan if number is None else number for number in found], dtype=np.float64)
    return numbers if len(numbers) == len(facts.target_names) and np.isfinite(numbers).all() else None


def _label(values: list[Json], facts: Facts) -> Array | None:
    place = _position(values[0], facts)
    return None if place is None else np.asarray(place, dtype=np.int64)


def _labels(values: list[Json], facts: Facts) -> Array | None:
    classes = facts.classes or ()
    columns = values if len(values) > 1 else _listed(values[0])
    if len(values) > 1 or (classes == tuple(range(len(columns))) and isinstance(values[0], list)):
        return np.array(columns, dtype=np.int64) if all(value in (0, 1) for value in columns) else None
    places = [_position(label, facts) for label in (labels_in(values[0]) if isinstance(values[0], str) else columns)]
    known: Ints = np.zeros(len(classes), dtype=np.int64)
    for place in places:
        if place is None:
            return None
        known[place] = 1
    return known


def _alone(value: Json) -> Json:
    """The one thing in a list of one, as tables are read."""
    return value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value


def _listed(value: Json) -> list[Json]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _position(label: Label, facts: Facts) -> int | None:
    """Where the label stands among the classes, 1 and 1.0 being the same."""
    classes = facts.classes or ()
    return classes.index(label) if label in classes else None


_TARGETS: Mapping[Kind, Callable[[list[Json], Facts], Array | None]] = {
    "number": _number,
    "numbers": _numbers,
    "label": _label,
    "labels": _labels,
}
