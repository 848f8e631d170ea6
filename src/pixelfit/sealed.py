"""Checksums of a folder's files, so that one that was cut short or whose bits changed is noticed and named.

They lie in ``SHA256SUMS``, in the form that ``sha256sum --check`` reads.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from pixelfit.errors import RunError
from pixelfit.files import write_text

SUMS = "SHA256SUMS"


def seal(folder: Path, files: Iterable[Path]) -> None:
    """Write the checksums of ``files``, which lie in the folder or below it."""
    lines = sorted(f"{_digest(file)}  {file.relative_to(folder).as_posix()}\n" for file in files)
    write_text(folder / SUMS, "".join(lines))


def is_sealed(folder: Path) -> bool:
    """Whether the folder has checksums."""
    return (folder / SUMS).is_file()


def damaged(folder: Path) -> list[Path]:
    """The files that are not what they were when the folder was sealed, or are missing; none for a folder without checksums."""
    return [folder / name for name, digest in sums(folder).items() if not _is(folder / name, digest)]


def refuse_damaged(file: Path) -> None:
    """Raise RunError if the file is not what it was when its folder, or one of the two above, was sealed."""
    for folder in file.absolute().parents[:3]:
        if is_sealed(folder):
            digest = sums(folder).get(file.absolute().relative_to(folder).as_posix())
            if digest is not None and not _is(file, digest):
                raise RunError(f"{file} is damaged: it is not what its checksum in {folder / SUMS} says.")


def refuse_foreign(folder: Path) -> None:
    """Raise RunError if anything in the folder is a link that leads out of it, or a pipe or a device: it may be a stranger's."""
    home = folder.resolve()
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            entry = Path(place, name)
            if entry.is_symlink() and not entry.resolve().is_relative_to(home):
                raise RunError(f"{entry} is a link that leads out of {folder}: put there what it leads to, or remove it.")
            if entry.exists() and not (entry.is_file() or entry.is_dir()):
                raise RunError(f"{entry} is a pipe or a device: remove it.")


def sums(folder: Path) -> dict[str, str]:
    """Each file's checksum by its name in the folder; lines that name no file in it are passed over."""
    if not is_sealed(folder):
        return {}
    lines = (line.split("  ", 1) for line in (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines())
    named = {line[1]: line[0] for line in lines if len(line) == 2}
    return {name: digest for name, digest in named.items() if name and not {"", ".."} & set(name.split("/"))}


def _is(file: Path, digest: str) -> bool:
    return file.is_file() and _digest(file) == digest


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
