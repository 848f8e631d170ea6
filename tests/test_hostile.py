"""Hostile files: none crashes a reader, keeps it busy for ten seconds, takes 1 GiB, or makes it write where it should not.

The corpus is made here, from seeds, and read in a process of its own (``hostile_reading.py``), which watches time and memory.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file, save_file

from benchmarks.fuzz import SEEDS
from benchmarks.shared import child_environment
from pixelfit.files import parse_json, read_rows, write_rows

MOST_MB = 1024
SAMPLES = Path(__file__).parent / "samples" / "format-1"
Case = tuple[str, str]  # what reads it, and what it says, as far as that is certain
linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def outcomes(cases: dict[Path, Case], home: Path) -> None:
    """Read all of them, and assert that each ended as it should."""
    home.mkdir()
    ended = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).with_name("hostile_reading.py"))],
        input="".join(f"{kind} {path}\n" for path, (kind, _) in cases.items()),
        env={**child_environment(), "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 0, f"it ended at {list(cases)[len(found)]}: {ended.stderr[-2000:]}"
    assert len(found) == len(cases)
    for each in found:
        _, said = cases[Path(each["path"])]
        assert not each["outcome"].startswith("raised"), each
        assert each["mb"] < MOST_MB, each
        assert said in each["outcome"], each
        assert "\n" not in each["outcome"], each
    assert {entry.name for entry in home.iterdir()} <= {"cache"}


def mutated(whole: bytes, dice: random.Random) -> bytes:
    """The bytes cut short, or with some of them changed, doubled or left out."""
    content = bytearray(whole)
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(len(content) + 1)
        change = dice.randrange(4)
        if change == 0:
            del content[place:]
        elif change == 1:
            content[place : place + dice.randint(1, 8)] = dice.randbytes(dice.randint(0, 8))
        elif change == 2:
            content[place:place] = content[place : place + dice.randint(1, 64)]
        elif place < len(content):
            content[place] ^= 1 << dice.randrange(8)
    return bytes(content)


def png(width: int, height: int, colour: int, body: bytes) -> bytes:
    """A PNG file with such a head, 8 bits a channel, whatever its compressed ``body`` holds."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)), (b"IDAT", body), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def zeros(size: int) -> Iterator[bytes]:
    for _ in range(size >> 20):
        yield bytes(1 << 20)


def compressed_zeros(size: int) -> bytes:
    packer = zlib.compressobj(1)
    return b"".join(map(packer.compress, zeros(size))) + packer.flush()


