"""Whatever the user has, turned into a Table: a named data set, a folder, a table, an archive of these, or arrays."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from pixelfit.data import hub, named
from pixelfit.data.archives import is_archive, unpacked
from pixelfit.data.arrays import arrays_of, from_npz, from_pair
from pixelfit.data.folders import from_folder, sub_folders
from pixelfit.data.places import Place, without_query
from pixelfit.data.sampled import from_shards
from pixelfit.data.shards import labelled_shards_of
from pixelfit.data.tables import from_frame, from_table_file, is_table
from pixelfit.data.targets import width_of
from pixelfit.errors import DataError, OptionError
from pixelfit.progress import Progress
from pixelfit.types import Array, Columns, Table
from pixelfit.words import number_of

if TYPE_CHECKING:
    import pandas as pd
    from typing_extensions import TypeIs

_OF_PATTERNS = re.compile(r"[*?{}\[\]]+")  # which no folder should have in its name

Source: TypeAlias = "str | Path | tuple[object, object] | pd.DataFrame | hub.HubData"


def load_table(
    source: Source, columns: Columns, *, data_dir: Path | None, progress: Progress, test: Source | None = None
) -> Table:
    """Find every picture and its target.

    Args:
        source: the name of a data set (``pixelfit data list``); a folder with a sub-folder a class, which may lie in
            train/, val/ and test/; shards (see ``shards_of``) with a class, a text or JSON beside each picture, or other
            columns; a table (CSV, TSV, Parquet, JSON Lines or DataFrame) with a column of paths and one of
            targets; an ``.npz`` file; a zip or tar archive of any of these; a ``datasets.Dataset`` or ``DatasetDict``, or
            the name of one as ``hf://NAME``; or a pair ``(X, y)``: pictures as an array of shape (N, H, W) or
            (N, H, W, C), or as a list of N paths, and N targets: an array (N,), (N, T) of several numbers, (N, labels) of 0
            and 1, or a list of labels each.
        columns: which columns of a table hold what, where that is not plain.
        data_dir: where the files of a named data set lie, if the user has them.
        progress: is told how far a download or an unpacking has come.
        test: a second such source, whose pictures are the test set; the first is then for development alone.

    Raises:
        DataError: there is no such path, or it holds nothing that could be used; the message names it.
        OptionError: a column was named that is not there, or for a source that has no columns.
    """
    table = _load(source, columns, data_dir, progress)
    return table if test is None else _with_test(table, _load(test, columns, data_dir, progress))


def name_of(source: Source) -> str:
    """What a run of this source is called before anything has been read: a name that a folder can have."""
    if isinstance(source, tuple):
        return "arrays"
    if not isinstance(source, (str, Path)):
        return "frame" if _is_frame(source) else "dataset"
    path = Path(without_query(str(source)).removeprefix(hub.PREFIX)).expanduser()
    name = path.name if path.name not in ("", "..") else path.resolve().name
    name = _OF_PATTERNS.sub("", f"shards{name}" if name.startswith("*") else name)
    return (name.split(".")[0] if is_archive(path) else Path(name).stem) or "pictures"


def _load(source: Source, columns: Columns, data_dir: Path | None, progress: Progress) -> Table:
    if isinstance(source, tuple):
        return from_pair(*source)
    if _is_frame(source):
        return from_frame(source, columns, name="frame", told_as="The DataFrame", folder=Path())
    if not isinstance(source, (str, Path)):
        return hub.from_dataset(source, columns, name="dataset")
    if str(source).startswith(hub.PREFIX):
        return hub.from_name(str(source), columns, progress)
    if str(source) in named.NAMED:
        _refuse_columns(columns, f"{source} is a data set that is known by name")
        return named.NAMED[str(source)].load(data_dir, progress)
    shards = shards_behind(source, columns)
    if shards is not None:
        return from_shards(shards, columns, name=name_of(source), told_as=without_query(str(source)), progress=progress)
    path = Path(source).expanduser()
    if path.is_file() and is_archive(path):
        return replace(_from_path(unpacked(path, progress), columns), name=path.name.split(".")[0])
    if not path.exists():
        raise DataError(f"There is no file or folder {source}, and no data set of that name (known: {', '.join(named.NAMED)}).")
    return _from_path(path, columns)


def shards_behind(source: Source, columns: Columns) -> tuple[Place, ...] | None:
    """The shards that the source means; None where it is something else. Raises as ``shards_of`` does."""
    if not isinstance(source, (str, Path)) or str(source).startswith(hub.PREFIX) or str(source) in named.NAMED:
        return None
    return labelled_shards_of(str(source), columns.pictures)


def _is_frame(source: object) -> TypeIs[pd.DataFrame]:
    pandas = sys.modules.get("pandas")  # where nobody has loaded it, there is no DataFrame either
    return pandas is not None and isinstance(source, pandas.DataFrame)


def _from_path(path: Path, columns: Columns) -> Table:
    if path.is_dir():
        inside = [file for file in sorted(path.iterdir()) if file.is_file() and (is_table(file) or file.suffix.lower() == ".npz")]
        # A table that lies with class folders is taken for one of theirs only if the user speaks of its columns.
        if len(inside) == 1 and (columns.named() or len(sub_folders(path)) < 2):
            return _from_path(inside[0], columns)
        _refuse_columns(columns, f"{path} is a folder with {len(inside)} tables in it")
        return from_folder(path)
    if is_table(path):
        return from_table_file(path, columns)
    _refuse_columns(columns, f"{path} is none")
    if path.suffix.lower() == ".npz":
        return from_npz(path)
    raise DataError(
        f"{path} is neither a folder nor a table (CSV, TSV, Parquet, JSON Lines), .npz file or archive; "
        f"give one of these, or a name: {', '.join(named.NAMED)}."
    )


def _refuse_columns(columns: Columns, why: str) -> None:
    for option, name in columns.named():
        raise OptionError(f"--{option} {name!r} names a column, which only tables have, and {why}.")


def _with_test(development: Table, test: Table) -> Table:
    """Both tables in one, with the rows of the second as the test set."""
    if development.parts is not None and (development.parts == "test").any():
        raise OptionError(f"--test cannot be given for {development.name}, which comes with a test set of its own.")
    if (development.arrays is None) != (test.arrays is None):
        raise DataError(f"{development.name} and the test set {test.name} must both be files, or both be arrays.")
    if development.arrays is not None and test.arrays is not None and development.arrays.shape[1:] != test.arrays.shape[1:]:
        raise DataError(
            f"The pictures of the test set {test.name} have shape {test.arrays.shape[1:]}, "
            f"those of {development.name} {development.arrays.shape[1:]}."
        )
    if development.targets.shape[1:] != test.targets.shape[1:]:
        raise DataError(
            f"The pictures of the test set {test.name} have {number_of(width_of(test), 'target')} each, "
            f"those of {development.name} {width_of(development)}."
        )
    sizes = (len(development.refs), len(test.refs))
    given = development.parts if development.parts is not None else np.full(sizes[0], "", dtype=object)
    groups: Array | None = None
    if development.groups is not None and test.groups is not None:
        groups = np.concatenate([development.groups, test.groups])
    return replace(
        development,
        refs=development.refs + tuple(f"test: {ref}" for ref in test.refs),
        targets=np.concatenate([_as_kind(development.targets, test.targets), _as_kind(test.targets, development.targets)]),
        files=None if development.files is None or test.files is None else development.files + test.files,
        arrays=None if development.arrays is None else np.concatenate([development.arrays, arrays_of(test)]),
        parts=np.concatenate([given, np.full(sizes[1], "test", dtype=object)]),
        groups=groups,
        left_out=development.left_out + test.left_out,
    )


def _as_kind(targets: Array, others: Array) -> Array:
    """Targets such that NumPy does not turn numbers into text when they are joined with the others."""
    return targets if targets.dtype.kind in "buif" and others.dtype.kind in "buif" else targets.astype(object)
