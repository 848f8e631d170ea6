from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import bars
from PIL import Image

from pixelfit.data.arrays import check_arrays
from pixelfit.data.duplicates import exact_groups
from pixelfit.data.inspect import inspect
from pixelfit.data.pictures import read_picture
from pixelfit.data.sources import load_table
from pixelfit.data.split import split
from pixelfit.data.store import decode, to_spec
from pixelfit.errors import DataError, OptionError
from pixelfit.progress import Silent
from pixelfit.types import Array, Columns, Facts, PictureSpec, Splits, Table


def load(source, target: str | None = None, **more) -> Table:
    return load_table(source, Columns((target,) if target else ()), data_dir=None, progress=Silent(), **more)


def looked_at(source, task=None, target: str | None = None) -> tuple[Table, Facts, Array]:
    table = load(source, target)
    inspected = inspect(table, decode(table, Silent()), task)
    return table, inspected.facts, inspected.targets


def splits_of(source, seed: int = 0) -> tuple[Facts, Splits]:
    table = load(source)
    pictures = decode(table, Silent())
    inspected = inspect(table, pictures, None)
    return inspected.facts, split(table, pictures, inspected, seed=seed)


# --- sources


def test_a_folder_gives_its_sub_folders_as_classes(class_folder: Path) -> None:
    (class_folder / "cat" / ".DS_Store").write_bytes(b"x")
    (class_folder / "cat" / "Thumbs.db").write_bytes(b"x")
    table, facts, targets = looked_at(class_folder)
    assert facts.task == "classification"
    assert facts.classes == ("cat", "dog")
    assert "names of folders" in facts.task_reason
    assert table.refs[0] == "cat/00.png"
    assert np.bincount(targets).tolist() == [20, 20]
    assert facts.spec == PictureSpec(10, 12, 3)


def test_folders_named_by_numbers_can_be_regressed(class_folder: Path) -> None:
    (class_folder / "cat").rename(class_folder / "1.5")
    (class_folder / "dog").rename(class_folder / "20")
    _, facts, targets = looked_at(class_folder, task="regression")
    assert facts.task == "regression"
    assert set(targets) == {1.5, 20.0}


def test_a_csv_with_paths_relative_to_itself(class_folder: Path) -> None:
    frame = pd.DataFrame({"file": [f"cat/{n:02d}.png" for n in range(20)], "weight": np.arange(20) / 7})
    frame.to_csv(class_folder / "table.csv", index=False)
    table, facts, targets = looked_at(class_folder / "table.csv")
    assert (facts.task, facts.target_name) == ("regression", "weight")
    assert "decimals" in facts.task_reason
    np.testing.assert_allclose(targets, np.arange(20) / 7)
    assert table.refs[3] == "cat/03.png"


def test_a_csv_with_several_columns_needs_the_target_named(class_folder: Path) -> None:
    paths = [str(class_folder / f"dog/{n:02d}.png") for n in range(20)]
    pd.DataFrame({"id": range(20), "path": paths, "kind": ["a", "b"] * 10}).to_csv("table.csv", index=False)
    with pytest.raises(OptionError, match=r"2 columns besides 'path'.*--target.*id, kind"):
        load("table.csv")
    with pytest.raises(OptionError, match=r"'knid' is no column.*id, path, kind"):
        load("table.csv", "knid")
    _, facts, _ = looked_at("table.csv", target="kind")
    assert facts.classes == ("a", "b")


@pytest.mark.parametrize(
    ("values", "task", "why"),
    [
        (np.arange(60) % 7, "classification", "7 distinct whole numbers"),
        (np.arange(60), "regression", "60 distinct whole numbers"),
        (np.arange(60) / 4, "regression", "decimals"),
        (np.arange(60) % 2 == 0, "classification", "true or false"),
        (np.array(["no", "yes"] * 30), "classification", "text"),
        (np.array(["1", "2"] * 30, dtype=object), "classification", "2 distinct whole numbers"),
    ],
)
def test_the_task_is_inferred_with_a_reason(values, task: str, why: str) -> None:
    _, facts, _ = looked_at((bars(60)[0], values))
    assert facts.task == task
    assert why in facts.task_reason


def test_a_forced_task_says_what_would_have_been_inferred() -> None:
    _, facts, targets = looked_at(bars(60), task="regression")
    assert facts.task_reason.startswith("as asked for")
    assert "would have meant classification" in facts.task_reason
    assert targets.dtype == np.float64


