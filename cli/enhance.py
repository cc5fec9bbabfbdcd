"""`dynse enhance`: clean speech out of noisy speech."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from ..audio.suffixes import SUBTYPES
from .batch import Job, plan, run
from .enhancing import Done, EnhanceWork, Options
from .planning import read_list, shard
from .progress import Screen
from .workers import available_cores


class ChannelMode(StrEnum):
    """What the channels of a recording have to do with each other."""

    LINKED = "linked"
    INDEPENDENT = "independent"
    MONO = "mono"


class Band(StrEnum):
    """What becomes of the band above 8 kHz."""

    MODEL = "model"
    KEEP = "keep"
    DROP = "drop"


class Clip(StrEnum):
    """What becomes of samples beyond full scale."""

    CLAMP = "clamp"
    RESCALE = "rescale"
    NONE = "none"


class Executor(StrEnum):
    """Who does the work."""

    LOCAL = "local"
    RAY = "ray"


class Raw(StrEnum):
    """Headerless PCM, as ffmpeg calls it."""

    S16LE = "s16le"
    F32LE = "f32le"


def enhance(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="IN...", help="Files, folders, quoted globs; - is stdin."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help="File (one input), folder, or - for stdout. "
            "Default: NAME_enhanced.wav beside the input.",
        ),
    ] = None,
    atten_lim: Annotated[
        float,
        typer.Option(
            "-a",
            "--atten-lim",
            min=0,
            max=100,
            metavar="DB",
            help="Attenuate nothing by more than this: 0 untouched, 100 full.",
        ),
    ] = 100.0,
    mix: Annotated[
        float, typer.Option(min=0, max=1, help="0 is the input, 1 the enhanced signal.")
    ] = 1.0,
    residual: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Also write what was removed (one input): input = output + residual, "
            "exactly unless the residual itself clips.",
        ),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Also draw spectrograms and active channels (one input)."
        ),
    ] = None,
    channel_mode: Annotated[
        ChannelMode,
        typer.Option(help="One gain for all channels, one for each, or mix down to one."),
    ] = ChannelMode.LINKED,
    band: Annotated[
        Band,
        typer.Option(help="Above 8 kHz: attenuate with the model's broadband gain, keep, or drop."),
    ] = Band.MODEL,
    subtype: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"Sample format of the output: {', '.join(SUBTYPES)}."),
    ] = None,
    clip: Annotated[
        Clip,
        typer.Option(
            help="Beyond full scale: saturate and count; scale the file down; "
            "or leave as it is, and fail where the format cannot hold it."
        ),
    ] = Clip.CLAMP,
    raw: Annotated[
        Raw | None,
        typer.Option(help="Inputs, stdout, .raw and .pcm outputs are PCM without a header."),
    ] = None,
    rate: Annotated[
        int | None, typer.Option(metavar="HZ", min=1, help="Sample rate of --raw.")
    ] = None,
    channels: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Channels of --raw.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="A shipped model or a checkpoint.")
    ] = None,
    recursive: Annotated[bool, typer.Option("-r", "--recursive", help="Descend into folders.")] = (
        False
    ),
    files_from: Annotated[
        str | None,
        typer.Option(
            metavar="LIST|-",
            help="Read more inputs from a file or stdin, one a line or NUL-separated.",
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            "-j", "--jobs", min=0, metavar="N", help="Processes of one thread each; 0: all cores."
        ),
    ] = 1,
    executor: Annotated[
        Executor,
        typer.Option(
            help="This machine, or a Ray cluster (dynse[ray]; RAY_ADDRESS) with one process "
            "a CPU, or -j of them if that is not 1."
        ),
    ] = Executor.LOCAL,
    part: Annotated[
        str | None,
        typer.Option(
            "--shard", metavar="K/N", help="Do the K-th of N parts of the inputs, for job arrays."
        ),
    ] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out inputs whose output exists.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace outputs that exist.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be written, do nothing.")
    ] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first failure.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors on stderr.")] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Tracebacks of failures.")
    ] = False,
) -> None:
    """Clean noisy speech.

    Keeps sample rate, channels, sample format and length; the output is sample-aligned with the
    input. Outputs appear under their names only when complete.

    Exit codes: 0 all done, 1 an input failed and the others are done, 2 wrong usage,
    130 interrupted.
    """
    inputs = inputs or []
    if files_from == "-" and "-" in inputs:
        raise typer.BadParameter("stdin cannot be both sound and list", param_hint="--files-from")
    if not inputs and files_from is None:
        raise typer.BadParameter("name files, folders or -", param_hint="IN...")
    if skip_existing and overwrite:
        raise typer.BadParameter("not with --overwrite", param_hint="--skip-existing")
    if subtype is not None and subtype.upper() not in SUBTYPES:
        raise typer.BadParameter(
            f"{subtype!r} is none of {', '.join(SUBTYPES)}", param_hint="--subtype"
        )
    pcm = _headerless(raw, rate, channels)
    listed = [] if files_from is None else read_list(files_from)
    planned = plan(
        inputs, output, recursive, "_enhanced", listed=listed, headerless=pcm is not None
    )
    _check_single("--residual", residual, planned)
    _check_single("--plot", plot, planned)
    if plot is not None and "-" in (planned[0].source, planned[0].target):
        raise typer.BadParameter("needs files, not pipes", param_hint="--plot")
    if plot is not None:
        from .plot import picture_format

        picture_format(plot)
        if os.path.lexists(plot) and not overwrite:
            raise typer.BadParameter(f"{plot} exists; --overwrite replaces it", param_hint="--plot")
    if clip is Clip.RESCALE and residual is not None:
        raise typer.BadParameter(
            "not with --residual, which would hold the part scaled away", param_hint="--clip"
        )
    if clip is Clip.RESCALE and any(job.target == "-" for job in planned):
        raise typer.BadParameter(
            "a pipe cannot be rescaled, its peak is known only at the end", param_hint="--clip"
        )
    if part is not None:
        planned = shard(planned, part)
    if dry_run:
        _print_map(planned, skip_existing, overwrite)
        return
    todo = [job for job in planned if not (skip_existing and _exists(job.target))]

    from ..models.checkpoint import DEFAULT, resolve

    options = Options(
        model=model or DEFAULT,
        atten_lim_db=atten_lim,
        mix=mix,
        channel_mode=channel_mode.value,
        band=band.value,
        subtype=subtype,
        clip=clip.value,
        raw=pcm,
        residual=residual,
        plot=plot,
        overwrite=overwrite,
        skip_existing=skip_existing,
    )
    resolve(options.model)  # a wrong name is one failure, not one an input

    def tell(screen: Screen, _: Job, done: Done) -> None:
        for line in done.lines():
            screen.line(line)

    ray = executor is Executor.RAY
    workers = jobs or available_cores()
    tally = run(
        todo,
        EnhanceWork(options),
        tell,
        workers=0 if ray and jobs < 2 else workers,
        ray=ray,
        fail_fast=fail_fast,
        quiet=quiet,
        verbose=verbose,
        skipped=len(planned) - len(todo),
    )
    if tally.interrupted:
        typer.echo("dynse: interrupted", err=True)
    if len(planned) != 1 and (not quiet or tally.exit_code):
        typer.echo(tally.summary("enhanced"), err=True)
    if tally.exit_code:
        raise typer.Exit(tally.exit_code)


def _headerless(
    raw: Raw | None, rate: int | None, channels: int | None
) -> tuple[str, int, int] | None:
    for option, value in (("--rate", rate), ("--channels", channels)):
        if (value is None) != (raw is None):
            missing = "--raw is missing" if raw is None else "needed with --raw"
            raise typer.BadParameter(missing, param_hint=option)
    if raw is None or rate is None or channels is None:
        return None
    return raw.value, rate, channels


def _check_single(option: str, path: str | None, jobs: Sequence[Job]) -> None:
    """Refuse a second file of output with several inputs, or in place of another file."""
    if path is None:
        return
    if len(jobs) > 1:
        raise typer.BadParameter("takes one input", param_hint=option)
    if path == "-":
        raise typer.BadParameter("needs a file", param_hint=option)
    places = [place for place in (jobs[0].source, jobs[0].target) if place != "-"]
    if os.path.realpath(path) in map(os.path.realpath, places):
        raise typer.BadParameter("is the input or the output", param_hint=option)


def _exists(target: str) -> bool:
    return target != "-" and os.path.exists(target)


def _print_map(jobs: Sequence[Job], skip_existing: bool, overwrite: bool) -> None:
    for job in jobs:
        note = ""
        if _exists(job.target) and not overwrite:
            note = " (skipped)" if skip_existing else " (exists, would be refused)"
        elif _exists(job.target):
            note = " (exists, would be replaced)"
        # As bytes: a name need not be text.
        typer.echo(os.fsencode(f"{job.source} -> {job.target}{note}"))
