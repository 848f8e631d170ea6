"""Runs side by side, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from browsing import opened
from conftest import HOSTILE
from test_compare import copied
from typer.testing import CliRunner

from pixelfit.automl import Run
from pixelfit.cli import app
from pixelfit.types import Json

pytestmark = pytest.mark.browser


def test_the_page_in_a_browser(browser: Json, classification_run: Run, labels_run: Run, numbers_run: Run, tmp_path: Path) -> None:
    same = copied(classification_run, tmp_path / HOSTILE.replace("/", "|"))
    runs = [str(run.folder.path) for run in (classification_run, labels_run, numbers_run)]
    assert CliRunner().invoke(app, ["compare", *runs, str(same), "-o", "all.html"]).exit_code == 0
    for width in (390, 1440):
        page, complaints, strange = opened(browser, (tmp_path / "all.html").as_uri(), width)
        assert page.locator("h2").all_inner_texts() == ["Can they be told apart?", "Side by side"]
        assert page.locator("thead th").count() == 5
        assert HOSTILE.replace("/", "|") in page.locator("main").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert (complaints, strange) == ([], [])
        assert "hacked" not in page.title()
        page.close()
