"""For machines on which torchvision's compiled operators do not fit the torch that is there, as beside its CPU build.

timm imports torchvision, and torchvision registers what it knows of its operators, which fails where there are none. With their
names made known both load; no operator is ever called here.
"""

from __future__ import annotations

import importlib
import re
import sys

import torch

_libraries: list[torch.library.Library] = []  # definitions live as long as their library


def make_importable() -> None:
    """Import torchvision, defining each operator that it misses; does nothing where it loads as it is."""
    for _ in range(50):
        try:
            importlib.import_module("torchvision")
            return
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{missing[1]}(Tensor x) -> Tensor")
            _libraries.append(library)
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
    raise RuntimeError("torchvision still misses operators")