@pytest.mark.slow
@linux
def test_pictures(tmp_path: Path) -> None:
    dice = random.Random(0)
    cases: dict[Path, Case] = {}

    def add(name: str, content: bytes, said: str = "") -> None:
        path = tmp_path / name
        path.write_bytes(content)
        cases[path] = ("picture", said)

    for number, seed in enumerate(SEEDS["pictures"]()):
        add(f"whole-{number}", seed)
        for cut in (1, len(seed) // 3, len(seed) - 3):
            add(f"cut-{number}-{cut}", seed[:cut])
        for again in range(15):
            add(f"fuzzed-{number}-{again}", mutated(seed, dice))
    add("bomb.png", png(30_000, 30_000, 0, compressed_zeros(64 << 20)), "refused: ")
    add("transparent.png", png(13_000, 13_000, 6, compressed_zeros(1 << 20)), "refused: its 169,000,000 pixels would take more")
    side = 7_000  # with the byte before each row that tells its filter
    add("large.png", png(side, side, 6, compressed_zeros((side * 4 + 1) * side + (1 << 20))), "read")
    for kind, mark, after in (("GIF", b",", 5), ("JPEG", b"\xff\xc0", 5), ("BMP", b"BM", 18)):
        out = io.BytesIO()
        Image.new("RGB", (4, 4)).save(out, kind)
        small = out.getvalue()
        place = small.index(mark) + after
        size = struct.pack("<ii" if kind == "BMP" else ">HH", 60_000, 60_000)
        add(f"bomb.{kind.lower()}", small[:place] + size + small[place + len(size) :], "refused: ")
    for shape in ((3, 6, 4, 4), (4, 4)):
        out = io.BytesIO()
        tifffile.imwrite(out, np.zeros(shape, np.uint16))
        for width in (1 << 17, 1 << 31):
            lying = bytearray(out.getvalue())
            with tifffile.TiffFile(io.BytesIO(lying)) as tiff:
                for tag in ("ImageWidth", "ImageLength"):
                    place = tiff.pages.first.tags[tag].valueoffset
                    lying[place : place + 4] = struct.pack("<I", width)
            add(f"lying-{len(shape)}-{width}.tif", bytes(lying), "refused: ")
    with tifffile.TiffFile(io.BytesIO(out.getvalue())) as tiff:
        place = tiff.pages.first.offset
    directory = out.getvalue()[place : place + 2 + 12 * struct.unpack("<H", out.getvalue()[place : place + 2])[0]]
    add("round.tif", out.getvalue()[:place] + directory + struct.pack("<I", place))
    add(
        "runs-a-program.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch) system\n", "refused: it is not a picture"
    )
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    cases |= {tmp_path / name: ("picture", "refused: it is a pipe or a device") for name in ("pipe.png", "device.png")}
    outcomes(cases, tmp_path / "home")


@pytest.mark.slow
@linux
def test_tables_and_arrays(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    dice = random.Random(1)
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    cases: dict[Path, Case] = {}

    def add(name: str, content: bytes, said: str = "refused: ", kind: str = "source") -> None:
        path = tmp_path / f"{len(cases)}-{name}"
        path.write_bytes(content)
        cases[path] = (kind, said)

    alike, long = io.BytesIO(), io.BytesIO()
    pd.DataFrame({"path": ["a.png"] * 6_000_000, "y": 0}).to_parquet(alike)
    pd.DataFrame({"path": ["a" * 100_000] * 4_000, "y": 0}).to_parquet(long)
    contents = {
        "wide.csv": (b",".join(b"c%d" % place for place in range(2_000_000)) + b"\n1,2\n", "more columns than the 10,000"),
        "zero.csv": (b"path,y\na.png,1\n\0\0\n", "line 3 holds a zero byte"),
        "ragged.csv": (b"path,y\n\na.png,1,2,3\n", "has 4 cells, and the header 2"),
        "quoted.csv": (b'path,y\n"a.png' + b"," * 3_000_000, ""),
        "keys.jsonl": (b"".join(b'{"path": "a.png", "k%d": 1}\n' % row for row in range(50_000)), ""),
        "sparse.jsonl": (b'{"path":1}\n' * 40_000 + b"".join(b'{"k%d":1}\n' % row for row in range(9_000)), ""),
        "deep.jsonl": (b"[" * 1_000_000 + b"\n", "line 1: it is nested too deep"),
        "deep-objects.jsonl": (b'{"a":' * 1_000_000, "line 1: it is nested too deep"),
        "no-number.jsonl": (b'{"path": "a.png", "y": NaN}\n', "line 1: it holds NaN, which is no number"),
        "large.jsonl": (b'{"path": "a.png", "y": 1e999}\n', "line 1: it holds 1e999, which is too large"),
        "list.jsonl": (b"[1, 2]\n", "line 1 is no object"),
        "alike.parquet": (alike.getvalue(), "6,000,000 rows"),
        "long.parquet": (long.getvalue(), ""),
    }
    for name, (content, said) in contents.items():
        for kind in ("source", "predicted"):
            # Of some ``predict`` needs only the first rows to find that there are no pictures, or goes through what there is.
            add(name, content, said or ("refused: " if kind == "source" else ""), kind)
    add("formula.csv", b"path,y\na.png,\"=cmd|' /C calc'!A1\"\na.png,+1\n", "read 2")

    objects, whole = io.BytesIO(), io.BytesIO()
    np.savez(objects, x=np.array([{}, {}]), y=np.arange(2))
    np.savez(whole, x=np.zeros((3, 4, 4), np.uint8), y=np.arange(3))
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 4, 4)})
    members = {
        "lying.npz": [head.getvalue() + bytes(64)],
        "bomb.npz": [head.getvalue().replace(b"10000", b"00000"), *zeros(256 << 20)],
    }
    for name, parts in members.items():
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            with archive.open("x.npy", "w", force_zip64=True) as member:
                for part in parts:
                    member.write(part)
            archive.writestr("y.npy", objects.getvalue()[:10])
        add(name, out.getvalue())
    add("objects.npz", objects.getvalue(), "it holds Python objects, which are not loaded")
    alone = io.BytesIO()
    np.save(alone, np.zeros((2, 4, 4)))
    add("alone.npz", alone.getvalue())
    pieces = dict(zip((".csv", ".tsv", ".jsonl", ".parquet", ".npz", ".zip", ".tar", ".tar.gz"), SEEDS["tables"](), strict=True))
    for suffix, seed in pieces.items():
        for again in range(25):
            add(f"fuzzed-{again}{suffix}", mutated(seed[1:], dice), "", "predicted" if again % 2 else "source")
    for suffix in (".csv", ".jsonl", ".parquet", ".npz", ".zip", ".tar"):
        pipe = tmp_path / f"pipe{suffix}"
        os.mkfifo(pipe)
        cases[pipe] = ("source", "refused: ")
    outcomes(cases, tmp_path / "home")


