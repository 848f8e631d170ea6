"""Which recipes a search should start with: many on several data sets, the good ones longer, and the best set greedily."""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks import pixelfit_side, shared, synthetic
from pixelfit.files import write_json
from pixelfit.models import FAMILIES, Family
from pixelfit.models.family import Choice, Dimension
from pixelfit.search.cost import CostModel
from pixelfit.search.space import build_space
from pixelfit.training.job import Lesson
from pixelfit.types import Json

_FILE = shared.ROOT / "src" / "pixelfit" / "search" / "portfolio.json"
_RECIPES = 30
_PROMOTED = 8  # trained again, longer: short trainings favour nets that learn fast and not far
_FINALISTS = 5  # trained on many pictures, and longer still
_MOST = 6
_TIME_EXPONENT = 0.3  # scores fall with about this power of the time
_LEAST_GAIN = 0.004  # of the mean regret: each recipe takes 1.5 % of a search's time, which costs so much
_MOST_REGRET = math.log(10)  # what a failed training counts; where the best score is almost 0, ratios mean nothing
# Trainings are equally long in work, not in seconds, so that it does not matter what else the machine does: seconds of
# a machine that computes so many operations a second.
_NOMINAL_FLOPS = 250e9
_SHORT_S, _LONG_S, _LONGEST_S = 8.0, 32.0, 120.0
_CONVOLUTIONAL = ("convnet", "resnet")
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
    """The families' usual recipes, some that are known to be good, random ones, and random changes of good ones.

    Always the same. A fifth are changes: a recipe that is random in every answer is seldom good.
    """
    searched = _searched()
    chosen = [Candidate(family.name, {"family": family.name}) for family in searched]
    chosen += [Candidate(name, answers) for name, answers in _BY_HAND.items()]
    bases = [candidate for candidate in chosen if candidate.answers["family"] in _CONVOLUTIONAL]
    nets = [family for family in searched if family.fit is None]
    rng = np.random.default_rng(0)
    while len(chosen) < count - count // 5:
        family = nets[int(rng.choice(len(nets), p=_shares([net.name for net in nets])))]
        chosen.append(Candidate(f"{family.name}-{len(chosen)}", _random(family.name, rng)))
    while len(chosen) < count:
        base = bases[len(chosen) % len(bases)]
        chosen.append(Candidate(f"{base.name}-{len(chosen)}", _changed(base.answers, rng)))
    return chosen[:count]


def _shares(names: Sequence[str]) -> list[float]:
    # Convolutional nets have more to choose and do better on pictures, so most recipes are theirs.
    weights = [4.0 if name in _CONVOLUTIONAL else 1.0 for name in names]
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


def _changed(answers: Mapping[str, Json], rng: np.random.Generator) -> dict[str, Json]:
    """The same answers but for three, which are random."""
    drawn = _random(str(answers["family"]), rng)
    free = sorted(name for name in drawn if name not in answers)
    return {**answers, **{name: drawn[name] for name in map(str, rng.choice(free, 3, replace=False))}}


def _drawn(dimension: Dimension, rng: np.random.Generator) -> Json:
    if isinstance(dimension, Choice):
        return dimension.values[int(rng.integers(len(dimension.values)))]
    if dimension.log:
        return float(f"{math.exp(rng.uniform(math.log(dimension.low), math.log(dimension.high))):.3g}")
    return round(float(rng.uniform(dimension.low, dimension.high)), 3)


def measured(
    options: argparse.Namespace, journal: shared.Journal, chosen: Sequence[Candidate], work_s: float, *, large: bool = False
) -> list[dict[str, Json]]:
    """Each recipe's validation score on each data set (or on the large one), from a training of so much work."""
    records = []
    for name, make in synthetic.data_sets(options).items():
        if large != (name == synthetic.LARGE):
            continue
        ready = functools.cache(functools.partial(_prepared, make))
        for candidate in chosen:
            key = {"data": name, "recipe": candidate.name, "work_s": work_s, "quick": options.quick}
            records.append(journal.once(key, functools.partial(_measured, ready, candidate, work_s)))
    return records


def _prepared(make: Callable[[], synthetic.Made]) -> Lesson:
    return pixelfit_side.prepared(*make(), validated=True)


def _measured(ready: Callable[[], Lesson], candidate: Candidate, work_s: float) -> Json:
    data = ready()
    recipe, _ = build_space(data.facts, data.train).known_good(candidate.answers)
    step_s = CostModel(data.facts.spec, 2 * _NOMINAL_FLOPS).step_s(recipe)
    score, seconds = pixelfit_side.validated(recipe, data, steps=max(4, round(work_s / max(step_s, 1e-3))), seconds=3 * work_s)
    return {"answers": dict(candidate.answers), "recipe": recipe.to_json(), "score": score, "seconds": seconds}


def greedy(regrets: Mapping[str, Mapping[str, float]], most: int, *, least_gain: float) -> list[tuple[str, float]]:
    """Recipes in the order in which each lowers the mean regret most, with the mean regret after it.

    Args:
        regrets: by recipe and column, how much worse than the best recipe there (0: it is the best).
        most: the largest number to choose.
        least_gain: of the mean regret; a recipe that lowers it by less is not chosen.
    """
    columns = sorted(next(iter(regrets.values())))
    reached = dict.fromkeys(columns, math.inf)
    chosen: list[tuple[str, float]] = []
    while len(chosen) < most:
        means = {
            recipe: float(np.mean([min(reached[name], values[name]) for name in columns]))
            for recipe, values in regrets.items()
            if recipe not in dict(chosen)
        }
        if not means:
            break
        best = min(means, key=lambda recipe: (means[recipe], recipe))
        if chosen and means[best] > chosen[-1][1] - least_gain:
            break
        chosen.append((best, means[best]))
        reached = {name: min(reached[name], regrets[best][name]) for name in columns}
    return chosen


