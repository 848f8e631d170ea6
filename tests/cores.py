"""A core of its own for each worker of pytest-xdist."""

from __future__ import annotations

import os


def pin_to_one_core() -> None:
    """Keep a worker of xdist, and its children, on one core; to be called before torch counts the cores.

    pixelfit trains with as many threads as there are usable cores. Two workers with two threads each on two cores wait for one
    another's threads: a run of four small trials took 25 s of the processor, and 4 s where each worker had its own core.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
