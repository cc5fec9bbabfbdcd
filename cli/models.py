"""`dynse models`: what is shipped."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def models(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array on stdout.")] = False,
) -> None:
    """List the shipped models: size, cost, latency, licence, training data, sha256."""
    from ..models.checkpoint import DEFAULT, SHIPPED, read

    rows = [_describe(read(name), name == DEFAULT) for name in SHIPPED]
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for row in rows:
        default = " (default)" if row["default"] else ""
        average = row["average_mmac_per_s"]
        typer.echo(f"{row['name']}{default}")
        typer.echo(f"  {row['architecture']}, {row['parameters'] / 1e3:.0f} k parameters")
        pruned = "" if average is None else f", {average:.1f} on average when pruned"
        typer.echo(f"  {row['dense_mmac_per_s']:.1f} MMAC/s dense{pruned}")
        typer.echo(f"  latency {row['latency_ms']:.0f} ms, {row['sample_rate']} Hz")
        typer.echo(f"  weights: {row['license']}")
        data = row["training_data"]
        typer.echo(
            f"  trained on {data['speech_hours']} h of speech, {data['noise_hours']} h of noise:"
        )
        for license_, corpora in data["licenses"].items():
            typer.echo(f"    {license_}: {', '.join(corpora)}")
        typer.echo(f"  sha256 {row['sha256']}")


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
        "scores": header["scores"],
        "sha256": checkpoint.sha256,
    }
