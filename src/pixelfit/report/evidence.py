"""Whether the score can be trusted: parts of the test set, and how like the development data it is, in words and tables."""

from __future__ import annotations

from pixelfit.metrics import TITLES, cost, shown
from pixelfit.types import Json

_UNLIKELY = 0.01


def evidence_section(evidence: Json, scores: Json) -> Json:
    """What "Parts of the test set" and "Is the test set like the rest?" say; None for a run from before they were looked at."""
    if evidence is None:
        return None
    slicings = evidence["slicings"]
    metric = slicings[0]["metric"] if slicings else None
    return {
        "metric": TITLES[metric] if metric else "",
        "overall": shown(metric, scores["test"][metric]["value"]) if metric else "",
        "rows": [row for slicing in slicings for row in _rows(slicing, scores)],
        "likeness": _likeness_words(evidence["likeness"]),
    }


def _rows(slicing: Json, scores: Json) -> list[Json]:
    metric, unit = slicing["metric"], slicing["unit"]
    overall = cost(metric, scores["test"][metric]["value"])
    return [
        {
            "by": (f"{slicing['by']}, {unit}" if unit else slicing["by"]) if place == 0 else "",
            "name": each["name"],
            "rows": f"{each['rows']:,}",
            "value": shown(metric, each["score"]["value"]),
            "interval": f"{shown(metric, each['score']['low'])} – {shown(metric, each['score']['high'])}",
            # Both ends are on the worse side, whichever way the metric goes.
            "worse": min(cost(metric, each["score"]["low"]), cost(metric, each["score"]["high"])) > overall,
        }
        for place, each in enumerate(slicing["slices"])
    ]


def _likeness_words(likeness: Json) -> str:
    if likeness is None:
        return "There are too few pictures to say."
    auc, p = likeness["auc"], likeness["target_p"]
    area = f"{auc['value']:.2f} (95 % interval {auc['low']:.2f} to {auc['high']:.2f})"
    words = (
        "Trees that were to tell test from development pictures by brightness, contrast, sharpness, size, shape and a coarse "
        f"view of each reached an area under the ROC curve of {area} on {likeness['rows']:,} pictures; 0.5 or less is guessing, "
        "1 is telling each. "
    )
    if likeness["telling"]:
        words += f"The two differ, most of all in {', '.join(likeness['telling'])}: the score may not hold for either alone. "
    else:
        words += "They cannot be told apart. "
    if p is None:
        return words.strip()
    share = "below 0.001" if p < 0.001 else f"{p:.2g}"
    differs = "Their targets differ" if p < _UNLIKELY else "Their targets do not differ by more than chance explains"
    return f"{words}{differs} ({likeness['target_test']} test, p {share})."
