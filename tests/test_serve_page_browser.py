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
from browsing import opened, until
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
        "nearest": [
            {"name": f"train/{number}.png", "target": HOSTILE if number else "7", "picture": shown} for number in range(3)
        ],
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
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for event in self.held.values():
            event.set()
        self._server.shutdown()
        self._server.server_close()


DETAILS = ".heat canvas"  # there once all that is said of a picture is shown


@contextmanager
def page_of(browser: Json, stub: Stub, *, width: int = 1440, complains: bool = False, script: str = "") -> Iterator[Json]:
    """The page of a stub; its policy must never be broken, and nothing be asked of other places."""
    with stub:
        page, complaints, strange = opened(browser, stub.address, width, script=script)
        until(page, "document.querySelector('#facts').textContent !== '' || document.querySelector('#alert').textContent !== ''")
        yield page
        policy = [line for line in complaints if "Failed to load resource" not in line]
        assert policy == []
        assert complains or complaints == []
        assert [address for address in strange if not address.startswith("blob:")] == []
        assert page.title() != "hacked"
        assert page.locator("main script").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.close()


def give(page: Json, *files: Json) -> None:
    page.set_input_files("#files", list(files))


def stroke(page: Json, *points: tuple[float, float]) -> None:
    """A line through points in parts of the board."""
    box = page.locator("#board").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=8)
    page.mouse.up()


def pixels(content: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(content)).convert("L"))


def alert(page: Json) -> str:
    until(page, "document.querySelector('#alert').textContent !== ''")
    return str(page.inner_text("[role=alert]"))


def test_the_files_hold_to_the_policy_without_being_run() -> None:
    html, script = (PAGE / "index.html").read_text(), (PAGE / "page.js").read_text()
    assert re.findall(r"<script(?![^>]* src=\"page\.js\")|<style|\sstyle=|\son\w+=", html) == []
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script) == []
    # Nothing of other places; the name space of SVG is no address.
    everything = html + (PAGE / "page.css").read_text() + script.replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"(?:https?:)?//\w[\w.]+\.\w+|@import|url\(", everything) == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("kind", list(ITEMS))
def test_a_picture_of_each_kind_of_target(kind: str, width: int, browser: Json) -> None:
    of = "" if kind == "number" else HOSTILE
    with page_of(browser, Stub(about(kind), explain=explained(ITEMS[kind], of=of)), width=width) as page:
        assert page.inner_text("h1") == (f"Predict x, {HOSTILE}" if kind == "numbers" else "Predict digit")
        assert page.inner_text("#facts") == f"run mine · model {VERSION} · reads 28 × 28 pixels, grey"
        assert page.is_visible("#empty")
        give(page, file_of(HOSTILE_FILE))
        page.wait_for_selector(DETAILS)
        assert not page.is_visible("#empty")
        assert page.get_attribute("#shown img", "alt") == f"Your picture {HOSTILE_FILE}"
        until(page, "document.querySelector('#shown img').naturalWidth === 28")
        says = page.inner_text("#shown")
        if kind == "number":
            assert page.inner_text(".figure") == "7.02"
            assert "90 % interval 6.8 to 7.3" in says
            assert page.get_attribute("svg.scale", "aria-label") == "The prediction and its interval on a scale from 0 to 9"
            assert page.evaluate("Math.round(parseFloat(document.querySelector('.scale .span').getAttribute('x')))") == 76
        elif kind == "numbers":
            rows = page.locator("#shown tbody tr").all_inner_texts()
            assert rows == ["x\t1\t0.5 to 1.5", f"{HOSTILE}\t123,457\t120,000 to 130,000"]
            assert "90 % interval" in says
        elif kind == "label":
            assert page.inner_text(".figure") == HOSTILE
            assert f"90 % prediction set: {HOSTILE}, dog" in says
            assert page.locator(".bars .name").all_inner_texts() == [HOSTILE, "dog", "3"]
            assert page.locator(".bars .share").all_inner_texts() == ["93 %", "6.5 %", "<0.1 %"]
        else:
            assert page.inner_text(".figure") == f"cat, {HOSTILE}"
            names = page.locator(".bars .name").all_inner_texts()
            assert names == ["cat ✓ predicted", f"{HOSTILE} ✓ predicted", "dog"]
        assert page.inner_text(".heat h3") == f"What the model looked at{f' for {HOSTILE}' if of else ''}"
        alts = [image.get_attribute("alt") for image in page.locator(".gallery img").all()]
        assert alts == [f"Training picture train/{number}.png, target {HOSTILE if number else 7}" for number in range(3)]
        assert page.inner_text("#fine-print") == f"Predicted in 3.14 ms, explained in 41 ms · model {VERSION}"
        assert page.locator(".note").count() == 0


