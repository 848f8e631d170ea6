"""The command line: parse, call, print. Heavy libraries are imported inside the commands."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from pixelfit.errors import OptionError, PixelfitError

if TYPE_CHECKING:
    from rich.console import Console

    from pixelfit.assess import Assessment
    from pixelfit.automl import Run
    from pixelfit.batch import Totals
    from pixelfit.live import LiveView
    from pixelfit.options import FitOptions

# The budget counts from here, before the heavy imports. The process's own start would be that of a shell that called
# `exec pixelfit`, perhaps hours ago.
STARTED = time.time()

app = typer.Typer(
    name="pixelfit",
    help="AutoML for pictures: bring pictures with a number or a label each, and a time budget.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Named data sets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
cache_app = typer.Typer(help="What pixelfit keeps on disk between runs.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(cache_app, name="cache")

TaskOption = Annotated[
    Literal["regression", "classification", "multilabel"] | None,
    typer.Option(help="Force the task; otherwise it is inferred from the target."),
]
BudgetOption = Annotated[str | None, typer.Option(help="Time for the whole command, such as 90s, 10m or 1h30m. Default: 10m.")]
TrialsOption = Annotated[
    int | None, typer.Option(help="Number of trials, with the baseline. Without --budget the run repeats exactly.")
]
StepsOption = Annotated[int | None, typer.Option(help="Training steps of each trial, instead of what its time allows.")]
MetricOption = Annotated[
    Literal["rmse", "mae", "log_loss", "accuracy", "macro_f1", "micro_f1", "mean_ap", "exact_match"] | None,
    typer.Option(help="What trials are ranked by. Default: rmse for numbers, log_loss for labels."),
]
LatencyOption = Annotated[
    str | None, typer.Option(help="Longest time that the model may take for one picture, such as 5ms. Default: any.")
]
DistillOption = Annotated[bool, typer.Option("--distill", help="Teach one small model what the best ensemble predicts.")]
AugmentOption = Annotated[
    str | None,
    typer.Option(
        help="Changes of training pictures that leave the target alone: auto (found out from the data; the default), none, or a "
        "list such as rotate,scale,shear,shift,flip,flip-vertical,turns,brightness,contrast,saturation."
    ),
]
WeightsOption = Annotated[
    Path | None, typer.Option(help="A file of pretrained weights (safetensors, or a torch file) for the backbone.")
]
BackboneOption = Annotated[str | None, typer.Option(help="timm's name of the pretrained backbone. Default: efficientnet_lite0.")]
FoldsOption = Annotated[
    int | None,
    typer.Option(help="Folds of a cross-validation; 1 for a single validation set. Default: 5 where pictures are few."),
]
SeedOption = Annotated[int, typer.Option(help="Seed of every random choice.")]
TargetOption = Annotated[
    list[str] | None, typer.Option(help="A table's column of targets; several times for several numbers a picture.")
]
PicturesOption = Annotated[str | None, typer.Option(help="A table's column of paths, if there are several.")]
GroupOption = Annotated[
    str | None, typer.Option(help="A table's column that names what belongs together, such as patients; no split parts them.")
]
TestOption = Annotated[str | None, typer.Option(help="A source like SOURCE whose pictures are the test set.")]
LeftOutOption = Annotated[
    float | None,
    typer.Option(
        help="Share of rows that may be left out as unreadable or without target before that is an error. Default: 0.01."
    ),
]
DataDirOption = Annotated[Path | None, typer.Option(help="Folder with the files of a named data set.")]
SourceArgument = Annotated[
    str,
    typer.Argument(
        help="A folder with a sub-folder a class; a table of paths and targets (CSV, TSV, Parquet, JSON Lines); an .npz file; "
        "a zip or tar archive of these; hf://NAME; or the name of a data set."
    ),
]
LiveOption = Annotated[bool, typer.Option("--live", help="Serve a page that follows the run, on this machine alone.")]
PortOption = Annotated[int | None, typer.Option(help="The page's port. Default: a free one.")]
OutOption = Annotated[Path | None, typer.Option(help="Run folder to make. Default: a new one under runs/.")]
CACHED = {"stores": "decoded pictures", "archives": "unpacked archives", "mnist": "downloaded data"}
LEADERBOARD_SHOWN = ("rank", "trial", "family", "head", "state", "weight", "epochs", "seconds")
LEADERBOARD_METRICS = ("val_r2", "val_rounded_accuracy", "val_accuracy", "val_mean_r2", "val_mean_ap")  # beside the first
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


def main() -> None:
    """Entry point: run the command; what a user can mend becomes one sentence and exit code 2."""
    try:
        app()
    except PixelfitError as error:
        _fail(str(error))
    except OSError as error:  # a file that may not be read, a disk that is full
        if error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}.")


def _fail(sentence: str) -> NoReturn:
    sys.stderr.write(f"pixelfit: {' '.join(sentence.split())}\n")
    sys.exit(2)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from importlib import metadata

        typer.echo(metadata.version("pixelfit"))
        raise typer.Exit


@app.command()
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
    distill: DistillOption = False,
    folds: FoldsOption = None,
    augment: AugmentOption = None,
    weights: WeightsOption = None,
    backbone: BackboneOption = None,
    seed: SeedOption = 0,
    out: OutOption = None,
    data_dir: DataDirOption = None,
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
        data_dir=data_dir,
    )
    _fit(source, options, live=live, port=port)


@app.command()
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
    console = _console()
    from pixelfit.display import Display

    with Display(console, budget_s=None, started=STARTED) as display:
        from pixelfit.automl import read
        from pixelfit.data.describe import describe, tell_all
        from pixelfit.files import write_json

        facts, splits = read(source, options, display)
    tell_all(facts, splits, display)
    if out is not None:
        write_json(out, {"facts": facts.to_json(), **describe(splits, facts)})
        display.say(f"Wrote {out}.")


@app.command()
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


@app.command()
def predict(
    run: RunArgument,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Picture files, folders, tables of paths, archives or .npz files; - for paths on standard input, one a line.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="File to write, .csv or .parquet. Default: CSV on standard output.")
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option(help="Intervals or sets hold the truth in this share of pictures. Default: 0.9; 0 for none."),
    ] = None,
    pictures: PicturesOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the unfinished file that an interrupted run left.")
    ] = False,
) -> None:
    """Predict with a finished run's model, a row a picture; one that cannot be read has a row with its error."""
    from pixelfit import batch
    from pixelfit.data.streams import source_of
    from pixelfit.display import Display
    from pixelfit.predictor import Predictor

    if out is not None:
        batch.check_form(out)
    elif resume:
        raise OptionError("--resume goes on with the file that --out names: give --out, too.")
    predictor = Predictor.load(run)
    wanted = predictor.usual_coverage(coverage)
    console = _console(stderr=out is None)
    with Display(console, budget_s=None, started=STARTED, ends="") as display:
        source = source_of(sources, column=pictures, lines=sys.stdin, progress=display)
        if out is None:
            totals = batch.to_stream(batch.predicted(predictor, source.items(), wanted), sys.stdout, display, source.total)
        else:
            task = batch.Task(predictor.version, tuple(sources), wanted)
            try:
                totals = batch.to_file(predictor, source, task, out, resume=resume, progress=display)
            except KeyboardInterrupt:
                display.say(f"Interrupted: the same command with --resume goes on with {out}.part.")
                raise typer.Exit(130) from None
    _tell_predicted(totals, out, console)


