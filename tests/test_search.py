"""Decisions of the search: what to try, for how long, and what to do with what came of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import bars
from test_models import Unwatched, prepared, trained
from torch import nn

from pixelfit import metrics
from pixelfit.automl import fit
from pixelfit.deadline import Deadline
from pixelfit.ensemble import greedy_weights
from pixelfit.environment import slowed_by_others
from pixelfit.errors import OptionError, SearchError
from pixelfit.metrics import rmse
from pixelfit.models import FAMILIES
from pixelfit.models.heads import make_head
from pixelfit.models.model import Model
from pixelfit.models.views import VIEWS
from pixelfit.options import checked_options
from pixelfit.predictor import Member, Predictor
from pixelfit.progress import Silent
from pixelfit.runs import RunFolder
from pixelfit.search import engine, searching, stages
from pixelfit.search import finish as finishing
from pixelfit.search.cost import CostModel, _forward_operations
from pixelfit.search.distill import student_recipe, teachings
from pixelfit.search.gains import finding_gain, shortening_loss, snapshots_pay, time_exponent
from pixelfit.search.portfolio import portfolio
from pixelfit.search.refit import FEWER, Refit, pays, share_without
from pixelfit.search.space import build_space
from pixelfit.search.study import Study
from pixelfit.training.job import Job, Lesson, Start
from pixelfit.training.loop import train, train_alone
from pixelfit.training.pace import Pace
from pixelfit.types import FULL_LENGTH, Array, Facts, Forecast, PictureSpec, Splits


def predicted(values: Array) -> Forecast:
    """A forecast of these values that says nothing of how sure it is."""
    return Forecast(values, np.zeros(len(values)), values)


def test_the_exponent_of_a_power_law_is_found() -> None:
    pairs = [(3.0, 2.0 * 1.0**-0.4, 2.0 * 3.0**-0.4), (2.0, 5.0, 5.0 * 2.0**-0.4)]
    assert time_exponent(pairs) == pytest.approx(0.4)
    assert time_exponent([(3.0, 1.0, 1.2)]) == pytest.approx(0.02)  # it got worse: more time promises next to nothing
    assert 0 < time_exponent([]) < 1


def test_finding_gains_fall_once_nothing_better_is_found() -> None:
    lucky, dry = finding_gain(1.0, [0.9, 0.81]), finding_gain(1.0, [1.1, 1.2, 1.3, 1.4])
    assert lucky == pytest.approx(np.mean([0.02, 0.1, 0.1]))
    assert 0 < dry < 0.01
    assert finding_gain(0.0, [0.0]) < 0.02  # a perfect score cannot be bettered


def test_shortening_costs_what_the_power_law_says() -> None:
    assert shortening_loss(10.0, 100.0, 0.3) == pytest.approx((100 / 90) ** 0.3 - 1)
    assert shortening_loss(100.0, 100.0, 0.3) == math.inf


def test_a_snapshot_pays_if_it_gains_more_a_second_than_a_third_model_would() -> None:
    # The second model took a tenth away in 90 s, so a third promises a thirtieth in 90 s.
    assert snapshots_pay(1.0, 0.9, 0.88, fresh_s=90.0, snapshot_s=30.0)
    assert not snapshots_pay(1.0, 0.9, 0.895, fresh_s=90.0, snapshot_s=30.0)
    assert not snapshots_pay(1.0, 0.9, 0.92, fresh_s=90.0, snapshot_s=30.0)


def test_what_chance_explains_is_not_clearly_worse() -> None:
    rng = np.random.default_rng(0)
    best = rng.exponential(size=400)
    assert not metrics.clearly_worse(best, best)
    assert metrics.clearly_worse(best + 0.1, best)
    assert not metrics.clearly_worse(best + rng.normal(0.0, 1.0, 400) - 0.05, best)


@pytest.mark.parametrize(
    ("stem", "layers"),  # a layer: pixels a side, kernel, channels in and out
    [
        ("pair", [(28, 3, 1, 16), (28, 3, 16, 16), (14, 3, 16, 32), (14, 3, 32, 32), (7, 3, 32, 64), (7, 3, 64, 64)]),
        ("strided", [(14, 4, 1, 32), (14, 3, 32, 32), (14, 3, 32, 32), (7, 3, 32, 64), (7, 3, 64, 64)]),
    ],
)
def test_operations_are_those_of_the_convolutions(stem: str, layers: list[tuple[int, int, int, int]]) -> None:
    architecture = {"stem": stem, "width": 16, "stages": 3, "grid": 4, "dropout": 0.0}
    by_hand = 2 * (sum(side**2 * kernel**2 * into * out for side, kernel, into, out in layers) + 64 * 9)
    assert _forward_operations("convnet", tuple(sorted(architecture.items())), PictureSpec(28, 28, 1)) == by_hand


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.fit is None and not family.pretrained])
def test_operations_are_counted_by_shapes_alone(family: str) -> None:
    spec, architecture = PictureSpec(25, 18, 3), {name: dim.start for name, dim in FAMILIES[family].space.items()}
    counted = 0

    def count(layer: nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal counted
        assert isinstance(layer.weight, torch.Tensor)
        counted += 2 * layer.weight.numel() * (output.numel() // output.shape[1])

    module = FAMILIES[family].build(spec, 1, architecture).eval()
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    module(torch.zeros(1, 3, 25, 18))
    assert _forward_operations(family, tuple(sorted(architecture.items())), spec) == counted


def test_costs_follow_the_speed_that_was_measured() -> None:
    facts, splits = prepared("regression")
    recipe, _ = build_space(facts, splits.train).known_good({"family": "convnet"})
    costs = CostModel(facts.spec, 1e9)
    before = costs.step_s(recipe)
    done = searching.Trial(1, "convnet", "portfolio", {}, "complete", 0, 9.0, steps=10, step_s=10 * before * 7)
    costs.learn(recipe, done)
    assert costs.step_s(recipe) == pytest.approx(7 * before)
    wider = replace(recipe, architecture={**recipe.architecture, "width": 32})
    assert costs.step_s(wider) > 2 * costs.step_s(recipe)
    trees, _ = build_space(facts, splits.train).known_good({"family": "trees"})
    assert costs.least_s(trees, 30, 1000) == 0.0
    costs.learn(trees, done)
    assert costs.least_s(trees, 30, 1000) == 9.0
    assert costs.least_s(recipe, 30, 1000) > 30 * costs.step_s(recipe)


@pytest.mark.full_size
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_every_recipe_of_the_portfolio_can_be_had(task) -> None:
    facts, splits = prepared(task)
    space = build_space(facts, splits.train)
    recipes = [space.known_good(wanted)[0] for wanted in portfolio()]
    assert recipes[0].family == portfolio()[0]["family"]
    for wanted, recipe in zip(portfolio(), recipes, strict=True):
        assert recipe.family == wanted["family"]
        for name, value in wanted.items():
            if name.startswith(f"{recipe.family}.") and name.partition(".")[2] in recipe.architecture:
                assert recipe.architecture[name.partition(".")[2]] == value


def test_answers_that_the_space_does_not_allow_become_the_usual_ones() -> None:
    facts, splits = prepared("regression")
    space = build_space(facts, splits.train)
    usual, _ = space.known_good({"family": "convnet"})
    asked, answers = space.known_good({"family": "convnet", "convnet.width": 17, "weight_decay": 7.0, "batch_size": 12345})
    assert asked == usual
    assert answers["convnet.width"] == usual.architecture["width"]


@pytest.mark.parametrize(("heads", "chosen"), [(("squared", "huber"), "huber"), (("discrete", "squared", "huber"), "discrete")])
def test_a_head_that_is_wanted_gives_way_to_the_discrete_one(heads: tuple[str, ...], chosen: str) -> None:
    facts, splits = prepared("regression")
    space = replace(build_space(facts, splits.train), heads=heads)
    assert space.known_good({"family": "convnet", "head": "huber"})[0].head == chosen


@pytest.mark.slow
@pytest.mark.usefixtures("processor_clock")
def test_a_budgeted_search_goes_through_its_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "_LEAST_SLICE_S", 0.3)
    monkeypatch.setattr(stages, "_FIRST_STEPS", 4)
    monkeypatch.setattr(stages.Stages, "_affordable", lambda self, recipe, seconds: True)  # on slow machines too
    wanted = ("portfolio", "second round", "full length")
    budget = 14
    run = fit(bars(150), checked_options(task="regression", budget=budget, out=tmp_path / "run"), progress=Silent())
    purposes = [trial.purpose for trial in run.trials]
    assert set(wanted) <= set(purposes)
    assert purposes[0] == "baseline"
    firsts = [purposes.index(name) for name in wanted]
    assert firsts == sorted(firsts)
    first_round = [trial for trial in run.trials if trial.purpose == "portfolio" and FAMILIES[trial.family].fit is None]
    second_round = [trial for trial in run.trials if trial.purpose == "second round"]
    assert second_round[0].recipe == first_round[0].recipe  # the portfolio's first goes on in any case
    assert second_round[0].steps >= first_round[0].steps  # as many where a busy machine does but the fewest
    best = min(first_round, key=lambda trial: trial.score)
    assert best.recipe in [trial.recipe for trial in second_round]
    assert run.wall_s < 1.4 * budget
    assert json.loads((run.folder.path / "final.json").read_text())["why"]


class _Begun:
    """A search under way, with trials of one recipe as if they had been trained."""

    def __init__(self, tmp_path: Path, *, steps: int | None = None) -> None:
        facts, self.splits, predictor = _predictor("regression", steps=4)
        space = build_space(facts, self.splits.train)
        self.recipe, _ = space.known_good({"family": "mlp"})
        self.model, self.folder = predictor.members[0].model, RunFolder.create(tmp_path / "run")
        costs, limits = CostModel(facts.spec, 1e9), searching.Limits(steps=steps)
        self.state = stages.Stages(
            space, Study(self.folder.study_file, space, seed=0), costs, Deadline(1000.0), limits, 0,
            self.splits, facts, self.folder, Silent(), began=0.0,
        )  # fmt: skip

    def ended(
        self, purpose: str, seconds: float, error: float, *, epochs: float = 1.0, continues: int | None = None
    ) -> searching.Trial:
        trial = searching.Trial(
            len(self.state.trials), "mlp", purpose, self.recipe.to_json(), "complete", 0, seconds,
            score=error, step_s=seconds, epochs=epochs, continues=continues,
        )  # fmt: skip
        self.folder.write_trial(trial, [], [self.model], predicted(self.splits.validation.targets + error))
        self.state.trials.append(trial)
        self.state.planned = len(self.state.trials)
        return trial


@pytest.mark.slow
def test_short_trainings_have_room_for_the_best_bet_once_it_is_known_to_be_slow(tmp_path: Path) -> None:
    begun = _Begun(tmp_path)
    begun.state._fit_slice(begun.recipe)
    quick_s = begun.state.slice_s
    step_s = 2 * quick_s / 100  # twice as slow as 100 steps in that time
    slow = replace(begun.ended("probe", 80 * step_s, 1.0), steps=80, step_s=80 * step_s)
    begun.state.costs.learn(begun.recipe, slow)
    assert not begun.state._affordable(begun.recipe, quick_s)
    begun.state._fit_slice(begun.recipe)
    assert begun.state.slice_s > quick_s
    assert begun.state._affordable(begun.recipe, begun.state.slice_s)


@pytest.mark.slow
@pytest.mark.parametrize(("error", "cycles"), [(-1.0, 3), (5.0, 1)])
def test_snapshots_go_on_from_each_other_as_long_as_they_pay(tmp_path: Path, error: float, cycles: int) -> None:
    begun = _Begun(tmp_path)
    leader, fresh = (begun.ended("full length", 90.0, 1.0) for _ in range(2))
    plans = []
    for plan, _ in begun.state._snapshots(leader, fresh):
        plans.append(plan)
        if len(plans) == 3:
            break
        assert plan.continues is not None
        begun.ended(plan.purpose, 1.0, error, continues=plan.continues)
    assert [plan.continues for plan in plans] == [0, 2, 3][:cycles]
    for plan in plans:
        assert plan.purpose == "snapshot"
        assert plan.recipe == begun.recipe
        assert plan.pace.seconds == pytest.approx(30.0, rel=0.1)
        assert plan.starts[0].weights is not None


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "steps", "goes_on"), [(0.05, None, True), (900.0, None, False), (0.05, 40, False)])
def test_a_longer_training_goes_on_from_the_shorter_ones_weights_where_time_is_short(
    tmp_path: Path, seconds: float, steps: int | None, goes_on: bool
) -> None:
    begun = _Begun(tmp_path, steps=steps)
    first = begun.ended("portfolio", 1.0, 1.0)
    plan = begun.state._onward(first, "second round", seconds, 3.0)
    assert (plan.recipe, plan.purpose, plan.pace.most_epochs) == (begun.recipe, "second round", 3 * begun.recipe.epochs)
    if goes_on:
        assert plan.continues == first.number
        weights = begun.model.module.state_dict()
        assert all(torch.equal(weights[name], tensor) for name, tensor in plan.starts[0].weights.module.state_dict().items())
    else:
        assert (plan.continues, plan.starts) == (None, ())


@pytest.mark.slow
def test_all_the_time_behind_a_models_weights_counts(tmp_path: Path) -> None:
    begun = _Begun(tmp_path)
    first = begun.ended("portfolio", 10.0, 1.0)
    second = begun.ended("second round", 30.0, 0.5, continues=first.number)
    assert begun.state._trained_s(second) == 40.0
    assert begun.state._exponent("second round") == pytest.approx(math.log(2) / math.log(4))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epochs", "errors", "had"),
    [
        ((9.0, 2.0), (1.0, 1.0), True),  # as good after fewer than a third of the epochs
        ((9.0, 4.0), (1.0, 1.0), False),
        ((9.0, 2.0), (1.0, 2.0), False),
        ((2.0, 2.0), (2.0, 1.0), True),  # clearly better after as many
        ((2.0, 9.0), (2.0, 1.0), False),
    ],
)
def test_a_recipe_had_its_chance_where_another_got_as_far_with_less(
    tmp_path: Path, epochs: tuple[float, float], errors: tuple[float, float], had: bool
) -> None:
    begun = _Begun(tmp_path)
    trials = [begun.ended("portfolio", 1.0, error, epochs=count) for error, count in zip(errors, epochs, strict=True)]
    assert begun.state._had_its_chance(trials[0], trials) is had


@pytest.mark.slow
@pytest.mark.parametrize(("behind", "goes_on"), [(1.9, [0, 1, 3]), (2.1, [0, 1])])
def test_the_second_round_takes_a_young_recipe_too_unless_it_is_far_behind(
    tmp_path: Path, behind: float, goes_on: list[int]
) -> None:
    begun = _Begun(tmp_path)
    begun.state.slice_s = 0.01
    for error, epochs in ((1.0, 2.0), (1.0, 2.0), (1.1, 2.0), (behind, 0.5)):
        begun.ended("portfolio", 1.0, error, epochs=epochs)
    assert [plan.continues for plan, _ in begun.state._second_round()] == goes_on


@pytest.mark.slow
@pytest.mark.parametrize(
    ("errors", "goes_on"), [((1.5, 1.0, 1.2), [0, 1]), ((1.0, 1.5, 1.2), []), ((1.5, 1.0), [0, 1]), ((), [])]
)
def test_of_few_short_trainings_the_first_recipe_is_looked_at_again_beside_the_best(
    tmp_path: Path, errors: tuple[float, ...], goes_on: list[int]
) -> None:
    begun = _Begun(tmp_path)
    begun.state.slice_s = 0.01
    for error in errors:
        begun.ended("portfolio", 1.0, error, epochs=2.0)
    assert [plan.continues for plan, _ in begun.state._second_round()] == goes_on


@pytest.mark.slow
def test_nothing_more_is_begun_once_the_time_is_up(tmp_path: Path) -> None:
    begun = _Begun(tmp_path)
    begun.state.slice_s = 0.01
    for error in (1.5, 1.0, 1.2, 1.3):
        begun.ended("portfolio", 1.0, error, epochs=2.0)
    steps = begun.state._second_round()
    assert next(steps)[0].continues == 0
    begun.state.deadline = Deadline(0.0)
    assert list(steps) == []
    assert list(begun.state._finals([])) == []


@pytest.mark.slow
@pytest.mark.parametrize(("sampled", "pays"), [((0.5, 0.25), True), ((2.0,) * 20, False)])
def test_recipes_are_sampled_while_they_gain_more_than_their_time_would(
    tmp_path: Path, sampled: tuple[float, ...], pays: bool
) -> None:
    begun = _Begun(tmp_path)
    begun.state.slice_s = 5.0
    for purpose, errors in (("portfolio", (1.0, 1.2)), ("second round", (0.9, 1.0)), ("sampled", sampled)):
        for error in errors:
            begun.ended(purpose, 1.0, error)
    assert begun.state._finding_pays() is pays


def test_members_are_fast_enough_together() -> None:
    rng = np.random.default_rng(0)
    targets = rng.normal(size=400)
    predictions = [targets + rng.normal(0, 0.5, 400) for _ in range(4)]
    assert len(greedy_weights(predictions, targets, rmse)) == 4
    weights = greedy_weights(predictions, targets, rmse, [1.0, 2.0, 1.0, 5.0], 4.0)
    assert set(weights) == {0, 1, 2}


@pytest.mark.slow
def test_a_latency_that_nothing_can_keep_is_an_error(tmp_path: Path) -> None:
    pictures, columns = bars(150)
    options = checked_options(task="regression", trials=2, steps=4, max_latency="0.0000001ms", out=tmp_path / "run")
    with pytest.raises(SearchError, match="--max-latency 1e-07ms"):
        fit((pictures, columns), options, progress=Silent())


@pytest.mark.parametrize("text", ["soon", "0ms", "-3ms", "5 minutes", ""])
def test_a_latency_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--max-latency"):
        checked_options(max_latency=text)
    assert checked_options(max_latency="0.5s").max_latency == 500.0


def _predictor(task, steps: int = 60, noise: float = 0.0) -> tuple[object, object, Predictor]:
    facts, splits = prepared(task, noise=noise)
    plain = {"family": "mlp", "augment": 0.0}
    model = trained(build_space(facts, splits.train).known_good(plain)[0], facts, splits, pace=Pace(steps=steps)).model
    return facts, splits, Predictor(facts.task, facts.classes, facts.target_name, (Member(model, 1, 1.0),))


@pytest.mark.slow
@pytest.mark.parametrize(("task", "head"), [("classification", "classes"), ("regression", "discrete"), ("regression", "squared")])
def test_a_student_is_taught_what_the_teacher_predicts(task, head: str) -> None:
    facts, splits, teacher = _predictor(task)
    recipe = replace(build_space(facts, splits.train).known_good({"family": "mlp"})[0], head=head, label_smoothing=0.0)
    lessons = teachings(teacher, recipe, splits.train, facts)
    predicted = teacher.raw(splits.train.store, splits.train.rows)
    own = make_head(recipe.head, splits.train.targets, len(facts.classes or ()), facts.metric)
    if head == "squared":
        taught = own.predict(lessons[:, None]).numpy()
    elif head == "discrete":
        taught = lessons.double().numpy() @ np.array(own.values)
    else:
        taught = lessons.numpy()
    np.testing.assert_allclose(taught, predicted, atol=1e-5)
    start = Start(targets=lessons)
    lesson = Lesson(splits.train, splits.validation, facts)
    student = train(recipe, lesson, seed=0, pace=Pace(steps=200), monitor=Unwatched(), stopped=lambda: False, start=start).model
    apart = np.abs(student.predict(splits.train.store, splits.train.rows) - predicted).mean()
    before = np.abs(predicted.mean(axis=0) - predicted).mean()
    assert apart < 0.5 * before


@pytest.mark.slow
def test_distilling_gives_one_model_that_learned_from_the_ensemble(tmp_path: Path) -> None:
    pictures, columns = bars(150)
    options = checked_options(task="regression", trials=4, steps=40, distill=True, out=tmp_path / "run")
    run = fit((pictures, columns), options, progress=Silent())
    assert run.trials[-1].purpose == "distilled"
    assert [member.trial for member in run.predictor.members] == [run.trials[-1].number]
    fastest = student_recipe(run.trials[:-1], run.predictor)
    assert run.trials[-1].family == fastest.family


@pytest.mark.slow
def test_a_distillation_that_is_interrupted_keeps_its_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = finishing.teachings

    def interrupting(*args):
        interrupted.append(True)
        return original(*args)

    interrupted: list[bool] = []
    monkeypatch.setattr(finishing, "teachings", interrupting)
    monkeypatch.setattr(Deadline, "interrupted", property(lambda self: bool(interrupted)))
    pictures, columns = bars(150)
    options = checked_options(task="regression", trials=3, steps=40, distill=True, out=tmp_path / "run")
    run = fit((pictures, columns), options, progress=Silent())
    assert (run.trials[-1].purpose, run.trials[-1].state) == ("distilled", "interrupted")
    assert run.trials[-1].number not in [member.trial for member in run.predictor.members]
    assert json.loads((run.folder.path / "final.json").read_text())["distilled"] is False


def _records(tmp_path: Path, fewer_is_worse: float):
    """A run folder's trials: one recipe on all pictures and on fewer, with errors that differ by so much."""
    facts, splits, predictor = _predictor("regression", steps=20, noise=0.5)
    recipe, _ = build_space(facts, splits.train).known_good({"family": "mlp", "augment": 0.0})
    folder = RunFolder.create(tmp_path / "run")
    rng = np.random.default_rng(0)
    targets = splits.validation.targets
    trials = []
    for number, (purpose, error) in enumerate((("second round", 1.0), (FEWER, 1.0 + fewer_is_worse))):
        predictions = targets + error * rng.choice([-1.0, 1.0], len(targets))
        trial = searching.Trial(
            number,
            recipe.family,
            purpose,
            recipe.to_json(),
            "complete",
            0,
            1.0,
            steps=20,
            best_at_step=20,
            score=error,
            step_s=1.0,
        )
        folder.write_trial(trial, [], [predictor.members[0].model], predicted(predictions))
        trials.append(trial)
    return trials, splits, facts, folder, predictor


