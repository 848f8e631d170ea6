"""How sure the final model may be: prediction intervals, or calibration and prediction sets, in words, tables and charts."""

from __future__ import annotations

from collections.abc import Sequence

from bokeh.plotting import figure

from pixelfit.metrics import percent, shown
from pixelfit.report import charts
from pixelfit.types import Json
from pixelfit.words import value_words

_CLASSES_SHOWN = 10
_TARGETS_SHOWN = 12  # in a chart


def sureness_section(scores: Json) -> Json:
    """What "How sure is it?" says, as the template takes it; None for a run from before there were intervals."""
    if "intervals" not in scores:
        return None
    if scores.get("targets"):
        parts = [one for one in scores["targets"] if one["intervals"] is not None]
        return {"lead": _each_lead(parts), "tables": [_each_table(parts)] if parts else []}
    if scores["task"] == "multilabel":
        return {"lead": _pairs_lead(scores["reliability"]), "tables": [_reliability_table(scores["reliability"], _OF_PAIRS)]}
    if scores["task"] == "regression":
        part = scores["intervals"]
        return {"lead": _interval_lead(part), "tables": [] if part is None else [_interval_table(part), _range_table(part)]}
    part, reliability = scores["sets"], scores["reliability"]
    return {
        "lead": f"{_reliability_lead(reliability)} {_set_lead(part)}",
        "tables": [_reliability_table(reliability), *([] if part is None else [_class_table(part)])],
    }


def sureness_charts(scores: Json, facts: Json) -> dict[str, figure]:
    """The section's charts by name."""
    if scores.get("intervals"):
        part = scores["intervals"]
        names = [_range_name(one) for one in part["ranges"]]
        return {"coverage": charts.coverage_by_range(part["ranges"], names, part["coverage"], f"true {facts['target_name']}")}
    each = [one for one in scores.get("targets", ()) if one["intervals"] is not None][:_TARGETS_SHOWN]
    if each:
        parts = [{**one["intervals"], "rows": scores["rows"]} for one in each]
        return {"coverage": charts.coverage_by_range(parts, [one["name"] for one in each], parts[0]["coverage"], "target")}
    if scores.get("reliability"):
        bins = scores["reliability"]["bins"], scores["reliability"]["bins_before"]
        axes = ("probability of a label", "how often it is there") if scores["task"] == "multilabel" else ()
        return {"reliability": charts.reliability(*bins, *axes)}
    return {}


def coverage_caption(scores: Json) -> str:
    """What stands below the chart of the intervals' coverage."""
    where = "for each target" if scores.get("targets") else "over the range of the target"
    asked = "the dashed line is what was asked for, the bars are 95 % intervals."
    return f"How often the interval held the true value, {where}; {asked}"


def reliability_caption(scores: Json) -> str:
    """What stands below the chart of the reliability."""
    if scores["task"] == "multilabel":
        what = "A label's probability against the share of test pictures that have it; larger dots stand for more pairs."
    else:
        what = "Sureness against the share of right predictions on the test set; larger dots stand for more pictures."
    return f"{what} On the dashed line the model is as sure as it should be."


def _each_lead(parts: Sequence[Json]) -> str:
    if not parts:
        return _interval_lead(None)
    covered = [one["intervals"]["covered"]["value"] for one in parts]
    asked = parts[0]["intervals"]["coverage"]
    return (
        f"Beside each number the model gives a range meant to hold the true value for {_of_100(asked)} pictures, for each target "
        f"by itself: all of a picture's ranges together hold less often. On the unseen pictures they held it for "
        f"{_of_100(min(covered))} ({_named(parts, covered, min(covered))}) to {_of_100(max(covered))} "
        f"({_named(parts, covered, max(covered))})."
    )


def _named(parts: Sequence[Json], covered: Sequence[float], share: float) -> str:
    return str(parts[covered.index(share)]["name"])


def _each_table(parts: Sequence[Json]) -> Json:
    first = parts[0]["intervals"]
    rows = [
        [
            one["name"],
            *_share(one["intervals"]["covered"]),
            shown("mae", one["intervals"]["mean_width"]),
            shown("mae", one["intervals"]["constant_width"]),
            "yes" if one["intervals"]["scaled"] else "no",
        ]
        for one in parts
    ]
    return {
        "head": ["target", "held the true value", "95 % interval", "mean width", "width, one for all", "widths differ"],
        "rows": rows,
        "note": f"Split-conformal intervals for {100 * first['coverage']:g} % on {first['calibrated_on']:,} validation pictures, "
        "calibrated target by target; wider where the model is less sure, if that proved better there.",
    }


