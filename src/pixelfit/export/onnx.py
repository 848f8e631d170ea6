"""The model as an ONNX graph that takes pictures as they are, and as one of 8-bit integers."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pixelfit import metrics
from pixelfit.errors import OptionError, RunError
from pixelfit.export.assembled import Assembled, description
from pixelfit.export.check import Parity, checked
from pixelfit.export.program import traced
from pixelfit.files import written_beside
from pixelfit.graphs import INPUT, METADATA_KEY, session_of
from pixelfit.predictor import Predictor
from pixelfit.runs import HeldOut, RunFolder
from pixelfit.types import Array, Interval, Json

if TYPE_CHECKING:
    import onnx
    import onnxruntime

_OPSET = 18
_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_QUANTIZED = ("Conv", "Gemm", "MatMul")
_BATCH = 32


@dataclass(frozen=True)
class Cost:
    """What 8-bit integers cost: the metric that trials are ranked by before and after, on so many held-out pictures."""

    metric: str
    pictures: int
    before: Interval
    after: Interval


def write_onnx(folder: RunFolder, out: Path) -> Parity:
    """Write ``out`` once its outputs are seen to be those of the original.

    Raises:
        OptionError: a package that this needs is missing.
        RunError: the run has no model, or the graph's outputs differ.
    """
    predictor, held_out = Predictor.load(folder.path), folder.read_held_out()  # what is missing is said before the long part
    with written_beside(out) as beside:
        _write_graph(predictor, folder.path.name, beside)
        return checked(_session_runs(beside), predictor, held_out)


def write_int8(folder: RunFolder, out: Path) -> Cost:
    """Write ``out`` with the weights and values of its convolutions and products as 8-bit integers, and measure what that costs.

    Their ranges are those of one half of the held-out pictures (static quantization: Jacob et al. 2018, arXiv:1712.05877); the
    cost is measured on the other half.

    Raises:
        OptionError: a package that this needs is missing.
        RunError: the run has no model, or too few pictures set aside.
    """
    predictor, facts, held_out = Predictor.load(folder.path), folder.read_facts(), folder.read_held_out()
    if len(held_out.pictures) < 2:
        raise RunError(f"The run in {folder.path} set too few pictures aside to quantize its model with.")
    to_learn, to_judge = (HeldOut(held_out.pictures[half::2], held_out.targets[half::2]) for half in (0, 1))
    with written_beside(out) as beside, written_beside(out.with_suffix(".float.onnx")) as plain:
        _write_graph(predictor, folder.path.name, plain)
        _quantize(plain, beside, to_learn.pictures)
        before, after = (
            metrics.ranking_interval(facts, to_judge.targets, _predictions(_session_runs(file), to_judge.pictures))
            for file in (plain, beside)
        )
    out.with_suffix(".float.onnx").unlink()
    return Cost(facts.metric, len(to_judge.pictures), before, after)


def _write_graph(predictor: Predictor, run: str, file: Path) -> None:
    library = _imported()[0]
    import torch

    assembled = Assembled(predictor)
    with _quiet():
        program = torch.onnx.export(
            traced(assembled, predictor), dynamo=True, opset_version=_OPSET, verbose=False,
            input_names=[INPUT], output_names=assembled.output_names,
        )  # fmt: skip
    assert program is not None
    graph = program.model_proto
    _name_sizes(graph)
    graph.doc_string = f"Made by pixelfit from the run {run}."
    library.helper.set_model_props(graph, {METADATA_KEY: json.dumps(description(predictor, run), ensure_ascii=False)})
    library.save(graph, str(file))


def _name_sizes(graph: onnx.ModelProto) -> None:
    """Call the open sizes what they are, where the exporter numbered them."""
    for dimension, name in zip(graph.graph.input[0].type.tensor_type.shape.dim, ("pictures", "height", "width"), strict=False):
        if dimension.dim_param:
            dimension.dim_param = name


def _quantize(plain: Path, out: Path, pictures: Array) -> None:
    library = _imported()[0]
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter([{INPUT: pictures[start : start + _BATCH]} for start in range(0, len(pictures), _BATCH)])

        def get_next(self) -> dict[str, Array] | None:
            return next(self.batches, None)

    graph = library.load(str(plain))
    exact = _in_double(graph)
    with _quiet():
        quantize_static(
            str(plain), str(out), Reader(),
            quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True,
            op_types_to_quantize=list(_QUANTIZED), nodes_to_exclude=exact,
        )  # fmt: skip


def _in_double(graph: onnx.ModelProto) -> list[str]:
    """Nodes that compute in double precision, as resizing and the heads do; they stay as they are."""
    library = _imported()[0]
    inferred = library.shape_inference.infer_shapes(graph).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}
    double = library.TensorProto.DOUBLE
    return [node.name for node in inferred.node if any(kinds.get(output) == double for output in node.output)]


def _session_runs(file: Path) -> _Runs:
    return _Runs(session_of(file))


@dataclass(frozen=True)
class _Runs:
    session: onnxruntime.InferenceSession

    def __call__(self, pictures: Array) -> Sequence[Array]:
        return list(self.session.run(None, {INPUT: pictures}))


def _predictions(runs: _Runs, pictures: Array) -> Array:
    parts = [runs(pictures[start : start + _BATCH])[0] for start in range(0, len(pictures), _BATCH)]
    return np.concatenate(parts).astype(np.float64)


def _imported() -> tuple[Json, Json]:
    """The modules onnx and onnxruntime; raises OptionError if one that exporting needs is missing."""
    import importlib

    try:
        library, _, runtime = (importlib.import_module(name) for name in _NEEDED)
    except ImportError as error:
        raise OptionError(f"ONNX needs the package {error.name}: pip install 'pixelfit[export]'.") from error
    return library, runtime


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes that the exporters write for their own developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
