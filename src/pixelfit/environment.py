"""Where a run takes place: versions and hardware, for the report and for whoever repeats the run."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path

import psutil
import torch

from pixelfit.types import Json

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
