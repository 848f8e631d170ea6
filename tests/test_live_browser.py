"""The live page and the list of runs in a real browser."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from browsing import chrome, opened, until
from conftest import HOSTILE, bars
from test_live import HOSTILE_FILE, RESULT, made_run, searched

from pixelfit.deadline import Deadline
from pixelfit.live import LiveView, LoopbackServer, RunList
from pixelfit.progress import Several, Silent
from pixelfit.types import Json

pytestmark = pytest.mark.charts


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
def test_the_live_page_in_a_browser(width: int, browser: Json, tmp_path: Path) -> None:
    points = "name => Bokeh.documents[0].get_model_by_name(name).data.x.length"
    deadline = Deadline(None)
    view = LiveView(HOSTILE, budget_s=60.0, started=time.monotonic())
    with view, deadline.stopped_by_ctrl_c():
        page, complaints, strange = opened(browser, view.address, width)
        until(page, "document.querySelector('#status').textContent.startsWith('Reading')")
        assert page.locator("#stop").is_disabled()
        searched(view.state)
        until(page, "document.querySelectorAll('#trials tr').length == 3")
        page.wait_for_selector("#stop:enabled")
        assert page.inner_text("#best") == "0.7000"
        assert (page.evaluate(points, "dots"), page.evaluate(points, "curve-0"), page.evaluate(points, "curve-1")) == (
            2,
            1,
            2,
        )
        assert page.evaluate("Bokeh.documents[0].get_model_by_name('history').left[0].axis_label").startswith("validation RMSE")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        view.state.check_trial(3, 1.0, 1.0, fold=0, folds=1)
        until(page, f"({points})('curve-0') == 2")
        assert HOSTILE in page.inner_text("h1")
        assert HOSTILE in page.inner_text("#trials")
        assert HOSTILE_FILE in page.inner_text("#messages")
        assert page.locator("#trials script, #messages img").count() == 0
        page.click("#stop")
        until(page, "document.querySelector('#status').textContent.startsWith('Stopping')")
        assert deadline.interrupted
        assert page.locator("#stop").is_disabled()
        view.state.finish(RESULT)
        page.wait_for_selector("#report")
        assert page.inner_text("#result-pictures") == "1,000"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.wait_for_selector("#report", state="hidden")  # the server has gone, and the page has noticed
    assert page.inner_text("#status") == "The run is finished; the report is runs/mine/report.html."
    page.wait_for_timeout(1_500)
    assert complaints == []
    assert strange == []
    assert "hacked" not in page.title()


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
def test_the_list_of_runs_in_a_browser(width: int, browser: Json, tmp_path: Path) -> None:
    made_run(tmp_path / "mine", data=HOSTILE)
    made_run(tmp_path / HOSTILE_FILE, finished=False, task="x" * 200)
    report = "<title>mine</title><script>document.title = 'hacked'</script>"
    made_run(tmp_path / ("long" * 30), report=report)
    with LoopbackServer(RunList(tmp_path)) as server:
        page, complaints, strange = opened(browser, server.address, width)
        assert page.locator("tbody tr").count() == 3
        assert HOSTILE_FILE in page.inner_text("table")
        assert page.locator("table img, table script").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert complaints == []
        page.click("text=long")
        page.wait_for_load_state()
        assert page.title() == "mine"
        assert page.evaluate("self.origin") == "null"  # it can read nothing else of this server
        assert strange == []


def _stopped_by_its_page(chromium: str, address: str) -> tuple[list[str], list[str], str, str]:
    """Press the button as soon as there is something to keep; return what was wrong, the status and the report's title."""
    with chrome(chromium) as browser:
        page, complaints, strange = opened(browser, address, 1440)
        until(page, "document.querySelectorAll('#trials tr').length >= 2", seconds=100)
        page.click("#stop:enabled")
        page.wait_for_selector("#report", timeout=100_000)
        status = page.inner_text("#status")
        page.click("#report")
        page.wait_for_load_state()
        return complaints, strange, status, page.title()


@pytest.mark.long("a search with its report, and a browser beside it")
@pytest.mark.apart
@pytest.mark.browser
def test_the_page_follows_a_real_search_and_its_button_ends_it(chromium: str, tmp_path: Path) -> None:
    from pixelfit.automl import fit
    from pixelfit.options import checked_options

    assert threading.current_thread() is threading.main_thread()
    options = checked_options(task="regression", budget="2m", folds=1, out=tmp_path / "run")
    started = time.monotonic()
    with LiveView("bars", budget_s=options.budget_s, started=started) as view, ThreadPoolExecutor(1) as pool:
        pressed = pool.submit(_stopped_by_its_page, chromium, view.address)
        run = fit(bars(150), options, progress=Several(Silent(), view.state), started=started)
        view.finish(run)
        complaints, strange, status, title = pressed.result(timeout=60)
    assert run.interrupted
    assert run.wall_s < 100
    assert run.folder.report_file.is_file()
    assert complaints == []
    assert strange == []
    assert "ended early" in status
    assert str(run.folder.report_file) in status
    assert "pixelfit report" in title
