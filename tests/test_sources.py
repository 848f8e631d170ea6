"""Every usual source gives the same table: folders, tables, arrays, archives and data sets of the hub."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import bars
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pixelfit.data import archives
from pixelfit.data.inspect import inspect
from pixelfit.data.sources import Source, load_table, name_of
from pixelfit.data.split import split
from pixelfit.data.store import decode
from pixelfit.errors import DataError, DownloadError, OptionError
from pixelfit.files import cache_folder
from pixelfit.progress import Silent
from pixelfit.types import Columns, Facts, Splits, Table


def load(source, target: str | None = None, pictures: str | None = None, group: str | None = None, test=None) -> Table:
    return load_table(source, Columns((target,) if target else (), pictures, group), data_dir=None, progress=Silent(), test=test)


def splits_of(table: Table, seed: int = 0) -> tuple[Facts, Splits]:
    pictures = decode(table, Silent(), most_left_out=1.0)
    inspected = inspect(table, pictures, None)
    return inspected.facts, split(table, pictures, inspected, seed=seed)


@pytest.fixture
def photos(tmp_path: Path) -> pd.DataFrame:
    """40 pictures in ``photos/`` and a frame that names them, with a few columns as users have them."""
    (tmp_path / "photos").mkdir()
    pictures, columns = bars(40)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture[..., 0]).save(tmp_path / "photos" / f"{number}.png")
    return pd.DataFrame(
        {"file": [f"photos/{number}.png" for number in range(40)], "size": columns / 2, "patient": [n // 4 for n in range(40)]}
    )


# --- tables

WRITERS: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    ".csv": lambda frame, path: frame.to_csv(path, index=False),
    ".tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    ".jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    ".parquet": lambda frame, path: frame.to_parquet(path),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_kind_of_table_says_the_same(suffix: str, photos: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / f"table{suffix}"
    WRITERS[suffix](photos, path)
    table = load(path, target="size")
    assert table.name == "table"
    assert table.refs == tuple(photos["file"])
    assert table.files == tuple(tmp_path / name for name in photos["file"])
    np.testing.assert_allclose(table.targets.astype(float), photos["size"])


def test_a_frame_is_a_table_whose_paths_start_here(photos: pd.DataFrame) -> None:
    table = load(photos, target="size")
    assert table.files is not None
    assert all(file.is_file() for file in table.files if isinstance(file, Path))
    np.testing.assert_allclose(table.targets, photos["size"])


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_damaged_table_is_named(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"bad{suffix}").write_bytes(b'\x00\xff"{')
    with pytest.raises(DataError, match=rf"bad\{suffix}"):
        load(tmp_path / f"bad{suffix}")


def test_rows_that_lack_something_are_left_out_and_counted(photos: pd.DataFrame) -> None:
    photos.loc[3, "size"] = np.nan
    photos.loc[5, "file"] = None
    table = load(photos, target="size", group="patient")
    assert [(item.ref, item.reason) for item in table.left_out] == [
        ("row 4, photos/3.png", "no target in 'size'"),
        ("row 6", "no path in 'file'"),
    ]
    assert len(table.refs) == 38
    facts, splits = splits_of(table)
    assert facts.rows_given == 40 == facts.rows + len(facts.left_out)
    assert facts.rows == len(splits.train) + len(splits.validation) + len(splits.test)


def test_whole_numbers_stay_whole_where_some_are_missing(photos: pd.DataFrame) -> None:
    photos["kind"] = [None, *([1, 2, 3] * 13)]
    facts, _ = splits_of(load(photos, target="kind"))
    assert facts.classes == (1, 2, 3)


def test_two_columns_of_pictures_need_a_word(photos: pd.DataFrame, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "photos", tmp_path / "masks")
    photos.insert(0, "mask", [f"masks/{number}.png" for number in range(40)])
    assert load(photos, target="size", pictures="file").refs[0] == "photos/0.png"
    with pytest.raises(OptionError, match=r"--pictures 'fiel' is no column of The DataFrame"):
        load(photos, target="size", pictures="fiel")


NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters='/\\:*?"<>|'), min_size=1, max_size=40
)


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(NAMES.filter(lambda name: name.strip(" .") == name), min_size=12, max_size=20, unique_by=str.casefold),
    absolute=st.booleans(),
    missing=st.sets(st.integers(0, 11), max_size=4),
    repeated=st.integers(0, 3),
)
def test_rows_are_used_or_left_out_whatever_their_paths(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], absolute: bool, missing: set[int], repeated: int
) -> None:
    folder = tmp_path_factory.mktemp("pictures with spaces")
    paths = [folder / f"{name}.png" for name in names]
    for number, path in enumerate(paths):
        if number not in missing:
            Image.fromarray(np.full((6, 6), 10 * number, dtype=np.uint8)).save(path)
    written = [str(path) if absolute else path.name for path in [*paths, *paths[len(paths) - repeated :]]]
    frame = pd.DataFrame({"picture": written, "value": np.arange(len(written)) / 3})
    frame.to_csv(folder / "a table.csv", index=False)
    table = load(folder / "a table.csv")
    assert len(table.refs) + len(table.left_out) == len(written)
    pictures = decode(table, Silent(), most_left_out=1.0)
    assert len(pictures.rows) + len(pictures.left_out) == len(written)
    origins = [*range(len(paths)), *range(len(paths) - repeated, len(paths))]
    assert len(pictures.left_out) == sum(origin in missing for origin in origins)
    assert {item.reason for item in pictures.left_out} <= {"there is no such file"}
    for row, picture in zip(pictures.rows, pictures.store, strict=True):
        assert (picture == 10 * origins[row]).all()


# --- parts and groups


def test_a_split_column_is_honoured(photos: pd.DataFrame) -> None:
    photos["Split"] = ["train"] * 20 + ["Val"] * 8 + ["test"] * 12
    table = load(photos, target="size")
    _, splits = splits_of(table)
    assert splits.validation.refs == tuple(photos["file"][20:28])
    assert splits.test.open().refs == tuple(photos["file"][28:])
    assert splits.how.count("the one that comes with the data") == 2
    photos.loc[2, "Split"] = "holdout"
    with pytest.raises(DataError, match=r"'holdout' in 'Split' \(row 3\); it may be train, val or test"):
        load(photos, target="size")


def test_folders_of_parts_are_honoured_and_the_missing_part_is_cut(class_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(class_folder, tmp_path / "data" / "train")
    for name in ("cat", "dog"):
        (tmp_path / "data" / "test" / name).mkdir(parents=True)
        for file in sorted((tmp_path / "data" / "train" / name).iterdir())[:5]:
            file.rename(tmp_path / "data" / "test" / name / file.name)
    facts, splits = splits_of(load(tmp_path / "data"))
    assert facts.classes == ("cat", "dog")
    assert sorted(splits.test.open().refs)[0] == "test/cat/00.png"
    assert len(splits.test) == 10
    assert len(splits.train) + len(splits.validation) == 30
    assert "validation set: 1" in splits.how


def test_another_source_can_be_the_test_set(photos: pd.DataFrame) -> None:
    _, splits = splits_of(load(photos[:25], target="size", test=photos[25:]))
    assert splits.test.open().refs == tuple(f"test: {name}" for name in photos["file"][25:])
    photos["split"] = "test"
    with pytest.raises(OptionError, match="comes with a test set of its own"):
        load(photos, target="size", test=photos)
    with pytest.raises(DataError, match="must both be files, or both be arrays"):
        load(photos[["file", "size"]], target="size", test=bars(20))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), sizes=st.lists(st.integers(1, 9), min_size=6, max_size=30), classes=st.booleans())
def test_groups_never_straddle_a_split(seed: int, sizes: list[int], classes: bool) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng(seed)
    count = max(len(groups), 12)
    groups = np.resize(groups, count)
    pictures = rng.integers(0, 255, (count, 8, 8, 1), dtype=np.uint8)
    targets = np.arange(count) % 2 if classes else rng.normal(size=count)
    table = Table(
        "t", tuple(map(str, range(count))), targets, "y", arrays=pictures, groups=groups.astype(str), group_name="patient"
    )
    _, splits = splits_of(table, seed)
    parts = [{groups[int(ref)] for ref in part.refs} for part in (splits.train, splits.validation, splits.test.open())]
    assert sum(map(len, parts)) == len(parts[0] | parts[1] | parts[2])
    assert "whole groups of 'patient'" in splits.how


# --- arrays in files


@pytest.mark.parametrize("names", [("x", "y"), ("images", "labels"), ("arr_0", "arr_1"), ("data", "target")])
def test_an_npz_file_of_two_arrays(names: tuple[str, str], tmp_path: Path) -> None:
    pictures, columns = bars(20)
    np.savez_compressed(tmp_path / "digits.npz", **dict(zip(names, (pictures, columns), strict=True)))
    table = load(tmp_path / "digits.npz")
    np.testing.assert_array_equal(table.arrays, pictures)
    np.testing.assert_array_equal(table.targets, columns)
    assert table.parts is None


@pytest.mark.parametrize(
    "names", [("x_train", "y_train", "x_test", "y_test"), ("train_images", "train_labels", "test_images", "test_labels")]
)
def test_an_npz_file_with_its_parts(names: tuple[str, ...], tmp_path: Path) -> None:
    pictures, columns = bars(50)
    arrays = (pictures[:40], columns[:40, np.newaxis], pictures[40:], columns[40:, np.newaxis])
    np.savez(tmp_path / "digits.npz", **dict(zip(names, arrays, strict=True)))
    table = load(tmp_path / "digits.npz")
    assert (table.parts == ["train"] * 40 + ["test"] * 10).all()
    assert table.refs[40] == "test row 0"
    _, splits = splits_of(table)
    np.testing.assert_array_equal(np.sort(splits.test.open().rows), np.arange(40, 50))


def test_npz_files_that_cannot_be_used(tmp_path: Path) -> None:
    pictures, columns = bars(20)
    for name, arrays, message in (
        ("lonely", {"x": pictures}, "it holds x"),
        ("strange", {"foo": pictures, "bar": columns}, "it holds foo, bar"),
        ("objects", {"x": pictures, "y": np.array([{}] * 20)}, "Python objects"),
        ("twice", {"x": pictures, "images": pictures, "y": columns}, "two arrays of pictures"),
        ("uneven", {"x": pictures, "y": columns[:5]}, "equal length"),
    ):
        np.savez(tmp_path / f"{name}.npz", **arrays)  # type: ignore[arg-type]
        with pytest.raises(DataError, match=rf"{name}\.npz.*{message}"):
            load(tmp_path / f"{name}.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(DataError, match=r"text\.npz cannot be read as an \.npz file"):
        load(tmp_path / "text.npz")


# --- archives


def packed(folder: Path, path: Path) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(folder.parent))
            archive.writestr("__MACOSX/._x", "noise")
    else:
        with tarfile.open(path, f"w:{path.suffix[1:]}" if path.suffix != ".tar" else "w") as archive:
            archive.add(folder, folder.name)
    return path


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
def test_an_archive_of_class_folders(name: str, class_folder: Path, tmp_path: Path) -> None:
    table = load(packed(class_folder, tmp_path / name))
    again = load(tmp_path / name)
    assert table.name == "a"
    assert table.refs[0] == "cat/00.png"
    assert len(table.refs) == 40
    assert table.files == again.files
    assert len(list(cache_folder("archives").iterdir())) == 1


def test_an_archive_of_a_table_with_its_pictures(photos: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    shutil.move(tmp_path / "photos", tmp_path / "all" / "photos")
    photos.to_csv(tmp_path / "all" / "table.csv", index=False)
    table = load(packed(tmp_path / "all", tmp_path / "all.zip"), target="size")
    assert len(table.refs) == 40
    assert len(decode(table, Silent()).rows) == 40
    assert load(tmp_path / "all", target="size").refs == table.refs  # a folder with one table is that table


def _zip_with(path: Path, name: str, content: bytes = b"x") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return path


def _tar_with(path: Path, member: tarfile.TarInfo, content: bytes = b"") -> Path:
    member.size = len(content)
    with tarfile.open(path, "w") as archive:
        archive.addfile(member, io.BytesIO(content))
    return path


def test_no_path_escapes_from_an_archive(tmp_path: Path) -> None:
    link = tarfile.TarInfo("cat/link.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard = tarfile.TarInfo("cat/hard.png")
    hard.type, hard.linkname = tarfile.LNKTYPE, "../../secret"
    cases = [
        (_zip_with(tmp_path / "up.zip", "../evil.png"), "leads out of the folder"),
        (_zip_with(tmp_path / "root.zip", "/evil.png"), "leads out of the folder"),
        (_zip_with(tmp_path / "back.zip", "a\\..\\..\\evil.png"), "leads out of the folder"),
        (_zip_with(tmp_path / "drive.zip", "C:/evil.png"), "leads out of the folder"),
        (_tar_with(tmp_path / "up.tar", tarfile.TarInfo("cat/../../evil.png"), b"x"), "leads out of the folder"),
        (_tar_with(tmp_path / "link.tar", link), "a link or a device"),
        (_tar_with(tmp_path / "hard.tar", hard), "a link or a device"),
    ]
    for path, message in cases:
        with pytest.raises(DataError, match=message):
            load(path)
    assert not list(tmp_path.rglob("evil.png"))
    assert not list(cache_folder("archives").iterdir())  # nothing half-unpacked stays


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "ALWAYS_FINE", 1 << 20)
    bomb = _zip_with(tmp_path / "bomb.zip", "cat/a.png", bytes(8 << 20))
    assert bomb.stat().st_size * archives.MOST_GROWTH < 8 << 20
    with pytest.raises(DataError, match=r"bomb\.zip was not unpacked: it would take more than 1 MiB"):
        load(bomb)
    monkeypatch.setattr(archives, "MOST_ENTRIES", 30)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(31):
            archive.writestr(f"cat/{number}.png", b"")
    with pytest.raises(DataError, match="more than 30 files"):
        load(tmp_path / "many.zip")
    assert not list(cache_folder("archives").iterdir())


def test_a_damaged_archive_is_named(class_folder: Path, tmp_path: Path) -> None:
    for name in ("a.zip", "a.tar.gz", "a.tar"):
        whole = packed(class_folder, tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=rf"{name.replace('.', '[.]')} cannot be unpacked"):
            load(tmp_path / name)
    _zip_with(tmp_path / "two.zip", "cat/a.png")
    with zipfile.ZipFile(tmp_path / "two.zip", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("cat/a.png", b"other")
    with pytest.raises(DataError, match=r"holds cat/a\.png twice"):
        load(tmp_path / "two.zip")


# --- the hub's data sets


def test_data_sets_of_the_hub(photos: pd.DataFrame, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra hub is not installed")
    paths = [str(tmp_path / name) for name in photos["file"]]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])})
    data = datasets.Dataset.from_dict({"image": paths, "label": [0, 1] * 20}, features=features)
    table = load(data)
    assert table.targets.tolist() == ["no", "yes"] * 20
    assert table.refs[1] == "row 1"
    assert len(decode(table, Silent()).rows) == 40
    both = load(datasets.DatasetDict({"train": data, "test": data.select(range(10))}))
    assert (both.parts == ["train"] * 40 + ["test"] * 10).all()
    with pytest.raises(DataError, match="'extra'"):
        load(datasets.DatasetDict({"extra": data}))


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra hub is not installed")

    def unreachable(*_: object) -> None:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DownloadError, match=r"hf://owner/name could not be loaded: no route to the hub"):
        load("hf://owner/name")


def test_what_is_no_source_at_all() -> None:
    with pytest.raises(DataError, match="no data of type int"):
        load(7)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("mnist-5k", "mnist-5k"),
        ("photos/", "photos"),
        (Path("some/houses.csv"), "houses"),
        ("scans.2024.tar.gz", "scans"),
        ("hf://someone/leaves", "leaves"),
        ("/", "pictures"),
        ((None, None), "arrays"),
        (pd.DataFrame(), "frame"),
    ],
)
def test_a_source_has_a_name_before_it_is_read(source: Source, name: str) -> None:
    assert name_of(source) == name


def test_a_source_that_is_where_one_stands_has_the_folders_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaves" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "leaves" / "below")
    assert (name_of("."), name_of("..")) == ("below", "leaves")
