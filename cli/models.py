"""`dynse models`: what is shipped, and the card of one model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from .loading import refusing


def models(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[NAME|FILE]", help="Show this one's whole card."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON array on stdout, of whole cards.")
    ] = False,
) -> None:
    """List the shipped models: size, cost, latency, licence, training data, sha256.

    With a name or a checkpoint its card: also recipe, scores and known failures.
    """
    from ..models.checkpoint import DEFAULT, SHIPPED, read

    names = list(SHIPPED) if model is None else [model]
    lines: list[str] = []
    rows = []
    for name in names:
        checkpoint = read(name)
        with refusing(name):
            row = _describe(checkpoint, name == DEFAULT)
            rows.append(row)
            lines += (*_summary(row), *(_card(row) if model else ()))
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for line in lines:
        typer.echo(line)


def _summary(row: dict[str, Any]) -> Iterator[str]:
    yield f"{row['name']}{' (default)' if row['default'] else ''}"
    yield f"  {row['architecture']}, {row['parameters'] / 1e3:.0f} k parameters"
    average = row["average_mmac_per_s"]
    pruned = "" if average is None else f", {average:.1f} on average when pruned"
    yield f"  {row['dense_mmac_per_s']:.1f} MMAC/s dense{pruned}"
    yield f"  latency {row['latency_ms']:.0f} ms, {row['sample_rate']} Hz"
    yield f"  weights: {row['license']}"
    data = row["training_data"]
    yield f"  trained on {data['speech_hours']} h of speech, {data['noise_hours']} h of noise:"
    for license_, corpora in data["licenses"].items():
        yield f"    {license_}: {', '.join(corpora)}"
    yield f"  sha256 {row['sha256']}"


_UNITS = {"pesq": "WB-PESQ", "stoi": "STOI", "estoi": "ESTOI", "si_sdr_db": "SI-SDR dB"}


def _card(row: dict[str, Any]) -> Iterator[str]:
    recipe = row["training"]
    yield f"  recipe{'' if recipe else ': not stated'}"
    last = {**recipe, "after": row["after_training"]}
    for run in (*recipe.get("before", ()), last) if recipe else ():
        yield f"    {run['steps']} steps, {run['hours_of_audio']} h of mixtures, {run['hours']} h"
        if losses := run.get("config", {}).get("loss"):
            yield "      " + ", ".join(f"{name} {value:g}" for name, value in losses.items())
        if after := run.get("after"):
            said = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in after.items())
            yield f"    scripts/open-gates: {said}"
    scores = row["scores"].get("test")
    yield f"  test set{'' if scores else ': not stated'}"
    if scores:
        groups = {"mean": scores["mean"]} | {
            f"{snr} dB": part
            for snr, part in sorted(scores["snr_db"].items(), key=lambda entry: int(entry[0]))
        }
        for name, part in {**groups, "without noise": scores["clean"]}.items():
            yield f"    {name}: {_values({word: part[key] for key, word in _UNITS.items()})}"
    failures = row["known_failures"]
    yield f"  known failures{'' if failures else ': not stated'}"
    for name, part in sorted(failures.items(), key=lambda entry: entry[0] != "control"):
        yield f"    {name}: {part['what']}"
        gains = [
            f"{word} {part['noisy'][key]:.4g} -> {part['enhanced'][key]:.4g}"
            for key, word in _UNITS.items()
            if part["enhanced"][key] is not None
        ]
        yield "      " + ", ".join([*gains, f"removed {part['removed_db']:.4g} dB"])
        yield f"      probes: {_values(part['probes'])}"


def _values(found: dict[str, Any]) -> str:
    """Numbers, and counts by word, in one line; what is not defined is left out."""
    parts = []
    for name, value in found.items():
        if isinstance(value, dict):
            parts.append(f"{name} " + "/".join(f"{n} {word}" for word, n in value.items()))
        elif value is not None:
            parts.append(f"{name} {value:.4g}")
    return ", ".join(parts)


def _describe(checkpoint: Any, default: bool) -> dict[str, Any]:
    from ..audio.stft import SAMPLE_RATE, WINDOW
    from ..models.compute import count_macs

    header = checkpoint.header
    macs = count_macs(header["dims"])
    utilisation = header["scores"]["valid"].get("utilisation")
    kept = [
        x for name, x in checkpoint.tensors.items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    ]  # fmt: skip
    return {
        "name": header["name"],
        "version": header["version"],
        "default": default,
        "architecture": header["architecture"],
        "parameters": sum(int(x.size) for x in kept),
        "dense_mmac_per_s": round(macs.mmac_per_s(), 2),
        "average_mmac_per_s": (
            None if utilisation is None else round(macs.mmac_per_s(utilisation), 2)
        ),
        "utilisation": utilisation,
        "latency_ms": 1000 * WINDOW / SAMPLE_RATE,
        "sample_rate": header["sample_rate"],
        "license": header["license"],
        "training_data": header["data"],
        "training": header.get("training", {}),
        "after_training": checkpoint.after_training,
        "scores": header["scores"],
        "known_failures": header.get("known_failures", {}),
        "sha256": checkpoint.sha256,
    }