def test_number_labels_keep_their_kind_and_order() -> None:
    _, facts, targets = looked_at((bars(60)[0], np.array([10, 9, 2] * 20)), task="classification")
    assert facts.classes == (2, 9, 10)
    assert targets[:3].tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((4, 5)), r"its shape is \(4, 5\)"),
        (np.zeros((0, 5, 5)), "no pictures"),
        (np.zeros((4, 3, 20, 20)), "channels-first"),
        (np.array([[["a"]]]), "must hold numbers"),
        (np.full((2, 3, 3), np.nan), "Picture 0 of X .*NaN"),
        ([np.zeros((2, 2)), np.zeros((3, 3))], "no array of pictures"),
    ],
)
def test_arrays_that_cannot_be_pictures(X, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_arrays(X)


# --- store


def test_float_pictures_keep_their_precision_and_scale() -> None:
    pictures, columns = bars(40)
    table = load((pictures / 255.0, columns))
    decoded = decode(table, Silent())
    assert decoded.spec.scale == "unit"
    np.testing.assert_allclose(decoded.store, pictures, atol=1e-4)
    np.testing.assert_allclose(to_spec(check_arrays(pictures[:2] / 255.0), decoded.spec), pictures[:2], atol=1e-4)
    np.testing.assert_allclose(to_spec(pictures[:2], decoded.spec), pictures[:2])


def test_pictures_on_another_scale_are_refused() -> None:
    byte, raw = PictureSpec(12, 12, 1, "byte"), PictureSpec(12, 12, 1, "raw")
    with pytest.raises(DataError, match="multiply it by 255"):
        to_spec(np.full((2, 12, 12, 1), 0.5, dtype=np.float32), byte)
    with pytest.raises(DataError, match="cannot take uint8"):
        to_spec(np.zeros((2, 12, 12, 1), dtype=np.uint8), raw)
    with pytest.raises(DataError, match=r"1 channel\(s\); X has 3"):
        to_spec(np.zeros((2, 12, 12, 3), dtype=np.uint8), byte)


def test_large_pictures_are_made_smaller_in_their_own_shape() -> None:
    decoded = decode(load((np.full((20, 300, 150), 77, dtype=np.uint8), np.arange(20))), Silent())
    assert decoded.store.shape == (20, 224, 112, 1)
    assert (decoded.store == 77).all()
    assert (decoded.original_sizes == [300, 150]).all()


def test_mixed_sizes_come_to_their_median(tmp_path: Path) -> None:
    for number, size in enumerate([(20, 10), (40, 20), (60, 40)] * 5):
        Image.new("L", size, 9).save(tmp_path / f"{number}.png")
    decoded = decode(load(([tmp_path / f"{n}.png" for n in range(15)], np.arange(15))), Silent())
    assert decoded.store.shape == (15, 20, 40, 1)
    assert (decoded.store == 9).all()


def test_pictures_of_many_kinds(tmp_path: Path) -> None:
    grey, colour = PictureSpec(4, 6, 1), PictureSpec(4, 6, 3)
    sideways = Image.new("RGB", (4, 6), "black")
    sideways.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned a quarter clockwise: the top left corner comes to the top right
    sideways.save(tmp_path / "turned.png", exif=exif)
    turned = read_picture(tmp_path / "turned.png", colour)
    assert not isinstance(turned, str)
    assert turned[0, 5].tolist() == [255, 255, 255]
    Image.fromarray(np.full((4, 6), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert (read_picture(tmp_path / "deep.png", grey) == 40_000 // 256).all()
    Image.new("RGBA", (6, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_picture(tmp_path / "clear.png", colour) == 255).all()
    Image.new("P", (6, 4)).save(tmp_path / "palette.gif")
    assert read_picture(tmp_path / "palette.gif", colour).shape == (4, 6, 3)  # type: ignore[union-attr]
    Image.new("CMYK", (6, 4)).save(tmp_path / "print.jpg")
    assert (read_picture(tmp_path / "print.jpg", colour) == 255).all()
    Image.fromarray(np.zeros((4, 6), dtype=np.float32)).save(tmp_path / "float.tif")
    assert "float or 32-bit pixels among 8-bit ones" in str(read_picture(tmp_path / "float.tif", grey))


def test_unreadable_pictures_are_left_out_up_to_one_in_a_hundred(class_folder: Path) -> None:
    for number in range(20, 100):
        Image.new("RGB", (12, 10), (number, number, 0)).save(class_folder / "cat" / f"{number}.png")
    whole = (class_folder / "cat" / "50.png").read_bytes()
    (class_folder / "cat" / "50.png").write_bytes(whole[: len(whole) // 2])
    decoded = decode(load(class_folder), Silent())
    assert [item.ref for item in decoded.left_out] == ["cat/50.png"]
    assert len(decoded.store) == len(decoded.rows) == len(decoded.original_sizes) == 119
    (class_folder / "cat" / "51.png").write_text("no picture")
    with pytest.raises(DataError, match=r"2 of 120 pictures .*cat/50.png \(.+\); cat/51.png \(it is not a picture\)"):
        decode(load(class_folder), Silent())


# --- split


def test_splits_are_stratified_disjoint_and_whole() -> None:
    facts, splits = splits_of((bars(400)[0], np.array(["a", "a", "a", "b"] * 100)))
    test = splits.test.open()
    parts = [splits.train, splits.validation, test]
    assert sorted(np.concatenate([part.rows for part in parts])) == list(range(400))
    assert [len(part) for part in parts] == [272, 48, 80]
    for part in parts:
        assert part.targets.mean() == pytest.approx(0.25, abs=0.02)
    assert facts.classes == ("a", "b")


def test_regression_splits_share_the_distribution() -> None:
    _, splits = splits_of((bars(300)[0], np.exp(np.random.default_rng(0).normal(size=300))))
    test = splits.test.open()
    for quantile in (0.1, 0.5, 0.9):
        assert (test.targets <= np.quantile(splits.train.targets, quantile)).mean() == pytest.approx(quantile, abs=0.06)


def test_other_seed_other_split_same_seed_same_split() -> None:
    once, again, other = (splits_of(bars(200), seed)[1].train.rows.tolist() for seed in (1, 1, 2))
    assert once == again != other


def test_the_same_pixels_never_straddle_a_split() -> None:
    pictures, _ = bars(120)
    pictures = np.concatenate([pictures, pictures[:40], pictures[:10]])
    rng = np.random.default_rng(0)
    facts, splits = splits_of((pictures, rng.normal(size=170)))
    assert (facts.duplicate_groups, facts.duplicate_rows) == (40, 90)
    groups = exact_groups(pictures)
    test = splits.test.open()
    sides = [set(groups[part.rows]) for part in (splits.train, splits.validation, test)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]


def test_rare_classes_stay_in_training_and_are_named() -> None:
    labels = np.array(["common", "usual"] * 30 + ["rare"] * 2)
    facts, splits = splits_of((bars(62)[0], labels))
    rare = facts.classes.index("rare")
    assert any(found.kind == "rare classes" and "'rare' (2)" in found.text for found in facts.findings)
    assert (splits.train.targets == rare).sum() == 2


def test_small_continuous_data_still_get_a_test_set() -> None:
    _, splits = splits_of((bars(12)[0], np.linspace(0, 1, 12)))
    assert len(splits.test) >= 2
    assert len(splits.validation) >= 1


def test_too_few_different_pictures_are_refused() -> None:
    with pytest.raises(DataError, match=r"arrays has only 1 different picture\(s\)"):
        splits_of((np.zeros((30, 8, 8), dtype=np.uint8), np.arange(30) / 7))


def test_many_rare_classes_are_counted_not_listed() -> None:
    with pytest.raises(DataError, match=r"too few are in .* and 55 more\."):
        looked_at((bars(60)[0], np.array([f"name {row}" for row in range(60)])))


def test_file_names_that_are_no_utf_8_are_spelled_out(class_folder: Path) -> None:
    (class_folder / "cat" / "00.png").rename(class_folder / "cat" / os.fsdecode(b"caf\xe9.png"))
    table, _, _ = looked_at(class_folder)
    assert "cat/caf\\udce9.png" in table.refs
    "\n".join(table.refs).encode()


# --- named data


def test_mnist_5k_is_fixed_and_balanced() -> None:
    table = load("mnist-5k")
    assert table.arrays.shape == (5000, 28, 28, 1)
    assert (table.parts == "test").sum() == 1000
    assert np.bincount(table.targets[table.parts == "test"]).tolist() == [100] * 10


def test_houses_csv_with_its_pictures(data_folder: Path) -> None:
    table, facts, targets = looked_at(data_folder / "houses" / "houses.csv", target="price_usd")
    assert facts.task == "regression"
    assert len(table.refs) == 535
    assert facts.spec.channels == 3
    assert targets.min() > 10_000
