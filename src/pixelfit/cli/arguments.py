"""What the commands have in common: their arguments and options."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

# The budget counts from before the heavy imports, and the interpreter's own start. The process's start would be that of a shell
# that called `exec pixelfit`, perhaps hours ago; what it has computed since is that start, or little.
_MOST_START_S = 1.0
STARTED = time.monotonic() - min(time.process_time(), _MOST_START_S)

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
MemoryOption = Annotated[
    str | None, typer.Option(help="Memory that the search and a trial may take together, such as 2GB. Default: what there is.")
]
EngineOption = Annotated[
    Literal["local", "ray"], typer.Option(help="Where the work is done: this machine, or a Ray cluster (extra: ray).")
]
AddressOption = Annotated[
    str | None,
    typer.Option(metavar="auto|HOST:PORT", help="Of the Ray cluster. Default: one that is started here for this command."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="Trials side by side. Default: one here, or one a GPU; on Ray as many as there is room for."),
]
RanksOption = Annotated[
    int, typer.Option(metavar="N", help="Divide each long training that runs alone over N workers of the cluster, or GPUs here.")
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
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in the run folder, if there is one that was broken off.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the run that is in the run folder.")]
OutOption = Annotated[Path | None, typer.Option(help="Run folder to make. Default: a new one under runs/.")]
TrackOption = Annotated[
    list[str] | None,
    typer.Option("--track", metavar="mlflow:URI|tensorboard:FOLDER", help="Track the run there too; may be given several times."),
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
