"""Changes of training pictures: what they do, how they are judged, and what recipes may make of the verdicts."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HOSTILE, bars, opened_copy
from test_models import prepared
from torch import nn

from benchmarks import safety as benchmark
from pixelfit import report
from pixelfit.automl import Run, fit
from pixelfit.deadline import Deadline
from pixelfit.errors import OptionError
from pixelfit.files import write_json
from pixelfit.models.heads import ClassHead, SquaredHead
from pixelfit.models.model import Model, Preparation
from pixelfit.options import checked_options
from pixelfit.progress import Silent
from pixelfit.report.repeat import command
from pixelfit.runs import RunFolder
from pixelfit.search import safety, stages
from pixelfit.search.cost import CostModel
from pixelfit.search.portfolio import portfolio
from pixelfit.search.safety import Verdict, as_usual, decided, probe
from pixelfit.search.searching import Limits
from pixelfit.search.space import Changes, build_space
from pixelfit.search.study import Study
from pixelfit.training.augment import augment, recoloured
from pixelfit.training.job import Job
from pixelfit.training.recipe import Augmentation, Recipe
from pixelfit.types import CHANGES, Array, Examples, PictureSpec, Trial

OLD = ("rotate", "scale", "shear", "shift", "flip")


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def which(new: torch.Tensor, candidates: list[Array]) -> list[int]:
    return [place for place, candidate in enumerate(candidates) if np.allclose(new.numpy(), candidate, atol=1e-5)]


def test_an_upside_down_mirror_is_numpys() -> None:
    pictures = torch.rand(16, 2, 10, 7)
    changed = augment(pictures, Augmentation(flip_vertical=True), dice())
    found = [which(new, [old.numpy(), old.numpy()[:, ::-1]]) for new, old in zip(changed, pictures, strict=True)]
    assert sorted({tuple(each) for each in found}) == [(0,), (1,)]


@pytest.mark.parametrize(("height", "width", "turns"), [(9, 9, {0, 1, 2, 3}), (9, 12, {0, 2}), (12, 9, {0, 2})])
def test_turns_are_numpys_and_oblong_pictures_turn_by_halves(height: int, width: int, turns: set[int]) -> None:
    pictures = torch.rand(40, 3, height, width)
    changed = augment(pictures, Augmentation(turns=True), dice())
    found = [
        which(new, [np.rot90(old.numpy(), turn, axes=(1, 2)) for turn in sorted(turns)])
        for new, old in zip(changed, pictures, strict=True)
    ]
    assert all(len(each) == 1 for each in found)
    assert {sorted(turns)[each[0]] for each in found} == turns


def test_mirrors_and_turns_together_give_the_eight_symmetries_of_a_square() -> None:
    picture = torch.rand(1, 1, 8, 8)
    changed = augment(picture.expand(200, -1, -1, -1), Augmentation(flip=True, flip_vertical=True, turns=True), dice())
    eight = [
        np.rot90(side, turn, axes=(1, 2)) for side in (picture[0].numpy(), picture[0].numpy()[:, :, ::-1]) for turn in range(4)
    ]
    assert {which(new, eight)[0] for new in changed} == set(range(8))


def by_hand(pictures: Array, brightness: float, contrast: float, saturation: float) -> Array:
    """What is done to original pictures (N, H, W, C): saturation, then contrast, then brightness."""
    values = pictures.astype(np.float64)
    if values.shape[-1] == 3:
        grey = values @ np.array([[0.299], [0.587], [0.114]])
        values = grey + saturation * (values - grey)
    mean = values.mean(axis=(1, 2), keepdims=True)
    return np.asarray(brightness * (mean + contrast * (values - mean)))


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("factors", [(1.3, 1.0, 1.0), (1.0, 0.7, 1.0), (1.0, 1.0, 1.5), (0.8, 1.2, 0.5)], ids=str)
def test_prepared_pictures_are_recoloured_as_the_original_ones_would_be(channels: int, factors: tuple[float, ...]) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (6, 9, 11, channels), dtype=np.uint8)
    preparation = Preparation(tuple(np.linspace(80, 150, channels)), tuple(np.linspace(40, 60, channels)))
    changed = recoloured(preparation(torch.from_numpy(stored)), torch.tensor(factors)[:, None], preparation)
    expected = preparation(torch.from_numpy(by_hand(stored, *factors).astype(np.float32)))
    assert changed.shape == (6, channels, 9, 11)
    torch.testing.assert_close(changed, expected, atol=1e-4, rtol=1e-4)


def test_every_picture_gets_colours_of_its_own_and_keeps_its_form() -> None:
    pictures = torch.rand(8, 3, 5, 6).contiguous(memory_format=torch.channels_last)
    changed = augment(pictures, Augmentation(brightness=0.2, contrast=0.2, saturation=0.3), dice())
    assert changed.shape == pictures.shape
    assert changed.is_contiguous(memory_format=torch.channels_last)
    assert not any(torch.allclose(new, old) for new, old in zip(changed, pictures, strict=True))
    brighter = augment(torch.ones(8, 1, 2, 2), Augmentation(brightness=0.2), dice(), Preparation((2.0,), (1.0,)))
    assert len({round(float(each.mean()), 5) for each in brighter}) == 8


def test_numbers_far_from_zero_become_a_little_brighter_only() -> None:
    kelvin = Preparation((290.0,), (5.0,))
    pictures = torch.randn(4, 1, 6, 6)
    changed = recoloured(pictures, torch.tensor([[1.1], [1.0], [1.0]]), kelvin)
    torch.testing.assert_close(changed, pictures * 1.1 + 0.1 * 4)


def test_the_same_dice_give_the_same_changes() -> None:
    pictures = torch.rand(8, 3, 9, 9)
    everything = Augmentation(5.0, 0.1, 0.1, 0.1, True, True, True, 0.2, 0.2, 0.2)
    once, again, other = (augment(pictures, everything, dice(seed)) for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_what_was_there_before_draws_the_same_numbers_as_before() -> None:
    pictures, expected = torch.rand(8, 1, 9, 9), dice()
    untouched = dice()
    assert augment(pictures, Augmentation(), untouched) is pictures
    assert torch.equal(untouched.get_state(), expected.get_state())
    used = dice()
    augment(pictures, Augmentation(rotate=7.0, scale=0.08, shear=0.1, shift=0.05, flip=True), used)
    torch.randn(6, 8, generator=expected)
    torch.randint(0, 2, (8,), generator=expected)
    assert torch.equal(used.get_state(), expected.get_state())


def test_recipes_of_older_runs_can_be_read() -> None:
    recipe = Recipe("convnet", "squared", {"width": 16}, augmentation=Augmentation(rotate=7.0, flip=True))
    written = recipe.to_json()
    assert Recipe.from_json(json.loads(json.dumps(written))) == recipe
    older = {**written, "augmentation": {name: written["augmentation"][name] for name in OLD}}
    assert Recipe.from_json(older) == recipe


class _Knows(nn.Module):
    """Tells the target of ``_spots`` from the picture, as a net would that has learned it perfectly."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.register_buffer("anything", torch.zeros(1))

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        return self(pictures)

    def answers(self, features: torch.Tensor) -> torch.Tensor:
        return features

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        light = (pictures - 0.1).clamp(min=0)
        whole = light.sum(dim=(1, 2, 3)).clamp(min=1e-6)
        side = pictures.shape[-1]
        places = torch.linspace(-1, 1, side)
        across = (light.sum(dim=(1, 2)) * places).sum(dim=1) / whole
        down = (light.sum(dim=(1, 3)) * places).sum(dim=1) / whole
        if self.what == "side":  # logits of left and right
            return torch.stack([-8 * across, 8 * across], dim=1)
        measured = {
            "position": across,
            "angle": torch.atan2(down, across),
            "lightness": pictures.amax(dim=(1, 2, 3)),
            "area": (light > 0.2).float().mean(dim=(1, 2, 3)),
        }
        return measured[self.what][:, None]