@app.command()
def evaluate(
    run: RunArgument,
    source: SourceArgument,
    target: TargetOption = None,
    pictures: PicturesOption = None,
    coverage: Annotated[
        float | None, typer.Option(help="Of the intervals or sets that are checked. Default: 0.9; 0 for none.")
    ] = None,
    data_dir: DataDirOption = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="JSON file to write the figures into.")] = None,
) -> None:
    """Measure a finished run's model on SOURCE, whose targets are known."""
    from pixelfit.display import Display
    from pixelfit.files import write_json
    from pixelfit.predictor import Predictor

    predictor = Predictor.load(run)
    console = _console()
    with Display(console, budget_s=None, started=STARTED, ends="") as display:
        found = predictor.evaluate(
            source, target=target, coverage=coverage, pictures=pictures, data_dir=data_dir, progress=display
        )
    _print_assessment(console, found)
    if out is not None:
        write_json(out, found.to_json())
        typer.echo(f"Wrote {out}.")


def _tell_predicted(totals: Totals, out: Path | None, console: Console) -> None:
    """How it went; raises DataError where not one picture could be predicted for."""
    from rich.text import Text

    from pixelfit.errors import DataError
    from pixelfit.words import number_of

    if totals.failed == totals.rows:
        raise DataError(f"None of {number_of(totals.rows, 'picture')} can be used; the first is {totals.first_failure}.")
    if out is not None:
        console.print(Text(f"Wrote {number_of(totals.rows, 'row')} to {out}."))
    if totals.failed:
        failed = number_of(totals.failed, "picture")
        console.print(Text(f"{failed} cannot be used (column error); the first is {totals.first_failure}."))
    if totals.unlike:
        console.print(Text(f"Unlike anything seen in training (column unlike): {number_of(totals.unlike, 'picture')}."))


