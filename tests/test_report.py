from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import HOSTILE, bars

from pixelfit import report
from pixelfit.automl import Run, fit
from pixelfit.environment import environment
from pixelfit.errors import RunError
from pixelfit.files import read_json, write_json
from pixelfit.metrics import shown
from pixelfit.options import checked_options
from pixelfit.progress import Silent
from pixelfit.report.page import _command, page
from pixelfit.runs import RunFolder
from pixelfit.types import Label

SECTIONS = ["Summary", "Environment", "Data", "Preparation and split", "Models tried", "Evaluation on unseen data", "Final model"]


def html(run: Run) -> str:
    return run.folder.report_file.read_text(encoding="utf-8")


def test_sections_follow_the_template(regression_run: Run) -> None:
    titles = [re.sub(r"<.*?>", "", title).strip() for title in re.findall(r"<h2>(.*?)</h2>", html(regression_run))]
    assert [re.sub(r"^\d+ ", "", title) for title in titles] == SECTIONS


def test_nothing_is_fetched_and_only_its_own_scripts_may_run(regression_run: Run, classification_run: Run) -> None:
    for run in (regression_run, classification_run):
        page = html(run)
        policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page).group(1)  # type: ignore[union-attr]
        assert "default-src &#39;none&#39;" in policy or "default-src 'none'" in policy
        assert "unsafe-eval" not in policy
        assert not re.search(r"script-src[^;]*unsafe", policy)
        without_scripts = re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL)
        assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", without_scripts)
        assert "@import" not in page


def test_the_machine_is_told_with_its_instructions_where_the_run_has_them(regression_run: Run, tmp_path: Path) -> None:
    where = environment()
    assert f"({where['instructions']}), {where['cores']} cores" in html(regression_run)
    older = RunFolder(shutil.copytree(regression_run.folder.path, tmp_path / "older"))
    described = read_json(older.path / "run.json")
    del described["environment"]["instructions"]
    write_json(older.path / "run.json", described)
    report.draw(older)
    assert f"{where['processor']} , {where['cores']}" not in older.report_file.read_text(encoding="utf-8")
    assert f"{where['processor']}, {where['cores']} cores" in older.report_file.read_text(encoding="utf-8")


def test_hostile_labels_are_text(classification_run: Run) -> None:
    assert HOSTILE not in html(classification_run)
    assert "&lt;script&gt;document.title=" in html(classification_run)


def test_the_figures_are_those_of_scores_json(regression_run: Run) -> None:
    value = regression_run.scores.test["rmse"]
    assert f"RMSE <strong>{shown('rmse', value.value)}</strong>" in html(regression_run)
    assert f"95 % interval {shown('rmse', value.low)} to {shown('rmse', value.high)}" in html(regression_run)


def test_how_sure_the_model_is_stands_in_words_and_tables(regression_run: Run, classification_run: Run) -> None:
    part, reliability = regression_run.scores.intervals, classification_run.scores.reliability
    assert part is not None
    assert reliability is not None
    numbers, labels = html(regression_run), html(classification_run)
    for page_text in (numbers, labels):
        assert page_text.count("<h3>How sure is it?</h3>") == 1
    assert f'<td class="n">{shown("mae", part.mean_width)}</td><td class="n">{shown("mae", part.pinball)}</td>' in numbers
    assert f"{100 * part.covered.value:.1f} %" in numbers
    assert (
        f"{100 * reliability.error:.1f} % apart on average (before calibration {100 * reliability.error_before:.1f} %)" in labels
    )


def test_a_run_from_before_there_were_intervals_can_be_drawn(regression_run: Run, tmp_path: Path) -> None:
    folder = RunFolder(Path(shutil.copytree(regression_run.folder.path, tmp_path / "old")))
    for name, new in (("scores.json", ("metric", "intervals", "sets", "reliability")), ("facts.json", ("metric",))):
        record = folder.read(name)
        write_json(folder.path / name, {key: value for key, value in record.items() if key not in new})
    report.draw(folder)
    assert "How sure is it?" not in folder.report_file.read_text()


def test_rows_are_counted_and_add_up(tmp_path: Path) -> None:
    pictures, columns = bars(120)
    targets = np.where(np.arange(120) == 60, np.nan, columns / 2)
    pictures[7] = pictures[8]
    run = fit((pictures, targets), checked_options(trials=1, out=tmp_path / "run"), progress=Silent())
    facts, sizes = run.folder.read("facts.json"), run.folder.read("data.json")["sizes"]
    assert facts["rows_given"] == 120 == facts["rows"] + len(facts["left_out"])
    assert facts["rows"] == 119 == sum(sizes.values())
    drawn = " ".join(html(run).split())
    assert "120 given = 119 used + 1 left out; 119 used = " in drawn
    assert "row 60: no target in &#39;y&#39;" in drawn
    assert "2 pictures in 1 group have the same pixels" in drawn


def test_own_data_have_no_reference_figures(regression_run: Run) -> None:
    assert "AutoKeras" not in html(regression_run)


@pytest.mark.parametrize("labels", [(False, True), (1.5, 2.5), (3, 20), ("a", "b")], ids=str)
def test_the_distribution_shows_every_test_picture(labels: tuple[Label, Label], tmp_path: Path) -> None:
    pictures, columns = bars(60)
    targets = np.array(labels)[(columns > 4).astype(int)]
    options = checked_options(task="classification", trials=1, out=tmp_path / "run")
    run = fit((pictures, targets), options, progress=Silent())
    shown_counts = {
        renderer.data_source.data["split"][0]: sum(renderer.data_source.data["count"])
        for renderer in page(run.folder).charts["distribution"].renderers
    }
    assert shown_counts == run.folder.read("data.json")["sizes"]


def test_an_unfinished_run_has_no_report(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.write_run({})
    with pytest.raises(RunError, match="not finished"):
        report.draw(folder)
    assert not folder.report_file.exists()


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
def test_in_a_browser(
    width: int, chromium: str, classification_run: Run, regression_run: Run, numbers_run: Run, labels_run: Run
) -> None:
    from playwright.sync_api import sync_playwright

    switches = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=switches)
        for run, charts in ((regression_run, 7), (classification_run, 4), (numbers_run, 9), (labels_run, 4)):
            page = browser.new_page(viewport={"width": width, "height": 900})
            requests: list[str] = []
            complaints: list[str] = []
            page.on("request", lambda request, seen=requests: seen.append(request.url))
            page.on(
                "console", lambda line, seen=complaints: seen.append(line.text) if line.type in ("error", "warning") else None
            )
            page.on("pageerror", lambda error, seen=complaints: seen.append(str(error)))
            page.goto(run.folder.report_file.as_uri())
            page.wait_for_function(f"document.querySelectorAll('figure .bk-Figure, figure [class*=bk]').length >= {charts}")
            assert [url for url in requests if not url.startswith("data:")] == [run.folder.report_file.as_uri()]
            assert complaints == []
            assert "hacked" not in page.title()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.locator("figure").count() == charts
            page.close()
        browser.close()


def test_the_command_that_repeats_a_run_can_be_typed_again() -> None:
    run = {"source": "my pictures", "options": {"task": None, "budget": 90.0, "distill": True, "seed": 0, "out": "here"}}
    assert _command(run) == "pixelfit fit 'my pictures' --budget 90s --distill --seed 0"
    run["options"]["target"] = ["a, b", "c"]
    assert "--target 'a, b' --target c" in _command(run)
    run["options"]["distill"] = False
    assert "--distill" not in _command(run)
    assert "--seed 0" in _command(run)
