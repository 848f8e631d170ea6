"""Where shards lie: files and folders here, globs, lists in braces, and whatever fsspec reaches by a URL."""

from __future__ import annotations

import glob
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import urlsplit

from pixelfit.errors import DataError, PixelfitError, ShardError
from pixelfit.files import UNREADABLE, Wrapped, open_plain
from pixelfit.types import Json

T = TypeVar("T")
_MOST_SHARDS = 1_000_000
_BUFFER = 4 << 20  # bytes
_ASKED_AT_ONCE = 16  # URLs
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_MAGIC = re.compile(r"[*?[]")
_LOCAL = "file://"
_WEB = ("http", "https")
# What stores say of a file that changes with its content, the best first.
_MARKS = ("ETag", "etag", "Content-MD5", "md5Hash", "crc32c", "checksum", "mtime", "LastModified", "last_modified", "created")


@dataclass(frozen=True)
class Place:
    """A file here or behind a URL: where it is, its size in bytes, and what changes when its content does.

    ``name`` is what it is called in messages and tables: the URL without a query, in which a signature may stand.
    """

    address: str
    size: int
    mark: str

    @property
    def name(self) -> str:
        """What it is called."""
        return without_query(self.address)

    @property
    def file(self) -> str:
        """The last part of its name."""
        return self.name.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The ending of its name, in small letters, with the dot."""
        return os.path.splitext(self.name)[1].lower()  # noqa: PTH122 - of a URL


class Source(Wrapped):
    """An opened shard, which remembers that it could not be read, whatever its readers make of that.

    It is read by way of ``buffered()``: Arrow's client of S3 asks for whatever it is asked for, if that is 512 bytes.
    """

    def __init__(self, stream: IO[bytes], name: str) -> None:
        super().__init__(stream)
        self._name = name
        self.lost: ShardError | None = None

    def buffered(self) -> io.BufferedReader:
        """The same bytes, of which several MiB are read at once."""
        return io.BufferedReader(self, _BUFFER)

    def readinto(self, into: bytearray | memoryview) -> int:  # type: ignore[override]
        """As of any file; raises ShardError, which is remembered."""
        view = memoryview(into).cast("B")
        try:
            found = self._stream.read(len(view))
            view[: len(found)] = found
            return len(found)
        except Exception as error:  # the clients of stores raise what they like
            self.lost = ShardError(f"{self._name} cannot be read: {_said(error)}.")
            raise self.lost from error


def places(given: str, suffixes: Sequence[str]) -> list[Place]:
    """The files that a file's name, a folder, a glob or a list in braces means, those of a folder or a glob by name.

    Raises:
        DataError: there is none, its name has another ending, or a password stands in its URL.
        ShardError: the URL cannot be reached.
    """
    if given.startswith(_LOCAL):
        given = given.removeprefix(_LOCAL)
    if is_remote(given) and "@" in urlsplit(given).netloc:
        raise DataError("A URL of shards may hold no user and password, which would be kept beside the predictions.")
    each = [given] if not is_remote(given) and Path(given).expanduser().exists() else expanded(given)
    if is_remote(given):
        with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
            found = [place for some in pool.map(lambda url: _remote(url, suffixes), each) for place in some]
    else:
        found = [place for path in each for place in _local(Path(path).expanduser(), suffixes)]
    other = next((place.name for place in found if place.suffix not in suffixes), None)
    if other is not None:
        raise DataError(f"{other} is no shard: its name ends in none of {', '.join(suffixes)}.")
    return found


def seen(place: Place) -> Place | None:
    """The file as it is now; None where it is gone. Raises ShardError where its URL cannot be reached."""
    if not is_remote(place.address):
        return _local_place(Path(place.address)) if Path(place.address).is_file() else None
    try:
        return _remote(place.address, ())[0]
    except DataError as error:
        if isinstance(error, ShardError):
            raise
        return None


@contextmanager
def opened(place: Place) -> Iterator[Source]:
    """The file's bytes; raises ShardError where it cannot be opened."""
    if not is_remote(place.address):
        try:
            stream = open_plain(Path(place.address))
        except OSError as error:
            raise ShardError(f"{place.name} cannot be read: {_said(error)}.") from error
    else:
        store, path = _store(place.address)
        stream = _asked(lambda: store.open(path, "rb"), place.name)
    with stream:
        yield Source(stream, place.name)


def contents(place: Place, read: Callable[[IO[bytes]], Iterator[T]], *, damaged: Callable[[str], T]) -> Iterator[T]:
    """What ``read`` finds in a shard; where its bytes make no sense, last what ``damaged`` makes of the reason.

    Raises ShardError where it cannot be reached, and what ``read`` has for its user.
    """
    with opened(place) as source:
        try:
            yield from read(source.buffered())
        except PixelfitError:
            raise
        except UNREADABLE as error:
            if source.lost is not None:
                raise source.lost from error
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            yield damaged(f"from here on the shard cannot be read: {reason}")


def is_remote(given: str) -> bool:
    """Whether this is a URL, and no file of this machine."""
    return "://" in given and not given.startswith(_LOCAL)


