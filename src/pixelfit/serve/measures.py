"""What the server counts and times, in Prometheus' form."""

from __future__ import annotations

import os

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own: a folder in which several workers count together
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_PATHS = frozenset({"/predict", "/explain", "/about", "/health", "/ready", "/metrics", "/"})


class Measures:
    """Answers by address and status, their seconds, pictures, and the sizes of batches."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._answers = Counter("pixelfit_answers", "Requests answered.", ("path", "status"), registry=self._registry)
        self._seconds = Histogram(
            "pixelfit_answer_seconds",
            "From a request's head to its answer.",
            ("path",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._pictures = Counter("pixelfit_pictures", "Pictures predicted for.", registry=self._registry)
        self._batches = Histogram("pixelfit_batch_pictures", "Pictures in a batch.", buckets=_SIZES, registry=self._registry)

    def observe_answer(self, path: str, status: int, seconds: float) -> None:
        """A request was answered; addresses that there are none of count together."""
        known = path if path in _PATHS else "other"
        self._answers.labels(known, str(int(status))).inc()
        self._seconds.labels(known).observe(seconds)

    def observe_pictures(self, count: int) -> None:
        """So many pictures were predicted for."""
        self._pictures.inc(count)

    def observe_batch(self, size: int) -> None:
        """A batch of so many pictures ran."""
        self._batches.observe(size)

    def text(self) -> tuple[bytes, int, dict[str, str]]:
        """All of it, with status and head of the answer; of all workers where there are several."""
        registry = self._registry
        if MULTIPROCESS_VARIABLE in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry), 200, {"Content-Type": CONTENT_TYPE_LATEST}
