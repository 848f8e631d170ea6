"""How a run is repeated."""

from __future__ import annotations

import shlex

from pixelfit.types import Json


def command(run: Json) -> str:
    """The command that repeats the run into a folder of its own; for arrays, which have no name, the options alone."""
    given = {name: value for name, value in run["options"].items() if value is not None and value is not False and name != "out"}
    if "budget" in given:
        given["budget"] = f"{given['budget']:g}s"
    pairs = [(name, each) for name, value in given.items() for each in (value if isinstance(value, (list, tuple)) else [value])]
    options = [f"--{name.replace('_', '-')}" + ("" if value is True else f" {shlex.quote(str(value))}") for name, value in pairs]
    return " ".join(["pixelfit fit", shlex.quote(run["source"]) if run["source"] else "(arrays)", *options])
