"""What the live page and the list of runs have in common: templates, colours and policies."""

from __future__ import annotations

import re
from pathlib import Path

from pixelfit import report
from pixelfit.live.server import HTML, STYLE, Answer
from pixelfit.runs import RunFolder
from pixelfit.templates import template
from pixelfit.types import Json

HERE = Path(__file__).parent
_REPORT_STYLE = Path(report.__file__).with_name("style.css")
_META = re.compile(rb'<meta http-equiv="Content-Security-Policy" content="([^"]*)"')
_DIGEST = re.compile(r"'sha256-[A-Za-z0-9+/]{43}='")
_NOWHERE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def rendered(name: str, **values: Json) -> str:
    """A page from its template; every value is escaped."""
    return template(HERE / name).render(**values)


def style() -> Answer:
    """The report's colours and type, and what these pages add."""
    return Answer("\n".join(file.read_text(encoding="utf-8") for file in (_REPORT_STYLE, HERE / "live.css")), STYLE)


def policy(nonce: str | None) -> str:
    """Under which a page reaches only its own server, and runs just the scripts with this nonce, or none."""
    scripts = f"script-src 'nonce-{nonce}'; connect-src 'self'; " if nonce else ""
    # The charts lay themselves out with style elements, hence unsafe-inline for styles alone.
    return f"default-src 'none'; {scripts}style-src 'self' 'unsafe-inline'; img-src data:; {_NOWHERE}"


def report_of(folder: RunFolder) -> Answer | None:
    """A run's report, if it has one that can be read.

    A folder may come from anywhere, and so may the page in it. As a header it gets the report's own policy and no wider
    one, and an origin of its own, from which it can read nothing else of this server.
    """
    try:
        page = folder.report_file.read_bytes()
    except OSError:
        return None
    found = _META.search(page)
    digests = _DIGEST.findall(found[1].decode("utf-8", "replace").replace("&#39;", "'")) if found else []
    scripts = f"script-src {' '.join(digests)}; " if digests else ""
    return Answer(
        page, HTML, f"sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; {scripts}{_NOWHERE}"
    )