@app.command()
def leaderboard(run: RunArgument) -> None:
    """Show the trials of a run, best first."""
    import csv

    from rich.table import Table
    from rich.text import Text

    from pixelfit.errors import RunError
    from pixelfit.runs import RunFolder

    file = RunFolder.existing(run).path / "leaderboard.csv"
    if not file.is_file():
        raise RunError(f"The run in {run} has no leaderboard yet.")
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    metric = f"val_{rows[0]['ranked_by']}"
    others = [name for name in rows[0] if name in LEADERBOARD_METRICS and name != metric]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in (*LEADERBOARD_SHOWN, metric, *others):
        table.add_column(name.removeprefix("val_"), justify="left" if name in ("family", "head", "state") else "right")
    for row in rows:
        table.add_row(*(Text(_short(row[name])) for name in (*LEADERBOARD_SHOWN, metric, *others)))
    console = _console()
    console.print(table)
    for row in rows:
        if row["error"]:
            console.print(Text(f"Trial {row['trial']} failed: {row['error']}"))


@app.command()
def report(run: RunArgument) -> None:
    """Draw a run's report again from its folder."""
    from pixelfit import report as reports
    from pixelfit.runs import RunFolder

    folder = RunFolder.existing(run)
    reports.draw(folder)
    typer.echo(f"Report: {folder.report_file}")


