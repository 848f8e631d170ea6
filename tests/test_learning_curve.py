"""What more pictures and more time would give, and which choices decide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import opened_copy
from test_search import _Begun

from pixelfit import report
from pixelfit.automl import Run
from pixelfit.files import read_json, write_json
from pixelfit.report.more import more_section, points_of
from pixelfit.report.parallel import parallel_coordinates
from pixelfit.report.search_charts import best_until, pareto
from pixelfit.report.tried import charts_of, importance_words
from pixelfit.runs import RunFolder
from pixelfit.search import sizes
from pixelfit.search.importance import importance
from pixelfit.types import FULL_LENGTH, SIZES, Json, Trial


def test_shares_take_no_more_time_than_is_allowed() -> None:
    curve = sizes.lessons(5000, 180.0, 55_000, allowed_s=24.0)
    assert len(curve) == 2
    (small, few), (large, many) = curve
    assert small == pytest.approx(large / 4)
    assert many == round(5000 * large)
    assert few >= 200  # as many as fit, where the share of the epochs is fewer
    assert (many + few) * 180.0 / 5000 <= 24.0 * 1.01


@pytest.mark.parametrize(
    ("steps", "seconds", "pictures"),
    [
        (5000, 180.0, 500),  # a share of a share would be a handful of pictures
        (5000, 2500.0, 55_000),  # the shares' trainings would be a few steps
        (100, 1.0, 55_000),  # so is the whole training
    ],
)
def test_there_is_no_curve_where_it_would_say_nothing(steps: int, seconds: float, pictures: int) -> None:
    assert sizes.lessons(steps, seconds, pictures, allowed_s=24.0) == ()


def test_what_is_fitted_in_one_go_has_no_steps() -> None:
    assert sizes.lessons(0, 1.0, 2000, allowed_s=24.0) == ((0.125, 0), (0.5, 0))


@pytest.mark.slow
def test_a_search_trains_the_best_quick_recipe_on_shares(tmp_path: Path) -> None:
    begun = _Begun(tmp_path)
    begun.ended("baseline", 0.1, 5.0)
    begun.ended("portfolio", 2.0, 1.0)
    begun.state.trials[-1] = replace(begun.state.trials[-1], steps=400)
    begun.ended(FULL_LENGTH, 5000.0, 0.5)  # the best one takes too long
    begun.state.trials[-1] = replace(begun.state.trials[-1], steps=4000)
    plans = [plan for plan, _ in begun.state._fewer_pictures()]
    assert plans == []  # no time was kept for it
    begun.state.sizes_s = 30.0
    pictures = len(begun.splits.train)
    plans = [plan for plan, _ in begun.state._fewer_pictures()]
    shares = [plan.share for plan in plans]
    assert shares == ([0.125, 0.5] if 0.125 * pictures >= 40 else [])
    assert begun.state.sizes_s == 0.0
    for plan in plans:
        assert (plan.purpose, plan.recipe, plan.starts) == (SIZES, begun.recipe, ())
        assert plan.pace.steps == max(200, round(400 * plan.share))


@pytest.mark.slow
def test_the_best_bet_is_made_up_for_where_it_seemed_too_slow(tmp_path: Path) -> None:
    begun = _Begun(tmp_path)
    recipe, _ = begun.state._known_good()[0]
    begun.ended("portfolio", 1.0, 1.0)
    plans = [plan for plan, _ in begun.state._best_bet(recipe)]
    assert [(plan.recipe, plan.purpose) for plan in plans] == [(recipe, FULL_LENGTH)]
    assert plans[0].pace.seconds == pytest.approx(begun.state.left(), rel=0.1)
    begun.state.trials[-1] = replace(begun.state.trials[-1], recipe=recipe.to_json())
    assert list(begun.state._best_bet(recipe)) == []


def trials_of(scores: dict[float, float], *, seconds: float = 10.0) -> list[Json]:
    """A baseline and a recipe on shares of the pictures, the whole last, with intervals of a tenth around."""
    constant = {"number": 0, "family": "constant", "purpose": "baseline", "recipe": {"a": 0}, "state": "complete"}
    trials = [{**constant, "seconds": 0.1, "score": 9.0, "interval": [8.0, 10.0], "share": 1.0, "metrics": {"rmse": 9.0}}]
    for number, (share, score) in enumerate(scores.items(), start=1):
        purpose = SIZES if share < 1 else FULL_LENGTH
        told = {"number": number, "family": "mlp", "purpose": purpose, "recipe": {"a": 1}, "state": "complete", "share": share}
        trials.append({**told, "seconds": seconds, "score": score, "interval": [0.9 * score, 1.1 * score]})
    return trials


DATA = {"sizes": {"train": 16_000, "validation": 2000, "test": 2000}}


def test_a_power_law_says_what_twice_as_many_pictures_would_bring() -> None:
    trials = trials_of({1.0: 0.5, 1 / 4: 1.0, 1 / 16: 2.0})
    points = points_of(trials, DATA, "rmse")
    assert [point["pictures"] for point in points] == [1000, 4000, 16_000]
    assert [point["score"] for point in points] == [2.0, 1.0, 0.5]
    words = more_section(trials, DATA, "rmse")["pictures"]
    assert (
        "With 4,000 training pictures the recipe of trial #1 had a validation RMSE of 1.000, with all 16,000 it has 0.5000."
        in words
    )
    assert "to about 0.3536 (29% less)" in words  # 0.5 / √2


def test_intervals_that_overlap_give_a_hint_only() -> None:
    words = more_section(trials_of({1.0: 0.9, 1 / 4: 1.0, 1 / 16: 2.0}), DATA, "rmse")["pictures"]
    assert "to about 0.8538 (5% less). The intervals of the two overlap, so take this for a hint." in words  # 0.9 / √(1/0.9)


@pytest.mark.parametrize("whole", [0.99, 1.2])
def test_a_flat_curve_promises_little(whole: float) -> None:
    words = more_section(trials_of({1.0: whole, 1 / 4: 1.0, 1 / 16: 2.0}), DATA, "rmse")["pictures"]
    assert words.endswith("More pictures of this kind promise little.")


def test_shares_of_metrics_that_grow_count_as_costs() -> None:
    trials = trials_of({1.0: 0.01, 1 / 4: 0.04})
    for trial in trials:
        trial["interval"] = [1 - 1.1 * trial["score"], 1 - 0.9 * trial["score"]]
    last = points_of(trials, DATA, "accuracy")[-1]
    assert (last["low"], last["high"]) == (pytest.approx(0.009), pytest.approx(0.011))


def test_with_folds_each_model_has_seen_the_others() -> None:
    data = {"folds": 5, "sizes": {"development": 500, "test": 100}}
    assert points_of(trials_of({1.0: 0.5, 1 / 4: 1.0}), data, "rmse")[-1]["pictures"] == 400


def test_the_second_half_of_the_search_says_whether_more_time_helps() -> None:
    trials = trials_of({1.0: 1.0})
    later = {**trials[1], "number": 2, "score": 0.5, "seconds": 12.0}
    assert "fell from 1.000 to 0.5000, by 50%" in more_section([*trials, later], DATA, "rmse")["time"]
    same = {**later, "score": 0.999}
    assert "promises little" in more_section([*trials, same], DATA, "rmse")["time"]
    assert best_until([*trials, later])[1] == [1.0, 0.5, 0.5]  # the baseline does not count


def test_the_front_is_of_those_that_none_beats() -> None:
    trials = [{"predict_ms": ms, "score": score} for ms, score in ((1, 5.0), (2, 6.0), (2, 4.0), (3, 4.0), (9, 1.0))]
    assert [(trial["predict_ms"], trial["score"]) for trial in pareto(trials)] == [(1, 5.0), (2, 4.0), (9, 1.0)]


def recipes(count: int) -> list[Trial]:
    """Trials whose score depends on the learning rate alone."""
    rng = np.random.default_rng(0)
    trials = []
    for number in range(count):
        rate, decay = 10 ** rng.uniform(-4, -1), 10 ** rng.uniform(-4, -1)
        amount = float(rng.choice([0.0, 1.0]))
        recipe = {
            "family": "convnet" if number % 2 else "mlp",
            "architecture": {"width": 16} if number % 2 else {"hidden": int(rng.choice([64, 128]))},
            "learning_rate": rate,
            "weight_decay": decay,
            "augmentation": {"rotate": 7 * amount, "shift": 0.05 * amount},
            "epochs": 12.0,
        }
        score = 1 + abs(np.log10(rate) + 2)
        trials.append(Trial(number, str(recipe["family"]), "sampled", recipe, "complete", 0, 1.0, score=score))
    return trials


def test_the_choice_that_decides_is_found() -> None:
    record = importance(recipes(60), seed=0)
    assert record["choices"][0]["name"] == "learning rate"
    assert record["choices"][0]["share"] > 0.6
    assert record["explained"] > 0.5
    names = [choice["name"] for choice in record["choices"]]
    assert "augmentation rotate, shift" in names  # which go together
    assert "epochs" not in names  # the same in all
    assert "mlp hidden" in names
    assert sum(choice["share"] for choice in record["choices"]) == pytest.approx(1.0)
    assert importance(recipes(60), seed=0) == record


def test_few_trials_or_ones_of_different_length_say_nothing() -> None:
    assert importance(recipes(7), seed=0) is None
    assert importance([replace(trial, purpose=FULL_LENGTH) for trial in recipes(20)], seed=0) is None


def test_parallel_coordinates_have_a_line_a_trial() -> None:
    trials = [{**vars(trial), "recipe": trial.recipe} for trial in recipes(12)]
    chart = parallel_coordinates(trials, ["learning rate", "augmentation rotate, shift"], "validation RMSE")
    assert chart is not None
    lines = chart.renderers[-1].data_source.data
    assert len(lines["ys"]) == 12
    assert {len(heights) for heights in lines["ys"]} == {7}
    assert list(chart.xaxis[0].major_label_overrides.values())[:2] == ["learning rate", "rotate"]
    best = lines["ys"][-1]  # drawn last, on top
    assert best[-1] == 0.0
    assert parallel_coordinates(trials[:1], [], "RMSE") is None


def test_runs_from_before_these_were_saved_are_drawn(regression_run: Run, tmp_path: Path) -> None:
    folder = RunFolder(opened_copy(regression_run.folder.path, tmp_path / "old"))
    (folder.path / "importance.json").unlink()
    (folder.path / "pictures" / "thumbnails.webp").unlink()
    for file in folder.path.glob("trials/*/trial.json"):
        record = read_json(file)
        write_json(file, {name: value for name, value in record.items() if name not in ("share", "interval")})
    facts = folder.read("facts.json")
    write_json(folder.path / "facts.json", {name: value for name, value in facts.items() if name != "fingerprint"})
    report.draw(folder)
    page = folder.report_file.read_text(encoding="utf-8")
    assert "Which choices decide was not measured" in page
    assert "each shown under the pointer" not in page


@pytest.mark.parametrize(
    ("explained", "words", "drawn"), [(0.01, "cannot be told", False), (0.1, "take the shares for a hint", True)]
)
def test_a_forest_that_explains_little_is_not_believed(explained: float, words: str, drawn: bool) -> None:
    record = {**importance(recipes(20), seed=0), "explained": explained}
    trials = [{**vars(trial), "history": []} for trial in recipes(20)]
    assert words in importance_words(record)
    assert ("importance" in charts_of(trials, "rmse", record)) == drawn
