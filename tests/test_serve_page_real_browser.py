"""The page of a real server on a real model of digits: what a visitor draws, drops and may not send."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from browsing import opened, until
from conftest import graph_of
from PIL import Image
from test_serve import bomb, running, settings_of
from test_serve_page_browser import DETAILS, alert, file_of, give, stroke

from pixelfit.automl import Run, fit
from pixelfit.options import checked_options
from pixelfit.progress import Silent
from pixelfit.serve.app import Settings
from pixelfit.types import Json

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A regression on 4,000 real digits, long enough to know them."""
    options = checked_options(
        task="regression",
        trials=2,
        steps=300,
        folds=1,
        augment="rotate,scale,shear,shift",
        out=tmp_path_factory.mktemp("digits") / "run",
    )
    return fit("mnist-5k", options, progress=Silent())


@contextmanager
def served_page(browser: Json, settings: Settings, *, width: int = 1440) -> Iterator[Json]:
    with running(settings) as client:
        page, complaints, strange = opened(browser, str(client.base_url) + "/", width)
        until(page, "document.querySelector('#facts').textContent !== ''")
        yield page
        assert [line for line in complaints if "Failed to load resource" not in line] == []
        assert [address for address in strange if not address.startswith("blob:")] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [390, 1440])
def test_a_drawn_seven_is_read_as_one(width: int, digits_run: Run, browser: Json) -> None:
    with served_page(browser, settings_of(digits_run), width=width) as page:
        assert page.inner_text("h1") == "Predict digit"
        stroke(page, (0.3, 0.25), (0.68, 0.25), (0.45, 0.8))
        page.wait_for_selector(DETAILS)
        assert 6.5 < float(page.inner_text(".figure")) < 7.5
        assert re.search(r"90 % interval [\d.]+ to [\d.]+", page.inner_text("#shown"))
        assert page.locator(".gallery img").count() == 5  # the nearest training pictures
        assert set(page.locator(".gallery li").all_inner_texts()) <= {str(digit) for digit in range(10)}
        assert digits_run.predictor.version in page.inner_text("#fine-print")


def test_a_dropped_file_is_predicted_and_a_photograph_is_called_unlike(digits_run: Run, browser: Json) -> None:
    digit = digits_run.folder.read_held_out()
    file = io.BytesIO()
    Image.fromarray(digit.pictures[0, ..., 0]).save(file, "PNG")
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(noise, "PNG")
    expected = float(digits_run.predictor.predict(digit.pictures[:1])[0])
    with served_page(browser, settings_of(digits_run)) as page:
        content = list(file.getvalue())
        page.evaluate(
            """(content) => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(content)], "digit.png", { type: "image/png" }));
                document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
            }""",
            content,
        )
        page.wait_for_selector(DETAILS)
        assert float(page.inner_text(".figure")) == pytest.approx(expected, abs=0.06)
        assert "digit.png" in page.inner_text("#shown")
        assert "Unlike anything seen in training" not in page.inner_text("#shown")
        give(page, file_of("noise.png", noise.getvalue()))
        until(page, "document.querySelector('#shown').textContent.includes('noise.png')")
        assert "Unlike anything seen in training: do not rely on this prediction." in page.inner_text("#shown")


def test_a_bomb_is_refused_in_a_plain_sentence(digits_run: Run, browser: Json) -> None:
    with served_page(browser, settings_of(digits_run)) as page:
        give(page, file_of("bomb.png", bomb()))
        assert alert(page) == "The picture has 100 million pixels (10000 × 10000); at most 50 million are taken."
        assert not page.is_visible(DETAILS)


def test_the_token_is_asked_for_and_kept(digits_run: Run, browser: Json) -> None:
    graph_of(digits_run)
    with served_page(browser, settings_of(digits_run, token="open-sesame")) as page:
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        stroke(page, (0.5, 0.2), (0.5, 0.8))
        assert "does not accept this access token" in alert(page)
        page.fill("#token", "open-sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector(DETAILS)
        assert 0 <= float(page.inner_text(".figure")) <= 9
