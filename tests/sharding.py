"""Shards of small pictures in every form, and a tiny model to predict for them."""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from pyarrow import parquet
from typer.testing import CliRunner, Result

import pixelfit
from pixelfit.cli import app
from pixelfit.models.heads import ClassHead
from pixelfit.models.model import Model, Preparation
from pixelfit.predictor import Member, Predictor
from pixelfit.types import PictureSpec

SIDE = 8


def tiny_predictor(seed: int = 0) -> Predictor:
    """A linear model with random weights for pictures of 8 × 8, which tells three classes apart."""
    model = Model.new("linear", {}, PictureSpec(SIDE, SIDE, 1), Preparation((100.0,), (60.0,)), ClassHead(3))
    with torch.no_grad():
        model.module[1].weight.copy_(torch.randn(3, SIDE * SIDE, generator=torch.Generator().manual_seed(seed)))
    return Predictor("classification", ("a", "b", "c"), "digit", (Member(model, 0, 1.0),))


def picture(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (SIDE, SIDE), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, size: int | None = None, link: str = "") -> bytes:
    """An entry of a tar archive, whose head may lie about its size."""
    about = tarfile.TarInfo(name)
    about.size, about.type, about.linkname = len(content) if size is None else size, kind, link
    return about.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


END = bytes(2 * tarfile.BLOCKSIZE)


def tar_of(pictures: Sequence[bytes], first: int) -> bytes:
    """As WebDataset writes them: a picture and its class a sample."""
    pieces = (entry(f"{first + n:06d}.png", each) + entry(f"{first + n:06d}.cls", b"1") for n, each in enumerate(pictures))
    return b"".join(pieces) + END


def parquet_of(pictures: Sequence[bytes], first: int) -> bytes:
    """A column of bytes, beside others."""
    out = io.BytesIO()
    parquet.write_table(pa.table({"image": list(pictures), "label": list(range(len(pictures)))}), out, row_group_size=7)
    return out.getvalue()


def hugging_face_of(pictures: Sequence[bytes], first: int) -> bytes:
    """As the package datasets writes pictures: a struct of bytes and path."""
    out = io.BytesIO()
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": each, "path": f"{first + n}.png"} for n, each in enumerate(pictures)]
    parquet.write_table(pa.table({"image": pa.array(rows, kind)}), out)
    return out.getvalue()


# Every form of shards: how one is written, and its ending.
WRITERS: Mapping[str, tuple[Callable[[Sequence[bytes], int], bytes], str]] = {
    "WebDataset": (tar_of, ".tar"),
    "Parquet": (parquet_of, ".parquet"),
    "Parquet of Hugging Face": (hugging_face_of, ".parquet"),
}


def make_shards(folder: Path, form: str = "WebDataset", *, shards: int = 3, rows: int = 20) -> list[Path]:
    write, suffix = WRITERS[form]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(shards):
        first = number * rows
        paths.append(folder / f"train-{number:03d}{suffix}")
        paths[-1].write_bytes(write([picture(first + row) for row in range(rows)], first))
    return paths


def invoked(*words: object) -> Result:
    """``pixelfit predict`` in this process; what the command line would say in a sentence is raised."""
    result = CliRunner().invoke(app, ["predict", *map(str, words)], catch_exceptions=True)
    if isinstance(result.exception, pixelfit.errors.PixelfitError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))
