from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_models import prepared, trained

from pixelfit.answers import sharpened
from pixelfit.calibration import ensemble_temperature
from pixelfit.metrics import log_loss
from pixelfit.models.heads import temperature_for
from pixelfit.models.model import Model, Preparation
from pixelfit.search.space import build_space
from pixelfit.training.pace import Pace
from pixelfit.types import Examples


class Given(torch.nn.Module):
    """Reads its outputs from the picture, whose pixels are the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1))

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.flatten(1)

    def answers(self, features: torch.Tensor) -> torch.Tensor:
        return features * self.scale


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_too_much_or_too_little_sureness(factor: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 5)).astype(np.float32)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = np.array([rng.choice(5, p=row / row.sum()) for row in shares.astype(np.float64)])
    facts, splits = prepared("classification")
    model = trained(build_space(facts, splits.train).known_good({"family": "linear"})[0], facts, splits, pace=Pace(steps=1)).model
    head = replace(model.head, classes=5)
    unsure = replace(model, head=head, module=Given(), preparation=Preparation((0.0,), (1.0,)))
    examples = Examples(logits.reshape(4000, 1, 5, 1) * np.float32(factor), np.arange(4000), targets, ())
    result = replace(unsure, temperature=temperature_for([(head, unsure.outputs(examples.store), targets)]))
    assert result.temperature == pytest.approx(factor, rel=0.12)
    before, after = (log_loss(targets, each.predict(examples.store)) for each in (unsure, result))
    assert after <= before


@pytest.mark.slow
def test_a_model_whose_predictions_a_temperature_would_not_mend_stays_as_it_is() -> None:
    facts, splits = prepared("regression")
    for head in ("squared", "huber", "histogram"):
        recipe = replace(build_space(facts, splits.train).known_good({"family": "mlp"})[0], head=head)
        model = trained(recipe, facts, splits, pace=Pace(steps=4)).model
        outputs = model.outputs(splits.validation.store, splits.validation.rows)
        assert temperature_for([(model.head, outputs, splits.validation.targets)]) == 1.0


@pytest.mark.slow
def test_the_temperature_is_saved(tmp_path) -> None:
    facts, splits = prepared("classification")
    model = trained(build_space(facts, splits.train).known_good({"family": "mlp"})[0], facts, splits, pace=Pace(steps=60)).model
    changed = replace(model, temperature=0.5)
    changed.save(tmp_path)
    pictures = splits.validation.store[splits.validation.rows]
    assert (Model.load(tmp_path).predict(pictures) == changed.predict(pictures)).all()
    assert not np.allclose(changed.predict(pictures), model.predict(pictures))


def test_an_ensemble_is_sharpened_only_where_validation_says_so() -> None:
    rng = np.random.default_rng(0)
    honest = rng.dirichlet(np.full(4, 0.5), 3000)
    targets = np.array([rng.choice(4, p=row) for row in honest])
    assert ensemble_temperature(targets, honest) == 1.0
    unsure = sharpened(honest, 2.0)
    np.testing.assert_allclose(unsure.sum(axis=1), 1)
    assert ensemble_temperature(targets, unsure) == pytest.approx(0.5, rel=0.1)
    roots = np.sqrt(honest)
    np.testing.assert_allclose(unsure, roots / roots.sum(axis=1, keepdims=True), rtol=1e-6, atol=1e-9)
