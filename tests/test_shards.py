"""Shards: every form gives the same rows, each once whatever ends the command, and hostile ones are refused or listed."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import sys
import tarfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import forks
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet
from s3_stub import s3_with
from sharding import END, WRITERS, entry, invoked, make_shards, picture, rows_of, tar_of, tiny_predictor

from pixelfit.batch import predicted
from pixelfit.data import items, places, tars
from pixelfit.data.places import expanded
from pixelfit.data.shards import items_of, shards_of
from pixelfit.errors import DataError, OptionError, ShardError
from pixelfit.progress import Silent
from pixelfit.sharded import Local, parts_of, predict_shards


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "run"
    tiny_predictor().save(folder)
    return folder


def named(folder: Path, form: str, shards: int = 3, rows: int = 20) -> list[str]:
    suffix = WRITERS[form][1]
    return [
        f"{folder / f'train-{shard:03d}{suffix}'}" + (f"/{shard * rows + row:06d}.png" if suffix == ".tar" else f" row {row + 1}")
        for shard in range(shards)
        for row in range(rows)
    ]


def expected(count: int) -> list[list[float]]:
    """Probabilities of the first pictures, predicted for without any shard."""
    from PIL import Image

    pixels = np.stack([np.asarray(Image.open(io.BytesIO(picture(number)))) for number in range(count)])
    return np.asarray(tiny_predictor().predict_proba(pixels)).tolist()


def probabilities(rows: list[dict[str, str]]) -> list[list[float]]:
    return [[float(row[f"p_{label}"]) for label in "abc"] for row in rows]


def reasons(file: Path) -> dict[str, str]:
    """Names below the shard of what cannot be read, and why."""
    (shard,) = shards_of([str(file)], None) or ()
    return {
        item.name.removeprefix(f"{file}").removeprefix("/"): item.picture
        for item in items_of(shard, None)
        if isinstance(item.picture, str)
    }


@pytest.mark.parametrize("form", list(WRITERS))
@pytest.mark.parametrize("suffix", [".csv", ".parquet", ""])
def test_each_form_gives_a_row_a_picture_in_order(form: str, suffix: str, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    make_shards(folder, form)
    out = tmp_path / f"out{suffix}"
    result = invoked(run, folder, "-o", out)
    assert "Wrote 60 rows" in result.output
    if suffix == ".csv":
        rows = rows_of(out)
        assert [row["picture"] for row in rows] == named(folder, form)
        np.testing.assert_allclose(probabilities(rows), expected(60), rtol=1e-4, atol=1e-6)
    else:
        frame = pd.read_parquet(out, columns=["picture", "p_a"])
        assert sorted(frame["picture"]) == sorted(named(folder, form))
        assert frame["p_a"].dtype == np.float64
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted({"shards", out.name})


def test_standard_output_and_python_give_the_same(run: Path, tmp_path: Path) -> None:
    make_shards(tmp_path / "shards")
    invoked(run, tmp_path / "shards", "-o", tmp_path / "out.csv")
    assert invoked(run, tmp_path / "shards").stdout == (tmp_path / "out.csv").read_text()
    frame = pd.concat(tiny_predictor().predict_frames(tmp_path / "shards"))
    assert frame.to_csv(index=False) == (tmp_path / "out.csv").read_text()


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("a-{000..002}.tar", ["a-000.tar", "a-001.tar", "a-002.tar"]),
        ("a-{9..11}.tar", ["a-9.tar", "a-10.tar", "a-11.tar"]),
        ("a-{2..0}.tar", ["a-2.tar", "a-1.tar", "a-0.tar"]),
        ("{x,y}/{1..2}.tar", ["x/1.tar", "x/2.tar", "y/1.tar", "y/2.tar"]),
        ("plain.tar", ["plain.tar"]),
    ],
)
def test_lists_in_braces_are_as_in_a_shell(text: str, means: list[str]) -> None:
    assert expanded(text) == means


@pytest.mark.parametrize("text", ["a-{0..2.tar", "a-}.tar", "a-{0..9999999}.tar", "{0..9999}{0..9999}.tar"])
def test_odd_braces_are_refused(text: str) -> None:
    with pytest.raises(DataError):
        expanded(text)


def test_which_sources_are_shards(run: Path, tmp_path: Path) -> None:
    first, second, third = make_shards(tmp_path / "shards")
    for given in ([f"{tmp_path}/shards/train-{{000..002}}.tar"], [f"{tmp_path}/shards/*.tar"], [first, second, third]):
        found = shards_of([str(each) for each in given], None)
        assert [place.name for place in found or ()] == [str(first), str(second), str(third)]
    (tmp_path / "a.png").write_bytes(picture(1))
    assert shards_of([str(first), str(tmp_path / "a.png")], None) is None  # as before: an archive and a picture
    with pytest.raises(OptionError, match=r"a.png is no shard"):
        shards_of([f"{tmp_path}/shards/*.tar", str(tmp_path / "a.png")], None)
    with pytest.raises(DataError, match=r"There is no shard .*train-003.tar"):
        shards_of([f"{tmp_path}/shards/train-{{000..003}}.tar"], None)
    with pytest.raises(DataError, match=r"train-000.tar is given twice"):
        shards_of([str(first), f"{tmp_path}/shards/*.tar"], None)
    pd.DataFrame({"file": ["a.png"]}).to_parquet(tmp_path / "paths.parquet")
    assert shards_of([str(tmp_path / "paths.parquet")], None) is None  # a table of paths
    with pytest.raises(OptionError, match=r"paths.parquet has 0 columns of pictures"):
        shards_of([f"{tmp_path}/pat*.parquet"], None)
    with pytest.raises(OptionError, match="--address is that of a Ray cluster"):
        invoked(run, first, "-o", "out.csv", "--address", "auto")
    with pytest.raises(OptionError, match="--engine ray predicts for shards"):
        invoked(run, tmp_path / "a.png", "-o", "out.csv", "--engine", "ray")
    with pytest.raises(OptionError, match="--engine ray predicts for shards"):
        invoked(run, first, "--engine", "ray")
    with pytest.raises(DataError, match="may hold no user and password"):
        shards_of(["s3://me:secret@bucket/a.tar"], None)


def test_one_of_several_pictures_is_chosen(tmp_path: Path) -> None:
    file = tmp_path / "two.tar"
    file.write_bytes(
        entry("0.left.png", picture(0))
        + entry("0.right.png", picture(1))
        + entry("1.left.png", picture(2))
        + entry("1.txt")
        + END
    )
    (shard,) = shards_of([str(file)], None) or ()
    assert [item.name.rpartition("/")[2] for item in items_of(shard, None)] == ["0.left.png", "0.right.png", "1.left.png"]
    chosen = list(items_of(shard, "right.png"))
    assert [item.name.rpartition("/")[2] for item in chosen] == ["0.right.png", "1"]
    assert chosen[1].picture == "the sample holds no right.png, only left.png, txt"
    table = pa.table({"a": [picture(0)], "b": [picture(1)]})
    parquet.write_table(table, tmp_path / "two.parquet")
    with pytest.raises(OptionError, match=r"has 2 columns of pictures.*name one of a, b with --pictures"):
        shards_of([str(tmp_path / "two.parquet")], None)
    with pytest.raises(OptionError, match="--pictures 'c' is no column of pictures"):
        shards_of([str(tmp_path / "two.parquet")], "c")
    assert shards_of([str(tmp_path / "two.parquet")], "b") is not None


def test_what_cannot_be_read_has_a_row_with_its_reason(run: Path, tmp_path: Path) -> None:
    samples = [entry("0.png", picture(0)), entry("1.png", b"no picture"), entry("2.cls", b"1"), entry("3.png", picture(3))]
    (tmp_path / "odd.tar").write_bytes(b"".join(samples) + END)
    (tmp_path / "empty.tar").write_bytes(END)
    (tmp_path / "nothing.tar").write_bytes(b"")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": picture(0), "path": None}, None, {"bytes": None, "path": "/etc/passwd"}, {"bytes": b"no", "path": None}]
    parquet.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / "odd.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "odd.parquet").read_bytes()[:-20])
    invoked(run, f"{tmp_path}/*.tar", f"{tmp_path}/*.parquet", "-o", tmp_path / "out.csv")
    found = {Path(row["picture"]).name: row["error"] for row in rows_of(tmp_path / "out.csv")}
    assert found == {
        "0.png": "", "1.png": "it is not a picture", "2": "the sample holds no picture, only cls", "3.png": "",
        "nothing.tar": "from here on the shard cannot be read: empty file",
        "odd.parquet row 1": "", "odd.parquet row 2": "there is no picture",
        "odd.parquet row 3": "there is no picture, only the name /etc/passwd", "odd.parquet row 4": "it is not a picture",
        "cut.parquet": found["cut.parquet"],
    }  # fmt: skip
    assert "cannot be read" in found["cut.parquet"]


def _pax(size: int) -> bytes:
    """The head of settings that tells of so many bytes, and has none."""
    return entry("pax", kind=tarfile.XHDTYPE, size=size)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (entry("/etc/evil.png", picture(1)), {"/etc/evil.png": "its path leads out of the archive"}),
        (entry("../evil.png", picture(1)), {"../evil.png": "its path leads out of the archive"}),
        (entry("a/../../evil.png", picture(1)), {"a/../../evil.png": "its path leads out of the archive"}),
        (entry("a.png", kind=tarfile.SYMTYPE, link="/etc/passwd"), {"a.png": "it is a link or a device, and no plain file"}),
        (entry("a.png", kind=tarfile.LNKTYPE, link="b.png"), {"a.png": "it is a link or a device, and no plain file"}),
        (entry("a.png", kind=tarfile.FIFOTYPE), {"a.png": "it is a link or a device, and no plain file"}),
        (entry("a.png", picture(1), size=1 << 40), {"a.png": "its head tells of 1,099,511,627,776 bytes", "": "unexpected end"}),
        (entry("a.png", b"x" * 100, size=1_000_000), {"a.png": "the archive ends after", "": "unexpected end of data"}),
        (entry("a.cls", size=1 << 40), {"": "unexpected end of data"}),
        (_pax(1 << 40), {"": "an entry's head tells of 1,099,511,627,776 bytes"}),
        (entry("././@LongLink", size=1 << 30, kind=tarfile.GNUTYPE_LONGNAME), {"": "an entry's head tells of"}),
        (entry("a.png", picture(1)) + b"damaged" * 200, {"": "an entry's head is damaged"}),
        (entry("a.png", picture(1)) + END + entry("b.png", picture(2)), {"": "more follows its end mark"}),
        (entry("a.png", picture(1)) * 2, {"a.png": "a file of this name twice"}),
        (b"no archive at all" * 100, {"": "from here on the shard cannot be read: invalid header"}),
        (entry(".hidden.png", picture(1)) + entry("__MACOSX/a.png", picture(1)), {}),
        (entry("a\nb,=1+1.png", b"x") + entry("README"), {"README": "holds no picture"}),
    ],
)  # fmt: skip
def test_hostile_archives_are_listed_row_by_row(content: bytes, told: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "hostile.tar"
    file.write_bytes(content + END)
    found = reasons(file)
    assert set(found) == set(told)
    for name, reason in told.items():
        assert reason in found[name]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostile.tar"]


def test_a_negative_size_does_not_lead_round_in_circles(tmp_path: Path) -> None:
    about = bytearray(entry("a.png", b"x" * 512))
    about[124:136] = (-1024).to_bytes(12, "big", signed=True)  # base-256, as GNU tar writes large numbers
    about[148:156] = b"        "
    about[148:156] = f"{sum(about[:512]):06o}\0 ".encode()
    (tmp_path / "back.tar").write_bytes(entry("0.png", picture(0)) + bytes(about) + END)
    assert "leads backwards" in reasons(tmp_path / "back.tar")[""]


@pytest.mark.parametrize("left", [0.1, 0.35, 0.5, 0.77, 0.95])
def test_a_shard_that_was_cut_short_says_so_wherever_that_was(left: float, tmp_path: Path) -> None:
    whole = tar_of([picture(number) for number in range(20)], 0)
    for cut in {int(len(whole) * left), int(len(whole) * left) // 512 * 512}:
        (tmp_path / "cut.tar").write_bytes(whole[:cut])
        (shard,) = shards_of([str(tmp_path / "cut.tar")], None) or ()
        found = list(items_of(shard, None))
        good = [item for item in found if not isinstance(item.picture, str)]
        assert [item.name.rpartition("/")[2] for item in good] == [f"{number:06d}.png" for number in range(len(good))]
        assert found[-1].name == str(tmp_path / "cut.tar")
        assert "from here on the shard cannot be read" in str(found[-1].picture)


def test_no_more_is_in_memory_than_a_few_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large files fewer are taken at once, of small ones as many as of paths; and tarfile's own list stays empty."""
    monkeypatch.setattr(items, "_MOST_HELD", 1_000)
    chunks = list(items.in_chunks(iter([items.Item(str(n), "", held=400) for n in range(10)]), 256))
    assert [len(chunk) for chunk in chunks] == [3, 3, 3, 1]
    made = []

    class Watched(tarfile.TarFile):
        def __init__(self, **words: object) -> None:
            made.append(self)
            super().__init__(**words)  # type: ignore[arg-type]

    monkeypatch.setattr(tars.tarfile, "TarFile", Watched)
    assert [len(made[0].members) for _ in tars.entries(io.BytesIO(tar_of([picture(0)] * 5, 0)), lambda name: True)] == [0] * 10


