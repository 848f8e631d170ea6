"""A backbone that was trained on other pictures before: kept as it is with a linear layer on its features, or tuned.

The backbones are timm's (Wightman 2019, "PyTorch Image Models"). Their features of a few hundred photographs take seconds, and
the layer on top is a convex problem: solved with L-BFGS for whatever loss the head has, its penalty chosen by cross-validation.
"""

from __future__ import annotations

import importlib.util
import math
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from pixelfit.errors import DataError
from pixelfit.models.family import Architecture, Between, Choice, Family
from pixelfit.models.heads import Head
from pixelfit.progress import Progress
from pixelfit.types import Facts, Json, PictureSpec

HUB = "hub"  # weights that timm fetches, or has fetched, from its hub
DEFAULT_BACKBONE = "efficientnet_lite0"
_WORTH_SIDE = 64  # pixels: features of photographs say little of pictures that are smaller
SIDES = Choice((128, 160, 224), 224)  # pixels at which backbones see pictures
_AT_ONCE = 32  # pictures: the maps of more do not fit into the processor's caches
_FOLDS = 5
_MOST_CROSS_VALIDATED = 3_000  # pictures; more are held out once
# Of the mean loss, on weights for standardised features; from strong to weak, each solved from the one before.
_PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
# Of the usual deviation of features. One that is zero in all training pictures but one would get a weight so large that another
# picture is predicted thirty deviations of the target away, and that rounding in the backbone (1e-5) shows in the fourth digit.
# Nested 5-fold RMSE on 429 photographs of houses in deviations of the price, 3 draws of the folds, side 224: with squared error
# 0.964 without the floor and 0.958 with it, with a histogram 0.941 and 0.940; with squared error, from 60 of them, 1.50 and
# 1.01, most of it in one draw. Chosen on these folds from 0, 0.1 and 0.3.
_LEAST_DEVIATION = 0.3
_PATIENCE = 2  # penalties in a row that make it worse
_ITERATIONS = 60
_LAYER_SHARE = 0.75  # of the learning rate of the layer above