def _pairs_lead(reliability: Json) -> str:
    return (
        "Of the labels that the model gives 80 %, 80 of 100 should be there. On the unseen pictures, over all pairs of picture "
        f"and label, the two were {percent(reliability['error'])} apart on average (before calibration "
        f"{percent(reliability['error_before'])})."
    )


def _interval_lead(part: Json) -> str:
    if part is None:
        return "The validation set has too few pictures to say how far off a single prediction may be."
    return (
        f"Beside each prediction the model gives a range meant to hold the true value for {_of_100(part['coverage'])} pictures. "
        f"On the unseen pictures it held it for {_of_100(part['covered']['value'])}, {_verdict(part)}."
    )


def _set_lead(part: Json) -> str:
    if part is None:
        return "The validation set has too few pictures for sets of possible classes."
    return (
        f"The model can also name a set of classes meant to hold the true one for {_of_100(part['coverage'])} pictures. On the "
        f"unseen pictures it held it for {_of_100(part['covered']['value'])}, {_verdict(part)}; "
        f"a set has {part['mean_size']:.2f} classes on average."
    )


def _reliability_lead(reliability: Json) -> str:
    return (
        "Of pictures for which the model is 80 % sure, 80 of 100 should turn out right. On the unseen pictures the two were "
        f"{percent(reliability['error'])} apart on average (before calibration {percent(reliability['error_before'])})."
    )


def _verdict(part: Json) -> str:
    """Whether the coverage asked for was reached, as far as the test set can tell."""
    covered = part["covered"]
    if covered["high"] < part["coverage"]:
        return "which is less than chance explains: take it with caution"
    if covered["low"] > part["coverage"]:
        return "which is more than it had to"
    return "a difference that chance explains"


def _interval_table(part: Json) -> Json:
    kinds = [
        ("as the model predicts", part["covered"], part["mean_width"], part["pinball"]),
        ("one width for all", part["constant_covered"], part["constant_width"], part["constant_pinball"]),
    ]
    asked = f"{100 * part['coverage']:g} %"
    return {
        "head": [f"{asked} intervals", "held the true value", "95 % interval", "mean width", "pinball loss"],
        "rows": [[name, *_share(covered), shown("mae", width), shown("mae", loss)] for name, covered, width, loss in kinds],
        "note": f"Split-conformal on {part['calibrated_on']:,} validation pictures, "
        + (
            "wider where the model is less sure. "
            if part["scaled"]
            else "of one width: differing widths did not prove better there. "
        )
        + "The pinball loss weighs width against misses; smaller is better.",
    }


def _range_table(part: Json) -> Json:
    return {
        "head": ["true value", "pictures", "held the true value", "95 % interval", "mean width"],
        "rows": [
            [_range_name(one), f"{one['rows']:,}", *_share(one["covered"]), shown("mae", one["mean_width"])]
            for one in part["ranges"]
        ],
        "note": "By fifths of the test targets, or fewer parts where targets take few values.",
    }


_OF_PICTURES = ("sureness", "pictures", "mean sureness", "right")
_OF_PAIRS = ("probability", "pairs", "mean probability", "there")


def _reliability_table(reliability: Json, head: Sequence[str] = _OF_PICTURES) -> Json:
    return {
        "head": list(head),
        "rows": [
            [
                f"{100 * one['low']:.0f} to {100 * one['high']:.0f} %",
                f"{one['rows']:,}",
                percent(one["confidence"]),
                percent(one["accuracy"]),
            ]
            for one in reliability["bins"]
            if one["rows"]
        ],
        "note": f"Expected calibration error: the mean distance of the last two columns, weighted by the number of {head[1]}.",
    }


def _class_table(part: Json) -> Json:
    classes = part["classes"][:_CLASSES_SHOWN]
    left_out = len(part["classes"]) - len(classes)
    return {
        "head": ["true class", "pictures", "in the set", "95 % interval", "classes in a set"],
        "rows": [[str(one["label"]), f"{one['rows']:,}", *_share(one["covered"]), f"{one['mean_size']:.2f}"] for one in classes],
        "note": f"Sets for {100 * part['coverage']:g} %, split-conformal on {part['calibrated_on']:,} validation pictures; "
        f"the least covered classes first{f', {left_out:,} more left out' if left_out else ''}. "
        "The coverage is promised over all classes together, not for each.",
    }


def _share(interval: Json) -> Sequence[str]:
    return percent(interval["value"]), f"{percent(interval['low'])} – {percent(interval['high'])}"


def _of_100(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0") + " of 100"


def _range_name(part: Json) -> str:
    low, high = value_words(part["low"]), value_words(part["high"])
    return low if low == high else f"{low} to {high}"
