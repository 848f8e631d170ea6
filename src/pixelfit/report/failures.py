"""Which classes are taken for which, and the pictures behind each number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pixelfit.report.gallery import Tiles
from pixelfit.runs import RunFolder
from pixelfit.types import Json

_MOST_IN_MATRIX = 25  # classes
_MOST_PAIRS = 20
_MOST_IN_CELL = 60  # pictures


def confusion(scores: Json) -> Json:
    """The matrix with a shade for each cell, or for many classes the most confused pairs; None where there are no classes."""
    if scores["confusion"] is None:
        return None
    table = np.array(scores["confusion"])
    labels = [str(label) for label in scores["classes"]]
    if len(labels) <= _MOST_IN_MATRIX:
        shares = table / np.maximum(1, table.sum(axis=1, keepdims=True))
        rows = [
            {
                "label": label,
                "cells": [{"count": int(count), "shade": round(float(share), 3)} for count, share in zip(*row, strict=True)],
            }
            for label, *row in zip(labels, table, shares, strict=True)
        ]
        return {"labels": labels, "rows": rows, "pairs": None}
    wrong = table - np.diag(np.diag(table))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_PAIRS]
    pairs = [(int(i), int(j), int(wrong[i, j])) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)]
    return {"labels": labels, "rows": None, "pairs": [pair for pair in pairs if pair[2]]}


def cells(folder: RunFolder, scores: Json, tiles: Tiles | None) -> Json:
    """For each cell of the matrix, ``true-predicted``, its pictures: offsets of the tile, name, how sure; None without tiles."""
    if tiles is None or scores["confusion"] is None:
        return None
    places = {str(label): place for place, label in enumerate(scores["classes"])}
    found: dict[str, list[Sequence[Json]]] = {}
    header, lines = folder.read_predictions("test")
    picture, target, prediction = (header.index(name) for name in ("picture", "target", "prediction"))
    for row, line in enumerate(lines):
        if row not in tiles.place:
            continue
        cell = found.setdefault(f"{places[line[target]]}-{places[line[prediction]]}", [])
        if len(cell) < _MOST_IN_CELL:
            cell.append((*tiles.offset(row), line[picture]))
    return {
        "width": tiles.width,
        "height": tiles.height,
        "labels": [str(label) for label in scores["classes"]],
        "cells": found,
    }
