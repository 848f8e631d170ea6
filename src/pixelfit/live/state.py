"""What has happened in a run until now, as the live page asks for it."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pixelfit.display import clock, scored
from pixelfit.live.stop import StopButton
from pixelfit.metrics import TITLES, cost_title, shown, watched
from pixelfit.report.plots import COLOURS
from pixelfit.types import Json, Trial

MESSAGES = 30  # the latest
TRIALS = 30  # the latest, in the table
POINTS = 400  # in each line and of all dots: more hide one another
CURVES = 5  # of the best trials
_RUNNING = COLOURS[4]
# The trial under way, and the best ones.
LINE_COLOURS = (_RUNNING, *(colour for colour in COLOURS if colour != _RUNNING))[: 1 + CURVES]
_LONGEST = 400  # characters of a message
_MINUTES_FROM_S = 600.0  # longer runs have their chart in minutes
_LOWEST = 1e-5  # of the largest score, at the foot of a logarithmic axis
_UNITS = {"rmse": "target's unit", "mae": "target's unit", "nrmse": "standard deviations", "nmae": "standard deviations"}


@dataclass(frozen=True)
class Look:
    """A validation score after so many epochs."""

    epoch: float
    score: float


@dataclass(frozen=True)
class Ended:
    """A trial that has ended, and when, in seconds since the start."""

    trial: Trial
    at: float


@dataclass(frozen=True)
class Curve:
    """A trial's looks at the validation set."""

    trial: Trial
    looks: Sequence[Look]


@dataclass(frozen=True)
class Running:
    """A trial under way, with its looks at the validation set fold by fold."""

    number: int
    title: str
    looks: dict[int, list[Look]]
    folds: int = 1
    fraction: float = 0.0
    detail: str = ""


@dataclass(frozen=True)
class Result:
    """What a finished run has come to."""

    rows: Sequence[tuple[str, str, str, str]]  # metric, value, 95 % interval, the baseline's value
    pictures: int
    report: str
    took_s: float
    interrupted: bool


class LiveState:
    """A Progress that remembers. Its methods take a lock and assign; all words and lists are made when a page asks."""

    def __init__(self, source: str, *, budget_s: float | None, started: float, button: StopButton) -> None:
        self.source = source
        self._budget_s, self._started, self._button = budget_s, started, button
        self._lock = threading.Lock()
        self._messages: deque[tuple[float, str]] = deque(maxlen=MESSAGES)
        self._counting: tuple[str, int, int] | None = None
        self._running: dict[int, Running] = {}
        self._ended: list[Ended] = []
        self._curves: list[Curve] = []  # of the best trials, best first
        self._best: Trial | None = None
        self._result: Result | None = None
        self._error: str | None = None

    def say(self, text: str) -> None:
        """Remember the line."""
        with self._lock:
            self._messages.append((self._elapsed(), text[:_LONGEST] + ("…" if len(text) > _LONGEST else "")))

    def went_before(self, seconds: float) -> None:
        """Count the seconds that the run took before it was broken off."""
        with self._lock:
            self._started -= seconds

    def count(self, title: str, done: int, total: int) -> None:
        """Remember how far the work under way has come."""
        with self._lock:
            self._counting = (title, done, total) if done < total else None

    def start_trial(self, number: int, title: str) -> None:
        """Remember a trial under way; from the first on the search can be stopped."""
        self._button.arm()
        with self._lock:
            self._running[number] = Running(number, title, {})

    def advance_trial(self, number: int, fraction: float, detail: str) -> None:
        """Remember how far the trial has come."""
        with self._lock:
            if number in self._running:
                self._running[number] = replace(self._running[number], fraction=fraction, detail=detail)

    def check_trial(self, number: int, epoch: float, score: float, *, fold: int, folds: int) -> None:
        """Remember a point of the trial's curve."""
        with self._lock:
            if number in self._running and math.isfinite(score):
                self._running[number].looks.setdefault(fold, []).append(Look(epoch, score))
                self._running[number] = replace(self._running[number], folds=folds)

    def end_trial(self, trial: Trial, *, best: Trial | None) -> None:
        """Remember the trial, with its curve if it is among the best."""
        with self._lock:
            running = self._running.pop(trial.number, None)
            looks = mean_looks(list(running.looks.values())) if running is not None else ()
            if looks and trial.score is not None:
                self._curves = rank_curves([*self._curves, Curve(trial, looks)])[:CURVES]
            self._ended.append(Ended(trial, self._elapsed()))
            self._best = best

    def finish(self, result: Result) -> None:
        """The run has come to its end."""
        with self._lock:
            self._result, self._running, self._counting = result, {}, None

    def fail(self, sentence: str) -> None:
        """The run has ended without a result."""
        with self._lock:
            self._error, self._running, self._counting = sentence[:_LONGEST], {}, None

    def stop(self) -> bool:
        """End the search as Ctrl-C does; False if there is nothing to stop any more, or not yet."""
        return self._button.press()

    @property
    def over(self) -> bool:
        """Whether nothing will change any more."""
        return self._result is not None or self._error is not None

    def to_json(self) -> Json:
        """Everything that the page shows, of a bounded size."""
        with self._lock:
            messages, counting, best = list(self._messages), self._counting, self._best
            # Of several the oldest, which has the most to show.
            running, others = next(iter(self._running.values()), None), len(self._running) - 1
            ended, curves, result, error = list(self._ended), list(self._curves), self._result, self._error
            looks = [list(part) for part in running.looks.values()] if running is not None else []
        elapsed = result.took_s if result is not None else self._elapsed()
        metric = next((next(iter(one.trial.metrics)) for one in ended if one.trial.metrics), None)
        span_s = max(elapsed, self._budget_s or 0.0)
        return {
            "phase": self._phase(result, error, bool(ended or running)),
            "stoppable": self._button.ready,
            "clock": self._clock(elapsed),
            "counting": _counting(counting),
            "trial": _running(running, others),
            "best": None if best is None else _best(best),
            "counts": _counts(ended),
            "metric": None if metric is None else TITLES[metric],
            "charts": None
            if metric is None
            else {**_history(ended, metric, span_s), "curves": _curves(curves, running, looks, metric)},
            "trials": [_row(one, best) for one in reversed(ended[-TRIALS:])],
            "messages": [{"at": clock(at), "text": text} for at, text in reversed(messages)],
            "result": None if result is None else _result(result),
            "error": error,
        }

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _phase(self, result: Result | None, error: str | None, searching: bool) -> str:
        if error is not None:
            return "failed"
        if result is not None:
            return "finished"
        if self._button.pressed:
            return "stopping"
        return "search" if searching else "data"

    def _clock(self, elapsed: float) -> Json:
        if self._budget_s is None:
            return {"left": None, "elapsed": clock(elapsed), "budget": None, "share": None}
        return {
            "left": clock(max(0.0, self._budget_s - elapsed)),
            "elapsed": clock(elapsed),
            "budget": clock(self._budget_s),
            "share": round(min(1.0, elapsed / self._budget_s), 4),
        }


