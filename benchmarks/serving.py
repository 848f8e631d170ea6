"""pixelfit serve under load, beside a bare loop of ONNX Runtime and a plain endpoint; and 100,000 requests of every kind."""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import uvloop
from PIL import Image

from benchmarks import shared
from benchmarks.exported import new_run
from benchmarks.http_client import Asked, Client, request_of
from pixelfit.export.onnx import write_onnx
from pixelfit.runs import RunFolder
from pixelfit.types import Array

ROWS = ("load", "soak")
_CONNECTIONS = (1, 8, 64)
_SERVERS: dict[str, tuple[str, ...] | None] = {
    "pixelfit serve": (),
    "pixelfit serve --workers 1": ("--workers", "1"),
    "plain endpoint": None,
}
_ROUNDS, _SECONDS = 5, 5.0
_BATCH = 64
_SOAK = 100_000
_BOMB_SIDE = 12_000  # pixels: 144 million in a small file
_STARTS_S = 60


def main() -> None:
    """Measure the rows that are not measured yet, and write the tables."""
    parser = shared.options_parser("serving", __doc__, ROWS)
    shared.data_option(parser)
    parser.add_argument("--run", type=Path, help="take this finished regression of grey pictures instead of a new one")
    parser.add_argument("--budget", default="10m", help="of a new run (default 10m)")
    options = parser.parse_args()
    journal = shared.journal_of("serving", options)
    measured: dict[str, Callable[[argparse.Namespace, Path], shared.Json]] = {"load": _load, "soak": _soak}
    for name in options.only or ROWS:
        journal.once({"row": name, "quick": options.quick}, lambda chosen=name: measured[chosen](options, _served_run(options)))
    records = {record["key"]["row"]: record for record in journal.records() if record["key"]["quick"] == options.quick}
    tables = {"load": _load_table, "soak": _soak_table}
    shared.write_results(
        "serving",
        options,
        tables=[tables[name](records[name]["figures"]) for name in ROWS if name in records],
        notes=[
            "a run's final model on MNIST as numbers; 1,000 held-out pictures as PNG files, one a request as raw bytes; the "
            "client, in a process of its own, and the server share the cores",
            "pixelfit serve has a worker a core where nothing else is said; the bare loop has the pictures decoded and does "
            "nothing but run the graph, one or 64 at a time, on all cores",
            f"load: {_ROUNDS} rounds of {_SECONDS:g} s each, the servers in turns; medians, with the smallest and the largest",
            "plain endpoint: FastAPI and the same graph, no batching, limits or metrics (benchmarks/plain_endpoint.py)",
            "soak: 64 connections; good pictures as bytes, forms and base64, damaged ones, bombs, wrong types, cut and oversized "
            "bodies, broken JSON and forms; killed once in the middle and started again",
        ],
        figures={"rows": list(records.values())},
        commits=[record["commit"] for record in records.values()],
    )


def _served_run(options: argparse.Namespace) -> Path:
    made = shared.WORK / "exported" / "run"
    run = options.run or (made if (made / "scores.json").is_file() and not options.quick else new_run(options))
    folder = RunFolder.existing(run)
    graph = folder.path / "export" / "model.onnx"
    if not graph.is_file():
        write_onnx(folder, graph)
    return run


# --- load


def _load(options: argparse.Namespace, run: Path) -> shared.Json:
    pictures = RunFolder(run).read_held_out().pictures
    folder = _as_files(pictures)
    graph = run / "export" / "model.onnx"
    seconds = 0.5 if options.quick else _SECONDS
    bare: dict[str, list[float]] = {"1": [], str(_BATCH): []}
    served: dict[str, dict[str, list[shared.Json]]] = {name: {str(count): [] for count in _CONNECTIONS} for name in _SERVERS}
    for _ in range(1 if options.quick else _ROUNDS):
        for batch, rates in bare.items():
            rates.append(_bare(graph, pictures, int(batch), seconds))
        for name, words in _SERVERS.items():
            with _plain(graph) if words is None else _serving(run, *words) as port:
                for count in served[name]:
                    _asked(port, folder, int(count), seconds / 5)
                    served[name][count].append(_asked(port, folder, int(count), seconds))
    return {"bare": bare, "served": served}


def _as_files(pictures: Array) -> Path:
    folder = shared.fresh_folder("serving", "pictures")
    folder.mkdir(parents=True)
    for place, picture in enumerate(pictures):
        (folder / f"{place:04d}.png").write_bytes(_png(picture))
    return folder


