"""Decoded pictures on disk, keyed by the content of their files, so that a second run on the same pictures starts at once.

A store is a folder ``stores/KEY`` in the user's cache with ``pictures.npy`` and ``heads.json``. It is built beside its place
and renamed into it: two runs that build the same store at once do not disturb each other, and a kill leaves nothing that
could be taken for a store. Stores that are larger than a share of the memory are mapped, not read.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import PIL

from pixelfit.data.attempts import Task, fingerprint, kind_of, shape_of
from pixelfit.data.helpers import attempt_shared
from pixelfit.data.pictures import PictureHead, read_head, read_picture
from pixelfit.environment import memory_limit, usable_cores
from pixelfit.files import cache_folder, read_json, write_json
from pixelfit.progress import Progress
from pixelfit.types import Array, Json, PictureFile, PictureSpec

FORMAT = 1  # of the folder and of what decoding does; a change of either must change it
_OUTLINED = 64  # files
SHARE_OF_MEMORY = 0.25  # larger stores are mapped
_CHUNK = 4_096  # pictures moved at once
_TASK = 32  # files a task: a task a file takes more memory for its bookkeeping than for small pictures
_DECODING = "Decoding pictures"
Item = TypeVar("Item")
T = TypeVar("T")


@dataclass(frozen=True)
class Stored:
    """Decoded pictures (N, height, width, channels), and for each file its head or the reason why it has no picture.

    The n-th picture belongs to the n-th file that has a head.
    """

    pictures: Array
    spec: PictureSpec
    heads: tuple[PictureHead | str, ...]


def stores_folder() -> Path:
    """Where all stores are."""
    return cache_folder("stores")


def outline_of(files: Sequence[PictureFile], longest_side: int) -> str:
    """With what the key of the files begins: their number, and some from all over them.

    Where no key begins so, files need not be read to find that there is no store of them.
    """
    digest = hashlib.blake2b(f"{FORMAT} {longest_side} {PIL.__version__} {len(files)}".encode(), digest_size=16)
    for file in files[:: max(1, len(files) // _OUTLINED)]:
        digest.update(fingerprint(file))
    return digest.hexdigest()


def find(outline: str, files: Sequence[PictureFile], progress: Progress) -> Stored | None:
    """The store of these files, in this order, decoded in today's way; None if there is none, or it is damaged."""
    if not any(stores_folder().glob(f"{outline}-*")):
        return None
    return _load(_key(outline, in_threads(fingerprint, files, "Comparing with earlier runs", progress)))


def _key(outline: str, fingerprints: Sequence[bytes]) -> str:
    return f"{outline}-{hashlib.blake2b(b''.join(fingerprints), digest_size=16).hexdigest()}"


def _load(key: str) -> Stored | None:
    folder = stores_folder() / key
    try:
        described = read_json(folder / "heads.json")
        pictures = _open(folder / "pictures.npy")
        heads = _unpacked(described)
        os.utime(folder)  # so that the least used can be told
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    whole = len(pictures) == sum(not isinstance(head, str) for head in heads)
    return Stored(pictures, PictureSpec(**described["spec"]), heads) if whole else None


@dataclass(frozen=True)
class Expectation:
    """What all files are thought to be, as some of them are: then each is opened once, for its head and its pixels together."""

    head: PictureHead
    spec: PictureSpec


Heads: TypeAlias = Sequence[PictureHead | str]


def build(
    outline: str,
    files: Sequence[PictureFile],
    plan: Callable[[Heads], PictureSpec],
    expected: Expectation | None,
    progress: Progress,
) -> Stored:
    """Decode all files that have a head, and keep them under their key; where the cache cannot be written, in memory alone.

    ``plan`` says from all heads in which form pictures are kept. Where that is the ``expected`` one, those that are as
    expected are decoded already.
    """
    try:
        stores_folder().mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f"{outline}.", suffix=".part", dir=stores_folder()))
    except OSError:
        return _decoded(files, plan, expected, _in_memory, progress)[0]
    try:

        def mapped_if_large(shape: tuple[int, ...], kind: np.dtype[Any]) -> Array:
            size = math.prod(shape) * kind.itemsize
            if size <= SHARE_OF_MEMORY * memory_limit() or not _fits(beside, size):
                return _in_memory(shape, kind)
            return np.lib.format.open_memmap(beside / "pictures.npy", mode="w+", dtype=kind, shape=shape)

        stored, fingerprints = _decoded(files, plan, expected, mapped_if_large, progress)
        if isinstance(stored.pictures, np.memmap) and len(stored.pictures) == len(files):
            stored.pictures.flush()
        elif _fits(beside, stored.pictures.nbytes):  # in memory, or mapped with room for files that have no picture
            _save(beside / "pictures.npy", stored.pictures)
        else:
            return stored
        write_json(beside / "heads.json", _packed(stored))
        key = _key(outline, fingerprints)
        place = stores_folder() / key
        try:
            beside.rename(place)
        except OSError:  # another run was quicker, or what is there is damaged
            if (theirs := _load(key)) is not None:
                return theirs
            shutil.rmtree(place, ignore_errors=True)
            beside.rename(place)
        return replace(stored, pictures=_open(place / "pictures.npy")) if isinstance(stored.pictures, np.memmap) else stored
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def in_threads(work: Callable[[Item], T], items: Sequence[Item], title: str, progress: Progress) -> list[T]:
    """``work`` done on every item, in order. Threads suffice for reading, and for decoding what is large or little."""
    tasks = [items[start : start + _TASK] for start in range(0, len(items), _TASK)]
    with ThreadPoolExecutor(usable_cores()) as pool:
        futures = [pool.submit(lambda task: [work(item) for item in task], task) for task in tasks]
        results: list[T] = []
        try:
            for future in futures:
                results += future.result()
                progress.count(title, len(results), len(items))
        except BaseException:  # Ctrl-C above all: what has not begun need not be waited for
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def _fits(folder: Path, size: int) -> bool:
    return shutil.disk_usage(folder).free >= 2 * size