def mean_looks(folds: Sequence[Sequence[Look]]) -> tuple[Look, ...]:
    """The looks, averaged over those folds that were looked at as often as the first."""
    alike = [fold for fold in folds if len(fold) == len(folds[0])]
    return tuple(
        Look(float(np.mean([look.epoch for look in same])), float(np.mean([look.score for look in same])))
        for same in zip(*alike, strict=True)
    )


def axis_title(metric: str, *, ranking: bool) -> str:
    """What a score is called on an axis, with its unit if it has one; ``ranking``: the one that trials are ranked by."""
    name = cost_title(metric) if ranking else TITLES[watched(metric)]
    unit = _UNITS.get(metric if ranking else watched(metric))
    return f"validation {name}" + (f" ({unit})" if unit else "")


def rank_curves(curves: Sequence[Curve]) -> list[Curve]:
    """Those of the best trials first."""
    return sorted(curves, key=lambda curve: math.inf if curve.trial.score is None else curve.trial.score)


def _counting(counting: tuple[str, int, int] | None) -> Json:
    if counting is None:
        return None
    title, done, total = counting
    return {"title": title[:_LONGEST], "share": round(done / total, 4)}


def _running(running: Running | None, others: int) -> Json:
    if running is None:
        return None
    return {
        "name": f"#{running.number} {running.title}" + (f", and {others} more" if others else ""),
        "fraction": round(running.fraction, 4),
        "detail": running.detail[:_LONGEST],
    }


def _best(best: Trial) -> Json:
    name = next(iter(best.metrics))
    others = scored(best).split(", ")[1:]
    return {
        "name": f"#{best.number} {best.family}, {best.purpose}",
        "metric": TITLES[name],
        "value": shown(name, best.metrics[name]),
        "others": others,
    }


def _counts(ended: Sequence[Ended]) -> Json:
    failed = sum(one.trial.state == "failed" for one in ended)
    return {"ended": len(ended), "failed": failed}


def _row(one: Ended, best: Trial | None) -> Json:
    trial = one.trial
    return {
        "name": f"#{trial.number} {trial.family}",
        "purpose": trial.purpose if trial.state == "complete" else f"{trial.purpose}, {trial.state}",
        "score": None if trial.score is None else shown(next(iter(trial.metrics)), next(iter(trial.metrics.values()))),
        "took": f"{trial.seconds:.1f} s" if trial.seconds < 100 else clock(trial.seconds),
        "error": None if trial.error is None else trial.error[:_LONGEST],
        "best": best is not None and best.number == trial.number,
    }