def _png(picture: Array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(file, "PNG")
    return file.getvalue()


def _bare(graph: Path, pictures: Array, batch: int, seconds: float) -> float:
    """Pictures a second, in a process of its own."""
    code = (
        "import sys, time, numpy as np; from pathlib import Path; from pixelfit.graphs import INPUT, session_of\n"
        "graph, file, batch, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])\n"
        "session, pictures, done = session_of(Path(graph)), np.load(file), 0\n"
        "session.run(None, {INPUT: pictures[:batch]}); began = time.perf_counter()\n"
        "while time.perf_counter() < began + seconds:\n"
        "    place = done % (len(pictures) - batch + 1)\n"
        "    session.run(None, {INPUT: pictures[place : place + batch]}); done += batch\n"
        "print(done / (time.perf_counter() - began))"
    )
    file = shared.WORK / "serving" / "pictures.npy"
    np.save(file, pictures)
    command = [sys.executable, "-P", "-c", code, str(graph), str(file), str(batch), str(seconds)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True, env=shared.child_environment()).stdout)


def _asked(port: int, folder: Path, connections: int, seconds: float) -> shared.Json:
    command = [sys.executable, "-P", "-m", "benchmarks.http_client", str(port), str(folder), str(connections), str(seconds)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=shared.child_environment())
    asked = json.loads(ran.stdout)
    if set(asked["statuses"]) != {"200"}:
        raise shared.BenchmarkError(f"Not every answer was 200: {asked['statuses']}.")
    taken = np.array(asked["seconds"])
    return {
        "per_s": len(taken) / seconds,
        "p50_ms": 1000 * float(np.quantile(taken, 0.5)),
        "p99_ms": 1000 * float(np.quantile(taken, 0.99)),
    }


@contextmanager
def _serving(run: Path, *words: str) -> Iterator[int]:
    port = _free_port()
    with _process([sys.executable, "-P", "-m", "pixelfit", "serve", str(run), "--port", str(port), *words], port, {}):
        yield port


@contextmanager
def _plain(graph: Path) -> Iterator[int]:
    port = _free_port()
    command = [sys.executable, "-P", "-m", "uvicorn", "benchmarks.plain_endpoint:app", "--port", str(port)]
    with _process([*command, "--no-access-log", "--log-level", "warning"], port, {"PLAIN_GRAPH": str(graph)}):
        yield port


@contextmanager
def _process(command: list[str], port: int, more: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env={**shared.child_environment(), **more}, stdout=subprocess.DEVNULL)
    try:
        _wait(process, port)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=_STARTS_S)


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    ends = time.monotonic() + _STARTS_S
    while time.monotonic() < ends and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise shared.BenchmarkError(f"Nothing listens on port {port}.")


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


# --- soak


def _soak(options: argparse.Namespace, run: Path) -> shared.Json:
    count = 2_000 if options.quick else _SOAK
    requests = _mixture(RunFolder(run).read_held_out().pictures[:200])
    port = _free_port()
    command = [sys.executable, "-P", "-m", "pixelfit", "serve", str(run), "--port", str(port), "--max-bytes", str(1 << 20)]

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, env=shared.child_environment(), stdout=subprocess.DEVNULL)
        _wait(process, port)
        return process

    began = time.perf_counter()
    asked, memory, process = uvloop.run(_ask(Client(port, requests, count=count), start, count))
    good = httpx.post(f"http://127.0.0.1:{port}/predict", content=_png(np.zeros((28, 28, 1), np.uint8)), headers=_PNG)
    if good.status_code != 200:
        raise shared.BenchmarkError(f"After the requests a good picture is answered with {good.status_code}.")
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=_STARTS_S)
    return {
        "count": count,
        "seconds": time.perf_counter() - began,
        "statuses": {str(status): number for status, number in sorted(asked.statuses.items())},
        "memory_mb": memory,
    }


async def _ask(
    client: Client, start: Callable[[], subprocess.Popen[bytes]], count: int
) -> tuple[Asked, list[list[float]], subprocess.Popen[bytes]]:
    """Ask all; in the middle the server is killed, and started again at the same port. Memory before that and after it."""
    process = start()
    memory: list[list[float]] = [[]]
    asking = asyncio.create_task(client.run(64))
    while not asking.done():
        memory[-1].append(shared.tree_rss_mb(process.pid))
        if len(memory) == 1 and sum(client.asked.statuses.values()) >= count // 2:
            process.kill()
            process.wait()
            process = await asyncio.to_thread(start)
            memory.append([])
        await asyncio.wait([asking], timeout=1.0)
    return asking.result(), memory, process


