"""Exported graphs, read with ONNX Runtime alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pixelfit.errors import OptionError, RunError
from pixelfit.files import parse_json
from pixelfit.types import Json

if TYPE_CHECKING:
    import onnxruntime

INPUT = "pictures"
METADATA_KEY = "pixelfit"


def session_of(file: Path, *, threads: int = 0, alone: bool = True) -> onnxruntime.InferenceSession:
    """A session of ONNX Runtime on the processor; with ``threads`` of 0 it takes one a core.

    Where others need the cores too (not ``alone``), its threads do not keep them busy while they wait for more: a server on 2
    cores, with its client, answered 1,553 instead of 1,231 pictures a second.
    """
    try:
        import onnxruntime as runtime
    except ImportError as error:
        raise OptionError("ONNX needs the package onnxruntime: pip install 'pixelfit[serve]'.") from error
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    if not alone:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise RunError(f"{file} cannot be read as an ONNX file: {error}.") from error


def description_of(session: onnxruntime.InferenceSession, file: Path) -> Json:
    """What ``description`` put into the file; raises RunError if pixelfit did not write it."""
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise RunError(f"{file} was not exported by pixelfit.")
    try:
        return parse_json(text)
    except ValueError as error:
        raise RunError(f"{file} was not exported by pixelfit: {error}.") from error