def expanded(given: str) -> list[str]:
    """``a-{000..002}.tar`` as ``a-000.tar``, ``a-001.tar``, ``a-002.tar``, and ``{x,y}`` as either, as in a shell.

    Raises:
        DataError: a list is not closed, or these would be more than a million.
    """
    pieces, place, count = [], 0, 1
    for braces in _BRACES.finditer(given):
        pieces += [[given[place : braces.start()]], _listed(braces[1])]
        place, count = braces.end(), count * len(pieces[-1])
        if count > _MOST_SHARDS:
            raise DataError(f"{given} means more than {_MOST_SHARDS:,} shards.")
    rest = "".join(piece for pieces_ in pieces[::2] for piece in pieces_) + given[place:]
    if "{" in rest or "}" in rest:
        raise DataError(f"{given} has braces that hold no list such as {{000..099}} or {{train,val}}.")
    return ["".join(parts) for parts in product(*pieces, [given[place:]])]


def _listed(inside: str) -> list[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        return inside.split(",")
    first, last = int(numbers[1]), int(numbers[2])
    if abs(last - first) >= _MOST_SHARDS:
        raise DataError(f"{{{inside}}} means more than {_MOST_SHARDS:,} shards.")
    padded = any(text.lstrip("-").startswith("0") and len(text.lstrip("-")) > 1 for text in numbers.groups())
    width = max(map(len, numbers.groups())) if padded else 0
    step = 1 if last >= first else -1
    return [f"{number:0{width}d}" for number in range(first, last + step, step)]


def _local(path: Path, suffixes: Sequence[str]) -> list[Place]:
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix.lower() in suffixes and not file.name.startswith(".")]
    elif path.is_file():
        files = [path]
    else:
        files = [Path(file) for file in sorted(glob.glob(str(path), recursive=True))] if _MAGIC.search(str(path)) else []  # noqa: PTH207 - an absolute pattern
        files = [file for file in files if file.is_file()]
    if not files:
        raise DataError(f"There is no shard {path}.")
    return [_local_place(file) for file in files]


def _local_place(file: Path) -> Place:
    about = file.stat()
    return Place(str(file), about.st_size, str(about.st_mtime_ns))


def _remote(url: str, suffixes: Sequence[str]) -> list[Place]:
    """The file behind a URL, or those in a folder or of a glob; DataError where there is none."""
    store, path = _store(url)
    name = without_query(url)

    def found() -> list[Json]:
        if not _is_web(url) and _MAGIC.search(path):
            listed = store.glob(path, detail=True)
            return [listed[key] for key in sorted(listed)]
        about = store.info(path)
        if about["type"] != "directory":
            return [{**about, "name": path}]
        return sorted(store.ls(path, detail=True), key=lambda each: str(each["name"]))

    try:
        listed = _asked(found, name)
    except ShardError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise DataError(f"There is no shard {name}.") from error
        raise
    alone = len(listed) == 1 and listed[0]["name"] == path
    files = [
        about for about in listed if about["type"] == "file" and (alone or str(about["name"]).lower().endswith(tuple(suffixes)))
    ]
    if not files:
        raise DataError(f"There is no shard {name}.")
    # Names without their scheme, which the store has left out, get it again; a single one is what the user wrote.
    return [Place(url if alone else _whole(store, url, about["name"]), _size(about, name), _mark(about)) for about in files]


def _whole(store: Json, url: str, name: str) -> str:
    if _is_web(url):
        return name
    return f"{url.partition('://')[0]}://{name.lstrip('/')}"


def _size(about: Json, name: str) -> int:
    if about.get("size") is None:
        raise ShardError(f"{name} does not tell its size, which a server of shards must.")
    return int(about["size"])


def _mark(about: Json) -> str:
    found = next((about[name] for name in _MARKS if about.get(name) is not None), "")
    # A store may tell the same moment in one form for a file, and in another for a list of them.
    return str(found.timestamp() if isinstance(found, datetime) else found)


def _store(url: str) -> tuple[Json, str]:
    """The file system of fsspec that a URL is in, and the path in it; raises DataError where a package for it is missing."""
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise DataError(f"{without_query(url)} needs the package fsspec: pip install 'pixelfit[shards]'.") from error
    try:
        return url_to_fs(url)  # type: ignore[no-any-return]
    except ImportError as error:
        if url.startswith("s3://"):
            return _with_arrow(urlsplit(url).netloc), url.removeprefix("s3://")
        scheme = url.partition("://")[0]
        raise DataError(f"{scheme}:// needs a package that fsspec has not found here: {_said(error)}.") from error
    except ValueError as error:
        raise DataError(f"{without_query(url)} cannot be reached: {_said(error)}.") from error


@lru_cache
def _with_arrow(bucket: str) -> Json:
    """Arrow's own client of S3, in the place of s3fs where that is not installed; asked once for a bucket's region."""
    try:
        from fsspec.implementations.arrow import ArrowFSWrapper
        from pyarrow import fs
    except ImportError as error:
        raise DataError("s3:// needs the package s3fs or pyarrow: pip install 'pixelfit[shards]'.") from error
    store, _ = _asked(lambda: fs.FileSystem.from_uri(f"s3://{bucket}"), f"s3://{bucket}")
    return ArrowFSWrapper(store)


def _asked(ask: Callable[[], T], name: str) -> T:
    """What a store answers; raises ShardError where it does not."""
    try:
        return ask()
    except Exception as error:
        raise ShardError(f"{name} cannot be reached: {_said(error)}.") from error


def _is_web(url: str) -> bool:
    return url.partition("://")[0] in _WEB


def without_query(address: str) -> str:
    """A path, or a web address without its query, in which a signature may stand."""
    return address.partition("?")[0] if _is_web(address) else address


def _said(error: BaseException) -> str:
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
    return text.splitlines()[0].rstrip(".")
