"""Heads for regression, against independent computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from test_models import prepared, trained

from pixelfit.metrics import rmse
from pixelfit.models import FAMILIES, heads
from pixelfit.models.heads import DiscreteHead, HistogramHead, HuberHead, fitting_heads, head_from_json, head_to_json, make_head
from pixelfit.models.model import Model
from pixelfit.search.space import build_space
from pixelfit.training.loop import Pace
from pixelfit.training.recipe import Recipe
from pixelfit.types import METRICS_OF, Array

REGRESSION = ("squared", "huber", "discrete", "histogram")
AWKWARD = {
    "constant": np.full(60, 7.5),
    "nearly constant": 7.5 + 1e-9 * np.arange(60),
    "two values": np.repeat([-3.0, 5.0], 30),
    "huge": np.linspace(1e9, 3e9, 60),
    "negative": np.linspace(-2.0, -1.0, 60),
    "one far away": np.append(np.linspace(0, 1, 59), 1e4),
}


PRICES = np.exp(np.random.default_rng(7).normal(13, 0.9, 535))  # as heavy-tailed as prices of houses


def edges(head: HistogramHead) -> Array:
    return np.linspace(head.low, head.high, head.bins + 1) * head.std + head.mean


def test_smoothed_targets_are_differences_of_the_normal_distribution() -> None:
    targets = np.random.default_rng(0).normal(50, 9, 1000)
    head = make_head("histogram", targets, 0, "rmse")
    assert isinstance(head, HistogramHead)
    assert head.bins == 25
    bounds = edges(head)
    expected = np.diff(stats.norm.cdf(bounds, targets[:, None], 0.75 * (bounds[1] - bounds[0])), axis=1)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(head.smoothed(head.encode(targets)).numpy(), expected, atol=2e-5)
    # The padding keeps smoothed targets whole: their mean is the target.
    np.testing.assert_allclose(
        head.predict(head.smoothed(head.encode(targets)).clamp_min(1e-30).log()).numpy(), targets, atol=0.05
    )


def test_targets_far_outside_the_training_range_stay_finite() -> None:
    head = make_head("histogram", np.linspace(0, 1, 200), 0, "rmse")
    assert isinstance(head, HistogramHead)
    shares = head.smoothed(head.encode(np.array([-1e12, -3.0, 4.0, 1e12])))
    np.testing.assert_allclose(shares.sum(dim=1).numpy(), 1, rtol=1e-5)
    assert shares[0].argmax() == 0
    assert shares[-1].argmax() == head.bins - 1
    assert torch.isfinite(head.loss(torch.zeros(2, head.bins), head.encode(np.array([-1e12, 1e12])), 0.0))


@pytest.mark.parametrize("case", AWKWARD)
@pytest.mark.parametrize("name", REGRESSION)
@pytest.mark.parametrize("metric", METRICS_OF["regression"])
def test_awkward_targets(case: str, name: str, metric) -> None:
    targets = AWKWARD[case]
    head = make_head(name, targets, 0, metric)
    encoded = head.encode(targets)
    outputs = torch.randn(60, head.outputs, generator=torch.Generator().manual_seed(0))
    assert math.isfinite(head.loss(outputs, encoded, 0.0))
    for values in (head.predict(outputs), head.spread(outputs), head.prior(encoded)):
        assert torch.isfinite(values).all()
    prior = head.predict(head.prior(encoded)[None].float())
    wanted = np.median(targets) if name == "huber" or (metric == "mae" and name != "squared") else targets.mean()
    # A histogram cannot tell values within a bin apart, nor a median from others of the same probability beside it.
    width = (edges(head)[1] - edges(head)[0]) if isinstance(head, HistogramHead) else 0.0
    lowest, highest = (targets.min(), targets.max()) if case == "two values" and metric == "mae" else (wanted, wanted)
    slack = width + 0.02 * np.ptp(targets) + 1e-6 * abs(wanted)
    assert lowest - slack <= float(prior) <= highest + slack
    assert head_from_json(head_to_json(head)) == head


def test_histogram_mean_and_spread_are_those_of_its_bins() -> None:
    head = HistogramHead(mean=100.0, std=10.0, low=-2.0, high=2.0, bins=8)
    shares = np.random.default_rng(1).dirichlet(np.ones(8), 50)
    bounds = edges(head)
    mean = shares @ ((bounds[1:] + bounds[:-1]) / 2)
    # Second moment of an even distribution over each bin.
    second = shares @ ((bounds[1:] ** 3 - bounds[:-1] ** 3) / (3 * np.diff(bounds)))
    outputs = torch.from_numpy(np.log(shares))
    np.testing.assert_allclose(head.predict(outputs).numpy(), mean)
    np.testing.assert_allclose(head.spread(outputs).numpy(), np.sqrt(second - mean**2))


def test_histogram_median_is_numpys_interpolation_of_the_distribution() -> None:
    head = HistogramHead(mean=-4.0, std=3.0, low=-1.5, high=2.5, bins=9, center="median")
    shares = np.random.default_rng(2).dirichlet(np.ones(9), 200)
    expected = [np.interp(0.5, np.append(0, row.cumsum()), edges(head)) for row in shares]
    np.testing.assert_allclose(head.predict(torch.from_numpy(np.log(shares))).numpy(), expected, rtol=1e-9)


def test_discrete_median_and_spread_are_numpys() -> None:
    values = (0.0, 2.5, 10.0, 11.0)
    counts = np.random.default_rng(3).multinomial(101, [0.1, 0.4, 0.3, 0.2], 100)  # an odd number has one median
    outputs = torch.from_numpy(np.log(np.maximum(counts / 101, 1e-12)))
    drawn = [np.repeat(values, row) for row in counts]
    np.testing.assert_allclose(DiscreteHead(values, "median").predict(outputs).numpy(), [np.median(each) for each in drawn])
    np.testing.assert_allclose(DiscreteHead(values).spread(outputs).numpy(), [each.std() for each in drawn], rtol=1e-6)


def test_heavy_tails_get_bins_of_their_logarithm() -> None:
    assert fitting_heads("regression", PRICES, 0, "rmse")[0] == "log_histogram"
    for even in (np.linspace(1, 2, 300), PRICES - PRICES.max(), np.log(PRICES)):
        assert "log_histogram" not in fitting_heads("regression", even, 0, "rmse")


def test_means_and_spreads_of_logarithmic_bins_are_those_of_numerical_integration() -> None:
    head = make_head("log_histogram", PRICES, 0, "rmse")
    assert isinstance(head, HistogramHead)
    bounds = edges(head)
    shares = np.random.default_rng(1).dirichlet(np.ones(head.bins), 20)
    places = (np.arange(4000) + 0.5) / 4000
    values = np.exp(bounds[:-1, None] + places * np.diff(bounds)[:, None])  # evenly over each bin of the logarithm
    mean = shares @ values.mean(axis=1)
    second = shares @ (values**2).mean(axis=1)
    outputs = torch.from_numpy(np.log(shares))
    np.testing.assert_allclose(head.predict(outputs).numpy(), mean, rtol=1e-5)
    np.testing.assert_allclose(head.spread(outputs).numpy(), np.sqrt(second - mean**2), rtol=1e-5)
    median = make_head("log_histogram", PRICES, 0, "mae")
    expected = [np.exp(np.interp(0.5, np.append(0, row.cumsum()), bounds)) for row in shares]
    np.testing.assert_allclose(median.predict(outputs).numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("metric", METRICS_OF["regression"])
def test_a_logarithmic_head_knows_its_targets_again(metric) -> None:
    head = make_head("log_histogram", PRICES, 0, metric)
    assert isinstance(head, HistogramHead)
    outputs = head.smoothed(head.encode(PRICES)).clamp_min(1e-30).log()
    np.testing.assert_allclose(head.predict(outputs).numpy(), PRICES, rtol=0.15)  # a bin is a factor of 1.3 wide
    prior = head.predict(head.prior(head.encode(PRICES))[None].float())
    assert float(prior) == pytest.approx(PRICES.mean() if metric == "rmse" else np.median(PRICES), rel=0.1)
    assert torch.isfinite(head.encode(np.array([0.0, -5.0, 1e300]))).all()
    assert head_from_json(head_to_json(head)) == head


def test_huber_loss_by_hand() -> None:
    head = HuberHead(mean=2.0, std=4.0, delta=0.5)
    errors = np.array([0.0, 0.2, -0.5, 2.0])
    outputs = head.encode(np.full(4, 10.0))[:, None] + torch.from_numpy(errors)[:, None]
    expected = np.where(abs(errors) <= 0.5, errors**2 / 2, 0.5 * (abs(errors) - 0.25)).mean()
    assert float(head.loss(outputs, head.encode(np.full(4, 10.0)).double(), 0.1)) == pytest.approx(expected)
    assert head.spread(outputs).tolist() == [0.0] * 4


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mlp", "convnet"])
@pytest.mark.parametrize("metric", METRICS_OF["regression"])
@pytest.mark.parametrize("name", REGRESSION)
def test_every_head_learns_a_few_pictures_by_heart(name: str, metric, family: str) -> None:
    facts, splits = prepared("regression", metric=metric)
    recipe = Recipe(family, name, FAMILIES[family].starting_architecture(), batch_size=32)
    model = trained(recipe, facts, splits, pace=Pace(steps=150)).model
    predictions = model.predict(splits.train.store, splits.train.rows)
    assert rmse(splits.train.targets, predictions) < 0.4 * splits.train.targets.std()


@pytest.mark.slow
def test_families_get_heads_that_suit_them() -> None:
    facts, splits = prepared("regression", metric="mae", noise=0.3)
    space = build_space(facts, splits.train)
    assert space.heads == fitting_heads("regression", splits.train.targets, 0, "mae")
    assert (space.baseline().head, space.known_good({"family": "trees"})[0].head) == ("huber", "squared")
    baseline = trained(space.baseline(), facts, splits, pace=Pace(steps=1)).model
    predicted = baseline.predict(splits.train.store[:3])
    np.testing.assert_allclose(predicted, np.median(splits.train.targets), rtol=1e-6)
    for family in FAMILIES.values():
        assert not family.heads or set(family.heads) <= set(heads._KINDS)


@pytest.mark.slow
def test_a_histogram_survives_saving(tmp_path) -> None:
    facts, splits = prepared("regression", noise=0.3)
    model = trained(Recipe("mlp", "histogram", FAMILIES["mlp"].starting_architecture()), facts, splits, pace=Pace(steps=20)).model
    model.save(tmp_path)
    before, after = (each.forecast(splits.train.store[:9]) for each in (model, Model.load(tmp_path)))
    assert (before.raw == after.raw).all()
    assert (before.spread == after.spread).all()
    assert (before.spread > 0).all()
