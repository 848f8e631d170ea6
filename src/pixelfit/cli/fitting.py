"""Commands that look at data and search for a model."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pixelfit.cli.arguments import (
    STARTED,
    AddressOption,
    AugmentOption,
    BackboneOption,
    BudgetOption,
    DataDirOption,
    DistillOption,
    EngineOption,
    FoldsOption,
    GroupOption,
    LatencyOption,
    LeftOutOption,
    LiveOption,
    MemoryOption,
    MetricOption,
    OutOption,
    OverwriteOption,
    PicturesOption,
    PortOption,
    RanksOption,
    ResumeOption,
    RunArgument,
    SeedOption,
    SourceArgument,
    StepsOption,
    TargetOption,
    TaskOption,
    TestOption,
    TrackOption,
    TrialsOption,
    WeightsOption,
    WorkersOption,
)
from pixelfit.cli.printing import console_for, print_result
from pixelfit.errors import OptionError, RunError

if TYPE_CHECKING:
    from rich.console import Console

    from pixelfit.live import LiveView
    from pixelfit.options import FitOptions


def fit(
    source: SourceArgument,
    task: TaskOption = None,
    target: TargetOption = None,
    pictures: PicturesOption = None,
    group: GroupOption = None,
    test: TestOption = None,
    max_left_out: LeftOutOption = None,
    metric: MetricOption = None,
    budget: BudgetOption = None,
    trials: TrialsOption = None,
    steps: StepsOption = None,
    max_latency: LatencyOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    workers: WorkersOption = None,
    ranks: RanksOption = 1,
    memory: MemoryOption = None,
    distill: DistillOption = False,
    folds: FoldsOption = None,
    augment: AugmentOption = None,
    weights: WeightsOption = None,
    backbone: BackboneOption = None,
    seed: SeedOption = 0,
    out: OutOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    data_dir: DataDirOption = None,
    track: TrackOption = None,
    live: LiveOption = False,
    port: PortOption = None,
) -> None:
    """Find the best model for SOURCE, measure it once on unseen pictures, and write a report."""
    from pixelfit.options import checked_options

    options = checked_options(
        task=task,
        target=target,
        pictures=pictures,
        group=group,
        test=test,
        max_left_out=max_left_out,
        metric=metric,
        max_latency=max_latency,
        engine=engine,
        address=address,
        workers=workers,
        ranks=ranks,
        memory=memory,
        distill=distill,
        folds=folds,
        augment=augment,
        weights=weights,
        backbone=backbone,
        budget=budget,
        trials=trials,
        steps=steps,
        seed=seed,
        out=out,
        overwrite=overwrite,
        resume=resume,
        data_dir=data_dir,
        track=track,
    )
    _fit(source, options, live=live, port=port)


def resume(
    run: RunArgument,
    engine: Annotated[
        Literal["local", "ray"] | None, typer.Option(help="Where to go on: this machine, or a Ray cluster. Default: as before.")
    ] = None,
    address: AddressOption = None,
    workers: WorkersOption = None,
    live: LiveOption = False,
    port: PortOption = None,
) -> None:
    """Go on with a run that was broken off, with what is left of its budget."""
    from pixelfit.resume import begun
    from pixelfit.runs import RunFolder

    folder = RunFolder.existing(run)
    if folder.is_finished():
        typer.echo(f"The run in {run} is finished; its report is {folder.report_file}.")
        return
    means = {"engine": engine, "address": address, "workers": workers}
    if engine is None:  # otherwise an address or a number that was given for the other says nothing of this one
        means = {name: value for name, value in means.items() if value is not None}
    source, options = begun(run, means)
    _fit(source, options, live=live, port=port)


def replay(run: RunArgument) -> None:
    """Train a run's final model again from the record alone, and compare the scores. Changes nothing in RUN."""
    console = console_for()
    from pixelfit.display import Display

    with Display(console, budget_s=None, started=STARTED) as display:
        from pixelfit.replay import replay as replayed

        found = replayed(run, display)
    for figure in found.figures:
        typer.echo(f"{figure.what}: {figure.recorded!r}" + ("" if figure.is_same else f", and now {figure.again!r}"))
    if not found.is_same:
        raise RunError(f"The model of {run} came out differently: other hardware or other versions than run.json names, perhaps.")
    typer.echo(f"Trained trials {', '.join(map(str, found.trials))} again: the same to the last digit.")


def inspect(
    source: SourceArgument,
    task: TaskOption = None,
    target: TargetOption = None,
    pictures: PicturesOption = None,
    group: GroupOption = None,
    test: TestOption = None,
    seed: SeedOption = 0,
    data_dir: DataDirOption = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="JSON file to write everything into, every row by name.")
    ] = None,
) -> None:
    """Look at SOURCE as a fit would, and say what is in it and what is wrong with it. Trains nothing."""
    from pixelfit.options import checked_options

    options = checked_options(
        task=task, target=target, pictures=pictures, group=group, test=test, seed=seed, data_dir=data_dir, max_left_out=1.0
    )
    console = console_for()
    from pixelfit.display import Display

    with Display(console, budget_s=None, started=STARTED) as display:
        from pixelfit.data.describe import describe, tell_all
        from pixelfit.data.reading import read
        from pixelfit.files import write_json

        facts, splits = read(source, options, display)
    tell_all(facts, splits, display)
    if out is not None:
        write_json(out, {"facts": facts.to_json(), **describe(splits, facts)})
        display.say(f"Wrote {out}.")


def demo(
    task: Annotated[
        Literal["regression", "classification"], typer.Option(help="Digits as numbers, or as labels.")
    ] = "regression",
    budget: Annotated[str, typer.Option(help="Time for the whole command.")] = "2m",
    seed: SeedOption = 0,
    out: OutOption = None,
    live: LiveOption = False,
    port: PortOption = None,
) -> None:
    """Run the whole of pixelfit on 5,000 real handwritten digits. Needs no network."""
    from pixelfit.options import checked_options

    _fit("mnist-5k", checked_options(task=task, budget=budget, seed=seed, out=out), live=live, port=port)


def _fit(source: str, options: FitOptions, *, live: bool, port: int | None) -> None:
    console = console_for()
    from pixelfit.display import Display
    from pixelfit.progress import Progress, Several
    from pixelfit.search.nursery import Nursery

    if port is not None and not live:
        raise OptionError("--port is that of the page that --live serves: give --live, too, or leave it out.")
    view = _live_view(console, source, options, port or 0) if live else None
    with ExitStack() as stack:
        if view is not None:
            stack.enter_context(view)
        # It loads what trials need while this process does the same.
        nursery = stack.enter_context(Nursery()) if options.engine == "local" and Nursery.can_be() else None
        with Display(console, budget_s=options.budget_s, started=STARTED) as display:
            from pixelfit.automl import fit

            progress: Progress = display if view is None else Several(display, view.state)
            run = fit(source, options, progress=progress, started=STARTED, nursery=nursery)
        print_result(console, run)
        if view is not None:
            view.finish(run)


def _live_view(console: Console, source: str, options: FitOptions, port: int) -> LiveView:
    from rich.text import Text

    from pixelfit.live import LiveView

    view = LiveView(source, budget_s=options.budget_s, started=STARTED, port=port)
    console.print(Text(f"Live view: {view.address}"), soft_wrap=True)
    return view
