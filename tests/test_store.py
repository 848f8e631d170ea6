"""The store of decoded pictures: built once, shared safely, mapped where it is large, and never wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import bars
from PIL import Image

from pixelfit import environment
from pixelfit.data import cached, store
from pixelfit.data.cached import stores_folder
from pixelfit.data.sources import load_table
from pixelfit.data.store import decode
from pixelfit.files import cache_contents, cache_folder
from pixelfit.progress import Silent
from pixelfit.types import UNNAMED, Pictures


class Counting(Silent):
    """Remembers what work was counted."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    def count(self, title: str, done: int, total: int) -> None:
        self.titles.append(title)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    (tmp_path / "in").mkdir()
    for number, picture in enumerate(bars(40)[0]):
        Image.fromarray(picture[..., 0]).save(tmp_path / "in" / f"{number}.png")
    return [tmp_path / "in" / f"{number}.png" for number in range(40)]


def decoded(paths: list[Path], progress: Silent | None = None) -> Pictures:
    table = load_table((paths, np.arange(len(paths)) / 3), UNNAMED, data_dir=None, progress=Silent())
    return decode(table, progress or Silent(), most_left_out=0.5)


def test_the_second_run_decodes_nothing(paths: list[Path]) -> None:
    first, second = Counting(), Counting()
    once, again = decoded(paths, first), decoded(paths, second)
    assert "Decoding pictures" in first.titles
    assert set(second.titles) == {"Comparing with earlier runs"}
    np.testing.assert_array_equal(once.store, bars(40)[0])
    np.testing.assert_array_equal(once.store, again.store)
    assert once.spec == again.spec
    assert once.kinds == again.kinds
    np.testing.assert_array_equal(once.original_sizes, again.original_sizes)


def _nothing(path: Path) -> None:
    """Leave the file as it is."""


def _another_size(path: Path) -> None:
    with Image.open(path) as picture:
        picture.resize((20, 14)).save(path)


def _in_colour(path: Path) -> None:
    with Image.open(path) as picture:
        picture.convert("RGB").save(path)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _no_picture(path: Path) -> None:
    path.write_bytes(b"words")


def _a_tiff_file(path: Path) -> None:
    with Image.open(path) as picture:
        whole = picture.copy()
    whole.save(path, "TIFF")


