"""`dynse enhance`: clean speech out of noisy speech."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from ..audio.suffixes import SUBTYPES
from . import options as given
from .batch import run
from .choices import (
    check_extra,
    check_fields,
    check_picture,
    executors,
    headerless,
    parse_conditions,
    same_place,
)
from .enhancing import Done, EnhanceWork, Options
from .planning import Job, plan, read_named, shard
from .progress import Screen, say
from .workers import Failed


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


def enhance(
    inputs: given.Inputs = None,
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
        typer.Option(
            help="One gain for all channels, one for each (as where each talker has a channel; a "
            "report is of the first), or mix down to one."
        ),
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
    only_if: Annotated[
        str | None,
        typer.Option(
            metavar="COND",
            help="Enhance only where the probes say so, such as 'snr_db<15'; copy other files "
            "untouched.",
        ),
    ] = None,
    as_json: given.Json = False,
    as_jsonl: given.Jsonl = False,
    as_csv: given.Csv = False,
    as_rttm: given.Rttm = False,
    as_labels: given.Labels = False,
    as_textgrid: given.TextGrid = False,
    as_f0: given.F0Csv = False,
    frames: given.Frames = False,
    probes: given.Probes = None,
    raw: given.Raw = None,
    rate: given.Rate = None,
    channels: given.Channels = None,
    model: given.Model = None,
    recursive: given.Recursive = False,
    files_from: given.FilesFrom = None,
    jobs: given.Jobs = 1,
    executor: given.By = given.Executor.LOCAL,
    part: given.Shard = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out inputs whose output exists.")
    ] = False,
    overwrite: given.Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be written, do nothing.")
    ] = False,
    fail_fast: given.FailFast = False,
    quiet: given.Quiet = False,
    verbose: given.Verbose = False,
) -> None:
    """Clean noisy speech.

    Keeps sample rate, channels, sample format and length; the output is sample-aligned with the
    input. Outputs appear under their names only when complete. With a form of report such as
    --json, stdout gets what the probes say of each input, from the same pass.

    Exit codes: 0 all done, 1 an input failed and the others are done, 2 wrong usage,
    130 interrupted.
    """
    if skip_existing and overwrite:
        raise typer.BadParameter("not with --overwrite", param_hint="--skip-existing")
    if subtype is not None and subtype.upper() not in SUBTYPES:
        raise typer.BadParameter(
            f"{subtype!r} is none of {', '.join(SUBTYPES)}", param_hint="--subtype"
        )
    conditions = parse_conditions("--only-if", [] if only_if is None else [only_if])
    pcm = headerless(raw, rate, channels)
    named = read_named(inputs, files_from)
    planned = plan(named, output, recursive, "_enhanced", headerless=pcm is not None)
    pipes = any("-" in (job.source, job.target) for job in planned)
    to_stdout = any(job.target == "-" for job in planned)
    if residual is not None:
        check_extra("--residual", residual, planned)
    check_picture(plot, planned, overwrite)
    if plot is not None and pipes:
        raise typer.BadParameter("needs files, not pipes", param_hint="--plot")
    if plot is not None and residual is not None and same_place(plot, residual):
        raise typer.BadParameter("is the residual", param_hint="--plot")
    if conditions and pipes:
        raise typer.BadParameter(
            "needs files, not pipes: the probes know only at the end", param_hint="--only-if"
        )
    if clip is Clip.RESCALE and residual is not None:
        raise typer.BadParameter(
            "not with --residual, which would hold the part scaled away", param_hint="--clip"
        )
    if clip is Clip.RESCALE and to_stdout:
        raise typer.BadParameter(
            "a pipe cannot be rescaled, its peak is known only at the end", param_hint="--clip"
        )

    from ..models.checkpoint import DEFAULT
    from . import report as reports
    from .loading import load_model, load_probes_of
    from .output import Form, Output, choose_form

    form = choose_form(
        frames, json=as_json, jsonl=as_jsonl, csv=as_csv, rttm=as_rttm, labels=as_labels,
        textgrid=as_textgrid, f0_csv=as_f0,
    )  # fmt: skip
    if form is not Form.TABLE and to_stdout:
        raise typer.BadParameter("stdout is taken by the sound", param_hint=form.value)
    if form.single and len(planned) > 1:
        raise typer.BadParameter("takes one input", param_hint=form.value)
    if part is not None:
        planned = shard(planned, part)
    if dry_run:
        _print_map(planned, skip_existing, overwrite)
        return
    todo = [job for job in planned if not (skip_existing and _exists(job.target))]
    asks_probes = form is not Form.TABLE or bool(conditions)
    if probes is not None and not asks_probes:
        raise typer.BadParameter(
            "goes with --only-if or a form of report such as --json", param_hint="--probes"
        )
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
        analyse=asks_probes,
        probes=None if probes is None else os.fspath(probes),
        frames=frames or form is Form.F0_CSV,
        only_if=only_if,
    )
    # What is wrong with these is one failure, not one an input.
    engine = load_model(options.model)
    said_by: dict[str, Any] = {}
    columns: tuple[str, ...] = ()
    if asks_probes:
        fitted = load_probes_of(options.model, options.probes)
        check_fields("--only-if", conditions, fitted)
        said_by, columns = reports.origin(engine, fitted), reports.own_columns(fitted)
    out = None if form is Form.TABLE else Output(form, named.single, columns, optional=True)

    def tell(screen: Screen, i: int, done: Done) -> None:
        for line in done.lines():
            screen.line(line)
        if out is not None and done.report is not None:
            out.put(screen, i, {**done.report, "output": reports.utf8(done.target)})

    def fail(screen: Screen, i: int, failed: Failed) -> None:
        if out is not None:
            source = todo[i].source
            out.put(screen, i, reports.failure(source, said_by, failed.code, failed.message))

    tally = run(
        todo,
        EnhanceWork(options),
        tell,
        **executors(executor, jobs),
        fail_fast=fail_fast,
        quiet=quiet,
        verbose=verbose,
        skipped=len(planned) - len(todo),
        on_failure=fail,
    )
    if out is not None:
        out.close(Screen([]))
    if tally.interrupted:
        say("dynse: interrupted")
    if len(planned) != 1 and (not quiet or tally.exit_code):
        say(tally.summary("enhanced"))
    unsaid = None if out is None else out.error
    if unsaid is not None:
        say(f"dynse: stdout: the reports could not be written: {unsaid.strerror or unsaid}")
    if tally.exit_code or unsaid is not None:
        raise typer.Exit(tally.exit_code or 1)


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