@pytest.mark.slow
def test_a_refit_pays_where_fewer_pictures_cost(tmp_path: Path) -> None:
    trials, splits, facts, folder, _ = _records(tmp_path, 0.3)
    assert pays(trials, splits, facts, folder)[0]
    assert not pays(trials[:1], splits, facts, folder)[0]


@pytest.mark.slow
def test_a_refit_does_not_pay_where_fewer_pictures_cost_nothing(tmp_path: Path) -> None:
    trials, splits, facts, folder, _ = _records(tmp_path, -0.1)
    worth, why = pays(trials, splits, facts, folder)
    assert not worth
    assert f"{1 - share_without(splits):.0%} fewer pictures" in why


def refit_of(splits: Splits, facts: Facts, deadline: Deadline | None = None) -> Refit:
    here = engine.LocalEngine(splits.folds, facts, deadline or Deadline(None), Silent())
    return Refit(splits, facts, Silent(), here, lambda: math.inf)


@pytest.mark.slow
def test_a_refit_learns_the_validation_pictures_and_keeps_the_calibration(tmp_path: Path) -> None:
    trials, splits, facts, _, predictor = _records(tmp_path, 0.3)
    model = replace(predictor.members[0].model, temperature=0.7)
    predictor = replace(predictor, members=(Member(model, 0, 1.0),))
    refit = refit_of(splits, facts)
    longer = [replace(trial, steps=200, best_at_step=200) for trial in trials]
    again = refit.all(predictor, longer)
    assert again is not None
    new = again.members[0].model
    assert (new.temperature, new.head, new.preparation) == (0.7, model.head, model.preparation)
    validation = splits.validation
    before, after = (rmse(validation.targets, each.predict(validation.store, validation.rows)) for each in (model, new))
    assert after < before


