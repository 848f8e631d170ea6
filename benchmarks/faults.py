"""Kills a small search at random moments, goes on with it to its end, and compares what came out with an undisturbed run.

What is compared: the scores to the last digit, the trials' recipes and scores, that each was counted once, and the checksums.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import shared

_LEAST_S, _MOST_S = 0.1, 0.9  # of an undisturbed run's seconds, between which a kill falls
_MOST_KILLS_A_RUN = 40
_SEARCH = ("fit", "mnist-5k", "--task", "regression", "--trials", "4")
ROW = "kills"


@dataclass
class Tally:
    """What the kills hit, and what became of the runs."""

    kills: int = 0
    runs: int = 0
    phases: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)


def main() -> None:
    """Run the benchmark."""
    parser = shared.options_parser("faults", "Kill a small search again and again, and go on with it.", [ROW])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kills = 2 if options.quick else options.kills
    command = [*_SEARCH, "--steps", "40" if options.quick else "120"]
    folder = shared.fresh_folder("faults")
    folder.mkdir(parents=True)
    begun = time.monotonic()
    subprocess.run(_pixelfit(*command, "--out", str(folder / "undisturbed")), check=True, stdout=subprocess.DEVNULL)
    whole_s = time.monotonic() - begun
    wanted = outcome(folder / "undisturbed")
    dice, tally = random.Random(options.seed), Tally()
    while tally.kills < kills:
        disturbed(command, folder / "disturbed", whole_s, dice, tally, most=kills - tally.kills)
        compare(outcome(folder / "disturbed"), wanted, tally)
        shared.say(f"{tally.kills} kills, {tally.runs} runs, {len(tally.differences)} differences, {dict(tally.phases)}")
        shutil.rmtree(folder / "disturbed")
    phases = [[phase, str(count)] for phase, count in tally.phases.most_common()]
    shared.write_results(
        "faults",
        options,
        tables=[shared.table(["killed while at", "kills"], phases)],
        notes=[
            f"{tally.kills} kills of {tally.runs} runs, each gone on with to its end; an undisturbed run took {whole_s:.0f} s.",
            f"Runs whose scores, trials, counts or checksums differed from the undisturbed run's: {len(tally.differences)}.",
        ],
        figures={"undisturbed_s": round(whole_s, 1), **vars(tally), "phases": dict(tally.phases)},
        commits=[shared.commit()],
    )
    shutil.rmtree(folder)
    if tally.differences:
        raise shared.BenchmarkError("; ".join(tally.differences))


def disturbed(
    command: list[str], out: Path, whole_s: float, dice: random.Random, tally: Tally, *, most: int = _MOST_KILLS_A_RUN
) -> None:
    """One run, killed again and again at random moments, until it ends by itself."""
    tally.runs += 1
    words = _pixelfit(*command, "--out", str(out), "--resume")
    for _ in range(min(most, _MOST_KILLS_A_RUN)):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            _, said = process.communicate(timeout=dice.uniform(_LEAST_S, _MOST_S) * whole_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            tally.kills += 1
            tally.phases[phase_of(out)] += 1
            continue
        if process.returncode != 0 and "is finished" not in said:  # it had ended just before the last kill
            tally.differences.append(f"ended with {process.returncode}: {said.strip()[-300:]}")
        return
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    if ended.returncode != 0 and "is finished" not in ended.stderr:
        tally.differences.append(f"ended with {ended.returncode}: {ended.stderr.strip()[-300:]}")


def phase_of(out: Path) -> str:
    """Where a run stood that was killed."""
    if not (out / "run.json").is_file():
        return "data"
    trials = list(out.glob("trials/*"))
    if any(not (trial / "SHA256SUMS").is_file() for trial in trials):
        return "trial, kept" if list(out.glob("trials/*/checkpoint-*")) else "trial"
    if not (out / "scores.json").is_file():
        return "ensemble or scoring" if trials else "before the first trial"
    return "report" if not (out / "SHA256SUMS").is_file() else "after the end"


def outcome(out: Path) -> dict[str, Any]:
    """What must be the same however often a run was broken off."""
    scores = json.loads((out / "scores.json").read_text())
    trials = [json.loads(file.read_text()) for file in sorted(out.glob("trials/*/trial.json"))]
    leaderboard = (out / "leaderboard.csv").read_text().splitlines()
    checked = [subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=file.parent, check=False, capture_output=True)
               for file in out.rglob("SHA256SUMS")]  # fmt: skip
    return {
        "scores": {name: scores[name] for name in ("test", "baseline", "intervals", "rows")},
        "trials": [[trial[name] for name in ("number", "recipe", "purpose", "score", "steps", "seed")] for trial in trials],
        "counted": len(leaderboard) - 1,
        "checksums": all(each.returncode == 0 for each in checked),
        "left over": sorted(
            str(file.relative_to(out)) for file in out.rglob("*") if ".part" in file.name or "checkpoint" in file.name
        ),
    }


def compare(found: dict[str, Any], wanted: dict[str, Any], tally: Tally) -> None:
    """Note what differs."""
    tally.differences += [f"{name}: {found[name]} in place of {wanted[name]}" for name in wanted if found[name] != wanted[name]]


def _pixelfit(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "pixelfit", *words]


if __name__ == "__main__":
    shared.run(main)
