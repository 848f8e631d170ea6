"""What the model looks at: parts of a picture are covered one after the other, and the prediction watched."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from pixelfit import metrics
from pixelfit.data.targets import shown_targets
from pixelfit.mistakes import legible
from pixelfit.predictor import Predictor
from pixelfit.types import Array, Examples, Facts, Floats, Forecast, Picture
from pixelfit.words import value_words

_PATCHES = 7  # across a picture; they overlap by half where time allows
_AT_ONCE = 64  # covered pictures in one prediction
_FEWEST_PICTURES = 2
_LEAST_PROBABILITY = 1e-6


def saliency(
    predictor: Predictor,
    examples: Examples,
    forecast: Forecast,
    asked: Sequence[tuple[str, int]],
    facts: Facts,
    *,
    seconds: float,
) -> tuple[tuple[Picture, ...], str]:
    """Pictures with the effect of covering each part of them, and why there are none if there are none.

    Occlusion (Zeiler & Fergus 2014, arXiv:1311.2901) by Captum, of the whole final model and so of every family: a patch of
    the pictures' mean brightness goes over the picture. For numbers the effect is on the predicted value, for labels on the
    log-odds of the predicted one. As many of the asked (kind, row) pairs are looked at as the seconds allow.
    """
    if seconds <= 0:
        return (), "the budget was too short to look"
    if not asked:
        return (), "there was no picture to look at"
    rows = examples.rows[[row for _, row in asked]]
    mean = examples.store[rows].reshape(-1, examples.store.shape[3]).mean(axis=0)
    patch = [max(1, round(side / _PATCHES)) for side in examples.store.shape[1:3]]
    predictor.raw(examples.store, rows[:1])  # the first prediction takes longer than others
    many = np.resize(rows, _AT_ONCE)
    began = time.perf_counter()
    predictor.raw(examples.store, many)
    room = seconds / max(1e-9, (time.perf_counter() - began) / _AT_ONCE)  # predictions
    strides = next((each for each in (_halves(patch), patch) if _places(examples, patch, each) * _FEWEST_PICTURES <= room), None)
    if strides is None:
        return (), "the model is too slow to look in the time that the budget left"
    asked = _first_of_each(asked, int(room // _places(examples, patch, strides)))
    found = [_picture(predictor, examples, forecast, kind, row, facts, (mean, patch, strides)) for kind, row in asked]
    return tuple(found), ""


def _halves(patch: Sequence[int]) -> list[int]:
    return [max(1, side // 2) for side in patch]


def _places(examples: Examples, patch: Sequence[int], strides: Sequence[int]) -> int:
    """How many predictions one picture takes."""
    sides = zip(examples.store.shape[1:3], patch, strides, strict=True)
    return 1 + int(np.prod([1 + -(-(side - size) // stride) for side, size, stride in sides]))


def _first_of_each(asked: Sequence[tuple[str, int]], most: int) -> list[tuple[str, int]]:
    """At most so many, of each kind about as many."""
    kinds = list(dict.fromkeys(kind for kind, _ in asked))
    queues = [[each for each in asked if each[0] == kind] for kind in kinds]
    mixed = [queue[place] for place in range(len(asked)) for queue in queues if place < len(queue)]
    kept = mixed[:most]
    return [each for each in asked if each in kept]


def _picture(
    predictor: Predictor,
    examples: Examples,
    forecast: Forecast,
    kind: str,
    row: int,
    facts: Facts,
    cover: tuple[Array, Sequence[int], Sequence[int]],
) -> Picture:
    from captum.attr import Occlusion

    mean, patch, strides = cover
    original = examples.store[examples.rows[row]]
    place = _place(facts, examples.targets[row], forecast.raw[row])
    value = _VALUES[facts.kind]

    def predicted(pictures: torch.Tensor) -> torch.Tensor:
        stored = pictures.permute(0, 2, 3, 1).round() if original.dtype == np.uint8 else pictures.permute(0, 2, 3, 1)
        raw = predictor.raw(np.ascontiguousarray(stored.numpy().astype(original.dtype)))
        return torch.from_numpy(np.asarray(value(raw, place), dtype=np.float64))

    channels = original.shape[2]
    effects = Occlusion(predicted).attribute(
        torch.from_numpy(original.astype(np.float32)).permute(2, 0, 1)[None],
        sliding_window_shapes=(channels, *patch),
        strides=(channels, *strides),
        baselines=torch.from_numpy(mean.astype(np.float32))[None, :, None, None].expand(1, channels, *original.shape[:2]),
        perturbations_per_eval=_AT_ONCE,
    )
    # Positive where the part as it is raises the prediction over what it is when covered.
    heat: Array = effects[0].numpy().mean(axis=0)
    most = float(np.abs(heat).max())
    true = shown_targets(facts, examples.targets[[row]])[0]
    said = shown_targets(facts, legible(facts, metrics.decided(facts, forecast.raw[[row]])))[0]
    note = _note(facts, place, most)
    return Picture(kind, original, examples.refs[row], true, said, note, heat / most if most > 0 else heat)


def _place(facts: Facts, target: Array, raw: Array) -> int:
    """Which of several numbers, classes or labels is asked about."""
    if facts.kind == "number":
        return 0
    if facts.kind == "numbers":
        return int((np.abs(raw - target) / facts.target_scales).argmax())
    return int(raw.argmax())


def _odds(raw: Floats, place: int) -> Array:
    shares = np.clip(raw[:, place].astype(np.float64), _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    return np.asarray(np.log(shares / (1 - shares)))


_VALUES: dict[str, Callable[[Array, int], Array]] = {
    "number": lambda raw, place: raw,
    "numbers": lambda raw, place: raw[:, place],
    "label": _odds,
    "labels": _odds,
}


def _note(facts: Facts, place: int, most: float) -> str:
    if facts.kind == "number":
        return f"a patch moves it by up to {value_words(float(legible(facts, np.array([most]))[0]))}"
    if facts.kind == "numbers":
        moved = legible(facts, np.full((1, len(facts.target_names)), most))[0, place]
        return f"a patch moves {facts.target_names[place]} by up to {value_words(float(moved))}"
    assert facts.classes is not None
    return f"a patch moves the log-odds of {facts.classes[place]} by up to {most:.2g}"
