"""Which models make up the final predictor, and with what weights. Looks at validation predictions only."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from pixelfit import metrics
from pixelfit.errors import SearchError
from pixelfit.models.heads import temperature_for
from pixelfit.models.model import Model
from pixelfit.models.views import VIEWS
from pixelfit.predictor import Member, Predictor
from pixelfit.runs import RunFolder, rank
from pixelfit.types import FULL_LENGTH, SNAPSHOT, Array, Examples, Facts, Splits, Trial

MOST_MEMBERS = 4  # models, one of which may be the team of finals
_CANDIDATES = 12
_ROUNDS = 24
_LEAST_VIEWS_GAIN = 0.005  # of the score: further views make each prediction several times as slow
_LEAST_GAIN = 0.01  # of the score: less is within what a validation set can tell, and each member slows prediction
Losses: TypeAlias = Callable[[Trial], Array]  # a trial's loss for each validation row


@dataclass(frozen=True)
class Costs:
    """What the final predictor may cost: milliseconds for one picture alone, and for one of many seen in several views."""

    most_latency_ms: float = math.inf
    most_views_ms: float = math.inf


def combine(trials: Sequence[Trial], splits: Splits, facts: Facts, folder: RunFolder, costs: Costs) -> Predictor:
    """Choose members greedily by what they add on validation pictures (Caruana et al. 2004), and views if they help.

    With several folds each picture is looked at once: the mean over a model a fold is much like one over views.

    Raises:
        SearchError: no trial gave a model, or none that answers fast enough.
    """
    ended = [trial for trial in rank(trials) if trial.score is not None]
    if not ended:
        failed = next((trial for trial in trials if trial.error), None)
        raise SearchError("No trial gave a usable model" + (f"; the first failed with: {failed.error}" if failed else "") + ".")
    validation = splits.validation
    whole = [trial for trial in ended if trial.share == 1.0]  # the others were trained to learn what more pictures are worth
    usable = [trial for trial in whole if (trial.latency_ms or 0.0) <= costs.most_latency_ms]

    def losses(trial: Trial) -> Array:
        return metrics.row_losses(facts, validation.targets, folder.validation_predictions(trial))

    usable = _grown(usable, losses)[:_CANDIDATES]
    if not usable:
        raise SearchError(f"No model answers within --max-latency {costs.most_latency_ms:g}ms; allow it more time.")
    score = metrics.ranking_metric(facts)
    teams = _teams(usable, losses, costs.most_latency_ms)
    predictions = [np.mean([folder.validation_predictions(trial) for trial in team], axis=0) for team in teams]
    latencies = [_latency_ms(team) for team in teams]
    weights = greedy_weights(predictions, validation.targets, score, latencies, costs.most_latency_ms)
    shares = [(trial, weight / len(teams[place])) for place, weight in weights.items() for trial in teams[place]]
    predictor = together(sorted(shares, key=lambda item: (-item[1], item[0].number)), facts, folder)
    if len(splits.folds) > 1:
        return predictor
    return _with_views(predictor, [trial for trial, _ in shares], validation, score, costs)


def together(shares: Sequence[tuple[Trial, float]], facts: Facts, folder: RunFolder) -> Predictor:
    """The predictor of these trials' models, each trial with its share."""
    members = tuple(
        Member(Model.load(place), trial.number, share / trial.folds)
        for trial, share in shares
        for place in folder.model_folders(trial)
    )
    return Predictor(
        facts.task, facts.classes, facts.target_name, members, target_names=facts.target_names, yardstick=facts.yardstick
    )


def _grown(trials: Sequence[Trial], losses: Losses) -> list[Trial]:
    """The trials without those whose recipe was also trained at full length, unless that came out clearly worse.

    A short training that scores better than a long one of the same recipe was lucky with the validation rows, as a rule, and
    would be given the most weight for it.
    """
    finals = [trial for trial in trials if trial.purpose == FULL_LENGTH and trial.state == "complete"]
    return [
        trial
        for trial in trials
        if trial.purpose in (FULL_LENGTH, SNAPSHOT)
        or not any(
            final.recipe == trial.recipe
            and (final.steps > trial.steps or final.continues == trial.number)
            and not metrics.clearly_worse(losses(final), losses(trial))
            for final in finals
        )
    ]


