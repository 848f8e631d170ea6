"""One picture file, of whatever kind, as an array: its head alone, or its pixels in the form that models take.

Small plain files are read at once, and what else Pillow reads it reads faithfully. TIFF files with more than four channels, with
more than 8 bits in each of several channels, or with channels in pages of their own, as microscopes write them, are read by
tifffile.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pixelfit import files
from pixelfit.data.plain import LARGEST_FILE, Plain, plain
from pixelfit.types import Array, Embedded, Floats, PictureFile, PictureSpec

# What tifffile finds odd in a file is told as the reason why the file is left out, and need not appear on the terminal too.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

Depth = Literal["byte", "wide", "float"]
DEPTHS: dict[Depth, str] = {"byte": "8-bit", "wide": "16-bit", "float": "float or 32-bit"}
# Pillow has readers for some forty more formats: seldom used, seldom tried, and one of them (EPS) runs another program.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF")
# Bytes that decoding one picture may take: some 150 million pixels in colour, or half as many with transparency.
_MOST_BYTES = 600 << 20
_LONGEST_SIDE = 1 << 16  # pixels
# Bytes of a TIFF file that are read: so many times its own, and so many at least. A small reading counts as the third.
_READ_AGAIN, _READ_FEW, _READ_LEAST = 8, 2 << 20, 512
_PIXELS_AT_ONCE = 1 << 22  # of a large picture that are changed together
_GREY_MODES = frozenset({"1", "L", "LA", "La"})
_FLOAT_MODES = frozenset({"I", "F"})
_TRANSPARENT_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION = 0x0112
# Formats whose readers keep EXIF data, or XMP that stands for them, under these names.
_TELLING = frozenset({"PNG", "JPEG", "WEBP"})
_TOLD_IN = frozenset({"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"})
_LYING = 5  # from this orientation on, rows and columns change places
_NUMBERS_AT_ONCE = 1 << 23  # to resize: 64 MiB in double precision
# Halves, which halving a picture's side makes many of, are rounded up, whatever the last bit of the sums that they come from. So
# large a number above a half that optimisers of graphs, which take nearly equal constants for equal, leave it alone.
UP_FROM_HALF = 0.5 + 2**-10
_DRAFT = 2  # JPEG files are decoded to at least so many times the wanted size, and then resized with care
UNREADABLE = (*files.UNREADABLE, Image.DecompressionBombError)
_UNEXPECTED = "it is of another kind or size than expected"
_WIDE_STEP = 257  # 255 × 257 = 65535: white stays white between 8 and 16 bits


@dataclass(frozen=True)
class PictureHead:
    """What a file says of its picture before it is decoded; ``kind`` is its format and mode in words."""

    height: int
    width: int
    channels: int
    depth: Depth
    kind: str


def read_head(file: PictureFile) -> PictureHead | str:
    """Size and kind from the file's head alone, or the reason why it cannot be read."""
    try:
        with _opened(file) as stream:
            small = plain(_small_content(stream))
            if small is not None:
                return _head_of_plain(small)
            if _is_tiff(stream):
                plan = _tiff_plan(stream)
                if isinstance(plan, PictureHead):
                    return plan
                stream.seek(0)
            with Image.open(stream, formats=FORMATS) as picture:
                return _head_of(picture)
    except UNREADABLE as error:
        return _reason(file, error)


def read_picture(file: PictureFile, spec: PictureSpec, *, expected: PictureHead | None = None) -> Array | str:
    """One picture of shape (height, width, channels), uint8 or float32 as the spec says, or the reason why it cannot be read.

    One whose head is not the ``expected`` one, if there is one, is not read.
    """
    try:
        with _opened(file) as stream:
            content = _small_content(stream)
            small = plain(content)
            if small is not None:
                if expected not in (None, _head_of_plain(small)):
                    return _UNEXPECTED
                pixels = small.decoded(content) if _is_as_pillow_reads_it(small, spec) else None
                if pixels is not None:
                    return _of_plain(pixels, spec)
            if _is_tiff(stream):
                plan = _tiff_plan(stream)
                if isinstance(plan, PictureHead):
                    return _fitted(_read_tiff(stream), spec) if expected in (None, plan) else _UNEXPECTED
                stream.seek(0)
            with Image.open(stream, formats=FORMATS) as picture:
                if expected is not None and _head_of(picture) != expected:
                    return _UNEXPECTED
                return _read_with_pillow(picture, spec)
    except UNREADABLE as error:
        return _reason(file, error)