def _spots(what: str, count: int = 150) -> tuple[Model, Examples, Array]:
    """Pictures of a light spot, 24×24, a model that knows what it is about them, and the best constant's predictions."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:24j, -1:1:24j]
    turn, size = rng.uniform(-1, 1, count), rng.uniform(0.15, 0.3, count)
    away = 0.4 if what == "angle" else rng.uniform(0.0, 0.45, count)
    across, down = away * np.cos(turn), away * np.sin(turn)
    if what != "angle":
        across, down = across * rng.choice([-1, 1], count), down * rng.choice([-1, 1], count)
    far = np.hypot(x - across[:, None, None], y - down[:, None, None])
    store = (np.clip(1.5 - far / size[:, None, None], 0, 1) * rng.uniform(0.5, 1, count)[:, None, None])[..., None]
    store = store.astype(np.float32)
    spec, preparation = PictureSpec(24, 24, 1, "raw"), Preparation((0.0,), (1.0,))
    head = ClassHead(2) if what == "side" else SquaredHead(0.0, 1.0)
    model = Model("mlp", {}, spec, preparation, head, _Knows(what))
    known = model.predict(store)
    targets = (across > 0).astype(np.int64) if what == "side" else known + rng.normal(0, 0.02 * known.std(), count)
    baseline = np.full((count, 2), 0.5) if what == "side" else np.full(count, targets.mean())
    return model, Examples(store, np.arange(count), targets, ("",) * count), baseline


@pytest.mark.parametrize(
    ("what", "safe", "unsafe"),
    [
        ("position", {"flip_vertical"}, {"flip", "turns", "shift", "rotate"}),
        ("angle", set(), {"flip", "flip_vertical", "turns", "rotate"}),
        ("lightness", {"flip", "flip_vertical", "turns", "rotate", "shear"}, {"brightness"}),
        ("area", {"flip", "flip_vertical", "turns"}, {"scale"}),
        ("side", {"flip_vertical"}, {"flip", "turns"}),
    ],
)
def test_what_changes_the_target_is_unsafe_and_what_does_not_is_safe(what: str, safe: set[str], unsafe: set[str]) -> None:
    facts, _ = prepared("classification" if what == "side" else "regression")
    model, examples, baseline = _spots(what)
    found = probe([model], [examples], baseline, facts)
    judged = {verdict.change: verdict.judgement for verdict in found.verdicts}
    assert set(judged) == set(CHANGES) - {"saturation"}
    assert {name for name in safe if judged[name] == "safe"} == safe
    assert {name for name in unsafe if judged[name] == "unsafe"} == unsafe
    assert all(verdict.why for verdict in found.verdicts)
    assert found.loss < found.baseline_loss
    opposite = {verdict.change for verdict in found.verdicts if verdict.shift is not None}
    assert opposite == (set() if what == "side" else set(judged) - {"flip", "flip_vertical", "turns"})


def test_a_model_that_knows_nothing_judges_nothing() -> None:
    facts, _ = prepared("regression")
    model, examples, baseline = _spots("position")
    shuffled = replace(examples, targets=np.random.default_rng(1).permutation(examples.targets))
    constant = replace(examples, targets=np.zeros(len(examples)))
    for each in (shuffled, constant):
        found = probe([model], [each], baseline if each is shuffled else np.zeros(len(each)), facts)
        assert {verdict.judgement for verdict in found.verdicts} == {"undecided"}
        assert {verdict.why for verdict in found.verdicts} == {"the model is not clearly better than the baseline"}
        assert all(math.isfinite(verdict.growth) for verdict in found.verdicts)


@pytest.mark.parametrize(
    ("growth", "error", "shift", "times", "judgement"),
    [(0.01, 0.005, 0.1, 1.2, "safe"), (0.04, 0.02, None, 1.5, "undecided"), (0.9, 0.1, None, 1.0, "unsafe"),
     (0.3, 0.1, 0.0, 1.0, "undecided"), (0.01, 0.001, 1.2, 1.0, "unsafe"), (0.01, 0.001, 0.8, 1.0, "undecided"),
     (0.015, 0.001, 0.0, 7.0, "unsafe"), (0.005, 0.001, 0.0, 7.0, "safe")],
)  # fmt: skip
def test_verdicts_follow_their_rules(growth: float, error: float, shift: float | None, times: float, judgement: str) -> None:
    judged, why = safety._judgement(growth, error, shift, times, clear=True)
    assert judged == judgement
    assert why
    assert safety._judgement(growth, error, shift, times, clear=False)[0] == "undecided"
    assert Verdict("flip", "", 1.0, growth, error, shift, judged, why).free == (judgement == "safe")
    assert not Verdict("flip", "", 1.0, 0.03, error, shift, judged, why).free


def test_what_is_not_allowed_is_in_no_recipe(tmp_path: Path) -> None:
    facts, splits = prepared("regression", channels=3)
    usual = build_space(facts, splits.train)
    allowed = frozenset({"scale", "turns", "contrast"})
    narrowed = replace(usual, changes=Changes(allowed, frozenset({"scale", "turns"})))
    study = Study(tmp_path / "study.log", usual, seed=0)
    study.narrow(narrowed)
    known = [narrowed.known_good({**wanted, "flip": True, "turns": False})[0] for wanted in portfolio()]
    sampled = [study.ask().recipe for _ in range(30)]
    recipes = [recipe for recipe in [*known, *sampled, narrowed.tuned()] if recipe.augmentation != Augmentation()]
    assert len(recipes) > 20
    for recipe in recipes:
        made = {name for name in CHANGES if getattr(recipe.augmentation, name)}
        assert made <= allowed
    for recipe in (*known, narrowed.tuned()):
        if recipe.family in ("convnet", "resnet", "tuned"):
            assert recipe.augmentation.scale > 0
            assert recipe.augmentation.turns  # whatever the portfolio found elsewhere
            assert recipe.augmentation.contrast == 0
    assert any(recipe.augmentation.contrast for recipe in sampled)


def test_as_a_habit_nothing_but_small_changes_is_made() -> None:
    for channels in (1, 3):
        facts, splits = prepared("regression", channels=channels)
        space = build_space(facts, splits.train)
        answers = space.known_good({"family": "convnet"})[1]
        assert ("flip" in answers) == (channels == 3)
        assert "recolour" not in answers
        recipe = space.known_good({"family": "convnet"})[0]
        assert recipe.augmentation == Augmentation(rotate=7.0, scale=0.08, shear=0.1, shift=0.05)


class _Listening(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def _fitted(out: Path, listening: Silent, **options: object) -> Run:
    pictures, columns = bars(200)
    return fit((pictures, columns), checked_options(task="regression", out=out, **{"folds": 1, **options}), progress=listening)


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str]]:
    """A run on pictures whose target is a place, with a probe."""
    listening = _Listening()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "_TRIALS_WITH_PROBE", 3)
        run = _fitted(tmp_path_factory.mktemp("probed") / "run", listening, trials=3, steps=50)
    return run, listening.said


@pytest.mark.slow
def test_a_search_finds_out_what_is_safe_and_keeps_to_it(probed: tuple[Run, list[str]]) -> None:
    run, said = probed
    assert [trial.purpose for trial in run.trials] == ["baseline", "probe", "portfolio"]
    asked = Recipe.from_json(run.trials[1].recipe)
    assert asked.augmentation == Augmentation()
    assert asked.family == portfolio()[0]["family"]
    decision = run.folder.read("augmentation.json")
    judged = {verdict["change"]: verdict["judgement"] for verdict in decision["probe"]["verdicts"]}
    assert (decision["by"], decision["trial"]) == ("probe", 1)
    assert {judged["flip"], judged["shift"]} == {"unsafe"}
    assert not {"flip", "shift"} & set(decision["allowed"])
    for trial in run.trials[2:]:
        augmentation = Recipe.from_json(trial.recipe).augmentation
        assert (augmentation.flip, augmentation.shift) == (False, 0.0)
        assert {name for name in CHANGES if getattr(augmentation, name)} <= set(decision["allowed"])
    line = next(text for text in said if text.startswith("Changes of training pictures, judged by trial 1:"))
    assert "unsafe" in line
    assert "\n" not in line


@pytest.mark.slow
def test_the_report_shows_the_verdicts_and_escapes_them(probed: tuple[Run, list[str]], tmp_path: Path) -> None:
    run, _ = probed
    page = run.folder.report_file.read_text(encoding="utf-8")
    assert "<h3>Changes of training pictures</h3>" in page
    assert "<tr><th>flip-vertical</th><td>up and down swapped</td>" in page
    folder = RunFolder(opened_copy(run.folder.path, tmp_path / "hostile"))
    decision = folder.read("augmentation.json")
    for verdict in decision["probe"]["verdicts"]:
        verdict |= {"strength": HOSTILE, "why": HOSTILE, "judgement": HOSTILE, "change": HOSTILE}
    write_json(folder.path / "augmentation.json", {**decision, "why": HOSTILE, "allowed": [HOSTILE]})
    report.draw(folder)
    page = folder.report_file.read_text(encoding="utf-8")
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page


@pytest.mark.slow
def test_a_run_from_before_there_were_verdicts_can_be_drawn(probed: tuple[Run, list[str]], tmp_path: Path) -> None:
    folder = RunFolder(opened_copy(probed[0].folder.path, tmp_path / "old"))
    (folder.path / "augmentation.json").unlink()
    report.draw(folder)
    assert "Changes of training pictures" not in folder.report_file.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("augment_as", "changes"), [("none", set()), ("flip, Rotate,flip_vertical", {"flip", "rotate", "flip_vertical"})]
)
def test_what_the_user_lists_is_done_and_nothing_is_asked(
    augment_as: str, changes: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "_TRIALS_WITH_PROBE", 1)
    run = _fitted(tmp_path / "run", Silent(), trials=3, steps=8, augment=augment_as)
    assert [trial.purpose for trial in run.trials] == ["baseline", "portfolio", "portfolio"]
    for trial in run.trials[1:]:
        augmentation = Recipe.from_json(trial.recipe).augmentation
        assert {name for name in CHANGES if getattr(augmentation, name)} == changes
    decision = run.folder.read("augmentation.json")
    assert (decision["by"], decision["probe"], set(decision["allowed"])) == ("user", None, changes)
    assert "listed by the user" in run.folder.report_file.read_text(encoding="utf-8")


def test_lists_of_changes_are_read_and_written_as_users_do() -> None:
    assert checked_options(augment="auto").changes is None
    assert checked_options().changes is None
    assert checked_options(augment="none").changes == ()
    assert checked_options(augment=["turns", "rotate"]).changes == ("rotate", "turns")
    options = checked_options(augment="flip-vertical,flip")
    assert options.changes == ("flip", "flip_vertical")
    again = command({"source": "x", "options": options.model_dump(mode="json")})
    assert "--augment flip,flip-vertical" in again
    for bad, named in (("sideways", "sideways"), ("flip,none", "none"), ("", ""), ([], ""), ("rotate,,flip", "")):
        with pytest.raises(
            OptionError, match=f"--augment '{named}' is no change of pictures; take auto, none, or some of rotate"
        ):
            checked_options(augment=bad)


def test_a_probe_that_fails_or_is_interrupted_changes_nothing(tmp_path: Path) -> None:
    facts, splits = prepared("regression")
    changes = Changes.as_usual(1)
    for state in ("failed", "interrupted"):
        trial = Trial(1, "convnet", "probe", {}, state, 0, 1.0)  # type: ignore[arg-type]
        decision = decided(changes, trial, trial, RunFolder(tmp_path), splits.folds, facts)
        assert decision.changes == changes
        assert (decision.by, decision.probe) == ("habit", None)
        assert "trial 1" in decision.why


@pytest.mark.slow
def test_a_search_whose_probe_fails_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def once(job: Job, **options: object) -> object:
        if not failed and job.recipe.augmentation == Augmentation() and job.recipe.family == "convnet":
            failed.append(True)
            raise ArithmeticError("no such luck")
        return train_alone(job, **options)  # type: ignore[arg-type]

    from pixelfit.training.loop import train_alone

    failed: list[bool] = []
    monkeypatch.setattr(stages, "_TRIALS_WITH_PROBE", 3)
    monkeypatch.setattr("pixelfit.search.engine.train_alone", once)
    listening = _Listening()
    run = _fitted(tmp_path / "run", listening, trials=3, steps=8)
    assert [trial.state for trial in run.trials] == ["complete", "failed", "complete"]
    assert Recipe.from_json(run.trials[2].recipe).augmentation.rotate > 0
    assert any("did not come to its end" in text for text in listening.said)


@pytest.mark.parametrize(
    ("budget", "trials", "asks"), [(30.0, None, False), (5_000.0, None, True), (None, 19, False), (None, 20, True)]
)
def test_a_probe_is_worth_it_only_where_it_costs_little(
    budget: float | None, trials: int | None, asks: bool, tmp_path: Path
) -> None:
    facts, splits = prepared("regression")
    space, folder = build_space(facts, splits.train), RunFolder.create(tmp_path / "run")
    state = stages.Stages(
        space, Study(folder.study_file, space, seed=0), CostModel(facts.spec, 1e12), Deadline(budget), Limits(trials), 0,
        splits, facts, folder, Silent(), began=0.0,
    )  # fmt: skip
    best_bet = space.known_good(portfolio()[0])[0]
    plans = [plan for plan, _ in state._probe(best_bet, 0.5) if not state.trials.append(_unfinished(plan))]
    assert [plan.purpose for plan in plans] == ["probe"] * asks
    if plans and budget is not None:
        assert plans[0].pace.seconds <= 0.03 * budget
    assert folder.read("augmentation.json")["by"] == "habit"
    assert as_usual(space.changes, "").changes == space.changes


def _unfinished(plan: object) -> Trial:
    return Trial(0, "convnet", "probe", {}, "failed", 0, 1.0)


@pytest.mark.slow
def test_the_benchmark_of_verdicts_runs() -> None:
    made = benchmark.made_up(80)
    assert {len(make()[0]) for make in made.values()} == {80}
    rows = [{"data": "ripeness", **row} for row in benchmark.measured(made["ripeness"](), seed=0, steps=4)]
    assert {row["change"] for row in rows} == set(CHANGES)
    assert benchmark.table(rows).splitlines()[2].startswith("| ripeness | 10 |")