@app.command()
def export(
    run: RunArgument,
    form: Annotated[
        Literal["onnx", "torch", "script"],
        typer.Option("--format", help="An ONNX graph, a program of torch, or a script that trains the winner again."),
    ] = "onnx",
    quantize: Annotated[
        Literal["int8"] | None, typer.Option(help="Smaller and faster numbers; what they cost is measured.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="File to write. Default: in the run folder, in export/.")
    ] = None,
) -> None:
    """Write a finished run's model for use without pixelfit, once it is seen to predict the same."""
    from pixelfit.display import Display
    from pixelfit.export import export as exported
    from pixelfit.runs import RunFolder

    folder = RunFolder.existing(run)
    with Display(_console(), budget_s=None, started=STARTED) as display:
        sentences = exported(folder, form, progress=display, quantize=quantize, out=out)
    for sentence in sentences:
        typer.echo(sentence)


@app.command()
def serve(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or an ONNX file that was exported from one.")],
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine need a --token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for a free one.")] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar="PIXELFIT_TOKEN", help="What requests must bring as Authorization: Bearer TOKEN.")
    ] = None,
    max_bytes: Annotated[int, typer.Option(min=1, help="Largest file, in bytes.")] = 10 << 20,
    max_pixels: Annotated[int, typer.Option(min=1, help="Largest picture, in pixels.")] = 50_000_000,
    max_files: Annotated[int, typer.Option(min=1, help="Most files in a request.")] = 32,
    max_requests: Annotated[int, typer.Option(min=1, help="Most requests that a worker has under way at once.")] = 256,
    timeout: Annotated[float, typer.Option(min=0.001, help="Longest time for a request, in seconds.")] = 30.0,
    workers: Annotated[int | None, typer.Option(help="Processes that answer. Default: one a core, up to 4.")] = None,
) -> None:
    """Serve a finished run's model over HTTP, with a page to try it at /. Ctrl-C ends it."""
    from pixelfit.display import Lines
    from pixelfit.serve import Address
    from pixelfit.serve import serve as served
    from pixelfit.serve.limits import Limits

    limits = Limits(max_bytes, max_pixels, max_files, max_requests, timeout)
    served(run, Address(host, port), token=token, limits=limits, workers=workers, progress=Lines(_console()))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders, two or more.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Also write a file: .html, .json or .csv.")] = None,
) -> None:
    """Set finished runs side by side, and say whether they can be told apart."""
    from pixelfit.compare import compare as compared
    from pixelfit.compare.terminal import show
    from pixelfit.compare.written import check_form, write

    if out is not None:
        check_form(out)  # before the work
    found = compared(runs)
    show(found, _console())
    if out is not None:
        write(found, out)
        typer.echo(f"Wrote {out}.")


