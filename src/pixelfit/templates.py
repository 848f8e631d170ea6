"""Jinja's templates, compiled once a process: the report's takes a quarter of a second, which every redrawing would pay."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


@cache
def template(file: Path) -> Template:
    """Return the template, which finds others in its own folder; a value that it lacks raises, and HTML escapes all others."""
    html = file.name.endswith(".html.j2")
    engine = Environment(
        loader=FileSystemLoader(file.parent),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not html,
    )
    return engine.get_template(file.name)