class Backbone(nn.Module):
    """A backbone without its classifier, shown pictures at ``architecture["side"]`` pixels."""

    def __init__(self, spec: PictureSpec, architecture: Architecture, *, tuned: bool = False) -> None:
        super().__init__()
        grow = architecture["side"] / max(spec.height, spec.width)
        self.size = (max(32, round(spec.height * grow)), max(32, round(spec.width * grow)))
        self.body = timm_model(architecture["backbone"], with_classifier=False)
        self.body.requires_grad_(tuned)
        self.width = int(self.body.num_features)  # type: ignore[arg-type]

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, features)."""
        if self.training or torch.compiler.is_exporting():
            return self._some(pictures)  # batch normalisation wants the batch whole, and a graph has no loops
        return torch.cat([self._some(part) for part in torch.split(pictures, _AT_ONCE)])

    def _some(self, pictures: torch.Tensor) -> torch.Tensor:
        shown = pictures.expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures
        resized = F.interpolate(shown, size=self.size, mode="bilinear", antialias=True, align_corners=False)
        features: torch.Tensor = self.body(resized.contiguous(memory_format=torch.channels_last))
        return features


class Frozen(Backbone):
    """A backbone's features, and a linear layer on them."""

    def __init__(self, spec: PictureSpec, outputs: int, architecture: Architecture, *, tuned: bool = False) -> None:
        super().__init__(spec, architecture, tuned=tuned)
        self.output = nn.Linear(self.width, outputs)

    def answers(self, features: torch.Tensor) -> torch.Tensor:
        """(N, features) to (N, outputs)."""
        outputs: torch.Tensor = self.output(features)
        return outputs

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, outputs)."""
        return self.answers(self.features(pictures))


def offered(facts: Facts, weights: Path | None, backbone: str | None, progress: Progress) -> Mapping[str, Json] | None:
    """The backbone that a search may use, as part of an architecture; None where there is none, which is said if it was wanted.

    With neither ``weights`` nor ``backbone`` the usual backbone is offered for pictures that are large enough, if timm is there.

    Raises:
        DataError: ``weights`` cannot be read or does not fit, or the pictures have neither one channel nor three.
    """
    name = backbone or DEFAULT_BACKBONE
    longest = max(facts.original_height[1], facts.original_width[1])
    if facts.spec.channels not in (1, 3):
        if weights is not None:
            raise DataError(f"Pretrained weights are for grey or colour pictures; these have {facts.spec.channels} channels.")
        return None
    if weights is not None:
        pretrained_state(name, str(weights))
        return {"backbone": name, "weights": str(weights.resolve())}
    if backbone is None and (longest < _WORTH_SIDE or importlib.util.find_spec("timm") is None):
        return None
    try:
        pretrained_state(name, HUB)
    except DataError as error:
        progress.say(f"No pretrained backbone: {error} The search goes on without; --weights FILE names a file of weights.")
        return None
    return {"backbone": name, "weights": HUB}


def timm_model(backbone: str, *, with_classifier: bool) -> nn.Module:
    """The model of that name in timm, with fresh weights; raises DataError if timm cannot be used or knows no such model."""
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not fit torch
        raise DataError(
            f"The backbone {backbone} needs timm, which cannot be imported ({_line(error)}): pip install 'pixelfit[pretrained]'."
        ) from error
    if not timm.is_model(
        backbone
    ):  # timm would fetch hf-hub:NAME from there, and read local-dir:PATH, for a stranger's model too
        raise DataError(f"timm has no model {backbone!r}.")
    try:
        model: nn.Module = timm.create_model(backbone, pretrained=False, num_classes=None if with_classifier else 0)
    except RuntimeError as error:
        raise DataError(f"timm has no model {backbone!r}: {_line(error)}.") from error
    return model


def pretrained_state(backbone: str, weights: str) -> dict[str, torch.Tensor]:
    """The backbone's trained weights by timm's names, its classifier among them.

    Args:
        backbone: timm's name of the model.
        weights: ``HUB``, or a path of a safetensors file or of a torch file, which is read with ``weights_only=True``. Names in
            the file may be others than timm's if the order and the shapes are the same.

    Raises:
        DataError: the file cannot be read or does not fit; or the hub has no weights, or cannot be reached.
    """
    if weights == HUB:
        timm_model(backbone, with_classifier=True)  # says what is wrong with timm or the name, if anything
        import timm

        try:
            return dict(timm.create_model(backbone, pretrained=True).state_dict())
        except Exception as error:
            raise DataError(f"No weights of {backbone} could be had: {_line(error)}.") from error
    found = _read(Path(weights))
    like = timm_model(backbone, with_classifier=True).state_dict()
    state = found if set(found) == set(like) else dict(zip(like, found.values(), strict=False))
    if len(found) != len(like) or any(state[name].shape != tensor.shape for name, tensor in like.items()):
        raise DataError(
            f"{weights} does not fit {backbone}, which has {len(like)} tensors; it holds {len(found)}, or others in "
            f"shape or order: name its model with --backbone."
        )
    return state


def _read(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise DataError(f"There is no file of weights {path}.")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be read as weights: {_line(error)}.") from error
    for wrapped in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapped), dict):
            content = content[wrapped]
    if not isinstance(content, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        raise DataError(f"{path} holds no weights by name.")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _line(error: Exception) -> str:
    """The first line of what an error says."""
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")


def build(spec: PictureSpec, outputs: int, architecture: Architecture) -> nn.Module:
    """The backbone with fresh weights; ``begin`` brings the trained ones."""
    return Frozen(spec, outputs, architecture)


def begin(module: nn.Module, architecture: Architecture) -> None:
    """Give the backbone its trained weights."""
    assert isinstance(module, Backbone)
    state = pretrained_state(architecture["backbone"], architecture["weights"])
    module.body.load_state_dict({name: state[name] for name in module.body.state_dict()})


def fit(
    module: nn.Module,
    chunks: Iterable[torch.Tensor],
    targets: torch.Tensor,
    *,
    head: Head,
    architecture: Architecture,
    seed: int,
    time_left: Callable[[], float],
) -> int:
    """Compute the features of as many pictures as the time allows, and solve for the layer on them."""
    assert isinstance(module, Frozen)
    features = features_of(module, chunks, time_left)
    count = len(features)
    folds = torch.randperm(count, generator=torch.Generator().manual_seed(seed)) % _FOLDS
    held_out = range(1 if count > _MOST_CROSS_VALIDATED else min(_FOLDS, count))
    return _solve(module, features, targets[:count], head, folds, held_out, time_left)[0]


def cross_fit(
    module: nn.Module,
    chunks: Iterable[torch.Tensor],
    targets: torch.Tensor,
    folds: torch.Tensor,
    *,
    head: Head,
    architecture: Architecture,
    seed: int,
    time_left: Callable[[], float],
) -> torch.Tensor:
    """Compute the features once, and solve for the layer without each fold, and for the one that is kept on all of them."""
    assert isinstance(module, Frozen)
    features = all_features_of(module, chunks, len(targets), time_left)
    return _solve(module, features, targets, head, folds, range(int(folds.max()) + 1), time_left)[1]


def features_of(module: Backbone, chunks: Iterable[torch.Tensor], time_left: Callable[[], float]) -> torch.Tensor:
    """The features (N, F) of as many pictures as the time allows."""
    module.eval()
    parts: list[torch.Tensor] = []
    for chunk in chunks:
        parts.append(module.features(chunk))
        if time_left() <= 0:
            break
    return torch.cat(parts)


def all_features_of(module: Backbone, chunks: Iterable[torch.Tensor], count: int, time_left: Callable[[], float]) -> torch.Tensor:
    """The features (count, F) of all pictures; raises TimeoutError if the time does not allow that."""
    features = features_of(module, chunks, time_left)
    if len(features) < count:
        raise TimeoutError("the time was up before all features were computed")
    return features


def _solve(
    module: Frozen,
    features: torch.Tensor,
    encoded: torch.Tensor,
    head: Head,
    folds: torch.Tensor,
    held_out: range,
    time_left: Callable[[], float],
) -> tuple[int, torch.Tensor]:
    """Give the module its layer; return how many problems were solved, and the raw outputs for the held-out folds' pictures."""
    with torch.inference_mode(False), torch.enable_grad():
        features, encoded = features.clone(), encoded.clone()
        mean, deviation = features.mean(dim=0), _scale(features)
        features = (features - mean) / deviation
        penalty, solved, outputs = _best_penalty(features, encoded, head, folds, held_out, time_left)
        weight, bias = _minimised(features, encoded, head, penalty, _start(features, encoded, head))
        with torch.no_grad():  # the standardisation becomes part of the layer
            module.output.weight.copy_(weight / deviation)
            module.output.bias.copy_(bias - (weight / deviation) @ mean)
    return solved + 1, outputs


