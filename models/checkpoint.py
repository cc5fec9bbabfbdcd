"""Checkpoints: safetensors with one JSON header, and the table of the shipped ones.

Reading needs neither torch nor pickle. A header says what the weights are: architecture and
dimensions, STFT, training data and licences, validation scores, library versions.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..audio.errors import DynseError

if TYPE_CHECKING:
    from .conv_fsenet import ConvFSENet

FORMAT = "dynse.checkpoint/1"
DEFAULT = "dynse-25"
_SHIPPED_DIR = Path(__file__).parent / "weights"

SHIPPED: dict[str, str] = json.loads((_SHIPPED_DIR / "shipped.json").read_text())
"""Name of each shipped model -> sha256 of its file; `scripts/ship` adds to it."""


class CheckpointError(DynseError):
    """A checkpoint that is missing, damaged, altered or of another kind."""


@dataclass(frozen=True)
class Checkpoint:
    """Header and weights as they lie in the file.

    Attributes
    ----------
    header : name, version, architecture, dims, ... as written by `save`.
    tensors : name -> array.
    sha256 : of the whole file, in hexadecimal.
    """

    header: dict[str, Any]
    tensors: dict[str, NDArray[Any]]
    sha256: str
    path: Path


def resolve(name: str | Path) -> tuple[Path, str | None]:
    """Path of a shipped model's name or of a file, and the sha256 it must have (None: any).

    Raises
    ------
    CheckpointError
        It is neither a shipped name nor a file.
    """
    if isinstance(name, str) and name in SHIPPED:
        return _SHIPPED_DIR / f"{name}.safetensors", SHIPPED[name]
    path = Path(name)
    if not path.is_file():
        known = ", ".join(SHIPPED) or "none"
        raise CheckpointError(f"{name}: no such model or file; shipped models are {known}")
    return path, None


def read(name: str | Path = DEFAULT) -> Checkpoint:
    """Read a shipped model by name, or any checkpoint file, without torch.

    Raises
    ------
    CheckpointError
        Missing or damaged file, a header that is not ours, or a shipped file whose sha256 is not
        the one in the table.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_tensors

    path, expected = resolve(name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    digest = hashlib.sha256(data).hexdigest()
    if expected is not None and digest != expected:
        raise CheckpointError(
            f"{path}: sha256 {digest[:12]}..., expected {expected[:12]}...; reinstall dynse"
        )
    try:
        tensors = load_tensors(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a dynse model (format {metadata.get('format')!r})")
    return Checkpoint(json.loads(metadata["header"]), tensors, digest, path)


def save(path: Path, tensors: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> str:
    """Write a checkpoint whole or not at all; return its sha256."""
    from safetensors.numpy import save as dump_tensors

    text = json.dumps(header, sort_keys=True, allow_nan=False)
    data = dump_tensors(
        {name: np.ascontiguousarray(array) for name, array in sorted(tensors.items())},
        metadata={"format": FORMAT, "header": text},
    )
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
    return hashlib.sha256(data).hexdigest()


def save_network(path: Path, network: ConvFSENet, header: Mapping[str, Any]) -> str:
    """Write a torch network's weights with what its dims are; return the file's sha256."""
    tensors = {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}
    architecture = {"architecture": "conv_fsenet", "dims": network.config.to_dict()}
    return save(path, tensors, {**header, **architecture})


def load_network(name: str | Path | Checkpoint = DEFAULT) -> ConvFSENet:
    """Load the torch network of a checkpoint, strictly, in evaluation mode.

    Raises
    ------
    CheckpointError
        As `read`, or an architecture, dimension or tensor that this version does not know.
    """
    import torch

    from .conv_fsenet import ConvFSENet, ConvFSENetConfig

    checkpoint = name if isinstance(name, Checkpoint) else read(name)
    architecture = checkpoint.header.get("architecture")
    if architecture != "conv_fsenet":
        raise CheckpointError(f"{checkpoint.path}: unknown architecture {architecture!r}")
    try:
        network = ConvFSENet(ConvFSENetConfig.from_dict(checkpoint.header["dims"]))
        state = {key: torch.from_numpy(value.copy()) for key, value in checkpoint.tensors.items()}
        network.load_state_dict(state, strict=True)
    except (TypeError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint.path}: weights do not fit: {error}") from error
    return network.eval()
