"""`dynse evaluate`: how good a model is on pairs of clean and noisy recordings."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as given
from .workers import available_cores

if TYPE_CHECKING:
    from ..models.evaluation import PairScore


def evaluate(
    clean: Annotated[Path, typer.Argument(help="Clean recording, or folder of them.")],
    noisy: Annotated[Path, typer.Argument(help="Noisy recording, or folder, of the same names.")],
    model: given.Model = None,
    table: Annotated[
        Path | None, typer.Option(help="CSV with a column 'name', to group the files by.")
    ] = None,
    by: Annotated[
        list[str] | None, typer.Option(help="Column of --table to group by; may be repeated.")
    ] = None,
    jobs: given.AllCores = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    quiet: given.Quiet = False,
    verbose: given.Verbose = False,
) -> None:
    """Score a model: WB-PESQ, STOI, ESTOI, SI-SDR, utilisation, MMAC/s, real-time factor.

    By file and mean. The reference and the noisy recording must be of one length.

    Exit codes: 0 all done, 1 a recording cannot be scored and nothing is reported, 2 wrong usage.
    """
    from ..models.checkpoint import DEFAULT
    from ..models.evaluation import find_pairs, score_pairs, summarise
    from .loading import load_model

    name = model or DEFAULT
    engine = load_model(name)
    pairs = find_pairs(clean, noisy)
    groups = _read_groups(table, by or [], [noisy_path.name for _, noisy_path in pairs])
    scores = []
    for number, score in enumerate(
        score_pairs(name, pairs, min(jobs or available_cores(), len(pairs))), 1
    ):
        scores.append(score)
        if not quiet and sys.stderr.isatty():
            print(f"\r{number}/{len(pairs)} files", end="", file=sys.stderr)
    if not quiet and sys.stderr.isatty():
        print(file=sys.stderr)
    # Where there is no noise there is nothing to gain: such pairs would only distort the means.
    noise_free = [score for score in scores if score.noise_free]
    noisy_scores = [score for score in scores if not score.noise_free]
    report: dict[str, Any] = {
        "model": {"name": engine.name, "sha256": engine.sha256},
        "mean": summarise(noisy_scores, engine) if noisy_scores else None,
        "noise_free": summarise(noise_free, engine) if noise_free else None,
        "groups": {
            column: {
                value: summarise([s for s in noisy_scores if members.get(s.name) == value], engine)
                for value in _order({members[s.name] for s in noisy_scores})
            }
            for column, members in groups.items()
        },
        "files": [_file(score) for score in scores],
    }
    if as_json:
        typer.echo(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        _print(report)


def _file(score: PairScore) -> dict[str, Any]:
    return {
        "name": score.name,
        "duration_s": score.duration_s,
        "noisy": score.noisy,
        "enhanced": score.enhanced,
        "utilisation": score.utilisation,
        "rtf": score.rtf,
    }


def _read_groups(
    table: Path | None, columns: list[str], names: list[str]
) -> dict[str, dict[str, str]]:
    if not columns:
        if table is not None:
            raise typer.BadParameter("needs --by", param_hint="--table")
        return {}
    if table is None:
        raise typer.BadParameter("needs --table", param_hint="--by")
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = {row.get("name", ""): row for row in csv.DictReader(file, restval="")}
    except OSError as error:
        raise typer.BadParameter(f"{table}: {error.strerror}", param_hint="--table") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise typer.BadParameter(
            f"{table} is no CSV in UTF-8 ({error})", param_hint="--table"
        ) from error
    known = next(iter(rows.values()), {})
    for column in ("name", *columns):
        if column not in known:
            raise typer.BadParameter(f"{table} has no column {column}", param_hint="--by")
    missing = [name for name in names if name not in rows]
    if missing:
        raise typer.BadParameter(f"{table} has no row for {missing[0]}", param_hint="--table")
    return {column: {name: rows[name][column] for name in names} for column in columns}


def _order(values: set[str]) -> list[str]:
    """Numbers by size, words by alphabet."""
    try:
        return sorted(values, key=float)
    except ValueError:
        return sorted(values)


def _count(part: dict[str, Any]) -> str:
    """Number of files, and of those that all metrics are defined for where that differs."""
    least = min(part["scored"].values())
    return str(part["files"]) if least == part["files"] else f"{least} of {part['files']}"


def _print(report: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, emoji=False)  # names may hold anything
    table = Table(
        title=f"{report['model']['name']}: enhanced, and gain over noisy",
        box=box.SIMPLE,
        padding=0,
        collapse_padding=True,
    )
    columns = ("(files)", "WB-PESQ", "STOI", "ESTOI", "SI-SDR dB", "util.", "MMAC", "RTF")
    for name in columns:
        table.add_column(name, justify="left" if name == "(files)" else "right", no_wrap=True)

    def row(label: str, part: dict[str, Any]) -> None:
        cells = []
        for metric, digits in zip(part["gain"], (2, 3, 3, 1), strict=True):
            value, gain = part["enhanced"][metric], part["gain"][metric]
            cells.append("-" if gain is None else f"{value:.{digits}f} {gain:+.{digits}f}")
        used = part["utilisation"]
        table.add_row(
            f"{label} ({_count(part)})",
            *cells,
            "-" if used is None else f"{used:.2f}",
            f"{part['mmac_per_s']:.1f}",
            f"{part['rtf']:.3f}",
        )

    for column, groups in report["groups"].items():
        for value, part in groups.items():
            row(f"{column} {value}", part)
        table.add_section()
    for label, name in (("without noise", "noise_free"), ("mean", "mean")):
        if report[name]:
            row(label, report[name])
    console.print(table)
    gates = (report["mean"] or report["noise_free"]).get("gates")
    if gates:
        speech, silence = (
            "-" if gates[name] is None else f"{gates[name]:.3f}"
            for name in ("utilisation_speech", "utilisation_no_speech")
        )
        console.print(
            f"{gates['dynamic']} of {gates['all']} gates with std > 0.1; blocks "
            f"{gates['block_min']:.2f}..{gates['block_max']:.2f}; "
            f"utilisation {speech} with speech, {silence} without",
            highlight=False,
        )
