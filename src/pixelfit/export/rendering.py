"""The script's text: one template, cut down to what the recipe uses."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pixelfit import metrics
from pixelfit.export.layers import layers_of
from pixelfit.models import FAMILIES
from pixelfit.models.heads import SMOOTHED, head_to_json
from pixelfit.models.model import Model
from pixelfit.templates import template
from pixelfit.training.recipe import Augmentation, Recipe
from pixelfit.types import Facts, Json, Kind
from pixelfit.words import number_of

_WIDTH = 120
_LONGEST = 60  # characters of a name
_MEASURED: Mapping[Kind, tuple[str, ...]] = {
    "number": ("rmse", "mae", "r2"),
    "numbers": ("nrmse", "nmae", "mean_r2"),
    "label": ("accuracy", "log_loss"),
    "labels": ("log_loss", "exact_match"),
}


@dataclass(frozen=True)
class Story:
    """Where a recipe came from."""

    run: str
    trials: tuple[Json, ...]  # whose trainings led to the weights, the last one last
    weight: float  # in the final model
    validation: int  # pictures of the first fold
    folds: int
    recorded: Mapping[str, float]  # scores on them
    refitted: bool  # whether the final model was then trained on the validation pictures, too
    low_precision: bool


def rendered(name: str, story: Story, model: Model, facts: Facts) -> str:
    """The script, to be called ``name``, that trains the story's last trial, whose trained model is given."""
    trial = story.trials[-1]
    recipe = Recipe.from_json(trial["recipe"])
    spec, head = model.preparation.seen(model.spec), head_to_json(model.head)
    rounds = [(each["steps"], each["seed"]) for each in story.trials]
    parts = head.get("parts") or [head]
    smooths = head["name"] in SMOOTHED and recipe.label_smoothing > 0
    about = (
        f"Train trial {trial['number']} of the pixelfit run {_plain(story.run)} again "
        f"({FAMILIES[recipe.family].what}; data: {_plain(facts.data)})."
    )
    return template(Path(__file__).with_name("train.py.j2")).render(
        about=textwrap.fill(about, _WIDTH),
        name=_plain(name),
        story=textwrap.fill(" ".join(_sentences(name, story, facts)), _WIDTH),
        recipe=recipe,
        amount=recipe.augmentation,
        augmented=recipe.augmentation != Augmentation(),
        batch=_batch(recipe.augmentation),
        rounds=rounds,
        rounds_text=_listed(rounds),
        smoothing=", label_smoothing=LABEL_SMOOTHING" if smooths else "",
        mean=_tuple(model.preparation.mean),
        std=_tuple(model.preparation.std),
        size=model.preparation.size,
        channels=spec.channels,
        input=f"{spec.channels}, {spec.height}, {spec.width}",
        outputs=model.head.outputs,
        layers=layers_of(model.module),
        resnet=recipe.family == "resnet",
        linear=recipe.family == "linear",
        head=head,
        parts=parts,
        center=parts[0].get("center"),
        values=_listed(head.get("values", ())),
        target_means=_listed(head.get("means", ())),
        target_stds=_listed(head.get("stds", ())),
        scales=_listed(facts.target_scales),
        temperature=model.temperature,
        kind=facts.kind,
        metric=metrics.watched(facts.metric),
        recorded={name: story.recorded[name] for name in _MEASURED[facts.kind]},
        low_precision=story.low_precision,
    )


def _batch(amount: Augmentation) -> str:
    """The code that makes a training batch."""
    batch = "prepared(pictures[rows])"
    batch = f"moved({batch}, dice)" if amount.moves else batch
    return f"recoloured({batch}, dice)" if amount.recolours else batch


def _sentences(name: str, story: Story, facts: Facts) -> list[str]:
    figures = [f"{metrics.TITLES[each]} {metrics.shown(each, story.recorded[each])}" for each in _MEASURED[facts.kind]]
    said = [f"On {number_of(story.validation, 'validation picture')} the trial scored {', '.join(figures)}."]
    if story.folds > 1:
        said.append(f"The run was cross-validated; this trains and measures on the first of its {story.folds} folds.")
    said.append(
        f"The trial has {story.weight:.0%} of the weight in the run's final model{_AGAIN if story.refitted else ''}."
        if story.weight
        else "It is no part of the run's final model, but the best of those trials that can be trained by such a script."
    )
    if len(story.trials) > 1:
        said.append(f"Its weights come from {len(story.trials)} rounds of training, each from the weights of the one before.")
    if any(each["replans"] or each["state"] != "complete" for each in story.trials):
        said.append(_REPLANNED)
    return [*said, _FILES.format(data=_plain(Path(name).stem))]


_AGAIN = ", which was then trained on the validation pictures, too"
_REPLANNED = (
    "The run changed the length of its training on the way, to end in time; here the final length is planned from the start, "
    "so that the score will be near to that, but not the same."
)
_FILES = (
    "Pictures and targets come from {data}.npz beside this file: decoded, of one size, split as in the run, with the names of "
    "the classes or targets in 'names'. It needs torch and NumPy."
)


def _plain(text: str) -> str:
    """A name that can stand in a docstring."""
    kept = "".join(each if each.isprintable() and each not in '\\"' else "_" for each in text)
    return kept if len(kept) <= _LONGEST else f"{kept[: _LONGEST - 1]}…"


def _tuple(values: Sequence[float]) -> str:
    return repr(tuple(values)) if len(values) <= 3 else f"(\n{_rows(values)},\n)"


def _listed(values: Sequence[object]) -> str:
    line = f"[{', '.join(map(repr, values))}]"
    return line if len(line) <= _WIDTH - 20 else f"[\n{_rows(values)},\n]"


def _rows(values: Sequence[object]) -> str:
    return textwrap.fill(", ".join(map(repr, values)), _WIDTH, initial_indent="    ", subsequent_indent="    ")
