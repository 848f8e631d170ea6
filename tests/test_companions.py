from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest
import yaml
from conftest import HOSTILE, ROOT, bars, opened_copy
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from markdown_it import MarkdownIt

from pixelfit import report
from pixelfit.automl import Run, fit
from pixelfit.files import read_json
from pixelfit.metrics import shown
from pixelfit.options import checked_options
from pixelfit.progress import Silent
from pixelfit.report.card import model_card
from pixelfit.report.companions import draw_companions
from pixelfit.report.limits import limits
from pixelfit.report.markdown import bullets, code, table, text
from pixelfit.report.notebook import notebook
from pixelfit.report.saved import Saved, read
from pixelfit.runs import RunFolder
from pixelfit.types import Json

pytestmark = pytest.mark.charts

COMPANIONS = ("report.json", "model-card.md", "notebook.ipynb")
# What would be a script, a link, a picture, code, columns, an end of the head or of a line, if it were not text.
NASTY = [
    HOSTILE,
    "a|b",
    "[x](javascript:alert(1))",
    "![x](https://example.org/x.png)",
    "`x` **y** _z_ ~~w~~",
    "\\|",
    "---\nlibrary_name: other",
    "https://example.org www.example.org",
    "a: {b}",
]
RUNS = ("regression_run", "classification_run", "numbers_run", "labels_run")


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest) -> Run:
    """A run of each kind of target."""
    found: Run = request.getfixturevalue(request.param)
    return found


@pytest.mark.slow
def test_drawing_again_gives_the_same_bytes_wherever_the_folder_lies(run: Run, tmp_path: Path) -> None:
    moved = RunFolder(opened_copy(run.folder.path, tmp_path / "moved"))
    report.draw(moved)
    for name in COMPANIONS:
        assert (moved.path / name).read_bytes() == (run.folder.path / name).read_bytes()


@pytest.mark.slow
def test_the_record_says_what_the_run_scored(run: Run) -> None:
    record, scores = read_json(run.folder.path / "report.json"), run.folder.read("scores.json")
    assert record["format"] == 1
    assert {name: record[name] for name in ("task", "metric", "seed", "test", "baseline")} == {
        name: scores[name] for name in ("task", "metric", "seed", "test", "baseline")
    }
    assert sum(record["split"]["sizes"].values()) == record["data"]["rows"]
    assert [trial["rank"] for trial in record["leaderboard"]] == list(range(1, len(run.trials) + 1))
    assert sum(member["weight"] for member in record["members"]) == pytest.approx(1)
    assert record["members"][0]["trial"] in {trial["trial"] for trial in record["leaderboard"] if trial["weight"] > 0}
    assert all((run.folder.path / name).exists() for name in record["files"].values())
    json.dumps(record, allow_nan=False)


def test_a_run_from_before_there_were_some_files_has_companions(regression_run: Run, tmp_path: Path) -> None:
    older = RunFolder(opened_copy(regression_run.folder.path, tmp_path / "older"))
    for name in ("evidence.json", "suspects.json", "augmentation.json"):
        (older.path / name).unlink()
    draw_companions(read(older))
    record = read_json(older.path / "report.json")
    assert [record[name] for name in ("evidence", "suspects", "augmentation")] == [None, None, None]


