"""The live view of a run: its page, and how long that stays."""

from __future__ import annotations

import json
import secrets
import threading
import time
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING

from pixelfit.errors import PixelfitError
from pixelfit.live.pages import HERE, policy, rendered, report_of, style
from pixelfit.live.server import HTML, JSON, SCRIPT, Answer, LoopbackServer
from pixelfit.live.state import LiveState, Result
from pixelfit.live.stop import StopButton
from pixelfit.metrics import TITLES, shown

if TYPE_CHECKING:
    from pixelfit.automl import Run
    from pixelfit.runs import RunFolder

_WATCHED_S = 2.5  # a page that has asked within this time is open: it asks every second
_LINGER_S = 3.0  # how long the command waits at its end for such a page to ask once more


class LiveView:
    """Serves a page that follows a run; use it as a context manager around ``fit``, whose progress ``state`` takes in.

    Raises:
        OptionError: the port is taken, not allowed, or no port.
    """

    def __init__(self, source: str, *, budget_s: float | None, started: float, port: int = 0) -> None:
        self.state = LiveState(source, budget_s=budget_s, started=started, button=StopButton())
        self._site = _LiveSite(self.state)
        self._server = LoopbackServer(self._site, port)
        self.address = self._server.address

    def __enter__(self) -> LiveView:
        self._server.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self.state.fail(_reason(error))
        if self.state.over and not isinstance(error, KeyboardInterrupt):
            self._site.linger()
        self._server.__exit__(kind, error, trace)

    def finish(self, run: Run) -> None:
        """Show what the run has come to, and its report."""
        rows = [
            (
                TITLES[name],
                shown(name, interval.value),
                f"{shown(name, interval.low)} – {shown(name, interval.high)}",
                shown(name, run.scores.baseline[name].value),
            )
            for name, interval in run.scores.test.items()
        ]
        self._site.report = run.folder
        self.state.finish(Result(rows, run.scores.rows, str(run.folder.report_file), run.wall_s, run.interrupted))


class _LiveSite:
    """What the live view serves."""

    def __init__(self, state: LiveState) -> None:
        self.report: RunFolder | None = None
        self._state = state
        self._drawing = threading.Lock()
        self._drawn: tuple[str, dict[str, str]] | None = None
        self._asked = -_WATCHED_S
        self._seen = threading.Event()  # a page has what there will ever be

    def get(self, name: str) -> Answer | None:
        if name == "state.json":
            return self._now()
        if name == "":
            nonce = secrets.token_urlsafe(16)
            page = rendered("live.html.j2", source=self._state.source, charts=self._charts()[1], nonce=nonce)
            return Answer(page, HTML, policy(nonce))
        if name == "report.html":
            return None if self.report is None else report_of(self.report)
        if name == "charts.js":
            return Answer(self._charts()[0], SCRIPT)
        if name == "bokeh.js":
            from pixelfit.live.charts import library

            return Answer(library(), SCRIPT)
        if name == "live.js":
            return Answer((HERE / "live.js").read_bytes(), SCRIPT)
        return style() if name == "style.css" else None

    def post(self, name: str) -> Answer | None:
        if name != "stop":
            return None
        return Answer("stopping\n") if self._state.stop() else Answer("nothing to stop\n", status=HTTPStatus.CONFLICT)

    def linger(self) -> None:
        """Wait until an open page has seen the end, but not for long."""
        if time.monotonic() - self._asked < _WATCHED_S:
            self._seen.wait(_LINGER_S)
            time.sleep(0.1)  # the answer is on its way

    def _charts(self) -> tuple[str, dict[str, str]]:
        """The charts' script and elements: drawn once, since each drawing has names of its own."""
        from pixelfit.live.charts import live_charts

        with self._drawing:
            if self._drawn is None:
                self._drawn = live_charts()
            return self._drawn

    def _now(self) -> Answer:
        self._asked = time.monotonic()
        over = self._state.over
        answer = Answer(json.dumps(self._state.to_json(), allow_nan=False), JSON)
        if over:
            self._seen.set()
        return answer


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "Ended by Ctrl-C, without a result."
    return str(error) if isinstance(error, PixelfitError) else f"{type(error).__name__}: {error}"
