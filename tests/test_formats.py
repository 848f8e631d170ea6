"""Models of every format that was ever saved keep loading, and predict what they predicted.

``samples/format-N`` holds one of each: constant, linear and trees together, saved by the version that introduced the format. A
new format gets a folder of its own; none is ever written again.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pixelfit.errors import RunError
from pixelfit.predictor import FORMAT, Predictor

SAMPLES = Path(__file__).parent / "samples"


def test_there_is_a_sample_of_each_format() -> None:
    assert sorted(folder.name for folder in SAMPLES.iterdir()) == [f"format-{number}" for number in range(1, FORMAT + 1)]


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("format-*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_model_of_an_earlier_format_predicts_the_same(sample: Path) -> None:
    expected = load_file(sample / "expected.safetensors")
    predictor = Predictor.load(sample)
    pictures = expected["pictures"]
    forecast = predictor.forecast(pictures if pictures.ndim == 4 else pictures[..., None], np.arange(len(pictures)))
    np.testing.assert_allclose(forecast.raw, expected["raw"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(forecast.spread, expected["spread"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(predictor.predict_strangeness(pictures), expected["strangeness"], rtol=1e-3)
    if predictor.task == "regression":
        low, high = predictor.predict_interval(pictures, coverage=0.8).T
        assert np.all(low <= high)


def test_a_format_that_is_not_known_yet_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(SAMPLES / "format-1" / "regression", model, ignore=shutil.ignore_patterns("SHA256SUMS"))
    described = json.loads((model / "predictor.json").read_text())
    (model / "predictor.json").write_text(json.dumps({**described, "format": FORMAT + 1}))
    with pytest.raises(RunError, match=f"is of format {FORMAT + 1}; this pixelfit reads format {FORMAT}"):
        Predictor.load(model)
