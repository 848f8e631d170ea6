"""The one look at the sealed test set, after everything is chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pixelfit import metrics
from pixelfit.metrics import shown
from pixelfit.models.model import Model
from pixelfit.predictor import Predictor
from pixelfit.types import Array, Examples, Facts, Picture, Scores, SealedTest

WORST_SHOWN = 24


@dataclass(frozen=True)
class Evaluation:
    """The scores, and what the report shows of them."""

    scores: Scores
    examples: Examples
    raw: Array  # values (N,) or probabilities (N, classes)
    worst: tuple[Picture, ...]


def score_on_test(predictor: Predictor, baseline: Model, test: SealedTest, facts: Facts, *, seed: int) -> Evaluation:
    """Open the test set and measure the final predictor and the baseline on it. The only caller of ``SealedTest.open``."""
    examples = test.open()
    raw = predictor.raw(examples.store, examples.rows)
    baseline_raw = baseline.predict(examples.store, examples.rows)
    scores = Scores(
        test=metrics.measure_with_intervals(facts, examples.targets, raw, seed=seed),
        baseline=metrics.measure_with_intervals(facts, examples.targets, baseline_raw, seed=seed),
        rows=len(examples),
        confusion=None
        if facts.task == "regression"
        else tuple(tuple(map(int, row)) for row in metrics.confusion_matrix(examples.targets, raw)),
    )
    return Evaluation(scores, examples, raw, _worst(predictor, examples, raw, facts))


def _worst(predictor: Predictor, examples: Examples, raw: Array, facts: Facts) -> tuple[Picture, ...]:
    """The test pictures with the largest errors; for classes, the wrong ones whose true class seemed least likely."""
    labels = predictor.labels(raw)
    if facts.classes is None:
        wrongness = np.abs(raw - examples.targets)
        rows = np.argsort(-wrongness, kind="stable")[:WORST_SHOWN]
        notes = {row: f"off by {shown('mae', wrongness[row])}" for row in rows}
        true = examples.targets
    else:
        likely = raw[np.arange(len(raw)), examples.targets]
        wrong = np.flatnonzero(raw.argmax(axis=1) != examples.targets)
        rows = wrong[np.argsort(likely[wrong], kind="stable")][:WORST_SHOWN]
        notes = {row: f"{raw[row].max():.0%} sure, true class {likely[row]:.0%}" for row in rows}
        true = np.array(facts.classes)[examples.targets]
    return tuple(
        Picture("worst", examples.store[examples.rows[row]], examples.refs[row], true[row].item(), labels[row].item(), notes[row])
        for row in rows
    )