@pytest.mark.browser
def test_what_is_sent_for_one_file(browser: Json) -> None:
    stub = Stub(about("number"))
    with page_of(browser, stub) as page:
        give(page, file_of("seven.png"))
        page.wait_for_selector(DETAILS)
        assert stub.sent() == [[("seven.png", png())]]
        assert stub.bodies("/explain") == [png()]
        (kind,) = [headers["content-type"] for path, headers, _ in stub.asked if path == "/explain"]
        assert kind == "image/png"
        assert all("authorization" not in headers for _, headers, _ in stub.asked)


@pytest.mark.browser
def test_the_heat_map_has_its_colours_where_the_prediction_changed(browser: Json) -> None:
    with page_of(browser, Stub(about("number"))) as page:
        give(page, file_of("seven.png"))
        page.wait_for_selector(DETAILS)
        colours = page.evaluate(
            """() => {
                const { data } = document.querySelector(".heat canvas").getContext("2d").getImageData(0, 0, 560, 560);
                return [[30, 30], [545, 545], [100, 450]].map(([x, y]) => [...data.slice(4 * (560 * y + x)).slice(0, 3)]);
            }"""
        )
        red, green, blue = colours[0]
        assert red > green > blue  # orange where it was raised
        red, green, blue = colours[1]
        assert red < green < blue  # blue where it was lowered
        assert colours[2] == [120, 120, 120]  # the picture itself elsewhere
        words = "The prediction was raised most at the top left, lowered most at the bottom right."
        assert page.inner_text(".heat figcaption") == words
        assert page.get_attribute(".heat canvas", "aria-label") == f"Heat map over your picture. {words}"
        assert page.locator(".legend li").all_inner_texts() == ["raised the prediction", "lowered the prediction"]


@pytest.mark.browser
def test_answers_with_as_little_as_the_server_may_say(browser: Json) -> None:
    bare = {"model": VERSION, "milliseconds": 1.0, "prediction": {}, "looked_at": None, "of": "", "nearest": []}
    stub = Stub(about("number", coverage=None, range=None), predict=predicted({"prediction": -1234567.8}), explain=bare)
    with page_of(browser, stub) as page:
        give(page, file_of("seven.png"))
        until(page, "document.querySelector('#fine-print').textContent.includes('explained')")
        assert page.inner_text(".figure") == "-1,234,568"
        assert page.locator(".sure, .scale").count() == 0
        assert not page.is_visible("#details")
        stub.only("/predict", predicted({"prediction": 2.0, "low": 1.0, "high": 3.0}))
        give(page, file_of("seven.png"))
        page.wait_for_selector(".scale")
        assert page.inner_text(".sure") == "interval 1.0 to 3.0"
        assert page.locator(".scale text").all_text_contents() == ["0", "4"]
    stub = Stub(
        about("labels", explains=False, target_name=""), predict=predicted({"prediction": [], "probabilities": [["cat", 0]]})
    )
    with page_of(browser, stub) as page:
        assert page.inner_text("h1") == "Predict labels"
        give(page, file_of("seven.png"))
        page.wait_for_selector(".figure")
        assert page.inner_text(".figure") == "No label"
        assert page.inner_text(".bars .share") == "0 %"
        assert not page.is_visible("#details")
        assert stub.bodies("/explain") == []


