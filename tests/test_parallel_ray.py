"""One training divided over the workers of a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_models import Unwatched
from test_parallel import ONE_THREAD, Noting, _in_float32, assert_same, job_of

from pixelfit.training.checkpoint import Checkpoint
from pixelfit.training.parallel import train_on

__all__ = ["_in_float32"]  # a fixture
pytestmark = [pytest.mark.ray, pytest.mark.long("Ray's workers each load torch, six seconds of a core")]


def test_workers_of_a_ray_cluster_train_as_ranks_of_one_machine_do(cluster: Any, tmp_path: Path) -> None:
    """Two nodes of one CPU each."""
    from pixelfit.training.on_ray import Workers, train_on_ray

    job, monitor, kept = job_of("mlp"), Noting(), tmp_path / "kept.safetensors"
    here = train_on(2, job, monitor=Unwatched(), stopped=lambda: False)
    there = train_on_ray(
        Workers(2, machine=ONE_THREAD), job, monitor=monitor, stopped=lambda: False, checkpoint=Checkpoint(kept, least_s=0.0)
    )
    assert_same(there, here, 1e-6)
    assert len(monitor.looks) == 8
    assert Checkpoint(kept).read() is not None
