from __future__ import annotations

import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from conftest import HOSTILE
from rich.console import Console

from pixelfit import cli
from pixelfit.deadline import Deadline
from pixelfit.display import Display
from pixelfit.errors import OptionError, RunError
from pixelfit.files import write_json, write_text
from pixelfit.live import LiveView, LoopbackServer, RunList
from pixelfit.live.state import CURVES, MESSAGES, POINTS, TRIALS, LiveState, Look, Result, axis_title, mean_looks
from pixelfit.live.stop import StopButton
from pixelfit.progress import Several, Silent
from pixelfit.runs import RunFolder
from pixelfit.types import Json, Trial

HOSTILE_FILE = "<img src=x onerror=\"document.title='hacked'\">.png"
RESULT = Result([("RMSE", "0.295", "0.094 – 0.440", "2.872")], 1_000, "runs/mine/report.html", 61.0, interrupted=True)


def trial(number: int, score: float | None, *, family: str = "convnet", metric: str = "rmse", error: str | None = None) -> Trial:
    metrics = {} if score is None else {metric: score, "r2": 0.5}
    state = "failed" if score is None else "complete"
    return Trial(number, family, "portfolio", {}, state, 0, 1.5, score=score, metrics=metrics, error=error)


def live_state(*, budget_s: float | None = 60.0, button: StopButton | None = None) -> LiveState:
    return LiveState("mnist-5k", budget_s=budget_s, started=time.monotonic(), button=button or StopButton())


def searched(state: LiveState) -> None:
    """A baseline, a net, a failure, and a net that is still being trained."""
    state.say(f"Left out: {HOSTILE_FILE} (it cannot be read).")
    state.start_trial(0, "constant, baseline")
    baseline = trial(0, 2.9, family="constant")
    state.end_trial(baseline, best=baseline)
    state.start_trial(1, "convnet, portfolio")
    for epoch, score in ((1.0, 1.5), (2.0, 0.9)):
        state.check_trial(1, epoch, score, fold=0, folds=1)
    best = trial(1, 0.7)
    state.end_trial(best, best=best)
    state.start_trial(2, "resnet, portfolio")
    state.end_trial(trial(2, None, family="resnet", error=f"ValueError: {HOSTILE}"), best=best)
    state.start_trial(3, "convnet, full length")
    state.advance_trial(3, 0.25, "step 10 of 40")
    state.check_trial(3, 0.5, 1.1, fold=0, folds=1)


