"""What stands beside the report: the same for machines."""

from __future__ import annotations

from pixelfit.files import write_json
from pixelfit.report.record import record
from pixelfit.report.saved import read
from pixelfit.runs import RunFolder


def draw_companions(folder: RunFolder) -> None:
    """Write ``report.json`` into the run folder; raises RunError if the run is not finished."""
    saved = read(folder)
    write_json(folder.path / "report.json", record(saved))