def _save(place: Path, pictures: Array) -> None:
    """Write pictures beside their place, since they may be mapped from there, and down to the disk."""
    beside = place.with_suffix(".part")
    with beside.open("wb") as stream:
        np.save(stream, pictures)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(place)


def _in_memory(shape: tuple[int, ...], kind: np.dtype[Any]) -> Array:
    return np.empty(shape, kind)


def _decoded(
    files: Sequence[PictureFile],
    plan: Callable[[Heads], PictureSpec],
    expected: Expectation | None,
    room: Callable[[tuple[int, ...], np.dtype[Any]], Array],
    progress: Progress,
) -> tuple[Stored, list[bytes]]:
    """The store, and each file's fingerprint, which comes from the same reading."""

    def place_for(spec: PictureSpec) -> Array:
        return room((len(files), *shape_of(spec)), kind_of(spec))

    def read(rows: Sequence[int]) -> None:
        for row, head in zip(rows, in_threads(read_head, [files[row] for row in rows], "Reading sizes", progress), strict=True):
            heads[row] = head

    heads: list[PictureHead | str] = [""] * len(files)
    if expected is None:
        read(range(len(files)))
        spec = plan(heads)
    else:
        spec = expected.spec
    into = place_for(spec)
    found = attempt_shared(Task(files, spec, None if expected is None else expected.head), into, _DECODING, progress)
    done = np.array(found.done, dtype=bool)
    if expected is not None:
        heads = [expected.head] * len(files)
        read(np.flatnonzero(~done).tolist())
        spec = plan(heads)
        if spec != expected.spec:
            into = place_for(spec)
            done[:] = attempt_shared(Task(files, spec, None), into, _DECODING, progress).done

    def fill(row: int) -> str:
        picture = read_picture(files[row], spec)
        if isinstance(picture, str):
            return picture
        into[row] = picture
        return ""

    left = [row for row, head in enumerate(heads) if not done[row] and not isinstance(head, str)]
    reasons = dict(zip(left, in_threads(fill, left, _DECODING, progress), strict=True))
    done[[row for row, reason in reasons.items() if not reason]] = True
    kept = np.flatnonzero(done)
    for start in range(0, len(kept) if len(kept) < len(files) else 0, _CHUNK):  # in place: the store may not fit into memory
        chunk = into[kept[start : start + _CHUNK]]
        into[start : start + len(chunk)] = chunk
    stored = Stored(into[: len(kept)], spec, tuple(reasons.get(row) or head for row, head in enumerate(heads)))
    return stored, found.fingerprints


def _open(path: Path) -> Array:
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    return np.array(mapped) if mapped.nbytes <= SHARE_OF_MEMORY * memory_limit() else mapped


def _packed(stored: Stored) -> dict[str, Json]:
    """A store's heads as JSON, each kind of head once: there are few kinds and many pictures."""
    kinds: dict[PictureHead, int] = {}
    entries = [head if isinstance(head, str) else kinds.setdefault(head, len(kinds)) for head in stored.heads]
    return {"spec": asdict(stored.spec), "kinds": [asdict(head) for head in kinds], "heads": entries}


def _unpacked(described: Mapping[str, Json]) -> tuple[PictureHead | str, ...]:
    kinds = [PictureHead(**kind) for kind in described["kinds"]]
    return tuple(entry if isinstance(entry, str) else kinds[entry] for entry in described["heads"])
