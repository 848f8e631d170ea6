"""Which recipes a search should start with: many recipes on several data sets, and the set that does best on all, greedily."""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks import pixelfit_side, shared, synthetic
from pixelfit.files import write_json
from pixelfit.models import FAMILIES
from pixelfit.models.family import Choice, Dimension
from pixelfit.search.cost import CostModel
from pixelfit.search.space import build_space
from pixelfit.training.loop import Lesson
from pixelfit.types import Json

_FILE = shared.ROOT / "src" / "pixelfit" / "search" / "portfolio.json"
_RECIPES = 24
_MOST = 8
_LEAST_GAIN = 0.01  # of the mean regret: a recipe that adds less costs each search more than it brings
# Trainings are equally long in work, not in seconds, so that it does not matter what else the machine does: seconds of
# a machine that computes so many operations a second.
_NOMINAL_FLOPS = 250e9
_WORK_S = 8.0
# Recipes that did well elsewhere, which random ones may miss.
_BY_HAND: dict[str, dict[str, Json]] = {
    "convnet-strided": {"family": "convnet", "convnet.stem": "strided", "convnet.width": 32},
    "convnet-wide": {"family": "convnet", "convnet.width": 32},
}


@dataclass(frozen=True)
class Candidate:
    """A recipe as answers to a search space's questions. What a data set's space does not ask or allow is ignored."""

    name: str
    answers: Mapping[str, Json]


def candidates(count: int) -> list[Candidate]:
    """The families' usual recipes, some that are known to be good, and random ones from the whole space; always the same."""
    searched = [family for family in FAMILIES.values() if family.searched]
    chosen = [Candidate(family.name, {"family": family.name}) for family in searched]
    chosen += [Candidate(name, answers) for name, answers in _BY_HAND.items()]
    rng = np.random.default_rng(0)
    nets = [family for family in searched if family.fit is None]
    while len(chosen) < count:
        family = nets[int(rng.choice(len(nets), p=_shares([net.name for net in nets])))]
        chosen.append(Candidate(f"{family.name}-{len(chosen)}", _random(family.name, rng)))
    return chosen[:count]


def _shares(names: Sequence[str]) -> list[float]:
    # Convolutional nets have more to choose and do better on pictures, so most recipes are theirs.
    weights = [4.0 if name in ("convnet", "resnet") else 1.0 for name in names]
    return [weight / sum(weights) for weight in weights]


def _random(family: str, rng: np.random.Generator) -> dict[str, Json]:
    answers: dict[str, Json] = {"family": family}
    # Two spaces, so that every question is asked that a data set may raise: few values and colour, many values and grey.
    for X, y, task in (synthetic.shapes(60), synthetic.blobs(60)):
        ready = pixelfit_side.prepared(X, y, task)

        def answer(name: str, dimension: Dimension) -> Json:
            if name not in answers:
                answers[name] = _drawn(dimension, rng)
            return answers[name] if dimension.allows(answers[name]) else dimension.start

        build_space(ready.facts, ready.train).recipe(answer)
    answers.pop("batch_size", None)  # which sizes there are depends on the number of pictures
    answers["batch_size"] = int(rng.choice([64, 128, 256]))
    return answers


def _drawn(dimension: Dimension, rng: np.random.Generator) -> Json:
    if isinstance(dimension, Choice):
        return dimension.values[int(rng.integers(len(dimension.values)))]
    if dimension.log:
        return float(f"{math.exp(rng.uniform(math.log(dimension.low), math.log(dimension.high))):.3g}")
    return round(float(rng.uniform(dimension.low, dimension.high)), 3)


def scores(options: argparse.Namespace, journal: shared.Journal, chosen: Sequence[Candidate]) -> Iterator[dict[str, Json]]:
    """Each recipe's validation score on each data set, from a training of equal work."""
    for name, make in synthetic.data_sets(options).items():
        ready = functools.cache(functools.partial(_prepared, make))
        for candidate in chosen:
            key = {"data": name, "recipe": candidate.name, "quick": options.quick}
            yield journal.once(key, functools.partial(_measured, ready, candidate, 0.05 if options.quick else _WORK_S))


def _prepared(make: Callable[[], synthetic.Made]) -> Lesson:
    return pixelfit_side.prepared(*make(), validated=True)


