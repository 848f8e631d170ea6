"""Coverage-guided fuzzing of what reads a stranger's files: pictures, tables, archives and saved models (atheris, libFuzzer).

A reader may refuse what it is given with one of pixelfit's own errors or with a reason. Whatever else it raises, more than ten
seconds or more than 1 GiB are defects: libFuzzer keeps the input that showed them, and this command fails.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks import shared

_MOST_S, _MOST_MB, _MOST_BYTES = 10, 1024, 32_768
_TABLES = (".csv", ".tsv", ".jsonl", ".parquet", ".npz", ".zip", ".tar", ".tar.gz")
_SAMPLE = shared.ROOT / "tests" / "samples" / "format-1" / "regression"
_PARTS = (
    "predictor.json", "member-0/model.json", "member-1/model.json", "member-2/model.json", "member-2/model.safetensors",
    "calibration.safetensors", "familiarity.safetensors",
)  # fmt: skip
_PROGRAM = ("-m", "benchmarks.fuzz")
_INSTRUMENTED = ["pixelfit", "PIL", "tifffile", "zipfile", "tarfile"]
Target = Callable[[bytes, Path], None]


def read_picture(data: bytes, place: Path) -> None:
    """Its head and its pixels, in each of the forms that models take."""
    from pixelfit.data import pictures
    from pixelfit.types import Embedded, PictureSpec, PixelScale

    file = Embedded(lambda: data)
    head = pictures.read_head(file)
    scales: Mapping[str, PixelScale] = {"byte": "byte", "wide": "wide", "float": "raw"}
    scale: PixelScale = "byte" if isinstance(head, str) else scales[head.depth]
    for channels in (1, 3):
        pictures.read_picture(file, PictureSpec(8, 8, channels, scale))
    if not isinstance(head, str) and head.height * head.width <= 1 << 16:  # as it is, which small plain files may be read in
        pictures.read_picture(file, PictureSpec(head.height, head.width, 3, scale), expected=head)


def read_table(data: bytes, place: Path) -> None:
    """A source of the kind that the first byte says, as ``fit`` reads it and as ``predict`` does."""
    from pixelfit.data.sources import load_table
    from pixelfit.data.streams import stream_of
    from pixelfit.errors import PixelfitError
    from pixelfit.progress import Silent
    from pixelfit.types import Columns

    os.environ["XDG_CACHE_HOME"] = str(place / "cache")
    file = place / f"source{_TABLES[(data[0] if data else 0) % len(_TABLES)]}"
    file.write_bytes(data[1:])
    with suppress(PixelfitError):
        load_table(file, Columns((), None, None), data_dir=None, progress=Silent())
    with suppress(PixelfitError):
        for _ in stream_of([file], column=None, lines=None, progress=Silent()).items():
            pass
    shutil.rmtree(place / "cache", ignore_errors=True)


def read_model(data: bytes, place: Path) -> None:
    """A saved model in which the file that the first byte says has another content; where it loads, it predicts."""
    from pixelfit.errors import PixelfitError
    from pixelfit.predictor import Predictor

    model = place / "model"
    if not model.is_dir():
        shutil.copytree(_SAMPLE, model, ignore=shutil.ignore_patterns("SHA256SUMS", "expected.safetensors"))
    part = _PARTS[(data[0] if data else 0) % len(_PARTS)]
    (model / part).write_bytes(data[1:])
    try:
        with suppress(PixelfitError):
            predictor = Predictor.load(model)
            predictor.predict(np.zeros((2, 8, 8, predictor.spec.channels), np.uint8))
    finally:
        shutil.copyfile(_SAMPLE / part, model / part)


TARGETS: Mapping[str, Target] = {"pictures": read_picture, "tables": read_table, "models": read_model}


@dataclass(frozen=True)
class Fuzzed:
    """How many inputs a target was given, and how many edges of the code they reached."""

    inputs: int
    edges: int


def main() -> None:
    """Run the benchmark."""
    parser = shared.options_parser("fuzz", (__doc__ or "").split("\n", maxsplit=1)[0], list(TARGETS))
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together")
    parser.add_argument("--found", type=Path, default=shared.WORK / "fuzz", help="where inputs that showed a defect are kept")
    parser.add_argument("--target", choices=TARGETS, help="one alone, in this process, without results")
    options = parser.parse_args()
    if options.target is not None:
        _fuzz(options.target, options.seconds, options.found)
        return
    options.found.mkdir(parents=True, exist_ok=True)
    targets = options.only or list(TARGETS)
    seconds = max(1, (15 if options.quick else options.seconds) // len(targets))
    counts = {target: fuzzed(target, seconds, options.found) for target in targets}
    shared.write_results(
        "fuzz",
        options,
        tables=[
            shared.table(
                ["what is read", "inputs", "edges reached"],
                [[target, f"{each.inputs:,}", f"{each.edges:,}"] for target, each in counts.items()],
            )
        ],
        notes=[f"{seconds} s each on one core, at most {_MOST_S} s and {_MOST_MB} MB an input; nothing was found."],
        figures={"seconds": seconds, "targets": {target: asdict(each) for target, each in counts.items()}},
        commits=[shared.commit()],
    )


def fuzzed(target: str, seconds: int, found: Path) -> Fuzzed:
    """Fuzz one target in a process of its own.

    Raises:
        BenchmarkError: a defect was found; the message has the last lines, which name its input's file.
    """
    words = ("-P", *_PROGRAM, "--target", target, "--seconds", str(seconds), "--found", str(found))
    # A shell between: the kernel counts the memory of whoever starts a program as the program's peak, which libFuzzer looks at.
    command = ("sh", "-c", '"$@"; exit $?', "sh", sys.executable, *words)
    ended = subprocess.run(
        command, env={**shared.child_environment(), "OMP_NUM_THREADS": "1"}, cwd=shared.ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
    )  # fmt: skip
    inputs = re.search(r"Done (\d+) runs", ended.stdout)
    if ended.returncode != 0 or inputs is None:
        raise shared.BenchmarkError(f"{target} ended with {ended.returncode}:\n{ended.stdout[-3000:]}")
    edges = re.findall(r"#\d+\s+\w+\s+cov: (\d+)", ended.stdout)
    return Fuzzed(int(inputs[1]), int(edges[-1]) if edges else 0)


def _fuzz(target: str, seconds: int, found: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=_INSTRUMENTED):
        import PIL.Image
        import tifffile  # noqa: F401

        import pixelfit.data.sources
        import pixelfit.data.streams
        import pixelfit.predictor  # noqa: F401
    PIL.Image.init()
    place = Path(tempfile.mkdtemp(prefix="pixelfit-fuzz-"))
    (place / "corpus").mkdir()
    for number, seed in enumerate(SEEDS[target]()):
        (place / "corpus" / f"{number:03d}").write_bytes(seed)
    limits = (f"-timeout={_MOST_S}", f"-rss_limit_mb={_MOST_MB}", f"-malloc_limit_mb={_MOST_MB}", f"-max_len={_MOST_BYTES}")
    kept = f"-artifact_prefix={found}/{target}-"
    words = ["fuzz", str(place / "corpus"), *limits, f"-max_total_time={seconds}", "-seed=1", kept]
    os.chdir(place)
    atheris.Setup(words, lambda data: TARGETS[target](data, place))
    try:
        atheris.Fuzz()  # which ends the process
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _pictures() -> Iterator[bytes]:
    """A small picture of each format and of several modes."""
    import tifffile
    from PIL import Image

    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7), np.uint8))
    kinds = {
        "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), "JPEG": ("L", "RGB", "CMYK"), "BMP": ("1", "L", "P", "RGB"),
        "GIF": ("P",), "WEBP": ("RGB", "RGBA"), "TIFF": ("1", "L", "RGB", "CMYK", "I;16", "F"), "PPM": ("1", "L", "RGB"),
    }  # fmt: skip
    for kind, modes in kinds.items():
        for mode in modes:
            out = io.BytesIO()
            (Image.fromarray(np.asarray(grey).astype(np.uint16)) if mode == "I;16" else grey.convert(mode)).save(out, kind)
            yield out.getvalue()
    for compression in ("zlib", "lzma", None):
        out = io.BytesIO()
        tifffile.imwrite(out, np.zeros((5, 9, 7), np.uint16), compression=compression, metadata={"axes": "CYX"})
        yield out.getvalue()


def _tables() -> Iterator[bytes]:
    """A source of each kind, after the byte that names it."""
    import pandas as pd

    frame = pd.DataFrame({"path": ["a.png", "b.png"], "price": [1.5, 2.0], "split": ["train", "test"]})
    parquet, arrays, zipped = io.BytesIO(), io.BytesIO(), io.BytesIO()
    frame.to_parquet(parquet)
    np.savez(arrays, x=np.zeros((3, 4, 4), np.uint8), y=np.arange(3))
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("data/cat/a.png", b"a")
        members.writestr("data/dog/b.png", b"b")
    contents = {
        ".csv": frame.to_csv(index=False).encode(),
        ".tsv": frame.to_csv(index=False, sep="\t").encode(),
        ".jsonl": frame.to_json(orient="records", lines=True).encode(),
        ".parquet": parquet.getvalue(),
        ".npz": arrays.getvalue(),
        ".zip": zipped.getvalue(),
        ".tar": _tar("w"),
        ".tar.gz": _tar("w:gz"),
    }
    for place, kind in enumerate(_TABLES):
        yield bytes([place]) + contents[kind]


def _tar(mode: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name in ("cat/a.png", "dog/" + "b" * 120 + ".png"):
            entry = tarfile.TarInfo(name)
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"x"))
    return out.getvalue()


def _models() -> Iterator[bytes]:
    """Each file of a saved model, after the byte that names it."""
    for place, part in enumerate(_PARTS):
        yield bytes([place]) + (_SAMPLE / part).read_bytes()


SEEDS: Mapping[str, Callable[[], Iterator[bytes]]] = {"pictures": _pictures, "tables": _tables, "models": _models}


if __name__ == "__main__":
    shared.run(main)
