"""The model as an exported program of torch, which ``torch.export.load`` reads without any code of ours."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from pixelfit.export.assembled import Assembled, description, input_dtype
from pixelfit.export.check import Parity, checked
from pixelfit.files import written_beside
from pixelfit.predictor import Predictor
from pixelfit.runs import RunFolder
from pixelfit.types import Array

DESCRIPTION_FILE = "pixelfit.json"  # inside the file


def write_program(folder: RunFolder, out: Path) -> Parity:
    """Write ``out`` (.pt2) once it is seen to predict what the original does.

    Raises:
        RunError: the run has no model, or the program's outputs differ.
    """
    predictor, held_out = Predictor.load(folder.path), folder.read_held_out()  # what is missing is said before the long part
    program = traced(Assembled(predictor), predictor)
    with written_beside(out) as beside:
        # torch looks at the name's ending
        named = beside.with_suffix(".pt2")
        try:
            torch.export.save(
                program, named, extra_files={DESCRIPTION_FILE: json.dumps(description(predictor, folder.path.name))}
            )
            module = torch.export.load(named).module()
            parity = checked(lambda pictures: _run(module, pictures), predictor, held_out)
            named.replace(beside)
        finally:
            named.unlink(missing_ok=True)
    return parity


def traced(assembled: Assembled, predictor: Predictor) -> torch.export.ExportedProgram:
    """The module's graph, for any number of pictures of any height and width."""
    size = torch.export.Dim
    shapes = ({0: size("pictures"), 1: size("height"), 2: size("width")},)
    # Not of the models' own size, nor one picture: numbers that the graph should leave open must not mean something to it.
    spec = predictor.spec
    like = torch.zeros(3, spec.height + 5, spec.width + 7, spec.channels, dtype=input_dtype(predictor))
    with torch.no_grad():
        return torch.export.export(assembled, (like,), dynamic_shapes=shapes)


@torch.inference_mode()
def _run(module: torch.nn.Module, pictures: Array) -> list[Array]:
    return [output.numpy() for output in module(torch.from_numpy(pictures))]