def regrets_of(records: Sequence[Mapping[str, Json]], recipes: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """By recipe and column, the logarithm of its score over the best one's there.

    A column is a data set and the work of the trainings; on the large data set scores are those of equal time. Larger
    regrets count as ten times the best score, and so does a training that failed. With ``recipes`` only these count; those
    that were not trained in a column are the worst there.
    """
    by_column: dict[str, dict[str, float]] = {}
    for record in records:
        key = record["key"]
        if recipes is not None and key["recipe"] not in recipes:
            continue
        score = record["figures"]["score"]
        if score is not None and key["data"] == synthetic.LARGE:
            # Nets differ in operations a second. Trainings of minutes tell, those of seconds depend on what else runs.
            score *= (record["figures"]["seconds"] / key["work_s"]) ** _TIME_EXPONENT
        by_column.setdefault(f"{key['data']}, {key['work_s']:g} s", {})[key["recipe"]] = score
    regrets: dict[str, dict[str, float]] = {}
    for column, found in by_column.items():
        best = max(1e-9, min(score for score in found.values() if score is not None))
        for recipe, score in found.items():
            regret = _MOST_REGRET if score is None else math.log(max(score, 1e-9) / best)
            regrets.setdefault(recipe, {})[column] = min(_MOST_REGRET, regret)
    worst = {column: max(values[column] for values in regrets.values() if column in values) for column in by_column}
    return {recipe: {**worst, **values} for recipe, values in regrets.items()}


def _worth_more_time(regrets: Mapping[str, Mapping[str, float]], most: int) -> list[str]:
    """The recipes that are trained again, longer: the best set of the short ones, and those known to be good when long."""
    known = [name for name in _BY_HAND if name in regrets]
    others = {recipe: values for recipe, values in regrets.items() if recipe not in known}
    return [*(name for name, _ in greedy(others, most - len(known), least_gain=0.0)), *known]


def with_every_family(recipes: Sequence[Mapping[str, Json]]) -> list[Mapping[str, Json]]:
    """The recipes, then the usual ones of the families that have none among them, nets first.

    Data may be unlike all that were looked at; and where time is short, the cheap families are all that there is time for.
    """
    missing = [family for family in _searched() if all(family.name != each["family"] for each in recipes)]
    return [*recipes, *({"family": family.name} for family in sorted(missing, key=lambda family: family.fit is not None))]


def _searched() -> list[Family]:
    """The families that a portfolio may name; those on pretrained backbones depend on what weights a user has."""
    return [family for family in FAMILIES.values() if family.searched and not family.pretrained]


def main() -> None:
    """Measure what is not known yet, choose, and with ``--write`` make the choice pixelfit's portfolio."""
    parser = shared.options_parser("portfolio", __doc__, list(synthetic.NAMES))
    shared.data_option(parser)
    parser.add_argument("--houses", help="houses.csv with its pictures; without it that data set is left out")
    parser.add_argument("--write", action="store_true", help="write the portfolio into pixelfit's source")
    options = parser.parse_args()
    journal = shared.journal_of("portfolio", options)
    short_s, long_s, longest_s = (0.05, 0.1, 0.15) if options.quick else (_SHORT_S, _LONG_S, _LONGEST_S)
    pool = candidates(9 if options.quick else _RECIPES)
    by_name = {candidate.name: candidate for candidate in pool}
    records = measured(options, journal, pool, short_s)
    promoted = _worth_more_time(regrets_of(records), 2 if options.quick else _PROMOTED)
    longer = measured(options, journal, [by_name[name] for name in promoted], long_s)
    finalists = _worth_more_time(regrets_of([*records, *longer], promoted), 2 if options.quick else _FINALISTS)
    longest = measured(options, journal, [by_name[name] for name in finalists], longest_s, large=True)
    everything = [*records, *longer, *longest]
    regrets = regrets_of(everything, promoted)
    chosen = greedy(regrets, _MOST, least_gain=_LEAST_GAIN)
    recipes = with_every_family([by_name[name].answers for name, _ in chosen])
    data = sorted({record["key"]["data"] for record in everything})
    if options.write:
        write_json(_FILE, {"found_on": data, "found_by": "benchmarks/portfolio", "recipes": [dict(each) for each in recipes]})
    columns = sorted(next(iter(regrets.values())))
    lines = [[column, *(f"{regrets[name][column]:.2f}" for name, _ in chosen)] for column in columns]
    lines.append(["mean regret of it and those before it", *(f"{mean:.3f}" for _, mean in chosen)])
    shared.write_results(
        "portfolio",
        options,
        tables=[shared.table(["regret on", *(name for name, _ in chosen)], lines)],
        notes=[
            f"{len(pool)} recipes on {len(data)} data sets, one seed, each training of {short_s:g} s' work "
            f"at {_NOMINAL_FLOPS / 1e9:g} GFLOP/s; {len(promoted)} of them again with {long_s:g} s' work: {', '.join(promoted)}; "
            f"on {synthetic.LARGE} with {longest_s:g} s' work: {', '.join(finalists)}",
            "regret: logarithm of a recipe's validation score over the best of these recipes' on the same data, at most "
            f"{_MOST_REGRET:.1f}; the mean takes each column's best recipe chosen so far",
            "after them come the usual recipes of the families that are not among them",
            "data: cuts of MNIST's 60,000 training digits, never its test digits; "
            "pixelfit's own test cut of every data set stays unread",
        ],
        figures={
            "chosen": [{"recipe": name, "answers": dict(by_name[name].answers)} for name, _ in chosen],
            "runs": everything,
        },
        commits=[record["commit"] for record in everything],
    )


if __name__ == "__main__":
    shared.run(main)
