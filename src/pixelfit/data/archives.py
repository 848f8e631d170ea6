"""Zip and tar archives, unpacked once into the user's cache: no path escapes, and no bomb fills the disk."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import io
import lzma
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from pixelfit.data.tables import is_table
from pixelfit.errors import DataError
from pixelfit.files import ALWAYS_FINE, MOST_GROWTH, UNREADABLE, Wrapped, cache_folder, made_beside, open_plain
from pixelfit.progress import Progress

_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_CHUNK = 1 << 20
_SHARE_OF_FREE_DISK = 0.5
MOST_ENTRIES = 2_000_000


def is_archive(path: Path) -> bool:
    """Whether the file's name is that of an archive that can be unpacked."""
    return path.name.lower().endswith(_SUFFIXES)


def unpacked(path: Path, progress: Progress) -> Path:
    """The folder with the archive's content, unpacked now or by an earlier run, which the content's checksum tells.

    Folders that hold nothing but one other folder are gone through, so that what is inside is like any folder.

    Raises:
        DataError: the archive is damaged, an entry's path leads outside, or it would grow beyond what is reasonable or free.
    """
    place = cache_folder("archives") / _checksum(path, progress)
    if not place.is_dir():
        with made_beside(place) as beside:
            _unpack(path, beside, progress)
    return _innermost(place)


def _innermost(folder: Path) -> Path:
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith((".", "__"))]
    inside = list(entries[0].iterdir()) if len(entries) == 1 and entries[0].is_dir() else []
    return _innermost(entries[0]) if any(entry.is_dir() or is_table(entry) for entry in inside) else folder


def _unpack(path: Path, folder: Path, progress: Progress) -> None:
    size, free = path.stat().st_size, shutil.disk_usage(folder).free * _SHARE_OF_FREE_DISK
    most = min(max(size * MOST_GROWTH, ALWAYS_FINE), free)
    too_much = DataError(
        f"{path} was not unpacked: it would take more than {most / 2**20:,.0f} MiB, which is half of the free disk or "
        f"{MOST_GROWTH} times its own size; unpack it yourself, and give the folder."
    )
    written = 0
    try:
        with open_plain(path) as archive:
            for number, (name, content) in enumerate(_entries(path, archive, round(most), too_much)):
                if number >= MOST_ENTRIES:
                    raise DataError(f"{path} holds more than {MOST_ENTRIES:,} files; unpack it yourself, and give the folder.")
                target = folder / _safe(name, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                with content, target.open("xb") as out:
                    while chunk := content.read(_CHUNK):
                        written += len(chunk)
                        if written > most:
                            raise too_much
                        out.write(chunk)
                progress.count(f"Unpacking {path.name}", min(archive.tell(), size), size)
    except DataError:
        raise
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(f"{path} cannot be unpacked: it holds {Path(str(error.filename)).relative_to(folder)} twice.") from error
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENAMETOOLONG, errno.EINVAL, None):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or "it is cut short"
        raise DataError(f"{path} cannot be unpacked: {reason}.") from error


def _entries(path: Path, archive: IO[bytes], most: int, too_much: DataError) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each file in the archive, of which ``most`` bytes may be decompressed."""
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as members:
            for member in members.infolist():
                if not (member.filename.endswith("/") or _left_by_desktops(member.filename)):
                    yield member.filename, members.open(member)
        return
    with _decompressed(archive) as content, tarfile.open(fileobj=_Bounded(content, most, too_much), mode="r:") as tar:
        for entry in tar:
            if entry.isdir() or _left_by_desktops(entry.name):
                continue
            file = tar.extractfile(entry) if entry.isfile() else None
            if file is None:
                raise DataError(f"{path} holds {entry.name}, which is no plain file but a link or a device; unpack it yourself.")
            yield entry.name, file


def _decompressed(archive: IO[bytes]) -> IO[bytes]:
    """The tar archive as it was before it was compressed, by what it begins with, whatever its name says."""
    start = archive.read(6)
    archive.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=archive)  # type: ignore[return-value]
    if start.startswith(b"BZh"):
        return bz2.BZ2File(archive)
    return lzma.LZMAFile(archive) if start == b"\xfd7zXZ\0" else archive


class _Bounded(Wrapped):
    """A file of which no more than ``most`` bytes are gone through, and only as many at once as heads of tar archives have."""

    def __init__(self, file: IO[bytes], most: int, too_much: DataError) -> None:
        super().__init__(file)
        self._most, self._too_much = most, too_much

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _CHUNK:  # tarfile reads a long name at once, whatever length its head tells
            raise tarfile.ReadError(f"an entry's head tells of {size:,} bytes")
        if self._stream.tell() + size > self._most + _CHUNK:
            raise self._too_much
        return self._stream.read(size)

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        if place > self._most + _CHUNK:
            raise self._too_much
        return super().seek(place, whence)


def _left_by_desktops(name: str) -> bool:
    return PurePosixPath(name).parts[:1] == ("__MACOSX",) or PurePosixPath(name).name == ".DS_Store"


def leads_out(name: str) -> bool:
    """Whether an entry's path would lie outside of the folder into which it is unpacked."""
    path = name.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return not parts or path.startswith("/") or parts[0].endswith(":") or ".." in parts


def _safe(name: str, archive: Path) -> Path:
    """The entry's path below the folder; raises DataError if it leads out of it."""
    if leads_out(name):
        raise DataError(f"{archive} was not unpacked: its entry {name!r} leads out of the folder.")
    return Path(*PurePosixPath(name.replace("\\", "/")).parts)


def _checksum(path: Path, progress: Progress) -> str:
    size, done, digest = path.stat().st_size, 0, hashlib.blake2b(digest_size=16)
    with open_plain(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            progress.count(f"Reading {path.name}", done, size)
    return digest.hexdigest()
