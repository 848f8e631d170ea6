"""The server: what it answers at which address, under limits, and how it begins and ends."""

from __future__ import annotations

import asyncio
import hmac
import json
import multiprocessing
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from http import HTTPStatus
from importlib import metadata, resources
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pixelfit.environment import usable_cores
from pixelfit.runs import RunFolder
from pixelfit.serve.batching import Batcher
from pixelfit.serve.limits import Limits, RefusedError, Room
from pixelfit.serve.measures import Measures
from pixelfit.serve.model import ServedModel
from pixelfit.serve.requests import SentFile, files_of
from pixelfit.serve.schema import EXPLAIN, PREDICT
from pixelfit.types import Array, Json

SETTINGS_VARIABLE = "PIXELFIT_SERVE"  # how the processes of several workers learn of their settings
_PAGE = {"/": ("index.html", "text/html"), "/page.css": ("page.css", "text/css"), "/page.js": ("page.js", "text/javascript")}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "media-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
_SMALL = 1 << 16  # pixels: so small a picture is decoded at once, which takes less time than handing it to a thread
_RETRY = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}


@dataclass(frozen=True)
class Settings:
    """What is served, and how."""

    graph: str
    run: str | None
    limits: Limits
    token: str | None = None
    local: bool = True  # whether it is meant for this machine alone, and no other name of it is answered to
    threads: int = 0  # of ONNX Runtime; 0: all cores

    def to_text(self) -> str:
        """For an environment variable."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_text(text: str) -> Settings:
        """What ``to_text`` wrote."""
        record = json.loads(text)
        return Settings(**{**record, "limits": Limits(**record["limits"])})


def from_environment() -> FastAPI:
    """The server that the environment variable describes; uvicorn calls this in every worker."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), name="pixelfit-parent", daemon=True).start()
    return create(Settings.from_text(os.environ[SETTINGS_VARIABLE]))


def _end_with(parent: BaseProcess) -> None:
    """A worker whose supervisor was killed must not keep the port."""
    wait([parent.sentinel])
    os._exit(1)


def create(settings: Settings) -> FastAPI:
    """The server as an ASGI application."""
    service = _Service(settings)
    app = FastAPI(
        title="pixelfit", version=metadata.version("pixelfit"), lifespan=service.lifespan, docs_url=None, redoc_url=None,
        description="Predicts for pictures with one trained model.",
    )  # fmt: skip
    for path, endpoint, described in (("/predict", service.predict, PREDICT), ("/explain", service.explain, EXPLAIN)):
        app.router.add_api_route(path, endpoint, methods=["POST"], openapi_extra=described, route_class_override=_Direct)
    app.add_api_route("/about", service.about, methods=["GET"], summary="What the model predicts, and what is taken")
    app.add_api_route("/health", service.health, methods=["GET"], summary="Whether the process is alive")
    app.add_api_route("/ready", service.ready, methods=["GET"], summary="Whether it takes requests")
    app.add_api_route("/metrics", service.metrics, methods=["GET"], summary="Counts and times, as Prometheus reads them")
    for address, (name, kind) in _PAGE.items():
        app.add_api_route(address, partial(_page, name, kind), methods=["GET"], include_in_schema=False)
    for error in (RefusedError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(error, _refused)
    app.add_middleware(_Guard, settings=settings, measures=service.measures)
    return app


class _Direct(APIRoute):
    """A route whose endpoint takes the request as it is: FastAPI's work on parameters, of which it has none, is left out."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        response = await self.endpoint(Request(scope, receive))
        await response(scope, receive, send)


class _Service:
    """The model with what its requests share."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._limits = settings, settings.limits
        self.measures = Measures()
        self._room = Room(self._limits.max_held)
        self._under_way = 0
        self._model: ServedModel | None = None
        self._batcher: Batcher | None = None
        self._pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="pixelfit-decode")

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Load and try the model, then serve; at the end finish what was accepted, which uvicorn waits for before this."""
        settings = self._settings
        model = ServedModel(
            Path(settings.graph), RunFolder(Path(settings.run)) if settings.run else None, threads=settings.threads
        )
        spec = model.spec
        model.run(
            np.zeros((1, spec.height, spec.width, spec.channels), np.uint8 if spec.scale in ("byte", "unit") else np.float32)
        )
        self._model, self._batcher = model, Batcher(model.run, self.measures.observe_batch)
        yield
        batcher, self._model, self._batcher = self._batcher, None, None
        batcher.close()
        self._pool.shutdown()

    async def predict(self, request: Request) -> Response:
        """Predict for one picture or several."""
        return await self._answer(request, self._predicted)

    async def explain(self, request: Request) -> Response:
        """Say where the prediction for one picture comes from."""
        return await self._answer(request, self._explained)

    async def about(self) -> Json:
        """What the model predicts, and what requests may bring."""
        model = self._ready_model()
        limits = {name: getattr(self._limits, name) for name in ("max_bytes", "max_pixels", "max_files")}
        return {"model": model.about(), "limits": limits, "token_required": self._settings.token is not None, "explains": True}

    async def health(self) -> Json:
        """That the process is alive."""
        return {"status": "alive"}

    async def ready(self) -> Json:
        """Whether the model is loaded and no end is near."""
        return {"status": "ready", "model": self._ready_model().version}

    async def metrics(self) -> Response:
        """Counts and times."""
        return Response(*self.measures.text())

    def _ready_model(self) -> ServedModel:
        if self._model is None:
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "The server is not ready; try again later.")
        return self._model

    async def _answer(
        self, request: Request, answer: Callable[[ServedModel, list[SentFile]], Awaitable[dict[str, Json]]]
    ) -> Response:
        """Read the request's files and answer them, within the limits."""
        model = self._ready_model()
        if self._under_way >= self._limits.max_requests:
            raise RefusedError(
                HTTPStatus.TOO_MANY_REQUESTS, "The server has as many requests under way as it takes; try again later."
            )
        began, share = time.perf_counter(), self._room.share()
        self._under_way += 1
        try:
            async with asyncio.timeout(self._limits.max_seconds):
                files = await files_of(request, self._limits, share)
                found = await answer(model, files)
        except TimeoutError:
            raise RefusedError(
                HTTPStatus.GATEWAY_TIMEOUT, f"There was no answer within {self._limits.max_seconds:g} s."
            ) from None
        finally:
            self._under_way -= 1
            share.give_back()
        self.measures.observe_pictures(len(files))
        head = {"model": model.version, "milliseconds": round(1000 * (time.perf_counter() - began), 2)}
        return Response(json.dumps({**head, **found}), media_type="application/json")

    async def _predicted(self, model: ServedModel, files: list[SentFile]) -> dict[str, Json]:
        if len(files) == 1:
            picture = await self._picture(model, files[0])
            outputs = await self._outputs(picture[np.newaxis])
            return {"predictions": model.items(outputs, [files[0].name])}
        read = await asyncio.gather(*(self._picture(model, file) for file in files), return_exceptions=True)
        unforeseen = next((one for one in read if isinstance(one, BaseException) and not isinstance(one, RefusedError)), None)
        if unforeseen is not None:
            raise unforeseen
        good = [place for place, picture in enumerate(read) if isinstance(picture, np.ndarray)]
        items: list[Json] = [{"name": file.name, "error": str(one)} for file, one in zip(files, read, strict=True)]
        if good:
            outputs = await self._outputs(np.stack([read[place] for place in good]))  # type: ignore[misc]
            for place, item in zip(good, model.items(outputs, [files[place].name for place in good]), strict=True):
                items[place] = item
        return {"predictions": items}

    async def _explained(self, model: ServedModel, files: list[SentFile]) -> dict[str, Json]:
        if len(files) != 1:
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"One picture is explained at a time; {len(files)} were sent.")
        picture = await self._picture(model, files[0])
        return await asyncio.get_running_loop().run_in_executor(self._pool, model.explained, picture)

    async def _picture(self, model: ServedModel, file: SentFile) -> Array:
        if model.size(file.content, most_pixels=self._limits.max_pixels) <= _SMALL:
            return model.read(file.content)
        return await asyncio.get_running_loop().run_in_executor(self._pool, model.read, file.content)

    async def _outputs(self, pictures: Array) -> dict[str, Array]:
        if self._batcher is None:
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "The server is ending.")
        return dict(await self._batcher.outputs(pictures))


