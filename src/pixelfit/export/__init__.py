"""A finished run's model for use without pixelfit: as an ONNX graph, a program of torch, or a script that trains it again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from pixelfit.errors import OptionError
from pixelfit.export.check import MOST_DIFFERENCE, Parity
from pixelfit.export.onnx import Cost, write_int8, write_onnx
from pixelfit.export.program import write_program
from pixelfit.export.script import Written, write_script
from pixelfit.progress import Progress
from pixelfit.runs import RunFolder

__all__ = ["Form", "export"]

Form: TypeAlias = Literal["onnx", "torch", "script"]
_NAMES: Mapping[Form, str] = {"onnx": "model.onnx", "torch": "model.pt2", "script": "train.py"}


def export(
    folder: RunFolder, form: Form, *, progress: Progress, quantize: Literal["int8"] | None = None, out: Path | None = None
) -> list[str]:
    """Write the run's final model, and say in sentences where to, how large it is and how it was checked.

    Args:
        folder: a finished run's.
        form: ``onnx`` for ONNX Runtime and others; ``torch`` for ``torch.export.load``; ``script`` for a file that trains the
            winning recipe again.
        progress: is told what is read for a script.
        quantize: ``int8`` for an ONNX graph with 8-bit integers.
        out: the file; by default ``export/model.onnx`` and the like in the run folder.

    Raises:
        OptionError: the options do not go together, or a package that this needs is missing.
        RunError: the run is not finished, or what was exported does not predict the same.
    """
    if quantize is not None and form != "onnx":
        raise OptionError(f"--quantize {quantize} is for --format onnx.")
    usual = Path(_NAMES[form])
    if out is not None and out.suffix.lower() != usual.suffix:
        raise OptionError(f"--out {out} must end in {usual.suffix} for --format {form}.")
    file = out or folder.path / "export" / usual.with_stem(usual.stem if quantize is None else f"{usual.stem}-{quantize}")
    if form == "script":
        checked = _script_words(write_script(folder, file, progress=progress))
    elif quantize is not None:
        checked = _cost_words(write_int8(folder, file))
    else:
        checked = _parity_words(write_onnx(folder, file) if form == "onnx" else write_program(folder, file), folder)
    return [f"Wrote {file} ({file.stat().st_size / 2**20:,.2f} MiB).", checked]


def _script_words(written: Written) -> str:
    return f"It trains trial {written.trial} again on the pictures in {written.data}: python {written.script}"


def _parity_words(parity: Parity, folder: RunFolder) -> str:
    unit = "deviations of the target" if folder.read_facts().task == "regression" else "of probability"
    return (
        f"On {parity.pictures:,} held-out pictures it differs from the original by at most {parity.largest:.1g} {unit} "
        f"({MOST_DIFFERENCE:g} is allowed)."
    )


def _cost_words(cost: Cost) -> str:
    name = cost.metric.replace("_", " ")
    before, after = (f"{each.value:.4g} ({each.low:.4g} to {each.high:.4g})" for each in (cost.before, cost.after))
    return f"On {cost.pictures:,} held-out pictures {name} is {after}, where the original's is {before}."
