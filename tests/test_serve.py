"""The server: every way to send pictures, every limit with its status, batches, metrics, and how it begins and ends."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import httpx
import numpy as np
import pytest
import tifffile
import uvicorn
import yaml
from conftest import HOSTILE, ROOT, STROKES, bars, blobs, graph_of, strokes
from PIL import Image
from typer.testing import CliRunner

from pixelfit.automl import Run
from pixelfit.cli import app as command_line
from pixelfit.errors import OptionError, PixelfitError, RunError
from pixelfit.progress import Silent
from pixelfit.serve import Address, serve
from pixelfit.serve.app import Settings, create
from pixelfit.serve.batching import MOST_AT_ONCE, Batcher
from pixelfit.serve.limits import Limits
from pixelfit.types import Array, Json

_PATIENCE_S = 60  # until a server has started, on a busy machine


def png(picture: Array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(file, "PNG")
    return file.getvalue()


def settings_of(run: Run, **others: object) -> Settings:
    return Settings(str(graph_of(run)), str(run.folder.path), **{"limits": Limits(), **others})  # type: ignore[arg-type]


@contextmanager
def running(settings: Settings) -> Iterator[httpx.Client]:
    """The server in a thread of this process, and a client of it."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create(settings), log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=_PATIENCE_S) as client:
            waited(lambda: server.started or not thread.is_alive())
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def waited(reached: Callable[[], object]) -> None:
    ends = time.monotonic() + _PATIENCE_S
    while not reached():
        assert time.monotonic() < ends
        time.sleep(0.02)


@pytest.fixture(scope="module")
def client(regression_run: Run) -> Iterator[httpx.Client]:
    with running(settings_of(regression_run, limits=Limits(max_bytes=100_000, max_files=4))) as client:
        yield client


def raw(content: bytes, kind: str = "image/png", **headers: str) -> dict[str, Json]:
    return {"content": content, "headers": {"Content-Type": kind, **headers}}


# --- answers


def test_the_answer_is_what_the_model_predicts_however_a_picture_is_sent(client: httpx.Client, regression_run: Run) -> None:
    pictures = bars(4, seed=31)[0]
    predictor = regression_run.predictor
    expected, ends, strange = (
        predictor.predict(pictures),
        predictor.predict_interval(pictures),
        predictor.predict_strangeness(pictures),
    )
    files = [png(picture) for picture in pictures]
    alone = client.post("/predict", **raw(files[0])).json()
    assert alone["model"] == predictor.version
    assert alone["milliseconds"] > 0
    (item,) = alone["predictions"]
    assert (item["name"], item["error"]) == (None, None)
    form = client.post("/predict", files=[("files", (f"{place}.png", file)) for place, file in enumerate(files)]).json()
    assert [each["name"] for each in form["predictions"]] == ["0.png", "1.png", "2.png", "3.png"]
    texts = [base64.b64encode(file).decode() for file in files]
    plain = client.post("/predict", json={"pictures": texts}).json()
    named: Json = [{"name": "a", "data": texts[0]}, *({"data": f"data:image/png;base64,{text}"} for text in texts[1:])]
    in_objects = client.post("/predict", json={"pictures": named}).json()
    assert [each["name"] for each in in_objects["predictions"]] == ["a", None, None, None]
    for sent in (alone["predictions"], form["predictions"], plain["predictions"], in_objects["predictions"]):
        for place, each in enumerate(sent):
            assert each["prediction"] == pytest.approx(expected[place], abs=1e-4)
            assert [each["low"], each["high"]] == pytest.approx(ends[place].tolist(), abs=1e-4)
            assert each["strangeness"] == pytest.approx(strange[place], rel=0.02)
            assert each["unlike"] == (each["strangeness"] > 1)


