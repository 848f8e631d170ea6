"""How a run is repeated, and what it took."""

from __future__ import annotations

import shlex

from pixelfit.types import Json

# Watts of a core and of a gibibyte of memory, as the Green Algorithms calculator has them (Lannelongue et al. 2021).
_CORE_W, _MEMORY_W = 12.0, 0.3725


def command(run: Json) -> str:
    """The command that repeats the run into a folder of its own; for arrays, which have no name, the options alone."""
    about_the_folder = ("out", "overwrite", "resume")
    chosen = ((name, value) for name, value in run["options"].items() if name not in about_the_folder)
    given = {name: value for name, value in chosen if value is not None and value is not False}
    if "budget" in given:
        given["budget"] = f"{given['budget']:g}s"
    pairs = [(name, each) for name, value in given.items() for each in (value if isinstance(value, (list, tuple)) else [value])]
    options = [f"--{name.replace('_', '-')}" + ("" if value is True else f" {shlex.quote(str(value))}") for name, value in pairs]
    return " ".join(["pixelfit fit", shlex.quote(run["source"]) if run["source"] else "(arrays)", *options])


def energy(environment: Json, seconds: float) -> str:
    """What the run took of energy, estimated from the machine's cores and memory, in words."""
    cores, memory = environment["cores"], environment["memory_gib"]
    hours = (cores * _CORE_W + memory * _MEMORY_W) * seconds / 3600
    amount = f"{hours / 1000:.2g} kWh" if hours >= 1000 else f"{hours:.2g} Wh"
    gpu = "; the graphics card, whose draw is not known, comes on top" if environment["gpu"] else ""
    return (
        f"about {amount}, estimated from {cores} cores at {_CORE_W:g} W and {memory:g} GiB of memory at {_MEMORY_W:g} W each{gpu}"
    )
