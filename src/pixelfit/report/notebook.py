"""``notebook.ipynb``: the steps of a run as code, for those who go on from there. Plain JSON in nbformat 4.5."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from pixelfit.report.card import calls
from pixelfit.report.markdown import code, text
from pixelfit.report.repeat import command
from pixelfit.report.saved import Saved
from pixelfit.types import TASK_WORDS, Json, Kind
from pixelfit.words import number_of

_OF_PATHS = ("source", "test", "weights", "data_dir")  # options whose value is a path, or a name
_NO_NAME = "(arrays)"  # how run.json tells of a test set that is none


def notebook(saved: Saved) -> Json:
    """The notebook, not executed. Strings from the data are literals in its code, and text in its Markdown."""
    pieces: list[tuple[str, str]] = [
        ("title", _title(saved)),
        ("where", _WHERE.format(home=_home(saved.run["options"].get("out")))),
        *_source(saved.run, saved.facts),
        ("options", _options(saved.run["options"])),
        ("data-words", "## The data\n\nRead, looked through and split as in the run."),
        ("data", _DATA),
        ("look", _LOOK),
        ("fit-words", _fit_words(saved)),
        ("fit", _FIT),
        (
            "evaluate-words",
            "## Evaluation\n\nOn the test set, which nothing before this has looked at. Beside it what the run scored.",
        ),
        ("evaluate", _EVALUATE),
        ("predict", _PREDICT),
        ("plot", _PLOTS[saved.kind]),
        ("mistakes-words", "## The worst mistakes"),
        ("mistakes", _MISTAKES),
        ("sureness-words", _SURENESS_WORDS[saved.kind]),
        ("sureness", _SURENESS),
        (
            "load-words",
            "## The model that the run saved\n\nMeasured again on the same test set, it scores what the run wrote down.",
        ),
        ("load", _LOAD),
        ("own-words", "For pictures of your own:\n\n" + code("\n".join(calls(saved, "saved")), "python")),
    ]
    return {
        "cells": [_cell(name, content) for name, content in pieces],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _cell(name: str, content: str) -> Json:
    lines = content.strip("\n").splitlines(keepends=True)
    if name == "title" or name.endswith("-words"):
        return {"cell_type": "markdown", "id": name, "metadata": {}, "source": lines}
    return {"cell_type": "code", "execution_count": None, "id": name, "metadata": {}, "outputs": [], "source": lines}


def _title(saved: Saved) -> str:
    task = saved.facts["task"]
    return (
        f"# {text(saved.facts['data'])}: image {TASK_WORDS.get(task, task)}\n\n"
        "The steps of the run in whose folder this notebook lies, as code against pixelfit's API. The run was made by\n\n"
        f"{code(command(saved.run), 'sh')}\n\n"
        f"with pixelfit {text(saved.version)}."
    )


def _home(out: str | None) -> str:
    """The folder where the run was started, as seen from the run's; the run's own where that cannot be known."""
    path = PurePath("runs/run" if out is None else out)  # without --out it is a new one below runs/
    if path.is_absolute() or ".." in path.parts:
        return "RUN  # set this to the folder from which the run was started, if its paths are relative"
    return (
        f"RUN / {'/'.join('..' for _ in path.parts)!r}  # the folder from which the run was started: relative paths count from it"
    )


def _source(run: Json, facts: Json) -> list[tuple[str, str]]:
    pieces = []
    if run["source"] is not None:
        # A named data set stays one, also where a folder has its name.
        literal = repr(run["source"]) if facts["studied"] else _literal("source", run["source"])
        pieces.append(("source", f"SOURCE = {literal}"))
    else:
        pieces.append(("source-words", _NAMELESS_WORDS))
        pieces.append(("source", _NAMELESS.format(rows=number_of(facts["rows_given"], "picture"))))
    if run["options"].get("test") == _NO_NAME:
        pieces.append(("test-words", "**Put your test set here**, too: it was made of arrays, which the run does not keep."))
        pieces.append(("test", _NAMELESS_TEST))
    return pieces


def _options(options: Json) -> str:
    """The run's options but for its folder and where it was tracked, as ``checked_options`` takes them."""
    lines = []
    for name, value in options.items():
        if name in ("out", "track") or value is None or value is False:
            continue
        lines.append(f"    {name}={_literal(name, value)},\n")
    return f"from pixelfit.options import checked_options\n\noptions = checked_options(\n{''.join(lines)})"


