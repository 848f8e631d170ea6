"""Coverage-guided fuzzing of what reads strangers' files, for seconds; ``benchmarks/fuzz.py`` does it for ten minutes."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import pytest

from benchmarks.fuzz import TARGETS, fuzzed

MOST_S = 10

FOUND = Path(__file__).parent / "found"  # inputs with which the fuzzer once showed a defect, named TARGET-WHAT
needs_fuzzer = pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs atheris, which only Linux has")


@pytest.mark.parametrize("file", sorted(FOUND.iterdir()), ids=lambda file: file.name)
def test_what_was_found_once_does_no_harm(file: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    TARGETS[file.name.split("-")[0]](file.read_bytes(), tmp_path)
    assert time.monotonic() - begun < MOST_S


@needs_fuzzer
@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "seconds"),  # to load and instrument what a target reads with takes 15 s
    [("pictures", 2), *(pytest.param(target, 10, marks=pytest.mark.exhaustive) for target in TARGETS)],
)
def test_nothing_is_found(target: str, seconds: int, tmp_path: Path) -> None:
    counted = fuzzed(target, seconds, tmp_path)
    assert counted.inputs > 100
    assert counted.edges > 50
    assert list(tmp_path.iterdir()) == []


@needs_fuzzer
@pytest.mark.slow
def test_what_is_found_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that fails ends the fuzzer with the input kept: the check above can fail."""
    from benchmarks import fuzz, shared

    (tmp_path / "failing.py").write_text(
        "import benchmarks.fuzz as fuzz\n"
        "def fails(data, place):\n    if data[:1] == b'{': raise RuntimeError('found')\n"
        "fuzz.TARGETS = {**fuzz.TARGETS, 'models': fails}\n"
        "fuzz.SEEDS = {**fuzz.SEEDS, 'models': lambda: iter([b'{}'])}\n"
        "fuzz.main()\n"
    )
    monkeypatch.setattr(fuzz, "_PROGRAM", (str(tmp_path / "failing.py"),))
    with pytest.raises(shared.BenchmarkError, match="found"):
        fuzzed("models", 2, tmp_path)
    assert list(tmp_path.glob("models-crash-*"))