def test_of_several_files_each_is_answered_for_itself(client: httpx.Client, regression_run: Run) -> None:
    picture = bars(1, seed=32)[0][0]
    files = [("files", ("good.png", png(picture))), ("files", ("bad.png", b"no picture")), ("files", ("empty.png", b""))]
    good, bad, empty = client.post("/predict", files=files).json()["predictions"]
    assert good["prediction"] == pytest.approx(regression_run.predictor.predict(picture[None])[0], abs=1e-4)
    assert bad == {"name": "bad.png", "error": "The file cannot be used: it is not a picture."}
    assert empty == {"name": "empty.png", "error": "The file is empty."}


def test_pictures_of_other_sizes_and_kinds_are_predicted_as_from_files(
    client: httpx.Client, regression_run: Run, tmp_path: Path
) -> None:
    picture = Image.fromarray(bars(1, seed=33)[0][0][..., 0]).resize((90, 110)).convert("RGB")
    for name, kind in (("a.jpg", "image/jpeg"), ("a.webp", "image/webp"), ("a.bmp", "application/octet-stream")):
        picture.save(tmp_path / name)
        said = client.post("/predict", **raw((tmp_path / name).read_bytes(), kind)).json()["predictions"][0]["prediction"]
        assert said == pytest.approx(regression_run.predictor.predict([tmp_path / name])[0], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["classification_run", "numbers_run", "labels_run"])
