"""What pixelfit costs beside the training itself: its loop against a bare one, the run around it, its imports."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks import pixelfit_side, shared, tasks
from benchmarks.bare import BareLoop, gemm_flops
from pixelfit.files import read_json
from pixelfit.models import FAMILIES
from pixelfit.training.recipe import Augmentation

ROWS = ("loop", "loop-plain", "gemm", "run", "start")
_PICTURES = 60_000  # as many as MNIST has: a training set that fits no cache
_IMPORT = "import sys, time; t = time.perf_counter(); import pixelfit; print(time.perf_counter() - t, 'torch' in sys.modules)"


def main() -> None:
    """Measure the rows that are not measured yet, and write the tables of all that are."""
    parser = shared.options_parser("overhead", __doc__, ROWS)
    shared.data_option(parser)
    parser.add_argument("--pairs", type=int, help="alternations of pixelfit's loop and the bare one (default 7)")
    parser.add_argument("--family", default="convnet", choices=["convnet", "resnet"], help="whose known-good net is trained")
    parser.add_argument("--budget", default="10m", help="of the run on MNIST whose time is divided up (default 10m)")
    parser.add_argument("--run", type=Path, help="take this finished run instead of a new one")
    options = parser.parse_args()
    journal = shared.journal_of("overhead", options)
    measures = {
        "loop": lambda: _loops(options, augmented=True),
        "loop-plain": lambda: _loops(options, augmented=False),
        "gemm": lambda: _gemm(quick=options.quick),
        "run": lambda: _run(options),
        "start": lambda: _start(quick=options.quick),
    }
    for row, measure in measures.items():
        if not options.only or row in options.only:
            if row == "run" and options.quick and options.run is None:
                continue  # a whole run is nothing for a quick look
            key = {"row": row, "quick": options.quick} | ({"family": options.family} if row.startswith("loop") else {})
            journal.once(key, measure)
    records = [record for record in journal.records() if record["key"]["quick"] == options.quick]
    figures = {row: [record for record in records if record["key"]["row"] == row] for row in ROWS}
    shared.write_results(
        "overhead",
        options,
        tables=[*_loop_tables(figures), _run_table(figures["run"]), _start_table(figures["start"])],
        notes=[
            "loop: the same net, batches, augmentation, precision and optimiser; pixelfit and the bare loop take turns in one "
            "process; pixelfit's seconds a step are those of a long training less those of a short one, so that set-up does not "
            "count, and it has no validation set to look at; data: 60,000 made-up pictures of 28×28",
            "operations: of the forward and backward pass, counted by torch's flop counter (convolutions and products only); "
            "peak: the best of 20 products of two 2048×2048 matrices",
            "in training: the sum of the trials' `step_s`, or of their `seconds` (with their checks, calibration and "
            "predictions) where a run has not recorded the former",
        ],
        figures={"runs": records},
        commits=[record["commit"] for record in records],
    )


def _loops(options: argparse.Namespace, *, augmented: bool) -> shared.Json:
    """Seconds a step of pixelfit's loop and of the bare one, in turns."""
    count, pairs, steps = (600, 1, (2, 4)) if options.quick else (_PICTURES, 7, (40, 240))
    X, y = pixelfit_side.digits_like(count, 28)
    ready = pixelfit_side.prepared(X, y, "classification")
    recipe = pixelfit_side.known_good(ready, options.family)
    if not augmented:
        recipe = replace(recipe, augmentation=Augmentation())
    torch.manual_seed(0)
    net = FAMILIES[recipe.family].build(ready.facts.spec, 10, recipe.architecture)
    labels = ready.train.targets.astype(np.int64)
    pictures = ready.train.store[ready.train.rows]
    bare = BareLoop(net, recipe, pictures, labels, low_precision=pixelfit_side.in_bfloat16())
    pixelfit_side.trained(recipe, ready, steps[0])  # warms up, as the bare loop does before it is timed
    ours, theirs = [], []
    for _ in range(options.pairs or pairs):
        ours.append(pixelfit_side.step_seconds(recipe, ready, steps))
        theirs.append(bare.step_seconds(steps[1] - steps[0], augmented=augmented))
        shared.say(f"  pixelfit {1e3 * ours[-1]:.2f} ms a step, bare {1e3 * theirs[-1]:.2f}")
    return {
        "recipe": recipe.to_json(),
        "batch": recipe.batch_size,
        "precision": "bfloat16" if bare.low_precision else "float32",
        "pixelfit_step_s": ours,
        "bare_step_s": theirs,
        "step_flops": bare.step_flops(),
    }


def _gemm(*, quick: bool) -> shared.Json:
    side = 256 if quick else 2048
    # Processors without bfloat16 emulate it: one trained 58 pictures a second in it, and 729 in float32.
    timed = {name: dtype for name, dtype in _DTYPES.items() if name != "bfloat16" or pixelfit_side.in_bfloat16()}
    return {"side": side, **{name: gemm_flops(dtype, side=side) for name, dtype in timed.items()}}


