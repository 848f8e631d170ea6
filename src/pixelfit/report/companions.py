"""What stands beside the report: ``report.json`` for programs, a model card and a notebook for those who go on from there."""

from __future__ import annotations

from pixelfit.files import write_json, write_text
from pixelfit.report.card import model_card
from pixelfit.report.notebook import notebook
from pixelfit.report.record import record
from pixelfit.report.saved import Saved


def draw_companions(saved: Saved) -> None:
    """Write them into the run folder."""
    folder = saved.folder
    write_json(folder.path / "report.json", record(saved))
    write_text(folder.path / "model-card.md", model_card(saved))
    write_json(folder.path / "notebook.ipynb", notebook(saved))
