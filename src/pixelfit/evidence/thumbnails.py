"""Small test pictures in one image, for what the report's charts show under the pointer and its matrix at a click."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pixelfit.mistakes import all_mistakes, right
from pixelfit.runs import drawable
from pixelfit.types import Examples, Facts, Forecast, Ints, Json, PictureSpec

_LARGEST_SIDE = 48  # pixels
_MOST_PIXELS = 2_000_000  # of all tiles together
_MOST_DOTS = 2_500  # in a chart: more hide one another
_RIGHT_ONES = 6  # of each class


@dataclass(frozen=True)
class Thumbnails:
    """Tiles of one size, ``columns`` in a row of the image; ``rows`` (tiles,) says which test picture each is."""

    image: Image.Image
    rows: Ints
    width: int
    height: int
    columns: int

    @staticmethod
    def of(examples: Examples, rows: Ints, spec: PictureSpec) -> Thumbnails:
        """The pictures of these rows."""
        width, height = _tile(spec)
        columns = max(1, math.ceil(math.sqrt(len(rows))))
        image = Image.new(
            "RGB" if spec.channels >= 3 else "L", (columns * width, max(1, math.ceil(len(rows) / columns)) * height)
        )
        for place, row in enumerate(rows):
            small = drawable(examples.store[examples.rows[row]], spec)
            if small.size != (width, height):
                small = small.resize((width, height), Image.Resampling.BILINEAR)
            image.paste(small, (place % columns * width, place // columns * height))
        return Thumbnails(image, rows, width, height, columns)

    def to_json(self) -> Json:
        """Where each tile is."""
        return {"rows": self.rows.tolist(), "width": self.width, "height": self.height, "columns": self.columns}


def rows_to_draw(facts: Facts, examples: Examples, forecast: Forecast) -> Ints:
    """The test pictures of which there are thumbnails, by rising row: of numbers evenly many, of labels the wrong ones first."""
    width, height = _tile(facts.spec)
    room = max(1, _MOST_PIXELS // (width * height))
    if facts.kind in ("number", "numbers"):
        most = min(len(examples), room, _MOST_DOTS)
        return np.unique(np.linspace(0, len(examples) - 1, most).round().astype(np.int64))
    if facts.kind == "labels":  # of several a picture there is no matrix
        return np.zeros(0, dtype=np.int64)
    bad = all_mistakes(facts, examples.targets, forecast.raw)[:room]
    good = right(facts, examples.targets, forecast.raw)
    codes = examples.targets[good]
    few = [good[codes == code][:_RIGHT_ONES] for code in np.unique(codes)]
    return np.sort(np.concatenate([bad, *few])[:room].astype(np.int64))


def _tile(spec: PictureSpec) -> tuple[int, int]:
    shrink = min(1.0, _LARGEST_SIDE / max(spec.height, spec.width))
    return max(1, round(spec.width * shrink)), max(1, round(spec.height * shrink))
