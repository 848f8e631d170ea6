"""A small server on loopback, for the live view and the list of runs.

Other users of the machine and other web pages can reach a port on loopback, too. So every address begins with a random
token, the Host header must be this server's own (a foreign name that resolves to loopback is not), and a POST must come
from a page of this server. No path becomes a file's: a site answers for the names that it knows.
"""

from __future__ import annotations

import hmac
import secrets
import socketserver
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Protocol

from pixelfit.errors import OptionError

_LOOPBACK = "127.0.0.1"
_SILENT_S = 10.0  # so long may a connection say nothing
_BEAT_S = 5.0  # how often it is seen whether a page that waits for the end is still there
_WAITING = 4  # pages: a browser opens six connections to a server at most
_NOTHING_RUNS = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
TEXT, HTML, JSON, SCRIPT, STYLE = (
    f"{kind}; charset=utf-8" for kind in ("text/plain", "text/html", "application/json", "text/javascript", "text/css")
)


@dataclass(frozen=True)
class Answer:
    """What a site answers."""

    body: str | bytes = ""
    kind: str = TEXT
    policy: str = _NOTHING_RUNS  # the page's content-security policy
    status: int = HTTPStatus.OK


class Site(Protocol):
    """What a server serves, by the names that come after the token; None for names that it does not know."""

    def get(self, name: str) -> Answer | None:
        """Something to look at."""

    def post(self, name: str) -> Answer | None:
        """Something to do."""


class LoopbackServer:
    """Serves a site on this machine alone; use it as a context manager.

    Raises:
        OptionError: the port is taken, not allowed, or no port.
    """

    def __init__(self, site: Site, port: int = 0) -> None:
        try:
            self._server = _Server(site, port)
        except OverflowError:
            raise OptionError(f"--port {port} is no port: give a number from 0 to 65535, 0 for a free one.") from None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise OptionError(
                f"--port {port} cannot be used: {reason}. Choose another, or leave it out for a free one."
            ) from None
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.25,), name="pixelfit-live", daemon=True)

    @property
    def address(self) -> str:
        """Where a browser finds the site."""
        return f"http://{_LOOPBACK}:{self._server.server_address[1]}/{self._server.token}/"

    def __enter__(self) -> LoopbackServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.closing.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, site: Site, port: int) -> None:
        self.site, self.token = site, secrets.token_urlsafe(24)
        self.closing = threading.Event()
        self.waiting = threading.BoundedSemaphore(_WAITING)
        super().__init__((_LOOPBACK, port), _Handler)

    def server_bind(self) -> None:
        """Take the port; unlike its base, without asking the network for this machine's name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = _LOOPBACK, self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        """Pass over pages that have gone away."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "pixelfit", ""
    error_content_type, error_message_format = TEXT, "%(code)d %(message)s\n"
    timeout = _SILENT_S
    policy = _NOTHING_RUNS

    def do_GET(self) -> None:
        """Answer a page."""
        name = self._allowed_name()
        if name == "until-end":
            self._hold()
        elif name is not None:
            self._answer(name, self.server.site.get)

    def do_POST(self) -> None:
        """Do what a page asks for."""
        name = self._allowed_name()
        if name is None:
            return
        own = f"http://{self.headers['Host']}"
        if self.headers["Origin"] != own or self.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            self.send_error(HTTPStatus.FORBIDDEN)
        elif self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            self._answer(name, self.server.site.post)

    def _allowed_name(self) -> str | None:
        """The name that is asked for, if whoever asks may; otherwise the request is answered here."""
        port = self.server.server_port
        if self.headers.get_all("Host") not in ([f"{_LOOPBACK}:{port}"], [f"localhost:{port}"]):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return None
        _, _, path = self.path.partition("/")
        token, slash, name = path.partition("/")
        if not slash or not hmac.compare_digest(token.encode("latin-1", "replace"), self.server.token.encode()):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return name

    def _answer(self, name: str, ask: Callable[[str], Answer | None]) -> None:
        answer = ask(name)
        if answer is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        body = answer.body.encode("utf-8", "replace") if isinstance(answer.body, str) else answer.body
        self._head(answer.status, answer.kind, answer.policy, len(body))
        self.wfile.write(body)

    def _hold(self) -> None:
        """An answer that ends when the server does, from which a page learns of the end without a request that fails."""
        if not self.server.waiting.acquire(blocking=False):
            self._head(HTTPStatus.NO_CONTENT, TEXT, _NOTHING_RUNS, 0)
            return
        try:
            self._head(HTTPStatus.OK, TEXT, _NOTHING_RUNS, None)
            while not self.server.closing.wait(_BEAT_S):
                self.wfile.write(b".")
        finally:
            self.server.waiting.release()

    def _head(self, status: int, kind: str, policy: str, length: int | None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.policy = policy
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def end_headers(self) -> None:
        """What holds for every answer: it runs only what it may, and neither it nor its address goes elsewhere."""
        self.send_header("Content-Security-Policy", self.policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("X-Frame-Options", "DENY")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal is the display's."""
