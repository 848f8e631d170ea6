"""A run on the terminal: time left, the trials under way, the best so far; plain lines where there is no terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pixelfit.metrics import TITLES, percent, shown
from pixelfit.progress import Silent
from pixelfit.types import Scores, Trial

_REFRESH = 4  # a second: more would take time from training
_MOST_BARS = 4  # of trials that run side by side
_MOST_ROWS = 12  # of several targets or labels
LABEL_HEAD = ("label", "pictures", "precision", "recall", "F1", "average precision")
_ENDS = "Ctrl-C ends the search and keeps the best model."
_LEAST_COUNTED = 200  # pieces: less work is over before a bar could be read


class Display:
    """Shows a run's progress; use it as a context manager around ``fit``."""

    def __init__(self, console: Console, *, budget_s: float | None, started: float, ends: str = _ENDS) -> None:
        self._console = console
        self._budget_s, self._started, self._ends = budget_s, started, ends
        self._trials: dict[int, tuple[str, float, str]] = {}  # those under way: what, how far, and a detail
        self._best: Trial | None = None
        self._counting: tuple[str, int, int] | None = None
        self._live = Live(
            get_renderable=self._panel, console=console, refresh_per_second=_REFRESH, transient=True, redirect_stderr=False
        )

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(Text(text))

    def went_before(self, seconds: float) -> None:
        """Count the seconds that the run took before it was broken off."""
        self._started -= seconds

    def count(self, title: str, done: int, total: int) -> None:
        """Move the bar of the work under way."""
        open_end = total == 0 and done >= _LEAST_COUNTED
        self._counting = (title, done, total) if open_end or (done < total and total >= _LEAST_COUNTED) else None

    def start_trial(self, number: int, title: str) -> None:
        """Show that a trial is under way."""
        self._trials[number] = (title, 0.0, "")

    def advance_trial(self, number: int, fraction: float, detail: str) -> None:
        """Move the trial's bar."""
        if number in self._trials:
            self._trials[number] = (self._trials[number][0], fraction, detail)

    def check_trial(self, number: int, epoch: float, score: float, *, fold: int, folds: int) -> None:
        """Nothing more: the trial's detail tells the score."""

    def end_trial(self, trial: Trial, *, best: Trial | None) -> None:
        """Print the trial's line, and remember the best."""
        self._trials.pop(trial.number, None)
        self._best = best
        line = Text(f"{self._clock():>7}  #{trial.number:<3} {trial.family:<9} {trial.seconds:6.1f} s  ")
        if trial.score is None:
            line.append(f"failed: {trial.error}", style="red")
        else:
            line.append(scored(trial))
            if trial.state != "complete":
                line.append(f"  {trial.state}", style="dim")
            if best is not None and best.number == trial.number:
                line.append("  best so far", style="bold green")
        self._console.print(line, soft_wrap=True)

    def _clock(self) -> str:
        return clock(time.monotonic() - self._started)

    def _panel(self) -> RenderableType:
        rows = Table.grid(padding=(0, 2))
        elapsed = time.monotonic() - self._started
        if self._budget_s is not None:
            left = max(0.0, self._budget_s - elapsed)
            rows.add_row("Time left", ProgressBar(self._budget_s, min(elapsed, self._budget_s), width=30), clock(left))
        else:
            rows.add_row("Time", "", clock(elapsed))
        if self._counting is not None:
            title, done, total = self._counting
            bar, share = (ProgressBar(total, done, width=30), f"{done / total:.0%}") if total else ("", f"{done:,}")
            rows.add_row(Text(title), bar, share)
        under_way = list(self._trials.items())
        for number, (title, fraction, detail) in under_way[:_MOST_BARS]:
            rows.add_row(f"Trial {number}", ProgressBar(1.0, fraction, width=30), Text(f"{title}  {detail}"))
        if len(under_way) > _MOST_BARS:
            rows.add_row("", "", Text(f"and {len(under_way) - _MOST_BARS} more trials under way"))
        if self._best is not None:
            rows.add_row("Best so far", "", Text(f"#{self._best.number} {self._best.family}, {scored(self._best)}"))
        return Group(rows, Text(self._ends, style="dim"))


class Lines(Silent):
    """Prints what is said, and no bars: for what goes on without an end."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(Text(text), soft_wrap=True)


def scored(trial: Trial) -> str:
    """A trial's validation metrics in a line, the one that ranks first."""
    first = next(iter(trial.metrics))
    others = [name for name in ("accuracy", "r2", "mean_r2", "mean_ap") if name in trial.metrics and name != first]
    return ", ".join(f"{TITLES[name]} {shown(name, trial.metrics[name])}" for name in (first, *others))


def sureness_lines(scores: Scores) -> list[str]:
    """How sure the final model may be, as the test set tells it: a line, or none where intervals could not be calibrated."""
    if scores.reliability is not None:
        error, before = scores.reliability.error, scores.reliability.error_before
        return [f"Calibration error {percent(error)} ({percent(before)} before calibration)"]
    if scores.targets:
        return _coverage_of_each(scores)
    if scores.intervals is None:
        return []
    part = scores.intervals
    return [
        f"{100 * part.coverage:g} % intervals: covered {percent(part.covered.value)} of the unseen pictures, "
        f"mean width {shown('mae', part.mean_width)}"
    ]


def _coverage_of_each(scores: Scores) -> list[str]:
    parts = [one.intervals for one in scores.targets if one.intervals is not None]
    if not parts:
        return []
    shares = [part.covered.value for part in parts]
    return [
        f"{100 * parts[0].coverage:g} % intervals, each target for itself: covered {percent(min(shares))} to "
        f"{percent(max(shares))} of the unseen pictures"
    ]


def each_table(scores: Scores) -> tuple[tuple[str, ...], list[tuple[str, ...]], int]:
    """For several numbers or labels a picture: a head, a row of figures for each, and how many more there are than shown."""
    targets = [
        (
            one.name,
            *(shown(name, one.test[name].value) for name in ("rmse", "mae", "r2")),
            shown("rmse", one.baseline["rmse"].value),
        )
        for one in scores.targets
    ]
    labels = [
        (str(one.label), f"{one.rows:,}", *map(_share, (one.precision, one.recall, one.f1, one.average_precision)))
        for one in scores.labels
    ]
    head = ("target", "RMSE", "MAE", "R²", "baseline's RMSE") if targets else LABEL_HEAD
    rows: list[tuple[str, ...]] = [*targets, *labels]
    return head, rows[:_MOST_ROWS], max(0, len(rows) - _MOST_ROWS)


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)


def clock(seconds: float) -> str:
    """Seconds as people read a clock: ``4m05s``, ``1h02m05s``."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}h{minute:02d}m{second:02d}s" if hours else f"{minute}m{second:02d}s"
