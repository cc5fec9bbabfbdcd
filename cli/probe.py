"""`dynse probe`: what is in a recording, read from the gates of the enhancement network."""

from __future__ import annotations

import functools
import operator
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..audio.errors import AudioError, DynseError
from .planning import expand, read_list
from .progress import Screen

if TYPE_CHECKING:
    from ..models.engine import Engine
    from ..probes.probe_file import Probes

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
    "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_SHORT = {
    "snr_db": "snr_input_db",
    "si_sdr_db": "si_sdr_input_db",
    "pesq": "pesq_input",
    "f0_hz": "f0_median_hz",
}


def probe(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="IN...", help="Files, folders, quoted globs; - is stdin."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object; an array for several inputs.")
    ] = False,
    as_jsonl: Annotated[
        bool, typer.Option("--jsonl", help="One JSON object a line, as each input ends.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="One CSV row an input.")] = False,
    as_rttm: Annotated[bool, typer.Option("--rttm", help="Speech segments as RTTM.")] = False,
    as_labels: Annotated[
        bool, typer.Option("--labels", help="Speech segments as Audacity labels (one input).")
    ] = False,
    as_textgrid: Annotated[
        bool, typer.Option("--textgrid", help="Speech segments as Praat TextGrid (one input).")
    ] = False,
    as_f0: Annotated[
        bool, typer.Option("--f0-csv", help="F0 as time,frequency,confidence (one input).")
    ] = False,
    frames: Annotated[
        bool, typer.Option("--frames", help="JSON with tracks, one value a 16 ms frame.")
    ] = False,
    conditions: Annotated[
        list[str] | None,
        typer.Option(
            "--assert",
            metavar="COND",
            help="Exit 3 unless it holds for every input, such as 'snr_db>5'; may be repeated.",
        ),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Also draw spectrograms, tracks and gates (one input)."),
    ] = None,
    probes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Probes of dynse fit-probes. Default: the shipped ones."),
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
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors on stderr.")] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Tracebacks of failures.")
    ] = False,
) -> None:
    """Say what is in recordings: speech, SNR, SI-SDR, PESQ, noise, gender, F0.

    All of it is estimated from which channels the enhancement network computes; nothing is
    written. Exit code 1 if any input failed, 3 if an --assert did not hold.
    """
    forms = {
        "--json": as_json, "--jsonl": as_jsonl, "--csv": as_csv, "--rttm": as_rttm,
        "--labels": as_labels, "--textgrid": as_textgrid, "--f0-csv": as_f0,
    }  # fmt: skip
    asked = [name for name, wanted in forms.items() if wanted]
    if len(asked) > 1:
        raise typer.BadParameter("choose one form of output", param_hint=" ".join(asked))
    form = asked[0] if asked else ""
    if frames and form not in ("--json", "--jsonl"):
        raise typer.BadParameter("goes with --json or --jsonl", param_hint="--frames")
    checks = [_condition(text) for text in conditions or []]
    paths = _paths(inputs or [], files_from, recursive)
    if len(paths) > 1:
        single = form if form in ("--labels", "--textgrid", "--f0-csv") else ""
        if single or plot is not None:
            raise typer.BadParameter("takes one input", param_hint=single or "--plot")

    from ..models.checkpoint import DEFAULT
    from ..models.engine import load
    from . import report as reports

    engine = load(model or DEFAULT)
    fitted = load_fitting_probes(engine, probes)
    wants_frames = frames or form == "--f0-csv"
    found: list[reports.Report] = []
    failed = broken = 0
    sizes = [os.path.getsize(path) if os.path.isfile(path) else 0 for path in paths]
    for number, path in enumerate(paths):
        try:
            with Screen([sizes[number]], quiet) as screen:
                moved = functools.partial(screen.moved, 0)
                one = probe_file(engine, fitted, path, wants_frames, plot, moved)
        except (DynseError, OSError, MemoryError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            if verbose:
                import traceback

                traceback.print_exc()
            code, message = _failure(path, error)
            print(f"{path}: {message}", file=sys.stderr)
            one = reports.failure(path, engine, fitted, code, message)
            failed += 1
        else:
            for text, name, compare, limit in checks:
                value = reports.flat(one)[name]
                if value is None or not compare(value, limit):
                    print(f"{path}: {text} does not hold: {value}", file=sys.stderr)
                    broken += 1
        if form == "--jsonl":
            typer.echo(reports.to_json(one, None))
        elif form == "--csv":
            typer.echo(reports.to_csv(one, header=number == 0))
        elif form == "" and one["status"] == "ok":
            reports.print_table([one])
        elif form in _TEXTS and one["status"] == "ok":
            text = getattr(reports, _TEXTS[form])(one)
            if text:
                typer.echo(text)
        elif form == "--json":
            found.append(one)
    if form == "--json":
        typer.echo(reports.to_json(found[0] if len(paths) == 1 else found))
    if failed and len(paths) > 1:
        print(f"dynse: {failed} of {len(paths)} inputs failed", file=sys.stderr)
    if failed:
        raise typer.Exit(1)
    if broken:
        raise typer.Exit(3)


_TEXTS = {
    "--rttm": "to_rttm",
    "--labels": "to_labels",
    "--textgrid": "to_textgrid",
    "--f0-csv": "to_f0_csv",
}


def _paths(inputs: list[str], files_from: str | None, recursive: bool) -> list[str]:
    """What to read, each once.

    Raises
    ------
    typer.BadParameter
        Nothing, or stdin twice.
    """
    if files_from == "-" and "-" in inputs:
        raise typer.BadParameter("stdin cannot be both sound and list", param_hint="--files-from")
    if not inputs and files_from is None:
        raise typer.BadParameter("name files, folders or -", param_hint="IN...")
    found = [e.path for name in inputs for e in expand(name, recursive, magic=True)]
    if files_from is not None:
        found += [e.path for name in read_list(files_from) for e in expand(name, recursive)]
    if not found:
        hint = "" if recursive else "; -r descends into folders"
        raise typer.BadParameter(f"no audio files in {', '.join(inputs)}{hint}")
    return list(dict.fromkeys(found))


def load_fitting_probes(engine: Engine, path: Path | None) -> Probes:
    """The probes file named, or the shipped one of this model.

    Raises
    ------
    ProbesError
        No such file, or one fitted for another model; nothing shipped for this model.
    """
    from ..probes.probe_file import load_probes, load_shipped

    if path is None:
        return load_shipped(engine.name, engine.sha256)
    probes = load_probes(path)
    probes.check_model(engine.name, engine.sha256, engine.gate_shape[0] * engine.gate_shape[1])
    return probes


def probe_file(
    engine: Engine,
    probes: Probes,
    path: str,
    frames: bool = False,
    plot: str | None = None,
    on_progress: Callable[[int, int | None, int], None] | None = None,
) -> dict[str, Any]:
    """Read one file or stream to its end and report.

    The recording takes the path of `dynse enhance`, with linked channels; what comes out of it is
    not kept.

    Parameters
    ----------
    frames : with tracks.
    plot : picture to draw.
    on_progress : called with frames done, frames in all (None: unknown) and the sample rate.

    Raises
    ------
    AudioError
        The input cannot be read.
    """
    from ..audio.io import open_reader
    from ..models.stream import Enhancer
    from .report import Analyst

    with open_reader(path) as reader:
        analyst = Analyst(engine, probes)
        picture: Any = None
        listen = analyst.listen
        if plot is not None:
            from .probe_plot import Picture

            picture = Picture(reader.sample_rate)

            def listen(gain: Any, gates: Any) -> None:
                analyst.listen(gain, gates)
                picture.gates.push(gates.reshape(len(gates), -1))

        enhancer = Enhancer(engine, reader.sample_rate, reader.channels, listener=listen)
        for block in reader.blocks(reader.sample_rate):
            analyst.hear(block)
            out = enhancer.feed(block)
            if picture is not None:
                picture.push(block, out)
            if on_progress is not None:
                on_progress(reader.frames_read, reader.frames, reader.sample_rate)
        out = enhancer.flush()
        if picture is not None:
            picture.push(out[:0], out)
        report = analyst.report(path, reader, frames or picture is not None)
    if picture is not None:
        assert plot is not None
        picture.draw(plot, report)
        if not frames:
            del report["frames"]
    return report


def _condition(text: str) -> tuple[str, str, Callable[[Any, Any], bool], Any]:
    """'snr_db>5' -> text, column of `report.flat`, operator, limit."""
    from .report import CSV_COLUMNS

    match = re.fullmatch(r"\s*(\w+)\s*(>=|<=|==|!=|>|<)\s*(\S.*?)\s*", text)
    if match is None:
        raise typer.BadParameter(
            f"{text!r} is not NAME OPERATOR VALUE, such as snr_db>5", param_hint="--assert"
        )
    name, sign, limit = match.groups()
    name = _SHORT.get(name, name)
    if name not in CSV_COLUMNS:
        known = ", ".join([*_SHORT, *CSV_COLUMNS])
        raise typer.BadParameter(f"unknown name {name!r}; known: {known}", param_hint="--assert")
    try:
        return text, name, _OPERATORS[sign], float(limit)
    except ValueError:
        if sign not in ("==", "!="):
            raise typer.BadParameter(f"{limit!r} is no number", param_hint="--assert") from None
        return text, name, _OPERATORS[sign], limit


def _failure(path: str, error: Exception) -> tuple[str, str]:
    """Stable code and one-line reason, without the path."""
    if isinstance(error, AudioError):
        return error.code, error.reason
    if isinstance(error, OSError):
        return "os_error", str(error.strerror or error)
    code = getattr(error, "code", "error")
    return code, " ".join(str(error).split()) or type(error).__name__
