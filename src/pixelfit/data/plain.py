"""Small JPEG and PNG files of the plainest kind, told from their bytes and decoded by imagecodecs.

It gives the same pixels as Pillow, without Pillow's bookkeeping, which takes five times as long as decoding a JPEG file of
64 × 64 pixels. What is not plain, or is refused here, is for Pillow to read or to find fault with.

PNG files are decoded by libspng, which is as fast as libpng (78 and 77 µs for 64 × 64 pixels) and silent: of compressed data that
go on behind the last row imagecodecs would log what libpng says, which lands on the terminal where no logging is set up. Of 6,000
files with damaged data libspng and Pillow read the same 2,641.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import imagecodecs

from pixelfit.types import Array

LARGEST_FILE = 1 << 16  # bytes
_MOST_PIXELS = 1 << 18
# The segments of a JPEG file that say nothing of turning, colour spaces or further pictures: JFIF's own, tables, remarks.
_JPEG_SEGMENTS = frozenset({0xFFE0, 0xFFDB, 0xFFC4, 0xFFDD, 0xFFFE})
_JPEG_FRAMES = frozenset({0xFFC0, 0xFFC2})  # baseline and progressive
_JPEG_SCAN, _JPEG_END = 0xFFDA, b"\xff\xd9"
_PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
# Which chunks may come next before the end; chunks of other kinds or in another order are for Pillow to judge.
_PNG_NEXT = {b"": (b"IHDR",), b"IHDR": (b"pHYs", b"IDAT"), b"pHYs": (b"IDAT",), b"IDAT": (b"IDAT",)}
_PHYS_LENGTH = 9
_PNG_CHANNELS = {0: 1, 2: 3}  # of its colour types


@dataclass(frozen=True)
class Plain:
    """What a plain file holds: its format, its size, and 1 channel or 3 of 8 bits."""

    format: str
    height: int
    width: int
    channels: int

    def decoded(self, data: bytes) -> Array | None:
        """Its pixels (height, width) or (height, width, 3), uint8; None for a damaged file."""
        decode: Callable[[bytes], Array] = imagecodecs.jpeg8_decode if self.format == "JPEG" else imagecodecs.spng_decode
        try:
            pixels = decode(data)
        except (RuntimeError, ValueError, ImportError):  # the last where imagecodecs was built without the library
            return None
        size = (self.height, self.width)
        return pixels if pixels.shape == (size if self.channels == 1 else (*size, 3)) else None


def plain(data: bytes) -> Plain | None:
    """What the whole content of a file says of itself; None for what is not plain, or was cut short."""
    found = _jpeg(data) if data.startswith(b"\xff\xd8") else _png(data) if data.startswith(_PNG_START) else None
    return found if found is not None and 0 < found.height * found.width <= _MOST_PIXELS else None


def _jpeg(data: bytes) -> Plain | None:
    # Of a file that was cut short, libjpeg makes up the rest.
    if not data.endswith(_JPEG_END):
        return None
    place, found = 2, None
    while place + 10 <= len(data):
        marker, length = struct.unpack_from(">HH", data, place)
        if marker in _JPEG_FRAMES and found is None:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, place + 4)
            if bits != 8 or channels not in (1, 3):
                return None
            found = Plain("JPEG", height, width, channels)
        elif marker == _JPEG_SCAN:
            return found if place + 2 + length < len(data) else None
        elif marker not in _JPEG_SEGMENTS:
            return None
        place += 2 + length
    return None


def _png(data: bytes) -> Plain | None:
    if not data.endswith(_PNG_END):
        return None
    width, height, bits, colours, *others = struct.unpack_from(">IIBBBBB", data, 16)
    if bits != 8 or colours not in _PNG_CHANNELS or any(others):  # ways of compressing and filtering, and interlaced rows
        return None
    place, end, before = 8, len(data) - len(_PNG_END), b""
    while place < end:
        (length,) = struct.unpack_from(">I", data, place)
        content = data[place + 4 : place + 8 + length]
        name = content[:4]
        if name not in _PNG_NEXT[before] or (name == b"pHYs" and length != _PHYS_LENGTH):
            return None
        if zlib.crc32(content).to_bytes(4) != data[place + 8 + length : place + 12 + length]:
            return None
        place, before = place + 12 + length, name
    return Plain("PNG", height, width, _PNG_CHANNELS[colours]) if place == end and before == b"IDAT" else None
