"""A run folder drawn as one HTML file. Draws what was saved and computes nothing anew."""
from pixelfit.runs import RunFolder
def draw(folder: RunFolder) -> None:
    """Draw the report."""
