"""Pictures of a run folder as elements of its page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pixelfit.runs import RunFolder
from pixelfit.types import Json
from pixelfit.words import value_words


def data_url(file: Path) -> str:
    """The picture itself as an address."""
    form = "webp" if file.suffix == ".webp" else "png"
    return f"data:image/{form};base64,{base64.b64encode(file.read_bytes()).decode()}"


def gallery(folder: RunFolder, pictures: Sequence[Json], kind: str) -> list[dict[str, str]]:
    """The pictures of a kind, with what is known of each in words."""
    return [
        {
            "src": data_url(folder.path / "pictures" / Path(item["file"]).name),
            "ref": item["ref"],
            "target": value_words(item["target"]),
            "prediction": "" if item["prediction"] is None else value_words(item["prediction"]),
            "note": item["note"],
        }
        for item in pictures
        if item["kind"] == kind
    ]


@dataclass(frozen=True)
class Tiles:
    """Small test pictures in one image: ``place`` says of a test picture's row which tile it is."""

    src: str
    width: int
    height: int
    columns: int
    place: dict[int, int]

    def offset(self, row: int) -> tuple[int, int]:
        """Where the row's tile begins in the image, in pixels from its left and upper end."""
        place = self.place[row]
        return place % self.columns * self.width, place // self.columns * self.height


def tiles(folder: RunFolder, evidence: Json) -> Tiles | None:
    """The run's small test pictures; None for a run without, or from before there were any."""
    record = (evidence or {}).get("thumbnails")
    if record is None or not folder.thumbnails_file.is_file():
        return None
    place = {row: number for number, row in enumerate(record["rows"])}
    return Tiles(data_url(folder.thumbnails_file), record["width"], record["height"], record["columns"], place)
