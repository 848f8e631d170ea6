"""A comparison as a page, a table or a document."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pixelfit.report
from pixelfit.compare import Comparison
from pixelfit.errors import OptionError
from pixelfit.files import write_rows, write_text
from pixelfit.templates import template

_STYLE = Path(pixelfit.report.__file__).parent / "style.css"


def check_form(file: Path) -> None:
    """Raise OptionError if files with this ending cannot be written."""
    if file.suffix.lower() not in _FORMS:
        raise OptionError(f"{file} cannot be written: -o takes files that end in {', '.join(_FORMS)}.")


def write(comparison: Comparison, file: Path) -> None:
    """Write the comparison in the form that the file's ending says."""
    write_text(file, _FORMS[file.suffix.lower()](comparison))


def _html(comparison: Comparison) -> str:
    style = _STYLE.read_text(encoding="utf-8")
    return template(Path(__file__).with_name("compare.html.j2")).render(style=style, comparison=comparison)


def _csv(comparison: Comparison) -> str:
    out = io.StringIO()
    write_rows(out, [["", *comparison.runs], *([name, *values] for name, values in comparison.rows)])
    return out.getvalue()


def _json(comparison: Comparison) -> str:
    return json.dumps(comparison.to_json(), indent=2, ensure_ascii=False) + "\n"


_FORMS: Mapping[str, Callable[[Comparison], str]] = {".html": _html, ".json": _json, ".csv": _csv}
