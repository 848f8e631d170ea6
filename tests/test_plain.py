"""Small plain files are read as Pillow reads them, to the last pixel; whatever is wrong with one is found by Pillow."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from pixelfit.data import pictures
from pixelfit.data.pictures import PictureHead
from pixelfit.data.plain import LARGEST_FILE, Plain, plain
from pixelfit.types import Array, Embedded, PictureSpec

SPEC = PictureSpec(24, 24, 3)


def smooth(width: int, height: int, mode: str, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    few = rng.integers(0, 255, (max(1, height // 5), max(1, width // 5), 3), dtype=np.uint8)
    return Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def written(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)  # type: ignore[arg-type]
    return out.getvalue()


def with_pillow(read: Callable[[], object]) -> object:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pictures, "plain", lambda content: None)
        return read()


def same(content: bytes, spec: PictureSpec, expected: PictureHead | None = None) -> Array | str:
    """What is read of the content, which must be what Pillow reads of it."""
    file = Embedded(lambda: content)
    here = pictures.read_picture(file, spec, expected=expected)
    there = with_pillow(lambda: pictures.read_picture(file, spec, expected=expected))
    np.testing.assert_array_equal(here, there)  # type: ignore[arg-type]
    if not isinstance(here, str):
        assert pictures.read_head(file) == with_pillow(lambda: pictures.read_head(file))
    return here


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["L", "RGB"]),
    st.integers(1, 90),
    st.integers(1, 90),
    st.one_of(
        st.fixed_dictionaries({"compress_level": st.integers(0, 9)}),
        st.fixed_dictionaries(
            {"quality": st.integers(1, 100), "progressive": st.booleans(), "subsampling": st.integers(0, 2)},
        ),
    ),
    st.sampled_from([None, (8, 8), (31, 20)]),
    st.sampled_from([1, 3]),
)
def test_plain_files_have_the_pixels_that_pillow_finds(
    mode: str, width: int, height: int, options: dict[str, object], size: tuple[int, int] | None, channels: int
) -> None:
    content = written(smooth(width, height, mode), "PNG" if "compress_level" in options else "JPEG", **options)
    found = plain(content)
    assert found is not None
    assert (found.height, found.width, found.channels) == (height, width, 1 if mode == "L" else 3)
    assert not isinstance(same(content, PictureSpec(*(size or (height, width)), channels)), str)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_cut_short_anywhere_they_are_left_to_pillow(kind: str, mode: str) -> None:
    content = written(smooth(24, 24, mode), kind)
    for end in range(len(content)):
        assert plain(content[:end]) is None
    assert isinstance(same(content[: len(content) // 2], SPEC), str)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG"]), st.sampled_from(["L", "RGB"]), st.data())
def test_of_damaged_ones_the_same_becomes_as_with_pillow(kind: str, mode: str, data: st.DataObject) -> None:
    content = bytearray(written(smooth(24, 24, mode), kind))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    same(bytes(content), SPEC)


def test_a_damaged_one_says_nothing_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    content = bytearray(written(smooth(24, 24, "RGB"), "PNG"))
    content[-20] ^= 1
    assert isinstance(same(bytes(content), SPEC), str)
    assert capfd.readouterr() == ("", "")


def chunk(name: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + name + content + zlib.crc32(name + content).to_bytes(4)


def png(*chunks: bytes, interlaced: int = 0, compression: int = 0) -> bytes:
    """A PNG file of 24 × 12 colours from its chunks between the first and the last."""
    head = struct.pack(">IIBBBBB", 24, 12, 8, 2, compression, 0, interlaced)
    return b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", head), *chunks, chunk(b"IEND")])


ROWS = b"".join(b"\0" + row.tobytes() for row in np.asarray(smooth(24, 12, "RGB")))
STREAM = zlib.compress(ROWS)
IDAT = chunk(b"IDAT", STREAM)
PHYS, TIME = chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 1)), chunk(b"tIME", bytes([7, 230, 1, 1, 0, 0, 0]))


@pytest.mark.parametrize("file", [png(IDAT), png(PHYS, IDAT), png(chunk(b"IDAT", STREAM[:60]), chunk(b"IDAT", STREAM[60:]))])
def test_png_files_of_few_plain_chunks_are_read_here(file: bytes) -> None:
    small = plain(file)
    assert small is not None
    np.testing.assert_array_equal(small.decoded(file), np.asarray(smooth(24, 12, "RGB")))
    same(file, SPEC)


ODD = {
    "two sizes in metres": png(PHYS, PHYS, IDAT),
    "a size in metres that is cut short": png(chunk(b"pHYs", bytes(8)), IDAT),
    "a size in metres at the end": png(IDAT, PHYS),
    "two times": png(TIME, TIME, IDAT),
    "an impossible time": png(chunk(b"tIME", bytes([7, 230, 99, 99, 99, 0, 0])), IDAT),
    "two heads": png(chunk(b"IHDR", struct.pack(">IIBBBBB", 24, 12, 8, 2, 0, 0, 0)), IDAT),
    "something between the data": png(chunk(b"IDAT", STREAM[:60]), PHYS, chunk(b"IDAT", STREAM[60:])),
    "no data": png(),
    "interlaced rows": png(IDAT, interlaced=1),
    "an unknown compression": png(IDAT, compression=1),
}
TOO_MUCH = {
    "remains behind the stream": png(chunk(b"IDAT", STREAM + b"remains")),
    "a second stream": png(chunk(b"IDAT", STREAM + STREAM)),
    "a chunk of remains": png(IDAT, chunk(b"IDAT", b"remains")),
    "more rows": png(chunk(b"IDAT", zlib.compress(ROWS + ROWS))),
    "a byte more": png(chunk(b"IDAT", zlib.compress(ROWS + b"\0"))),
    "no checksum of the stream": png(chunk(b"IDAT", STREAM[:-4])),
    "a wrong checksum of the stream": png(chunk(b"IDAT", STREAM[:-1] + bytes([STREAM[-1] ^ 1]))),
    "a row too few": png(chunk(b"IDAT", zlib.compress(ROWS[:-73]))),
    "an unknown filter": png(chunk(b"IDAT", zlib.compress(b"\7" + ROWS[1:]))),
}


@pytest.mark.parametrize("name", [*ODD, *TOO_MUCH])
def test_odd_png_files_say_nothing_on_the_terminal(
    name: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    file = {**ODD, **TOO_MUCH}[name]
    assert (plain(file) is None) == (name in ODD)
    same(file, SPEC)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records  # Python writes warnings there to the terminal, but not in tests


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_of_damaged_data_with_right_checksums_the_same_becomes_as_with_pillow(data: st.DataObject) -> None:
    stream = bytearray(STREAM)
    for _ in range(data.draw(st.integers(1, 3))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    same(png(chunk(b"IDAT", bytes(stream) + data.draw(st.binary(max_size=9)))), SPEC)


def test_without_the_library_pillow_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(data: bytes) -> Array:
        raise ImportError

    monkeypatch.setattr(imagecodecs, "spng_decode", missing)
    assert not isinstance(same(png(IDAT), SPEC), str)


def turned() -> dict[str, bytes]:
    """Files that look plain, and are not."""
    picture, exif, text = smooth(24, 12, "RGB"), Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x0112] = 6
    text.add_text("XML:com.adobe.xmp", "<x:xmpmeta/>")
    clear = smooth(24, 12, "RGB")
    clear.info["transparency"] = clear.getpixel((0, 0))
    return {
        "turned JPEG": written(picture, "JPEG", exif=exif),
        "turned PNG": written(picture, "PNG", exif=exif),
        "with text": written(picture, "PNG", pnginfo=text),
        "with a clear colour": written(clear, "PNG", transparency=clear.info["transparency"]),
        "with a palette": written(picture.quantize(16), "PNG"),
        "with transparency": written(picture.convert("RGBA"), "PNG"),
        "16 bits": written(Image.fromarray(np.arange(288, dtype=np.uint16).reshape(12, 24) * 200), "PNG"),
        "of four inks": written(picture.convert("CMYK"), "JPEG"),
        "with a profile": written(picture, "JPEG", icc_profile=b"profile"),
        "black and white": written(picture.convert("1"), "PNG"),
    }


@pytest.mark.parametrize("name", sorted(turned()))
def test_what_only_looks_plain_is_read_by_pillow(name: str) -> None:
    content = turned()[name]
    assert plain(content) is None
    same(content, SPEC)


def test_what_is_not_as_expected_is_not_read() -> None:
    content = written(smooth(24, 12, "RGB"), "PNG")
    head = PictureHead(12, 24, 3, "byte", "PNG RGB")
    assert not isinstance(same(content, SPEC, head), str)
    assert isinstance(same(content, SPEC, PictureHead(24, 12, 3, "byte", "PNG RGB")), str)


def test_large_jpeg_files_are_decoded_at_a_smaller_scale_all_the_same() -> None:
    content = written(smooth(200, 160, "RGB"), "JPEG", quality=60)
    assert len(content) < LARGEST_FILE
    same(content, PictureSpec(20, 25, 3))


def test_sizes_that_lie_are_refused_before_anything_is_allocated() -> None:
    content = bytearray(written(smooth(24, 12, "RGB"), "JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    assert plain(bytes(content)) is None
    assert Plain("JPEG", 12, 24, 1).decoded(written(smooth(24, 12, "RGB"), "JPEG")) is None