@pytest.mark.parametrize("share", [0.1, 0.7])
@pytest.mark.parametrize("change", [_nothing, _another_size, _in_colour, _cut, _no_picture, _a_tiff_file])
def test_what_the_first_files_make_expect_decides_nothing(
    change: Callable[[Path], None], share: float, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are looked at first are alike, others are not, few or so many that another form is the common one."""
    if change in (_cut, _no_picture) and share > 0.5:
        share = 0.4  # more may not be left out
    others = [path for row, path in enumerate(paths) if row % 10][: round(share * len(paths))]
    for path in others:
        change(path)
    monkeypatch.setattr(store, "_LOOKED_AT", 4)  # every tenth
    expected = store._expectation
    monkeypatch.setattr(store, "_expectation", lambda files, plan: None)
    plain = decoded(paths)
    cached_stores = cached.stores_folder()
    cached_stores.rename(cached_stores.with_name("away"))
    monkeypatch.setattr(store, "_expectation", expected)
    progress = Counting()
    quick = decoded(paths, progress)
    assert progress.titles[0] == "Decoding pictures"  # not "Reading sizes" of all
    np.testing.assert_array_equal(quick.store, plain.store)
    np.testing.assert_array_equal(quick.rows, plain.rows)
    np.testing.assert_array_equal(quick.original_sizes, plain.original_sizes)
    assert (quick.spec, quick.kinds, quick.left_out) == (plain.spec, plain.kinds, plain.left_out)
    again = decoded(paths)
    np.testing.assert_array_equal(again.store, plain.store)


def test_moved_files_are_known_again_and_changed_ones_are_not(paths: list[Path], tmp_path: Path) -> None:
    before = decoded(paths)
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    moved = [tmp_path / "elsewhere" / path.name for path in paths]
    progress = Counting()
    decoded(moved, progress)
    assert "Decoding pictures" not in progress.titles
    status = moved[3].stat()
    Image.fromarray(255 - before.store[3, ..., 0]).save(moved[3])
    os.utime(moved[3], ns=(status.st_atime_ns, status.st_mtime_ns))  # content counts, not the time
    np.testing.assert_array_equal(decoded(moved).store[3], 255 - before.store[3])


def test_files_that_fail_only_in_decoding_are_left_out_of_the_store_too(paths: list[Path]) -> None:
    for row in (0, 17, 39):
        whole = paths[row].read_bytes()
        paths[row].write_bytes(whole[: len(whole) - 40])
    paths[20].write_text("no picture")
    for pictures in (decoded(paths), decoded(paths)):  # built, then read from disk
        assert pictures.rows.tolist() == [row for row in range(40) if row not in (0, 17, 20, 39)]
        np.testing.assert_array_equal(pictures.store, bars(40)[0][pictures.rows])
        assert [Path(item.ref).stem for item in pictures.left_out] == ["0", "17", "20", "39"]


@pytest.mark.parametrize("damage", ["cut", "noise", "gone", "heads"])
def test_a_damaged_store_is_built_again(paths: list[Path], damage: str) -> None:
    decoded(paths)
    (store,) = stores_folder().iterdir()
    file = store / ("heads.json" if damage == "heads" else "pictures.npy")
    whole = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(b"noise" if damage == "noise" else whole[: len(whole) // 2])
    progress = Counting()
    np.testing.assert_array_equal(decoded(paths, progress).store, bars(40)[0])
    assert "Decoding pictures" in progress.titles
    decoded(paths, progress := Counting())
    assert "Decoding pictures" not in progress.titles


def test_large_stores_are_mapped_and_the_same(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached, "memory_limit", lambda: 1000)
    for _ in range(2):
        pictures = decoded(paths)
        assert isinstance(pictures.store, np.memmap)
        assert not pictures.store.flags.writeable
        np.testing.assert_array_equal(pictures.store, bars(40)[0])


def test_two_runs_at_once_build_the_same(paths: list[Path]) -> None:
    results: list[Pictures] = []
    threads = [threading.Thread(target=lambda: results.append(decoded(paths))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for pictures in results:
        np.testing.assert_array_equal(pictures.store, bars(40)[0])
    assert len(list(stores_folder().iterdir())) == 1  # and nothing half-built beside it


def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(paths: list[Path]) -> None:
    cache_folder().parent.mkdir(parents=True, exist_ok=True)
    cache_folder().write_text("a file where the cache should be")
    np.testing.assert_array_equal(decoded(paths).store, bars(40)[0])


def test_a_full_disk_is_no_reason_to_stop(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    np.testing.assert_array_equal(decoded(paths).store, bars(40)[0])
    assert not list(stores_folder().iterdir())


@pytest.mark.slow
def test_the_cache_can_be_shown_and_cleared(paths: list[Path]) -> None:
    decoded(paths)
    assert cache_contents()["stores"] > 40 * 144
    shown = subprocess.run([sys.executable, "-m", "pixelfit", "cache", "show"], capture_output=True, text=True, check=True)
    assert "decoded pictures" in shown.stdout
    cleared = subprocess.run([sys.executable, "-m", "pixelfit", "cache", "clear"], capture_output=True, text=True, check=True)
    assert "Removed" in cleared.stdout
    assert cache_contents() == {}


def test_the_limit_is_the_smallest_of_all_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, groups = tmp_path / "own", tmp_path / "groups"
    monkeypatch.setattr(environment, "_OWN_GROUPS", own)
    monkeypatch.setattr(environment, "_GROUPS", groups)
    whole, cores = environment.memory_limit(), environment.usable_cores()
    (groups / "queue" / "job").mkdir(parents=True)
    (groups / "queue" / "memory.max").write_text("1073741824\n")
    (groups / "queue" / "job" / "memory.max").write_text("max\n")
    (groups / "queue" / "job" / "cpu.max").write_text("100000 100000\n")
    own.write_text("0::/queue/job\n")
    assert environment.memory_limit() == min(whole, 1 << 30)
    assert environment.usable_cores() == min(cores, 1)
    (groups / "memory" / "job").mkdir(parents=True)
    (groups / "memory" / "job" / "memory.limit_in_bytes").write_text("536870912\n")
    (groups / "cpu").mkdir()
    (groups / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (groups / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    own.write_text("5:memory:/job\n3:cpu,cpuacct:/elsewhere\n0::/\n")
    assert environment.memory_limit() == min(whole, 1 << 29)
    assert environment.usable_cores() == cores
