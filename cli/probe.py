"""`dynse probe`: what is in a recording, read from the gates of the enhancement network."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from . import options as given
from .batch import Tally, run
from .choices import check_fields, check_picture, executors, headerless, parse_conditions
from .planning import Job, find, printable, read_named, shard
from .progress import Screen, say
from .workers import Failed


def probe(
    inputs: given.Inputs = None,
    as_json: given.Json = False,
    as_jsonl: given.Jsonl = False,
    as_csv: given.Csv = False,
    as_rttm: given.Rttm = False,
    as_labels: given.Labels = False,
    as_textgrid: given.TextGrid = False,
    as_f0: given.F0Csv = False,
    frames: given.Frames = False,
    conditions: Annotated[
        list[str] | None,
        typer.Option(
            "--assert",
            metavar="COND",
            help="Exit 3 unless it holds for every input, such as 'snr_db>5 and gender!=null'; "
            "may be repeated.",
        ),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Also draw spectrograms, tracks and gates (one input)."),
    ] = None,
    probes: given.Probes = None,
    model: given.Model = None,
    raw: given.Raw = None,
    rate: given.Rate = None,
    channels: given.Channels = None,
    recursive: given.Recursive = False,
    files_from: given.FilesFrom = None,
    jobs: given.Jobs = 1,
    executor: given.By = given.Executor.LOCAL,
    part: given.Shard = None,
    overwrite: given.Overwrite = False,
    fail_fast: given.FailFast = False,
    quiet: given.Quiet = False,
    verbose: given.Verbose = False,
) -> None:
    """Say what is in recordings: speech, SNR, SI-SDR, PESQ, noise, gender, F0.

    It is estimated from which channels the enhancement network computes; SNR and SI-SDR of a
    recording from what it removes, below 8 kHz. Nothing but a --plot is written. Without a form of
    output: a table. Inputs that fail are told on stderr, and appear in JSON, CSV and RTTM as well.

    Exit codes: 0 all done, 1 an input failed and the others are done, 2 wrong usage,
    3 an --assert did not hold, 130 interrupted.
    """
    checks = parse_conditions("--assert", conditions or [])
    pcm = headerless(raw, rate, channels)
    named = read_named(inputs, files_from)
    planned = [Job(entry.path, "") for entry in find(named, recursive)]
    check_picture(plot, planned, overwrite)

    from ..models.checkpoint import DEFAULT
    from . import report as reports
    from .loading import load_model, load_probes_of
    from .output import Form, Output, choose_form
    from .probing import Probed, ProbeOptions, ProbeWork

    form = choose_form(
        frames, json=as_json, jsonl=as_jsonl, csv=as_csv, rttm=as_rttm, labels=as_labels,
        textgrid=as_textgrid, f0_csv=as_f0,
    )  # fmt: skip
    if form.single and len(planned) > 1:
        raise typer.BadParameter("takes one input", param_hint=form.value)
    todo = planned if part is None else shard(planned, part)
    options = ProbeOptions(
        model=model or DEFAULT,
        probes=None if probes is None else os.fspath(probes),
        raw=pcm,
        frames=frames or form is Form.F0_CSV,
        plot=plot,
        overwrite=overwrite,
    )
    fitted = load_probes_of(options.model, options.probes)
    check_fields("--assert", checks, fitted)
    said_by = reports.origin(load_model(options.model), fitted)
    output = Output(form, named.single, reports.own_columns(fitted))
    broken = 0

    def tell(screen: Screen, i: int, done: Probed) -> None:
        nonlocal broken
        output.put(screen, i, done.report)
        row = reports.flat(done.report)
        for condition in checks:
            if not condition.holds(row):
                where = f"{printable(todo[i].source)}: {condition.text} does not hold"
                screen.line(f"{where}: {condition.values(row)}", error=True)
                broken += 1

    def fail(screen: Screen, i: int, failed: Failed) -> None:
        report = reports.failure(todo[i].source, said_by, failed.code, failed.message)
        output.put(screen, i, report)

    tally = run(
        todo,
        ProbeWork(options),
        tell,
        **executors(executor, jobs),
        fail_fast=fail_fast,
        quiet=quiet,
        verbose=verbose,
        on_failure=fail,
    )
    output.close(Screen([]))
    _finish(tally, quiet, broken)


def _finish(tally: Tally, quiet: bool, broken: int) -> None:
    if tally.interrupted:
        say("dynse: interrupted")
    if tally.planned != 1 and (not quiet or tally.exit_code):
        say(tally.summary("probed"))
    if tally.exit_code or broken:
        raise typer.Exit(tally.exit_code or 3)
