"""A finished run's model behind HTTP, with a page: FastAPI over ONNX Runtime, without torch."""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pixelfit.environment import usable_cores
from pixelfit.errors import OptionError
from pixelfit.progress import Progress
from pixelfit.runs import RunFolder
from pixelfit.serve.limits import Limits

if TYPE_CHECKING:
    from pixelfit.serve.model import ServedModel

_NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "onnxruntime")
_GRAPH = Path("export") / "model.onnx"
_MOST_WORKERS = 4  # by themselves: each takes the memory of a whole server
_GRACE_S = 30  # for what was accepted, once the server is to end
_IDLE_S = 30  # that a connection may keep silent between two requests


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @property
    def local(self) -> bool:
        """Whether it is reached from this machine alone."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def serve(path: Path, address: Address, *, token: str | None, limits: Limits, workers: int | None, progress: Progress) -> None:
    """Serve a run, or an ONNX file that was exported from one, until a signal ends it.

    Args:
        path: the run folder, which is exported first where it is not yet; or the file.
        address: where to listen.
        token: what requests must bring; needed where others than this machine can reach the server.
        limits: on requests; of those at once each worker takes so many.
        workers: processes that answer; None for one a core, up to 4.
        progress: is told the address.

    Raises:
        OptionError: a package is missing, the address is taken, or open to others without a token.
        RunError: there is no model.
    """
    workers = min(_MOST_WORKERS, usable_cores()) if workers is None else workers
    _check(address, token, workers)
    file, run = _graph(path, progress)
    import uvicorn

    from pixelfit.serve import app
    from pixelfit.serve.measures import MULTIPROCESS_VARIABLE
    from pixelfit.serve.model import ServedModel

    served = _name_of(ServedModel(file, run, threads=1))  # what is wrong with it is said before anything listens
    settings = app.Settings(
        str(file.resolve()), None if run is None else str(run.path.resolve()), limits,
        token=token, local=address.local, threads=max(1, usable_cores() // workers),
    )  # fmt: skip
    with ExitStack() as stack:
        listening = _listen(address)
        stack.callback(listening.close)
        port = listening.getsockname()[1]
        shown = f"[{address.host}]" if ":" in address.host else address.host
        progress.say(f"Serving {served} at http://{shown}:{port}/")
        progress.say(f"Predict: curl --data-binary @PICTURE -H 'Content-Type: image/png' http://{shown}:{port}/predict")
        progress.say("Ctrl-C ends this.")
        os.environ[app.SETTINGS_VARIABLE] = settings.to_text()
        if workers > 1:
            os.environ[MULTIPROCESS_VARIABLE] = stack.enter_context(tempfile.TemporaryDirectory(prefix="pixelfit-"))
        config = uvicorn.Config(
            "pixelfit.serve.app:from_environment", factory=True, workers=workers, log_level="warning", access_log=False,
            server_header=False, proxy_headers=False, timeout_keep_alive=_IDLE_S, timeout_graceful_shutdown=_GRACE_S,
        )  # fmt: skip
        if workers > 1:
            from uvicorn.supervisors import Multiprocess

            Multiprocess(config, sockets=[listening]).run()
        else:
            uvicorn.Server(config).run(sockets=[listening])


def _check(address: Address, token: str | None, workers: int) -> None:
    from importlib.util import find_spec

    missing = next((name for name in _NEEDED if find_spec(name) is None), None)
    if missing is not None:
        raise OptionError(f"Serving needs the package {missing}: pip install 'pixelfit[serve]'.")
    if not address.local and not token:
        raise OptionError(f"--host {address.host} can be reached from other machines: give a --token that requests must bring.")
    if token is not None and (not token.isascii() or not token.isprintable() or " " in token or not token):
        raise OptionError("--token must be of printable ASCII characters without spaces.")
    if workers < 1:
        raise OptionError(f"--workers {workers} cannot be used: it takes at least 1.")


def _graph(path: Path, progress: Progress) -> tuple[Path, RunFolder | None]:
    """The ONNX file, and its run where that is at hand."""
    if path.is_file():
        return path, None
    run = RunFolder.existing(path)
    file = run.path / _GRAPH
    if not file.is_file():
        from pixelfit.export import export

        progress.say("Exporting the model, once ...")
        for sentence in export(run, "onnx", progress=progress):
            progress.say(sentence)
    return file, run


def _name_of(model: ServedModel) -> str:
    """What it is called; the model itself is for the workers alone to keep."""
    return f"model {model.version} of {model.description['run']}"


def _listen(address: Address) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address.host, address.port))
        listening.set_inheritable(True)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OptionError(f"The server cannot listen on --host {address.host} --port {address.port}: {reason}.") from None
    return listening