@pytest.mark.browser
def test_many_classes_are_cut_short_and_many_predicted_labels_are_not(browser: Json) -> None:
    shares = [[f"class {number}", 0.9 - number / 20] for number in range(14)]
    names = [name for name, _ in shares]
    stub = Stub(about("label"), predict=predicted({"prediction": names[0], "probabilities": shares, "set": names[:12]}))
    with page_of(browser, stub) as page:
        give(page, file_of("seven.png"))
        page.wait_for_selector(".bars")
        assert page.locator(".bars .name").all_inner_texts() == names[:10]
        assert page.inner_text(".bars .more") == "and 4 more"
        assert page.inner_text(".sure").endswith("class 9 and 2 more")
    with page_of(browser, Stub(about("labels"), predict=predicted({"prediction": names[:12], "probabilities": shares}))) as page:
        give(page, file_of("seven.png"))
        page.wait_for_selector(".bars")
        assert page.locator(".bars .chosen").count() == 12
        assert page.inner_text(".bars .more") == "and 2 more"


@pytest.mark.browser
def test_a_strange_picture_is_told_of(browser: Json) -> None:
    stub = Stub(about("number"), predict=predicted({**ITEMS["number"], "unlike": True, "strangeness": 1.7}))
    with page_of(browser, stub) as page:
        give(page, file_of("seven.png"))
        page.wait_for_selector(".note")
        assert page.inner_text(".note") == "Unlike anything seen in training: do not rely on this prediction."


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
def test_a_drawing_is_sent_by_itself_as_it_looks(width: int, browser: Json) -> None:
    stub = Stub(about("number"))
    with page_of(browser, stub, width=width) as page:
        assert page.is_checked("input[value=draw]")  # the model is for small grey pictures
        assert page.evaluate("getComputedStyle(document.querySelector('#board')).touchAction") == "none"
        page.click("#predict")
        assert alert(page) == "Nothing is drawn yet."
        stroke(page, (0.5, 0.2), (0.5, 0.8))
        page.wait_for_selector(DETAILS)
        ((name, content),) = stub.sent()[0]
        drawn = pixels(content)
        assert name == "drawing.png"
        assert drawn.shape == (280, 280)
        assert (drawn[0, 0], drawn[140, 140], drawn[140, 40]) == (0, 255, 0)
        assert 21 <= (drawn[140] > 127).sum() <= 26  # a twelfth of 280 is 23
        assert len(np.unique(drawn)) > 4  # with smooth edges
        assert page.inner_text("#alert") == ""

        page.check("#dark-ink")
        until(page, "document.querySelector('#result').ariaBusy === 'false'")
        ((_, content),) = stub.sent()[-1]
        assert len(stub.sent()) == 2
        assert np.array_equal(pixels(content), 255 - drawn)

        page.wait_for_selector(DETAILS)
        page.focus("#clear")
        page.keyboard.press("Enter")
        assert page.is_visible("#empty")
        assert page.locator("#shown img").count() == 0
        stroke(page, (0.3, 0.3), (0.31, 0.3))
        page.focus("#predict")
        page.keyboard.press("Enter")
        page.wait_for_selector(DETAILS)
        ((_, content),) = stub.sent()[-1]
        drawn = pixels(content)
        assert (drawn[140, 140], drawn[84, 84]) == (255, 0)  # what was cleared is gone, and the ink still dark


@pytest.mark.browser
def test_a_finger_draws_and_a_second_one_does_not(browser: Json) -> None:
    stub = Stub(about("number", pictures={"height": 14, "width": 28, "channels": 1, "scale": "byte"}))
    with page_of(browser, stub) as page:
        box = page.locator("#board").bounding_box()
        assert box["width"] == pytest.approx(2 * box["height"], abs=3)  # as the model's pictures
        touch = page.context.new_cdp_session(page)

        def send(kind: str, *points: tuple[float, float]) -> None:
            places = [
                {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "id": number}
                for number, (x, y) in enumerate(points)
            ]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

        send("touchStart", (0.2, 0.5))
        send("touchStart", (0.2, 0.5), (0.8, 0.9))
        send("touchMove", (0.8, 0.5), (0.8, 0.9))
        send("touchEnd")
        page.wait_for_selector(DETAILS)
        ((_, content),) = stub.sent()[0]
        drawn = pixels(content)
        assert drawn.shape == (140, 280)
        assert drawn[70, 60:220].min() == 255
        assert drawn[126, 224] == 0


