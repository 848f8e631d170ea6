from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_models import Unwatched, prepared, trained

from pixelfit import environment
from pixelfit.search.space import build_space
from pixelfit.threads import spin_briefly
from pixelfit.training import loop
from pixelfit.training import machine as measuring
from pixelfit.training.augment import augment
from pixelfit.training.averaging import WeightAverage
from pixelfit.training.loop import Lesson, Start, train
from pixelfit.training.pace import Pace, Pulse, look_cost, looks_worth
from pixelfit.training.recipe import Augmentation, Recipe


def _weights(result: loop.Trained) -> list[torch.Tensor]:
    return list(result.model.module.state_dict().values())


@pytest.mark.slow
def test_same_seed_same_weights_other_seed_other_weights() -> None:
    facts, splits = prepared("regression")
    recipe, _ = build_space(facts, splits.train).known_good({"family": "convnet"})
    once, again, other = (trained(recipe, facts, splits, pace=Pace(steps=12), seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(_weights(once), _weights(again), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(_weights(once), _weights(other), strict=True))
    assert [check.score for check in once.history] == [check.score for check in again.history]


@pytest.mark.slow
def test_a_training_measured_by_the_clock_repeats_from_its_number_of_steps() -> None:
    facts, splits = prepared("regression")
    recipe, _ = build_space(facts, splits.train).known_good({"family": "mlp"})
    measured = trained(recipe, facts, splits, pace=Pace(seconds=60.0, most_epochs=5.0))
    assert not measured.replans
    repeated = trained(recipe, facts, splits, pace=Pace(steps=measured.steps))
    assert all(torch.equal(a, b) for a, b in zip(_weights(measured), _weights(repeated), strict=True))


@pytest.mark.slow
def test_a_training_whose_time_is_up_takes_the_fewest_steps() -> None:
    facts, splits = prepared("regression")
    recipe, _ = build_space(facts, splits.train).known_good({"family": "mlp"})
    result = trained(recipe, facts, splits, pace=Pace(seconds=1e-6, most_epochs=5.0))
    assert 1 <= result.steps <= loop.FEWEST_STEPS


@pytest.mark.slow
def test_a_training_that_would_run_over_its_time_is_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    facts, splits = prepared("regression")
    recipe, _ = build_space(facts, splits.train).known_good({"family": "mlp"})
    now = [0.0]

    def slower_and_slower() -> float:
        now[0] += 0.05 * (1 + now[0] / 10)
        return now[0]

    monkeypatch.setattr(loop.time, "monotonic", slower_and_slower)
    result = trained(recipe, facts, splits, pace=Pace(seconds=40.0, most_epochs=1e6))
    assert result.replans
    assert result.steps == result.replans[-1][1]
    assert now[0] < 44.0


@pytest.mark.slow
def test_a_training_measured_on_a_slow_moment_is_lengthened_early(monkeypatch: pytest.MonkeyPatch) -> None:
    facts, splits = prepared("regression")
    recipe, _ = build_space(facts, splits.train).known_good({"family": "mlp"})
    now = [0.0]

    def slow_at_first() -> float:
        now[0] += 0.5 if now[0] < 15 else 0.1
        return now[0]

    monkeypatch.setattr(loop.time, "monotonic", slow_at_first)
    result = trained(recipe, facts, splits, pace=Pace(seconds=200.0, most_epochs=1e6))
    assert result.replans[0][1] > result.replans[0][0] / 0.3
    assert result.steps == result.replans[-1][1]
    assert 150.0 < now[0] < 210.0


def test_a_training_grows_by_how_fast_the_machine_is_now() -> None:
    pulse = Pulse(total=100, most=10_000, step=10)
    pulse.replan(seconds_spent=10.0, seconds_left=90.0, check_s=0.0)
    assert (pulse.total, pulse.replans) == (100, [])
    pulse.step = 20  # ten steps in half a second, after ten in ten seconds
    pulse.replan(seconds_spent=10.5, seconds_left=89.5, check_s=0.0)
    assert pulse.replans == [(20, 20 + 1790)]
    pulse.step = 800  # past where it may grow, but for a little
    pulse.replan(seconds_spent=12.5, seconds_left=90.0, check_s=0.0)
    assert pulse.replans[1:] == [(800, 1992)]
    pulse.step = 1800  # one slow moment does not end a training early
    pulse.replan(seconds_spent=42.5, seconds_left=60.0, check_s=0.0)
    assert len(pulse.replans) == 2


def test_waiting_threads_sleep_soon_unless_the_user_has_settled_it() -> None:
    plain: dict[str, str] = {}
    spin_briefly(plain)
    assert plain == {"GOMP_SPINCOUNT": "1000"}
    for settled in ({"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}):
        kept = dict(settled)
        spin_briefly(kept)
        assert kept == settled


def test_looks_take_a_twentieth_of_a_training_at_most() -> None:
    cost = look_cost(rows=2_000, batch=128)
    assert cost == pytest.approx(2_000 / 3 / 128)
    assert [looks_worth(steps, cost) for steps in (100, 250, 450, 900, 9_000)] == [1, 2, 4, 8, 8]
    for steps in (250, 450, 900, 9_000):
        assert looks_worth(steps, cost) * cost <= 0.05 * steps
    assert looks_worth(100, 0.0) == 8


@pytest.mark.parametrize("total", [7, 80, 101, 1_000])
@pytest.mark.parametrize("look_steps", [0.0, 0.9, 1.9])
def test_the_last_look_is_at_the_end_and_the_others_lie_evenly_before_it(total: int, look_steps: float) -> None:
    pulse, places = Pulse(total=total, most=total, look_steps=look_steps), []
    while pulse.step < total:
        pulse.step = pulse.next_look()
        places.append(pulse.step)
    looks = min(looks_worth(total, look_steps), total)
    assert places[-1] == total
    assert len(places) == len(set(places)) == looks
    assert np.ptp(np.diff([0, *places])) <= 1


@pytest.mark.slow
def test_a_losing_training_ends_at_its_check() -> None:
    class Impatient(Unwatched):
        def on_check(self, fraction: float, score: float) -> bool:
            return fraction >= 0.5

    facts, splits = prepared("classification")
    recipe, _ = build_space(facts, splits.train).known_good({"family": "mlp"})
    result = train(
        recipe,
        Lesson(splits.train, splits.validation, facts),
        seed=0,
        pace=Pace(steps=80),
        monitor=Impatient(),
        stopped=lambda: False,
    )
    assert (result.state, result.steps) == ("pruned", 40)


@pytest.mark.slow
def test_a_request_to_stop_ends_after_the_step_with_a_checked_model() -> None:
    facts, splits = prepared("classification")
    recipe, _ = build_space(facts, splits.train).known_good({"family": "mlp"})
    result = train(
        recipe,
        Lesson(splits.train, splits.validation, facts),
        seed=0,
        pace=Pace(steps=80),
        monitor=Unwatched(),
        stopped=lambda: True,
    )
    assert (result.state, result.steps, len(result.history)) == ("interrupted", 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([5.0, 3.0, 1.0, 4.0, 4.0, 4.0, 4.0, 4.0], 30),  # learning by heart: far worse at the end
        ([5.0, 4.0, 3.0, 2.0, 2.0, 1.0, 0.9, 0.8], 80),
        ([5.0, 4.0, 3.0, 2.0, 0.79, 1.0, 0.9, 0.8], 80),  # a lead that is luck
    ],
)
def test_the_last_weights_are_kept_unless_earlier_ones_were_clearly_better(
    scores: list[float], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, splits = prepared("regression")
    recipe, _ = build_space(facts, splits.train).known_good({"family": "mlp"})
    rng = np.random.default_rng(0)
    losses = iter([score + rng.normal(0, 0.3, 100) for score in scores])
    monkeypatch.setattr(loop._Training, "_row_losses", lambda self, checked: next(losses))
    weights = []
    original = loop._copy

    def remembering(model: loop.Model) -> dict[str, torch.Tensor]:
        weights.append(original(model))
        return weights[-1]

    monkeypatch.setattr(loop, "_copy", remembering)
    result = trained(recipe, facts, splits, pace=Pace(steps=80))
    assert result.best_at_step == kept
    of_kept = weights[kept // 10 - 1]  # a copy is made at each check
    assert all(map(torch.equal, of_kept.values(), _weights(result)))


@pytest.mark.slow
def test_a_loss_that_is_no_number_is_an_error() -> None:
    facts, splits = prepared("regression")
    recipe = Recipe("linear", "squared", {}, learning_rate=math.inf, batch_size=16)
    with pytest.raises(FloatingPointError, match="loss"):
        trained(recipe, facts, splits, pace=Pace(steps=20))


def test_learning_rate_rises_and_falls() -> None:
    pulse = Pulse(total=100, most=100)
    rates = []
    for step in range(100):
        pulse.step = step
        rates.append(pulse.learning_rate(1.0))
    top = int(np.argmax(rates))
    assert top == 15
    assert rates[top] == pytest.approx(1.0)
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.01, abs=0.01)
    assert (np.diff(rates[: top + 1]) > 0).all()
    assert (np.diff(rates[top:]) < 0).all()


def test_augmentation_none_is_no_change_and_a_flip_mirrors() -> None:
    pictures = torch.rand(8, 1, 10, 10)
    dice = torch.Generator().manual_seed(0)
    assert augment(pictures, Augmentation(), dice) is pictures
    flipped = augment(pictures, Augmentation(flip=True), dice)
    mirrored = [torch.allclose(new, old.flip(-1), atol=1e-5) for new, old in zip(flipped, pictures, strict=True)]
    kept = [torch.allclose(new, old, atol=1e-5) for new, old in zip(flipped, pictures, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert any(mirrored)
    assert any(kept)


def test_a_turn_in_an_oblong_picture_keeps_right_angles() -> None:
    # A disc off the centre of a wide picture stays as round as it was, wherever it is turned to.
    height, width = 40, 80
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    disc = (((y - 20) ** 2 + (x - 28) ** 2) < 64).float().reshape(1, 1, height, width)
    turned = augment(disc, Augmentation(rotate=30.0), torch.Generator().manual_seed(4))[0, 0]
    heights, widths = (turned.amax(dim=1) > 0.5).sum(), (turned.amax(dim=0) > 0.5).sum()
    assert not torch.allclose(turned, disc[0, 0])
    assert abs(int(heights) - int(widths)) <= 1


def test_the_average_of_weights_is_the_one_computed_by_hand() -> None:
    layer = torch.nn.Linear(2, 1, bias=False)
    average = WeightAverage(layer, horizon=40.0)
    by_hand, seen = 0.0, 0
    for step in range(1, 101):
        torch.nn.init.constant_(layer.weight, float(step))
        average.update()
        if step % 4 == 0:
            seen += 1
            share = max(4 / 40, 1 / seen)
            by_hand += share * (step - by_hand)
    torch.testing.assert_close(average.state()["weight"], torch.full((1, 2), by_hand))


@pytest.mark.slow
def test_averaged_weights_are_kept_only_where_they_score_better(monkeypatch: pytest.MonkeyPatch) -> None:
    facts, splits = prepared("regression")
    recipe = replace(build_space(facts, splits.train).known_good({"family": "mlp"})[0], averaging=0.5)
    for losses_of_average, averaged in ((0.5, True), (2.0, False)):
        losses = iter([np.full(50, 1.0)] * 8 + [np.full(50, losses_of_average)])
        monkeypatch.setattr(loop._Training, "_row_losses", lambda self, checked, losses=losses: next(losses))
        assert trained(recipe, facts, splits, pace=Pace(steps=80)).averaged is averaged


@pytest.mark.slow
def test_without_a_validation_set_nothing_is_looked_at_and_the_last_weights_stay() -> None:
    facts, splits = prepared("regression")
    recipe, _ = build_space(facts, splits.train).known_good({"family": "mlp"})
    lesson = Lesson(splits.train, None, facts)
    blind = train(recipe, lesson, seed=0, pace=Pace(steps=40), monitor=Unwatched(), stopped=lambda: False)
    assert (blind.history, blind.steps, blind.best_at_step) == ((), 40, 40)
    lesson = Lesson(splits.train, splits.validation, facts)
    watched = train(recipe, lesson, seed=0, pace=Pace(steps=40), monitor=Unwatched(), stopped=lambda: False)
    if watched.best_at_step == 40:
        assert all(map(torch.equal, _weights(blind), _weights(watched)))


@pytest.mark.slow
def test_a_training_can_take_over_what_another_model_was_calibrated_with() -> None:
    facts, splits = prepared("regression")
    recipe, _ = build_space(facts, splits.train).known_good({"family": "mlp"})
    lesson = Lesson(splits.train, splits.validation, facts)
    first = replace(trained(recipe, facts, splits, pace=Pace(steps=4)).model, temperature=0.6)
    start = Start(model=first)
    second = train(recipe, lesson, seed=5, pace=Pace(steps=4), monitor=Unwatched(), stopped=lambda: False, start=start).model
    assert (second.temperature, second.head, second.preparation) == (0.6, first.head, first.preparation)


@pytest.mark.slow
def test_a_training_can_go_on_from_the_weights_of_another() -> None:
    facts, splits = prepared("regression")
    recipe, _ = build_space(facts, splits.train).known_good({"family": "mlp"})
    lesson = Lesson(splits.train, splits.validation, facts)
    first = trained(recipe, facts, splits, pace=Pace(steps=60)).model
    start = Start(weights=first)
    still = replace(recipe, learning_rate=0.0, averaging=0.0)
    second = train(still, lesson, seed=5, pace=Pace(steps=2), monitor=Unwatched(), stopped=lambda: False, start=start)
    learned = dict(first.module.named_parameters())
    assert all(torch.equal(weight, learned[name]) for name, weight in second.model.module.named_parameters())
    fresh = train(still, lesson, seed=5, pace=Pace(steps=2), monitor=Unwatched(), stopped=lambda: False)
    assert not all(torch.equal(weight, learned[name]) for name, weight in fresh.model.module.named_parameters())


def test_the_machine_is_measured_once_and_says_what_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {torch.float32: 2.0, torch.bfloat16: 1.0}
    monkeypatch.setattr(measuring, "_can_low", lambda device: True)
    monkeypatch.setattr(measuring, "_probe", lambda device: seconds.get)
    fast = measuring._measured.__wrapped__()
    assert (fast.low_precision, fast.speed_up) == (True, 2.0)
    seconds[torch.bfloat16] = 1.9
    assert not measuring._measured.__wrapped__().low_precision
    monkeypatch.setattr(measuring, "_can_low", lambda device: False)
    assert not measuring._measured.__wrapped__().low_precision
    assert torch.get_num_threads() == environment.usable_cores()


def test_a_quota_of_the_control_group_limits_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quota = tmp_path / "cpu.max"
    (tmp_path / "own").write_text("0::/\n")
    monkeypatch.setattr(environment, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(environment, "_GROUPS", tmp_path)
    free = environment.usable_cores()
    for text, cores in (("100000 100000", 1), ("max 100000", free), ("50000 100000", 1), (f"{free * 3}00000 100000", free)):
        quota.write_text(text)
        assert environment.usable_cores() == cores
