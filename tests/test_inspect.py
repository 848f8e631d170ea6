"""What inspection finds: duplicates exact and near, against brute force, and everything else that is odd."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import bars
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pixelfit.data import duplicates
from pixelfit.data.duplicates import exact_groups, joined, near_pairs, pair_groups
from pixelfit.data.findings import CHECKS
from pixelfit.data.inspect import inspect
from pixelfit.data.sources import load_table
from pixelfit.data.split import split
from pixelfit.data.store import decode
from pixelfit.progress import Silent
from pixelfit.types import UNNAMED, Array, Columns, Facts, Finding, Inspected


def inspected(source, target: str | None = None, task=None) -> Inspected:
    table = load_table(source, Columns((target,) if target else ()), data_dir=None, progress=Silent())
    return inspect(table, decode(table, Silent(), most_left_out=1.0), task)


def found(facts: Facts) -> dict[str, Finding]:
    return {finding.kind: finding for finding in facts.findings}


def scenes(count: int, side: int = 48, seed: int = 0) -> Array:
    """Smooth random pictures, as different from one another as photographs are, shape (N, side, side, 3)."""
    rng = np.random.default_rng(seed)
    small = rng.normal(size=(count, 3, 7, 7))
    pictures = np.empty((count, side, side, 3), dtype=np.uint8)
    for row in range(count):
        channels = [
            np.asarray(Image.fromarray(channel.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC))
            for channel in small[row]
        ]
        pictures[row] = np.clip(120 + 50 * np.stack(channels, axis=2), 0, 255)
    return pictures


def copies(picture: Array) -> list[Array]:
    """The same picture as people keep it twice: compressed, smaller and back, brighter, of less contrast, cropped by a pixel."""
    image = Image.fromarray(picture)
    jpeg = io.BytesIO()
    image.save(jpeg, format="JPEG", quality=95)
    small = image.resize((32, 32), Image.Resampling.LANCZOS).resize(image.size)
    return [
        np.asarray(Image.open(jpeg)),
        np.asarray(small),
        np.clip(picture.astype(int) + 12, 0, 255).astype(np.uint8),
        (picture * 0.8 + 20).astype(np.uint8),
    ]


def test_copies_are_found_and_nothing_else() -> None:
    pictures = scenes(400)
    altered = [copies(picture) for picture in pictures[:25]]
    store = np.concatenate([pictures, *[np.stack(each) for each in altered]])
    pairs = near_pairs(store, exact_groups(store))
    groups = pair_groups(pairs, len(store))
    for number in range(25):
        assert len(set(groups[[number, *range(400 + 4 * number, 404 + 4 * number)]])) == 1
    sizes = np.bincount(groups)
    assert (sizes == 5).sum() == 25
    assert (sizes == 1).sum() == 375


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), noise=st.floats(0, 15))
def test_near_pairs_are_those_of_brute_force(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    base = scenes(60, side=24, seed=seed)
    noisy = np.clip(base[:30] + rng.normal(0, noise, base[:30].shape), 0, 255).astype(np.uint8)
    store = np.concatenate([base, noisy])
    groups = exact_groups(store)
    _, first = np.unique(groups, return_index=True)
    likeness, faint = duplicates._likenesses(store, first)
    correlation = likeness @ likeness.T / likeness.shape[1]
    brute = {
        (first[one], first[other])
        for one, other in np.argwhere(np.triu(correlation, 1) >= duplicates.LEAST_CORRELATION)
        if not (faint[one] or faint[other])
    }
    quick = {(one, other) for one, other in near_pairs(store, groups).tolist()}
    assert quick <= brute
    # Those just over the threshold may be missed now and then; all that is clearly over it is found.
    clear = np.argwhere(np.triu(correlation, 1) >= 0.9985)
    assert {(first[one], first[other]) for one, other in clear if not (faint[one] or faint[other])} <= quick


@settings(max_examples=60, deadline=None)
@given(data=st.data(), count=st.integers(1, 30))
def test_joined_groups_are_the_connected_ones(data: st.DataObject, count: int) -> None:
    labels = st.lists(st.integers(0, count), min_size=count, max_size=count).map(np.array)
    one, other = data.draw(labels), data.draw(labels)
    groups = joined(one, other)
    expected = list(range(count))  # brute force: spread the smaller number until nothing changes
    for _ in range(count):
        for row in range(count):
            for with_row in range(count):
                if one[row] == one[with_row] or other[row] == other[with_row]:
                    expected[row] = expected[with_row] = min(expected[row], expected[with_row])
    assert [groups[row] == groups[0] for row in range(count)] == [expected[row] == expected[0] for row in range(count)]
    assert len(set(groups.tolist())) == len(set(expected))


def test_pictures_that_are_nearly_the_same_never_straddle_a_split() -> None:
    pictures = scenes(80)
    store = np.concatenate([pictures, *[np.stack(copies(picture)) for picture in pictures[:30]]])
    table = load_table((store, np.arange(len(store)) / 7), UNNAMED, data_dir=None, progress=Silent())
    decoded = decode(table, Silent())
    look = inspect(table, decoded, None)
    assert (look.facts.near_groups, look.facts.near_rows) == (30, 150)
    splits = split(table, decoded, look, seed=0)
    origin = np.concatenate([np.arange(80), np.repeat(np.arange(30), 4)])
    parts = [set(origin[part.rows]) for part in (splits.train, splits.validation, splits.test.open())]
    assert sum(map(len, parts)) == len(parts[0] | parts[1] | parts[2]) == 80


def test_clean_data_have_no_findings() -> None:
    facts = inspected((scenes(60), np.arange(60) / 7)).facts
    assert facts.findings == ()
    assert len(CHECKS) == 11


def test_odd_pictures_and_targets_are_found() -> None:
    pictures, labels = scenes(200), np.array(["a", "b"] * 100, dtype=object)
    pictures[7] = 200
    pictures[11] = pictures[10]
    labels[20] = "lone"
    findings = found(inspected((pictures, labels)).facts)
    assert set(findings) == {"duplicates", "contradictions", "empty", "rare classes", "imbalance"}
    assert findings["empty"].refs == ("row 7",)
    assert findings["contradictions"].refs == ("row 10", "row 11")
    assert findings["rare classes"].refs == ("row 20",)


def test_outliers_are_found_with_the_farthest_first() -> None:
    values = np.random.default_rng(0).normal(size=100)
    values[[40, 50]] = (9, -30)
    outliers = found(inspected((scenes(100), values)).facts)["outliers"]
    assert outliers.refs == ("row 50", "row 40")
    assert "-30" in outliers.text


def table_of(folder: Path, names: list[str], targets: list[object], sizes: list[tuple[int, int]] | None = None) -> pd.DataFrame:
    for number, (name, picture) in enumerate(zip(names, scenes(len(names)), strict=True)):
        Image.fromarray(picture).resize(sizes[number] if sizes else (48, 48)).save(folder / name)
    return pd.DataFrame({"file": [str(folder / name) for name in names], "target": targets})


def test_the_target_in_file_names_is_found(tmp_path: Path) -> None:
    names = [f"{'cat' if n % 2 else 'dog'}_{n}.png" for n in range(30)]
    findings = found(inspected(table_of(tmp_path, names, ["cat" if n % 2 else "dog" for n in range(30)])).facts)
    assert "30 file names contain their target" in findings["target in the file name"].text
    ages = [f"person_{n}_age{n * 3 % 31}.png" for n in range(30)]
    findings = found(inspected(table_of(tmp_path, ages, [n * 3 % 31 + 0.5 for n in range(30)])).facts)
    assert "runs with target" in findings["target in the file name"].text
    plain = [f"x{n * 17 % 31}.png" for n in range(30)]
    assert found(inspected(table_of(tmp_path, plain, [n + 0.5 for n in range(30)])).facts) == {}


def test_the_target_in_sizes_is_found(tmp_path: Path) -> None:
    names = [f"{n * 17 % 61}.png" for n in range(60)]
    sizes = [(48, 48) if n % 2 else (64, 50) for n in range(60)]
    told = found(inspected(table_of(tmp_path, names, ["x" if n % 2 else "y" for n in range(60)], sizes)).facts)
    assert "100% of the errors of guessing gone" in told["target in the form"].text
    mixed = found(inspected(table_of(tmp_path, names, ["x" if n % 4 < 2 else "y" for n in range(60)], sizes)).facts)
    assert "target in the form" not in mixed


def test_odd_sizes_and_kinds_are_found(tmp_path: Path) -> None:
    names = [f"{n * 17 % 101}.png" for n in range(99)] + ["odd.gif"]
    sizes = [(48, 48)] * 98 + [(48, 400), (48, 48)]
    findings = found(inspected(table_of(tmp_path, names, list(np.random.default_rng(0).normal(size=100)), sizes)).facts)
    assert [Path(ref).name for ref in findings["odd sizes"].refs] == ["50.png"]
    assert "GIF P (1); the others are PNG RGB (99)" in findings["odd kinds"].text


def test_facts_can_be_written_as_json(tmp_path: Path) -> None:
    from dataclasses import asdict

    facts = inspected(table_of(tmp_path, [f"{n}.png" for n in range(20)], list(range(20)))).facts
    assert json.loads(json.dumps(asdict(facts)))["rows_given"] == 20


@pytest.mark.parametrize("side", [5, 16, 50])
def test_likeness_takes_any_size_and_number_type(side: int) -> None:
    pictures = bars(30, side=side)[0]
    for store in (pictures, pictures.astype(np.float32) * 257, pictures.astype(np.float32) / 255 - 3):
        near_pairs(store, exact_groups(store))