@app.command()
def ui(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A run folder, or a folder with runs in it.")],
    port: PortOption = None,
    browse: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve a page, on this machine alone, that lists runs and opens their reports. Ctrl-C ends it."""
    import threading
    import webbrowser

    from pixelfit.live import LoopbackServer, RunList

    with LoopbackServer(RunList(folder), port or 0) as server:
        typer.echo(f"Runs: {server.address}\nCtrl-C ends this.")
        try:
            if browse:
                webbrowser.open(server.address)
            threading.Event().wait()
        except KeyboardInterrupt:
            typer.echo()


@data_app.command("list")
def data_list() -> None:
    """List the named data sets."""
    from rich.text import Text

    from pixelfit.data.named import NAMED

    console = _console()
    for data in NAMED.values():
        console.print(Text(data.name, style="bold"))
        for line in (data.what, data.where_from, f"licence: {data.licence}"):
            console.print(Text(f"  {line}"))


@cache_app.command("show")
def cache_show() -> None:
    """Show where the cache is and how much is in it."""
    from pixelfit.files import cache_contents, cache_folder

    typer.echo(f"The cache is {cache_folder()}.")
    for name, size in cache_contents().items():
        typer.echo(f"  {name:<10} {size / 2**20:10,.1f} MiB  {CACHED.get(name, 'unknown')}")


@cache_app.command("clear")
def cache_clear() -> None:
    """Remove all of the cache; what is needed again is made or fetched again."""
    import shutil

    from pixelfit.files import cache_contents, cache_folder

    removed = sum(cache_contents().values())
    if cache_folder().is_dir():
        shutil.rmtree(cache_folder())
    typer.echo(f"Removed {removed / 2**20:,.1f} MiB from {cache_folder()}.")


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    # Into a file or a pipe lines are as long as they need to be.
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else 200)


def _fit(source: str, options: FitOptions, *, live: bool, port: int | None) -> None:
    console = _console()
    from pixelfit.display import Display
    from pixelfit.progress import Progress, Several

    if port is not None and not live:
        raise OptionError("--port is that of the page that --live serves: give --live, too, or leave it out.")
    view = _live_view(console, source, options, port or 0) if live else None
    with ExitStack() as stack:
        if view is not None:
            stack.enter_context(view)
        with Display(console, budget_s=options.budget_s, started=STARTED) as display:
            from pixelfit.automl import fit

            progress: Progress = display if view is None else Several(display, view.state)
            run = fit(source, options, progress=progress, started=STARTED)
        _print_result(console, run)
        if view is not None:
            view.finish(run)


def _live_view(console: Console, source: str, options: FitOptions, port: int) -> LiveView:
    from rich.text import Text

    from pixelfit.live import LiveView

    view = LiveView(source, budget_s=options.budget_s, started=STARTED, port=port)
    console.print(Text(f"Live view: {view.address}"), soft_wrap=True)
    return view


def _print_result(console: Console, run: Run) -> None:
    from rich.table import Table
    from rich.text import Text

    from pixelfit.display import clock, sureness_lines
    from pixelfit.metrics import TITLES, shown
    from pixelfit.words import number_of

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in (f"On {run.scores.rows:,} unseen pictures", "value", "95 % interval", "baseline"):
        table.add_column(name, justify="left" if name.startswith("On") else "right")
    for name, interval in run.scores.test.items():
        low, high = shown(name, interval.low), shown(name, interval.high)
        table.add_row(TITLES[name], shown(name, interval.value), f"{low} – {high}", shown(name, run.scores.baseline[name].value))
    console.print()
    console.print(table)
    _print_each(console, run)
    for line in sureness_lines(run.scores):
        console.print(Text(line))
    doubtful = run.folder.read("suspects.json")
    if doubtful["suspects"]:
        found = number_of(len(doubtful["suspects"]), "target")
        console.print(Text(f"{found} of {doubtful['examined']:,} looked at may be wrong: see the report and suspects.json"))
    console.print()
    family = {member.trial: member.model.family for member in run.predictor.members}
    weights = run.predictor.trial_weights().items()
    members = ", ".join(f"#{trial} {family[trial]} ({weight:.0%})" for trial, weight in weights)
    if len(run.predictor.members) > len(weights):
        members += f": {len(run.predictor.members)} models, one of each trial a fold"
    if run.interrupted:
        console.print(Text("Ended early by Ctrl-C: this is the best model until then.", style="yellow"))
    console.print(Text(f"Model:   {members}"), soft_wrap=True)
    console.print(Text(f"Report:  {run.folder.report_file}"), soft_wrap=True)
    console.print(Text(f"Predict: pixelfit predict {run.folder.path} IMAGE..."), soft_wrap=True)
    console.print(Text(f"Took {clock(run.wall_s)}, {len(run.trials)} trials."))


def _print_assessment(console: Console, found: Assessment) -> None:
    from rich.table import Table
    from rich.text import Text

    from pixelfit.metrics import TITLES, percent, shown
    from pixelfit.words import number_of

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in (f"On {number_of(found.rows, 'picture')} of {found.source}", "value", "95 % interval"):
        table.add_column(name, justify="left" if name.startswith("On") else "right")
    for name, interval in found.metrics.items():
        table.add_row(TITLES[name], shown(name, interval.value), f"{shown(name, interval.low)} – {shown(name, interval.high)}")
    console.print(table)
    if found.covered is not None and found.coverage is not None:
        ends = f"{percent(found.covered.low)} – {percent(found.covered.high)}"
        console.print(
            Text(
                f"The truth lies in {percent(found.covered.value)} ({ends}) of the {100 * found.coverage:g} % intervals or sets."
            )
        )
    if found.unlike is not None:
        console.print(Text(f"Unlike anything seen in training: {percent(found.unlike)}."))
    if found.left_out:
        first = found.left_out[0]
        console.print(Text(f"Left out: {number_of(len(found.left_out), 'picture')}; the first is {first.ref}: {first.reason}."))


def _print_each(console: Console, run: Run) -> None:
    """A table with a line for each of several numbers or labels a picture; nothing for other runs."""
    from rich.table import Table
    from rich.text import Text

    from pixelfit.display import each_table

    head, rows, left_out = each_table(run.scores)
    if not rows:
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, name in enumerate(head):
        table.add_column(name, justify="right" if place else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print()
    console.print(table)
    if left_out:
        console.print(f"... and {left_out:,} more in the report")


def _short(text: str) -> str:
    try:
        value = float(text)
    except ValueError:
        return text or "–"
    return text if value == int(value) else f"{value:.4g}"
