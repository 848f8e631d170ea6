"""The runs in a folder, as a page with a line for each."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path

from pixelfit.display import clock
from pixelfit.errors import RunError
from pixelfit.live.pages import policy, rendered, report_of, style
from pixelfit.live.server import HTML, Answer
from pixelfit.metrics import TITLES, shown
from pixelfit.report.targets import view_of
from pixelfit.runs import RunFolder
from pixelfit.types import TASK_WORDS, Json

_MOST = 500
_DAMAGED = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    OSError,
    RunError,
)  # what a record that is not as it should be leads to


class RunList:
    """Serves a list of the runs in a folder, and their reports.

    Raises:
        RunError: the folder is no run, and there is none in it or in its folders.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not folder.is_dir():
            raise RunError(f"{folder} is no folder; give a run folder, or a folder with runs in it.")
        if not self._runs():
            raise RunError(f"There is no run in {folder} or in the folders in it (a run folder has a file run.json).")

    def get(self, name: str) -> Answer | None:
        """The list, or a report by its run's key."""
        if name == "":
            runs = self._runs()
            rows = [_row(key, run, self._name(run.path)) for key, run in list(runs.items())[:_MOST]]
            page = rendered("runs.html.j2", folder=str(self._folder), rows=rows, more=max(0, len(runs) - _MOST))
            return Answer(page, HTML, policy(None))
        if name == "style.css":
            return style()
        run = self._runs().get(name.removesuffix(".html")) if name.endswith(".html") else None
        return None if run is None else report_of(run)

    def post(self, name: str) -> Answer | None:
        """Nothing can be done here."""
        return None

    def _runs(self) -> Mapping[str, RunFolder]:
        """The runs that there are now, newest first, each under a key that says nothing of its path."""
        files = [file for pattern in ("run.json", "*/run.json", "*/*/run.json") for file in self._folder.glob(pattern)]
        newest_first = sorted(files, key=lambda file: (-_written(file), str(file)))
        return {
            hashlib.sha256(str(file).encode("utf-8", "surrogateescape")).hexdigest()[:16]: RunFolder(file.parent)
            for file in newest_first
        }

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._folder)) if path != self._folder else path.resolve().name


def _written(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:  # its run has just been removed
        return 0.0


def _row(key: str, run: RunFolder, name: str) -> Json:
    """What the list says of a run; of one that is damaged, just that."""
    begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(_written(run.path / "run.json")))
    row = {"key": key, "name": name, "begun": begun, "report": run.report_file.is_file(), "figures": None, "state": ""}
    try:
        row |= _asked(run)
        scores = run.read_if_there("scores.json")
        if scores is None:
            return row | {"state": "not finished"}
        return row | {"figures": _figures(run, scores), "took": clock(scores["wall_s"])}
    except _DAMAGED:
        return {"data": "", "task": "", "trials": "", "took": ""} | row | {"figures": None, "state": "its records are damaged"}


def _asked(run: RunFolder) -> Json:
    """What the run is about, from what is written before the search."""
    run.read("run.json")
    facts = run.read_if_there("facts.json") or {"data": "", "task": ""}
    trials = sum(1 for _ in run.path.glob("trials/*/trial.json"))
    return {"data": str(facts["data"]), "task": TASK_WORDS.get(facts["task"], facts["task"]), "trials": f"{trials:,}", "took": ""}


def _figures(run: RunFolder, scores: Json) -> Json:
    """The figure that the report's summary speaks of, with its interval, beside the baseline's."""
    facts, options = run.read("facts.json"), run.read("run.json")["options"]
    metric = facts["metric"] if options.get("metric") else view_of(facts).headline
    value = scores["test"][metric]
    return {
        "metric": TITLES[metric],
        "value": shown(metric, value["value"]),
        "interval": f"{shown(metric, value['low'])} – {shown(metric, value['high'])}",
        "baseline": shown(metric, scores["baseline"][metric]["value"]),
    }