@pytest.mark.slow
def test_a_snapshot_is_refitted_from_the_refitted_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[Start] = []

    def recorded(job: Job, **options: object) -> object:
        starts.append(job.start)
        return train_alone(job, **options)  # type: ignore[arg-type]

    trials, splits, facts, _, predictor = _records(tmp_path, 0.3)
    trials = [trials[0], replace(trials[0], number=1, purpose="snapshot", continues=0)]
    model = predictor.members[0].model
    members = (Member(model, 1, 0.5), Member(model, 0, 0.5))
    monkeypatch.setattr(engine, "train_alone", recorded)
    refit = refit_of(splits, facts)
    again = refit.all(replace(predictor, members=members), trials)
    assert again is not None
    assert [member.trial for member in again.members] == [1, 0]
    assert starts[0].weights is None
    assert starts[1].weights is again.members[1].model
    assert refit.all(replace(predictor, members=members[:1]), trials) is None  # without the trial whose weights it goes on from


@pytest.mark.slow
def test_what_an_earlier_check_had_is_not_refitted(tmp_path: Path) -> None:
    trials, splits, facts, _, predictor = _records(tmp_path, 0.3)
    predictor = replace(predictor, members=(Member(predictor.members[0].model, 0, 1.0),))
    early = [replace(trial, best_at_step=10) for trial in trials]
    assert refit_of(splits, facts).all(predictor, early) is None