def hand_made(names: list[str], **facts: Json) -> Saved:
    """A classification's records, as its files have them, with names that were chosen to do harm."""
    one, none = {"value": 0.9, "low": 0.85, "high": 0.95}, {"value": 0.2, "low": 0.1, "high": 0.3}
    loss, guess = {"value": 0.3, "low": 0.2, "high": 0.4}, {"value": 2.0, "low": 2.0, "high": 2.0}
    classes = list(names)
    count = len(classes)
    wrong = [[int(row == (column + 1) % count) + 9 * (row == column) for column in range(count)] for row in range(count)]
    finding = {"kind": "rare classes", "text": f"{names[0]} has few pictures.", "count": 1, "refs": [names[1]]}
    covered = [{"label": name, "rows": 10, "covered": none, "mean_size": 1.5} for name in names]
    trial = {
        "number": 1, "family": "convnet", "purpose": "portfolio", "recipe": {"family": "convnet", "head": "classes"}, "seed": 1,
        "state": "complete", "seconds": 2.0, "steps": 40, "epochs": 3.0, "parameters": 75_040, "score": 0.2, "folds": 1,
        "metrics": {"log_loss": 0.2, "accuracy": 0.91}, "predict_ms": 0.1, "error": None,
    }  # fmt: skip
    failed = {**trial, "number": 2, "state": "failed", "score": None, "metrics": {}, "error": names[0]}
    spec = {"height": 12, "width": 12, "channels": 1, "scale": "byte"}
    versions = {"pixelfit": "0.1.0", "torch": "2.13.0"}
    return Saved(
        folder=RunFolder(Path("run")),
        run={
            "source": names[0], "options": {"seed": 0, "target": names[1], "distill": False}, "budget_s": 60.0,
            "environment": {
                "python": "3.11", "system": "Linux", "processor": "x", "cores": 2, "memory_gib": 4.0, "gpu": None,
                "versions": versions,
            },
        },
        facts={
            "data": names[2], "target_name": names[1], "task": "classification", "task_reason": f"{names[0]!r} is text",
            "metric": "log_loss", "rows_given": 401, "rows": 400, "left_out": [{"ref": names[0], "reason": names[1]}],
            "spec": spec,
            "original_height": [12, 12], "original_width": [12, 12], "kinds": {"PNG L": 400}, "classes": classes,
            "target_range": None, "duplicate_groups": 1, "duplicate_rows": 2, "near_groups": 0, "near_rows": 0, "studied": False,
            "distinct_targets": count, "findings": [finding], **facts,
        },
        data={
            "split": f"by the column {names[0]}", "folds": 1, "sizes": {"train": 250, "validation": 50, "test": 100},
            "distribution": {"edges": None, "train": [20] * count, "validation": [5] * count}, "references": [],
        },
        scores={
            "task": "classification", "metric": "log_loss", "seed": 0, "rows": 100, "classes": classes, "confusion": wrong,
            "test": {"accuracy": one, "log_loss": loss}, "baseline": {"accuracy": none, "log_loss": guess}, "intervals": None,
            "sets": {"coverage": 0.9, "calibrated_on": 50, "covered": one, "mean_size": 1.2, "classes": covered},
            "reliability": {"error": 0.01, "error_before": 0.05, "bins": [], "bins_before": []},
        },
        timeline={"seconds": {"data": 1.0, "search": 30.0, "scoring": 31.0}, "interrupted": False},
        final={"distilled": False, "views": "single", "refitted": False, "why": "it was not tried"},
        trials=[trial, failed],
        weights={1: 1.0},
        pictures=[],
        suspects={"examined": 50, "suspects": [{"picture": names[0], "target": names[1], "prediction": names[2], "note": ""}]},
        evidence=None,
        augmentation=None,
        importance=None,
    )  # fmt: skip


