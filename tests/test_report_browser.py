"""The report in a real browser."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browsing import opened, until
from conftest import HOSTILE, bars
from PIL import Image

from pixelfit.automl import Run, fit
from pixelfit.options import checked_options
from pixelfit.progress import Silent
from pixelfit.types import Array, Json

pytestmark = pytest.mark.charts

HOSTILE_FILE = "<img src=x onerror=alert({})>.png"
# Where on the screen the dot with the largest error is, and which picture it stands for.
WORST_DOT = """() => {
  for (const root of Bokeh.index.roots) {
    const dots = root.model.renderers.find((each) => each.data_source?.data.ref);
    if (!dots) continue;
    const { x, y, ref, true: target } = dots.data_source.data;
    const error = (place) => Math.abs(y[place] - target[place]);
    let worst = 0;
    for (let place = 0; place < y.length; place++) if (error(place) > error(worst)) worst = place;
    root.el.scrollIntoView({ block: "center", behavior: "instant" });
    const box = root.canvas_view.el.getBoundingClientRect();
    return [box.left + root.frame.x_scale.compute(x[worst]), box.top + root.frame.y_scale.compute(y[worst]), ref[worst]];
  }
}"""


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on so few photographs that they are in folds, with names that would run as scripts."""
    tmp = tmp_path_factory.mktemp("small")
    pictures, columns = bars(60, channels=3)
    names = [HOSTILE_FILE.format(number) for number in range(60)]
    for name, picture in zip(names, pictures, strict=True):
        Image.fromarray(picture).save(tmp / name)
    pd.DataFrame({"file": names, "price": columns * 1000.0}).to_csv(tmp / "small.csv", index=False)
    options = checked_options(task="regression", target="price", folds=3, trials=3, steps=20, out=tmp / "run")
    return fit(tmp / "small.csv", options, progress=Silent())


def whole(page: Json, complaints: list[str], strange: list[str], width: int) -> None:
    """What holds of every report in every window."""
    until(page, "document.querySelectorAll('figure').length > 0")
    until(page, "[...document.querySelectorAll('figure > div')].every((each) => each.childElementCount > 0)")
    titles = page.locator("h2").all_inner_texts()
    assert len(titles) == 13
    assert (titles[0], titles[6], titles[12]) == ("How good is it?", "How do I use and repeat it?", "6 Final model")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert complaints == []
    assert strange == []
    assert "hacked" not in page.title()
    for link in page.locator("nav a").all():
        assert page.locator(link.get_attribute("href")).count() == 1


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
def test_every_report_is_whole(
    width: int,
    browser: Json,
    classification_run: Run,
    regression_run: Run,
    numbers_run: Run,
    labels_run: Run,
    small_run: Run,
) -> None:
    runs = ((regression_run, 8), (classification_run, 6), (numbers_run, 11), (labels_run, 6), (small_run, 8))
    for run, charts in runs:
        page, complaints, strange = opened(browser, run.folder.report_file.as_uri(), width)
        whole(page, complaints, strange, width)
        # History, score against prediction time, parallel coordinates, curves, best over time; and what the data allow.
        assert page.locator("figure").count() >= charts - 2
        assert page.locator("#looks .gallery.wide li").count() > 0
        page.close()


@pytest.mark.browser
def test_a_hostile_file_name_is_text(browser: Json, small_run: Run) -> None:
    page, complaints, _ = opened(browser, small_run.folder.report_file.as_uri(), 1440)
    assert page.locator("img[onerror]").count() == 0
    names = {HOSTILE_FILE.format(number) for number in range(60)}
    assert len(names & set(page.locator(".gallery .ref").all_inner_texts())) > 10
    assert complaints == []


def seen(tile: Json) -> Array:
    """What is on the screen there, as small as the picture that it shows."""
    with Image.open(io.BytesIO(tile.screenshot())) as image:
        return np.asarray(image.convert("L").resize((12, 12), Image.Resampling.BOX), dtype=np.float64)


def most_like(pictures: Array, shown: Array) -> str:
    """The name of the picture that is on the screen."""
    return f"row {int(np.argmin([np.abs(shown - picture[..., 0]).mean() for picture in pictures]))}"


@pytest.mark.browser
def test_the_dot_under_the_pointer_shows_its_picture(browser: Json, regression_run: Run) -> None:
    pictures, _ = bars(150)
    page, complaints, _ = opened(browser, regression_run.folder.report_file.as_uri(), 1440)
    until(page, "window.Bokeh !== undefined && document.querySelectorAll('figure > div > *').length > 5")
    left, top, ref = page.evaluate(WORST_DOT)
    page.mouse.move(left - 3, top)
    page.mouse.move(left, top)
    tile = page.locator(".bk-Tooltip div[style*='--tiles']").first
    tile.wait_for(state="visible")
    assert page.locator(f".bk-Tooltip >> text={ref}").count() >= 1
    assert most_like(pictures, seen(tile)) == ref
    assert complaints == []


@pytest.mark.browser
def test_a_number_of_the_matrix_opens_its_pictures(browser: Json, classification_run: Run) -> None:
    pictures, _ = bars(150)
    told = pd.read_csv(classification_run.folder.path / "predictions" / "test.csv")
    classes = [str(label) for label in classification_run.facts.classes or ()]
    page, complaints, _ = opened(browser, classification_run.folder.report_file.as_uri(), 1440)
    for button in page.locator("button.cell").all():
        actual, predicted = map(int, button.get_attribute("data-cell").split("-"))
        mine = told[(told.target == classes[actual]) & (told.prediction == classes[predicted])]
        assert int(button.inner_text()) == len(mine)
        button.press("Enter")
        items = page.locator("#cell-pictures li")
        refs = items.locator(".ref").all_inner_texts()
        assert set(refs) <= set(mine.picture)
        assert len(refs) == len(mine) if actual != predicted else 0 < len(refs) <= len(mine)
        assert most_like(pictures, seen(items.locator(".tile").first)) == refs[0]
        assert classes[actual] in page.locator("#cell-pictures p").inner_text()
    assert HOSTILE in page.locator("#fails").inner_text()
    assert complaints == []


@pytest.mark.browser
def test_the_leaderboard_can_be_sorted(browser: Json, regression_run: Run) -> None:
    page, _, _ = opened(browser, regression_run.folder.report_file.as_uri(), 1440)
    seconds = page.locator("table.sortable th", has_text="seconds")
    for direction, ordered in (("ascending", sorted), ("descending", lambda values: sorted(values, reverse=True))):
        seconds.locator("button").click()
        assert seconds.get_attribute("aria-sort") == direction
        place = seconds.evaluate("head => head.cellIndex")
        values = [
            float(row.locator("td, th").nth(place).get_attribute("data-value"))
            for row in page.locator(".sortable tbody tr").all()
        ]
        assert values == ordered([trial.seconds for trial in regression_run.trials if trial.score is not None])


def test_the_report_fits_into_its_limit(regression_run: Run, small_run: Run) -> None:
    for run in (regression_run, small_run):
        assert Path(run.folder.report_file).stat().st_size < 5_000_000
