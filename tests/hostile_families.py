"""Families whose trials end badly, for ``Nursery([...])``: what it imports, its children know."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from pixelfit.models import FAMILIES, mlp


def _crashes() -> None:
    ctypes.string_at(0)


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hangs() -> None:
    time.sleep(600)


def _raises() -> None:
    raise ValueError("no such luck")


def _exits() -> None:
    os._exit(3)


def _grows() -> None:
    held = []
    while True:
        held.append(torch.ones(4 << 20))
        time.sleep(0.01)


HOSTILE: dict[str, Callable[[], None]] = {
    "crashes": _crashes, "killed": _killed, "hangs": _hangs, "raises": _raises, "exits": _exits, "grows": _grows,
}  # fmt: skip


class NotANumber(torch.nn.Module):
    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.net(pictures) * float("nan")


def _family(name: str, act: Callable[[], None]) -> None:
    def build(*words: object) -> torch.nn.Module:
        if os.getpid() != _HOME:
            act()
        return mlp.FAMILY.build(*words)  # type: ignore[arg-type]

    FAMILIES[name] = replace(mlp.FAMILY, name=name, build=build, searched=False)


def on_ray() -> None:
    """Be hostile in this process, too: a worker imports the module itself."""
    global _HOME  # noqa: PLW0603
    _HOME = -1


_HOME = os.getpid()  # where the module was imported; a child that was forked has another
for _name, _act in HOSTILE.items():
    _family(_name, _act)
FAMILIES["nan"] = replace(mlp.FAMILY, name="nan", build=lambda *words: NotANumber(mlp.FAMILY.build(*words)), searched=False)