@pytest.mark.browser
def test_an_answer_that_comes_late_is_not_shown(browser: Json) -> None:
    stub = Stub(about("number"), predict=predicted({"prediction": 1.0}))
    stub.then("/predict", predicted({"prediction": 2.0}))
    stub.held[1] = threading.Event()
    with page_of(browser, stub) as page:
        give(page, file_of("first.png"))
        until(page, "document.querySelector('#result').ariaBusy === 'true'")
        while not stub.sent():
            page.wait_for_timeout(20)
        give(page, file_of("second.png", png(60)))
        page.wait_for_selector(DETAILS)
        stub.held[1].set()
        page.wait_for_timeout(300)
        assert page.inner_text(".figure") == "2"
        assert "second.png" in page.inner_text("#shown")
        assert stub.bodies("/explain") == [png(60)]  # the first was not asked about any more
        assert page.inner_text("#alert") == ""


@pytest.mark.browser
@pytest.mark.parametrize("status", [400, 413, 415, 422, 429, 503, 504])
def test_a_refusal_is_told_and_the_old_result_goes(status: int, browser: Json) -> None:
    stub = Stub(about("number"))
    with page_of(browser, stub, complains=True) as page:
        give(page, file_of("seven.png"))
        page.wait_for_selector(DETAILS)
        stub.only("/predict", {"detail": f"No, {HOSTILE}."}, status)
        give(page, file_of("eight.png"))
        passing = status in (429, 503)
        assert alert(page) == f"No, {HOSTILE}." + (" Trying again may help." if passing else "")
        assert page.locator("#shown *, #details *").count() == 0
        assert page.inner_text("#fine-print") == ""
        assert page.is_visible("#again") == passing
        stub.only("/predict", predicted(ITEMS["number"]))
        if passing:
            page.click("#again")
        else:
            give(page, file_of("eight.png"))
        page.wait_for_selector(DETAILS)
        assert "eight.png" in page.inner_text("#shown")
        assert page.inner_text("#alert") == ""
        assert not page.is_visible("#again")


@pytest.mark.browser
def test_answers_that_are_none(browser: Json) -> None:
    stub = Stub(about("number"))
    stub.only("/predict", b"<h1>Bad gateway</h1>", 502)
    with page_of(browser, stub, complains=True) as page:
        give(page, file_of("seven.png"))
        assert alert(page) == "The server answered with status 502 and nothing to show."
        stub.only("/predict", {"model": VERSION})
        give(page, file_of("seven.png"))
        until(page, "document.querySelector('#alert').textContent.startsWith('The page cannot')")
        stub.only("/predict", predicted({"error": "It cannot be read as a picture: it is empty."}))
        give(page, file_of("seven.png"))
        until(page, "document.querySelector('#alert').textContent.startsWith('It cannot be read')")
        stub.only("/predict", predicted(ITEMS["number"]))
        stub.only("/explain", {"detail": "It took too long."}, 504)
        give(page, file_of("seven.png"))
        until(page, "document.querySelector('#alert').textContent === 'It took too long.'")
        assert page.inner_text(".figure") == "7.02"  # the prediction itself stands
        assert not page.is_visible("#details")
        stub.__exit__(None, None, None)
        give(page, file_of("seven.png"))
        until(page, "document.querySelector('#alert').textContent.startsWith('The server cannot be reached. Trying')")
        assert page.is_visible("#again")


@pytest.mark.browser
def test_the_token_is_asked_for_kept_and_asked_for_again(browser: Json) -> None:
    stub = Stub(about("number", token_required=True))
    with page_of(browser, stub, complains=True) as page:
        assert page.is_visible("#token")
        stub.only("/predict", {"detail": "A token is wanted."}, 401)
        give(page, file_of("seven.png"))
        assert alert(page) == "The server asks for an access token. Please enter it."
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('#alert').textContent.includes('does not accept this access token')")
        assert page.evaluate("document.activeElement.id") == "token"
        assert page.input_value("#token") == ""
        stub.only("/predict", predicted(ITEMS["number"]))
        page.fill("#token", "s3cret")
        page.click("#token-form button")
        page.wait_for_selector(DETAILS)  # what was refused has been sent again
        assert not page.is_visible("#token")
        sent = [headers.get("authorization") for path, headers, _ in stub.asked if path != "/about"]
        assert sent == [None, "Bearer wrong", "Bearer s3cret", "Bearer s3cret"]
        page.reload()
        until(page, "document.querySelector('#facts').textContent !== ''")
        assert not page.is_visible("#token")
        give(page, file_of("seven.png"))
        page.wait_for_selector(DETAILS)
        assert stub.asked[-1][1]["authorization"] == "Bearer s3cret"
        assert page.evaluate("localStorage.length") == 0
    with page_of(browser, Stub(about("number"))) as page:
        assert not page.is_visible("#token")