_PNG = {"Content-Type": "image/png"}


def _mixture(pictures: Array) -> list[bytes]:
    """Requests of every kind, most of them good."""
    files = [_png(picture) for picture in pictures]
    bomb = io.BytesIO()
    Image.new("1", (_BOMB_SIDE, _BOMB_SIDE)).save(bomb, "PNG")
    large = io.BytesIO()
    Image.effect_noise((600, 500), 80).save(large, "PNG")
    requests = [request_of("/predict", file, "image/png") for file in files]
    requests += [_form(files[place : place + 3]) for place in range(0, 60, 3)]
    requests += [
        _json({"pictures": [base64.b64encode(file).decode() for file in files[place : place + 2]]}) for place in range(0, 40, 2)
    ]
    requests += [request_of("/explain", file, "image/png") for file in files[:3]]
    requests += [request_of("/predict", large.getvalue(), "image/png")] * 3
    bad = [
        request_of("/predict", files[0][: len(files[0]) // 2], "image/png"),
        request_of("/predict", b"", "image/png"),
        request_of("/predict", b"no picture at all", "image/png"),
        request_of("/predict", bomb.getvalue(), "image/png"),
        request_of("/predict", files[0], "text/plain"),
        request_of("/predict", b"{", "application/json"),
        request_of("/predict", b"[" * 100_000, "application/json"),
        _json({"pictures": ["!!"]}),
        _json({"pictures": []}),
        _json({"pictures": [base64.b64encode(files[0]).decode()] * 40}),
        _form([files[0], b"no picture"]),
        _form(files[:40]),
        request_of("/predict", b"--x\r\nbroken", "multipart/form-data; boundary=x"),
        request_of("/predict", b"broken", "multipart/form-data"),
        request_of("/predict", os.urandom(2 << 20), "application/octet-stream"),
        request_of("/nothing", b"", "image/png"),
        b"GET /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: elsewhere.example\r\nContent-Length: 0\r\n\r\n",
        b"NONSENSE\r\n\r\n",
    ]
    requests += bad
    random.Random(0).shuffle(requests)
    return requests


def _json(body: shared.Json) -> bytes:
    return request_of("/predict", json.dumps(body).encode(), "application/json")


def _form(files: list[bytes]) -> bytes:
    parts = [
        b'--edge\r\nContent-Disposition: form-data; name="files"; filename="%d.png"\r\nContent-Type: image/png\r\n\r\n%s\r\n'
        % item
        for item in enumerate(files)
    ]
    return request_of("/predict", b"".join(parts) + b"--edge--\r\n", "multipart/form-data; boundary=edge")


# --- tables


def _load_table(figures: shared.Json) -> str:
    best = {batch: shared.median(values) for batch, values in figures["bare"].items()}
    lines = [
        [
            f"bare loop, {'one at a time' if batch == '1' else batch + ' at once'}",
            "–",
            shared.spread(values, "{:,.0f}"),
            "–",
            "–",
            "–",
            "–",
        ]
        for batch, values in figures["bare"].items()
    ]
    for name, measured in figures["served"].items():
        for count, rounds in measured.items():
            rates = [each["per_s"] for each in rounds]
            lines.append(
                [
                    name,
                    count,
                    shared.spread(rates, "{:,.0f}"),
                    shared.spread([each["p50_ms"] for each in rounds]),
                    shared.spread([each["p99_ms"] for each in rounds]),
                    *(f"{shared.median(rates) / best[batch]:.2f}" for batch in figures["bare"]),
                ]
            )
    head = ["", "connections", "pictures/s", "p50, ms", "p99, ms", "÷ one at a time", f"÷ {_BATCH} at once"]
    return shared.table(head, lines)


def _soak_table(figures: shared.Json) -> str:
    counted = ", ".join(f"{number:,} × {status}" for status, number in figures["statuses"].items())
    halves = [[max(part) for part in np.array_split(half, 5) if len(part)] for half in figures["memory_mb"]]
    memory = "; after the kill ".join(" ".join(f"{most:.0f}" for most in half) for half in halves)
    head = ["requests", "answers by status (0: cut off by the kill)", "seconds", "resident memory by fifths of the time, MB"]
    line = [f"{figures['count']:,}", counted, f"{figures['seconds']:.0f}", memory]
    return shared.table(head, [line])


if __name__ == "__main__":
    shared.run(main)