def shown_text(markdown: str) -> tuple[str, str]:
    """What a reader sees of Markdown in GitHub's dialect, and the HTML that it is."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    html = tokens.render(markdown)
    inline = [token for token in tokens.parse(markdown) if token.type == "inline"]
    words = ["".join(child.content for child in token.children or []) for token in inline]
    return "\n".join(words), html


@pytest.mark.parametrize("name", NASTY)
def test_a_string_from_the_data_is_just_its_letters(name: str) -> None:
    seen, html = shown_text(f"It is {text(name)}.\n\n{table(['a', 'b'], [[text(name), '1']])}\n\n{bullets([f'x: {text(name)}'])}")
    letters = " ".join(name.split())
    assert not re.search(r"https?:|www\.", text(name))  # of which GitHub makes links
    assert seen.split("\n") == [f"It is {letters}.", "a", "b", letters, "1", f"x: {letters}"]
    assert not any(f"<{tag}" in html for tag in ("script", "a ", "img", "code", "strong", "em", "s>", "h", "hr"))


def test_code_cannot_end_its_fence() -> None:
    block = MarkdownIt().parse(code("a\n```\n<script>", "sh"))
    assert [token.content for token in block] == ["a\n```\n<script>\n"]


@pytest.mark.parametrize("first", range(len(NASTY)))
def test_hostile_names_are_text_everywhere_in_the_card(first: int) -> None:
    names = NASTY[first:] + NASTY[:first]
    card = model_card(hand_made(names))
    _, head, body = card.split("---\n", 2)
    assert list(yaml.safe_load(head)) == ["library_name", "pipeline_tag", "tags", "metrics", "model_name"]
    assert yaml.safe_load(head)["model_name"] == " ".join(names[2].split())
    seen, html = shown_text(body)
    assert not any(f"<{tag}" in html for tag in ("script", "a ", "img", "strong", "em>", "s>", "hr", "h1>x"))
    assert html.count("<h2>") == 9
    assert all(" ".join(name.split()) in seen for name in names)
    assert html.count("<table>") == len(
        [token for token in MarkdownIt().enable("table").parse(body) if token.type == "table_open"]
    )


@pytest.mark.slow
def test_the_card_says_what_the_run_scored(run: Run) -> None:
    card = (run.folder.path / "model-card.md").read_text(encoding="utf-8")
    for name, one in run.scores.test.items():
        low, high = shown(name, one.low), shown(name, one.high)
        assert f"| {shown(name, one.value)} | {low} – {high} | {shown(name, run.scores.baseline[name].value)} |" in card
    assert HOSTILE not in card
    assert str(run.folder.path) not in card.replace(str(run.folder.read("run.json")["source"]), "")


def test_limits_come_from_the_facts() -> None:
    told = " ".join(limits(hand_made(["cat", "dog", "pets"])))
    assert "tested on 100 pictures only" in told
    assert "Of some classes it has seen few pictures" in told
    assert "cat (25), dog (25), pets (25)" in told
    assert "lower for true class cat (20.0 %), dog (20.0 %), pets (20.0 %)" in told
    assert "1 target of 50 looked at may be wrong" in told
    assert "1 row of 401 could not be used" in told
    assert "baseline" not in told


def test_a_model_that_is_not_clearly_better_than_the_baseline_is_said_to_be_none() -> None:
    saved = hand_made(["cat", "dog", "pets"])
    saved.scores["test"]["log_loss"]["high"] = 2.1
    assert "do not show that it is better" in " ".join(limits(saved))


def test_what_the_model_was_not_calibrated_for_is_not_offered() -> None:
    saved = hand_made(["cat", "dog", "pets"])
    assert 'model.predict_sets(["picture.png"], coverage=0.9)' in model_card(saved)
    saved.scores["sets"] = None
    card = model_card(saved)
    assert "predict_sets" not in card
    assert "--coverage" not in card
    assert "too few validation pictures" in card


def sources(saved: Saved) -> dict[str, str]:
    """The notebook's cells by their ids."""
    written = notebook(saved)
    nbformat.validate(written)
    return {cell["id"]: "".join(cell["source"]) for cell in written["cells"]}


def assigned(source: str, name: str) -> Json:
    """What a cell gives a variable, or the variable's arguments where it is a call."""
    (value,) = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assign) and node.targets[0].id == name]  # type: ignore[attr-defined]
    if not isinstance(value, ast.Call):
        return ast.literal_eval(value)
    return [ast.literal_eval(each) for each in value.args] + [(each.arg, ast.unparse(each.value)) for each in value.keywords]


@pytest.mark.parametrize("first", range(len(NASTY)))
def test_hostile_names_are_literals_in_the_notebook_and_text_in_its_words(first: int) -> None:
    names = NASTY[first:] + NASTY[:first]
    cells = sources(hand_made(names))
    assert assigned(cells["source"], "SOURCE") == [names[0]]
    assert dict(assigned(cells["options"], "options")) == {"target": repr(names[1]), "seed": "0"}
    _, html = shown_text(cells["title"])
    assert not any(f"<{tag}" in html for tag in ("script", "a ", "img", "strong", "em>", "s>", "hr"))


@pytest.mark.slow
def test_every_cell_of_every_kind_is_python(run: Run) -> None:
    written = run.folder.read("notebook.ipynb")
    nbformat.validate(written)
    for cell in written["cells"]:
        if cell["cell_type"] == "code":
            ast.parse("".join(cell["source"]))


