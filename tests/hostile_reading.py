"""Reads one file after the other as pixelfit does, for a test that gives it hostile ones: seconds, memory and outcome of each.

Run as a program with lines ``KIND PATH`` on standard input; it ends at once where one takes longer than it may.
"""

from __future__ import annotations

import faulthandler
import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.torchvision_names import make_importable
from pixelfit.data.pictures import read_head, read_picture
from pixelfit.data.sources import load_table
from pixelfit.data.store import decode
from pixelfit.data.streams import stream_of
from pixelfit.errors import PixelfitError
from pixelfit.predictor import Predictor
from pixelfit.progress import Silent
from pixelfit.runs import RunFolder
from pixelfit.types import UNNAMED, PictureSpec

MOST_S = 10


def picture(path: Path) -> str:
    found = [read_picture(path, PictureSpec(8, 8, channels)) for channels in (1, 3)]
    reasons = [each for each in (read_head(path), *found) if isinstance(each, str)]
    return f"refused: {reasons[0]}" if reasons else "read"


def source(path: Path) -> str:
    table = load_table(path, UNNAMED, data_dir=None, progress=Silent())
    return f"read {len(decode(table, Silent()).rows)}"


def predicted(path: Path) -> str:
    return f"read {sum(1 for _ in stream_of([path], column=None, lines=None, progress=Silent()).items())}"


def model(path: Path) -> str:
    predictor = Predictor.load(path)
    predictor.predict(np.zeros((2, 8, 8, predictor.spec.channels), np.uint8))
    return "read"


def run(path: Path) -> str:
    folder = RunFolder.existing(path)
    folder.read_facts()
    folder.ended_trials()
    return "read"


READERS: Mapping[str, Callable[[Path], str]] = {
    "picture": picture, "source": source, "predicted": predicted, "model": model, "run": run,
}  # fmt: skip


def main() -> None:
    make_importable()
    for line in sys.stdin:
        kind, _, name = line.rstrip("\n").partition(" ")
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
        faulthandler.dump_traceback_later(MOST_S, exit=True)
        begun = time.monotonic()
        try:
            outcome = READERS[kind](Path(name))
        except PixelfitError as error:
            outcome = f"refused: {error}"
        except Exception as error:  # noqa: BLE001 - whatever else it is, it is what the test looks for
            outcome = f"raised {type(error).__name__}: {error}"
        seconds = round(time.monotonic() - begun, 2)
        faulthandler.cancel_dump_traceback_later()
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found is not None
        told = {"path": name, "outcome": outcome, "seconds": seconds, "mb": int(found[1]) // 1024}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
