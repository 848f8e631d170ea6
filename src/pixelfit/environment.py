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
