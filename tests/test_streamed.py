"""Training on over all pictures of shards: each once an epoch, none that is held out, and kept only where that is better."""

from __future__ import annotations

import io
import json
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import bars
from PIL import Image
from sharding import END, entry

from pixelfit.automl import Run, fit
from pixelfit.data import sampled
from pixelfit.data.labelled import Labelled
from pixelfit.data.reading import read
from pixelfit.data.sampled import part_by_name, place_by_name
from pixelfit.data.windows import Whole, Windows, whole_behind
from pixelfit.errors import DataError, RunError
from pixelfit.options import FitOptions, checked_options
from pixelfit.progress import Silent
from pixelfit.replay import replay
from pixelfit.types import UNNAMED, Examples, Trial

SHARDS, ROWS, LIMIT = 8, 150, 300
BATCH = 16
_PICTURES, _COLUMNS = bars(SHARDS * ROWS)


@pytest.fixture(autouse=True)
def _small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled, "MOST_ROWS", LIMIT)


def name_of(number: int) -> str:
    return f"{number // ROWS}.tar/{number:04d}"


def png(number: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(_PICTURES[number, ..., 0]).save(out, "png")
    return out.getvalue()


def make(folder: Path, target_of: Callable[[int], object] = lambda number: _COLUMNS[number]) -> Path:
    """Shards of bars, the column of each beside it."""
    folder.mkdir()
    for shard in range(SHARDS):
        pieces = []
        for number in range(shard * ROWS, (shard + 1) * ROWS):
            pieces += [entry(f"{number:04d}.png", png(number)), entry(f"{number:04d}.cls", str(target_of(number)).encode())]
        (folder / f"{shard}.tar").write_bytes(b"".join(pieces) + END)
    return folder


def options_of(tmp_path: Path, name: str = "run", **others: object) -> FitOptions:
    return checked_options(**{"task": "regression", "trials": 2, "steps": 40, "out": tmp_path / name, **others})


def whole_of(folder: Path, **others: object) -> Whole:
    facts, splits = read(folder, checked_options(**{"task": "regression", "trials": 1, **others}), Silent())
    whole = whole_behind(folder, UNNAMED, facts, splits)
    assert whole is not None
    return whole


def some(windows: Windows, pictures: int) -> list[Examples]:
    found: list[Examples] = []
    while sum(map(len, found)) < pictures:
        window = windows.next(lambda: False)
        assert window is not None
        found.append(window)
    return found


def names_in(whole: Whole, pictures: int, *, seed: int = 0) -> list[str]:
    with Windows(whole, batch=BATCH, seed=seed, most_bytes=20_000) as windows:
        return [ref for window in some(windows, pictures) for ref in window.refs]


def streamed_in(run: Run) -> dict[str, object]:
    return dict(json.loads((run.folder.path / "final.json").read_text())["streamed"])


def test_each_training_picture_comes_once_an_epoch_and_none_that_is_held_out(tmp_path: Path) -> None:
    whole = whole_of(make(tmp_path / "shards"))
    training = sorted(name for name in map(name_of, range(SHARDS * ROWS)) if part_by_name(name) == "train")
    assert len(whole.train) < LIMIT < len(training)
    assert whole.pictures == pytest.approx(len(training), rel=0.2)
    names = names_in(whole, 2 * len(training))
    first, second = names[: len(training)], names[len(training) : 2 * len(training)]
    assert sorted(first) == sorted(second) == training
    assert first != second
    assert names == names_in(whole, 2 * len(training))
    assert names != names_in(whole, 2 * len(training), seed=1)


def test_pictures_and_targets_are_those_of_the_shards(tmp_path: Path) -> None:
    whole = whole_of(make(tmp_path / "shards"))
    with Windows(whole, batch=BATCH, seed=0, most_bytes=20_000) as windows:
        for window in some(windows, 200):
            numbers = [int(ref[-4:]) for ref in window.refs]
            assert len(window) % BATCH == 0
            assert window.store.nbytes <= 20_000 + BATCH * _PICTURES[0].nbytes
            assert np.array_equal(window.store[window.rows], _PICTURES[numbers])
            assert np.array_equal(window.targets, _COLUMNS[numbers].astype(float))


def test_two_windows_at_most_are_in_memory(tmp_path: Path) -> None:
    with Windows(whole_of(make(tmp_path / "shards")), batch=BATCH, seed=0, most_bytes=20_000) as windows:
        some(windows, 1)
        time.sleep(0.5)
        assert windows._ready.qsize() == 1  # beside the one that was taken
        assert windows.passed.windows == 1


def test_a_shard_that_is_gone_or_damaged_is_named_and_passed_over(tmp_path: Path) -> None:
    whole = whole_of(make(tmp_path / "shards"))
    (tmp_path / "shards" / "3.tar").unlink()
    damaged = tmp_path / "shards" / "5.tar"
    content = bytearray(damaged.read_bytes())
    content[20_000:] = b"damaged" * (len(content[20_000:]) // 7 + 1)
    damaged.write_bytes(content[: whole.shards[5].size])
    with Windows(whole, batch=BATCH, seed=0) as windows:
        names = {ref for window in some(windows, 1_000) for ref in window.refs}
        assert not any(name.startswith("3.tar/") for name in names)
        assert len({name.partition("/")[0] for name in names}) >= SHARDS - 2
        assert any(name.endswith("3.tar") for name in windows.passed.skipped)
        assert any(name.endswith("5.tar") for name in windows.passed.skipped)
    for place in (tmp_path / "shards").iterdir():
        place.unlink()
    with Windows(whole, batch=BATCH, seed=0) as windows, pytest.raises(DataError, match="no training pictures"):
        windows.next(lambda: False)


def test_labels_that_the_search_has_not_seen_are_left_out_and_counted(tmp_path: Path) -> None:
    def label(number: int) -> str:
        seen = place_by_name(name_of(number)) < 1 / 4
        return "left" if _COLUMNS[number] < 5 else "right" if seen or number % 7 else "far right"

    whole = whole_of(make(tmp_path / "shards", label), task="classification")
    assert whole.share == 1 / 4
    assert whole.facts.classes == ("left", "right")
    training = [number for number in range(SHARDS * ROWS) if part_by_name(name_of(number)) == "train"]
    known = [number for number in training if label(number) != "far right"]
    with Windows(whole, batch=BATCH, seed=0, most_bytes=20_000) as windows:
        found = [number for window in some(windows, 2 * len(known)) for number in zip(window.refs, window.targets, strict=True)]
        assert windows.passed.unknown == len(training) - len(known) > 0
    assert sorted(ref for ref, _ in found[: len(known)]) == sorted(map(name_of, known))
    assert all(("left", "right")[target] == label(int(ref[-4:])) for ref, target in found)


def test_a_whole_sample_leaves_nothing_to_train_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled, "MOST_ROWS", 10_000)
    folder = make(tmp_path / "shards")
    facts, splits = read(folder, checked_options(task="regression", trials=1), Silent())
    assert whole_behind(folder, UNNAMED, facts, splits) is None
    assert whole_behind((_PICTURES, _COLUMNS), UNNAMED, facts, splits) is None


@pytest.mark.slow
def test_it_replaces_the_final_model_where_it_is_better_and_does_the_same_again(tmp_path: Path) -> None:
    others = np.random.default_rng(0).permutation(SHARDS * ROWS)

    def half_wrong_in_the_sample(number: int) -> object:
        name = name_of(number)
        wrong = number % 2 and place_by_name(name) < 1 / 4 and part_by_name(name) == "train"
        return _COLUMNS[others[number] if wrong else number]

    folder = make(tmp_path / "shards", half_wrong_in_the_sample)
    runs = [fit(folder, options_of(tmp_path, name), progress=Silent()) for name in ("one", "two")]
    told = streamed_in(runs[0])
    assert told["kept"] is True, told
    last = runs[0].trials[-1]
    assert (last.purpose, last.number, last.state) == ("streamed", told["trial"], "complete")
    assert runs[0].predictor.trial_weights() == {last.number: 1.0}
    assert "streamed" in (runs[0].folder.path / "leaderboard.csv").read_text()
    assert "all pictures of the shards" in runs[0].folder.report_file.read_text()
    assert runs[0].scores.test == runs[1].scores.test
    assert told == streamed_in(runs[1])
    with pytest.raises(RunError, match="all pictures of the shards"):
        replay(runs[0].folder.path, Silent())


@pytest.mark.slow
def test_a_worse_one_is_not_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    others = rng.permutation(SHARDS * ROWS)
    folder = make(
        tmp_path / "shards",
        lambda number: _COLUMNS[number] if place_by_name(name_of(number)) < 1 / 4 else _COLUMNS[others[number]],
    )
    run = fit(folder, options_of(tmp_path), progress=Silent())
    told = streamed_in(run)
    assert told["kept"] is False, told
    assert run.trials[-1].purpose == "streamed"
    assert run.trials[-1].number not in run.predictor.trial_weights()


class _Stops(Silent):
    """Presses Ctrl-C when the streamed training has begun."""

    def start_trial(self, number: int, recipe: str) -> None:
        if "streamed" in recipe:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
def test_it_is_interrupted_in_order(tmp_path: Path) -> None:
    run = fit(make(tmp_path / "shards"), options_of(tmp_path), progress=_Stops())
    assert run.interrupted
    assert run.trials[-1].state == "interrupted"
    assert run.folder.report_file.is_file()
    assert run.scores.rows > 0


@pytest.mark.slow
@pytest.mark.usefixtures("processor_clock")
def test_time_is_kept_for_it(tmp_path: Path) -> None:
    run = fit(make(tmp_path / "shards"), options_of(tmp_path, trials=None, steps=None, budget="10s"), progress=Silent())
    last = run.trials[-1]
    assert last.purpose == "streamed"
    assert last.seconds > 1  # about 4 were kept, of which a slow machine may need some for what comes after


def test_copies_of_pictures_that_are_held_out_are_left_out(tmp_path: Path) -> None:
    folder = make(tmp_path / "shards")
    held_out = [
        number for number in range(SHARDS * ROWS)
        if place_by_name(name_of(number)) < 1 / 4 and part_by_name(name_of(number)) != "train"
    ]  # fmt: skip
    names = (f"copy{number}" for number in range(1_000))
    seen_in_training = [
        name for name in names if place_by_name(f"8.tar/{name}") >= 1 / 4 and part_by_name(f"8.tar/{name}") == "train"
    ]
    pieces, count = [], len(held_out)
    for name, number in zip(seen_in_training, held_out, strict=False):
        pieces += [entry(f"{name}.png", png(number)), entry(f"{name}.cls", str(_COLUMNS[number]).encode())]
    (folder / "8.tar").write_bytes(b"".join(pieces) + END)
    whole = whole_of(folder)
    with Windows(whole, batch=BATCH, seed=0, most_bytes=20_000) as windows:
        found = {ref for window in some(windows, 2 * SHARDS * ROWS) for ref in window.refs}
        assert windows.passed.held_out == count > 20
    assert not any(ref.startswith("8.tar/") for ref in found)


def test_another_target_than_the_search_has_seen_ends_it(tmp_path: Path) -> None:
    whole = whole_of(make(tmp_path / "shards"))
    order = [name for name in names_in(whole, 600) if name in whole.train]
    known = whole.known.copy()
    known[whole.train[order[0]]] += 1
    with Windows(replace(whole, known=known), batch=BATCH, seed=0) as windows, pytest.raises(DataError, match="another target"):
        windows.next(lambda: False)
    known = whole.known.copy()
    known[whole.train[order[-1]]] += 1
    with Windows(replace(whole, known=known), batch=BATCH, seed=0, most_bytes=20_000) as windows:
        while (window := windows.next(lambda: False)) is not None:
            assert order[-1] not in window.refs
        assert windows.passed.windows > 0  # what was trained until then is not lost
        assert "another target" in str(windows.passed.lost)
        assert windows.next(lambda: False) is None


def test_lists_of_one_are_what_is_in_them(tmp_path: Path) -> None:
    windows = Windows(whole_of(make(tmp_path / "shards")), batch=BATCH, seed=0)
    assert windows._target(Labelled("a", b"", {"cls": [3.0]})) == 3.0
    assert windows._target(Labelled("a", b"", {"cls": [3.0, 4.0]})) is None


def test_with_groups_only_the_sample_is_trained_on(tmp_path: Path) -> None:
    folder = make(tmp_path / "shards")
    facts, splits = read(folder, checked_options(task="regression", trials=1), Silent())
    assert whole_behind(folder, replace(UNNAMED, group="cls"), facts, splits) is None


class _StopsAfter(Silent):
    """Presses Ctrl-C when the streamed training has ended."""

    def end_trial(self, trial: Trial, *, best: Trial | None) -> None:
        if trial.purpose == "streamed":
            signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
def test_a_run_that_goes_on_has_what_was_trained(tmp_path: Path) -> None:
    folder = make(tmp_path / "shards")
    first = fit(folder, options_of(tmp_path), progress=_StopsAfter())
    assert first.interrupted
    again = fit(folder, options_of(tmp_path, resume=True), progress=Silent())
    assert again.trials == first.trials
    assert (first.trials[-1].purpose, first.trials[-1].state) == ("streamed", "complete")
    assert streamed_in(again)["scores"] == streamed_in(first)["scores"]
