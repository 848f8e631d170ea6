"""What there is to know of the final model on the test set beside its scores; looked at last, and nothing is tuned on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pixelfit.evidence.likeness import likeness
from pixelfit.evidence.slices import slicings
from pixelfit.evidence.statistics import statistics
from pixelfit.types import Array, Examples, Facts, Json, Likeness, Slicing, Splits

__all__ = ["EVIDENCE_S", "Evidence", "gather"]

EVIDENCE_S = 1.0  # seconds on 2 cores, for a thousand pictures of each part


@dataclass(frozen=True)
class Evidence:
    """How good the model is on parts of the test set, and how like the development data that is (None: too few pictures)."""

    slicings: tuple[Slicing, ...]
    likeness: Likeness | None

    def to_json(self) -> Json:
        """The same as JSON."""
        return {
            "slicings": [asdict(each) for each in self.slicings],
            "likeness": None if self.likeness is None else asdict(self.likeness),
        }


def gather(raw: Array, examples: Examples, splits: Splits, facts: Facts, *, seed: int) -> Evidence:
    """The evidence on the opened test set.

    Args:
        raw: what the final model predicts for the test pictures.
        examples: the test set.
        splits: the data; of the development part pictures and targets are looked at.
        facts: what is known of the data.
        seed: of the pictures that are drawn, and of the classifier.
    """
    known = statistics(examples, splits, facts.spec)
    return Evidence(slicings(facts, examples, raw, known, splits.kinds), likeness(examples, splits, facts, seed=seed))
