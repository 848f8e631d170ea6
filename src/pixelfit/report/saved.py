"""What a finished run has saved, read once for the report and its companions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pixelfit.runs import RunFolder
from pixelfit.types import METRICS_OF, Json, Kind, kind_of


@dataclass(frozen=True)
class Saved:
    """A run's records as their files have them; None where the run is older than the file."""

    folder: RunFolder
    run: Json
    facts: Json
    data: Json
    scores: Json
    timeline: Json
    final: Json
    trials: Sequence[Json]
    weights: Mapping[int, float]  # of the trials that the final model is made of
    pictures: Json
    suspects: Json
    evidence: Json
    augmentation: Json
    importance: Json
    search: Json = None

    @property
    def kind(self) -> Kind:
        """What a picture's target is."""
        return kind_of(self.facts["task"], several=bool(self.facts.get("target_names")))

    @property
    def ranked_by(self) -> str:
        """What trials were ranked by; a run from before there was a choice used the task's own metric."""
        return str(self.facts.get("metric", METRICS_OF[self.facts["task"]][0]))

    @property
    def targets(self) -> list[str]:
        """The names of the targets."""
        return list(self.facts.get("target_names") or [self.facts["target_name"]])

    @property
    def folds(self) -> int:
        """In how many folds the development data were; a run from before there were folds had a single validation set."""
        return int(self.data.get("folds", 1))

    @property
    def ranked(self) -> list[Json]:
        """The trials, best first; failed ones last."""
        return sorted(self.trials, key=lambda trial: (trial["score"] is None, trial["score"] or 0.0, trial["number"]))

    @property
    def members(self) -> list[Json]:
        """The trials in the final model, the one with the most weight first."""
        inside = [trial for trial in self.trials if trial["number"] in self.weights]
        return sorted(inside, key=lambda trial: (-self.weights[trial["number"]], trial["number"]))

    @property
    def version(self) -> str:
        """Of pixelfit, that made the run."""
        return str(self.run["environment"]["versions"]["pixelfit"])

    @property
    def says_how_sure(self) -> bool:
        """Whether the model has intervals or sets of the usual coverage."""
        return self.scores.get("sets") is not None if self.scores.get("classes") else any(self.intervals())

    def intervals(self) -> Iterator[tuple[str, Json]]:
        """The scores of the intervals, with the target's name; none where they could not be calibrated."""
        parts = self.scores.get("targets") or [{"name": self.targets[0], "intervals": self.scores.get("intervals")}]
        yield from ((one["name"], one["intervals"]) for one in parts if one["intervals"] is not None)


def read(folder: RunFolder) -> Saved:
    """Everything that the report tells of; raises RunError if the run is not finished, or one of its files is damaged."""
    weights: dict[int, float] = {}
    for member in folder.read("model/predictor.json")["members"]:
        weights[member["trial"]] = weights.get(member["trial"], 0.0) + member["weight"]
    return Saved(
        folder=folder,
        run=folder.read("run.json"),
        facts=folder.read("facts.json"),
        data=folder.read("data.json"),
        scores=folder.read("scores.json"),
        timeline=folder.read("timeline.json"),
        final=folder.read("final.json"),
        trials=folder.read_trials(),
        weights=weights,
        pictures=folder.read("pictures/pictures.json"),
        suspects=folder.read_if_there("suspects.json"),
        evidence=folder.read_if_there("evidence.json"),
        augmentation=folder.read_if_there("augmentation.json"),
        importance=folder.read_if_there("importance.json"),
        search=folder.read_if_there("search.json"),
    )
