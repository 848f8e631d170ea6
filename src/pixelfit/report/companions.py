"""What stands beside the report: the same for machines, and for those who pass the model on."""

from __future__ import annotations

from pixelfit.files import write_json, write_text
from pixelfit.report.card import model_card
from pixelfit.report.record import record
from pixelfit.report.saved import read
from pixelfit.runs import RunFolder


def draw_companions(folder: RunFolder) -> None:
    """Write ``report.json`` and ``model-card.md`` into the run folder; raises RunError if the run is not finished."""
    saved = read(folder)
    write_json(folder.path / "report.json", record(saved))
    write_text(folder.path / "model-card.md", model_card(saved))
