"""Several numbers or labels a picture: what sources give, what inspection makes of them, and how they are cut."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import bars
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pixelfit.data.inspect import inspect
from pixelfit.data.sources import load_table
from pixelfit.data.split import split
from pixelfit.data.store import decode
from pixelfit.data.targets import outline
from pixelfit.errors import DataError, OptionError, PixelfitError
from pixelfit.progress import Silent
from pixelfit.types import Array, Columns, Finding, Inspected, Splits, Table, Task

COUNT = 40
TAGS = [["wide", "dark"], ["dark"], [], ["wide"]] * 10
WRITERS: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    "jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    "parquet": lambda frame, path: frame.to_parquet(path),
}


def load(source: object, *targets: str, test: object = None) -> Table:
    return load_table(source, Columns(targets), data_dir=None, progress=Silent(), test=test)  # type: ignore[arg-type]


def inspected(table: Table, task: Task | None = None) -> Inspected:
    return inspect(table, decode(table, Silent(), most_left_out=1.0), task)


def cut(table: Table, task: Task | None = None, seed: int = 0) -> Splits:
    pictures = decode(table, Silent(), most_left_out=1.0)
    return split(table, pictures, inspect(table, pictures, task), seed=seed)


def found(facts_of: Inspected) -> dict[str, Finding]:
    return {finding.kind: finding for finding in facts_of.facts.findings}


def noise(count: int = COUNT, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 255, (count, 8, 8, 1), dtype=np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> pd.DataFrame:
    for number, picture in enumerate(bars(COUNT)[0]):
        Image.fromarray(picture[..., 0]).save(tmp_path / f"{number}.png")
    places = np.arange(COUNT)
    return pd.DataFrame({"file": [f"{n}.png" for n in places], "a,b": places / 2, "size": 100.0 - places, "tags": TAGS})


# --- several numbers


def test_several_columns_are_several_numbers(photos: pd.DataFrame, tmp_path: Path) -> None:
    photos.drop(columns="tags").to_csv(tmp_path / "table.csv", index=False)
    result = inspected(load(tmp_path / "table.csv", "a,b", "size"))
    facts = result.facts
    assert (facts.task, facts.kind, facts.metric) == ("regression", "numbers", "nrmse")
    assert (facts.target_names, facts.target_name) == (("a,b", "size"), "a,b, size")
    assert facts.target_ranges == ((0.0, 19.5), (61.0, 100.0))
    np.testing.assert_array_equal(result.targets, photos[["a,b", "size"]].to_numpy())


def test_arrays_lists_and_npz_files_of_several_numbers_are_the_same(tmp_path: Path, photos: pd.DataFrame) -> None:
    pictures, targets = noise(), np.random.default_rng(1).normal(size=(COUNT, 2))
    np.savez(tmp_path / "all.npz", x=pictures, y=targets)
    photos["place"] = targets.tolist()
    sources = [load((pictures, targets)), load((pictures, targets.tolist())), load((pictures, pd.DataFrame(targets)))]
    for table in [*sources, load(tmp_path / "all.npz"), load(photos, "place")]:
        result = inspected(table)
        assert result.facts.kind == "numbers"
        assert result.facts.target_names == tuple(f"{table.target_name}_{place}" for place in (0, 1))
        np.testing.assert_array_equal(result.targets, targets)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_column_of_lists_of_numbers_in_a_file(kind: str, photos: pd.DataFrame, tmp_path: Path) -> None:
    photos["place"] = [[n / 2, 7.5 - n] for n in range(COUNT)]
    WRITERS[kind](photos, tmp_path / f"table.{kind}")
    result = inspected(load(tmp_path / f"table.{kind}", "place"))
    assert result.facts.target_names == ("place_0", "place_1")
    np.testing.assert_allclose(result.targets, photos["place"].tolist())


def test_lists_of_one_number_are_one_number(photos: pd.DataFrame) -> None:
    photos["place"] = [[n / 2] for n in range(COUNT)]
    result = inspected(load(photos, "place"))
    assert (result.facts.kind, result.facts.target_names) == ("number", ())
    np.testing.assert_array_equal(result.targets, np.arange(COUNT) / 2)


def test_a_row_that_lacks_one_of_several_numbers_is_left_out(photos: pd.DataFrame) -> None:
    photos.loc[3, "size"] = np.nan
    photos["place"] = [[n, None if n == 5 else 1.5 * n] for n in range(COUNT)]
    assert [(item.ref, item.reason) for item in load(photos, "a,b", "size").left_out] == [("row 4, 3.png", "no target in 'size'")]
    assert [(item.ref, item.reason) for item in load(photos, "place").left_out] == [
        ("row 6, 5.png", "a value is missing in 'place'")
    ]
    targets = np.random.default_rng(0).normal(size=(COUNT, 3))
    targets[7, 1] = np.nan
    table = load((noise(), targets))
    assert [(item.ref, item.reason) for item in table.left_out] == [("row 7", "no target in 'y_1'")]
    assert table.targets.shape == (COUNT - 1, 3)


# --- several labels


def test_lists_of_labels_in_every_form_are_the_same(photos: pd.DataFrame, tmp_path: Path) -> None:
    photos["text"] = [" ; ".join(tags) or ";" for tags in TAGS]
    photos["text"].to_frame().assign(file=photos["file"]).to_csv(tmp_path / "table.csv", index=False)
    tables = [load(photos, "tags"), load(photos, "text"), load(tmp_path / "table.csv"), load((noise(), TAGS))]
    for kind, write in WRITERS.items():
        write(photos, tmp_path / f"lists.{kind}")
        tables.append(load(tmp_path / f"lists.{kind}", "tags"))
    for table in tables:
        for task in (None, "multilabel"):
            result = inspected(table, task)  # type: ignore[arg-type]
            assert (result.facts.task, result.facts.metric) == ("multilabel", "log_loss")
            assert result.facts.classes == ("dark", "wide")
            assert result.targets.tolist() == [[1, 1], [1, 0], [0, 0], [0, 1]] * 10


def test_zeros_and_ones_are_labels_unless_the_user_says_otherwise(photos: pd.DataFrame) -> None:
    has = np.random.default_rng(0).integers(0, 2, (COUNT, 3))
    for task in (None, "classification", "multilabel"):
        result = inspected(load((noise(), has)), task)  # type: ignore[arg-type]
        assert (result.facts.task, result.facts.classes) == ("multilabel", (0, 1, 2))
        assert (result.targets == has).all()
    assert inspected(load((noise(), has)), "regression").facts.kind == "numbers"
    photos["wide"], photos["dark"] = has[:, 0], has[:, 1]
    assert inspected(load(photos, "wide", "dark")).facts.classes == ("wide", "dark")


def test_an_empty_list_is_no_label_and_a_missing_entry_no_target(photos: pd.DataFrame) -> None:
    photos["tags"] = [*TAGS[:-1], None]
    table = load(photos, "tags")
    assert [(item.ref, item.reason) for item in table.left_out] == [("row 40, 39.png", "no target in 'tags'")]
    assert (inspected(table).targets.sum(axis=1) == 0).sum() == 10


def test_a_text_with_semicolons_is_a_plain_label_where_that_is_asked_for(photos: pd.DataFrame) -> None:
    photos["text"] = ["a;b", "b"] * 20
    assert inspected(load(photos, "text"), "classification").facts.classes == ("a;b", "b")
    assert inspected(load(photos, "text")).facts.classes == ("a", "b")


def test_numbers_of_labels_are_labels_where_that_is_asked_for(photos: pd.DataFrame) -> None:
    photos["ids"] = [[10, 2], [2, 7]] * 20
    assert inspected(load(photos, "ids")).facts.kind == "numbers"
    assert inspected(load(photos, "ids"), "multilabel").facts.classes == (2, 7, 10)
    photos["ids"] = [[10, 2], [7]] * 20
    assert inspected(load(photos, "ids")).facts.classes == (2, 7, 10)


def test_data_sets_of_the_hub_with_lists_of_labels(photos: pd.DataFrame, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra hub is not installed")
    labels = datasets.ClassLabel(names=["dark", "wide"])
    rows = {"image": [str(tmp_path / name) for name in photos["file"]], "tags": [[0, 1], [1]] * 20}
    features = datasets.Features({"image": datasets.Image(), "tags": datasets.Sequence(labels)})
    result = inspected(load(datasets.Dataset.from_dict(rows, features=features)))
    assert result.facts.classes == ("dark", "wide")
    assert result.targets.tolist() == [[1, 1], [0, 1]] * 20


# --- what is wrong


@pytest.mark.parametrize(
    ("columns", "task", "message"),
    [
        (
            {"a": [1.5] * 6 + ["large"] + [2.0] * 33, "b": range(COUNT)},
            None,
            r"Row 7 of The DataFrame has 'large' in 'a', which is no number",
        ),
        ({"a": [1.0] * COUNT, "b": range(COUNT)}, None, "Every target in 'a' of frame is 1: there is nothing to learn"),
        ({"a": [*range(39), np.inf], "b": range(COUNT)}, None, r"39\.png of frame has inf in 'a', which is no number"),
        (
            {"a": range(COUNT), "b": range(COUNT)},
            "classification",
            r"2\.png of frame has 2 in 'a'; columns of labels hold 0 and 1 alone",
        ),
        (
            {"t": [["x"], {"y": 1}] * 20},
            None,
            r"Row 2 of The DataFrame has \{'y': 1\} in 't'; a target must be a number or a label",
        ),
        ({"t": [["x"], "y"] * 20}, None, "Row 2 of The DataFrame has 'y' in 't', where other rows have lists"),
        ({"t": [["x", ["y"]]] * COUNT}, None, r"Row 1 of The DataFrame has \['y'\] within its list in 't'"),
        ({"t": [[1.5, 2.5]] * 39 + [[1.5]]}, "regression", r"39\.png of frame has 1 numbers in 't', 0\.png has 2"),
        ({"t": TAGS}, "regression", "'t' of frame holds labels such as '(wide|dark)'; a regression needs numbers"),
        ({"t": [["a;b", "c"]] * COUNT}, None, r"0\.png of frame has the label 'a;b'; a label among several may not hold ';'"),
        ({"t": [["a"], []] * 20}, None, "frame has 1 label in 't'; at least two are needed"),
        ({"t": [["a", "b"]] * COUNT}, None, "there is nothing to learn"),
    ],
)
def test_what_cannot_be_several_targets_is_said(columns, task, message: str, photos: pd.DataFrame) -> None:
    frame = photos[["file"]].assign(**columns)
    with pytest.raises(DataError, match=message):
        inspected(load(frame, *columns), task)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros((COUNT, 2, 2)), r"its shape is \(40, 2, 2\)"),
        (np.full((COUNT, 2), "a"), r"y of shape \(40, 2\) must hold numbers"),
        ([["a"], "b"] * 20, "Row 1 of y is 'b', where other rows are lists"),
        (np.zeros((COUNT - 1, 2)), "40 pictures and y has 39 targets"),
    ],
)
def test_arrays_that_are_no_targets(y, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load((noise(), y))


def test_parts_with_other_numbers_of_targets_do_not_fit(tmp_path: Path) -> None:
    two, three = np.random.default_rng(0).normal(size=(COUNT, 2)), np.random.default_rng(0).normal(size=(COUNT, 3))
    with pytest.raises(DataError, match=r"test set arrays have 3 targets each, those of arrays 2"):
        load((noise(), two), test=(noise(), three))
    np.savez(tmp_path / "all.npz", x_train=noise(), y_train=two, x_test=noise(), y_test=three)
    with pytest.raises(DataError, match=r"equally many targets; there are in y_train 2, y_test 3"):
        load(tmp_path / "all.npz")
    with pytest.raises(OptionError, match="--target 'size' names a column"):
        load(tmp_path / "all.npz", "size")


# --- cuts and findings


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    targets=st.integers(2, 5),
    sizes=st.lists(st.integers(1, 6), min_size=10, max_size=30),
    labels=st.booleans(),
)
def test_rows_are_counted_and_groups_are_kept_whatever_the_targets(
    seed: int, targets: int, sizes: list[int], labels: bool
) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng(seed)
    count = max(len(groups), 20)
    groups = np.resize(groups, count)
    y = rng.integers(0, 2, (count, targets)) if labels else rng.normal(size=(count, targets))
    names = tuple(f"y_{place}" for place in range(targets))
    refs = tuple(map(str, range(count)))
    table = Table(
        "t", refs, y, "y", arrays=noise(count, seed), groups=groups.astype(str), group_name="patient", target_names=names
    )
    try:
        splits = cut(table, seed=seed)
    except PixelfitError as error:
        assert "nothing to learn" in str(error) or "too few to train" in str(error)  # noqa: PT017 - either is right
        return
    parts = (splits.train, splits.validation, splits.test.open())
    assert sorted(int(ref) for part in parts for ref in part.refs) == list(range(count))
    held = [{groups[int(ref)] for ref in part.refs} for part in parts]
    assert not any(one & other for one, other in itertools.combinations(held, 2))
    for part in parts:
        assert (part.targets == y[[int(ref) for ref in part.refs]]).all()


def test_cuts_are_stratified_by_what_stands_for_the_targets() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=1000)
    # The mean of the two would say nothing.
    numbers = np.column_stack([common, -common]) * [1, 100] + rng.normal(0, 0.01, (1000, 2))
    splits = cut(load((noise(1000), numbers)))
    for part in (splits.validation, splits.test.open()):
        assert abs(part.targets[:, 0].mean()) < 0.1
    labels = (rng.random((1000, 3)) < [0.6, 0.3, 0.02]).astype(int)
    splits = cut(load((noise(1000), labels)))
    rare = labels[:, 2].sum()
    assert splits.test.open().targets[:, 2].sum() == pytest.approx(rare / 5, abs=1)
    assert "each picture's rarest label" in splits.how


def test_what_stands_for_several_targets() -> None:
    assert outline("labels", np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 1]])).tolist() == [1, 0, 3, 2]
    values = np.arange(5.0)
    assert outline("number", values) is values
    both = outline("numbers", np.column_stack([values, 100 * values]))
    assert (np.diff(both) > 0).all()


def test_what_is_odd_names_the_target_or_label(photos: pd.DataFrame) -> None:
    pictures = noise(60)
    pictures[5] = pictures[6]
    numbers = np.random.default_rng(0).normal(size=(60, 2))
    numbers[9, 1] = 1e6
    numbers[5] = numbers[6] + [0, 1]
    odd = found(inspected(load((pictures, numbers))))
    assert odd["outliers"].refs == ("row 9",)
    assert "1 value of y_1 more than" in odd["outliers"].text
    assert odd["contradictions"].count == 2
    assert "another y_1" in odd["contradictions"].text
    assert "y_0" not in odd["contradictions"].text
    labels = (np.random.default_rng(1).random((60, 3)) < [0.5, 0.5, 0.0]).astype(int)
    labels[3, 2], labels[5], labels[6] = 1, [1, 0, 0], [1, 1, 0]
    odd = found(inspected(load((pictures, labels))))
    assert "2 (1 of 60)" in odd["rare labels"].text
    assert odd["rare labels"].refs == ("row 3",)
    assert "is on 1 " in odd["imbalance"].text or "2 on 1" in odd["imbalance"].text
    assert odd["contradictions"].refs == ("row 5", "row 6")
    assert "differ in 1." in odd["contradictions"].text


def test_targets_in_file_names_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tags = [["cat"] * int(rng.random() < 0.5) + ["dog"] * int(rng.random() < 0.5) for _ in range(60)]
    names = [f"{'cat' if 'cat' in each else 'none'}_{number}.png" for number, each in enumerate(tags)]
    for name, picture in zip(names, noise(60), strict=True):
        Image.fromarray(picture[..., 0]).save(tmp_path / name)
    odd = found(inspected(load(pd.DataFrame({"file": names, "tags": tags}), "tags")))
    assert "have the labels 'cat' (" in odd["target in the file name"].text
    assert "dog" not in odd["target in the file name"].text
    numbers = pd.DataFrame({"file": names, "a": rng.normal(size=60), "b": np.arange(60) + 0.5})
    odd = found(inspected(load(numbers, "a", "b")))
    assert "runs with b (" in odd["target in the file name"].text
