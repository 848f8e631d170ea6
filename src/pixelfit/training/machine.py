"""What the machine can do, measured once before the first training: device, threads, and whether bfloat16 pays."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import nn

from pixelfit.environment import usable_cores
from pixelfit.errors import RunError
from pixelfit.types import Json

_ROUNDS = 6  # the first two pick kernels and do not count
_LAYERS = 3
_LEAST_GAIN = 1.1  # bfloat16 rounds: below this speed-up it is not worth it
_PROBE = (64, 32, 24)  # pictures, channels and pixels a side of the convolution that is timed


@dataclass(frozen=True)
class Machine:
    """Where and how to train.

    ``speed_up`` is how many times faster a convolution with batch normalisation trains in bfloat16 than in float32;
    ``flops`` the floating-point operations a second that it reaches in the precision chosen.
    """

    device: str
    threads: int
    low_precision: bool
    speed_up: float
    flops: float

    def to_json(self) -> Json:
        """The machine as JSON."""
        return asdict(self)


def machine() -> Machine:
    """The machine as measured before the first training, or as one that is adopted was."""
    return _adopted[-1] if _adopted else _measured()


@contextmanager
def adopted(recorded: Machine) -> Iterator[None]:
    """Within this block trainings run as an earlier process's did, whatever a measurement says now: its threads, its precision.

    Raises:
        RunError: it trained on another kind of device.
    """
    if recorded.device != _measured().device:
        raise RunError(f"The run was trained on {recorded.device.upper()}, which this machine does not do.")
    torch.set_num_threads(recorded.threads)
    _adopted.append(recorded)
    try:
        yield
    finally:
        _adopted.pop()
        torch.set_num_threads(machine().threads)


@contextmanager
def with_threads(threads: int) -> Iterator[None]:
    """Within this block torch computes with so many threads; 0 leaves as many as there are."""
    machine()  # which settles them itself when it is measured, so not within this block
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if threads:
            torch.set_num_threads(before)


def hand_down(measured: Machine) -> None:
    """Train as the process does that started this one, without measuring anew."""
    torch.set_num_threads(measured.threads)
    _adopted[:] = [measured]


_adopted: list[Machine] = []


@functools.cache
def _measured() -> Machine:
    """Measure the machine, and pin torch's threads to the cores that this process may use. Takes about a quarter second."""
    threads = usable_cores()
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # the shapes stay the same from step to step
    dtypes = (torch.float32, torch.bfloat16) if _can_low(device) else (torch.float32,)
    step = _probe(device)
    # In turns, so that a slow moment of the machine does not count against one of them.
    seconds = [[step(dtype) for dtype in dtypes] for _ in range(_ROUNDS)]
    full, low = (min(column) for column in zip(*seconds[2:], strict=True)) if len(dtypes) > 1 else (seconds[-1][0], math.inf)
    speed_up = full / low
    pictures, channels, side = _PROBE
    flops = 6 * _LAYERS * pictures * side**2 * 9 * channels**2 / min(full, low)  # two forward, four backward for a weight
    return Machine(device.type, threads, speed_up >= _LEAST_GAIN, round(speed_up, 2), round(flops, -6))


def _can_low(device: torch.device) -> bool:
    # Without hardware for it, processors emulate bfloat16 so slowly that not even the measurement is wanted.
    return torch.cuda.is_bf16_supported() if device.type == "cuda" else bool(torch.cpu._is_avx512_bf16_supported())


def _probe(device: torch.device) -> Callable[[torch.dtype], float]:
    """A function that gives the seconds of one forward and backward pass of a small net in the precision asked for."""
    pictures, channels, side = _PROBE
    with torch.random.fork_rng(devices=[]):
        layers = [
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
            for _ in range(_LAYERS)
        ]
        net = nn.Sequential(*layers).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        batch = torch.randn(pictures, channels, side, side).to(device).contiguous(memory_format=torch.channels_last)

    def seconds(dtype: torch.dtype) -> float:
        started = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = net(batch).float().square().mean()
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return seconds
