"""Shards predicted for on a Ray cluster of two nodes: the same rows as here, each once, also where workers die."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forks
import pytest
from sharding import invoked, make_shards, rows_of, tiny_predictor

from pixelfit.batch import Examiner
from pixelfit.data.shards import shards_of
from pixelfit.errors import DataError
from pixelfit.progress import Progress, Silent
from pixelfit.sharded import engine_of, parts_of, predict_shards
from pixelfit.types import Array, Forecast, Strangeness

SILENT = Silent()
ray = pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = [pytest.mark.ray, pytest.mark.long("Ray's workers each load torch, six seconds of a core")]


@pytest.fixture
def address(cluster: Any) -> str:
    """Where the cluster is."""
    return cluster.address


@pytest.fixture
def run(tmp_path: Path) -> Path:
    tiny_predictor().save(tmp_path / "run")
    return tmp_path / "run"


@dataclass(frozen=True)
class Deadly:
    """A model whose worker dies as it begins, for as many times as there are files in a folder."""

    deaths: Path

    @property
    def spec(self):
        return tiny_predictor().spec

    @property
    def answers(self):
        return tiny_predictor().answers

    @property
    def conformal(self):
        return None

    @property
    def version(self) -> str:
        return tiny_predictor().version

    def examined(self, store: Array) -> tuple[Forecast, Strangeness | None]:
        for file in sorted(self.deaths.iterdir()):
            file.unlink(missing_ok=True)
            os._exit(1)
        return tiny_predictor().examined(store)


def deadly(folder: Path, times: int) -> Deadly:
    folder.mkdir()
    for number in range(times):
        (folder / str(number)).touch()
    return Deadly(folder)


def predicted_on_ray(
    model: Examiner, folder: Path, out: Path, address: str, *, resume: bool = False, progress: Progress = SILENT
) -> None:
    parts = parts_of(out, model.version, None, None)
    shards = shards_of([str(folder)], None) or ()
    engine = engine_of("ray", address, model, parts, progress)
    predict_shards(model, shards, parts, out, resume=resume, engine=engine, progress=progress)


def test_a_cluster_gives_the_same_as_this_machine(run: Path, address: str, tmp_path: Path) -> None:
    ray.shutdown()  # here the command connects itself
    make_shards(tmp_path / "shards", shards=5)
    invoked(run, "shards/train-*.tar", "-o", "here.csv")
    result = invoked(run, "shards/train-*.tar", "-o", "there.csv", "--engine", "ray", "--address", address)
    assert "with 2 workers" in result.output
    assert (tmp_path / "there.csv").read_text() == (tmp_path / "here.csv").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here.csv", "run", "shards", "there.csv"]


def test_without_a_shared_folder_parts_are_carried_to_the_driver(
    run: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pixelfit.sharded import on_ray

    @contextmanager
    def unseen(folder: Path) -> Iterator[str]:
        yield "no file of this name"

    monkeypatch.setattr(on_ray, "_token", unseen)
    monkeypatch.setattr(on_ray, "_PIECE", 100)
    make_shards(tmp_path / "shards")
    invoked(run, "shards", "-o", "here.csv")
    invoked(run, "shards", "-o", "there.csv", "--engine", "ray", "--address", address)
    assert (tmp_path / "there.csv").read_text() == (tmp_path / "here.csv").read_text()


@pytest.mark.exhaustive
def test_a_command_that_was_killed_goes_on_with_what_is_missing(run: Path, address: str, tmp_path: Path) -> None:
    make_shards(tmp_path / "shards", shards=40)
    invoked(run, tmp_path / "shards", "-o", "here.csv")
    words = ["predict", run, tmp_path / "shards", "-o", tmp_path / "there.csv", "--engine", "ray", "--address", address]
    process = forks.Popen([sys.executable, "-P", "-m", "pixelfit", *map(str, words)])
    records = tmp_path / "there.csv.parts" / "_records"
    while not any(records.glob("train-*.json")):
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    done = {file: file.stat().st_mtime_ns for file in records.glob("train-*.json")}
    assert 0 < len(done) < 40
    seen: list[int] = []

    class Counting(Silent):
        def count(self, title: str, done: int, total: int) -> None:
            seen.append(done)

    predicted_on_ray(tiny_predictor(), tmp_path / "shards", tmp_path / "there.csv", address, resume=True, progress=Counting())
    assert min(seen) >= len(done)
    assert (tmp_path / "there.csv").read_text() == (tmp_path / "here.csv").read_text()


def test_a_shard_whose_worker_dies_is_tried_again(run: Path, address: str, tmp_path: Path) -> None:
    make_shards(tmp_path / "shards")
    invoked(run, tmp_path / "shards", "-o", "here.csv")
    model = deadly(tmp_path / "deaths", 2)
    predicted_on_ray(model, tmp_path / "shards", tmp_path / "there.csv", address)
    assert not list(model.deaths.iterdir())
    assert rows_of(tmp_path / "there.csv") == rows_of(tmp_path / "here.csv")


def test_after_three_deaths_a_shard_has_failed_and_can_be_resumed(run: Path, address: str, tmp_path: Path) -> None:
    make_shards(tmp_path / "shards", shards=1)
    model = deadly(tmp_path / "deaths", 3)
    with pytest.raises(DataError, match=r"1 shard of 1 failed; the first is .*train-000.tar: its worker was lost"):
        predicted_on_ray(model, tmp_path / "shards", tmp_path / "there.csv", address)
    assert not (tmp_path / "there.csv").exists()
    predicted_on_ray(model, tmp_path / "shards", tmp_path / "there.csv", address, resume=True)
    assert len(rows_of(tmp_path / "there.csv")) == 20


def test_a_shard_that_cannot_be_reached_fails_after_three_attempts(run: Path, address: str, tmp_path: Path) -> None:
    first, second = make_shards(tmp_path / "shards", shards=2)
    model = tiny_predictor()
    parts = parts_of(tmp_path / "out.csv", model.version, None, None)
    shards = shards_of([str(first), str(second)], None) or ()
    second.unlink()
    with pytest.raises(DataError, match=r"1 shard of 2 failed; the first is .*train-001.tar.*No such file"):
        predict_shards(
            model, shards, parts, tmp_path / "out.csv",
            resume=False, engine=engine_of("ray", address, model, parts, Silent()), progress=Silent(),
        )  # fmt: skip
    assert len(list((tmp_path / "out.csv.parts" / "_records").glob("train-*.json"))) == 1
