"""Zip and tar archives, unpacked once into the user's cache: no path escapes, and no bomb fills the disk."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from pixelfit.data.tables import is_table
from pixelfit.errors import DataError
from pixelfit.files import cache_folder
from pixelfit.progress import Progress

_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_CHUNK = 1 << 20
# Pictures hardly shrink in an archive and tables by 20 times at most; a bomb (such as 42.zip) shrinks by a thousand and more.
MOST_GROWTH = 100
_ALWAYS_FINE = 100 << 20  # bytes: small archives of flat drawings may well grow by more
_SHARE_OF_FREE_DISK = 0.5
MOST_ENTRIES = 2_000_000
# What the readers raise for archives that are damaged, cut short, encrypted or packed in a way that Python does not know.
_BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError, RuntimeError,
    NotImplementedError,
)  # fmt: skip


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
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f"{place.name}.", dir=place.parent))
        try:
            _unpack(path, beside, progress)
            try:
                beside.rename(place)
            except OSError:  # another run was quicker, and its content is the same
                if not place.is_dir():
                    raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return _innermost(place)


def _innermost(folder: Path) -> Path:
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith((".", "__"))]
    inside = list(entries[0].iterdir()) if len(entries) == 1 and entries[0].is_dir() else []
    return _innermost(entries[0]) if any(entry.is_dir() or is_table(entry) for entry in inside) else folder


def _unpack(path: Path, folder: Path, progress: Progress) -> None:
    size, free = path.stat().st_size, shutil.disk_usage(folder).free * _SHARE_OF_FREE_DISK
    most = min(max(size * MOST_GROWTH, _ALWAYS_FINE), free)
    written = 0
    try:
        with path.open("rb") as archive:
            for number, (name, content) in enumerate(_entries(path, archive)):
                if number >= MOST_ENTRIES:
                    raise DataError(f"{path} holds more than {MOST_ENTRIES:,} files; unpack it yourself, and give the folder.")
                target = folder / _safe(name, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                with content, target.open("xb") as out:
                    while chunk := content.read(_CHUNK):
                        written += len(chunk)
                        if written > most:
                            raise DataError(
                                f"{path} was not unpacked: it would take more than {most / 2**20:,.0f} MiB, which is half of the "
                                f"free disk or {MOST_GROWTH} times its own size; unpack it yourself, and give the folder."
                            )
                        out.write(chunk)
                progress.count(f"Unpacking {path.name}", min(archive.tell(), size), size)
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(f"{path} cannot be unpacked: it holds {Path(str(error.filename)).relative_to(folder)} twice.") from error
    except _BROKEN as error:
        raise DataError(f"{path} cannot be unpacked: {error or 'it is cut short'}.") from error


def _entries(path: Path, archive: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each file in the archive."""
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as members:
            for member in members.infolist():
                if not (member.is_dir() or _left_by_desktops(member.filename)):
                    yield member.filename, members.open(member)
        return
    with tarfile.open(fileobj=archive) as tar:
        for entry in tar:
            if entry.isdir() or _left_by_desktops(entry.name):
                continue
            content = tar.extractfile(entry) if entry.isfile() else None
            if content is None:
                raise DataError(f"{path} holds {entry.name}, which is no plain file but a link or a device; unpack it yourself.")
            yield entry.name, content


def _left_by_desktops(name: str) -> bool:
    return PurePosixPath(name).parts[:1] == ("__MACOSX",) or PurePosixPath(name).name == ".DS_Store"


def _safe(name: str, archive: Path) -> Path:
    """The entry's path below the folder; raises DataError if it leads out of it."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0].endswith((":", "/")) or ".." in parts:
        raise DataError(f"{archive} was not unpacked: its entry {name!r} leads out of the folder.")
    return Path(*parts)


def _checksum(path: Path, progress: Progress) -> str:
    size, done, digest = path.stat().st_size, 0, hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            progress.count(f"Reading {path.name}", done, size)
    return digest.hexdigest()
