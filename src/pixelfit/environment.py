"""Where a run takes place: versions and hardware, for the report, and how much of it this process may use."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

import psutil
import torch

from pixelfit.types import Json

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # Linux, control groups of version 2
_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # version 2, 1
_VERSIONS_OF = ("pixelfit", "torch", "numpy", "scikit-learn", "optuna", "pillow", "pandas")


def environment() -> Json:
    """Versions and hardware as JSON."""
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
    """Cores that this process may use: of its affinity mask, and of its control group's quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if _QUOTA.is_file():
        allowed, period = _QUOTA.read_text(encoding="ascii").split()
        if allowed != "max":
            cores = min(cores, max(1, int(allowed) // int(period)))
    return cores


def memory_limit() -> int:
    """Bytes of memory that this process may use at most, whatever others use now."""
    limits = [psutil.virtual_memory().total]
    for file in _MEMORY_LIMITS:
        if file.is_file() and (text := file.read_text(encoding="ascii").strip()).isdigit():
            limits.append(int(text))
    if sys.platform != "win32":
        import resource

        for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            soft, _ = resource.getrlimit(kind)
            if soft != resource.RLIM_INFINITY:
                limits.append(soft)
    return min(limits)


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
    found = torch.backends.cpu.get_cpu_capability()
    return f"{found} with bfloat16" if torch.cpu._is_avx512_bf16_supported() else found
