"""What a model must not be trusted with, in plain words, from its run's facts. The sentences are Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pixelfit.metrics import TITLES, cost, percent, shown
from pixelfit.report.markdown import text
from pixelfit.report.saved import Saved
from pixelfit.types import Json
from pixelfit.words import number_of, value_words

_FEW_IN_TEST = 200
_FEW_OF_A_CLASS = 30  # development pictures
_NAMED = 8


def limits(saved: Saved) -> list[str]:
    """The sentences, those about the scores first."""
    return [*_of_scores(saved), *_of_sureness(saved), *_of_data(saved), *_always(saved)]


def _of_scores(saved: Saved) -> Iterator[str]:
    rows, name = saved.scores["rows"], saved.ranked_by
    value, baseline = saved.scores["test"][name], saved.scores["baseline"][name]["value"]
    if rows < _FEW_IN_TEST:
        yield f"It was tested on {number_of(rows, 'picture')} only, so its scores are rough: mind their intervals."
    if max(cost(name, value["low"]), cost(name, value["high"])) >= cost(name, baseline):
        yield (
            f"The interval of its {TITLES[name]} reaches the baseline's {shown(name, baseline)}: these test pictures do not show "
            "that it is better than a model that does not look at pictures."
        )
    yield from _worse_parts(saved)
    if saved.timeline["interrupted"]:
        yield "The search was ended early, so a longer one may find a better model."
    yield from sittings(saved)


def sittings(saved: Saved) -> list[str]:
    """What there is to say of a run that was broken off and gone on with."""
    found = []
    if (count := saved.timeline.get("sittings", 1)) > 1:
        found.append(f"The run was broken off and gone on with: it took {count} sittings, whose times are added.")
    if (saved.search or {}).get("reopened"):
        found.append(
            "Its user ended the search, had it measured on the test set, and then let it go on. The search never sees the test "
            "set, but whoever goes on because of a score makes the next one look a little better than it is."
        )
    return found


def _worse_parts(saved: Saved) -> Iterator[str]:
    for slicing in (saved.evidence or {}).get("slicings", ()):
        name = slicing["metric"]
        overall = saved.scores["test"][name]["value"]
        worse = [
            f"{text(each['name'])} ({shown(name, each['score']['value'])})"
            for each in slicing["slices"]
            if min(cost(name, each["score"]["low"]), cost(name, each["score"]["high"])) > cost(name, overall)
        ]
        if worse:
            unit = f" ({text(slicing['unit'])})" if slicing["unit"] else ""
            yield (
                f"By {text(slicing['by'])}{unit} its {TITLES[name]} is worse than the overall {shown(name, overall)} "
                f"at {_named(worse)}."
            )


def _of_sureness(saved: Saved) -> Iterator[str]:
    if "intervals" not in saved.scores or saved.kind == "labels":
        return
    sets = saved.scores["sets"]
    parts = list(saved.intervals()) if saved.facts["task"] == "regression" else [("", sets)] if sets is not None else []
    what = "intervals" if saved.facts["task"] == "regression" else "sets of classes"
    if not parts:
        yield f"There were too few validation pictures to calibrate {what}: how far off a single prediction may be is unknown."
    for name, part in parts:
        of = f" for {text(name)}" if saved.kind == "numbers" else ""
        if part["covered"]["high"] < part["coverage"]:
            yield (
                f"Its {100 * part['coverage']:g} % {what}{of} held the truth in {percent(part['covered']['value'])} of the test "
                "pictures, which is less than chance explains."
            )
        short = [
            f"{_part_name(one)} ({percent(one['covered']['value'])})"
            for one in part.get("ranges", part.get("classes", ()))
            if one["covered"]["high"] < part["coverage"]
        ]
        if short:
            where = "true values of " if "ranges" in part else "true class "
            yield f"The coverage of its {what}{of} is promised on average only, and lower for {where}{_named(short)}."


def _part_name(part: Json) -> str:
    if "label" in part:
        return text(part["label"])
    low, high = value_words(part["low"]), value_words(part["high"])
    return low if low == high else f"{low} to {high}"


def _of_data(saved: Saved) -> Iterator[str]:
    facts, doubtful = saved.facts, saved.suspects
    rare = sorted((count, place) for place, count in enumerate(_developed_on(saved)) if count < _FEW_OF_A_CLASS)
    if rare:
        names = [f"{text(facts['classes'][place])} ({count:,})" for count, place in rare]
        yield f"Of some classes it has seen few pictures, and may not know them: {_named(names)}."
    if facts["duplicate_rows"] or facts["near_rows"]:
        yield (
            f"Of its data {number_of(facts['duplicate_rows'], 'picture')} have the same pixels as others and "
            f"{facts['near_rows']:,} nearly so; each group was kept on one side of the split, but the data are less varied than "
            "they are many."
        )
    if facts["left_out"]:
        yield f"{number_of(len(facts['left_out']), 'row')} of {facts['rows_given']:,} could not be used and were left out."
    if doubtful and doubtful["suspects"]:
        found = number_of(len(doubtful["suspects"]), "target")
        yield f"{found} of {doubtful['examined']:,} looked at may be wrong: the model has learned from such, too."
    likeness = (saved.evidence or {}).get("likeness")
    if likeness and likeness["telling"]:
        telling = ", ".join(map(text, likeness["telling"]))
        yield f"Test and development pictures differ, most of all in {telling}: the score may not hold for either alone."


def _developed_on(saved: Saved) -> list[int]:
    """How many pictures of each class the model could learn from; nothing where there are no classes."""
    if not saved.facts["classes"]:
        return []
    parts = [saved.data["distribution"].get(name) for name in ("train", "validation", "development")]
    return [sum(counts) for counts in zip(*(part for part in parts if part is not None), strict=True)]


def _always(saved: Saved) -> Iterator[str]:
    facts = saved.facts
    spec = facts["spec"]
    yield f"It sees pictures at {spec['height']} × {spec['width']} pixels; what is finer than that is lost to it."
    if facts["task"] == "regression":
        ranges = facts.get("target_ranges") or [facts["target_range"]]
        told = [
            f"{text(name)} from {value_words(low)} to {value_words(high)}"
            for name, (low, high) in zip(saved.targets, ranges, strict=True)
        ]
        yield f"Its data have {_named(told)} only; beyond, its answers are guesses."
    elif saved.kind == "label":
        yield f"It always answers with one of its {len(facts['classes']):,} classes, also for a picture that shows none of them."
    yield (
        "All figures are of pictures from the same source as those it learned from. For other cameras, places or times, and for "
        "groups of people, nothing was measured."
    )


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
