"""One small model that learns what an ensemble predicts (Bucilă et al. 2006, Hinton et al. 2015)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from pixelfit.models import FAMILIES
from pixelfit.models.heads import DiscreteHead, make_head
from pixelfit.predictor import Member, Predictor
from pixelfit.training.recipe import Recipe
from pixelfit.types import Array, Examples, Facts, Trial

_WORTH_TEACHING = 1.5  # times the best score: a model that is worse on its own is no good student


def student_recipe(trials: tuple[Trial, ...], predictor: Predictor, most_latency_ms: float = math.inf) -> Recipe | None:
    """The recipe of the smallest model that is nearly as good as the best and fast enough; None if there is none to be trained.

    Targets that teachers and student cannot share as a distribution are learned as values.
    """
    trained = [trial for trial in trials if trial.score is not None and FAMILIES[trial.family].fit is None]
    trained = [trial for trial in trained if (trial.latency_ms or 0.0) <= most_latency_ms]
    if not trained:
        return None
    best = min(trial.score for trial in trained if trial.score is not None)
    able = [trial for trial in trained if trial.score is not None and trial.score <= best + (_WORTH_TEACHING - 1) * abs(best)]
    recipe = Recipe.from_json(min(able, key=lambda trial: (trial.parameters, trial.number)).recipe)
    if recipe.head == "discrete" and not _discrete(predictor):
        recipe = replace(recipe, head="squared")
    return replace(recipe, label_smoothing=0.0)  # the teacher's doubts are better than even ones


def teachings(predictor: Predictor, recipe: Recipe, train_set: Examples, facts: Facts) -> torch.Tensor:
    """What the student is to learn of the training pictures: the teacher's distributions, or its values, as its head has them."""
    if facts.classes is not None:
        return torch.from_numpy(predictor.raw(train_set.store, train_set.rows)).float()
    if recipe.head == "discrete":
        return torch.from_numpy(sum(_shares(member, train_set) for member in predictor.members)).float()
    head = make_head(recipe.head, train_set.targets, 0, facts.metric)
    return head.encode(predictor.raw(train_set.store, train_set.rows))


def _discrete(predictor: Predictor) -> bool:
    heads = [member.model.head for member in predictor.members]
    values = {head.values for head in heads if isinstance(head, DiscreteHead)}
    return len(values) == 1 and all(isinstance(head, DiscreteHead) for head in heads)


def _shares(member: Member, train_set: Examples) -> Array:
    model = member.model
    outputs = model.outputs(train_set.store, train_set.rows) / model.temperature
    shares: Array = member.weight * outputs.double().softmax(dim=1).numpy()
    return shares
