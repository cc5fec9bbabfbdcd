"""`dynse export`: a model for other runtimes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import options as given


def export(
    onnx: Annotated[Path, typer.Option(metavar="FILE", help="ONNX file to write.")],
    model: given.Model = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a file that exists.")] = False,
    verbose: given.Verbose = False,
) -> None:
    """Export the stateful step of a model: STFT frame and state in, mask, gates and state out."""
    from ..models.checkpoint import DEFAULT, read
    from ..models.export import export_onnx

    if onnx.exists() and not overwrite:
        raise typer.BadParameter(f"{onnx} exists; --overwrite replaces it", param_hint="--onnx")
    if onnx.is_dir():
        raise typer.BadParameter(f"{onnx} is a folder", param_hint="--onnx")
    if not onnx.absolute().parent.is_dir():
        raise typer.BadParameter(f"no folder {onnx.absolute().parent}", param_hint="--onnx")
    export_onnx(read(model or DEFAULT), onnx)
    print(f"{onnx}: {onnx.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
