"""The model server's page in a real browser, against a small server that answers what a test has laid out."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

import numpy as np
import pytest
from browsing import chrome, opened, until
from conftest import HOSTILE
from PIL import Image

import pixelfit
from pixelfit.types import Json

PAGE = Path(pixelfit.__file__).parent / "serve" / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "media-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
FILES = {"/": ("index.html", "text/html"), "/page.css": ("page.css", "text/css"), "/page.js": ("page.js", "text/javascript")}
VERSION = "3f9c2a1b"
HOSTILE_FILE = "<img src=x onerror=document.title='hacked'>.png"


def png(shade: int = 120, *, side: int = 28) -> bytes:
    """A grey picture with a bright bar, as the bytes of a file."""
    pixels = np.full((side, side), shade, dtype=np.uint8)
    pixels[4:-4, side // 2 - 2 : side // 2 + 2] = 250
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def file_of(name: str, content: bytes | None = None, kind: str = "image/png") -> Json:
    """A file as Playwright gives it to a page."""
    return {"name": name, "mimeType": kind, "buffer": png() if content is None else content}


# One answer of each kind.
ITEMS: dict[str, Json] = {
    "number": {"prediction": 7.0216, "low": 6.8041, "high": 7.3372},
    "numbers": {
        "prediction": {"x": 1.0, HOSTILE: 123456.7},
        "low": {"x": 0.51, HOSTILE: 120000.0},
        "high": {"x": 1.48, HOSTILE: 130000.0},
    },
    "label": {"prediction": HOSTILE, "probabilities": [[HOSTILE, 0.934], ["dog", 0.0654], [3, 0.0004]], "set": [HOSTILE, "dog"]},
    "labels": {"prediction": ["cat", HOSTILE], "probabilities": [["cat", 0.9], [HOSTILE, 0.55], ["dog", 0.2]]},
}


def about(kind: str, **others: Json) -> Json:
    model = {
        "version": VERSION,
        "run": "mine",
        "kind": kind,
        "target_name": "" if kind == "numbers" else "digit",
        "target_names": ["x", HOSTILE] if kind == "numbers" else [],
        "classes": None if kind.startswith("number") else ["cat", HOSTILE, "dog", 3],
        "pictures": {"height": 28, "width": 28, "channels": 1, "scale": "byte"},
        "coverage": None if kind == "labels" else 0.9,
        "range": [0.0, 9.0] if kind == "number" else None,
    }
    limits = {"max_bytes": 100_000, "max_pixels": 50_000_000, "max_files": 3}
    answer: Json = {"model": model, "limits": limits, "token_required": False, "explains": True}
    for name, value in others.items():
        (model if name in model else limits if name in limits else answer)[name] = value
    return answer


def predicted(*items: Json) -> Json:
    return {"model": VERSION, "milliseconds": 3.14, "predictions": [{"name": None, "error": None, **item} for item in items]}


def explained(item: Json, *, of: str = "") -> Json:
    """It raised the prediction at the top left, and lowered it at the bottom right."""
    values = np.zeros((8, 8))
    values[:2, :2], values[-1, -1] = 1.0, -0.8
    shown = "data:image/png;base64," + base64.b64encode(png(60)).decode()
    return {
        "model": VERSION,
        "milliseconds": 41.0,
        "prediction": item,
        "looked_at": {"rows": 8, "columns": 8, "values": values.ravel().tolist()},
        "of": of,
        "nearest": [{"name": f"train/{number}.png", "target": HOSTILE if number else "7", "picture": shown} for number in range(3)],
    }


class Stub:
    """Serves the page; answers what lies in ``answers`` (the last of a path again and again), and records what it was asked."""

    def __init__(self, about: Json, *, predict: Json = None, explain: Json = None) -> None:
        self.answers: dict[str, list[tuple[int, Json]]] = {"/about": [(200, about)], "/predict": [], "/explain": []}
        item = ITEMS[about["model"]["kind"]]
        self.then("/predict", predict or predicted(item))
        self.then("/explain", explain or explained(item))
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self.held: dict[int, threading.Event] = {}  # before the answer to a prediction, by its number
        self._lock = threading.Lock()

    def then(self, path: str, answer: Json, status: int = 200) -> None:
        self.answers[path].append((status, answer))

    def only(self, path: str, answer: Json, status: int = 200) -> None:
        self.answers[path] = [(status, answer)]

    def bodies(self, path: str) -> list[bytes]:
        return [body for asked, _, body in self.asked if asked == path]

    def sent(self) -> list[list[tuple[str, bytes]]]:
        """The names and contents of the files in each request for predictions."""
        requests = []
        for path, headers, body in self.asked:
            if path == "/predict":
                message = message_from_bytes(b"Content-Type: " + headers["content-type"].encode() + b"\r\n\r\n" + body)
                parts = message.get_payload()
                assert isinstance(parts, list)
                names = [str(part.get_param("name", header="content-disposition")) for part in parts]
                assert set(names) == {"files"}
                requests.append([(str(part.get_filename()), part.get_payload(decode=True)) for part in parts])
        return requests

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Json]:
        with self._lock:
            self.asked.append((path, headers, body))
            answers = self.answers[path]
            chosen = answers.pop(0) if len(answers) > 1 else answers[0]
            held = self.held.get(len(self.bodies("/predict"))) if path == "/predict" else None
        if held is not None:
            assert held.wait(20)
        return chosen

    def __enter__(self) -> Stub:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path in FILES:
                    name, kind = FILES[self.path]
                    self.give(200, kind, (PAGE / name).read_bytes())
                else:
                    self.do_POST()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, answer = stub.answer(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.give(status, "application/json", content)

            def give(self, status: int, kind: str, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Security-Policy", POLICY)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for event in self.held.values():
            event.set()
        self._server.shutdown()
        self._server.server_close()