def _teams(trials: Sequence[Trial], losses: Losses, most_latency: float) -> list[list[Trial]]:
    """The trials meant to be final that validation cannot tell from the best of them together, all others alone; best first.

    Which of several good nets scores best is luck, and weighting by it gives that luck away. In five runs of ten minutes on
    MNIST, weights chosen on half of the validation digits had RMSE 0.209, 0.274, 0.223, 0.220 and 0.211 on the other half;
    equal weights 0.210, 0.267, 0.219, 0.219 and, as one of two finals was clearly worse, 0.211 (60 random cuts each).
    """
    finals = [trial for trial in trials if trial.purpose in (FULL_LENGTH, SNAPSHOT) and trial.state == "complete"]
    good = [trial for trial in finals if not metrics.clearly_worse(losses(trial), losses(finals[0]))]
    teams: list[list[Trial]] = []
    for trial in trials:
        team = next((team for team in teams if trial in good and team[0] in good), None)
        if team is None or _latency_ms([*team, trial]) > most_latency:
            teams.append([trial])
        else:
            team.append(trial)
    return teams


def _latency_ms(trials: Sequence[Trial]) -> float:
    return sum(trial.latency_ms or 0.0 for trial in trials)


def _with_views(
    predictor: Predictor, trials: Sequence[Trial], validation: Examples, score: Callable[[Array, Array], float], costs: Costs
) -> Predictor:
    """The predictor, looking at several views of each picture where that lowers the validation score and time allows it."""
    latency = _latency_ms(trials)
    predict_ms = sum(trial.predict_ms or 0.0 for trial in trials)
    mirrored = any(trial.recipe["augmentation"]["flip"] for trial in trials if "augmentation" in trial.recipe)
    best = score(validation.targets, predictor.raw(validation.store, validation.rows))
    chosen = predictor
    for kind in ("shifted", "mirrored") if mirrored else ("shifted",):
        if VIEWS[kind] * latency > costs.most_latency_ms or VIEWS[kind] * predict_ms > costs.most_views_ms:
            continue
        tried = replace(predictor, members=tuple(viewed(member, kind, validation) for member in predictor.members))
        reached = score(validation.targets, tried.raw(validation.store, validation.rows))
        if reached < best - _LEAST_VIEWS_GAIN * abs(best):
            chosen, best = tried, reached
    return chosen


def viewed(member: Member, kind: str, validation: Examples) -> Member:
    """The member looking at these views, with the temperature that suits them."""
    model = replace(member.model, views=kind)
    outputs = model.outputs(validation.store, validation.rows)
    return replace(member, model=replace(model, temperature=temperature_for([(model.head, outputs, validation.targets)])))


def greedy_weights(
    predictions: Sequence[Array],
    targets: Array,
    score: Callable[[Array, Array], float],
    latencies: Sequence[float] = (),
    most_latency: float = math.inf,
) -> dict[int, float]:
    """Weights by position, summing to 1, of a bag filled one model at a time with whichever gives the lowest score.

    The same model may be drawn again, which gives it more weight; at most MOST_MEMBERS different ones are, whose
    ``latencies`` add up to no more than ``most_latency``. Of the bags on the way, the one with the fewest models is taken
    whose score is as good as the best, but for a tiny share.
    """
    bag: Counter[int] = Counter()
    total = np.zeros_like(predictions[0])
    bags: list[tuple[float, Counter[int]]] = []
    for size in range(1, _ROUNDS + 1):
        spent = sum(latencies[place] for place in bag) if latencies else 0.0
        others = [place for place in range(len(predictions)) if place not in bag] if len(bag) < MOST_MEMBERS else []
        allowed = sorted([*bag, *(place for place in others if not latencies or spent + latencies[place] <= most_latency)])
        scores = {place: score(targets, (total + predictions[place]) / size) for place in allowed}
        place = min(scores, key=lambda candidate: scores[candidate])
        total = total + predictions[place]
        bag[place] += 1
        bags.append((scores[place], bag.copy()))
    best = min(score for score, _ in bags)
    good_enough = [(len(bag), score, bag) for score, bag in bags if score <= best + _LEAST_GAIN * abs(best)]
    chosen = min(good_enough, key=lambda item: item[:2])[2]
    return {place: count / chosen.total() for place, count in chosen.items()}