@pytest.mark.slow
def test_a_refit_that_fails_leaves_the_validated_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise FloatingPointError("the loss is nan")

    trials, splits, facts, _, predictor = _records(tmp_path, 0.3)
    predictor = replace(predictor, members=(Member(predictor.members[0].model, 0, 1.0),))
    monkeypatch.setattr(engine, "train_alone", broken)
    assert refit_of(splits, facts).all(predictor, trials) is None


@pytest.mark.slow
def test_a_refit_that_runs_out_of_time_is_not_kept(tmp_path: Path) -> None:
    trials, splits, facts, _, predictor = _records(tmp_path, 0.3)
    predictor = replace(predictor, members=(Member(predictor.members[0].model, 0, 1.0),))
    stopped = Deadline(None)
    stopped.interrupt()
    refit = refit_of(splits, facts, stopped)
    assert refit.all(predictor, trials) is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shifted", "mirrored"])
def test_views_are_the_picture_moved(kind: str, tmp_path: Path) -> None:
    _, splits, predictor = _predictor("regression")
    model = predictor.members[0].model
    store = splits.validation.store[splits.validation.rows]
    if kind == "mirrored":
        moved = [store, store[:, :, ::-1]]
    else:
        padded = np.pad(store, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        moved = [store, padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]]
    by_hand = torch.stack([model.outputs(np.ascontiguousarray(view)) for view in moved]).mean(dim=0)
    viewed = replace(model, views=kind)
    torch.testing.assert_close(viewed.outputs(store), by_hand, atol=1e-4, rtol=1e-4)
    viewed.save(tmp_path)
    assert Model.load(tmp_path).views == kind