def test_options_are_those_of_the_run() -> None:
    saved = hand_made(["cat", "dog", "pets"])
    saved.run["options"] |= {
        "budget": 90.0,
        "max_latency": 5.0,
        "distill": True,
        "target": ["a", "b"],
        "weights": "w.pt",
        "out": "x",
    }
    options = dict(assigned(sources(saved)["options"], "options"))
    assert options == {
        "seed": "0", "target": "['a', 'b']", "distill": "True", "budget": "'90s'", "max_latency": "5.0",
        "weights": "place('w.pt')",
    }  # fmt: skip
    chosen = {name: ast.literal_eval(value) for name, value in options.items() if name != "weights"}
    assert checked_options(**chosen).budget == 90
    assert checked_options(**chosen).max_latency == 5


def test_where_arrays_go_is_marked() -> None:
    saved = hand_made(["cat", "dog", "pets"])
    saved.run["source"] = None
    saved.run["options"]["test"] = "(arrays)"
    cells = sources(saved)
    assert "Put your data here" in cells["source-words"]
    assert "401 pictures" in cells["source"]
    assert ("test", "TEST") in assigned(cells["options"], "options")
    for name in ("source", "test"):
        with pytest.raises(ValueError, match="in this cell"):
            exec(compile(cells[name], name, "exec"), {})


@pytest.mark.parametrize(
    ("out", "home"), [(None, "../.."), ("mine", ".."), ("a/b/c", "../../.."), ("/tmp/mine", None), ("../mine", None)], ids=str
)
def test_relative_paths_count_from_where_the_run_was_started(out: str | None, home: str | None) -> None:
    saved = hand_made(["cat", "dog", "pets"])
    saved.run["options"]["out"] = out
    (line,) = [line for line in sources(saved)["where"].splitlines() if line.startswith("HOME")]
    assert line.startswith("HOME = RUN  # set this" if home is None else f"HOME = RUN / {home!r} ")


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AsyncKernelManager]:
    """One Python for all notebooks, which takes longer to load torch than to run them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
        patched.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        manager = AsyncKernelManager(kernel_name="python3")
        run_sync(manager.start_kernel)()
    yield manager
    run_sync(manager.shutdown_kernel)(now=True)


def executed(run: Run, kernel: AsyncKernelManager) -> dict[str, list[Json]]:
    """What each cell of the run's notebook puts out, where no variable is left of another notebook."""
    written = nbformat.read(run.folder.path / "notebook.ipynb", as_version=4)
    forget = f"get_ipython().run_line_magic('reset', '-f')\nimport os\nos.chdir({str(run.folder.path.absolute())!r})\ndel os"
    written["cells"].insert(0, nbformat.v4.new_code_cell(forget, id="forget"))
    client = nbclient.NotebookClient(written, timeout=200, km=kernel)
    try:
        done = client.execute()
    finally:
        client.kc.stop_channels()
    return {cell["id"]: cell["outputs"] for cell in done["cells"] if cell["cell_type"] == "code"}


@pytest.mark.long("a run, and the same run again in a kernel")
@pytest.mark.slow
@pytest.mark.full_size  # as the kernel's, which fits again
@pytest.mark.parametrize(
    "kind", ["number", "label", *(pytest.param(kind, marks=pytest.mark.exhaustive) for kind in ("numbers", "labels"))]
)
def test_the_notebook_runs(kind: str, kernel: AsyncKernelManager, tmp_path: Path) -> None:
    pictures, columns = bars(150)
    both = np.column_stack([columns > 4, columns % 2])
    targets = {"number": columns / 2, "numbers": both + 0.1, "label": np.array(["$a$", HOSTILE])[both[:, 0]], "labels": both}
    np.savez(tmp_path / "bars.npz", x=pictures, y=targets[kind])
    options = checked_options(trials=2, steps=20, folds=1, out=Path("runs") / "first")
    run = fit("bars.npz", options, progress=Silent())
    outputs = executed(run, kernel)
    for name, form in (("look", "png"), ("plot", "png"), ("evaluate", "html"), ("sureness", "html"), ("load", "html")):
        assert any(f"{'image' if form == 'png' else 'text'}/{form}" in output.get("data", {}) for output in outputs[name]), name
    html = [output["data"]["text/html"] for each in outputs.values() for output in each if "text/html" in output.get("data", {})]
    assert HOSTILE not in "".join(html)
    assert all("tex2jax_ignore" in table for table in html)  # dollar signs make no formula
    again = RunFolder(run.folder.path / "runs" / "bars")
    assert again.read("facts.json") == run.folder.read("facts.json")
    assert again.read("scores.json")["test"] == run.folder.read("scores.json")["test"]
