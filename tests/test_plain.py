"""Small plain files are read as Pillow reads them, to the last pixel; whatever is wrong with one is found by Pillow."""

from __future__ import annotations

import io
from collections.abc import Callable

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