def _measured(ready: Callable[[], Lesson], candidate: Candidate, work_s: float) -> Json:
    data = ready()
    recipe, _ = build_space(data.facts, data.train).known_good(candidate.answers)
    step_s = CostModel(data.facts.spec, 2 * _NOMINAL_FLOPS).step_s(recipe)
    score, seconds = pixelfit_side.validated(recipe, data, steps=max(4, round(work_s / max(step_s, 1e-3))), seconds=3 * work_s)
    return {"answers": dict(candidate.answers), "recipe": recipe.to_json(), "score": score, "seconds": seconds}


def greedy(regrets: Mapping[str, Mapping[str, float]], most: int) -> list[tuple[str, float]]:
    """Recipes in the order in which each lowers the mean regret most, with the mean regret after it.

    Args:
        regrets: by recipe and data set, how much worse than the best recipe there (0: it is the best).
        most: the largest number to choose.
    """
    data = sorted(next(iter(regrets.values())))
    reached = dict.fromkeys(data, math.inf)
    chosen: list[tuple[str, float]] = []
    while len(chosen) < most:
        means = {
            recipe: float(np.mean([min(reached[name], values[name]) for name in data]))
            for recipe, values in regrets.items()
            if recipe not in dict(chosen)
        }
        if not means:
            break
        best = min(means, key=lambda recipe: (means[recipe], recipe))
        if chosen and means[best] > chosen[-1][1] - _LEAST_GAIN:
            break
        chosen.append((best, means[best]))
        reached = {name: min(reached[name], regrets[best][name]) for name in data}
    return chosen


def regrets_of(records: Sequence[Mapping[str, Json]]) -> dict[str, dict[str, float]]:
    """By recipe and data set, the logarithm of its score over the best one's; a failed training counts as ten times that."""
    by_data: dict[str, dict[str, float]] = {}
    for record in records:
        by_data.setdefault(record["key"]["data"], {})[record["key"]["recipe"]] = record["figures"]["score"]
    regrets: dict[str, dict[str, float]] = {}
    for data, found in by_data.items():
        best = max(1e-9, min(score for score in found.values() if score is not None))
        for recipe, score in found.items():
            regrets.setdefault(recipe, {})[data] = math.log(10) if score is None else math.log(max(score, 1e-9) / best)
    return regrets


def main() -> None:
    """Measure what is not known yet, choose, and with ``--write`` make the choice pixelfit's portfolio."""
    parser = shared.options_parser("portfolio", __doc__, list(synthetic.NAMES))
    shared.data_option(parser)
    parser.add_argument("--houses", help="houses.csv with its pictures; without it that data set is left out")
    parser.add_argument("--write", action="store_true", help="write the portfolio into pixelfit's source")
    options = parser.parse_args()
    journal = shared.journal_of("portfolio", options)
    pool = candidates(7 if options.quick else _RECIPES)
    records = list(scores(options, journal, pool))
    regrets = regrets_of(records)
    chosen = greedy(regrets, _MOST)
    by_name = {candidate.name: candidate for candidate in pool}
    data = sorted({record["key"]["data"] for record in records})
    lines = [
        [str(place), name, f"{mean:.3f}", *(f"{regrets[name][each]:.2f}" for each in data)]
        for place, (name, mean) in enumerate(chosen, start=1)
    ]
    if options.write:
        recipes = [dict(by_name[name].answers) for name, _ in chosen]
        write_json(_FILE, {"found_on": data, "found_by": "benchmarks/portfolio", "recipes": recipes})
    shared.write_results(
        "portfolio",
        options,
        tables=[shared.table(["place", "recipe", "mean regret so far", *data], lines)],
        notes=[
            f"{len(pool)} recipes on {len(data)} data sets, one seed; each training of {_WORK_S:g} s' work "
            f"at {_NOMINAL_FLOPS / 1e9:g} GFLOP/s",
            "regret: logarithm of a recipe's validation score over the best recipe's on the same data; "
            "the mean takes each data set's best recipe chosen so far",
            "data: cuts of MNIST's 60,000 training digits, never its test digits; "
            "pixelfit's own test cut of every data set stays unread",
        ],
        figures={"chosen": [{"recipe": name, "answers": dict(by_name[name].answers)} for name, _ in chosen], "runs": records},
        commits=[record["commit"] for record in records],
    )


if __name__ == "__main__":
    shared.run(main)