def _scale(features: torch.Tensor) -> torch.Tensor:
    """By how much each of the features (N, F) is divided: its deviation, or if that is small a share of what is usual, (F,)."""
    deviation = features.std(dim=0)
    usual = float(deviation.square().mean().sqrt())
    return deviation.clamp_min(max(_LEAST_DEVIATION * usual, 1e-6))


def _best_penalty(
    features: torch.Tensor,
    encoded: torch.Tensor,
    head: Head,
    folds: torch.Tensor,
    held_out: range,
    time_left: Callable[[], float],
) -> tuple[float, int, torch.Tensor]:
    """The penalty that held-out pictures are predicted best with, how many problems were solved, and the outputs for them."""
    latest = dict.fromkeys(held_out, _start(features, encoded, head))
    best, best_loss, worse, solved = _PENALTIES[0], math.inf, 0, 0
    best_outputs = torch.zeros(len(features), head.outputs)
    for penalty in _PENALTIES:
        losses, outputs = [], torch.zeros(len(features), head.outputs)
        for fold in held_out:
            learned, checked = folds != fold, folds == fold
            weight, bias = latest[fold] = _minimised(features[learned], encoded[learned], head, penalty, latest[fold])
            outputs[checked] = features[checked] @ weight.T + bias
            losses.append(float(head.loss(outputs[checked], encoded[checked], 0.0)))
            solved += 1
        loss = sum(losses) / len(losses)
        worse = worse + 1 if loss >= best_loss else 0
        if loss < best_loss:
            best, best_loss, best_outputs = penalty, loss, outputs
        if worse >= _PATIENCE or time_left() <= 0:
            break
    return best, solved, best_outputs


def _start(features: torch.Tensor, encoded: torch.Tensor, head: Head) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a layer that knows only how often each target occurs."""
    return torch.zeros(head.outputs, features.shape[1]), head.prior(encoded).float()


def _minimised(
    features: torch.Tensor, encoded: torch.Tensor, head: Head, penalty: float, start: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    weight, bias = (tensor.clone().requires_grad_() for tensor in start)
    solver = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        value = head.loss(features @ weight.T + bias, encoded, 0.0) + penalty / 2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


def build_tuned(spec: PictureSpec, outputs: int, architecture: Architecture) -> nn.Module:
    """As ``build``, with a backbone whose weights are trained on."""
    module = Frozen(spec, outputs, architecture, tuned=True)
    nn.init.zeros_(module.output.weight)  # so that the backbone is not pulled about before the layer on it knows anything
    return module


def layer_rates(module: nn.Module) -> list[tuple[list[nn.Parameter], float]]:
    """Each layer's weights with its share of the learning rate, which falls from the last layer to the first.

    What the first layers see is common to all pictures (layer-wise rates: Howard & Ruder 2018, arXiv:1801.06146).
    """
    assert isinstance(module, Frozen)
    layers: list[nn.Module] = []
    for child in module.body.children():
        layers += list(child.children()) if isinstance(child, (nn.Sequential, nn.ModuleList)) else [child]
    weights = [list(layer.parameters()) for layer in layers if any(True for _ in layer.parameters())]
    shares = [_LAYER_SHARE ** (len(weights) - place) for place in range(len(weights))]
    return [*zip(weights, shares, strict=True), (list(module.output.parameters()), 1.0)]


FAMILY = Family(
    "frozen",
    "linear on the features of a pretrained backbone",
    build,
    space={"side": SIDES},
    fit=fit,
    cross_fit=cross_fit,
    begin=begin,
    pretrained=True,
    augmented=False,
)

TUNED = Family(
    "tuned",
    "a pretrained backbone, trained on",
    build_tuned,
    space={"side": Choice((128, 160, 224), 160)},
    learning_rate=Between(1e-4, 1e-2, 2e-3, log=True),
    begin=begin,
    layer_rates=layer_rates,
    pretrained=True,
    searched=False,  # too long for the short trials of a search: it is trained once, where the frozen one does well
)
