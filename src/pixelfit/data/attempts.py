"""Files read once each, for their fingerprint and their picture, here or in a helper process that runs ``answer_tasks``.

A helper starts in a tenth of a second, because this module imports nothing but NumPy and what decodes pictures.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pixelfit.data.pictures import PictureHead, read_picture
from pixelfit.types import Array, Embedded, PictureFile, PictureSpec

_WHOLE = 1 << 20  # bytes: of larger files three samples, the size and the time of the last change stand for the content
_SAMPLE = 1 << 16


@dataclass(frozen=True)
class Task:
    """Files whose pictures are wanted in one form. Where a head is expected, only those that have it are."""

    files: Sequence[PictureFile]
    spec: PictureSpec
    expected: PictureHead | None

    def room(self) -> Array:
        """An array that the pictures fit into."""
        return np.zeros((len(self.files), *shape_of(self.spec)), kind_of(self.spec))


@dataclass(frozen=True)
class Attempt:
    """What came of a task: each file's fingerprint, and whether its picture is there; why one is not is for others to find."""

    fingerprints: list[bytes]
    done: list[bool]


def shape_of(spec: PictureSpec) -> tuple[int, int, int]:
    """The shape of a stored picture."""
    return spec.height, spec.width, spec.channels


def kind_of(spec: PictureSpec) -> np.dtype[np.uint8 | np.float32]:
    """The type of a stored picture's numbers."""
    return np.dtype(np.uint8 if spec.scale == "byte" else np.float32)


def attempt(task: Task, into: Array) -> Attempt:
    """Decode the task's files into the rows of an array."""
    fingerprints, done = [], []
    for row, file in enumerate(task.files):
        found, source = _fingerprinted(file)
        picture = read_picture(source, task.spec, expected=task.expected)
        fingerprints.append(found)
        done.append(not isinstance(picture, str))
        if not isinstance(picture, str):
            into[row] = picture
    return Attempt(fingerprints, done)


def fingerprint(file: PictureFile) -> bytes:
    """What tells a file from others: of a small one its content, of a large one samples and the time of its last change."""
    return _fingerprinted(file)[0]


def answer_tasks() -> None:
    """In a helper: take tasks from standard input until it is closed, and answer each with its attempt and the pixels."""
    tasks, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what a library prints is no answer
    while True:
        try:
            task: Task = pickle.load(tasks)  # noqa: S301  # it comes from the process that started this one
        except EOFError:  # the process that this one helps has ended, in whatever way
            return
        pixels = task.room()
        pickle.dump(attempt(task, pixels), answers)
        answers.write(pixels.data.cast("B"))
        answers.flush()


def _fingerprinted(file: PictureFile) -> tuple[bytes, PictureFile]:
    """A file's fingerprint, and where to read it from: what has been read whole is not read again."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        if isinstance(file, Embedded):
            content = file.load()
        else:
            # Unbuffered and without Path.open: of a small file each call counts.
            with open(file, "rb", buffering=0) as stream:  # noqa: PTH123
                status = os.fstat(stream.fileno())
                if status.st_size > _WHOLE:
                    digest.update(f"{status.st_size} {status.st_mtime_ns} ".encode())
                    for start in (0, status.st_size // 2, status.st_size - _SAMPLE):
                        stream.seek(start)
                        digest.update(stream.read(_SAMPLE))
                    return digest.digest(), file
                content = stream.read()
    except (OSError, ValueError) as error:
        digest.update(f"cannot be read: {error}".encode(errors="backslashreplace"))
        return digest.digest(), file
    digest.update(content)
    return digest.digest(), Embedded(lambda: content)
