"""A running average of a training's weights, which is often better than the last of them."""

from __future__ import annotations

import torch
from torch import nn

_EVERY = 4  # steps: weights change little from one step to the next, and each round costs a pass over them


class WeightAverage:
    """An exponential average of a module's weights and buffers (Polyak & Juditsky 1992, in the form of Tarvainen & Valpola 2017).

    ``horizon`` is the number of steps over which the average reaches back.
    """

    def __init__(self, module: nn.Module, horizon: float) -> None:
        self._module = module
        self._keep = max(0.0, 1.0 - _EVERY / max(horizon, _EVERY))
        self._average: dict[str, torch.Tensor] = {}
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the module's present weights in; to be called after each step."""
        self.steps += 1
        if self.steps % _EVERY:
            return
        now = self._module.state_dict()
        if not self._average:
            self._average = {name: tensor.clone() for name, tensor in now.items()}
            return
        # At the start the plain mean of what there is: an average that still remembers the first weights would lag.
        share = max(1.0 - self._keep, 1.0 / (self.steps // _EVERY))
        real = [name for name, tensor in now.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self._average[name] for name in real], [now[name] for name in real], share)

    def state(self) -> dict[str, torch.Tensor]:
        """The averaged weights as a state dict; empty before the first round."""
        now = self._module.state_dict()
        return {name: tensor if tensor.is_floating_point() else now[name] for name, tensor in self._average.items()}

    def kept(self) -> dict[str, torch.Tensor]:
        """The averages themselves, for a checkpoint."""
        return self._average

    def go_on(self, kept: dict[str, torch.Tensor], steps: int) -> None:
        """Go on from the averages that a checkpoint kept after so many steps."""
        self._average, self.steps = kept, steps