@pytest.mark.browser
def test_a_server_that_tells_nothing_without_a_token(browser: Json) -> None:
    stub = Stub({"model": {"kind": "number"}})
    stub.only("/about", {"detail": "A token is wanted."}, 401)
    with page_of(browser, stub, complains=True) as page:
        assert alert(page) == "The server asks for an access token. Please enter it."
        stub.only("/about", about("number", token_required=True))
        page.fill("#token", "s3cret")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('h1').textContent === 'Predict digit'")
        assert not page.is_visible("#token")
        assert stub.asked[-1][1]["authorization"] == "Bearer s3cret"


@pytest.mark.browser
def test_a_file_that_is_too_large_is_not_sent(browser: Json) -> None:
    stub = Stub(about("number", max_bytes=2**20))
    with page_of(browser, stub) as page:
        give(page, file_of("fits.png", png() + bytes(2**20 - len(png()))))
        page.wait_for_selector(DETAILS)
        give(page, file_of("large.png", bytes(3 * 2**19)))
        assert alert(page) == "large.png is too large: it has 1.5 MiB, and the server takes at most 1 MiB a picture."
        assert page.locator("#shown *").count() == 0
        assert [[name for name, _ in files] for files in stub.sent()] == [["fits.png"]]


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
def test_several_files_are_a_list(width: int, browser: Json) -> None:
    one, two, four = ({"prediction": value} for value in (1.0, 2.0, 4.0))
    stub = Stub(
        about("number"), predict=predicted(one, {"error": "It cannot be read as a picture: no."}, {**two, "unlike": True})
    )
    stub.then("/predict", predicted(four))
    with page_of(browser, stub, width=width) as page:
        names = ["1.png", HOSTILE_FILE, "2.png", "large.png", "4.png"]
        contents = [png(10), b"no picture", png(20), bytes(100_001), png(40)]
        give(page, *(file_of(name, content) for name, content in zip(names, contents, strict=True)))
        page.wait_for_selector(DETAILS)
        assert stub.sent() == [list(zip(names[:3], contents[:3], strict=True)), [(names[4], contents[4])]]  # 3 a request
        rows = [" | ".join(row.split("\n")) for row in page.locator("#list li").all_inner_texts()]
        assert [row.split(" | ") for row in rows] == [
            ["1.png", "1"],
            [HOSTILE_FILE, "It cannot be read as a picture: no."],
            ["2.png", "2", "Unlike anything seen in training"],
            ["large.png", "large.png is too large: it has 0.1 MiB, and the server takes at most 0.1 MiB a picture."],
            ["4.png", "4"],
        ]
        assert page.inner_text("#progress") == "3 of 5 pictures predicted, 2 not."
        assert page.inner_text(".figure") == "1"
        assert page.locator("#list button").count() == 3
        page.focus("#list li:last-child button")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('.figure').textContent === '4'")
        page.wait_for_selector(DETAILS)
        pressed = "[...document.querySelectorAll('#list button')].map((each) => each.getAttribute('aria-pressed'))"
        assert page.evaluate(pressed) == ["false", "false", "true"]
        page.click("#list li:first-child button")
        until(page, "document.querySelector('.figure').textContent === '1'")
        page.wait_for_selector(DETAILS)
        assert stub.bodies("/explain") == [png(10), png(40)]  # nothing is explained twice
        give(page, file_of("alone.png"))
        page.wait_for_selector("#list", state="hidden")
        page.wait_for_selector(DETAILS)


