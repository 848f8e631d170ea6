"""Fitting from shards: a uniform sample that fits, chosen by name and in whatever order the shards come, with its parts."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import bars
from PIL import Image
from pyarrow import parquet
from sharding import END, entry, make_shards, picture

from pixelfit.data import sampled
from pixelfit.data.sources import load_table, name_of
from pixelfit.errors import DataError, OptionError
from pixelfit.progress import Silent
from pixelfit.types import Columns, Embedded, Table


def table_of(source: object, *, target: str | None = None, pictures: str | None = None) -> Table:
    columns = Columns((target,) if target else (), pictures)
    return load_table(str(source), columns, data_dir=None, progress=Silent())


def tar_with(path: Path, samples: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(entry(name, content) for name, content in samples.items()) + END)
    return path


def test_what_lies_beside_a_picture_is_its_target(tmp_path: Path) -> None:
    numbers = range(30)
    samples = {}
    for n in numbers:
        samples |= {f"{n:02d}.png": picture(n), f"{n:02d}.cls": f"{n % 3}\n".encode()}
        samples |= {f"{n:02d}.json": json.dumps({"price": n / 2, "place": "here"}).encode()}
    tar_with(tmp_path / "shards" / "a.tar", samples)
    classes = table_of(tmp_path / "shards", target="cls")
    assert dict(zip(classes.refs, classes.targets.tolist(), strict=True)) == {f"a.tar/{n:02d}": n % 3 for n in numbers}
    prices = table_of(tmp_path / "shards", target="price")
    assert dict(zip(prices.refs, prices.targets.tolist(), strict=True)) == {f"a.tar/{n:02d}": n / 2 for n in numbers}
    for ref, file in zip(prices.refs, prices.files or (), strict=True):
        assert isinstance(file, Embedded)
        assert file.load() == picture(int(ref[-2:]))
    with pytest.raises(OptionError, match="has 3 columns besides 'picture': name one with --target"):
        table_of(tmp_path / "shards")


def test_other_columns_of_parquet_files_are_targets(tmp_path: Path) -> None:
    make_shards(tmp_path / "shards", "Parquet", shards=2)
    table = table_of(tmp_path / "shards")
    assert table.target_name == "label"
    assert dict(zip(table.refs, table.targets.tolist(), strict=True)) == {
        f"train-00{shard}.parquet row {row + 1}": row for shard in range(2) for row in range(20)
    }
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": picture(n), "path": f"{n}.png"} for n in range(20)], kind)
    parquet.write_table(
        pa.table({"image": rows, "split": ["train", "test"] * 10, "name": ["x", "y"] * 10}), tmp_path / "one.parquet"
    )
    parts = table_of(tmp_path / "one.parquet")
    assert parts.parts is not None
    assert sorted(parts.parts.tolist()) == ["test"] * 10 + ["train"] * 10  # its owner's


def test_the_sample_and_its_parts_do_not_depend_on_order_or_on_other_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampled, "MOST_ROWS", 100)
    paths = make_shards(tmp_path / "shards", shards=20, rows=40)
    forwards = table_of(f"{tmp_path}/shards/train-{{000..019}}.tar")
    monkeypatch.setattr(sampled, "_FORMAT", 2)  # not from the cache
    backwards = table_of(f"{tmp_path}/shards/train-{{019..000}}.tar")
    assert forwards.refs == backwards.refs
    assert 50 < len(forwards.refs) <= 100
    assert forwards.parts is not None
    assert backwards.parts is not None
    assert forwards.parts.tolist() == backwards.parts.tolist()
    part = dict(zip(forwards.refs, forwards.parts.tolist(), strict=True))
    for path in paths[10:]:
        path.unlink()
    fewer = table_of(tmp_path / "shards")
    assert fewer.parts is not None
    assert all(part[ref] == now for ref, now in zip(fewer.refs, fewer.parts.tolist(), strict=True) if ref in part)
    for ref, file in zip(fewer.refs, fewer.files or (), strict=True):
        assert isinstance(file, Embedded)
        assert file.load() == picture(int(ref.rpartition("/")[2]))


def test_the_sample_is_uniform_and_no_larger_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [sampled.Labelled(f"a.tar/{n:06d}", b"x" * 10, {"n": n}) for n in range(40_000)]
    drawn = sampled._Drawn(io.BytesIO(), 10**9, 50_000)
    drawn.add_all(samples)
    numbers = np.array([row.fields["n"] for row in drawn.rows])
    assert drawn.share == 1 / 8  # 40,000 × 10 bytes
    assert len(numbers) == pytest.approx(5_000, abs=4 * 67)
    assert sum(row.size for row in drawn.rows) <= 50_000
    in_tenths = np.bincount(numbers // 4_000, minlength=10)
    assert ((in_tenths - 500) ** 2 / 500).sum() < 27.9  # chi-squared, 9 degrees of freedom: one in a thousand
    parts = pd.Series([sampled.part_by_name(row.name) for row in drawn.rows]).value_counts(normalize=True)
    assert parts["test"] == pytest.approx(0.2, abs=0.025)
    assert parts["val"] == pytest.approx(0.12, abs=0.02)


def test_what_cannot_be_read_is_left_out_by_name(tmp_path: Path) -> None:
    samples = {f"{n}.png": picture(n) for n in range(5)} | {"5.cls": b"1", "6.png": picture(6)}
    whole = b"".join(entry(name, content) + entry(name.replace("png", "cls"), b"1") for name, content in samples.items())
    path = tar_with(tmp_path / "shards" / "a.tar", {})
    path.write_bytes(whole + b"damaged" * 200)
    table = table_of(tmp_path / "shards")
    assert len(table.refs) == 5
    assert {item.ref: item.reason for item in table.left_out} == {
        "a.tar/5": "the sample holds no picture",
        "a.tar": "from here on the shard cannot be read: an entry's head is damaged",
    }
    tar_with(path, {"0.png": picture(0), "1.png": picture(1), "1.txt": b"word"})
    assert table_of(tmp_path / "shards").left_out[0].reason == "no target in 'txt'"
    tar_with(path, {"0.left.png": picture(0), "0.right.png": picture(0), "0.cls": b"1"})
    with pytest.raises(OptionError, match=r"a.tar/0 holds several pictures: name the ending of one with --pictures"):
        table_of(tmp_path / "shards")
    assert table_of(tmp_path / "shards", pictures="left.png").refs == ("a.tar/0",)
    tar_with(path, {"0.cls": b"1"})
    with pytest.raises(DataError, match=r"holds no pictures that can be read, such as a.tar/0: the sample holds no picture"):
        table_of(tmp_path / "shards")


def test_runs_have_names_that_folders_can_have() -> None:
    assert name_of("s3://bucket/train-{000..099}.tar") == "train-000"
    assert name_of("shards/*.parquet") == "shards"


@pytest.mark.slow
def test_a_search_runs_on_shards(tmp_path: Path) -> None:
    from pixelfit.automl import fit
    from pixelfit.options import checked_options

    pictures, columns = bars(150)
    for shard in range(3):
        samples = {}
        for n in range(shard * 50, shard * 50 + 50):
            out = io.BytesIO()
            Image.fromarray(pictures[n, ..., 0]).save(out, "png")
            samples |= {f"{n:03d}.png": out.getvalue(), f"{n:03d}.cls": str(columns[n]).encode()}
        tar_with(tmp_path / "shards" / f"{shard}.tar", samples)
    options = checked_options(task="regression", trials=2, steps=10, out=tmp_path / "run")
    run = fit(f"{tmp_path}/shards/{{0..2}}.tar", options, progress=Silent())
    assert run.facts.rows == 150
    assert json.loads((tmp_path / "run" / "run.json").read_text())["source"] == f"{tmp_path}/shards/{{0..2}}.tar"