def _literal(name: str, value: Json) -> str:
    if name in _OF_PATHS:
        return "TEST" if value == _NO_NAME else f"place({value!r})"
    return repr(f"{value:g}s") if name == "budget" else repr(value)


def _fit_words(saved: Saved) -> str:
    options = saved.run["options"]
    if saved.run["budget_s"] is not None:
        effort = f"That takes up to {saved.run['budget_s']:g} s; a smaller `budget` among the options shortens it."
    else:
        effort = f"That makes {number_of(options['trials'], 'trial')} again, and on the same machine the same models."
    return (
        f"## Search and training\n\nThe whole flow again with the run's options and seed, into a run folder of its own. {effort}"
    )


_WHERE = """
from pathlib import Path

RUN = Path()  # the run's folder, where this notebook lies
HOME = {home}


def place(name):
    \"\"\"A path of the run; a name that is no path stays what it is.\"\"\"
    return str(HOME / name) if (HOME / name).exists() else name
"""
_NAMELESS_WORDS = (
    "**Put your data here.** The run was made from arrays or another object in memory, which have no name and are not kept in "
    "its folder."
)
_NAMELESS = """
X = None  # {rows}: an array (N, H, W) or (N, H, W, C), or a list of paths
y = None  # as many targets

if X is None or y is None:
    raise ValueError("Put the pictures and targets of the run into X and y, in this cell.")
SOURCE = (X, y)  # or a DataFrame, or a Dataset, if the run was made from one
"""
_NAMELESS_TEST = """
TEST = None  # a pair such as (X_test, y_test)

if TEST is None:
    raise ValueError("Put the pictures and targets of the run's test set into TEST, in this cell.")
"""
_DATA = """
from pixelfit.data.reading import read
from pixelfit.progress import Silent

facts, splits = read(SOURCE, options, Silent())
print(f"{facts.rows:,} of {facts.rows_given:,} pictures are used. The task is {facts.task}: {facts.task_reason}.")
print({**{name: len(part) for name, part in splits.development.items()}, "test": len(splits.test)})
for finding in facts.findings:
    print(f"{finding.kind}: {finding.text}")
"""
_LOOK = """
import matplotlib.pyplot as plt
import numpy as np
from pixelfit.data.describe import samples
from pixelfit.words import value_words


def pixels(picture):
    \"\"\"Values from 0 to 1, stretched where pictures may have any range.\"\"\"
    values = picture.astype(float)
    if facts.spec.scale in ("byte", "unit"):
        values = values / 255
    else:
        values = (values - values.min()) / max(np.ptp(values), 1e-12)
    values = values.clip(0, 1)
    return values[..., :3] if values.shape[2] >= 3 else values[..., 0]


def show(pictures, columns=6):
    \"\"\"Draw pictures, each below what is known of it.\"\"\"
    rows = max(1, -(-len(pictures) // columns))
    figure, axes = plt.subplots(rows, columns, figsize=(2 * columns, 2.4 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, each in zip(axes.flat, pictures):
        title = value_words(each.target)
        if each.prediction is not None:
            title = f"{title}\\npredicted {value_words(each.prediction)}"
        axis.imshow(pixels(each.picture), cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, fontsize=8, parse_math=False)
    plt.show()


show(samples(splits.train, facts)[:18])
"""
_FIT = """
from pixelfit.automl import fit

run = fit(SOURCE, options, progress=Silent())
print(f"{len(run.trials)} trials in {run.wall_s:.0f} s; the report is {run.folder.report_file}")
"""
_EVALUATE = """
import json

import pandas as pd

pd.set_option("display.html.use_mathjax", False)  # a name with dollar signs is no formula
before = json.loads((RUN / "scores.json").read_text(encoding="utf-8"))["test"]
pd.DataFrame(
    [
        {
            "metric": name,
            "value": one.value,
            "low": one.low,
            "high": one.high,
            "baseline": run.scores.baseline[name].value,
            "the run had": before[name]["value"] if name in before else None,
        }
        for name, one in run.scores.test.items()
    ]
)
"""
_PREDICT = """
test = splits.test.open()  # once; what is chosen after looking at it cannot be measured on it
forecast = run.predictor.forecast(test.store, test.rows)
"""
_PLOT_NUMBERS = """
names = facts.target_names or (facts.target_name,)
columns = list(zip(names, np.atleast_2d(test.targets.T), np.atleast_2d(forecast.raw.T)))[:6]
figure, axes = plt.subplots(1, len(columns), figsize=(5 * len(columns), 5), squeeze=False)
for axis, (name, true, predicted) in zip(axes.flat, columns):
    ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
    axis.plot(ends, ends, color="grey", linewidth=1)  # where predictions are right
    axis.scatter(true, predicted, s=8, alpha=0.5)
    axis.set_xlabel(f"true {name}", parse_math=False)
    axis.set_ylabel(f"predicted {name}", parse_math=False)
plt.show()
"""
_PLOTS: Mapping[Kind, str] = {
    "number": _PLOT_NUMBERS,
    "numbers": _PLOT_NUMBERS,
    "label": """
from pixelfit.metrics import confusion_matrix

counts = confusion_matrix(test.targets, forecast.raw)
names = [str(label) for label in facts.classes]
figure, axis = plt.subplots(figsize=(6, 6))
shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
axis.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
axis.set_yticks(range(len(names)), names, parse_math=False)
axis.set_xlabel("predicted")
axis.set_ylabel("true")
if len(names) <= 25:
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if shares[row, column] > 0.5 else "black"
        axis.text(column, row, count, ha="center", va="center", fontsize=7, color=color)
plt.show()
""",
    "labels": """
from pixelfit.metrics import LIKELY

names = [str(label) for label in facts.classes]
true, predicted = test.targets == 1, forecast.raw >= LIKELY
figure, axis = plt.subplots(figsize=(8, 4))
for place, (title, counts) in enumerate({"true": true, "predicted": predicted, "both": true & predicted}.items()):
    axis.bar(np.arange(len(names)) + 0.25 * place, counts.sum(axis=0), width=0.25, label=title)
axis.set_xticks(np.arange(len(names)) + 0.25, names, rotation=90, parse_math=False)
axis.set_ylabel("test pictures")
axis.legend()
plt.show()
""",
}
_MISTAKES = """
from pixelfit.mistakes import drawn, worst

rows = worst(facts, test.targets, forecast.raw)[:12]
if len(rows):
    show(drawn("worst", rows, test, forecast.raw, facts))
else:
    print("There are none: every test picture was predicted right.")
"""
_SURENESS_WORDS: Mapping[Kind, str] = {
    "number": "## How sure it is\n\n90 % of pictures should have their true value between `low` and `high`.",
    "numbers": "## How sure it is\n\nOf each target, 90 % of pictures should have their true value between `low` and `high`.",
    "label": "## How sure it is\n\n90 % of pictures should have their true class in `set`; and the probability of each class.",
    "labels": "## How sure it is\n\nThe probability of each label.",
}
_SURENESS = """
from pixelfit.predictor import COVERAGE

answers = run.predictor.answers
sureness = run.predictor.sureness_columns(forecast, COVERAGE) if run.predictor.allows(COVERAGE) else {}
columns = [*answers.known(test.targets), *answers.said(forecast.raw, alone=False), *sureness.items()]
pd.DataFrame(dict([*columns, *answers.shares(forecast.raw)]), index=test.refs).head(10)
"""
_LOAD = """
import pixelfit
from pixelfit.metrics import measure

saved = pixelfit.load(RUN)
now = measure(facts, test.targets, saved.raw(test.store, test.rows))
pd.DataFrame([{"metric": name, "now": now[name], "in scores.json": one["value"]} for name, one in before.items()])
"""
