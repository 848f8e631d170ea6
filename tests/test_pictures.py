"""Pictures of every format, mode and size are read as they look, without losing range, or left out with a reason."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pixelfit.data.pictures import PictureHead, read_head, read_picture
from pixelfit.data.sources import load_table
from pixelfit.data.store import decode
from pixelfit.errors import DataError
from pixelfit.progress import Silent
from pixelfit.types import UNNAMED, Array, Embedded, Pictures, PictureSpec

# Which modes each format can hold, as Pillow writes them.
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"),
    "BMP": ("1", "L", "P", "RGB"),
    "GIF": ("1", "L", "P", "RGB"),
}
LOSSY = {"JPEG": 6, "WEBP": 0}  # grey levels that a flat picture may be off; WebP is written lossless


def embedded(picture: Image.Image, kind: str, **options: object) -> Embedded:
    out = io.BytesIO()
    picture.save(out, format=kind, **({"lossless": True} if kind == "WEBP" else {}), **options)
    return Embedded(out.getvalue)


def flat(mode: str, size: tuple[int, int], level: int) -> Image.Image:
    """A picture of one grey, whatever its mode; ``level`` is 0 or 255 for bits, and any byte otherwise."""
    width, height = size
    if mode == "I;16":
        return Image.fromarray(np.full((height, width), level * 257, dtype=np.uint16))
    if mode in ("I", "F"):
        return Image.fromarray(np.full((height, width), level, dtype=np.int32 if mode == "I" else np.float32))
    grey = Image.new("L", size, level)
    return grey.convert("RGB").convert(mode) if mode == "CMYK" else grey.convert(mode)


KINDS = [(kind, mode) for kind, modes in MODES.items() for mode in modes]


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    level=st.integers(0, 255),
    channels=st.sampled_from([1, 3]),
)
def test_every_format_and_mode_is_read_as_it_looks(
    kind: tuple[str, str], size: tuple[int, int], level: int, channels: int
) -> None:
    form, mode = kind
    if mode == "1":
        level = 255 * (level > 127)
    file = embedded(flat(mode, size, level), form)
    head = read_head(file)
    assert isinstance(head, PictureHead)
    assert (head.width, head.height) == size
    numbers = mode in ("I", "F")
    picture = read_picture(file, PictureSpec(9, 7, 1 if numbers else channels, "raw" if numbers else "byte"))
    assert not isinstance(picture, str), picture
    assert picture.shape == (9, 7, 1 if numbers else channels)
    assert picture.dtype == (np.float32 if numbers else np.uint8)
    assert np.abs(picture.astype(float) - level).max() <= LOSSY.get(form, 0) + (mode == "CMYK") + 1e-3


@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(max_size=400),
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0", b"GIF89a", b"RIFF"]),
)
def test_noise_is_left_out_with_a_reason_and_never_a_crash(data: bytes, start: bytes) -> None:
    file = Embedded(lambda: start + data)
    reason = read_head(file)
    if isinstance(reason, str):
        assert reason
    whole = read_picture(file, PictureSpec(4, 4, 1))
    assert (isinstance(whole, str) and whole) or isinstance(whole, np.ndarray)


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(KINDS), cut=st.floats(0.05, 0.9))
def test_files_that_are_cut_short_are_left_out_or_whole(kind: tuple[str, str], cut: float) -> None:
    form, mode = kind
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    whole = embedded(
        Image.fromarray(noise).convert(mode) if mode not in ("I;16", "I", "F") else flat(mode, (40, 40), 9), form
    ).load()
    picture = read_picture(
        Embedded(lambda: whole[: int(len(whole) * cut)]), PictureSpec(8, 8, 1, "raw" if mode in ("I", "F") else "byte")
    )
    # What Pillow can still read in full, such as a file that only lost its trailer, may stay.
    assert isinstance(picture, str) or picture.shape == (8, 8, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "microscope"])
def test_pictures_are_turned_as_their_orientation_says(kind: str, orientation: int, tmp_path: Path) -> None:
    upright = np.zeros((16, 24, 3), dtype=np.uint8)
    upright[:8, :12] = 255  # white in the upper left corner
    # How a camera that was held so has stored it, by what EXIF says of each orientation.
    store = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: a[:, ::-1].swapaxes(0, 1)[::1, :], 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: a[::-1].swapaxes(0, 1),
    }  # fmt: skip
    stored = np.ascontiguousarray(store[orientation](upright))
    path = tmp_path / f"picture.{'tif' if kind == 'microscope' else kind.lower()}"
    if kind == "microscope":
        tifffile.imwrite(
            path,
            stored.astype(np.uint16) * 257,
            photometric="rgb",
            extratags=[(0x0112, "H", 1, orientation, True)],
            metadata=None,
        )
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(stored).save(path, exif=exif)
    head = read_head(path)
    assert isinstance(head, PictureHead)
    assert (head.height, head.width) == (16, 24)
    spec = PictureSpec(16, 24, 3, "wide" if kind == "microscope" else "byte")
    picture = read_picture(path, spec)
    assert not isinstance(picture, str)
    scale = 257 if kind == "microscope" else 1
    assert picture[:7, :11].min() > 240 * scale
    assert picture[9:, 13:].max() < 15 * scale
    assert picture[9:, :11].max() < 15 * scale


def stored(tmp_path: Path, arrays: dict[str, Array], **options: object) -> Pictures:
    for name, array in arrays.items():
        if name.endswith(".tif"):
            tifffile.imwrite(tmp_path / name, array, **options)
        else:
            Image.fromarray(array).save(tmp_path / name)
    table = load_table(([tmp_path / name for name in arrays], np.arange(len(arrays))), UNNAMED, data_dir=None, progress=Silent())
    return decode(table, Silent(), most_left_out=0.5)


@pytest.mark.parametrize("compression", ["lzw", "zlib", "zstd"])
def test_compressed_pictures_of_microscopes_are_read(compression: str, tmp_path: Path) -> None:
    array = np.arange(5 * 20 * 30, dtype=np.uint16).reshape(20, 30, 5)
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, array, compression=compression, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(read_picture(path, PictureSpec(20, 30, 5, "wide")), array)  # type: ignore[arg-type]


def test_sixteen_bits_keep_their_range_and_their_steps(tmp_path: Path) -> None:
    levels = {f"{number}.png": np.full((6, 6), number * 4000 + 1, dtype=np.uint16) for number in range(12)}
    pictures = stored(tmp_path, levels)
    assert pictures.spec.scale == "wide"
    assert pictures.store.dtype == np.float32
    assert [int(picture[0, 0, 0]) for picture in pictures.store] == [number * 4000 + 1 for number in range(12)]
    byte = read_picture(tmp_path / "11.png", PictureSpec(6, 6, 1))  # for a model that was trained on bytes
    assert not isinstance(byte, str)
    assert (byte == round(44_001 / 257)).all()


def test_bytes_among_sixteen_bits_are_brought_to_their_range(tmp_path: Path) -> None:
    pictures = stored(
        tmp_path, {"a.png": np.full((6, 6), 65_535, dtype=np.uint16), "b.png": np.full((6, 6), 255, dtype=np.uint8)}
    )
    assert (pictures.store == 65_535).all()


def test_floats_keep_their_range(tmp_path: Path) -> None:
    arrays = {f"{number}.tif": np.full((6, 6), (number - 5) * 1e4, dtype=np.float32) for number in range(12)}
    pictures = stored(tmp_path, arrays)
    assert pictures.spec.scale == "raw"
    np.testing.assert_allclose(pictures.store[:, 0, 0, 0], (np.arange(12) - 5) * 1e4)
    bad = np.zeros((6, 6), dtype=np.float32)
    bad[0, 0] = np.nan
    left_out = stored(tmp_path, {**arrays, "nan.tif": bad}).left_out
    assert [item.reason for item in left_out] == ["it has NaN or infinite pixels"]


def test_a_picture_of_another_kind_is_left_out_by_name(tmp_path: Path) -> None:
    grey = {f"{number}.png": np.full((6, 6), number, dtype=np.uint8) for number in range(9)}
    pictures = stored(tmp_path, {**grey, "odd.tif": np.ones((6, 6), dtype=np.float32)})
    assert [(Path(item.ref).name, item.reason) for item in pictures.left_out] == [
        ("odd.tif", "it has float or 32-bit pixels among 8-bit ones")
    ]
    assert len(pictures.store) == len(pictures.rows) == len(pictures.kinds) == 9


@pytest.mark.parametrize("channels", [2, 5, 8])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("layout", ["samples", "planes", "pages"])
def test_pictures_of_many_channels(channels: int, dtype: type, layout: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {}
    for number in range(4):
        array = rng.integers(0, np.iinfo(dtype).max, (8, 10, channels)).astype(dtype)
        arrays[f"{number}.tif"] = array if layout == "samples" else np.moveaxis(array, -1, 0).copy()
    options = {
        "samples": {"photometric": "minisblack", "planarconfig": "contig"},
        "planes": {"photometric": "minisblack", "planarconfig": "separate"},
        "pages": {"photometric": "minisblack", "imagej": True, "metadata": {"axes": "CYX"}},
    }[layout]
    pictures = stored(tmp_path, arrays, **options)
    assert pictures.spec == PictureSpec(8, 10, channels, "byte" if dtype == np.uint8 else "wide")
    expected = arrays["2.tif"] if layout == "samples" else np.moveaxis(arrays["2.tif"], 0, -1)
    np.testing.assert_array_equal(pictures.store[2], expected)


def test_sixteen_bit_colour_tiffs_keep_all_bits(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 65_535, (8, 10, 3)).astype(np.uint16)
    pictures = stored(tmp_path, {"a.tif": array, "b.tif": array[::-1]}, photometric="rgb")
    np.testing.assert_array_equal(pictures.store[0], array)


def test_a_stack_gives_its_first_moment_with_all_channels(tmp_path: Path) -> None:
    stack = np.random.default_rng(0).integers(0, 255, (4, 3, 2, 8, 10)).astype(np.uint8)  # moments, layers, channels
    pictures = stored(tmp_path, {"a.tif": stack, "b.tif": stack}, imagej=True, metadata={"axes": "TZCYX"})
    np.testing.assert_array_equal(pictures.store[0], np.moveaxis(stack[0, 0], 0, -1))


def test_a_gif_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), level) for level in (30, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    picture = read_picture(tmp_path / "a.gif", PictureSpec(8, 8, 1))
    assert not isinstance(picture, str)
    assert (picture == 30).all()


def test_transparent_pixels_are_white_as_in_a_viewer(tmp_path: Path) -> None:
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    half.save(tmp_path / "half.png")
    picture = read_picture(tmp_path / "half.png", PictureSpec(8, 8, 3))
    assert not isinstance(picture, str)
    assert (np.abs(picture.astype(int) - 127) <= 1).all()


def test_many_pictures_left_out_are_an_error_that_names_the_option(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.png").write_bytes(b"" if number else b"x")
    table = load_table(([tmp_path / f"{n}.png" for n in range(10)], np.arange(10)), UNNAMED, data_dir=None, progress=Silent())
    with pytest.raises(
        DataError, match=r"10 of 10 pictures .* more than the 0\.01 that --max-left-out allows: .*it is not a picture"
    ):
        decode(table, Silent())
