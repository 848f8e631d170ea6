from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from pixelfit import metrics
from pixelfit.automl import Run


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_regression_metrics_agree_with_scikit_learn(rng: np.random.Generator) -> None:
    targets = rng.integers(0, 10, 500).astype(float)
    predictions = targets + rng.normal(0, 0.6, 500)
    assert metrics.rmse(targets, predictions) == pytest.approx(reference.root_mean_squared_error(targets, predictions))
    assert metrics.mae(targets, predictions) == pytest.approx(reference.mean_absolute_error(targets, predictions))
    assert metrics.r2(targets, predictions) == pytest.approx(reference.r2_score(targets, predictions))
    assert metrics.rounded_accuracy(targets, predictions) == reference.accuracy_score(targets, np.rint(predictions))


def test_classification_metrics_agree_with_scikit_learn(rng: np.random.Generator) -> None:
    targets = rng.integers(0, 4, 300)
    probabilities = rng.dirichlet(np.ones(5), 300)  # the fifth class is predicted but never true
    predicted = probabilities.argmax(axis=1)
    assert metrics.accuracy(targets, probabilities) == reference.accuracy_score(targets, predicted)
    assert metrics.log_loss(targets, probabilities) == pytest.approx(reference.log_loss(targets, probabilities, labels=range(5)))
    assert metrics.macro_f1(targets, probabilities) == pytest.approx(reference.f1_score(targets, predicted, average="macro"))
    expected = reference.confusion_matrix(targets, predicted, labels=range(5))
    assert (metrics.confusion_matrix(targets, probabilities) == expected).all()


@pytest.mark.full_size
def test_bootstrap_interval_of_a_mean_has_its_known_width(regression_run: Run, rng: np.random.Generator) -> None:
    targets = np.zeros(400)
    predictions = rng.normal(0, 1, 400)
    measured = metrics.measure_with_intervals(regression_run.facts, targets, predictions, seed=0)["mae"]
    errors = np.abs(predictions)
    half_width = 1.96 * errors.std() / 20  # the central limit theorem's
    assert measured.value == pytest.approx(errors.mean())
    assert measured.high - measured.value == pytest.approx(half_width, rel=0.2)
    assert measured.value - measured.low == pytest.approx(half_width, rel=0.2)


def test_an_interval_holds_the_value_that_it_is_of(regression_run: Run) -> None:
    targets = np.tile([0.0, 1.0, 2.0, 3.0], 5)
    # No resample has the same mean as the whole, but in a few: R² of it is 0 in the whole and below that in them.
    measured = metrics.measure_with_intervals(regression_run.facts, targets, np.full(20, targets.mean()), seed=0)["r2"]
    assert (measured.value, measured.high) == (0.0, 0.0)
    assert measured.low < 0


def test_bootstrap_repeats_with_its_seed(regression_run: Run, rng: np.random.Generator) -> None:
    targets, predictions = rng.normal(size=50), rng.normal(size=50)
    once, again, other = (
        metrics.measure_with_intervals(regression_run.facts, targets, predictions, seed=seed)["rmse"] for seed in (1, 1, 2)
    )
    assert once == again
    assert once != other


def test_metrics_of_several_numbers_agree_with_scikit_learn(numbers_run: Run, rng: np.random.Generator) -> None:
    targets = rng.normal(size=(300, 3)) * [1, 10, 1000]
    predictions = targets + rng.normal(size=(300, 3)) * [0.3, 2, 900]
    scales = targets.std(axis=0)
    errors = reference.mean_squared_error(targets, predictions, multioutput="raw_values") / targets.var(axis=0)
    assert metrics.nrmse(targets, predictions, scales) == pytest.approx(np.sqrt(errors.mean()))
    far = reference.mean_absolute_error(targets, predictions, multioutput="raw_values") / scales
    assert metrics.nmae(targets, predictions, scales) == pytest.approx(far.mean())
    assert metrics.mean_r2(targets, predictions) == pytest.approx(reference.r2_score(targets, predictions))
    for place, each in enumerate(metrics.measure_each(targets, predictions, seed=0)):
        alone = replace(numbers_run.facts, target_names=())
        expected = metrics.measure_with_intervals(alone, targets[:, place], predictions[:, place], seed=0)
        assert each == {name: expected[name] for name in ("rmse", "mae", "r2")}


@pytest.mark.parametrize("frequency", [[0.5, 0.2, 0.05, 0.9], [0.5, 0.2, 0.0, 1.0]], ids=["mixed", "none and all"])
def test_metrics_of_several_labels_agree_with_scikit_learn(frequency: list[float], rng: np.random.Generator) -> None:
    targets = (rng.random((300, 4)) < frequency).astype(int)
    shares = np.round(np.clip(0.4 * targets + rng.random((300, 4)) * 0.6, 0.01, 0.99), 1)  # rounded, so that there are ties
    said = (shares >= 0.5).astype(int)
    losses = [reference.log_loss(targets[:, place], shares[:, place], labels=[0, 1]) for place in range(4)]
    assert metrics.label_log_loss(targets, shares) == pytest.approx(np.mean(losses))
    present = np.flatnonzero((targets + said).any(axis=0))
    macro = reference.f1_score(targets[:, present], said[:, present], average="macro")
    assert metrics.label_macro_f1(targets, shares) == pytest.approx(macro)
    assert metrics.label_micro_f1(targets, shares) == pytest.approx(reference.f1_score(targets, said, average="micro"))
    assert metrics.exact_match(targets, shares) == reference.accuracy_score(targets, said)
    had = np.flatnonzero(targets.any(axis=0))
    each = [reference.average_precision_score(targets[:, place], shares[:, place]) for place in had]
    np.testing.assert_allclose(metrics.average_precisions(targets, shares)[had], each)
    assert metrics.mean_ap(targets, shares) == pytest.approx(np.mean(each))
    rows = rng.integers(300, size=300)
    assert metrics.resampled_mean_ap(targets, shares)(rows) == pytest.approx(metrics.mean_ap(targets[rows], shares[rows]))
    figures = reference.precision_recall_fscore_support(targets, said, zero_division=0)
    for place, one in enumerate(metrics.label_scores("abcd", targets, shares)):
        assert (one.label, one.rows, one.predicted) == ("abcd"[place], targets[:, place].sum(), said[:, place].sum())
        assert [one.precision or 0.0, one.recall or 0.0, one.f1 or 0.0] == pytest.approx([each[place] for each in figures[:3]])
        assert (one.recall is None) == (one.rows == 0) == (one.average_precision is None)


