"""Ray, started for one command or joined where it runs already. Needs the extra ``ray``."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from pixelfit.environment import usable_cores
from pixelfit.errors import OptionError

RAY_IS_MISSING = "--engine ray needs the package ray: pip install 'pixelfit[ray]'."
_ANSWERS_WITHIN_S = 5.0
# Ray's own settings, read when it is loaded and by the processes that it starts: it reports nothing to its makers, and its
# libraries do not write on the terminal what pixelfit says in a sentence.
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "GRPC_VERBOSITY": "NONE"}
# What a client of HTTP/2, which Ray's head speaks, begins with (RFC 9113, 3.4), and the kind of the frame that answers it.
_GREETING, _SETTINGS_FRAME = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]), 4


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Ray for the block: at the address, or (None) started here with the cores of this machine and ended with the block.

    Args:
        address: ``HOST:PORT`` of a cluster, ``auto`` for the one that this machine is part of, or None. Where this process is
            connected to a cluster already, it stays so, whatever the address.

    Raises:
        OptionError: ray is not installed, or nothing answers at the address.
    """
    os.environ.update(_SETTINGS)
    try:
        import ray
    except ImportError as error:
        raise OptionError(RAY_IS_MISSING) from error
    if ray.is_initialized():
        yield
        return
    if address not in (None, "auto"):
        _knock(str(address))
    try:
        ray.init(
            address or "local",
            num_cpus=usable_cores() if address is None else None,
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise OptionError(_why(address, error)) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OptionError where no Ray answers: Ray itself waits for more than 5 minutes, and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise OptionError(f"--address {address} is no address of a Ray cluster: give HOST:PORT, or auto.")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS_WITHIN_S) as knock:
            knock.sendall(_GREETING)
            answer = knock.recv(9, socket.MSG_WAITALL)
    except OSError as error:
        raise OptionError(f"--address {address} does not answer: {error.strerror or error}.") from error
    if answer[3:4] != bytes([_SETTINGS_FRAME]):
        raise OptionError(f"--address {address} answers, but not as a Ray cluster does.")


def _why(address: str | None, error: Exception) -> str:
    said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    if address == "auto":
        return f"--address auto finds no Ray cluster that this machine is part of: {said}."
    return f"Ray could not be started: {said}." if address is None else f"--address {address} cannot be joined: {said}."
