"""A client that asks again and again over many connections, with as little work of its own as there can be."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop


@dataclass
class Asked:
    """What came of it: seconds of each answer, and how many there were of each status (0: the connection was lost)."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


class _Connection(asyncio.Protocol):
    """Sends one request after the other; the next once the last is answered."""

    def __init__(self, client: Client) -> None:
        self._client, self._seen, self._wanted, self._sent = client, bytearray(), 0, 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._next()

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if not self._wanted:
            end = self._seen.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._seen[:end]).lower()
            start = head.index(b"content-length:") + 15
            self._wanted = end + 4 + int(head[start : (head + b"\r\n").index(b"\r\n", start)])
        if len(self._seen) >= self._wanted:
            now = time.perf_counter()
            self._client.asked.seconds.append(now - self._sent)
            self._client.asked.statuses[int(self._seen[9:12])] += 1
            closes = b"connection: close" in self._seen[: self._seen.find(b"\r\n\r\n")].lower()
            self._seen.clear()
            self._wanted, self._sent = 0, 0.0
            if closes and self._transport is not None:
                self._transport.close()
            else:
                self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if self._sent:
            self._client.asked.statuses[0] += 1
        self._client.lost(self)

    def _next(self) -> None:
        request = self._client.next_request()
        assert self._transport is not None
        if request is None:
            self._sent = 0.0
            self._transport.close()
        else:
            self._sent = time.perf_counter()
            self._transport.write(request)


class Client:
    """Asks ``requests`` in turn over so many connections, until a time or a number is reached."""

    def __init__(self, port: int, requests: Sequence[bytes], *, seconds: float | None = None, count: int | None = None) -> None:
        self.asked = Asked()
        self._port, self._requests, self._seconds, self._count = port, requests, seconds, count
        self._place, self._ends = 0, 0.0
        self._open: set[_Connection] = set()
        self._done = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, connections: int) -> Asked:
        """Ask."""
        self._ends = time.perf_counter() + (self._seconds or float("inf"))
        for _ in range(connections):
            await self._connect()
        await self._done.wait()
        return self.asked

    def next_request(self) -> bytes | None:
        """The next one; None where it is enough."""
        if time.perf_counter() >= self._ends or (self._count is not None and self._place >= self._count):
            return None
        self._place += 1
        return self._requests[self._place % len(self._requests)]

    def lost(self, connection: _Connection) -> None:
        """A connection has ended; unless it is enough, another takes its place."""
        self._open.discard(connection)
        if time.perf_counter() < self._ends and (self._count is None or self._place < self._count):
            task = asyncio.get_running_loop().create_task(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif not self._open and not self._tasks:
            self._done.set()

    async def _connect(self) -> None:
        for _ in range(300):  # half a minute, in which a server that was killed may start again
            try:
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(self), "127.0.0.1", self._port
                )
            except OSError:
                await asyncio.sleep(0.1)
            else:
                self._open.add(connection)
                return
        raise ConnectionError(f"nobody listens on port {self._port}")


def request_of(path: str, body: bytes, kind: str, *, more: str = "") -> bytes:
    """A whole request as bytes."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def main() -> None:
    """For the benchmark's own use: ask with the pictures of a folder, and print what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("connections", type=int)
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    requests = [request_of("/predict", file.read_bytes(), "image/png") for file in sorted(options.folder.glob("*.png"))]
    random.Random(0).shuffle(requests)

    async def ask() -> Asked:
        return await Client(options.port, requests, seconds=options.seconds).run(options.connections)

    asked = uvloop.run(ask())
    json.dump({"seconds": asked.seconds, "statuses": asked.statuses}, sys.stdout)


if __name__ == "__main__":
    main()
