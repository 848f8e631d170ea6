"""Which changes of training pictures the recipes of a run could make, and what was measured of each, in words and a table."""

from __future__ import annotations

from collections.abc import Sequence

from pixelfit.types import Json
from pixelfit.words import change_words

_LEADS = {
    "user": "The changes were listed by the user: recipes could make just these, and nothing was measured.",
    "habit": "Which changes leave the target alone was not measured: {why}.",
    "probe": "Mirrored, turned, moved or recoloured pictures teach a model more, unless the change alters the target. Trial "
    "#{trial} was trained without any change. Then it looked at {pictures:,} validation pictures as they are, where its loss is "
    "{loss:.3g} (the baseline's {baseline:.3g}), and under each change. An unsafe change is in no recipe that was trained after "
    "it, a safe one may be; where it is undecided, the habits stay.",
}


def augmentation_section(decision: Json) -> Json:
    """What "Changes of training pictures" says, as the template takes it; None for a run from before they were decided on."""
    if decision is None:
        return None
    probe = decision["probe"] or {"pictures": 0, "loss": 0.0, "baseline_loss": 0.0, "verdicts": []}
    lead = _LEADS[decision["by"]].format(
        why=decision["why"],
        trial=decision["trial"],
        pictures=probe["pictures"],
        loss=probe["loss"],
        baseline=probe["baseline_loss"],
    )
    allowed, usual = (_listed(decision[name]) for name in ("allowed", "usual"))
    return {
        "lead": lead,
        "allowed": f"Allowed in recipes: {allowed}. In the known-good ones from the start: {usual}.",
        "rows": [_row(verdict) for verdict in probe["verdicts"]],
    }


def _row(verdict: Json) -> Json:
    """A change, how far it went, the loss under it, its growth, how far opposite predictions lie apart, and what follows."""
    return {
        "change": change_words(verdict["change"]),
        "strength": verdict["strength"],
        "numbers": [
            f"{verdict['loss']:.3g}",
            f"{100 * verdict['growth']:+.1f} ± {100 * verdict['growth_error']:.1f} %",
            "–" if verdict["shift"] is None else f"{verdict['shift']:.2f}",
        ],
        "judgement": verdict["judgement"],
        "why": verdict["why"],
    }


def _listed(names: Sequence[str]) -> str:
    return ", ".join(change_words(name) for name in names) or "none"