def _result(result: Result) -> Json:
    return {
        "rows": [list(row) for row in result.rows],
        "pictures": f"{result.pictures:,}",
        "report": result.report,
        "took": clock(result.took_s),
        "interrupted": result.interrupted,
    }


def _history(ended: Sequence[Ended], metric: str, span_s: float) -> Json:
    """The dots of all trials, the best score over time, and what stands at the axes."""
    minutes = span_s > _MINUTES_FROM_S
    good = [(one.at / (60 if minutes else 1), one.trial, one.trial.score) for one in ended if one.trial.score is not None]
    lowest = _lowest([score for _, _, score in good])
    # In the order in which they first appear, as in the report.
    families = {
        name: COLOURS[place % len(COLOURS)] for place, name in enumerate(dict.fromkeys(one.trial.family for one in ended))
    }
    dots = [good[place] for place in _some(len(good))]
    steps = _steps([(at, max(score, lowest)) for at, _, score in good])
    scores = [max(score, lowest) for _, _, score in dots]
    scored_families = {trial.family for _, trial, _ in good}
    return {
        "time": f"{'minutes' if minutes else 'seconds'} since the start",
        "score": axis_title(metric, ranking=True),
        "families": [{"name": name, "colour": colour} for name, colour in families.items() if name in scored_families],
        "dots": {
            "x": [round(at, 2) for at, _, _ in dots],
            "y": scores,
            "colour": [families[trial.family] for _, trial, _ in dots],
            "trial": [f"#{trial.number} {trial.family}" for _, trial, _ in dots],
            "how": [f"{trial.purpose}, {trial.state}" for _, trial, _ in dots],
        },
        "best": {"x": [round(at, 2) for at, _ in steps], "y": [score for _, score in steps]},
        "ranges": _ranges([at for at, _, _ in dots], scores),
    }


def _steps(scores: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The best score until then, where it changes and at the end."""
    changes: list[tuple[float, float]] = []
    for at, score in scores:
        if not changes or score < changes[-1][1]:
            changes.append((at, score))
    if scores:
        changes.append((scores[-1][0], changes[-1][1]))
    return [changes[place] for place in _some(len(changes))]


def _curves(best: Sequence[Curve], running: Running | None, looks: Sequence[Sequence[Look]], metric: str) -> Json:
    """A running trial's curve, in the fold that it is in, and those of the best trials, each a line of its own."""
    drawn: list[tuple[str, Sequence[Look]]] = [(f"#{one.trial.number} {one.trial.family}", one.looks) for one in best]
    if running is None or not looks:
        drawn.insert(0, ("", ()))
    else:
        fold = f" (fold {len(looks)} of {running.folds})" if running.folds > 1 else ""
        drawn.insert(0, (f"#{running.number} under way{fold}", looks[-1]))
    drawn += [("", ())] * (len(LINE_COLOURS) - len(drawn))  # lines of trials that are no longer among the best go away
    lines = [_line(name, colour, part) for (name, part), colour in zip(drawn, LINE_COLOURS, strict=True)]
    x, y = ([value for line in lines for value in line[axis]] for axis in "xy")
    return {"title": axis_title(metric, ranking=False), "lines": lines, "ranges": _ranges(x, y)}


def _line(name: str, colour: str, looks: Sequence[Look]) -> Json:
    kept = [looks[place] for place in _some(len(looks))]
    lowest = _lowest([look.score for look in kept])
    x, y = [round(look.epoch, 2) for look in kept], [max(look.score, lowest) for look in kept]
    return {"name": name, "colour": colour, "x": x, "y": y}


def _lowest(scores: Sequence[float]) -> float:
    """What a score of zero becomes on a logarithmic axis."""
    return _LOWEST * (max(scores, default=0.0) or 1.0)


def _ranges(x: Sequence[float], y: Sequence[float]) -> Json:
    """What the axes of these points span: from 0 and, logarithmic, with room for the dots; None without points."""
    if not x:
        return None
    margin = 1.0 + 0.15 * max(0.2, math.log10(max(y) / min(y)))
    return {"x": [-0.02 * max(x), 1.04 * max(x) or 1.0], "y": [min(y) / margin, max(y) * margin]}


def _some(count: int) -> Sequence[int]:
    """Places of at most ``POINTS`` of so many things, evenly spread, the first and the last among them."""
    if count <= POINTS:
        return range(count)
    return [int(place) for place in np.linspace(0, count - 1, POINTS).round()]