@pytest.mark.slow
def test_a_part_is_there_whole_or_not_at_all_and_each_row_once_after_kills(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    make_shards(folder, shards=30, rows=60)
    out = tmp_path / "out.csv"
    command = [sys.executable, "-P", "-m", "pixelfit", "predict", str(run), str(folder), "-o", str(out)]
    parts, rng, kills = tmp_path / "out.csv.parts", random.Random(0), 0
    for wanted in (1, 5, 9, 14, 20, 26):
        process = forks.Popen([*command, *(["--resume"] if kills else [])])
        while len(list(parts.glob("_records/train-*.json"))) < wanted and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        if out.exists():
            break
        for record in parts.glob("_records/train-*.json"):
            about = json.loads(record.read_text())
            assert len(rows_of(parts / about["part"])) == about["rows"] == 60
    assert kills >= 3
    if not out.exists() or parts.exists():  # killed before the parts were joined, or before they were removed
        forks.run([*command, "--resume"], check=True)
    assert [row["picture"] for row in rows_of(out)] == named(folder, "WebDataset", 30, 60)
    np.testing.assert_allclose(probabilities(rows_of(out)), expected(1800), rtol=1e-4, atol=1e-6)
    assert not parts.exists()


class Impatient(Silent):
    """Interrupts once so many shards are done."""

    def __init__(self, after: int) -> None:
        self._after = after

    def count(self, title: str, done: int, total: int) -> None:
        if done == self._after:
            raise KeyboardInterrupt


def interrupted(folder: Path, out: Path, *, seed: int = 0, resume: bool = False, after: int = 2) -> None:
    predictor = tiny_predictor(seed)
    parts = parts_of(out, predictor.version, None, None)
    shards = shards_of([str(folder)], None) or ()
    with pytest.raises(KeyboardInterrupt):
        predict_shards(
            predictor,
            shards,
            parts,
            out,
            resume=resume,
            engine=Local(predictor, parts.job, parts.folder),
            progress=Impatient(after),
        )


def test_only_what_is_missing_is_predicted_for_again(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = tmp_path / "shards", tmp_path / "out.csv"
    make_shards(folder)
    interrupted(folder, out)
    asked = []
    monkeypatch.setattr(
        "pixelfit.sharded.work.items_of", lambda shard, column: asked.append(shard.name) or items_of(shard, column)
    )
    damaged = next(tmp_path.glob("out.csv.parts/train-000*.csv"))
    damaged.write_text(damaged.read_text()[:-3])
    invoked(run, folder, "-o", out, "--resume")
    assert asked == [str(folder / "train-000.tar"), str(folder / "train-002.tar")]
    assert [row["picture"] for row in rows_of(out)] == named(folder, "WebDataset")


def test_a_shard_that_changed_or_is_gone_is_refused(run: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "shards", tmp_path / "out.csv"
    first, _, third = make_shards(folder)
    interrupted(folder, out)
    first.write_bytes(tar_of([picture(7)], 0))
    with pytest.raises(
        DataError, match=r"train-000.tar has changed since it was predicted for .*remove .*_records/train-000.*\.json"
    ):
        invoked(run, folder, "-o", out, "--resume")
    first.unlink()
    with pytest.raises(DataError, match=r"has a part of .*train-000.tar, which is not among the sources any more"):
        invoked(run, folder, "-o", out, "--resume")
    first.write_bytes(third.read_bytes())
    invoked(run, folder, "-o", out)  # anew
    assert len(rows_of(out)) == 60


def test_another_model_or_coverage_is_refused(run: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "shards", tmp_path / "out"
    make_shards(folder)
    interrupted(folder, out, seed=1)
    with pytest.raises(OptionError, match=r"begun with other weights: \w{8}, now \w{8}"):
        invoked(run, folder, "-o", out, "--resume")
    with pytest.raises(OptionError, match="holds predictions already: --resume goes on"):
        invoked(run, folder, "-o", out)
    with pytest.raises(OptionError, match="nothing to resume"):
        invoked(run, folder, "-o", tmp_path / "other.csv", "--resume")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OptionError, match="holds other files"):
        invoked(run, folder, "-o", tmp_path / "mine")
    with pytest.raises(OptionError, match=r"out.txt cannot be written"):
        invoked(run, folder, "-o", tmp_path / "out.txt")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"


def test_shards_that_come_later_are_predicted_for_too(run: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "shards", tmp_path / "out"
    make_shards(folder)
    invoked(run, folder, "-o", out)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    make_shards(folder / "more", shards=4)[3].rename(folder / "train-003.tar")
    for path in (folder / "more").iterdir():
        path.unlink()
    (folder / "more").rmdir()
    assert "Wrote 80 rows" in invoked(run, folder, "-o", out, "--resume").output
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert len(after) == 4
    assert before.items() <= after.items()


def test_two_commands_do_not_write_into_one_place(run: Path, tmp_path: Path) -> None:
    make_shards(tmp_path / "shards")
    parts = parts_of(tmp_path / "out.csv", tiny_predictor().version, None, None)
    with parts.alone(), pytest.raises(OptionError, match="Another command writes into"):
        invoked(run, tmp_path / "shards", "-o", tmp_path / "out.csv")


def test_a_shard_that_is_lost_on_the_way_fails_alone(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = tmp_path / "shards", tmp_path / "out.csv"
    make_shards(folder)
    real = places.open_plain

    def broken(path: Path):
        if path.name == "train-001.tar":
            raise PermissionError(13, "Permission denied")
        return real(path)

    with monkeypatch.context() as patched:
        patched.setattr(places, "open_plain", broken)
        with pytest.raises(DataError, match=r"1 shard of 3 failed; the first is .*train-001.tar: .*Permission denied.*--resume"):
            invoked(run, folder, "-o", out)
    assert not out.exists()
    invoked(run, folder, "-o", out, "--resume")
    assert [row["picture"] for row in rows_of(out)] == named(folder, "WebDataset")


def test_a_shard_that_changes_while_it_is_read_is_no_row(tmp_path: Path) -> None:
    (file,) = make_shards(tmp_path / "shards", shards=1)
    (shard,) = shards_of([str(file)], None) or ()
    found = items_of(shard, None)
    next(found)
    os.utime(file, ns=(1, 1))
    with pytest.raises(ShardError, match="changed while it was read"):
        list(found)


@pytest.mark.parametrize("form", list(WRITERS))
def test_a_url_of_fsspec_is_read_as_files_are(form: str, run: Path, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="needs the extra shards")
    store = fsspec.filesystem("memory")
    for path in make_shards(tmp_path / "shards", form):
        store.pipe(f"/bucket-{form[-4:]}/{path.name}", path.read_bytes())
    suffix, base = WRITERS[form][1], f"memory://bucket-{form[-4:]}"
    for number, given in enumerate((f"{base}/train-{{000..002}}{suffix}", f"{base}/*{suffix}", base)):
        invoked(run, given, "-o", tmp_path / f"{number}.csv")
        rows = rows_of(tmp_path / f"{number}.csv")
        assert [row["picture"] for row in rows] == [
            name.replace(f"{tmp_path}/shards", base) for name in named(tmp_path / "shards", form)
        ]
        np.testing.assert_allclose(probabilities(rows), expected(60), rtol=1e-4, atol=1e-6)
    with pytest.raises(DataError, match=r"There is no shard memory://bucket-.*train-003"):
        invoked(run, f"{base}/train-003{suffix}", "-o", tmp_path / "out.csv")
    invoked(run, *(f"file://{path}" for path in sorted((tmp_path / "shards").iterdir())), "-o", tmp_path / "local.csv")
    assert len(rows_of(tmp_path / "local.csv")) == 60


@pytest.mark.parametrize("form", list(WRITERS))
def test_s3_is_read_without_s3fs_in_few_requests(form: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec", reason="needs the extra shards")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    for name, value in (("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s"), ("EC2_METADATA_DISABLED", "true")):
        monkeypatch.setenv(f"AWS_{name}", value)
    bucket = f"bucket-{list(WRITERS).index(form)}"
    files = {f"{bucket}/some/{path.name}": path.read_bytes() for path in make_shards(tmp_path / "shards", form)}
    with s3_with(files) as (address, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        invoked(run, f"s3://{bucket}/some/*{WRITERS[form][1]}", "-o", tmp_path / "out.csv")
        assert max(asked.count(f"GET {name}") for name in files) <= 5
        with pytest.raises(DataError, match=r"There is no shard s3://.*/none.tar"):
            invoked(run, f"s3://{bucket}/none.tar", "-o", tmp_path / "none.csv")
    base = f"s3://{bucket}/some"
    names = [name.replace(f"{tmp_path}/shards", base) for name in named(tmp_path / "shards", form)]
    assert [row["picture"] for row in rows_of(tmp_path / "out.csv")] == names


def test_what_fsspec_cannot_reach_is_a_sentence(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec", reason="needs the extra shards")
    with pytest.raises(DataError, match=r"nosuch://a/b.tar cannot be reached: Protocol not known: nosuch"):
        invoked(run, "nosuch://a/b.tar", "-o", "out.csv")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(DataError, match=r"memory://a.tar needs the package fsspec: pip install 'pixelfit\[shards\]'"):
        invoked(run, "memory://a.tar", "-o", "out.csv")


def test_the_web_is_read_through_fsspec(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads http:// with aiohttp")
    make_shards(tmp_path / "shards")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "shards")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{server.server_address[1]}"
        invoked(run, f"{base}/train-{{000..002}}.tar?signature=secret", "-o", tmp_path / "out")
        text = "".join(path.read_text() for path in (tmp_path / "out").glob("_records/*.json"))
        assert "secret" not in text
        assert len(pd.read_parquet(tmp_path / "out")) == 60
    finally:
        server.shutdown()


def test_rows_of_a_shard_are_those_of_its_items(tmp_path: Path) -> None:
    """What ``decoders`` is has no influence."""
    (file,) = make_shards(tmp_path / "shards", shards=1)
    (shard,) = shards_of([str(file)], None) or ()
    one, two = (
        [row for rows in predicted(tiny_predictor(), items_of(shard, None), None, decoders=n) for row in rows] for n in (1, 2)
    )
    assert one == two