@pytest.mark.browser
def test_what_several_files_came_to_stays_when_the_server_gives_up(browser: Json) -> None:
    stub = Stub(about("number"), predict=predicted(*({"prediction": float(number)} for number in range(3))))
    stub.then("/predict", {"detail": "The server is busy."}, 503)
    with page_of(browser, stub, complains=True) as page:
        give(page, *(file_of(f"{number}.png") for number in range(5)))
        assert alert(page) == "The server is busy. Trying again may help."
        assert page.inner_text("#progress") == "3 of 5 pictures predicted, 2 not."
        assert page.locator("#list .wrong").all_inner_texts() == ["It was not predicted."] * 2


@pytest.mark.browser
@pytest.mark.parametrize("event", ["paste", "drop"])
def test_a_picture_is_pasted_or_dropped_anywhere(event: str, browser: Json) -> None:
    stub = Stub(about("number"))
    script = """([kind, content]) => {
        const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], "given.png", { type: "image/png" }));
        const options = { bubbles: true, cancelable: true };
        if (kind === "drop") {
            document.body.dispatchEvent(new DragEvent("dragover", { ...options, dataTransfer: data }));
            if (!document.body.classList.contains("over")) throw new Error("nothing shows that it can be dropped");
        }
        const given = kind === "drop" ? { dataTransfer: data } : { clipboardData: data };
        const Event = kind === "drop" ? DragEvent : ClipboardEvent;
        return !document.querySelector("h1").dispatchEvent(new Event(kind, { ...options, ...given }));
    }"""
    with page_of(browser, stub) as page:
        prevented = page.evaluate(script, [event, base64.b64encode(png()).decode()])
        assert prevented == (event == "drop")  # else the browser would leave the page and show the file
        page.wait_for_selector(DETAILS)
        assert stub.sent() == [[("given.png", png())]]
        assert page.locator(".over").count() == 0


CAMERA = """
    const green = document.createElement("canvas");
    Object.assign(green, { width: 64, height: 48 });
    setInterval(() => { const paint = green.getContext("2d"); paint.fillStyle = "#00ff00"; paint.fillRect(0, 0, 64, 48); }, 50);
    window.stream = green.captureStream();
    navigator.mediaDevices.getUserMedia = async () => window.stream;
"""


@pytest.mark.browser
def test_the_camera_takes_a_picture_and_is_let_go(browser: Json) -> None:
    stub = Stub(about("number"))
    with page_of(browser, stub, script=CAMERA) as page:
        assert page.evaluate("document.querySelector('video').srcObject") is None
        page.check("input[value=camera]")
        page.wait_for_selector("#shoot")
        until(page, "document.querySelector('video').videoWidth === 64")
        page.click("#shoot")
        page.wait_for_selector(DETAILS)
        ((name, content),) = stub.sent()[0]
        photo = Image.open(io.BytesIO(content))
        assert (name, photo.format, photo.size) == ("photo.jpg", "JPEG", (64, 48))
        red, green, blue = photo.convert("RGB").resize((1, 1)).getpixel((0, 0))
        assert green > red + 100
        assert green > blue + 100
        page.check("input[value=file]")
        assert page.evaluate("stream.getTracks().map((track) => track.readyState)") == ["ended"]


@pytest.mark.browser
def test_a_camera_that_is_given_too_late_is_let_go(browser: Json) -> None:
    late = CAMERA.replace(
        "async () => window.stream", "() => new Promise((given) => { window.give = () => given(window.stream); })"
    )
    with page_of(browser, Stub(about("number")), script=late) as page:
        page.check("input[value=camera]")
        page.check("input[value=file]")
        page.evaluate("give()")
        until(page, "stream.getTracks().every((track) => track.readyState === 'ended')")
        assert page.evaluate("document.querySelector('video').srcObject") is None


@pytest.mark.browser
def test_without_a_camera_there_is_a_sentence(browser: Json) -> None:
    script = "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotAllowedError'));"
    with page_of(browser, Stub(about("number")), script=script) as page:
        page.check("input[value=camera]")
        until(page, "document.querySelector('#camera-note').textContent === 'There is no camera that this page may use.'")
        assert not page.is_visible("#shoot")
    with page_of(browser, Stub(about("number")), script="Object.defineProperty(navigator, 'mediaDevices', {});") as page:
        page.check("input[value=camera]")
        until(page, "document.querySelector('#camera-note').textContent.includes('only over https')")


