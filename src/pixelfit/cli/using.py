"""Commands that put a finished run's model to use."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pixelfit.cli.arguments import (
    STARTED,
    AddressOption,
    DataDirOption,
    EngineOption,
    PicturesOption,
    RunArgument,
    SourceArgument,
    TargetOption,
)
from pixelfit.cli.printing import console_for, print_assessment
from pixelfit.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from pixelfit.batch import Totals
    from pixelfit.data.places import Place


def predict(
    run: RunArgument,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Picture files, folders, tables of paths, archives or .npz files; - for paths on standard input, one a line; or "
            "shards (tar or Parquet files with pictures in them) as a folder, a glob, a list in braces or URLs.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="File to write, .csv or .parquet; for shards also a folder. Default: CSV on standard output."
        ),
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option(help="Intervals or sets hold the truth in this share of pictures. Default: 0.9; 0 for none."),
    ] = None,
    pictures: PicturesOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the unfinished file that an interrupted run left.")
    ] = False,
    engine: EngineOption = "local",
    address: AddressOption = None,
) -> None:
    """Predict with a finished run's model, a row a picture; one that cannot be read has a row with its error."""
    from pixelfit import batch
    from pixelfit.data.shards import shards_of
    from pixelfit.data.streams import stream_of
    from pixelfit.display import Display
    from pixelfit.predictor import Predictor

    if out is None and resume:
        raise OptionError("--resume goes on with the file that --out names: give --out, too.")
    if address is not None and engine != "ray":
        raise OptionError("--address is that of a Ray cluster: give --engine ray, too.")
    shards = None if out is None else shards_of(sources, pictures)
    if out is not None and shards is not None:
        _predict_shards(run, shards, out, coverage=coverage, pictures=pictures, resume=resume, engine=engine, address=address)
        return
    if engine == "ray":
        raise OptionError("--engine ray predicts for shards (tar or Parquet files with pictures in them) into --out: give both.")
    if out is not None:
        batch.check_form(out)
    predictor = Predictor.load(run)
    wanted = predictor.usual_coverage(coverage)
    console = console_for(stderr=out is None)
    with Display(console, budget_s=None, started=STARTED, ends="") as display:
        source = stream_of(sources, column=pictures, lines=sys.stdin, progress=display)
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


def _predict_shards(
    run: Path,
    shards: Sequence[Place],
    out: Path,
    *,
    coverage: float | None,
    pictures: str | None,
    resume: bool,
    engine: Literal["local", "ray"],
    address: str | None,
) -> None:
    """Predict for shards into a file, or into a folder of parts."""
    from pixelfit.display import Display
    from pixelfit.predictor import Predictor
    from pixelfit.sharded import engine_of, parts_of, predict_shards

    predictor = Predictor.load(run)
    parts = parts_of(out, predictor.version, predictor.usual_coverage(coverage), pictures)
    console = console_for()
    with Display(console, budget_s=None, started=STARTED, ends="") as display:
        chosen = engine_of(engine, address, predictor, parts, display)
        try:
            totals = predict_shards(predictor, shards, parts, out, resume=resume, engine=chosen, progress=display)
        except KeyboardInterrupt:
            display.say(f"Interrupted: the same command with --resume goes on with {parts.folder}.")
            raise typer.Exit(130) from None
    _tell_predicted(totals, out, console)


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
    console = console_for()
    with Display(console, budget_s=None, started=STARTED, ends="") as display:
        found = predictor.evaluate(
            source, target=target, coverage=coverage, pictures=pictures, data_dir=data_dir, progress=display
        )
    print_assessment(console, found)
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
    with Display(console_for(), budget_s=None, started=STARTED) as display:
        sentences = exported(folder, form, progress=display, quantize=quantize, out=out)
    for sentence in sentences:
        typer.echo(sentence)


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
    served(run, Address(host, port), token=token, limits=limits, workers=workers, progress=Lines(console_for()))