def test_without_any_label_metrics_are_numbers() -> None:
    none, low = np.zeros((20, 3), dtype=int), np.full((20, 3), 0.1)
    for metric in (metrics.label_macro_f1, metrics.label_micro_f1, metrics.mean_ap):
        assert metric(none, low) == 0.0
    assert metrics.exact_match(none, low) == 1.0


def test_calibration_error_of_labels_is_over_all_pairs(rng: np.random.Generator) -> None:
    shares = rng.random((500, 3))
    targets = (rng.random((500, 3)) < shares**2).astype(int)
    edges = np.linspace(0, 1, 16)
    places = np.digitize(shares.ravel(), edges[1:-1], right=True)
    expected = sum(
        (places == place).mean() * abs(targets.ravel()[places == place].mean() - shares.ravel()[places == place].mean())
        for place in range(15)
    )
    bins = metrics.label_reliability_bins(targets, shares)
    assert sum(one.rows for one in bins) == 1500
    assert metrics.calibration_error(bins) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy", 0.99456, "99.46%"),
        ("rmse", 0.221, "0.2210"),
        ("rmse", 123456.7, "123,457"),
        ("r2", -1e-6, "0.00%"),
        ("r2", -0.5, "-50.00%"),
    ],
)
def test_shown_as_people_read_it(name: str, value: float, text: str) -> None:
    assert metrics.shown(name, value) == text


def test_row_losses_add_up_to_the_ranking_metric(
    regression_run: Run, classification_run: Run, numbers_run: Run, labels_run: Run, rng: np.random.Generator
) -> None:
    values, classes = rng.normal(size=80), rng.integers(0, 2, 80)
    several, labels = rng.normal(size=(80, 3)), rng.integers(0, 2, (80, 3))
    for facts, targets, predictions in (
        (regression_run.facts, values, values + rng.normal(size=80)),
        (replace(regression_run.facts, metric="mae"), values, values + rng.normal(size=80)),
        (classification_run.facts, classes, rng.dirichlet(np.ones(2), 80)),
        (numbers_run.facts, several, several + rng.normal(size=(80, 3))),
        (replace(numbers_run.facts, metric="nmae"), several, several + rng.normal(size=(80, 3))),
        (labels_run.facts, labels, rng.random((80, 3))),
    ):
        losses = metrics.row_losses(facts, targets, predictions)
        assert losses.shape == (80,)
        assert metrics.score_of_losses(facts, losses) == pytest.approx(metrics.ranking_metric(facts)(targets, predictions))


def test_accuracy_and_f1_are_ranked_with_the_larger_first(classification_run: Run, rng: np.random.Generator) -> None:
    targets = rng.integers(0, 2, 200)
    good = np.where(np.arange(2) == targets[:, None], 0.8, 0.2)
    bad = rng.dirichlet(np.ones(2), 200)
    for metric in ("accuracy", "macro_f1", "log_loss"):
        cost = metrics.ranking_metric(replace(classification_run.facts, metric=metric))
        assert cost(targets, good) < cost(targets, bad)
    accuracy = metrics.ranking_metric(replace(classification_run.facts, metric="accuracy"))
    assert accuracy(targets, bad) == pytest.approx(1 - reference.accuracy_score(targets, bad.argmax(axis=1)))
    assert metrics.cost_title("accuracy") == "1 − accuracy"


def test_calibration_error_agrees_with_a_plain_loop(rng: np.random.Generator) -> None:
    probabilities = rng.dirichlet(np.full(4, 0.4), 700)
    probabilities[:3] = [[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.6, 0.2, 0.1, 0.1]]  # on the edges of bins, the last to rounding
    targets = rng.integers(0, 4, 700)
    expected, counts = 0.0, []
    for place in range(15):
        low, high = np.linspace(0, 1, 16)[place : place + 2]
        rows = [row for row in range(700) if low < probabilities[row].max() <= high]
        counts.append(len(rows))
        if rows:
            right = np.mean([probabilities[row].argmax() == targets[row] for row in rows])
            sure = np.mean([probabilities[row].max() for row in rows])
            expected += len(rows) / 700 * abs(right - sure)
    bins = metrics.reliability_bins(targets, probabilities)
    assert [one.rows for one in bins] == counts
    assert sum(counts) == 700
    assert metrics.calibration_error(bins) == pytest.approx(expected)


@pytest.mark.parametrize(("hits", "count"), [(0, 7), (7, 7), (90, 100), (1, 3)])
def test_the_interval_of_a_share_is_scipys(hits: int, count: int) -> None:
    expected = stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    found = metrics.share_interval(np.arange(count) < hits)
    assert (found.value, found.low, found.high) == pytest.approx((hits / count, expected.low, expected.high), abs=1e-6)
    assert found.low <= found.value <= found.high