@pytest.mark.browser
def test_addresses_of_pictures_are_given_back(browser: Json) -> None:
    script = """
        window.live = new Set();
        const [make, drop] = [URL.createObjectURL, URL.revokeObjectURL];
        URL.createObjectURL = (of) => { const url = make.call(URL, of); live.add(url); return url; };
        URL.revokeObjectURL = (url) => { live.delete(url); drop.call(URL, url); };
    """
    with page_of(browser, Stub(about("number"), predict=predicted(*[ITEMS["number"]] * 3)), script=script) as page:
        for count in (1, 3, 2, 1):
            give(page, *(file_of(f"{count}-{number}.png") for number in range(count)))
            until(page, f"document.querySelector('#shown')?.textContent.includes('{count}-0.png')")
            assert page.evaluate("live.size") == count
        page.click("#clear")
        assert page.evaluate("live.size") == 0


@pytest.mark.browser
def test_a_picture_that_the_browser_does_not_know(browser: Json) -> None:
    file = io.BytesIO()
    Image.new("L", (28, 28)).save(file, "TIFF")
    stub = Stub(about("number"))
    with page_of(browser, stub) as page:
        give(page, file_of("seven.tif", file.getvalue(), ""))
        page.wait_for_selector(DETAILS)
        page.wait_for_selector("#shown .blank")
        assert page.inner_text("#shown .blank") == "This browser cannot show this kind of picture."
        (kind,) = [headers["content-type"] for path, headers, _ in stub.asked if path == "/explain"]
        assert kind in ("image/tiff", "application/octet-stream")


@pytest.mark.browser
def test_another_model_has_taken_its_place(browser: Json) -> None:
    stub = Stub(about("number"))
    with page_of(browser, stub) as page:
        stub.only("/about", about("label", version="new", run="theirs"))
        stub.only("/predict", {**predicted(ITEMS["label"]), "model": "new"})
        give(page, file_of("seven.png"))
        page.wait_for_selector(".bars")
        assert "run theirs · model new" in page.inner_text("#facts")


@pytest.mark.browser
def test_the_keyboard_reaches_everything_and_its_place_is_seen(browser: Json) -> None:
    with page_of(browser, Stub(about("number", token_required=True))) as page:
        reached = []
        for _ in range(6):
            page.keyboard.press("Tab")
            name, is_seen = page.evaluate(
                """() => {
                    const each = document.activeElement;
                    const isSeen = (one) => getComputedStyle(one).outlineStyle === "solid";
                    const beside = each.nextElementSibling; // shows the focus of a radio button
                    return [each.id || each.value || each.textContent, isSeen(each) || isSeen(beside)];
                }"""
            )
            reached.append(name)
            assert is_seen, name
        assert reached == ["token", "Use it", "draw", "predict", "clear", "dark-ink"]
        unnamed = """[...document.querySelectorAll("button, input, canvas, video")].filter((each) =>
            !(each.textContent.trim() || each.labels?.length || each.getAttribute("aria-label"))).map((each) => each.id)"""
        assert page.evaluate(unnamed) == []
        page.focus("input[value=draw]")
        page.keyboard.press("ArrowLeft")
        assert page.is_visible("#way-file")
        assert page.get_attribute("#result", "aria-live") == "polite"


@pytest.mark.browser
def test_it_follows_dark_and_still(browser: Json) -> None:
    with Stub(about("number")) as stub:
        page = browser.new_page(color_scheme="dark", reduced_motion="reduce")
        page.goto(stub.address)
        # Waited for: a busy browser draws anew only some frames after its medium has changed.
        until(page, "getComputedStyle(document.body).backgroundColor == 'rgb(20, 23, 27)'")
        page.evaluate("document.querySelector('#result').setAttribute('aria-busy', 'true')")
        until(page, "getComputedStyle(document.querySelector('#result'), '::before').animationName == 'none'")
        page.emulate_media(color_scheme="light", reduced_motion="no-preference")
        until(page, "getComputedStyle(document.body).backgroundColor == 'rgb(255, 255, 255)'")
        until(page, "getComputedStyle(document.querySelector('#result'), '::before').animationName == 'run'")
