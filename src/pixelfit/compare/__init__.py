"""Finished runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pixelfit.compare.differences import Difference, difference
from pixelfit.errors import OptionError
from pixelfit.metrics import TITLES, percent, shown
from pixelfit.report.saved import Saved, read
from pixelfit.report.targets import view_of
from pixelfit.runs import RunFolder
from pixelfit.types import TASK_WORDS, Json
from pixelfit.words import number_of

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """What several runs have in common to be told of, and how the later ones differ from the first on its test pictures.

    ``rows`` hold a name and a text for each run, empty where the run has no such thing; ``differences`` one for each run after
    the first.
    """

    runs: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    differences: tuple[Difference, ...]

    def to_json(self) -> Json:
        """The same for programs."""
        return {
            "runs": list(self.runs),
            "rows": [{"name": name, "values": list(values)} for name, values in self.rows],
            "differences": [vars(each) for each in self.differences],
        }


def compare(paths: Sequence[Path]) -> Comparison:
    """Set finished runs side by side.

    Raises:
        OptionError: fewer than two runs, or one of them twice.
        RunError: one of them is no run, not finished or damaged; the message names it.
    """
    places = [path.resolve() for path in paths]
    if len(places) < 2:
        raise OptionError("Name at least two runs to compare.")
    twice = next((path for path, place in zip(paths, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise OptionError(f"The run {twice} is named twice.")
    runs = [read(RunFolder.existing(path)) for path in paths]
    told = [_told(run) for run in runs]
    rows = tuple(
        (name, tuple(each.get(name, "") for each in parts))
        for parts in zip(*told, strict=True)
        for name in dict.fromkeys(name for each in parts for name in each)
    )
    first = runs[0]
    return Comparison(tuple(map(str, paths)), rows, tuple(difference(first, run) for run in runs[1:]))


def _told(run: Saved) -> tuple[dict[str, str], ...]:
    """What is told of one run, by name: of its data, of its scores, of how it came to be."""
    facts, scores, environment = run.facts, run.scores, run.run["environment"]
    headline = view_of(facts).headline
    metrics = {
        TITLES[name]: f"{shown(name, value['value'])} [{shown(name, value['low'])}, {shown(name, value['high'])}]"
        for name, value in sorted(scores["test"].items(), key=lambda item: item[0] != headline)
    }
    baseline = {f"baseline's {TITLES[headline]}": shown(headline, scores["baseline"][headline]["value"])}
    data = {
        "data": facts["data"],
        "task": TASK_WORDS.get(facts["task"], facts["task"]),
        "target": ", ".join(run.targets),
        "test pictures": f"{scores['rows']:,}",
    }
    how = {
        "final model": f"{number_of(len(run.members), 'trial')}: {', '.join(sorted({each['family'] for each in run.members}))}",
        "parameters": f"{sum(each['parameters'] for each in run.members):,}",
        "trials": f"{len(run.trials):,}",
        "seconds": f"{run.timeline['seconds']['scoring']:.0f}",
        "budget": "none" if run.run["budget_s"] is None else f"{run.run['budget_s']:g} s",
        "seed": str(scores["seed"]),
        "machine": f"{environment['processor']}, {number_of(environment['cores'], 'core')}, {environment['gpu'] or 'no GPU'}",
        "pixelfit": run.version,
    }
    return data, {**metrics, **baseline}, _sureness(run), how


def _sureness(run: Saved) -> dict[str, str]:
    told: dict[str, str] = {}
    for name, part in run.intervals() if run.facts["task"] == "regression" else ():
        of = f" of {name}" if run.kind == "numbers" else ""
        told[f"{100 * part['coverage']:g} % intervals{of} held"] = percent(part["covered"]["value"])
    if run.scores.get("reliability") is not None:
        told["calibration error"] = percent(run.scores["reliability"]["error"])
    return told
