"""Whether two runs can be told apart on the same test pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from pixelfit import metrics
from pixelfit.metrics import TITLES, shown
from pixelfit.report.saved import Saved
from pixelfit.report.targets import view_of
from pixelfit.types import Array, Ints, Kind

Scorer = Callable[[Ints], float]  # the metric of some rows, which may be named several times


@dataclass(frozen=True)
class Difference:
    """How a run differs from the first: a sentence, and the later run's metric minus the first one's with its 95 % interval.

    ``metric`` is None, and the figures are, where the two were not tested on the same pictures.
    """

    run: str
    sentence: str
    metric: str | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class _Tested:
    """A run's test pictures by name and target, and its columns in the order of these."""

    keys: list[tuple[str, ...]]
    columns: Mapping[str, list[str]]


def difference(first: Saved, later: Saved) -> Difference:
    """The later run's headline metric minus the first one's, by a paired bootstrap over test pictures (Efron 1979)."""
    name = str(later.folder.path)
    if first.kind != later.kind or first.targets != later.targets or first.facts["classes"] != later.facts["classes"]:
        return Difference(
            name, "It has another task, other targets or other classes than the first run: nothing to compare closely."
        )
    one, other = _tested(first), _tested(later)
    if one.keys != other.keys:
        return Difference(
            name, "It was tested on other pictures than the first run: a difference of the scores may be one of the pictures."
        )
    metric = view_of(first.facts).headline
    # The first run's deviations count for both, which may have been developed on different pictures.
    scorers = [_SCORERS[first.kind](first, tested) for tested in (one, other)]
    rows = np.arange(len(one.keys))
    rng = np.random.default_rng(0)
    samples = [rng.integers(len(rows), size=len(rows)) for _ in range(metrics.RESAMPLES)]
    value = scorers[1](rows) - scorers[0](rows)
    low, high = np.quantile([scorers[1](each) - scorers[0](each) for each in samples], (0.025, 0.975))
    return Difference(name, _sentence(metric, value, float(low), float(high)), metric, value, float(low), float(high))


def _sentence(metric: str, value: float, low: float, high: float) -> str:
    ends = sorted((abs(low), abs(high)))
    if low <= 0 <= high:
        return (
            f"On the same test pictures its {TITLES[metric]} differs from the first run's by {_signed(metric, value)} "
            f"[{_signed(metric, low)}, {_signed(metric, high)}]: they cannot be told apart."
        )
    judged = "better" if (value > 0) == (metric in metrics.SHARES) else "worse"
    apart = (
        f"{shown(metric, abs(value))} [{shown(metric, ends[0])}, {shown(metric, ends[1])}] {'higher' if value > 0 else 'lower'}"
    )
    return (
        f"On the same test pictures its {TITLES[metric]} is {apart} than the first run's: {judged}, by more than chance explains."
    )


def _signed(metric: str, value: float) -> str:
    return f"{'−' if value < 0 else '+'}{shown(metric, abs(value))}"


def _tested(run: Saved) -> _Tested:
    header, lines = run.folder.read_predictions("test")
    given = [
        place for place, name in enumerate(header) if name in ("picture", "target", *(f"target_{each}" for each in run.targets))
    ]
    lines.sort(key=lambda line: [line[place] for place in given])
    keys = [tuple(line[place] for place in given) for line in lines]
    return _Tested(keys, dict(zip(header, map(list, zip(*lines, strict=True)), strict=True)))


def _numbers(tested: _Tested, *names: str) -> Array:
    return np.array([tested.columns[name] for name in names], dtype=np.float64).T


def _of_number(run: Saved, tested: _Tested) -> Scorer:
    targets, predictions = (_numbers(tested, name)[:, 0] for name in ("target", "prediction"))
    return lambda rows: metrics.rmse(targets[rows], predictions[rows])


def _of_numbers(run: Saved, tested: _Tested) -> Scorer:
    targets, predictions = (_numbers(tested, *(f"{part}_{name}" for name in run.targets)) for part in ("target", "prediction"))
    score = partial(metrics.nrmse, scales=run.facts["target_scales"])
    return lambda rows: score(targets[rows], predictions[rows])


def _of_label(run: Saved, tested: _Tested) -> Scorer:
    hits = np.array([said == true for said, true in zip(tested.columns["prediction"], tested.columns["target"], strict=True)])
    return lambda rows: float(hits[rows].mean())


def _of_labels(run: Saved, tested: _Tested) -> Scorer:
    classes = [str(label) for label in run.facts["classes"]]
    has = np.array([[label in true.split(";") for label in classes] for true in tested.columns["target"]]).astype(np.int64)
    return metrics.resampled_mean_ap(has, _numbers(tested, *(f"p_{label}" for label in classes)))


_SCORERS: Mapping[Kind, Callable[[Saved, _Tested], Scorer]] = {
    "number": _of_number,
    "numbers": _of_numbers,
    "label": _of_label,
    "labels": _of_labels,
}
