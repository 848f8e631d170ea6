"""The whole flow, from what the user has to a measured model and its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pixelfit import metrics, report
from pixelfit.data.describe import describe, samples, tell
from pixelfit.data.inspect import inspect
from pixelfit.data.named import references_for
from pixelfit.data.sources import Source, load_table
from pixelfit.data.split import split
from pixelfit.data.store import decode
from pixelfit.deadline import Deadline
from pixelfit.ensemble import combine
from pixelfit.environment import environment
from pixelfit.evaluate import score_on_test
from pixelfit.models.model import Model
from pixelfit.options import FitOptions
from pixelfit.predictor import Predictor
from pixelfit.progress import Progress
from pixelfit.runs import RunFolder, free_folder, refuse_taken
from pixelfit.search import Limits, search
from pixelfit.search.space import build_space
from pixelfit.types import Facts, Scores, Trial


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, the predictor that was scored, and what it scored."""

    folder: RunFolder
    facts: Facts
    trials: tuple[Trial, ...]
    predictor: Predictor
    scores: Scores
    interrupted: bool
    wall_s: float


def fit(source: Source, options: FitOptions, *, progress: Progress, started: float | None = None) -> Run:
    """Search for the best model within the budget, measure it once on the test set, and write the report.

    Args:
        source: pictures with their targets; see ``load_table``.
        options: task, budget, seed, where to write.
        progress: is told what happens.
        started: when the command began, in seconds since the epoch, if that was before this call.

    Raises:
        PixelfitError: the data or options cannot be used; nothing is written then.
    """
    deadline = Deadline(options.budget_s, started=started)
    if options.out is not None:
        refuse_taken(options.out)
    table = load_table(source, target=options.target, data_dir=options.data_dir, progress=progress)
    pictures = decode(table, progress)
    facts, targets = inspect(table, pictures, options.task)
    splits = split(table, pictures, facts, targets, seed=options.seed)
    tell(facts, splits.how, progress)

    folder = RunFolder.create(options.out or free_folder(f"{facts.data}-{facts.task}"))
    named = str(source) if isinstance(source, (str, Path)) else None
    folder.write_run(
        {"source": named, "options": options.model_dump(mode="json"), "budget_s": options.budget_s, "environment": environment()}
    )
    folder.write_data(facts, {**describe(splits, facts), "references": references_for(facts)})
    seconds = {"data": deadline.elapsed()}

    with deadline.stopped_by_ctrl_c():
        space = build_space(facts, splits.train)
        limits = Limits(options.trials, options.steps)
        trials = search(space, splits, facts, folder, deadline=deadline, limits=limits, seed=options.seed, progress=progress)
        seconds["search"] = deadline.elapsed()
        predictor = combine(trials, splits.validation, facts, folder)
        baseline = Model.load(folder.trial_folder(0))
        evaluation = score_on_test(predictor, baseline, splits.test, facts, seed=options.seed)
        seconds["scoring"] = deadline.elapsed()

        predictor.save(folder.model_folder)
        weights = {member.trial: member.weight for member in predictor.members}
        folder.write_leaderboard(trials, metrics.RANKED_BY[facts.task], weights)
        folder.write_predictions(
            "validation", facts, splits.validation, predictor.raw(splits.validation.store, splits.validation.rows)
        )
        folder.write_predictions("test", facts, evaluation.examples, evaluation.raw)
        folder.write_pictures([*samples(splits.train, facts), *evaluation.worst], facts.spec)
        folder.write_timeline(seconds, interrupted=deadline.interrupted)
        folder.write_scores(facts, evaluation.scores, seed=options.seed, budget_s=options.budget_s, wall_s=deadline.elapsed())
        report.draw(folder)
        # Once more, now with the report's own time.
        folder.write_scores(facts, evaluation.scores, seed=options.seed, budget_s=options.budget_s, wall_s=deadline.elapsed())
    return Run(folder, facts, trials, predictor, evaluation.scores, deadline.interrupted, deadline.elapsed())
