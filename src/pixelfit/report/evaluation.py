"""How good the model is on unseen pictures, as the model card tells it. The paragraphs are Markdown."""

from __future__ import annotations

import numpy as np

from pixelfit.metrics import TITLES, cost, percent, shown
from pixelfit.report.evidence import evidence_section
from pixelfit.report.markdown import table, text
from pixelfit.report.saved import Saved
from pixelfit.report.sureness import sureness_section
from pixelfit.report.targets import each_table, view_of
from pixelfit.types import Json
from pixelfit.words import number_of, value_words

_CONFUSED, _EACH_SHOWN = 10, 50


def evaluation(saved: Saved) -> list[str]:
    """The paragraphs and tables, the main scores first."""
    return [*_scores(saved), *_references(saved), *_each(saved), *_confused(saved), *_sureness(saved), *_parts(saved)]


def _scores(saved: Saved) -> list[str]:
    scores = saved.scores
    rows = [
        [TITLES[name], shown(name, one["value"]), _span(name, one), shown(name, scores["baseline"][name]["value"])]
        for name, one in scores["test"].items()
    ]
    note = view_of(saved.facts).note
    return [
        f"On {number_of(scores['rows'], 'picture')} that no part of the search had seen, measured once. The intervals are 95 % "
        "bootstrap intervals over these pictures; the baseline gives every picture the same answer.",
        table(["metric", "value", "95 % interval", "baseline"], rows),
        *([text(note)] if note else []),
    ]


def _span(name: str, interval: Json) -> str:
    return f"{shown(name, interval['low'])} – {shown(name, interval['high'])}"


def _references(saved: Saved) -> list[str]:
    test = saved.scores["test"]
    return [
        f"For comparison, {text(one['name'])} ({text(one['note'])}): "
        + ", ".join(f"{TITLES[name]} {shown(name, value)}" for name, value in one["metrics"].items() if name in test)
        + "."
        for one in saved.data["references"]
    ]


def _each(saved: Saved) -> list[str]:
    """Each of several targets or labels by itself."""
    drawn = each_table(saved.scores)
    if drawn is None:
        return []
    more = len(drawn["rows"]) - _EACH_SHOWN
    rest = [f"{more:,} more are in `scores.json`."] if more > 0 else []
    return [f"### {drawn['title']}", _escaped(drawn, _EACH_SHOWN), text(drawn["note"]), *rest]


def _confused(saved: Saved) -> list[str]:
    """The pairs of classes that are taken for each other most often; nothing where no picture was wrong."""
    if saved.scores["confusion"] is None:
        return []
    counts, labels = np.array(saved.scores["confusion"]), saved.facts["classes"]
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSED]
    pairs = [(i, j) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True) if wrong[i, j]]
    rows = [[text(labels[i]), text(labels[j]), f"{wrong[i, j]:,}", f"{counts[i].sum():,}"] for i, j in pairs]
    head = ["true class", "predicted", "pictures", "of this class"]
    return ["### Most often confused", table(head, rows, "llrr")] if rows else []


def _sureness(saved: Saved) -> list[str]:
    section = sureness_section(saved.scores)
    if section is None:
        return []
    paragraphs = ["### How sure it is", text(section["lead"]), *_worst_covered(saved)]
    for one in section["tables"]:
        paragraphs += [_escaped(one, _EACH_SHOWN), text(one["note"])]
    return paragraphs


def _worst_covered(saved: Saved) -> list[str]:
    """Where intervals or sets hold the truth least often: in which part of a target's range, or for which class."""
    if saved.scores.get("sets"):
        return [_least("sets of classes", one, text(one["label"])) for one in saved.scores["sets"]["classes"][:1]]
    sentences = []
    for name, part in saved.intervals():
        one = min(part["ranges"], key=lambda each: (each["covered"]["value"], each["low"]))
        low, high = value_words(one["low"]), value_words(one["high"])
        of = f" for {text(name)}" if saved.kind == "numbers" else ""
        sentences.append(_least(f"intervals{of}", one, f"true values of {low}" + (f" to {high}" if high != low else "")))
    return sentences


def _least(what: str, part: Json, where: str) -> str:
    covered = part["covered"]
    return (
        f"The {what} held the truth least often for {where}: in {percent(covered['value'])} "
        f"[{100 * covered['low']:.1f}, {100 * covered['high']:.1f}] of {number_of(part['rows'], 'picture')}."
    )


def _parts(saved: Saved) -> list[str]:
    """Of each way to part the test set the part with the worst score, and whether the test set is like the rest."""
    section = evidence_section(saved.evidence, saved.scores)
    if section is None:
        return []
    rows = []
    for slicing in saved.evidence["slicings"]:
        name, unit = slicing["metric"], f", {slicing['unit']}" if slicing["unit"] else ""
        one = max(slicing["slices"], key=lambda each: cost(slicing["metric"], each["score"]["value"]))
        figures = [f"{one['rows']:,}", shown(name, one["score"]["value"]), _span(name, one["score"])]
        rows.append([text(f"{slicing['by']}{unit}"), text(one["name"]), *figures])
    paragraphs = [
        "### Its worst parts",
        f"Overall {section['metric']} is {section['overall']}. The parts where it is worst, some of them by chance:",
    ]
    paragraphs += [table(["by", "part", "pictures", section["metric"], "95 % interval"], rows, "llrrr")]
    return [*(paragraphs if rows else []), "### Is the test set like the rest?", text(section["likeness"])]


def _escaped(drawn: Json, most: int) -> str:
    """A table of plain strings."""
    return table([text(name) for name in drawn["head"]], [[text(cell) for cell in row] for row in drawn["rows"][:most]])
