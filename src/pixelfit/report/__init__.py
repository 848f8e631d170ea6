"""A run folder drawn as one self-contained HTML file, and its companions. Draws what was saved and measures nothing anew."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from pixelfit.files import write_text
from pixelfit.runs import RunFolder
from pixelfit.templates import template
from pixelfit.words import number_of

_HERE = Path(__file__).parent
_POLICY = "@@content-security-policy@@"
_SCRIPT = re.compile(r"<script\b[^>]*>(.*?)</script>", re.DOTALL)


def draw(folder: RunFolder) -> None:
    """Write ``report.html`` and its companions into the run folder; raises RunError if the run is not finished."""
    # Bokeh takes half a second to load, for which the first model of a search need not wait.
    from pixelfit.report.companions import draw_companions
    from pixelfit.report.page import page
    from pixelfit.report.plots import charts_html
    from pixelfit.report.saved import read

    saved = read(folder)
    content = page(saved)
    scripts, charts = charts_html(content.charts)
    html = template(_HERE / "report.html.j2").render(
        style=(_HERE / "style.css").read_text(encoding="utf-8"),
        script=(_HERE / "report.js").read_text(encoding="utf-8"),
        policy=_POLICY,
        number_of=number_of,
        scripts=scripts,
        charts=charts,
        **content.sections,
    )
    write_text(folder.report_file, html.replace(_POLICY, _policy(html)))
    draw_companions(saved)


def _policy(html: str) -> str:
    """A content-security policy under which the page can reach no network, and run just the scripts that it came with."""
    digests = {hashlib.sha256(script.encode()).digest() for script in _SCRIPT.findall(html)}
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in sorted(digests))
    # The charts lay themselves out with style attributes, hence unsafe-inline for styles alone.
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'; form-action 'none'"
    )
