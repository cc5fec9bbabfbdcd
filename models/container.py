"""The file that models and probes share: safetensors with one JSON header.

Reading needs neither torch nor pickle; writing leaves a whole file or none.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..audio.errors import DynseError


class Container(NamedTuple):
    """What a file holds, and the sha256 of all of it in hexadecimal."""

    header: dict[str, Any]
    tensors: dict[str, NDArray[Any]]
    sha256: str


def read_container(
    path: Path, format_: str, what: str, error: type[DynseError], expected: str | None = None
) -> Container:
    """Read a file written by `write_container`.

    Parameters
    ----------
    format_ : the format that it must say it has, like "dynse.checkpoint/1".
    what : a dynse what, for messages.
    error : what is raised.
    expected : sha256 that it must have.

    Raises
    ------
    error
        Missing, damaged, altered, or of another kind.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        data = path.read_bytes()
    except OSError as failure:
        raise error(f"{path}: {failure.strerror}") from failure
    digest = hashlib.sha256(data).hexdigest()
    if expected is not None and digest != expected:
        raise error(
            f"{path}: sha256 {digest[:12]}..., expected {expected[:12]}...; reinstall dynse"
        )
    try:
        tensors = load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, ValueError) as failure:
        raise error(f"{path}: not a safetensors file ({failure})") from failure
    if metadata.get("format") != format_:
        raise error(f"{path}: not a dynse {what} (format {metadata.get('format')!r})")
    try:
        header = json.loads(metadata["header"])
    except (KeyError, ValueError) as failure:
        raise error(f"{path}: damaged header ({failure})") from failure
    if not isinstance(header, dict):
        raise error(f"{path}: damaged header (no JSON object)")
    return Container(header, tensors, digest)


def write_container(
    path: Path, format_: str, tensors: Mapping[str, NDArray[Any]], header: Mapping[str, Any]
) -> str:
    """Write a file whole or not at all; return its sha256."""
    from safetensors.numpy import save

    text = json.dumps(header, sort_keys=True, allow_nan=False)
    data = save(
        {name: np.ascontiguousarray(array) for name, array in sorted(tensors.items())},
        metadata={"format": format_, "header": text},
    )
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
    return hashlib.sha256(data).hexdigest()