class _Guard:
    """Who may ask, and what every answer says; counts the answers."""

    def __init__(self, app: ASGIApp, settings: Settings, measures: Measures) -> None:
        self._app, self._settings, self._measures = app, settings, measures
        self._expected = None if settings.token is None else f"Bearer {settings.token}".encode()
        self._added = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it before anything of its body is read."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *self._added]
            await send(message)

        try:
            refusal = self._refusal(scope)
            await (self._app if refusal is None else _response(*refusal))(scope, receive, watched)
        finally:
            failed = HTTPStatus.INTERNAL_SERVER_ERROR  # which is answered further out
            self._measures.observe_answer(scope["path"], status or failed, time.perf_counter() - began)

    def _refusal(self, scope: Scope) -> tuple[HTTPStatus, str] | None:
        headers = dict(scope["headers"])
        if self._settings.local and _name_of(headers.get(b"host", b"").decode("latin-1")) not in _LOOPBACK_NAMES:
            return HTTPStatus.MISDIRECTED_REQUEST, "This server answers to 127.0.0.1 and localhost alone."
        if headers.get(b"sec-fetch-site", b"") in (b"cross-site", b"same-site") and scope["method"] != "GET":
            return HTTPStatus.FORBIDDEN, "Pages of other sites may not ask this server."
        if self._expected is None or scope["path"] in (*_PAGE, "/about", "/health", "/ready"):
            return None
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
            return HTTPStatus.UNAUTHORIZED, "This server needs a token: send it as Authorization: Bearer TOKEN."
        return None


def _name_of(host: str) -> str:
    """A Host header without its port."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _response(status: HTTPStatus, sentence: str) -> Response:
    headers = {"Retry-After": "1"} if status in _RETRY else {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.GATEWAY_TIMEOUT):
        headers["Connection"] = "close"  # what is left of the body is not read
    return JSONResponse({"detail": sentence}, status, headers)


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, RefusedError):
        return _response(error.status, error.sentence)
    if isinstance(error, HTTPException):
        return JSONResponse({"detail": f"{error.detail}."}, error.status_code, error.headers)
    return _response(HTTPStatus.INTERNAL_SERVER_ERROR, "The server failed; its log says how.")


async def _page(name: str, kind: str) -> Response:
    content = resources.files("pixelfit.serve").joinpath("page", name).read_bytes()
    return Response(content, media_type=kind)