def test_time_is_kept_for_what_follows_the_search() -> None:
    facts, splits = prepared("regression")
    trial = searching.Trial(0, "convnet", "portfolio", {}, "complete", 0, 1.0, score=1.0, predict_ms=10.0)
    deadline = Deadline(1000.0)
    plain, wanting = (
        searching.time_after([trial], splits, facts, searching.Limits(distill=distill), deadline) for distill in (False, True)
    )
    assert wanting == pytest.approx(plain + 250)


def test_time_is_kept_for_views_that_one_final_may_have_though_two_may_not() -> None:
    facts, splits = prepared("regression")
    deadline = Deadline(1000.0)
    one_ms = 0.6 * searching.most_views_ms(splits, deadline) / max(VIEWS.values())
    final = searching.Trial(1, "convnet", FULL_LENGTH, {}, "complete", 0, 1.0, score=1.0, predict_ms=one_ms)
    kept = searching.time_after([final], splits, facts, searching.Limits(), deadline) - searching.after_s(
        splits, facts, deadline.budget_s
    )
    pictures = 2 * len(splits.validation) + len(splits.test)
    assert kept >= (max(VIEWS.values()) + 1) * one_ms / 1000 * pictures


@pytest.mark.slow
@pytest.mark.usefixtures("processor_clock")
def test_what_cannot_finish_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Listening(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    monkeypatch.setattr(CostModel, "step_s", lambda self, recipe: 1e6)
    monkeypatch.setattr(stages, "_TRIES", 1)
    pictures, columns = bars(60)
    run = fit((pictures, columns), checked_options(task="regression", budget="2m", out=tmp_path / "run"), progress=Listening())
    assert all(FAMILIES[trial.family].fit is not None for trial in run.trials)
    assert any("too slow" in text for text in said)


def test_more_time_is_kept_on_a_machine_that_others_slow_down() -> None:
    idle, slowed = Deadline(1000.0), Deadline(1000.0)
    slowed.slowed_by(2.0)
    for deadline in (idle, slowed):
        deadline.reserve(100.0)
    assert 99 < idle.left() - slowed.left() < 101
    assert 1.0 <= slowed_by_others() <= 4.0