def ask(address: str, name: str = "", *, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """One request below the address, with further headers; an underscore in a header's name is a hyphen."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 0, timeout=10)
    given = {key.replace("_", "-"): value for key, value in headers.items()}
    connection.request(method, parts.path + name if not name.startswith("/") else name, headers=given)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


@pytest.fixture
def view() -> Iterator[LiveView]:
    with LiveView(HOSTILE, budget_s=60.0, started=time.monotonic()) as view:
        yield view


def origin(address: str) -> str:
    return "http://" + urlsplit(address).netloc


def test_the_state_tells_what_has_happened() -> None:
    state = live_state()
    assert state.to_json()["phase"] == "data"
    state.count("Decoding pictures", 1, 4)
    assert state.to_json()["counting"] == {"title": "Decoding pictures", "share": 0.25}
    state.count("Decoding pictures", 4, 4)
    assert state.to_json()["counting"] is None
    searched(state)
    now = state.to_json()
    assert now["phase"] == "search"
    assert now["best"]["value"] == "0.7000"
    assert now["best"]["name"] == "#1 convnet, portfolio"
    assert now["best"]["others"] == ["R² 50.00%"]
    assert now["trial"] == {"name": "#3 convnet, full length", "fraction": 0.25, "detail": "step 10 of 40"}
    assert now["counts"] == {"ended": 3, "failed": 1}
    assert [row["best"] for row in now["trials"]] == [False, True, False]
    assert HOSTILE in now["trials"][0]["error"]
    assert now["charts"]["dots"]["y"] == [2.9, 0.7]
    assert now["charts"]["best"]["y"] == [2.9, 0.7, 0.7]
    assert [line["name"] for line in now["charts"]["curves"]["lines"][:3]] == ["#3 under way", "#1 convnet", ""]
    assert now["charts"]["curves"]["lines"][1]["x"] == [1.0, 2.0]
    assert now["clock"]["budget"] == "1m00s"
    state.finish(RESULT)
    ended = state.to_json()
    assert (ended["phase"], ended["trial"], ended["stoppable"]) == ("finished", None, False)
    assert ended["clock"]["elapsed"] == "1m01s"
    assert ended["result"]["rows"][0][0] == "RMSE"


def test_folds_are_named_and_averaged() -> None:
    state = live_state(budget_s=None)
    state.start_trial(0, "convnet, portfolio")
    for fold, score in ((0, 1.0), (1, 3.0)):
        state.check_trial(0, 1.0, score, fold=fold, folds=2)
    ended = trial(0, 0.7)
    state.end_trial(ended, best=ended)
    state.start_trial(1, "convnet, portfolio")
    state.check_trial(1, 1.0, 5.0, fold=0, folds=2)
    state.check_trial(1, 1.0, 6.0, fold=1, folds=2)
    lines = state.to_json()["charts"]["curves"]["lines"]
    assert (lines[0]["name"], lines[0]["y"]) == ("#1 under way (fold 2 of 2)", [6.0])
    assert lines[1]["y"] == [2.0]
    assert state.to_json()["clock"]["left"] is None
    assert mean_looks([]) == ()
    assert mean_looks([[Look(1, 1), Look(2, 1)], [Look(1, 3)]]) == (Look(1, 1), Look(2, 1))


def test_trials_side_by_side_keep_their_own_curves() -> None:
    state = live_state(budget_s=None)
    for number in range(3):
        state.start_trial(number, "convnet, sampled")
    for number, score in ((0, 3.0), (1, 1.0), (0, 2.0)):
        state.check_trial(number, 1.0, score, fold=0, folds=1)
    state.advance_trial(1, 0.5, "step 5 of 10")
    assert state.to_json()["trial"]["name"] == "#0 convnet, sampled, and 2 more"
    state.end_trial(trial(1, 0.7), best=trial(1, 0.7))
    now = state.to_json()
    assert now["trial"]["name"] == "#0 convnet, sampled, and 1 more"
    assert [line["y"] for line in now["charts"]["curves"]["lines"][:2]] == [[3.0, 2.0], [1.0]]


def test_the_state_is_bounded_however_long_a_search_is() -> None:
    state = live_state()
    best = trial(0, 1.0)
    for number in range(3_000):
        state.say(f"{number} " + "x" * 10_000)
        state.start_trial(number, "convnet, sampled")
        for look in range(20):
            state.check_trial(number, look, 1.0 + look, fold=0, folds=1)
        state.end_trial(trial(number, 1.0 + number % 7), best=best)
    state.start_trial(3_000, "convnet, sampled")
    for look in range(5_000):
        state.check_trial(3_000, look, 1.0 + look, fold=0, folds=1)
    now = state.to_json()
    assert len(json.dumps(now)) < 200_000
    assert len(now["messages"]) == MESSAGES
    assert len(now["trials"]) == TRIALS
    assert len(now["charts"]["dots"]["x"]) <= POINTS
    assert all(len(line["x"]) <= POINTS for line in now["charts"]["curves"]["lines"])
    assert len(now["charts"]["curves"]["lines"]) == 1 + CURVES
    assert now["counts"]["ended"] == 3_000


@pytest.mark.parametrize("score", [0.0, 1e-300, 1e300])
def test_scores_of_every_size_are_drawn_on_a_logarithmic_axis(score: float) -> None:
    state = live_state()
    state.start_trial(0, "convnet, portfolio")
    for value in (float("nan"), float("inf"), score, 0.5):
        state.check_trial(0, 1.0, value, fold=0, folds=1)
    for number, value in enumerate((0.0, score)):
        state.end_trial(trial(number, value), best=trial(0, 0.0))
    charts = json.loads(json.dumps(state.to_json(), allow_nan=False))["charts"]
    drawn = [*charts["dots"]["y"], *charts["best"]["y"], *charts["ranges"]["y"], *charts["curves"]["ranges"]["y"]]
    assert min(drawn) > 0
    assert charts["ranges"]["y"][0] < charts["ranges"]["y"][1]


def test_every_axis_has_its_unit() -> None:
    assert axis_title("rmse", ranking=True) == "validation RMSE (target's unit)"
    assert axis_title("nrmse", ranking=False) == "validation NRMSE (standard deviations)"
    assert axis_title("accuracy", ranking=True) == "validation 1 − accuracy"
    assert axis_title("accuracy", ranking=False) == "validation log loss"
    for budget, unit in ((60.0, "seconds"), (3_600.0, "minutes")):
        state = live_state(budget_s=budget)
        searched(state)
        assert state.to_json()["charts"]["time"] == f"{unit} since the start"


def test_several_watchers_hear_everything() -> None:
    heard: list[tuple[str, str]] = []

    class Hearing(Silent):
        def __init__(self, name: str) -> None:
            self.name = name

        def say(self, text: str) -> None:
            heard.append((self.name, text))

        def check_trial(self, number: int, epoch: float, score: float, *, fold: int, folds: int) -> None:
            heard.append((self.name, f"{epoch} {score} {fold} {folds}"))

    both = Several(Hearing("a"), Hearing("b"))
    both.say("hello")
    both.check_trial(0, 1.0, 2.0, fold=0, folds=5)
    both.count("bytes", 1, 2)
    both.start_trial(0, "constant")
    both.advance_trial(0, 0.5, "step 1 of 2")
    both.end_trial(trial(0, 1.0), best=None)
    assert heard == [("a", "hello"), ("b", "hello"), ("a", "1.0 2.0 0 5"), ("b", "1.0 2.0 0 5")]


def test_the_button_ends_the_search_once_and_only_while_it_runs() -> None:
    button = StopButton()
    state = live_state(button=button)
    assert not state.stop()  # the data are still being read: there Ctrl-C ends the command
    state.start_trial(0, "no search waits for Ctrl-C here")
    assert not button.ready
    deadline, outside = Deadline(None), signal.getsignal(signal.SIGINT)
    with deadline.stopped_by_ctrl_c():
        assert not state.stop()
        state.start_trial(0, "constant, baseline")
        assert state.to_json()["stoppable"]
        with ThreadPoolExecutor(4) as pool:
            pressed = list(pool.map(lambda _: state.stop(), range(8)))
        assert sum(pressed) == 1
        assert deadline.interrupted
        assert state.to_json()["phase"] == "stopping"
        assert not state.to_json()["stoppable"]
        state.start_trial(1, "convnet, portfolio")
        assert not state.stop()
    assert not state.stop()
    assert signal.getsignal(signal.SIGINT) is outside


def test_after_ctrl_c_in_the_terminal_the_button_does_nothing() -> None:
    state, deadline = live_state(), Deadline(None)
    with deadline.stopped_by_ctrl_c():
        state.start_trial(0, "constant, baseline")
        signal.raise_signal(signal.SIGINT)
        assert deadline.interrupted
        assert state.to_json()["phase"] == "stopping"
        assert not state.stop()
        with pytest.raises(KeyboardInterrupt):  # the terminal's second one still ends everything
            signal.raise_signal(signal.SIGINT)


def test_only_who_knows_the_token_is_answered(view: LiveView) -> None:
    status, headers, page = ask(view.address)
    assert status == 200
    assert b"pixelfit live" in page
    for path in ("/", "/state.json", "//state.json", f"/{'x' * 32}/", f"{urlsplit(view.address).path[:-1]}", "/%ff/"):
        assert ask(view.address, path)[0] == 404
    for name in ("../report.html", "%2e%2e/x", "live.html.j2", "state.json?x", "report.html", "./", "state.py", "/etc/passwd"):
        assert ask(view.address, name)[0] == 404
    with socket.create_connection(("127.0.0.1", urlsplit(view.address).port or 0), timeout=10) as raw:
        raw.sendall(f"GET /\xff/ HTTP/1.0\r\nHost: {urlsplit(view.address).netloc}\r\n\r\n".encode("latin-1"))
        assert raw.recv(1_000).startswith(b"HTTP/1.0 404")
    assert urlsplit(view.address).hostname == "127.0.0.1"
    assert len(urlsplit(view.address).path) >= 32
    for name in ("state.json", "live.js", "charts.js", "bokeh.js", "style.css"):
        status, headers, _ = ask(view.address, name)
        assert status == 200
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert "python" not in headers["Server"].lower()


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "evil.example:{port}", "localhost.evil.example:{port}", "127.0.0.1:1"]
)
def test_a_foreign_host_is_not_answered(view: LiveView, host: str) -> None:
    port = urlsplit(view.address).port
    assert ask(view.address, "state.json", Host=host.format(port=port))[0] == 421
    assert ask(view.address, "state.json", Host=f"localhost:{port}")[0] == 200


def test_nothing_but_get_and_post(view: LiveView) -> None:
    for method in ("HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
        assert ask(view.address, "state.json", method=method)[0] == 501
    assert ask(view.address, "stop")[0] == 404  # looking does nothing
    assert ask(view.address, "state.json", method="POST", Origin=origin(view.address))[0] == 404


def test_a_run_that_goes_on_has_the_time_left_that_it_had() -> None:
    going_on = live_state(budget_s=1000.0)
    going_on.went_before(600.0)
    assert going_on.to_json()["clock"]["left"] in ("6m39s", "6m40s")
    terminal = io.StringIO()
    shown = Display(Console(file=terminal, width=100), budget_s=1000.0, started=time.monotonic())
    shown.went_before(600.0)
    shown.end_trial(trial(0, None, error="none"), best=None)
    assert terminal.getvalue().startswith(" 10m0")


def test_only_the_page_itself_may_stop_the_search(view: LiveView) -> None:
    deadline = Deadline(None)
    own = origin(view.address)
    with deadline.stopped_by_ctrl_c():
        view.state.start_trial(0, "constant, baseline")
        for headers in (
            {},
            {"Origin": "null"},
            {"Origin": "http://evil.example"},
            {"Origin": own.replace("http", "https")},
            {"Origin": own, "Sec_Fetch_Site": "cross-site"},
            {"Origin": own, "Sec_Fetch_Site": "same-site"},
        ):
            assert ask(view.address, "stop", method="POST", **headers)[0] == 403
        assert ask(view.address, "/stop", method="POST", Origin=own)[0] == 404
        assert ask(view.address, "stop", method="POST", Origin=own, Host="evil.example")[0] == 421
        assert not deadline.interrupted
        assert ask(view.address, "stop", method="POST", Origin=own, Sec_Fetch_Site="same-origin")[0] == 200
        assert deadline.interrupted
        assert ask(view.address, "stop", method="POST", Origin=own)[0] == 409
    assert ask(view.address, "stop", method="POST", Origin=own)[0] == 409


def test_the_page_runs_its_own_scripts_only(view: LiveView) -> None:
    policies = []
    for _ in range(2):
        _, headers, page = ask(view.address)
        nonce = re.search(r"script-src 'nonce-([^']+)';", headers["Content-Security-Policy"])
        assert nonce is not None
        assert set(re.findall(r"<script([^>]*)>", page.decode())) == {
            f' nonce="{nonce[1]}" src="{name}"' for name in ("bokeh.js", "charts.js", "live.js")
        }
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "connect-src 'self'" in headers["Content-Security-Policy"]
        assert HOSTILE not in page.decode()
        policies.append(nonce[1])
    assert policies[0] != policies[1]


def test_the_server_waits_for_an_open_page_and_for_no_other() -> None:
    started = time.monotonic()
    with LiveView("mnist", budget_s=None, started=time.monotonic()) as view:
        view.state.finish(RESULT)
    assert time.monotonic() - started < 1.5  # nobody has asked
    answers: list[Json] = []

    def once_more(address: str) -> None:
        time.sleep(0.5)
        answers.append(json.loads(ask(address, "state.json")[2]))

    with LiveView("mnist", budget_s=None, started=time.monotonic()) as view, ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(ask, view.address, "until-end")
        ask(view.address, "state.json")
        view.state.finish(RESULT)
        asking = pool.submit(once_more, view.address)
        view.__exit__(None, None, None)
        asking.result()
        assert waiting.result(timeout=5)[0] == 200  # it ends with the server, and in order
    assert answers[0]["phase"] == "finished"


def test_a_run_that_fails_says_so(view: LiveView) -> None:
    view.state.fail(str(RunError(f"{HOSTILE_FILE} cannot be read.")))
    state = json.loads(ask(view.address, "state.json")[2])
    assert (state["phase"], state["error"]) == ("failed", f"{HOSTILE_FILE} cannot be read.")


def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> str:
    """What the command line says to a user's mistake."""
    monkeypatch.setattr(sys, "argv", ["pixelfit", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("pixelfit: ")
    assert error.count("\n") == 1
    return error


def test_a_port_that_cannot_be_had_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port {port}" in told(capsys, monkeypatch, "fit", "nowhere", "--live", "--port", port)
        assert f"--port {port}" in told(capsys, monkeypatch, "demo", "--live", "--port", port)
        made_run(tmp_path / "mine")
        assert f"--port {port}" in told(capsys, monkeypatch, "ui", tmp_path, "--port", port)
    assert "--port 70000 is no port" in told(capsys, monkeypatch, "fit", "nowhere", "--live", "--port", 70_000)
    assert "--live" in told(capsys, monkeypatch, "fit", "nowhere", "--port", 8_000)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(OptionError, match="--port -1"):
        LiveView("mnist", budget_s=None, started=time.monotonic(), port=-1)


def made_run(path: Path, *, finished: bool = True, report: str = "<p>a report</p>", **facts: object) -> RunFolder:
    """A run folder with the records that the list reads."""
    known = {"data": "mnist-5k", "task": "regression", "metric": "rmse", **facts}
    write_json(path / "run.json", {"options": {"metric": None}})
    write_json(path / "facts.json", known)
    write_json(path / "trials" / "0000" / "trial.json", {})
    if finished:
        value, baseline = {"value": 0.295, "low": 0.094, "high": 0.44}, {"value": 2.872, "low": 2.8, "high": 2.9}
        scores = {"test": {"rmse": value}, "baseline": {"rmse": baseline}, "wall_s": 61.2, "rows": 1_000}
        write_json(path / "scores.json", scores)
        write_text(path / "report.html", report)
    return RunFolder(path)


def aged(folder: RunFolder, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(folder.path / "run.json", (then, then))


def page_of(site: RunList) -> str:
    answer = site.get("")
    assert answer is not None
    return str(answer.body)


def test_runs_are_listed_newest_first_whatever_their_state(tmp_path: Path) -> None:
    aged(made_run(tmp_path / "old"), 300)
    aged(made_run(tmp_path / "deep" / "newer"), 200)
    aged(made_run(tmp_path / "unfinished", finished=False), 100)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text("{")
    made_run(tmp_path / "far" / "too" / "deep")
    page = page_of(RunList(tmp_path))
    assert re.findall(r'<th scope="row">(?:<a href="\w+\.html">)?([\w/]+)', page) == [
        "damaged",
        "unfinished",
        "deep/newer",
        "old",
    ]
    assert page.count("RMSE 0.2950") == 2
    assert page.count("0.09400 – 0.4400") == 2
    assert page.count("2.872") == 2
    assert page.count("1m01s") == 2
    assert "not finished" in page
    assert "its records are damaged" in page
    assert page.count("<a href=") == 2
    assert page_of(RunList(tmp_path / "old")).count("<a href=") == 1
    made_run(tmp_path / os.fsdecode(b"not-\xff-unicode"))
    with LoopbackServer(RunList(tmp_path)) as server:
        assert b"not-?-unicode" in ask(server.address)[2]
    (tmp_path / "old" / "scores.json").write_text('{"test": []}')
    assert page_of(RunList(tmp_path)).count("its records are damaged") == 2


def test_a_report_is_served_with_its_own_policy_and_no_wider_one(tmp_path: Path) -> None:
    digest = "'sha256-" + 43 * "A" + "='"
    meta = '<meta http-equiv="Content-Security-Policy" content="default-src *; script-src {}">'
    made_run(tmp_path / "one", report=meta.format(f"'unsafe-inline' {digest.replace(chr(39), '&#39;')} http://evil.example"))
    made_run(tmp_path / "two", report=f"{HOSTILE}")
    site = RunList(tmp_path)
    with LoopbackServer(site) as server:
        keys = re.findall(r'href="(\w+\.html)"', page_of(site))
        policies = [ask(server.address, key)[1]["Content-Security-Policy"] for key in keys]
        assert ask(server.address, keys[0])[2] == HOSTILE.encode() or ask(server.address, keys[1])[2] == HOSTILE.encode()
        for name in ("0" * 16 + ".html", "one.html", "one/report.html", "../run.json", keys[0].removesuffix(".html")):
            assert ask(server.address, name)[0] == 404
        assert ask(server.address, keys[0], method="POST", Origin=origin(server.address))[0] == 404
    assert sorted("script-src" in policy for policy in policies) == [False, True]
    for policy in policies:
        assert policy.startswith("sandbox allow-scripts; default-src 'none'")
        assert "evil.example" not in policy
        assert not re.search(r"script-src[^;]*unsafe", policy)
    assert any(f"script-src {digest};" in policy for policy in policies)


def test_a_folder_without_runs_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no folder" in told(capsys, monkeypatch, "ui", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no run in" in told(capsys, monkeypatch, "ui", tmp_path / "empty")


@pytest.mark.slow
def test_ctrl_c_ends_the_list_in_order(tmp_path: Path) -> None:
    made_run(tmp_path / "mine")
    command = [sys.executable, "-m", "pixelfit", "ui", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        address = process.stdout.readline().removeprefix("Runs: ").strip()
        process.stdout.readline()
        assert b"mine" in ask(address)[2]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
        assert process.stderr.read() == ""
