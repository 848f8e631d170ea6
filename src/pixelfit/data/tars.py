"""Tar archives gone through once from front to back, an entry at a time: nothing is unpacked, and nothing missing goes unsaid."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from pixelfit.data.archives import leads_out
from pixelfit.data.arrays import printable_name
from pixelfit.files import Wrapped

MOST_BYTES = 256 << 20  # of an entry
# Of an entry's head, with the long names and settings before it. Python's tarfile takes time that grows with the square of it
# for heads that were made so (CVE-2024-6232): half a second for so many bytes at the worst.
_MOST_HEAD = 8 << 10
_MOST_SETTINGS = 100
_PIECE = 1 << 20
_END = bytes(tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class Entry:
    """A file in an archive: its bytes where they are wanted, or the reason why it has none."""

    name: str
    content: bytes | None = None
    reason: str | None = None


def entries(stream: IO[bytes], wanted: Callable[[str], bool]) -> Iterator[Entry]:
    """The files in a tar archive in their order, and those that are none, or lie elsewhere, with the reason.

    Args:
        stream: is read once and never sought in.
        wanted: whether the bytes of a file of that name are; of others there is only the name.

    Raises:
        tarfile.TarError, and what else is in ``files.UNREADABLE``: from there on the archive cannot be read, or says no more.
    """
    forward = _Forward(stream)
    with tarfile.TarFile(fileobj=forward, errorlevel=2) as tar:
        while (entry := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined] # where tarfile keeps each that it has seen
            if len(tar.pax_headers) > _MOST_SETTINGS:
                raise tarfile.ReadError(f"it has more than {_MOST_SETTINGS} settings for all entries")
            if not entry.isdir():
                yield _entry(entry, forward, wanted)
    forward.check_end()


def _entry(entry: tarfile.TarInfo, forward: _Forward, wanted: Callable[[str], bool]) -> Entry:
    name = printable_name(entry.name)
    if leads_out(entry.name):
        return Entry(name, reason="its path leads out of the archive")
    if not entry.isreg() or entry.issparse():
        return Entry(name, reason="it is a link or a device, and no plain file")
    if not wanted(entry.name):
        return Entry(name)
    if not 0 <= entry.size <= MOST_BYTES:
        return Entry(name, reason=f"its head tells of {entry.size:,} bytes, and {MOST_BYTES:,} are read at most")
    content = forward.content(entry.size)
    if len(content) < entry.size:
        return Entry(name, reason=f"the archive ends after {len(content):,} of its {entry.size:,} bytes")
    return Entry(name, content)


class _Forward(Wrapped):
    """A stream for tarfile that leads forward only, in heads of a reasonable size, and knows what the last one was."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream)
        self._place, self._last = 0, b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_HEAD:
            raise tarfile.ReadError(f"an entry's head tells of {size:,} bytes")
        self._last = self.content(size)
        return self._last

    def content(self, size: int) -> bytes:
        """So many bytes, or what is left."""
        pieces, left = [], size
        while left and (piece := self._stream.read(min(left, _PIECE))):
            pieces.append(piece)
            left -= len(piece)
        self._place += size - left
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def tell(self) -> int:
        return self._place

    def seek(self, place: int, whence: int = 0) -> int:
        if place < self._place or whence:
            raise tarfile.ReadError("an entry's head leads backwards")
        while self._place < place and self.content(min(place - self._place, _PIECE)):
            pass
        return self._place

    def check_end(self) -> None:
        """Raise ReadError unless the archive ended with an empty block, and nothing but such blocks follows."""
        if self._last != _END:
            raise tarfile.ReadError(
                "an entry's head is damaged" if len(self._last) == len(_END) else "it ends without an end mark: it was cut short"
            )
        while piece := self.content(_PIECE):
            if piece.strip(b"\0"):
                raise tarfile.ReadError(f"more follows its end mark, before byte {self._place:,}")
