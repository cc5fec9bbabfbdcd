"""Checkpoints: safetensors with one JSON header, and the table of the shipped ones.

Reading needs neither torch nor pickle. A header says what the weights are: architecture and
dimensions, STFT, training data and licences, recipe, validation scores, library versions; that of a
shipped model also scores on the test set and known failures (`scripts/ship`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..audio.errors import UnusableError
from .container import read_container, write_container

if TYPE_CHECKING:
    from .conv_fsenet import ConvFSENet

FORMAT = "dynse.checkpoint/1"
DEFAULT = "dynse-25"
_SHIPPED_DIR = Path(__file__).parent / "weights"

SHIPPED: dict[str, str] = json.loads((_SHIPPED_DIR / "shipped.json").read_text())
"""Name of each shipped model -> sha256 of its file; `scripts/ship` adds to it."""


class CheckpointError(UnusableError):
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

    @property
    def after_training(self) -> dict[str, Any]:
        """What `scripts/open-gates` did to the weights: by name, empty if nothing."""
        names = ("averaged", "gates_opened_by", "gates_tilted_by")
        return {name: self.header[name] for name in names if self.header.get(name)}


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
    path, expected = resolve(name)
    return Checkpoint(*read_container(path, FORMAT, "model", CheckpointError, expected), path)


def save(path: Path, tensors: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> str:
    """Write a checkpoint whole or not at all; return its sha256."""
    return write_container(path, FORMAT, tensors, header)


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