@pytest.mark.slow
@linux
def test_archives(tmp_path: Path) -> None:
    cases: dict[Path, Case] = {}

    def entry(name: str, size: int, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
        info = tarfile.TarInfo(name)
        info.size, info.type, info.linkname = size, kind, link
        return info.tobuf(tarfile.GNU_FORMAT)

    def add(name: str, parts: Iterator[bytes] | list[bytes], said: str) -> None:
        path = tmp_path / name
        with gzip.open(path, "wb", 1) if name.endswith("gz") else path.open("wb") as out:
            for part in parts:
                out.write(part)
        cases[path] = ("source", said)

    size = 300 << 20
    long_name = tarfile.GNUTYPE_LONGNAME
    add("name.tar.gz", [entry("././@LongLink", size, long_name), *zeros(size)], "refused: ")
    add("passed-over.tar.gz", [entry(".DS_Store", size), *zeros(size), entry("cat/a.png", 0)], "it would take more than")
    add("bomb.tgz", [entry("cat/a.png", size), *zeros(size)], "it would take more than")
    add("far.tar", [entry("cat/a.png", 1 << 60)], "refused: ")
    add("link.tar", [entry("cat", 0, tarfile.SYMTYPE, str(tmp_path)), entry("cat/evil.png", 0)], "a link or a device")
    add("up.tar", [entry("cat/../../evil.png", 0)], "leads out of the folder")
    add("pipe.tar", [entry("cat/a.png", 0, tarfile.FIFOTYPE)], "a link or a device")
    add("long.tar", [entry("././@LongLink", 5_000, long_name), b"a" * 5_120, entry("a", 0)], "refused: ")
    names = {"up.zip": "../evil.png", "root.zip": "/evil.png", "drive.zip": "C:\\evil.png", "long.zip": "cat/" + "a" * 5_000}
    for name, inside in names.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(inside, b"x")
        cases[tmp_path / name] = ("source", "refused: ")
    with (
        zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("cat/a.png", "w", force_zip64=True) as member,
    ):
        for part in zeros(size):
            member.write(part)
    cases[tmp_path / "bomb.zip"] = ("source", "it would take more than")
    before = set(tmp_path.rglob("*"))
    outcomes(cases, tmp_path / "home")
    assert {path for path in tmp_path.rglob("*") if tmp_path / "home" not in (path, *path.parents)} == before


def changed(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def lying(header: bytes, body: bytes = bytes(8), length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + body


class Models:
    """Copies of a sample, each with a change, and what is to be said of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cases: dict[Path, Case] = {}

    def add(self, change: Callable[[Path], object], said: str = "refused: ", sample: str = "regression") -> None:
        model = self.folder / f"model-{len(self.cases)}"
        shutil.copytree(SAMPLES / sample, model, ignore=shutil.ignore_patterns("SHA256SUMS", "expected.safetensors"))
        change(model)
        self.cases[model] = ("model", said)


@pytest.mark.slow
@linux
def test_models_that_lie(tmp_path: Path) -> None:
    models = Models(tmp_path)
    add = models.add

    def described(part: str, **values: object) -> Callable[[Path], object]:
        return lambda model: changed(model / part, lambda record: record.update(values))

    def weights(content: bytes, place: str = "member-1") -> Callable[[Path], object]:
        return lambda model: (model / place / "model.safetensors").write_bytes(content)

    add(lambda model: None, "read")
    add(lambda model: None, "read", "classification")
    one = b'{"x":{"dtype":"F32","shape":[%s],"data_offsets":[0,%s]}}'
    add(weights(lying(b"{}", length=1 << 60)))
    add(weights(lying(one % (b"1099511627776", b"4398046511104"))))
    add(weights(lying(one % (b"4611686018427387904,4", b"8"))))
    add(weights(lying(one % (b"2", b"8"))), "where")
    add(weights(lying(b"[" * 1_000_000)))
    add(weights(b""))
    add(lambda model: (model / "predictor.json").write_bytes(b"[" * 1_000_000), "nested too deep")
    add(lambda model: (model / "member-0" / "model.json").write_bytes(b'{"a":' * 1_000_000), "nested too deep")
    add(lambda model: (model / "predictor.json").write_text('{"format": 1, "temperature": NaN}'), "it holds NaN")
    add(described("predictor.json", format=99), "is of format 99; this pixelfit reads format 1")
    add(described("member-0/model.json", format=99), "is of format 99; this pixelfit reads format 1")
    add(described("member-1/model.json", family="pickle"), "unknown model family")
    add(described("member-1/model.json", head={"name": "eval"}), "unknown kind")
    head = {"name": "histogram", "mean": 0.0, "std": 1.0, "low": -1.0, "high": 1.0, "bins": 10**12}
    add(described("member-1/model.json", head=head), "1,000,000,000,000 outputs")
    add(
        described("member-1/model.json", family="mlp", architecture={"layers": 10**9, "hidden": 10**9, "dropout": 0.0}),
        "'layers'",
    )
    add(described("member-1/model.json", family="mlp", architecture={"layers": 40, "hidden": 8_000, "dropout": 0.0}), "is wanted")
    for name in ("hf-hub:stranger/model", "local-dir:/etc", "__import__"):
        architecture = {"backbone": name, "side": 224, "weights": "hub"}
        add(described("member-1/model.json", family="frozen", architecture=architecture), f"no model '{name}'")
    add(described("member-1/model.json", preparation={"mean": [0.0], "std": [1.0], "size": [10**6, 10**6]}), "it takes pictures")
    add(
        described("member-1/model.json", spec={"height": 10**6, "width": 10**6, "channels": 1, "scale": "byte"}),
        "it takes pictures",
    )
    members = [{"folder": name, "trial": 1, "weight": 0.5} for name in ("member-0", "../../evil")]
    add(described("predictor.json", members=members), "leads out of the folder")
    add(described("predictor.json", members=[{"folder": "member-0", "trial": 1, "weight": 1e-5}] * 100_000), "a member twice")

    outcomes(models.cases, tmp_path / "home")


@pytest.mark.slow
@linux
def test_models_and_runs_that_are_damaged_or_lead_elsewhere(tmp_path: Path) -> None:
    dice, models = random.Random(2), Models(tmp_path)
    add, cases = models.add, models.cases

    def out(model: Path) -> None:
        shutil.rmtree(model / "member-0")
        (model / "member-0").symlink_to(SAMPLES / "classification" / "member-0")

    def pipe(model: Path) -> None:
        (model / "predictor.json").unlink()
        os.mkfifo(model / "predictor.json")

    add(out, "is a link that leads out of")
    add(pipe)
    for sample in ("regression", "classification"):
        parts = [path.relative_to(SAMPLES / sample) for path in sorted((SAMPLES / sample).rglob("*")) if path.is_file()]
        for part in parts:
            if part.name in ("SHA256SUMS", "expected.safetensors"):
                continue
            whole = (SAMPLES / sample / part).read_bytes()
            for _ in range(8):
                content = mutated(whole, dice)
                add(lambda model, part=part, content=content: (model / part).write_bytes(content), "", sample)  # type: ignore[misc]
    # The trees of a sample, with nodes that would be walked for ever or lead beyond the arrays.
    found = next(path for path in sorted(SAMPLES.glob("*/member-*/model.safetensors")) if "roots" in load_file(path))
    for name, value in (("depth", 2**62), ("left", 2**40), ("roots", -5)):

        def spoil(model: Path, name: str = name, value: int = value) -> None:
            arrays = {key: array.copy() for key, array in load_file(found).items()}
            arrays[name][...] = value
            save_file(arrays, model / found.parent.name / "model.safetensors")

        add(spoil, "trees lead nowhere", found.parents[1].name)

    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    (folder / "facts.json").write_text("[" * 1_000_000)
    cases[folder] = ("run", "nested too deep")
    linked = tmp_path / "linked"
    shutil.copytree(folder, linked)
    (linked / "pictures").symlink_to("/etc")
    cases[linked] = ("run", "is a link that leads out of")
    outcomes(cases, tmp_path / "home")


TEXT = st.text(alphabet="=+-@\t\r'\"ab1,. \n", max_size=6)


@given(st.lists(st.lists(TEXT, min_size=2, max_size=2), max_size=5))
def test_no_cell_is_a_formula_and_all_come_back(rows: list[list[str]]) -> None:
    out = io.StringIO()
    write_rows(out, rows)
    for cells in csv.reader(io.StringIO(out.getvalue(), newline="")):
        for cell in cells:
            try:
                float(cell)
            except ValueError:
                assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert [row for row in read_rows(io.StringIO(out.getvalue(), newline="")) if row] == rows


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": NaN}', "[1e400]", "[-Infinity]", "{", ""])
def test_json_that_is_none(content: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(content)
