"""Data sets of the package ``datasets`` (Hugging Face), from memory or by name from its hub. Needs the extra ``hub``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from pixelfit.data.arrays import part_named
from pixelfit.data.tables import check_columns, table_of
from pixelfit.errors import DataError, DownloadError, OptionError
from pixelfit.progress import Progress
from pixelfit.types import Columns, Embedded, Json, PictureFile, Table

if TYPE_CHECKING:
    import pandas as pd

PREFIX = "hf://"
_PICTURE = "picture"  # the column that stands for pictures in messages: they have no paths


class HubDataset(Protocol):
    """What is used of a ``datasets.Dataset``."""

    features: Mapping[str, Json]

    def __len__(self) -> int:
        """Rows."""

    def __getitem__(self, row: int) -> Json:
        """One row, its values by column."""

    def cast_column(self, column: str, feature: Json) -> HubDataset:
        """The same rows, with the column in another form."""

    def remove_columns(self, column_names: list[str]) -> HubDataset:
        """The same rows without these columns."""

    def to_pandas(self) -> pd.DataFrame:
        """All rows as a DataFrame."""


HubData: TypeAlias = HubDataset | Mapping[str, HubDataset]


def from_name(name: str, columns: Columns, progress: Progress) -> Table:
    """A table from ``hf://OWNER/NAME``, or ``hf://OWNER/NAME#CONFIG`` where a data set has several, fetched or from the cache.

    Raises:
        DownloadError: the hub cannot be reached, or has no such data set.
        DataError: the package ``datasets`` is missing, or the data hold no pictures.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{name} needs the package datasets: pip install 'pixelfit[hub]'.") from error
    path, _, config = name.removeprefix(PREFIX).partition("#")
    progress.say(f"Fetching {name}, or reading it from the cache of the package datasets...")
    try:
        found = datasets.load_dataset(path, config or None)
    except (OSError, ValueError, RuntimeError) as error:  # among them: no network, no such name, several configurations
        raise DownloadError(
            f"{name} could not be loaded: {str(error).splitlines()[0] if str(error) else type(error).__name__}."
        ) from error
    return from_dataset(found, columns, name=path.rsplit("/", maxsplit=1)[-1])


def from_dataset(data: HubData, columns: Columns, *, name: str) -> Table:
    """A table from a ``datasets.Dataset``, or from a ``DatasetDict`` whose keys are parts such as train and test."""
    if not isinstance(data, Mapping):
        return _from_one(data, columns, name, "")
    parts = {str(key): part_named(str(key)) for key in data}
    unknown = [key for key, part in parts.items() if part is None]
    if unknown:
        raise DataError(
            f"{name} has the part {unknown[0]!r}; parts may be called train, validation and test: give one of them alone."
        )
    tables = [(_from_one(part, columns, name, str(key)), parts[str(key)]) for key, part in data.items()]
    first = tables[0][0]
    return Table(
        name=name,
        refs=tuple(ref for table, _ in tables for ref in table.refs),
        targets=np.concatenate([table.targets for table, _ in tables]),
        target_name=first.target_name,
        files=tuple(file for table, _ in tables for file in table.files or ()),
        parts=np.concatenate([np.full(len(table.refs), part, dtype=object) for table, part in tables]),
        groups=None
        if first.groups is None
        else np.concatenate([table.groups for table, _ in tables if table.groups is not None]),
        group_name=first.group_name,
        left_out=tuple(item for table, _ in tables for item in table.left_out),
        target_names=first.target_names,
    )


def _from_one(data: HubDataset, columns: Columns, name: str, part: str) -> Table:
    if not hasattr(data, "features"):
        raise DataError(f"pixelfit takes no data of type {type(data).__name__}; see the guide for what it takes.")
    import datasets
    import pandas as pd

    pictures = [column for column, feature in data.features.items() if isinstance(feature, datasets.Image)]
    column = columns.pictures or (pictures[0] if len(pictures) == 1 else None)
    if column is None:
        found = (
            f"several columns of pictures ({', '.join(pictures)}): name one with --pictures"
            if pictures
            else "no column of pictures"
        )
        raise OptionError(f"{name} has {found}.")
    frame = data.remove_columns(pictures).to_pandas()
    for label, feature in data.features.items():
        if isinstance(feature, datasets.ClassLabel):
            frame[label] = [None if code is None or code < 0 else feature.names[code] for code in frame[label].tolist()]
        of_each = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else None)
        if isinstance(of_each, datasets.ClassLabel):  # a list of labels a picture
            lists = [None if codes is None else [of_each.names[code] for code in codes] for codes in frame[label].tolist()]
            frame[label] = pd.Series(lists, index=frame.index, dtype=object)
    frame[_PICTURE] = [f"{part} row {row}".strip() for row in range(len(frame))]
    stored = data.cast_column(column, datasets.Image(decode=False))

    def file_of(row: int, _: str) -> PictureFile:
        return Embedded(lambda: _bytes(stored[row][column]))

    found_label = next((label for label, kind in data.features.items() if isinstance(kind, datasets.ClassLabel)), None)
    targets = columns.targets or (() if found_label is None else (found_label,))
    chosen, split = check_columns(frame, Columns(targets, _PICTURE, columns.group), told_as=name, folder=Path())
    return table_of(frame, chosen, split, name=name, told_as=name, file_of=file_of)


def _bytes(picture: Json) -> bytes:
    if picture is None:
        raise ValueError("the row holds no picture")
    if picture["bytes"] is not None:
        return bytes(picture["bytes"])
    return Path(picture["path"]).read_bytes()
