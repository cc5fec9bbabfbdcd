"""Options that several commands share, each declared once: name, place holder, limits, help.

A command writes `quiet: Quiet = False`. Must import nothing but typer: `dynse --help` reads this.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Executor(StrEnum):
    """Who does the work."""

    LOCAL = "local"
    RAY = "ray"


class RawSubtype(StrEnum):
    """Headerless PCM, as ffmpeg calls it."""

    S16LE = "s16le"
    F32LE = "f32le"


# ------------------------------------------------------------------------------------ any command

Model = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME|FILE", help="A shipped model or a checkpoint."),
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Only errors on stderr.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Tracebacks of failures.")]
AllCores = Annotated[
    int | None,
    typer.Option("-j", "--jobs", min=1, metavar="N", help="Worker processes. Default: all cores."),
]

# -------------------------------------------------------------------- inputs of enhance and probe

Inputs = Annotated[
    list[str] | None,
    typer.Argument(metavar="IN...", help="Files, folders, quoted globs; - is stdin."),
]
Recursive = Annotated[
    bool,
    typer.Option(
        "-r", "--recursive", help="Descend into folders; into hidden ones (.NAME) only if named."
    ),
]
FilesFrom = Annotated[
    str | None,
    typer.Option(
        "--files-from",
        metavar="LIST|-",
        help="Read more inputs from a file or stdin, one a line or NUL-separated.",
    ),
]
Raw = Annotated[
    RawSubtype | None,
    typer.Option(
        "--raw", help="Inputs are PCM without a header; so are stdout, .raw and .pcm outputs."
    ),
]
Rate = Annotated[
    int | None, typer.Option("--rate", metavar="HZ", min=1, help="Sample rate of --raw.")
]
Channels = Annotated[
    int | None, typer.Option("--channels", metavar="N", min=1, help="Channels of --raw.")
]

# ------------------------------------------------------------------------------ who does the work

Jobs = Annotated[
    int,
    typer.Option(
        "-j", "--jobs", min=0, metavar="N", help="Processes of one thread each; 0: all cores."
    ),
]
By = Annotated[
    Executor,
    typer.Option(
        "--executor",
        help="This machine, or a Ray cluster (dynse[ray]; RAY_ADDRESS) with one process a CPU, "
        "or -j of them if that is not 1.",
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard", metavar="K/N", help="Do the K-th of N parts of the inputs, for job arrays."
    ),
]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failure.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]

# -------------------------------------------------------------------------- reports of the probes

Probes = Annotated[
    Path | None,
    typer.Option(
        "--probes", metavar="FILE", help="Probes of dynse fit-probes. Default: the shipped ones."
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Report: one JSON object for one file, an array for several or a folder."
    ),
]
Jsonl = Annotated[
    bool, typer.Option("--jsonl", help="Report: a JSON object a line, as each input ends.")
]
Csv = Annotated[bool, typer.Option("--csv", help="Report: a CSV row an input.")]
Rttm = Annotated[bool, typer.Option("--rttm", help="Speech segments as RTTM.")]
Labels = Annotated[
    bool, typer.Option("--labels", help="Speech segments as Audacity labels (one input).")
]
TextGrid = Annotated[
    bool, typer.Option("--textgrid", help="Speech segments as Praat TextGrid (one input).")
]
F0Csv = Annotated[
    bool, typer.Option("--f0-csv", help="F0 as time,frequency,confidence (one input).")
]
Frames = Annotated[
    bool, typer.Option("--frames", help="With --json or --jsonl: tracks, one value a 16 ms frame.")
]
