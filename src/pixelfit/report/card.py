"""``model-card.md``: what others should know before they use the model, from its run's records.

Its sections follow Mitchell et al. 2019, "Model Cards for Model Reporting"; its head is what Hugging Face's hub reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from pixelfit.metrics import TITLES, shown
from pixelfit.report.evaluation import evaluation
from pixelfit.report.limits import limits
from pixelfit.report.markdown import bullets, code, quoted, table, text
from pixelfit.report.repeat import command
from pixelfit.report.saved import Saved
from pixelfit.report.targets import view_of
from pixelfit.types import TASK_WORDS, Json, Kind
from pixelfit.words import change_words, number_of

Section: TypeAlias = Callable[[Saved], list[str]]  # paragraphs

_PREDICTS: dict[Kind, str] = {
    "number": "A model that predicts a number",
    "numbers": "A model that predicts several numbers",
    "label": "A model that predicts a class",
    "labels": "A model that predicts labels, none or several,",
}
_LEFT_OUT_SHOWN, _TRIALS_SHOWN, _CLASSES_NAMED = 20, 10, 30
_PARTS = {
    "train": "fitting models",
    "validation": "ranking and weighting them, calibrating",
    "development": "fitting models on all folds but one; on that one ranking and weighting them, calibrating",
    "test": "measuring the final model, once",
}
_VIEWS = {
    "single": "It looks at each picture once.",
    "shifted": "Each prediction is the mean over the picture and four copies of it, shifted a little.",
    "mirrored": "Each prediction is the mean over the picture and its mirror image.",
}


def model_card(saved: Saved) -> str:
    """The card as Markdown, in which every string from the data stays text."""
    parts = [_head(saved), f"# {text(saved.facts['data'])}: image {_task(saved)}"]
    for title, section in _SECTIONS:
        parts += [f"## {title}", *section(saved)]
    return "\n\n".join(parts) + "\n"


def _task(saved: Saved) -> str:
    return TASK_WORDS.get(saved.facts["task"], saved.facts["task"])


def _head(saved: Saved) -> str:
    kind = "image-regression" if saved.facts["task"] == "regression" else "image-classification"
    # The hub knows no name for the regression of images.
    pipeline = [] if saved.facts["task"] == "regression" else [f"pipeline_tag: {quoted(kind)}"]
    tags, metrics = (kind, "automl", "pixelfit"), saved.scores["test"]
    lines = [f"library_name: {quoted('pixelfit')}", *pipeline, "tags:", *(f"- {quoted(tag)}" for tag in tags)]
    lines += ["metrics:", *(f"- {quoted(name)}" for name in metrics), f"model_name: {quoted(saved.facts['data'])}"]
    return "\n".join(["---", *lines, "---"])


def _what_it_is(saved: Saved) -> list[str]:
    facts, members = saved.facts, saved.members
    named = [f"trial {each['number']}, {text(each['family'])} ({saved.weights[each['number']]:.0%})" for each in members]
    models = number_of(sum(each.get("folds", 1) for each in members), "model")
    parameters = sum(each["parameters"] for each in members)
    classes = facts["classes"] or []
    labels = f": {', '.join(map(text, classes[:_CLASSES_NAMED]))}" if classes else ""
    labels += f" and {len(classes) - _CLASSES_NAMED:,} more" if len(classes) > _CLASSES_NAMED else ""
    lines = [
        f"Values: {text(view_of(facts).range(facts))}{labels}.",
        f"Pictures: of any size; it sees them at {_size(facts['spec'])}.",
        f"Made of: {', '.join(named)}; {models} with {parameters:,} parameters. {_VIEWS[saved.final['views']]}",
        f"Made by: pixelfit {text(saved.version)} with seed {saved.scores['seed']}.",
    ]
    return [f"{_PREDICTS[saved.kind]} for a picture: {', '.join(map(text, saved.targets))}.", bullets(lines)]


def _size(spec: Json) -> str:
    channels = {1: "grey", 3: "in colour"}.get(spec["channels"], f"with {spec['channels']} channels")
    return f"{spec['height']} × {spec['width']} pixels (height × width), {channels}"


def _use(saved: Saved) -> list[str]:
    return [
        f"For pictures like those of {text(saved.facts['data'])}: of the same things, from the same source, taken likewise.",
        "It is not for",
        bullets(
            [
                "pictures of other things, or from elsewhere, before it was measured on some of them;",
                "decisions that could harm someone if the prediction is wrong, without a person who looks at the picture, too;",
                "telling why something is so: it finds what goes together in the data, whatever the reason.",
            ]
        ),
        "The run does not know what the model is meant for, or under which licence its pictures are. Whoever passes it on "
        "should add that here.",
    ]


def _data(saved: Saved) -> list[str]:
    facts, sizes = saved.facts, saved.data["sizes"]
    rows = [[name, f"{count:,}", _PARTS[name]] for name, count in sizes.items()]
    left_out = facts["left_out"]
    paragraphs = [
        f"{number_of(facts['rows_given'], 'row')} given = {facts['rows']:,} used + {len(left_out):,} left out. "
        f"The task was decided so: {text(facts['task_reason'])}.",
        f"Split: {text(saved.data['split'])}.",
        table(["part", "pictures", "used for"], rows, "lrl"),
    ]
    found = [f"{text(finding['kind']).capitalize()}: {text(finding['text'])}" for finding in facts["findings"]]
    paragraphs += ["What stands out:", bullets(found)] if found else ["Nothing stands out in them."]
    if left_out:
        more = len(left_out) - _LEFT_OUT_SHOWN
        reasons = [[text(item["ref"]), text(item["reason"])] for item in left_out[:_LEFT_OUT_SHOWN]]
        paragraphs += ["Left out:", table(["row", "reason"], reasons, "ll")]
        paragraphs += [f"And {more:,} more, which `facts.json` names."] if more > 0 else []
    return paragraphs


def _choice(saved: Saved) -> list[str]:
    ranked, metric = saved.ranked, saved.ranked_by
    limit = f" within a budget of {saved.run['budget_s']:g} s" if saved.run["budget_s"] else ""
    where = (
        "on all development pictures, each predicted by models that have not seen it"
        if saved.folds > 1
        else "on validation pictures"
    )
    families = ", ".join(sorted({text(trial["family"]) for trial in ranked}))
    rows = [_trial_row(trial, saved) for trial in ranked[:_TRIALS_SHOWN]]
    final = (
        "The final model is a student: it has learned what the best ensemble predicts for the training pictures."
        if saved.final["distilled"]
        else f"The members were {'' if saved.final['refitted'] else 'not '}trained again on all development pictures "
        f"({text(saved.final['why'])})."
    )
    streamed = saved.final.get("streamed")
    if streamed is not None and streamed["kept"]:
        why = text(streamed["why"])
        final = f"The final model is a net that went on from the search's best over all pictures of the shards ({why})."
    more = f" The best {_TRIALS_SHOWN}:" if len(ranked) > _TRIALS_SHOWN else ""
    return [
        f"{number_of(len(ranked), 'trial')} of these families{limit}: {families}. They were ranked by {TITLES[metric]} {where}, "
        f"which looks a little better there than it is, since the best of several was taken.{more}",
        table(["trial", "head", TITLES[metric], "in the final model", "epochs", "parameters"], rows, "llrrrr"),
        final,
        *_changes(saved),
    ]


def _trial_row(trial: Json, saved: Saved) -> list[str]:
    metric, weight = saved.ranked_by, saved.weights.get(trial["number"])
    return [
        f"{trial['number']}: {text(trial['family'])}",
        text(trial["recipe"]["head"]),
        shown(metric, trial["metrics"][metric]) if trial["score"] is not None else text(trial["state"]),
        "" if weight is None else f"{weight:.0%}",
        f"{trial['epochs']:.1f}",
        f"{trial['parameters']:,}",
    ]


def _changes(saved: Saved) -> list[str]:
    if saved.augmentation is None:
        return []
    allowed = ", ".join(change_words(name) for name in saved.augmentation["allowed"]) or "none"
    return [f"Changes of training pictures that recipes could make: {allowed}."]


def _limits(saved: Saved) -> list[str]:
    return [bullets(limits(saved))]


def _usage(saved: Saved) -> list[str]:
    return [
        "In the folder of the run, where this card lies:",
        code("pixelfit predict . picture.png -o predictions.csv\npixelfit serve .", "sh"),
        "Or from Python:",
        code("\n".join(["import pixelfit", "", 'model = pixelfit.load(".")', *calls(saved, "model")]), "python"),
    ]


def calls(saved: Saved, model: str) -> list[str]:
    """What can be asked of the model in a variable of that name; intervals and sets only where it was calibrated for them."""
    names, sure = ["predict"], "predict_interval" if saved.facts["task"] == "regression" else "predict_sets"
    names += [] if saved.facts["task"] == "regression" else ["predict_proba"]
    lines = [f'{model}.{name}(["picture.png"])' for name in names]
    return [*lines, f'{model}.{sure}(["picture.png"], coverage=0.9)'] if saved.says_how_sure else lines


def _environment(saved: Saved) -> list[str]:
    where = saved.run["environment"]
    instructions = f" ({text(where['instructions'])})" if where.get("instructions") else ""
    versions = ", ".join(f"{text(name)} {text(version)}" for name, version in where["versions"].items())
    seconds = saved.timeline["seconds"]
    search = seconds["search"] - seconds["data"]
    lines = [
        f"Machine: {text(where['processor'])}{instructions}, {number_of(where['cores'], 'core')}, {where['memory_gib']} GiB, "
        f"{text(where['gpu']) if where['gpu'] else 'no GPU'}.",
        f"System: {text(where['system'])}, Python {text(where['python'])}.",
        f"Versions: {versions}.",
        f"Time: {seconds['scoring']:.0f} s until the scores were known, {search:.0f} s of it search.",
    ]
    return [bullets(lines)]


def _repeat(saved: Saved) -> list[str]:
    exact = (
        "Without a budget a run repeats exactly on the same machine, with the versions above."
        if saved.run["budget_s"] is None
        else "Under a budget the number of steps follows the machine's speed, so another run differs a little."
    )
    again = (
        [exact]
        if saved.run["source"]
        else ["The run was made from arrays, which have no name and are to be put in place.", exact]
    )
    return [code(command(saved.run), "sh"), " ".join(again)]


_SECTIONS: Sequence[tuple[str, Section]] = (
    ("What it is", _what_it_is),
    ("Intended use", _use),
    ("Data", _data),
    ("How it was chosen", _choice),
    ("Evaluation", evaluation),
    ("Limits", _limits),
    ("How to use it", _usage),
    ("Environment", _environment),
    ("How to repeat it", _repeat),
)
