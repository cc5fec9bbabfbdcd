"""`dynse fit-probes`: fit probes on clean speech and noise of one's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as given
from .planning import RefusedError
from .workers import available_cores

if TYPE_CHECKING:
    from ..probes.fit import FitReport


def fit_probes(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder with clean/ and noise/, or speech.csv and noise.csv, or manifest.csv."
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Probes file to write.")
    ] = Path("probes.safetensors"),
    minutes: Annotated[float, typer.Option(min=0.5, help="Noisy speech to fit on.")] = 30.0,
    pesq_minutes: Annotated[
        float, typer.Option(min=0.1, help="Of each part PESQ is computed on; the slow part.")
    ] = 20.0,
    gates: Annotated[
        int,
        typer.Option(min=1, help="How many gates the probes share; noise category has its own."),
    ] = 128,
    check: Annotated[
        bool, typer.Option("--check", help="Only look at the data, and print counts.")
    ] = False,
    model: given.Model = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="CORPUS", help="Leave out a corpus of the tables; may be repeated."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the probes. [default: the model's]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the mixtures.")] = 0,
    jobs: given.AllCores = None,
    as_json: Annotated[bool, typer.Option("--json", help="Scores as JSON on stdout.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing probes file.")] = False,
    quiet: given.Quiet = False,
    verbose: given.Verbose = False,
) -> None:
    """Fit linear probes on a model's gates: VAD, SNR, SI-SDR, PESQ, noise, gender, F0.

    Speech and noise are mixed on the fly; speakers and recordings of the training, validation and
    held-out parts do not overlap. Mixtures and their PESQ are kept in $XDG_CACHE_HOME/dynse.
    With DATA/manifest.csv (path and target columns, of numbers or words) probes for these targets
    are fitted on the recordings as they are.
    """
    if check:
        _print_counts(_check(data, tuple(exclude or ())), as_json)
        return
    if output.exists() and not overwrite:
        raise typer.BadParameter(f"{output} exists; --overwrite replaces it", param_hint="-o")
    if not output.absolute().parent.is_dir():
        raise typer.BadParameter(f"no folder {output.absolute().parent}", param_hint="-o")

    from ..models.checkpoint import DEFAULT
    from ..probes.fit import fit_probes as fit
    from ..probes.probe_file import ProbesError
    from .loading import load_model

    def say(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr, flush=True)

    engine = load_model(model or DEFAULT)
    try:
        report = fit(
            data,
            engine,
            output,
            name=name,
            minutes=minutes,
            pesq_minutes=pesq_minutes,
            count=gates,
            seed=seed,
            exclude=exclude or (),
            jobs=jobs or available_cores(),
            say=say,
        )
    except ProbesError as error:  # of this model on this data none can be fitted
        raise RefusedError(str(error)) from error
    if as_json:
        import json

        typer.echo(
            json.dumps(
                {**report.header, "sha256": report.sha256, "scores": report.scores},
                indent=2,
                ensure_ascii=False,
                allow_nan=False,
            )
        )
    else:
        _print(report, output)


def _check(data: Path, exclude: tuple[str, ...]) -> dict[str, Any]:
    """What each split holds."""
    from ..audio.corpus import SPLITS, CorpusError, load_corpus
    from ..probes.manifest import load_manifest

    manifest = load_manifest(data)
    if manifest is not None:
        return {split: manifest.counts(split) for split in SPLITS}
    told: dict[str, Any] = {}
    for split in SPLITS:
        try:
            told[split] = _counts(load_corpus(data, split, exclude=exclude))
        except CorpusError as error:
            if split == "train":
                raise
            told[split] = {"missing": str(error)}
    return told


def _counts(corpus: Any) -> dict[str, Any]:
    def by(clips: list[Any], name: str) -> dict[str, float]:
        minutes: dict[str, float] = {}
        for clip in clips:
            key = getattr(clip, name) or "(none)"
            minutes[key] = minutes.get(key, 0.0) + clip.frames / 960000
        return {key: round(minutes[key], 2) for key in sorted(minutes)}

    speech, noise = corpus.speech, corpus.noise
    return {
        "speech_files": len(speech),
        "noise_files": len(noise),
        "speakers": len({clip.speaker or clip.corpus for clip in speech}),
        "speech_minutes": round(sum(clip.frames for clip in speech) / 960000, 2),
        "noise_minutes": round(sum(clip.frames for clip in noise) / 960000, 2),
        "gender_minutes": by(speech, "gender"),
        "language_minutes": by(speech, "language"),
        "category_minutes": by(noise, "category"),
    }


def _print_counts(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        import json

        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    for split, counts in told.items():
        typer.echo(split)
        for key, value in counts.items():
            shown = (
                ", ".join(f"{k} {v:g}" for k, v in value.items())
                if isinstance(value, dict)
                else value
            )
            typer.echo(f"  {key.replace('_', ' ')}: {shown}")


def _print(report: FitReport, output: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False)  # names may hold anything
    held_out = report.header["held_out"] or "none"
    table = Table(
        title=f"{report.header['gates']['read']} gates, held-out scores (split {held_out!r})",
        box=box.SIMPLE,
        padding=0,
        collapse_padding=True,
    )
    for column in ("target", "score", "train", "held out", "baseline", "also"):
        left = column in ("target", "score", "also")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    for task in report.tasks:
        if task.name not in report.scores:
            continue
        found = report.scores[task.name]
        train, held = found.get("train", {}), found.get("held_out", {})
        key = "mae" if task.kind == "value" else "accuracy"
        unit = f"MAE, {task.unit}".rstrip(", ") if task.kind == "value" else "accuracy"
        also = ("r2", "mae_iqr") if task.kind == "value" else ("f1", "roc_auc")
        more = ", ".join(
            f"{name.upper().replace('_', '/')} {held[name]:.2f}"
            for name in also
            if held.get(name) is not None
        )
        cells = (train.get(key), held.get(key), held.get(f"baseline_{key}"))
        shown = ("-" if x is None else f"{x:.3f}" for x in cells)
        table.add_row(task.title or task.name, unit, *shown, more)
    console.print(table)
    for name, (classes, matrix) in report.confusion.items():
        if name == "language":
            continue
        confusion = Table(title=f"{name}: held-out frames in %, rows true", box=box.SIMPLE)
        confusion.add_column("")
        for word in classes:
            confusion.add_column(word, justify="right")
        for word, row in zip(classes, matrix, strict=True):
            share = 100 * row / max(row.sum(), 1)
            confusion.add_row(word, *(f"{x:.0f}" for x in share))
        console.print(confusion)
    for name, why in report.skipped.items():
        console.print(f"{name}: not fitted, {why}")
    for name, scores in report.header["recordings"].items():
        found = scores.get("held_out") or {}
        if found:
            console.print(
                f"{name} of a recording, from the gain: off by {found['mae']:.2f} dB held out,"
                f" {100 * found['within_3_db']:.0f} % within 3 dB (the median alone:"
                f" {found['baseline_mae']:.2f} dB)"
            )
    for name, line in report.header["speech_lines"].items():
        console.print(
            f"of {line['scenes']} scenes with speech {line['lost']} are too weak to be sure"
            if name == "weak"
            else f"of {line['scenes']} scenes with speech {line['lost']} may be music, of"
            f" {line['music']} pieces of music that sound like speech {line['passes']} may not"
        )
    cost = report.header["cost"]
    console.print(
        f"reading costs {cost['additions_per_frame']:.0f} additions a frame,"
        f" {100 * cost['share']:.2f} % of the network's MACs"
    )
    console.print(f"{output}: sha256 {report.sha256[:12]}..., {report.seconds:.0f} s")
