"""Exported graphs, read with ONNX Runtime alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pixelfit.errors import OptionError, RunError
from pixelfit.types import Json

if TYPE_CHECKING:
    import onnxruntime

INPUT = "pictures"
METADATA_KEY = "pixelfit"


def session_of(file: Path, *, threads: int = 0) -> onnxruntime.InferenceSession:
    """A session of ONNX Runtime on the processor; with ``threads`` of 0 it takes one a core."""
    try:
        import onnxruntime as runtime
    except ImportError as error:
        raise OptionError("ONNX needs the package onnxruntime: pip install 'pixelfit[serve]'.") from error
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    try:
        return runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise RunError(f"{file} cannot be read as an ONNX file: {error}.") from error


def description_of(session: onnxruntime.InferenceSession, file: Path) -> Json:
    """What ``description`` put into the file; raises RunError if pixelfit did not write it."""
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise RunError(f"{file} was not exported by pixelfit.")
    return json.loads(text)
