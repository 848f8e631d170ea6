"""What stands beside the report: ``report.json`` for programs, a model card and a notebook for those who go on from there."""

from __future__ import annotations

from pixelfit.files import write_json, write_text
from pixelfit.report.card import model_card
from pixelfit.report.notebook import notebook
from pixelfit.report.record import record
from pixelfit.report.saved import read
from pixelfit.runs import RunFolder


def draw_companions(folder: RunFolder) -> None:
    """Write them into the run folder; raises RunError if the run is not finished."""
    saved = read(folder)
    write_json(folder.path / "report.json", record(saved))
    write_text(folder.path / "model-card.md", model_card(saved))
    write_json(folder.path / "notebook.ipynb", notebook(saved))
