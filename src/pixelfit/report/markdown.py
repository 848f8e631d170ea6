"""Markdown made of strings from data, which stay text in it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

# What Markdown gives a meaning to, in GitHub's dialect too: emphasis, code, links, tables, mentions, formulas, bare addresses and
# names of pictograms. Escaped is just that, since people read a card's source as well; an underscore within a word means nothing.
_MEANT = re.compile(r"[\\`*\[\]#|~$@]|(?<![^\W_])_|_(?![^\W_])|:(?=\S)|(?<=www)\.", re.IGNORECASE)
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
_JOINERS = "\u200c\u200d"  # invisible, but scripts need them


def clean(value: object) -> str:
    """A value in one line: what cannot be printed, such as a line's end or what turns the direction of writing, is a space."""
    kept = "".join(letter if letter.isprintable() or letter in _JOINERS else " " for letter in str(value))
    return " ".join(kept.split())


def text(value: object) -> str:
    """A value as Markdown, also within a table, that shows just its letters; it must not begin a line."""
    marked = _MEANT.sub(lambda found: f"\\{found[0]}", clean(value))
    return "".join(_ENTITIES.get(letter, letter) for letter in marked)


def quoted(value: object) -> str:
    """A value as a string of YAML, which takes those of JSON."""
    return json.dumps(clean(value), ensure_ascii=False)


def code(content: str, language: str) -> str:
    """A block of code, with a fence that the content cannot close."""
    longest = max((len(run) for run in re.findall("`+", content)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{content}\n{fence}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], sides: str = "") -> str:
    """A table whose cells are Markdown already.

    ``sides`` has an ``l`` or ``r`` for each column; without it the first is of names, at the left, and the others are of numbers.
    """
    marks = {"l": "---", "r": "---:"}
    lines = [head, [marks[side] for side in sides or "l" + "r" * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bullets(sentences: Sequence[str]) -> str:
    """A list, a sentence each; they are Markdown already."""
    return "\n".join(f"- {sentence}" for sentence in sentences)
