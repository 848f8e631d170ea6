"""Runs in MLflow: a run with the options, scores, report and model, and below it a run a trial with its recipe and its curve."""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from pixelfit.runs import RunFolder
from pixelfit.types import Json
from pixelfit.words import choices_of

# Before mlflow is loaded: it tells its makers of its use, and tries a server that does not answer for minutes, unless it is told
# not to.
for _name, _value in (
    ("MLFLOW_DISABLE_TELEMETRY", "true"),
    ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"),
    ("MLFLOW_HTTP_REQUEST_TIMEOUT", "20"),
):
    os.environ.setdefault(_name, _value)

import mlflow  # noqa: E402
from mlflow.entities import LifecycleStage, Metric, Param  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402

from pixelfit.tracking.mlflow_model import save_model  # noqa: E402

_EXPERIMENT = "pixelfit"
_RECORD = "mlflow"  # in tracking.json
_LONGEST = 500  # characters of a parameter, in every version of MLflow
_AT_ONCE = 100  # parameters or metrics in a request
_FILES = ("report.html", "report.json", "model-card.md", "leaderboard.csv", "facts.json", "run.json", "scores.json")

for _noisy in ("mlflow", "alembic"):
    logging.getLogger(_noisy).setLevel(logging.ERROR)


class MlflowTracker:
    """Tells an MLflow server, or the database of one, of runs; which runs are whose is kept in the run folder.

    Args:
        uri: of the server or database; what ``MLFLOW_TRACKING_URI`` takes.

    Raises:
        MlflowException: it cannot be reached, or used.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client = MlflowClient(tracking_uri=uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        known = self._client.get_experiment_by_name(name)
        self._experiment = known.experiment_id if known is not None else self._client.create_experiment(name)

    def begin(self, folder: RunFolder) -> None:
        """Make the run, with the options and the data as parameters, unless there is one already."""
        record = self._record(folder)
        if record is not None and self._has(record["run"]):
            return
        run, facts = folder.read("run.json"), folder.read("facts.json")
        known = {"source": run["source"], **run["options"], "data": facts["data"], "task": facts["task"], "rows": facts["rows"]}
        made = self._client.create_run(self._experiment, run_name=folder.path.resolve().name)
        self._log(made.info.run_id, known, [])
        self._note(folder, {"run": made.info.run_id, "trials": {}, "finished": False})

    def trial(self, folder: RunFolder, number: int) -> None:
        """Make a run below it with the trial's recipe, its looks at the validation set, and its scores."""
        record = self._record(folder)
        if record is None or self._has(record["trials"].get(str(number))):
            return
        trial, history = (folder.read(f"trials/{number:04d}/{name}.json") for name in ("trial", "history"))
        if trial["state"] == "interrupted":  # it may go on, and end otherwise
            return
        made = self._client.create_run(
            self._experiment,
            run_name=f"trial {number}, {trial['family']}",
            tags={"mlflow.parentRunId": record["run"], "pixelfit.purpose": trial["purpose"], "pixelfit.state": trial["state"]},
        )
        now = int(time.time() * 1000)
        looks = [
            Metric(name, float(look[part]), now, int(look["step"]))
            for look in history or ()
            for name, part in (("training loss", "train_loss"), ("validation score", "score"))
        ]
        last = int(trial["steps"])
        ended = [Metric(f"validation {_plain(name)}", float(value), now, last) for name, value in trial["metrics"].items()]
        ended += [Metric(name, float(trial[name] or 0.0), now, last) for name in ("seconds", "epochs", "predict_ms")]
        self._log(made.info.run_id, choices_of(trial["recipe"]), [*looks, *ended])
        if trial["error"]:
            self._client.set_tag(made.info.run_id, "pixelfit.error", trial["error"])
        self._client.set_terminated(made.info.run_id, "FAILED" if trial["error"] else "FINISHED")
        self._note(folder, {**record, "trials": {**record["trials"], str(number): made.info.run_id}})

    def finish(self, folder: RunFolder) -> None:
        """Log the test scores, the report and what else people read, and the model in MLflow's own format."""
        record = self._record(folder)
        if record is None or record["finished"]:
            return
        run, scores = record["run"], folder.read("scores.json")
        now = int(time.time() * 1000)
        found = [
            Metric(f"test {_plain(name)}{end}", float(interval[part]), now, 0)
            for name, interval in scores["test"].items()
            for end, part in (("", "value"), (" low", "low"), (" high", "high"))
            if interval.get(part) is not None
        ]
        self._log(run, {}, [*found, Metric("seconds", float(scores["wall_s"]), now, 0)])
        for name in _FILES:
            if (folder.path / name).is_file():
                self._client.log_artifact(run, str(folder.path / name))
        with tempfile.TemporaryDirectory() as place:
            model = Path(place) / "model"
            save_model(folder, model)
            self._client.log_artifacts(run, str(model), "model")
        self._client.set_terminated(run, "FINISHED")
        self._note(folder, {**record, "finished": True})

    def _log(self, run: str, parameters: Mapping[str, Json], metrics: list[Metric]) -> None:
        params = [
            Param(_plain(name), str(value)[:_LONGEST])
            for name, value in parameters.items()
            if value is not None and value is not False and value != []
        ]
        for start in range(0, len(params), _AT_ONCE):
            self._client.log_batch(run, params=params[start : start + _AT_ONCE])
        for start in range(0, len(metrics), _AT_ONCE):
            self._client.log_batch(run, metrics=metrics[start : start + _AT_ONCE])

    def _has(self, run: str | None) -> bool:
        """Whether the run is still there: databases are replaced, and users delete runs."""
        if run is None:
            return False
        try:
            return bool(self._client.get_run(run).info.lifecycle_stage == LifecycleStage.ACTIVE)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False

    def _record(self, folder: RunFolder) -> dict[str, Json] | None:
        """What this server has been told of the run."""
        known = folder.read_tracking().get(f"{_RECORD}:{self._uri}")
        return None if known is None else dict(known)

    def _note(self, folder: RunFolder, record: Mapping[str, Json]) -> None:
        folder.write_tracking({**folder.read_tracking(), f"{_RECORD}:{self._uri}": dict(record)})


def _plain(name: str) -> str:
    """A name in the characters that MLflow allows."""
    return re.sub(r"[^\w\-. /]", "_", name)


__all__ = ["MlflowTracker", "mlflow"]
