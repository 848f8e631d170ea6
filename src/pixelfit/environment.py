"""Where a run takes place: versions and hardware, for the report, and how much of it this process may use."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path, PurePosixPath

import psutil

from pixelfit.types import Json

_GROUPS = Path("/sys/fs/cgroup")  # Linux: the control groups, which containers and clusters' queues limit
_OWN_GROUPS = Path("/proc/self/cgroup")  # this process's groups, a line for each kind: number:kinds:path
_MEASURED_S = 0.05
_HARDLY_SLOWED, _MOST_SLOWED = 1.15, 4.0
# A run does more than compute: beside two busy programs on two cores, what follows a search took 1.9 times as long, where pure
# computation took 2.9 times.
_COUNTED = 0.6
_VERSIONS_OF = ("pixelfit", "torch", "numpy", "scikit-learn", "optuna", "pillow", "pandas")


def environment() -> Json:
    """Versions and hardware as JSON."""
    import torch

    versions = {name: metadata.version(name) for name in _VERSIONS_OF}
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "instructions": _instructions(),
        "cores": psutil.cpu_count(logical=True),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions,
    }


def usable_cores() -> int:
    """Cores that this process may use: of its affinity mask, and of its control groups' quotas where there are any."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [text.split() for text in _group_settings("", "cpu.max")]
    version_1 = (_group_settings("cpu", name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    quotas += map(list, zip(*version_1, strict=True))
    for allowed, period in quotas:
        if allowed.isdigit():  # else "max", or -1 in version 1
            cores = min(cores, max(1, int(allowed) // int(period)))
    return cores


def slowed_by_others() -> float:
    """How many times as long a computation takes for other programs' sake: 1 on an idle machine, measured in 50 ms."""
    began, computed = time.perf_counter(), time.thread_time()
    while time.thread_time() - computed < _MEASURED_S:
        pass
    factor = (time.perf_counter() - began) / _MEASURED_S
    return 1.0 if factor < _HARDLY_SLOWED else min(1 + _COUNTED * (factor - 1), _MOST_SLOWED)


@contextmanager
def memory_allowed(most: int | None) -> Iterator[None]:
    """Within this block the memory limit is not above so many bytes; None changes nothing."""
    _allowed.append(psutil.virtual_memory().total if most is None else most)
    try:
        yield
    finally:
        _allowed.pop()


_allowed: list[int] = []


def memory_limit() -> int:
    """Bytes of memory that this process may use at most, whatever others use now."""
    limits = [*_allowed, psutil.virtual_memory().total]
    limits += [
        int(text)
        for text in [*_group_settings("", "memory.max"), *_group_settings("memory", "memory.limit_in_bytes")]
        if text.isdigit()
    ]
    if sys.platform != "win32":
        import resource

        for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            soft, _ = resource.getrlimit(kind)
            if soft != resource.RLIM_INFINITY:
                limits.append(soft)
    return min(limits)


def _group_settings(kind: str, name: str) -> list[str]:
    """A setting of this process's control group and of all above it; of version 2, whose kind is "", or of version 1.

    A container may show its own group at the root under a path that only the machine outside knows, so the root counts too.
    """
    if not _OWN_GROUPS.is_file():
        return []
    for line in _OWN_GROUPS.read_text(encoding="utf-8").splitlines():
        _, kinds, path = line.split(":", 2)
        if kind in kinds.split(","):
            root, own = _GROUPS / kind, PurePosixPath(path.lstrip("/"))
            files = [root / group / name for group in (own, *own.parents)]
            return [file.read_text(encoding="ascii").strip() for file in files if file.is_file()]
    return []


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _instructions() -> str:
    """The widest vector instructions that PyTorch uses here, which decide a processor's speed more than its name does.

    Two machines that both call themselves "AMD EPYC" with 2 cores trained at 250 and 71 GFLOP/s: one had AVX-512 with
    bfloat16, the other AVX2.
    """
    import torch

    found = torch.backends.cpu.get_cpu_capability()
    return f"{found} with bfloat16" if torch.cpu._is_avx512_bf16_supported() else found
