"""The whole flow, from what the user has to a measured model and its report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from pixelfit import report
from pixelfit.calibration import Calibrated, remembered
from pixelfit.data.describe import describe, found, samples, tell
from pixelfit.data.named import references_for
from pixelfit.data.sources import Source
from pixelfit.data.windows import whole_behind
from pixelfit.deadline import Deadline
from pixelfit.ensemble import together
from pixelfit.environment import memory_allowed
from pixelfit.evaluate import Evaluation, score_on_test
from pixelfit.evidence import Evidence, gather
from pixelfit.mistakes import SHOWN, SUREST, SUSPECT, drawn, listed, surest, suspects
from pixelfit.models.pretrained import offered
from pixelfit.options import FitOptions
from pixelfit.predictor import COVERAGE, Predictor
from pixelfit.progress import Progress, Several
from pixelfit.resume import as_begun, begin
from pixelfit.runlog import Noted
from pixelfit.runs import HeldOut, Remembered, RunFolder
from pixelfit.search.engines import SearchEngine, engine_for
from pixelfit.search.finish import Finish
from pixelfit.search.importance import importance
from pixelfit.search.nursery import Nursery
from pixelfit.search.searching import Limits, Search
from pixelfit.search.space import build_space
from pixelfit.tracking import Tracking, trackers_for
from pixelfit.types import Facts, Scores, Splits, Trial


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


def fit(
    source: Source,
    options: FitOptions,
    *,
    progress: Progress,
    started: float | None = None,
    nursery: Nursery | None = None,
    engine: SearchEngine | None = None,
) -> Run:
    """Search for the best model within the budget, measure it once on the test set, and write the report.

    Args:
        source: pictures with their targets; see ``load_table``.
        options: task, budget, seed, where to write.
        progress: is told what happens.
        started: when the command began, on the monotonic clock, if that was before this call.
        nursery: the process in which trials are born, if it has begun already.
        engine: where trials run; by default as the options say, on this machine in processes of their own.

    Raises:
        PixelfitError: the data or options cannot be used, and nothing is written; or no trial gave a usable model.
    """
    deadline = Deadline(options.budget_s, started=started)
    trackers = trackers_for(options.track or ())
    with ExitStack() as during:
        during.enter_context(memory_allowed(options.memory))
        engine = during.enter_context(engine or engine_for(options, nursery))
        folder, facts, splits = during.enter_context(begin(source, options, deadline, progress))
        tell(facts, splits, progress)
        space = build_space(facts, splits.train, offered(facts, options.weights, options.backbone, progress), options.changes)
        during.enter_context(deadline.stopped_by_ctrl_c())
        folder.write_data(facts, {**describe(splits, facts), "references": references_for(facts)})
        tracking = Tracking(trackers, folder, progress)
        progress = Several(progress, Noted(), tracking)
        seconds = {"data": deadline.elapsed()}
        whole = None if options.distill else whole_behind(source, options.columns, facts, splits)
        limits = _limits(options, streams=whole is not None)
        search = Search(space, splits, facts, folder, deadline, limits, progress)
        baseline = search.first_model()
        engine.ready(splits.folds, facts, deadline, progress)
        during.enter_context(as_begun(folder))
        trials = search.trials(engine, after=baseline)
        seconds["search"] = deadline.elapsed()
        finish = Finish(splits, facts, folder, deadline, limits, progress, engine, whole)
        trials, final = finish.final(trials)
        constant = together([(baseline, 1.0)], facts, folder)
        evaluation = score_on_test(final, constant, splits.test, facts, seed=options.seed)
        seconds["scoring"] = deadline.elapsed()
        folder.write_timeline(seconds, interrupted=deadline.interrupted)
        _save_results(folder, trials, final, evaluation, facts, splits, seed=options.seed)
        evidence = gather(
            final.predictor, evaluation.examples, evaluation.forecast, splits, facts, budget_s=options.budget_s, seed=options.seed
        )
        _save_shown(folder, final, evaluation, evidence, facts, splits)
        folder.write_scores(facts, evaluation.scores, seed=options.seed, budget_s=options.budget_s, wall_s=deadline.elapsed())
        report.draw(folder)
        # Once more, now with the report's own time.
        folder.write_scores(facts, evaluation.scores, seed=options.seed, budget_s=options.budget_s, wall_s=deadline.elapsed())
        folder.seal()
        if not deadline.interrupted:  # otherwise it may go on
            tracking.finish()
    return Run(folder, facts, trials, final.predictor, evaluation.scores, deadline.interrupted, deadline.elapsed())


def _limits(options: FitOptions, *, streams: bool) -> Limits:
    return Limits(options.trials, options.steps, options.max_latency or math.inf, options.distill, options.seed, streams)


def _save_results(
    folder: RunFolder,
    trials: Sequence[Trial],
    final: Calibrated,
    evaluation: Evaluation,
    facts: Facts,
    splits: Splits,
    *,
    seed: int,
) -> None:
    """The final model, what it predicts, and how the trials ranked."""
    predictor, answers = final.predictor, final.predictor.answers
    predictor.save(folder.model_folder)
    folder.write_held_out(HeldOut.of(splits.validation))
    folder.write_remembered(Remembered.of(remembered(predictor, splits), facts))
    folder.write_leaderboard(trials, facts.metric, predictor.trial_weights())
    folder.write_importance(importance(trials, seed=seed))
    for name, examples, forecast in (
        ("validation", splits.validation, final.on_validation),
        ("test", evaluation.examples, evaluation.forecast),
    ):
        sureness = predictor.sureness_columns(forecast, COVERAGE) if predictor.allows(COVERAGE) else {}
        columns = [*answers.known(examples.targets), *answers.said(forecast.raw, alone=False), *sureness.items()]
        folder.write_predictions(name, [("picture", examples.refs), *columns, *answers.shares(forecast.raw)])


def _save_shown(
    folder: RunFolder, final: Calibrated, evaluation: Evaluation, evidence: Evidence, facts: Facts, splits: Splits
) -> None:
    """What the report shows beside the figures: pictures, and what they are shown for."""
    rows = suspects(facts, splits.validation.targets, final.on_validation)
    doubtful = drawn(SUSPECT, rows, splits.validation, final.on_validation.raw, facts)
    folder.write_suspects({"examined": len(splits.validation), "suspects": listed(doubtful)})
    folder.write_evidence(evidence.to_json())
    examples, forecast = evaluation.examples, evaluation.forecast
    sure = drawn(SUREST, surest(facts, examples.targets, forecast), examples, forecast.raw, facts)
    mistakes = (*evaluation.worst, *sure, *evidence.looks)
    folder.write_pictures([*samples(splits.train, facts), *found(splits, facts), *doubtful[:SHOWN], *mistakes], facts.spec)
    if evidence.thumbnails is not None:
        folder.write_thumbnails(evidence.thumbnails.image)