_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def _run(options: argparse.Namespace) -> shared.Json:
    """How the time of a run divides up."""
    folder: Path = options.run or shared.fresh_folder("overhead", "mnist-regression-0")
    if options.run is None:
        command = tasks.command("mnist-regression", options, budget=options.budget, seed=0, out=folder)
        shared.fit_measured(command, folder)
    return time_of(folder)


def time_of(folder: Path) -> shared.Json:
    """A finished run's seconds: whole, by phase, and in training."""
    scores = read_json(folder / "scores.json")
    trials = [read_json(file) for file in sorted(folder.glob("trials/*/trial.json"))]
    exact = all("step_s" in trial for trial in trials)  # runs of earlier versions have no such figure
    return {
        "budget_s": scores["budget_s"],
        "wall_s": scores["wall_s"],
        "until_s": read_json(folder / "timeline.json")["seconds"],
        "trials": len(trials),
        "training_s": sum(trial["step_s"] if exact else trial["seconds"] for trial in trials),
        "training_is": "step_s" if exact else "seconds",
    }


def _start(*, quick: bool) -> shared.Json:
    """Seconds of the import and of ``--help`` in fresh interpreters."""
    imports, helps, torch_too = [], [], False
    for _ in range(1 if quick else 5):
        printed = subprocess.run(
            [sys.executable, "-c", _IMPORT], env=shared.child_environment(), capture_output=True, text=True, check=True
        ).stdout.split()
        imports.append(float(printed[0]))
        torch_too = torch_too or printed[1] == "True"
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "pixelfit", "--help"], env=shared.child_environment(), capture_output=True, check=True
        )
        helps.append(time.perf_counter() - began)
    return {"import_s": imports, "import_loads_torch": torch_too, "help_s": helps}


def _loop_tables(figures: dict[str, list[dict[str, shared.Json]]]) -> list[str]:
    speeds, shares = [], []
    peaks = figures["gemm"][-1]["figures"] if figures["gemm"] else None
    for row in ("loop", "loop-plain"):
        for record in figures[row]:
            found = record["figures"]
            name = f"{record['key']['family']}, {'augmented' if row == 'loop' else 'no augmentation'}, {found['precision']}"
            ours, theirs, batch = found["pixelfit_step_s"], found["bare_step_s"], found["batch"]
            ratios = [bare / own for own, bare in zip(ours, theirs, strict=True)]
            speeds.append(
                [
                    name,
                    shared.spread([batch / seconds for seconds in ours], "{:,.0f}"),
                    shared.spread([batch / seconds for seconds in theirs], "{:,.0f}"),
                    shared.spread(ratios, "{:.3f}"),
                    str(len(ratios)),
                ]
            )
            if peaks:
                rate = found["step_flops"] / shared.median(ours)
                shares.append(
                    [
                        name,
                        f"{found['step_flops'] / batch / 1e6:.1f}",
                        f"{rate / 1e9:.0f}",
                        *(
                            f"{rate / peaks[dtype]:.1%} of {peaks[dtype] / 1e9:,.0f}" if dtype in peaks else "–"
                            for dtype in _DTYPES
                        ),
                    ]
                )
    tables = []
    if speeds:
        tables.append(shared.table(["net", "pixelfit, pictures/s", "bare loop, pictures/s", "ratio", "pairs"], speeds))
    if shares:
        header = ["net", "million operations a picture", "loop, GFLOP/s", "share of the bf16 peak", "share of the fp32 peak"]
        tables.append(shared.table(header, shares))
    return tables


def _run_table(records: list[dict[str, shared.Json]]) -> str:
    lines = []
    for record in records:
        found = record["figures"]
        share = 1 - found["training_s"] / found["wall_s"]
        until = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in found["until_s"].items())
        lines.append(
            [f"{found['budget_s'] or 0:.0f} s", f"{found['wall_s']:.1f}", str(found["trials"]), f"{found['training_s']:.1f}"]
        )
        lines[-1] += [found["training_is"], f"{share:.1%}", until]
    header = ["budget", "whole run, s", "trials", "in training, s", "counted by", "share outside", "end of each phase, s"]
    return shared.table(header, lines) if lines else ""


def _start_table(records: list[dict[str, shared.Json]]) -> str:
    lines = []
    for record in records:
        found = record["figures"]
        lines.append(["`import pixelfit`", shared.spread(found["import_s"]), "yes" if found["import_loads_torch"] else "no"])
        lines.append(["`pixelfit --help`", shared.spread(found["help_s"]), ""])
    return shared.table(["command", "seconds", "loads torch"], lines) if lines else ""


if __name__ == "__main__":
    shared.run(main)
