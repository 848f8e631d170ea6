"""The served model: an exported graph, what there is to know of it, and the training pictures it may show."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path

import numpy as np

from pixelfit.data.pictures import read_head, read_picture
from pixelfit.errors import RunError
from pixelfit.graphs import INPUT, description_of, session_of
from pixelfit.metrics import LIKELY
from pixelfit.runs import Remembered, RunFolder
from pixelfit.serve.limits import RefusedError
from pixelfit.types import Array, Embedded, Json, PictureSpec
from pixelfit.words import single_precision

FORMAT = 1  # of descriptions that are understood here
_GRID = 8  # fields a side that are covered, one after the other, to see what the prediction depends on
_SHOWN = 160  # pixels a side of training pictures that are shown

Outputs = Mapping[str, Array]


class ServedModel:
    """Predicts for pictures as files bring them."""

    def __init__(self, file: Path, run: RunFolder | None, *, threads: int) -> None:
        """Read the graph in ``file``, and from its run, if that is at hand, the training pictures.

        Raises:
            RunError: the file is none that pixelfit exported, or of another version.
        """
        self._session = session_of(file, threads=threads, alone=False)
        described = description_of(self._session, file)
        if described.get("format") != FORMAT or "version" not in described:
            raise RunError(f"{file} was exported by another version of pixelfit: export it again.")
        self.description = described
        self.kind, self.version = described["kind"], described["version"]
        self.spec = PictureSpec(**described["pictures"])
        self._classes = described["classes"] or ()
        self._names = [output.name for output in self._session.get_outputs()]
        self._remembered = run.read_remembered() if run is not None and "nearest" in self._names else None
        self._range = _target_range(run) if run is not None and self.kind == "number" else None

    def about(self) -> Json:
        """What a page has to know of the model."""
        told = ("version", "run", "kind", "target_name", "target_names", "classes", "pictures", "coverage")
        return {**{name: self.description[name] for name in told}, "range": self._range}

    def size(self, content: bytes, *, most_pixels: int) -> int:
        """How many pixels the picture in a file has, which its head tells.

        Raises:
            RefusedError: it is no picture, or has too many.
        """
        if not content:
            raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, "The file is empty.")
        head = read_head(Embedded(lambda: content))
        if isinstance(head, str):
            raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, f"The file cannot be used: {head}.")
        pixels = head.height * head.width
        if pixels > most_pixels:
            raise RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The picture has {pixels / 1e6:,.0f} million pixels ({head.width} × {head.height}); "
                f"at most {most_pixels / 1e6:,.6g} million are taken.",
            )
        return pixels

    def read(self, content: bytes) -> Array:
        """A file's bytes as the picture (height, width, channels) that the graph takes.

        Raises:
            RefusedError: it is damaged, or not of the kind that the model was trained on.
        """
        picture = read_picture(Embedded(lambda: content), self.spec)
        if isinstance(picture, str):
            raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, f"The file cannot be used: {picture}.")
        return picture

    def run(self, pictures: Array) -> Outputs:
        """The graph's outputs by name, for pictures (N, height, width, channels)."""
        return dict(zip(self._names, self._session.run(None, {INPUT: pictures}), strict=True))

    def items(self, outputs: Outputs, names: Sequence[str | None]) -> list[Json]:
        """The predictions as they are answered, one a picture."""
        items = [self._item({name: values[place] for name, values in outputs.items()}) for place in range(len(names))]
        return [{"name": name, "error": None, **item} for name, item in zip(names, items, strict=True)]

    def explained(self, picture: Array) -> Json:
        """Where a picture's prediction comes from, and the training pictures that are nearest to it.

        Fields of the picture are painted over with its mean colour, one after the other; a field matters as much as that changes
        the prediction (occlusion: Zeiler & Fergus 2014, arXiv:1311.2901).
        """
        rows, columns = (min(_GRID, side) for side in picture.shape[:2])
        seen = np.repeat(picture[np.newaxis], rows * columns + 1, axis=0)
        down = np.linspace(0, picture.shape[0], rows + 1).round().astype(int)
        across = np.linspace(0, picture.shape[1], columns + 1).round().astype(int)
        mean = picture.mean(axis=(0, 1)).astype(picture.dtype)
        for place in range(rows * columns):
            row, column = divmod(place, columns)
            seen[place + 1, down[row] : down[row + 1], across[column] : across[column + 1]] = mean
        outputs = self.run(seen)
        of, values = self._watched(outputs)
        changes = values[0] - values[1:]
        most = np.abs(changes).max()
        (item,) = self.items({name: each[:1] for name, each in outputs.items()}, [None])
        return {
            "prediction": item,
            "looked_at": None
            if most <= 0
            else {"rows": rows, "columns": columns, "values": [round(float(change / most), 3) for change in changes]},
            "of": of,
            "nearest": self._nearest(outputs),
        }

    def _item(self, values: Mapping[str, Array]) -> dict[str, Json]:
        item: dict[str, Json] = {}
        if "probabilities" in values:
            item = self._labels(values["probabilities"]) if self.kind == "labels" else self._label(values["probabilities"])
        else:
            for name in ("prediction", "low", "high"):
                if name in values:
                    item[name] = self._numbers(values[name])
        if "strangeness" in values:
            item |= {"unlike": bool(values["strangeness"] > 1), "strangeness": single_precision(values["strangeness"])}
        return item

    def _numbers(self, values: Array) -> Json:
        if self.kind == "number":
            return single_precision(values)
        return {name: single_precision(value) for name, value in zip(self.description["target_names"], values, strict=True)}

    def _label(self, shares: Array) -> dict[str, Json]:
        ordered = self._ordered(shares)
        item: dict[str, Json] = {"prediction": ordered[0][0], "probabilities": ordered}
        threshold = self.description["set_threshold"]
        if threshold is not None:
            item["set"] = [label for place, (label, share) in enumerate(ordered) if place == 0 or share >= threshold]
        return item

    def _labels(self, shares: Array) -> dict[str, Json]:
        return {
            "prediction": [label for label, share in zip(self._classes, shares, strict=True) if share >= LIKELY],
            "probabilities": self._ordered(shares),
        }

    def _ordered(self, shares: Array) -> list[Json]:
        return [[self._classes[place], single_precision(shares[place])] for place in np.argsort(-shares, kind="stable").tolist()]

    def _watched(self, outputs: Outputs) -> tuple[str, Array]:
        """The one number of each picture's prediction whose changes are shown, and what it is called where it needs a name."""
        if "probabilities" in outputs:
            place = int(outputs["probabilities"][0].argmax())
            return str(self._classes[place]), outputs["probabilities"][:, place].astype(np.float64)
        if self.kind == "numbers":
            return self.description["target_names"][0], outputs["prediction"][:, 0].astype(np.float64)
        return "", outputs["prediction"].astype(np.float64)

    def _nearest(self, outputs: Outputs) -> list[Json]:
        if self._remembered is None:
            return []
        places = outputs["nearest"][0].tolist()
        return [
            {
                "name": self._remembered.names[place],
                "target": self._remembered.targets[place],
                "picture": self._data_address(self._remembered, place),
            }
            for place in places
        ]

    @staticmethod
    def _data_address(remembered: Remembered, place: int) -> str:
        file = io.BytesIO()
        picture = remembered.picture(place)
        picture.thumbnail((_SHOWN, _SHOWN))
        picture.save(file, "PNG")
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _target_range(run: RunFolder) -> Json:
    facts = run.read_if_there("facts.json")
    return None if facts is None else facts["target_range"]