def test_every_kind_of_target_is_answered(fixture: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(fixture)
    predictor = run.predictor
    pictures = {"label": bars, "numbers": blobs, "labels": strokes}[predictor.kind](3, seed=34)[0]
    with running(settings_of(run)) as client:
        about = client.get("/about").json()["model"]
        files = [("files", (str(place), png(picture))) for place, picture in enumerate(pictures)]
        items = client.post("/predict", files=files).json()["predictions"]
        explained = client.post("/explain", **raw(png(pictures[0]))).json()
    assert about["kind"] == predictor.kind
    assert about["version"] == predictor.version
    for place, item in enumerate(items):
        one = pictures[place : place + 1]
        if predictor.kind == "numbers":
            assert list(item["prediction"]) == ["x", "y, down", HOSTILE] == about["target_names"]
            assert list(item["prediction"].values()) == pytest.approx(predictor.predict(one)[0].tolist(), abs=1e-3)
            ends = predictor.predict_interval(one)[0]
            assert list(item["low"].values()) == pytest.approx(ends[:, 0].tolist(), abs=1e-3)
            assert list(item["high"].values()) == pytest.approx(ends[:, 1].tolist(), abs=1e-3)
            continue
        shares = dict(zip(predictor.classes or (), predictor.predict_proba(one)[0].tolist(), strict=True))
        assert [share for _, share in item["probabilities"]] == sorted((s for _, s in item["probabilities"]), reverse=True)
        assert dict(item["probabilities"]) == pytest.approx(shares, abs=1e-4)
        if predictor.kind == "label":
            assert item["prediction"] == predictor.predict(one)[0]
            inside = predictor.predict_sets(one)[0]
            assert sorted(item["set"]) == sorted(
                label for label, there in zip(predictor.classes or (), inside, strict=True) if there
            )
        else:
            has = predictor.predict(one)[0]
            assert item["prediction"] == [label for label, there in zip(predictor.classes or (), has, strict=True) if there]
            assert set(about["classes"]) == set(STROKES)
    named = {"numbers": "x", "label": str(items[0].get("prediction"))}
    assert explained["of"] == named.get(predictor.kind, items[0]["probabilities"][0][0] if predictor.kind == "labels" else "")


def test_an_explanation_points_at_what_decides_and_at_what_is_near(client: httpx.Client, regression_run: Run) -> None:
    pictures, columns = bars(10, seed=35)
    explained = client.post("/explain", **raw(png(pictures[3]))).json()
    assert explained["prediction"]["prediction"] == pytest.approx(regression_run.predictor.predict(pictures[3:4])[0], abs=1e-4)
    assert explained["of"] == ""
    seen = explained["looked_at"]
    assert (seen["rows"], seen["columns"]) == (8, 8)
    heat = np.abs(np.array(seen["values"])).reshape(8, 8)
    assert heat.max() == 1
    bar = np.zeros(12, dtype=bool)
    bar[columns[3] : columns[3] + 3] = True
    edges = np.linspace(0, 12, 9).round().astype(int)
    on_bar = np.array([bar[start:end].any() for start, end in itertools.pairwise(edges)])
    assert heat[:, on_bar].mean() > 2 * heat[:, ~on_bar].mean()
    strangeness = regression_run.predictor.examined(pictures[3:4])[1]
    assert strangeness is not None
    remembered = regression_run.folder.read_remembered()
    assert remembered is not None
    assert [near["name"] for near in explained["nearest"]] == [remembered.names[place] for place in strangeness.nearest[0]]
    for near in explained["nearest"]:
        content = base64.b64decode(near["picture"].removeprefix("data:image/png;base64,"))
        assert Image.open(io.BytesIO(content)).size == (12, 12)
        assert float(near["target"]) == pytest.approx(columns[3], abs=1.01)


def test_a_picture_on_which_nothing_matters_has_no_map(client: httpx.Client) -> None:
    explained = client.post("/explain", **raw(png(np.full((12, 12, 1), 90, np.uint8)))).json()
    assert explained["looked_at"] is None or max(map(abs, explained["looked_at"]["values"])) == 1


def test_what_there_is_to_know_is_told(client: httpx.Client, regression_run: Run) -> None:
    about = client.get("/about").json()
    assert about["model"]["pictures"] == {"height": 12, "width": 12, "channels": 1, "scale": "byte"}
    assert about["model"]["range"] == [0, 9]
    assert about["limits"] == {"max_bytes": 100_000, "max_pixels": 50_000_000, "max_files": 4}
    assert (about["token_required"], about["explains"]) == (False, True)
    assert client.get("/health").json() == {"status": "alive"}
    assert client.get("/ready").json() == {"status": "ready", "model": regression_run.predictor.version}
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "script-src 'self'" in page.headers["content-security-policy"]
    for name, kind in re.findall(r'(?:src|href)="(page\.(js|css))"', page.text):
        assert kind in client.get(f"/{name}").headers["content-type"].replace("javascript", "js")


def test_openapi_describes_requests_answers_and_refusals_with_examples(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    for path in ("/predict", "/explain"):
        post = described["paths"][path]["post"]
        assert set(post["responses"]) == {"200", "400", "401", "413", "415", "422", "429", "503", "504"}
        assert set(post["requestBody"]["content"]) == {
            "image/*",
            "application/octet-stream",
            "multipart/form-data",
            "application/json",
        }
        assert post["responses"]["200"]["content"]["application/json"]["examples"]
        for example in post["requestBody"]["content"]["application/json"]["examples"].values():
            answer = client.post(path, json=example["value"])  # an example that is sent as it stands is answered
            assert answer.status_code == 200, answer.text
    assert {"/about", "/health", "/ready", "/metrics"} <= set(described["paths"])


# --- refusals


def bomb() -> bytes:
    file = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(file, "PNG")
    return file.getvalue()


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


GOOD = png(bars(1, seed=36)[0][0])
TEXT = base64.b64encode(GOOD).decode()
REFUSED: dict[str, tuple[dict[str, Json], int, str]] = {
    "no type": ({"content": GOOD}, 415, r"The content type \(none\) is not taken"),
    "another type": (raw(GOOD, "text/plain"), 415, "The content type text/plain is not taken: send image/"),
    "empty": (raw(b""), 422, "The file is empty"),
    "no picture": (raw(b"words"), 422, "The file cannot be used: it is not a picture"),
    "cut": (raw(cut(GOOD)), 422, "The file cannot be used: "),
    "bomb": (raw(bomb()), 413, r"The picture has 100 million pixels \(10000 × 10000\); at most 50 million are taken"),
    "large": (raw(bytes(100_001)), 413, "The file is larger than the 0.0953674 MiB that are taken"),
    "large, unannounced": (
        {"content": iter([bytes(60_000)] * 2), "headers": {"Content-Type": "image/png"}},
        413,
        "The file is larger",
    ),
    "large in a form": ({"files": [("files", ("a.png", bytes(100_001)))]}, 413, "A file is larger than the"),
    "large form": ({"files": [("files", ("a.png", bytes(99_999)))] * 5}, 413, "The request is larger than the"),
    "large in JSON": (
        {"json": {"pictures": [base64.b64encode(bytes(100_001)).decode()]}},
        413,
        "Picture 0 of the JSON is larger",
    ),
    "many files": ({"files": [("files", ("a.png", GOOD))] * 5}, 413, "A request may bring 4 files; this one brings more"),
    "very many files": ({"files": [("files", ("a.png", GOOD))] * 9}, 413, "A request may bring 4 files; this one brings more"),
    "many in JSON": ({"json": {"pictures": [TEXT] * 5}}, 413, "A request may bring 4 files"),
    "another field": ({"files": [("file", ("a.png", GOOD))]}, 400, "in fields named 'files'"),
    "words in a form": ({"files": [("files", (None, "words"))]}, 400, "in fields named 'files'"),
    "broken form": (raw(b"--x\r\nno form", "multipart/form-data; boundary=x"), 400, "The form cannot be read"),
    "form without boundary": (raw(b"--x", "multipart/form-data"), 400, "The form cannot be read: Missing boundary"),
    "no JSON": (raw(b"{", "application/json"), 400, "The body is no JSON"),
    "deep JSON": (raw(b"[" * 90_000, "application/json"), 400, "The body is no JSON"),
    "other JSON": ({"json": [1]}, 400, r'The JSON must be \{"pictures"'),
    "nothing in JSON": ({"json": {"pictures": []}}, 400, "The JSON must be"),
    "no text in JSON": ({"json": {"pictures": [7]}}, 400, "Picture 0 of the JSON is neither"),
    "no base64": ({"json": {"pictures": [TEXT, "%%"]}}, 400, "Picture 1 of the JSON is no base64"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_answered_is_refused_with_a_sentence(case: str, client: httpx.Client) -> None:
    request, status, sentence = REFUSED[case]
    answer = client.post("/predict", **{**request, "content": list(request["content"])} if "unannounced" in case else request)
    assert (answer.status_code, list(answer.json())) == (status, ["detail"])
    assert re.search(sentence, answer.json()["detail"])
    assert client.post("/predict", **raw(GOOD)).status_code == 200  # and the next one is answered as ever


def test_pictures_of_a_kind_that_the_model_does_not_take_are_refused(client: httpx.Client) -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((5, 12, 12), np.uint8), photometric="minisblack", planarconfig="separate")
    answer = client.post("/predict", **raw(file.getvalue(), "image/tiff"))
    assert answer.status_code == 422
    assert "5 channel(s) among pictures of 1" in answer.json()["detail"]


def test_only_one_picture_is_explained_at_a_time(client: httpx.Client) -> None:
    answer = client.post("/explain", json={"pictures": [TEXT, TEXT]})
    assert (answer.status_code, answer.json()["detail"]) == (400, "One picture is explained at a time; 2 were sent.")


def test_other_addresses_methods_hosts_and_sites_are_refused(client: httpx.Client) -> None:
    assert client.get("/nothing").status_code == 404
    assert client.get("/predict").status_code == 405
    assert client.post("/predict", **raw(GOOD, Host="elsewhere.example")).status_code == 421
    assert client.post("/predict", **raw(GOOD, Host="localhost:1")).status_code == 200
    assert client.post("/predict", **raw(GOOD, **{"Sec-Fetch-Site": "cross-site"})).status_code == 403
    assert client.post("/predict", **raw(GOOD, **{"Sec-Fetch-Site": "same-origin"})).status_code == 200
    for answer in (client.get("/nothing"), client.get("/about"), client.post("/predict", **raw(b""))):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


def test_a_token_is_needed_where_one_is_set(regression_run: Run) -> None:
    with running(settings_of(regression_run, token="secret-1", local=False)) as client:
        assert client.get("/about").json()["token_required"] is True
        for path in ("/health", "/ready", "/", "/page.js"):
            assert client.get(path).status_code == 200
        for headers in (
            {},
            {"Authorization": "Bearer secret-2"},
            {"Authorization": "secret-1"},
            {"Authorization": "Bearer secret-1é"},
        ):
            encoded = {name: value.encode() for name, value in headers.items()}
            answer = client.post("/predict", content=GOOD, headers={"Content-Type": "image/png", **encoded})
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert "Authorization: Bearer TOKEN" in answer.json()["detail"]
            assert client.get("/metrics", headers=encoded).status_code == 401
        right = {"Authorization": "Bearer secret-1"}
        assert client.post("/predict", **raw(GOOD, **right)).status_code == 200
        assert client.get("/metrics", headers=right).status_code == 200
        assert client.post("/predict", **raw(GOOD, **right, Host="elsewhere.example")).status_code == 200  # as behind a proxy


class Half:
    """A request whose body has come by half."""

    def __init__(self, port: int) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S)
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {len(GOOD)}\r\n\r\n"
        self._connection.sendall(head.encode() + cut(GOOD))

    def end(self) -> bytes:
        self._connection.sendall(GOOD[len(cut(GOOD)) :])
        return self.answer()

    def answer(self) -> bytes:
        with self._connection:
            seen = b""
            while b'"}' not in seen and b"}]}" not in seen and (part := self._connection.recv(65_536)):
                seen += part
            return seen


def port_of(client: httpx.Client) -> int:
    assert client.base_url.port is not None
    return client.base_url.port


def test_too_many_requests_at_once_are_refused_and_taken_later(regression_run: Run) -> None:
    with running(settings_of(regression_run, limits=Limits(max_requests=2))) as client:
        halves = [Half(port_of(client)) for _ in range(2)]
        waited(lambda: client.post("/predict", **raw(GOOD)).status_code == 429)
        answer = client.post("/predict", **raw(GOOD))
        assert (answer.headers["retry-after"], answer.json()["detail"]) == (
            "1",
            "The server has as many requests under way as it takes; try again later.",
        )
        assert client.get("/health").status_code == 200
        for half in halves:
            assert half.end().startswith(b"HTTP/1.1 200")
        assert client.post("/predict", **raw(GOOD)).status_code == 200


def test_many_bytes_at_once_are_refused_and_taken_later(regression_run: Run) -> None:
    """Sixteen times the largest file may be under way."""
    limits = Limits(max_bytes=len(GOOD) + 8)
    with running(settings_of(regression_run, limits=limits)) as client:
        halves = [Half(port_of(client)) for _ in range(2 * 16 + 2)]
        waited(lambda: client.post("/predict", **raw(GOOD)).status_code == 429)
        assert "as many bytes" in client.post("/predict", **raw(GOOD)).json()["detail"]
        answers = [half.end() for half in halves]
        assert {answer[9:12] for answer in answers} <= {b"200", b"429"}
        waited(lambda: client.post("/predict", **raw(GOOD)).status_code == 200)


def test_a_request_that_takes_too_long_is_given_up(regression_run: Run) -> None:
    with running(settings_of(regression_run, limits=Limits(max_seconds=0.5))) as client:
        answer = Half(port_of(client)).answer()
        assert answer.startswith(b"HTTP/1.1 504")
        assert b"There was no answer within 0.5 s." in answer


def test_before_it_is_ready_it_says_so(regression_run: Run) -> None:
    async def asked() -> list[httpx.Response]:
        transport = httpx.ASGITransport(create(settings_of(regression_run)))  # which does not start it
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return [await client.get("/health"), await client.get("/ready"), await client.post("/predict", **raw(GOOD))]

    alive, *others = asyncio.run(asked())
    assert alive.status_code == 200
    for answer in others:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["detail"] == "The server is not ready; try again later."


# --- batches and metrics


def test_what_waits_goes_in_one_batch() -> None:
    sizes: list[int] = []
    began, go_on = threading.Event(), threading.Event()

    def run(pictures: Array) -> dict[str, Array]:
        began.set()
        assert go_on.wait(_PATIENCE_S)
        return {"value": pictures[:, 0, 0, 0].astype(int)}

    async def main() -> list[list[int]]:
        batcher = Batcher(run, sizes.append)
        pictures = [np.full((count, 2, 2, 1), place, np.uint8) for place, count in enumerate([1, 2, 3, 1, MOST_AT_ONCE, 1])]
        asked = [asyncio.create_task(batcher.outputs(pictures[0]))]
        await asyncio.to_thread(began.wait, _PATIENCE_S)
        asked += [asyncio.create_task(batcher.outputs(one)) for one in pictures[1:]]
        await asyncio.sleep(0)
        asked[2].cancel()
        await asyncio.sleep(0)
        go_on.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(answers.pop(2), asyncio.CancelledError)
        await asyncio.to_thread(batcher.close)
        return [answer["value"].tolist() for answer in answers if not isinstance(answer, BaseException)]

    answers = asyncio.run(main())
    assert answers == [[0], [1, 1], [3], [4] * MOST_AT_ONCE, [5]]
    assert sizes == [1, 3, MOST_AT_ONCE, 1]


def test_a_batch_that_fails_is_told_to_those_who_wait_and_the_next_one_runs() -> None:
    async def main() -> None:
        def run(pictures: Array) -> dict[str, Array]:
            if pictures.max() > 0:
                raise MemoryError("too large")
            return {"value": pictures[:, 0, 0, 0]}

        batcher = Batcher(run, lambda size: None)
        with pytest.raises(MemoryError):
            await batcher.outputs(np.ones((1, 2, 2, 1), np.uint8))
        assert (await batcher.outputs(np.zeros((1, 2, 2, 1), np.uint8)))["value"] == [0]
        batcher.close()

    asyncio.run(main())


def test_many_at_once_are_each_answered_with_their_own(regression_run: Run) -> None:
    pictures, _ = bars(120, seed=37)
    expected = regression_run.predictor.predict(pictures)

    async def asked(address: str) -> list[float]:
        async with httpx.AsyncClient(base_url=address, timeout=_PATIENCE_S) as client:
            answers = await asyncio.gather(*(client.post("/predict", **raw(png(picture))) for picture in pictures))
        return [answer.json()["predictions"][0]["prediction"] for answer in answers]

    with running(settings_of(regression_run)) as client:
        assert asyncio.run(asked(str(client.base_url))) == pytest.approx(expected.tolist(), abs=1e-4)
        client.post("/predict", **raw(b""))
        client.get("/somewhere/else")
        metrics = client.get("/metrics").text
    assert 'pixelfit_answers_total{path="/predict",status="200"} 120.0' in metrics
    assert 'pixelfit_answers_total{path="/predict",status="422"} 1.0' in metrics
    assert 'pixelfit_answers_total{path="other",status="404"} 1.0' in metrics
    assert "pixelfit_pictures_total 120.0" in metrics
    assert "pixelfit_batch_pictures_sum 120.0" in metrics
    assert 'pixelfit_answer_seconds_count{path="/predict"} 121.0' in metrics


# --- the command


@contextmanager
def command(run: Run | Path, *words: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """``pixelfit serve`` in a process of its own, ready, and its port."""
    path = run if isinstance(run, Path) else run.folder.path
    given = [sys.executable, "-m", "pixelfit", "serve", str(path), *words, "--port", "0"]
    process = subprocess.Popen(given, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
    try:
        assert process.stdout is not None
        said = ""
        while "Ctrl-C" not in said:
            said += process.stdout.readline()
            assert process.poll() is None, said
        port = int(re.findall(r"^Serving .*:(\d+)/$", said, re.MULTILINE)[0])

        def ready() -> bool:
            assert process.poll() is None
            try:
                return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=_PATIENCE_S).status_code == 200
            except httpx.TransportError:
                return False

        waited(ready)
        yield process, port
    finally:
        process.kill()
        process.wait()


def test_it_finishes_what_it_accepted_and_ends(regression_run: Run) -> None:
    graph_of(regression_run)
    with command(regression_run, "--workers", "1") as (process, port):
        half = Half(port)
        waited(
            lambda: (
                'path="/health"' in httpx.get(f"http://127.0.0.1:{port}/metrics").text
                or httpx.get(f"http://127.0.0.1:{port}/health")
            )
        )
        process.send_signal(signal.SIGTERM)

        def closed() -> bool:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                return True
            return False

        waited(closed)
        assert process.poll() is None
        answer = half.end()
        assert answer.startswith(b"HTTP/1.1 200")
        assert b'"predictions"' in answer
        assert process.wait(_PATIENCE_S) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_after_a_kill_it_starts_again_at_the_same_port(workers: str, regression_run: Run) -> None:
    graph_of(regression_run)
    with command(regression_run, "--workers", workers) as (process, port):
        assert httpx.post(f"http://127.0.0.1:{port}/predict", **raw(GOOD)).status_code == 200
        process.kill()
        process.wait()
        again = [sys.executable, "-m", "pixelfit", "serve", str(regression_run.folder.path), "--port", str(port)]
        second = subprocess.Popen(again, stdout=subprocess.DEVNULL)
        try:

            def answers() -> bool:
                try:
                    return httpx.post(f"http://127.0.0.1:{port}/predict", **raw(GOOD)).status_code == 200
                except httpx.TransportError:
                    return False

            waited(answers)
        finally:
            second.kill()
            second.wait()


def test_several_workers_answer_and_count_together(regression_run: Run) -> None:
    graph_of(regression_run)
    with command(regression_run, "--workers", "2", "--token", "t") as (process, port):
        token = {"Authorization": "Bearer t"}
        for _ in range(20):
            with httpx.Client(timeout=_PATIENCE_S) as fresh:  # a connection of its own, that either worker may take
                assert fresh.post(f"http://127.0.0.1:{port}/predict", **raw(GOOD, **token)).status_code == 200
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics", headers=token).text
        assert 'pixelfit_answers_total{path="/predict",status="200"} 20.0' in metrics
        process.send_signal(signal.SIGTERM)
        assert process.wait(_PATIENCE_S) in (0, -signal.SIGTERM)


def test_a_graph_alone_is_served_with_the_packages_of_the_image_alone(regression_run: Run, tmp_path: Path) -> None:
    """What docker/requirements.txt does not bring cannot be imported; the command is that of the Dockerfile."""
    file = tmp_path / "model.onnx"
    file.write_bytes(graph_of(regression_run).read_bytes())
    allowed = _with_all_that_they_need(
        line.partition("[")[0] for line in (ROOT / "docker" / "requirements.txt").read_text().splitlines() if line[:1] != "#"
    )
    (tmp_path / "without").mkdir()
    for module, packages in metadata.packages_distributions().items():
        if not module.startswith(("_", "pixelfit")) and not {_plain_name(name) for name in packages} & allowed:
            (tmp_path / "without" / f"{module}.py").write_text(f"raise ImportError('there is no {module} in the image')\n")
    blocked = {file.stem for file in (tmp_path / "without").iterdir()}
    assert {"torch", "sklearn", "scipy", "pandas", "optuna", "httpx"} <= blocked
    dockerfile = (ROOT / "Dockerfile").read_text()
    words = json.loads(re.findall(r"^CMD (\[.*\])$", dockerfile, re.MULTILINE)[0])
    assert json.loads(re.findall(r"^ENTRYPOINT (\[.*\])$", dockerfile, re.MULTILINE)[0]) == ["pixelfit", "serve"]
    assert words == yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["serve"]["command"]
    assert words[-2:] == ["--port", "8000"]
    with command(file, *words[1:-2], PYTHONPATH=str(tmp_path / "without"), PIXELFIT_TOKEN="t") as (_, port):
        address, token = f"http://127.0.0.1:{port}", {"Authorization": "Bearer t"}
        item = httpx.post(f"{address}/predict", **raw(GOOD, **token)).json()["predictions"][0]
        expected = regression_run.predictor.predict(bars(1, seed=36)[0])[0]
        assert item["prediction"] == pytest.approx(expected, abs=1e-4)
        assert httpx.get(f"{address}/about").json()["model"]["range"] is None
        explained = httpx.post(f"{address}/explain", **raw(GOOD, **token)).json()
        assert explained["nearest"] == []
        assert explained["looked_at"] is not None


def _with_all_that_they_need(names: Iterable[str]) -> set[str]:
    """Packages with those that they need, and those in turn; extras of theirs count as needed."""
    found: set[str] = set()
    waiting = list(map(_plain_name, names))
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        standard = name == "uvicorn"
        waiting += [
            _plain_name(re.split(r"[ ;<>=!~\[(]", line, maxsplit=1)[0])
            for line in needed
            if "extra" not in line or (standard and "standard" in line)
        ]
    return found


def _plain_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_a_run_is_exported_when_it_is_served_first(classification_run: Run, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(classification_run.folder.path, tmp_path / "run", ignore=shutil.ignore_patterns("export", "trials"))
    with command(tmp_path / "run") as (_, port):
        assert httpx.post(f"http://127.0.0.1:{port}/predict", **raw(GOOD)).status_code == 200
    assert (tmp_path / "run" / "export" / "model.onnx").is_file()


def serve_with(run: Run | Path, *words: str) -> None:
    path = run if isinstance(run, Path) else run.folder.path
    result = CliRunner().invoke(command_line, ["serve", str(path), *words])
    assert isinstance(result.exception, PixelfitError), result.output
    raise result.exception


def test_what_cannot_be_served_is_said(regression_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph_of(regression_run)
    with pytest.raises(OptionError, match=r"--host 0.0.0.0 can be reached from other machines: give a --token"):
        serve_with(regression_run, "--host", "0.0.0.0")
    with pytest.raises(OptionError, match="--token must be of printable ASCII characters"):
        serve_with(regression_run, "--token", "with space")
    with pytest.raises(OptionError, match="--workers 0 cannot be used"):
        serve_with(regression_run, "--workers", "0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(OptionError, match=rf"cannot listen on --host 127.0.0.1 --port {port}: Address already in use"):
            serve_with(regression_run, "--port", port)
    with pytest.raises(OptionError, match=r"cannot listen on --host 192\.0\.2\.1"):
        serve_with(regression_run, "--host", "192.0.2.1", "--token", "t")
    with pytest.raises(RunError, match="is no run folder"):
        serve_with(tmp_path)
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(RunError, match=r"broken.onnx cannot be read as an ONNX file"):
        serve_with(tmp_path / "broken.onnx")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "prometheus_client" else name)
    with pytest.raises(OptionError, match=r"Serving needs the package prometheus_client: pip install 'pixelfit\[serve\]'"):
        serve(regression_run.folder.path, Address("127.0.0.1", 0), token=None, limits=Limits(), workers=1, progress=Silent())


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("box.example", False)],
)
def test_only_addresses_of_this_machine_alone_need_no_token(host: str, local: bool) -> None:
    assert Address(host, 0).local is local


def test_settings_go_through_an_environment_variable() -> None:
    settings = Settings("a.onnx", None, Limits(max_files=3), token='a"b', threads=2)
    assert Settings.from_text(settings.to_text()) == settings
    assert json.loads(settings.to_text())["limits"]["max_files"] == 3
