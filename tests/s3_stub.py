"""A server on loopback that answers as S3 does where files are listed, looked at and read."""

from __future__ import annotations

import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_WHEN = {"ETag": '"e"', "Last-Modified": "Mon, 30 Nov 2026 00:00:00 GMT"}


@contextmanager
def s3_with(files: Mapping[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """The server's address and what it was asked for, for files by ``bucket/key``."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            pass

        def answer(self, code: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            address = urllib.parse.urlsplit(self.path)
            name = urllib.parse.unquote(address.path).strip("/")
            asked.append(f"{self.command} {name}")
            if name in files:
                first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
                end = min(int(last or len(files[name])), len(files[name]) - 1)
                where = {"Content-Range": f"bytes {first}-{end}/{len(files[name])}"} if self.headers.get("Range") else {}
                return self.answer(206 if where else 200, files[name][int(first) : end + 1], _WHEN | where)
            if "list-type" not in address.query:
                return self.answer(404 if "/" in name else 200)
            prefix = dict(urllib.parse.parse_qsl(address.query)).get("prefix", "")
            keys = [
                (file.partition("/")[2], len(content)) for file, content in files.items() if file.startswith(f"{name}/{prefix}")
            ]
            rows = "".join(
                f"<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>2026-11-30T00:00:00.000Z</LastModified></Contents>"
                for key, size in keys
            )
            listed = f"<KeyCount>{len(keys)}</KeyCount><IsTruncated>false</IsTruncated>{rows}"
            return self.answer(200, f'<?xml version="1.0"?><ListBucketResult>{listed}</ListBucketResult>'.encode())

        do_HEAD = do_GET  # noqa: N815 - as the library calls it

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
