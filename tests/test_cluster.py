"""Ray that is missing, or does not answer, is a sentence within seconds."""

from __future__ import annotations

import socket
import sys
import threading

import pytest

from pixelfit.cluster import connected
from pixelfit.errors import OptionError


@pytest.mark.parametrize("address", ["nonsense", "host", ":1", "host:", "host:99999", "host:-1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    with pytest.raises(OptionError, match="is no address of a Ray cluster"), connected(address):
        pass


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(OptionError, match=rf"--address 127.0.0.1:{port} does not answer"), connected(f"127.0.0.1:{port}"):
        pass


def test_an_address_of_something_else_is_refused_at_once() -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            line = server.accept()[0]
            line.recv(1000)
            line.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            line.close()

        threading.Thread(target=answer, daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(OptionError, match="not as a Ray cluster does"), connected(address):
            pass


def test_without_ray_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OptionError, match=r"pip install 'pixelfit\[ray\]'"), connected(None):
        pass
