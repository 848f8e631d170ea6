"""From what the user has to facts and parts: what every run begins with."""

from __future__ import annotations

from dataclasses import replace

from pixelfit.data.inspect import inspect
from pixelfit.data.sources import Source, load_table
from pixelfit.data.split import split
from pixelfit.data.store import decode
from pixelfit.data.targets import development_scales
from pixelfit.options import FitOptions
from pixelfit.progress import Progress
from pixelfit.types import Facts, Splits


def read(source: Source, options: FitOptions, progress: Progress) -> tuple[Facts, Splits]:
    """What every run begins with, and all that ``pixelfit inspect`` does: load, decode, inspect, split.

    Raises:
        PixelfitError: the data or options cannot be used; the message names the file, row or option.
    """
    table = load_table(source, options.columns, data_dir=options.data_dir, progress=progress, test=options.test)
    pictures = decode(table, progress, most_left_out=options.most_left_out)
    inspected = inspect(table, pictures, options.task, options.metric)
    splits = split(table, pictures, inspected, seed=options.seed, folds=options.folds_wanted)
    scales = development_scales(inspected.facts, [part.targets for part in splits.development.values()])
    return replace(inspected.facts, target_scales=scales), splits