def resize(arrays: Array, spec: PictureSpec) -> Array:
    """Resize (N, H, W, C) to the spec's size with antialiasing, in chunks so that memory stays small.

    Bytes stay bytes; other numbers become float32, but where the size is right already.
    """
    height, width = arrays.shape[1:3]
    if (height, width) == (spec.height, spec.width):
        return arrays
    down, across = resizing(spec.height, height), resizing(spec.width, width)
    kept = np.dtype(np.uint8 if arrays.dtype == np.uint8 else np.float32)
    out = np.empty((len(arrays), spec.height, spec.width, arrays.shape[3]), dtype=kept)
    at_once = max(1, _NUMBERS_AT_ONCE // max(1, arrays[0].size))
    for start in range(0, len(arrays), at_once):
        chunk = arrays[start : start + at_once]
        lines = chunk.reshape(len(chunk), height, -1)
        # Some columns of a large picture at a time, since the products are made in doubles.
        columns = max(1, _NUMBERS_AT_ONCE // max(1, len(chunk) * height))
        blocks = [lines[..., left : left + columns] for left in range(0, lines.shape[2], columns)]
        rows = np.concatenate([down @ block.astype(np.float64) for block in blocks], axis=2)
        resized = across @ rows.reshape(len(chunk), spec.height, width, -1)
        if arrays.dtype == np.uint8:
            resized = np.clip(np.floor(resized + UP_FROM_HALF), 0, 255)
        out[start : start + at_once] = resized
    return out


def resizing(wanted: int, given: int) -> Floats:
    """The weights (wanted, given) with which pixels along a side of ``given`` pixels make one of ``wanted``.

    A triangle around each new pixel's middle, at least two old pixels wide and two new ones (bilinear with antialiasing, as in
    Pillow and torch). In double precision, so that an exported graph, which computes the same, rounds to the same pixels.
    """
    scale = given / wanted
    middles = (np.arange(wanted) + 0.5) * scale
    weights = np.arange(given) + 0.5 - middles[:, np.newaxis]
    np.abs(weights, out=weights)  # in place: for a side of 65,536 pixels it takes 100 MB
    np.divide(weights, max(scale, 1.0), out=weights)
    np.subtract(1, weights, out=weights)
    np.maximum(weights, 0, out=weights)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def _head_of(picture: Image.Image) -> PictureHead:
    width, height = picture.size
    if _lies(picture):
        width, height = height, width
    grey = picture.mode in _GREY_MODES or picture.mode.startswith("I;16") or _has_grey_palette(picture)
    channels = 1 if grey or picture.mode in _FLOAT_MODES else 3
    return PictureHead(height, width, channels, _depth(picture.mode), f"{picture.format} {picture.mode}")


def _small_content(stream: IO[bytes]) -> bytes:
    """All that is in a small file, and nothing of a large one; the stream stands at its beginning in any case."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if size > LARGEST_FILE:
        return b""
    content = stream.read()
    stream.seek(0)
    return content


def _head_of_plain(small: Plain) -> PictureHead:
    kind = f"{small.format} {'L' if small.channels == 1 else 'RGB'}"
    return PictureHead(small.height, small.width, small.channels, "byte", kind)


def _is_as_pillow_reads_it(small: Plain, spec: PictureSpec) -> bool:
    """Whether nothing is done to the picture but to change its colours and size."""
    drafted = small.format == "JPEG" and min(small.height // spec.height, small.width // spec.width) >= 2 * _DRAFT
    return not drafted and spec.scale in ("byte", "unit") and spec.channels in (1, 3)


def _of_plain(pixels: Array, spec: PictureSpec) -> Array:
    if pixels.shape[:2] != (spec.height, spec.width) or (pixels.ndim == 3) != (spec.channels == 3):
        return _bytes_of(Image.fromarray(pixels), spec)
    return pixels.reshape(spec.height, spec.width, spec.channels)


def _bytes_of(picture: Image.Image, spec: PictureSpec) -> Array:
    """The picture in the spec's colours and size."""
    mode = "L" if spec.channels == 1 else "RGB"
    picture = picture if picture.mode == mode else picture.convert(mode)
    if picture.size != (spec.width, spec.height):
        picture = picture.resize((spec.width, spec.height), Image.Resampling.BILINEAR)
    return np.frombuffer(picture.tobytes(), np.uint8).reshape(spec.height, spec.width, spec.channels)


def _opened(file: PictureFile) -> IO[bytes]:
    return io.BytesIO(file.load()) if isinstance(file, Embedded) else files.open_plain(file)


def _lies(picture: Image.Image) -> bool:
    """Whether height and width change places when the picture, not yet decoded, is turned as its EXIF data say.

    Of a TIFF file Pillow tells the size as it is to be shown already.
    """
    return picture.format != "TIFF" and _orientation(picture) >= _LYING


def _orientation(picture: Image.Image) -> int:
    """How the picture has to be turned or mirrored to be upright, in EXIF's numbers; 1 is upright already.

    Where its head tells of no EXIF data they are not asked for: that takes longer than decoding a small picture, and would decode
    a PNG file, since they may stand at its end, where nobody writes them.
    """
    if picture.format in _TELLING and not _TOLD_IN & picture.info.keys():
        return 1
    return int(picture.getexif().get(_ORIENTATION, 1))


def _depth(mode: str) -> Depth:
    if mode in _FLOAT_MODES:
        return "float"
    return "wide" if mode.startswith("I;16") else "byte"


def _has_grey_palette(picture: Image.Image) -> bool:
    if picture.mode not in ("P", "PA"):
        return False
    colours = np.array(picture.getpalette("RGB")).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def _read_with_pillow(picture: Image.Image, spec: PictureSpec) -> Array | str:
    wanted = (spec.height, spec.width) if _lies(picture) else (spec.width, spec.height)
    picture.draft(None, (wanted[0] * _DRAFT, wanted[1] * _DRAFT))  # does nothing but for JPEG files
    mode = "L" if spec.channels == 1 else "RGB"
    _refuse_large(picture.height, picture.width, _bytes_a_pixel(picture, mode))
    picture.load()
    # Of small pictures each copy that is not needed counts: they took a quarter of the time of a PNG file of 64 × 64 pixels.
    upright = picture if _orientation(picture) == 1 else ImageOps.exif_transpose(picture)
    if _depth(upright.mode) != "byte":
        return _fitted(np.asarray(upright)[..., np.newaxis], spec)
    # Transparent pixels have colours that nobody ever saw; on white they look as in a viewer.
    if upright.mode in _TRANSPARENT_MODES or "transparency" in upright.info:
        upright = _on_white(upright, mode)
    if spec.scale in ("byte", "unit") and spec.channels in (1, 3):
        return _bytes_of(upright, spec)
    array = np.asarray(upright if upright.mode == mode else upright.convert(mode))
    return _fitted(array.reshape(*array.shape[:2], -1), spec)


def _on_white(picture: Image.Image, mode: str) -> Image.Image:
    """The picture without its transparency, some rows at a time, so that large ones take no more memory than others."""
    width, height = picture.size
    at_once = max(1, _PIXELS_AT_ONCE // width)
    if at_once >= height:
        layers = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers)
    whole = Image.new(mode, picture.size)
    for top in range(0, height, at_once):
        rows = picture.crop((0, top, width, min(height, top + at_once)))
        rows.info = picture.info  # where the transparent colour of a palette is told
        whole.paste(_on_white(rows, mode).convert(mode), (0, top))
    return whole


def _bytes_a_pixel(picture: Image.Image, mode: str) -> int:
    """Of the picture as Pillow keeps it, and of its copy in another mode where one is needed."""
    size = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
    own = size.get(picture.mode, 4)
    if _depth(picture.mode) != "byte":  # which becomes an array
        return 3 * own
    return own + (size.get(mode, 4) if picture.mode != mode else 0)


def _refuse_large(height: int, width: int, bytes_a_pixel: int) -> None:
    if max(height, width) > _LONGEST_SIDE:
        raise ValueError(f"it has {width:,} × {height:,} pixels, and a side may have {_LONGEST_SIDE:,}")
    if height * width * bytes_a_pixel > _MOST_BYTES:
        raise ValueError(f"its {height * width:,} pixels would take more than {_MOST_BYTES >> 20} MiB: make it smaller")


def _fitted(array: Array, spec: PictureSpec) -> Array | str:
    """Pixels (H, W, C) as the spec wants them, or why they cannot be had so."""
    depth: Depth = "byte" if array.dtype == np.uint8 else "wide" if array.dtype == np.uint16 else "float"
    wanted: Depth = {"byte": "byte", "unit": "byte", "wide": "wide", "raw": "float"}[spec.scale]  # type: ignore[assignment]
    if depth != wanted and "float" in (depth, wanted):
        return f"it has {DEPTHS[depth]} pixels among {DEPTHS[wanted]} ones"
    channels = array.shape[2]
    if channels == 3 and spec.channels == 1:  # the weights of ITU-R 601-2, which Pillow's grey has too
        array = _by_rows(array, lambda rows: (rows @ np.array([[0.299], [0.587], [0.114]])).round().astype(array.dtype))
    elif channels != spec.channels and (channels, spec.channels) != (1, 3):
        return f"it has {channels} channel(s) among pictures of {spec.channels}"
    if wanted == "byte" and depth != "byte":
        array = _by_rows(array, lambda rows: ((rows + np.uint32(_WIDE_STEP // 2)) // _WIDE_STEP).astype(np.uint8))
    elif wanted == "wide" and depth == "byte":
        array = array * np.uint16(_WIDE_STEP)
    resized: Array = resize(array[np.newaxis], spec)[0]
    if not np.isfinite(resized).all():  # one such pixel makes those around it so
        return "it has NaN or infinite pixels"
    resized = np.repeat(resized, 3, axis=2) if (channels, spec.channels) == (1, 3) else resized
    return resized if wanted == "byte" else resized.astype(np.float32)


def _by_rows(array: Array, change: Callable[[Array], Array]) -> Array:
    """Pixels (H, W, C) changed some rows at a time, since the change takes several times their room."""
    at_once = max(1, _PIXELS_AT_ONCE // array.shape[1])
    return np.concatenate([change(array[top : top + at_once]) for top in range(0, len(array), at_once)])


class _Metered(files.Wrapped):
    """A file that is read a few times over at most.

    Directories of a TIFF file may lie over each other, or tags tell of the whole file as their value: 8 KiB of such a file kept
    tifffile busy for minutes.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream)
        self._left = _READ_FEW + _READ_AGAIN * stream.seek(0, io.SEEK_END)
        stream.seek(0)

    def read(self, size: int = -1) -> bytes:
        found = self._stream.read(size)
        self._left -= len(found) + _READ_LEAST
        if self._left < 0:
            raise ValueError("it tells of more directories and tags than it can hold")
        return found

    def readinto(self, into: bytearray | memoryview) -> int:  # type: ignore[override]
        view = memoryview(into).cast("B")
        found = self.read(len(view))
        view[: len(found)] = found
        return len(found)


def _is_tiff(stream: IO[bytes]) -> bool:
    start = stream.read(4)
    stream.seek(0)
    return start in _TIFF_STARTS


def _tiff_plan(stream: IO[bytes]) -> PictureHead | None:
    """The head of a TIFF file that is beyond Pillow; None for one that Pillow reads without loss."""
    import tifffile

    try:
        with tifffile.TiffFile(cast(IO[bytes], _Metered(stream))) as tiff:
            series, page = tiff.series[0], tiff.pages.first
            samples, dtype = page.samplesperpixel, page.dtype
            if dtype is None:
                return None
            pages = dict(zip(series.axes, series.shape, strict=True)).get("C", 1)
            plain = dtype in (np.bool_, np.uint8) or (dtype in (np.uint16, np.int32, np.float32) and samples == 1)
            extra = page.extrasamples and page.extrasamples[0] == 0 and samples != 3  # channels that are no alpha
            if pages == 1 and plain and samples <= 4 and not extra:
                return None
            height, width = page.imagelength, page.imagewidth
            if _tiff_orientation(page) >= _LYING:
                height, width = width, height
            depth: Depth = "byte" if dtype in (np.bool_, np.uint8) else "wide" if dtype == np.uint16 else "float"
            return PictureHead(height, width, samples * pages, depth, f"TIFF of {samples * pages} × {dtype}")
    except tifffile.TiffFileError as error:
        raise ValueError(str(error)) from error


def _read_tiff(stream: IO[bytes]) -> Array:
    """Pixels (H, W, C) of the first moment and layer, with all its channels."""
    import tifffile

    stream.seek(0)
    with tifffile.TiffFile(cast(IO[bytes], _Metered(stream))) as tiff:
        series, first = tiff.series[0], tiff.pages.first
        channels = first.samplesperpixel * dict(zip(series.axes, series.shape, strict=True)).get("C", 1)
        # Twice: the planes that were read, and the same side by side.
        _refuse_large(first.imagelength, first.imagewidth, 2 * channels * (first.dtype or np.dtype(np.uint8)).itemsize)
        outer = [(axis, size) for axis, size in zip(series.axes, series.shape, strict=True) if axis not in "YXS"]
        sizes = [size for _, size in outer]
        planes = []
        for channel in range(dict(outer).get("C", 1)):
            place = int(np.ravel_multi_index([channel if axis == "C" else 0 for axis, _ in outer], sizes)) if outer else 0
            page = series.pages[place]
            if page is None:
                raise ValueError("pages are missing")
            if page.keyframe is None or page.keyframe.shape != first.shape:
                raise ValueError("its pages are of different sizes")
            plane = page.asarray()
            axes = page.axes
            plane = np.moveaxis(plane, axes.index("S"), -1) if "S" in axes else plane[..., np.newaxis]
            planes.append(plane)
        array = np.concatenate(planes, axis=2)
        if first.photometric == tifffile.PHOTOMETRIC.MINISWHITE and array.dtype.kind in "bu":
            array = ~array
        orientation = _tiff_orientation(first)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.dtype not in (np.uint8, np.uint16):
        array = array.astype(np.float32)
    return _turned(array, orientation)


def _tiff_orientation(page: object) -> int:
    tag = getattr(page, "tags", {}).get(_ORIENTATION)
    return int(tag.value) if tag is not None else 1


def _turned(array: Array, orientation: int) -> Array:
    """Rows and columns (H, W, C) as the orientation of EXIF and TIFF means them."""
    if orientation >= _LYING:
        array = array.swapaxes(0, 1)
    across, down = {2: (True, False), 3: (True, True), 4: (False, True), 6: (True, False), 7: (True, True), 8: (False, True)}.get(
        orientation, (False, False)
    )
    return np.ascontiguousarray(array[:: -1 if down else 1, :: -1 if across else 1])


def _reason(file: PictureFile, error: Exception) -> str:
    if isinstance(file, Path):
        if not file.exists():
            return "there is no such file"
        if file.is_dir():
            return "it is a folder"
        if file.is_file() and file.stat().st_size == 0:
            return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "it is not a picture"
    return str(error).split("\n")[0] or type(error).__name__
