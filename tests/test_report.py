from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import HOSTILE, bars, opened_copy

from pixelfit import report
from pixelfit.automl import Run, fit
from pixelfit.environment import environment
from pixelfit.errors import RunError
from pixelfit.files import read_json, write_json
from pixelfit.metrics import shown
from pixelfit.options import checked_options
from pixelfit.progress import Silent
from pixelfit.report.page import page
from pixelfit.report.repeat import command, energy
from pixelfit.report.saved import read
from pixelfit.runs import RunFolder
from pixelfit.types import Label

pytestmark = pytest.mark.charts

QUESTIONS = [
    "How good is it?",
    "Can I trust it?",
    "Where does it fail?",
    "What was tried?",
    "Would more data or more time help?",
    "What does it look at?",
    "How do I use and repeat it?",
]
STEPS = ["Environment", "Data", "Preparation and split", "Models tried", "Evaluation on unseen data", "Final model"]


def html(run: Run) -> str:
    return run.folder.report_file.read_text(encoding="utf-8")


def test_it_answers_the_questions_in_order_and_then_follows_the_steps(regression_run: Run) -> None:
    titles = [re.sub(r"<.*?>", "", title).strip() for title in re.findall(r"<h2>(.*?)</h2>", html(regression_run))]
    assert [re.sub(r"^\d+ ", "", title) for title in titles] == [*QUESTIONS, *STEPS]


def test_the_contents_lead_to_every_section(regression_run: Run) -> None:
    sections = re.findall(r'<section id="(\w+)">', html(regression_run))
    assert re.findall(r'href="#(\w+)"', html(regression_run).partition("</nav>")[0]) == sections


def test_drawing_again_gives_the_same_bytes(regression_run: Run, classification_run: Run) -> None:
    for run in (regression_run, classification_run):
        before = run.folder.report_file.read_bytes()
        report.draw(run.folder)
        assert run.folder.report_file.read_bytes() == before


def test_energy_is_that_of_cores_and_memory() -> None:
    machine = {"cores": 2, "memory_gib": 8.0, "gpu": None}
    assert energy(machine, 3600.0).startswith("about 27 Wh, ")  # 24 + 8 × 0.3725
    assert energy({**machine, "gpu": "H100"}, 3600.0 * 1000).startswith("about 27 kWh, ")
    assert "graphics card" in energy({**machine, "gpu": "H100"}, 1.0)


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
    older = RunFolder(opened_copy(regression_run.folder.path, tmp_path / "older"))
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
    folder = RunFolder(opened_copy(regression_run.folder.path, tmp_path / "old"))
    for name, new in (("scores.json", ("metric", "intervals", "sets", "reliability")), ("facts.json", ("metric",))):
        record = folder.read(name)
        write_json(folder.path / name, {key: value for key, value in record.items() if key not in new})
    report.draw(folder)
    assert "How sure is it?" not in folder.report_file.read_text()


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("labels", [(False, True), (1.5, 2.5), (3, 20), ("a", "b")], ids=str)
def test_the_distribution_shows_every_test_picture(labels: tuple[Label, Label], tmp_path: Path) -> None:
    pictures, columns = bars(60)
    targets = np.array(labels)[(columns > 4).astype(int)]
    options = checked_options(task="classification", trials=1, out=tmp_path / "run")
    run = fit((pictures, targets), options, progress=Silent())
    shown_counts = {
        renderer.data_source.data["split"][0]: sum(renderer.data_source.data["count"])
        for renderer in page(read(run.folder)).charts["distribution"].renderers
    }
    assert shown_counts == run.folder.read("data.json")["sizes"]


def test_an_unfinished_run_has_no_report(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.write_run({})
    with pytest.raises(RunError, match="not finished"):
        report.draw(folder)
    assert not folder.report_file.exists()


def test_the_command_that_repeats_a_run_can_be_typed_again() -> None:
    run = {"source": "my pictures", "options": {"task": None, "budget": 90.0, "distill": True, "seed": 0, "out": "here"}}
    assert command(run) == "pixelfit fit 'my pictures' --budget 90s --distill --seed 0"
    run["options"]["target"] = ["a, b", "c"]
    assert "--target 'a, b' --target c" in command(run)
    run["options"]["distill"] = False
    assert "--distill" not in command(run)
    assert "--seed 0" in command(run)
