"""Export of the stateful step to ONNX, for runtimes elsewhere.

The graph is dense: it computes every channel and multiplies by the gates, which come out as a
second output, so that a runtime with conditional execution, or a person, can see what could be
skipped. One frame a call; state goes in and comes out by name.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..audio.errors import DynseError, MissingPackageError
from ..audio.stft import BINS
from .checkpoint import Checkpoint, load_network
from .conv_fsenet import ConvFSENet, State


class ExportError(DynseError):
    """A file that cannot be written."""


class _Step(nn.Module):
    def __init__(self, network: ConvFSENet):
        super().__init__()
        self.network = network

    def forward(self, frame: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        state = _unflatten(list(flat), self.network.config.blocks)
        features, state = self.network.features_of_power(frame.square().sum(-1), state)
        out = self.network.trunk(features, state)
        return (out.mask[:, 0], out.gates[:, 0], *_flatten(out.state))


def _flatten(state: State) -> list[Tensor]:
    return [state.frames, state.level, state.floor, *state.pooling, *state.history]


def _unflatten(flat: list[Tensor], blocks: int) -> State:
    frames, level, floor, *rest = flat
    return State(frames, level, floor, tuple(rest[:blocks]), tuple(rest[blocks:]))


def state_names(blocks: int) -> list[str]:
    """Names of the state's inputs; the outputs are called `new_` and these."""
    rings = [f"{kind}_{i}" for kind in ("pooling", "history") for i in range(blocks)]
    return ["frames", "level", "floor", *rings]


@contextmanager
def _without_torchvision() -> Iterator[None]:
    """Keep the exporter from telling everybody that torchvision is not installed."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def export_onnx(checkpoint: Checkpoint, path: Path) -> None:
    """Write one frame's step as an ONNX graph.

    Inputs: ``frame`` (1, 1, 257, 2), real and imaginary parts of the STFT of `audio.stft`, and the
    state of `state_names`, zeros at the start. Outputs: ``mask`` (1, 257) in [0, 1], ``gates``
    (1, I, C) in {0, 1}, and the new state. The checkpoint's header and sha256 travel in the model's
    metadata.

    Raises
    ------
    MissingPackageError
        One of ``dynse[export]`` is not installed.
    CheckpointError
        The weights do not fit.
    ExportError
        The file cannot be written.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise MissingPackageError(str(error.name), "export") from error
    network = load_network(checkpoint)
    state = _flatten(network.initial_state())
    names = state_names(network.config.blocks)
    with warnings.catch_warnings(), _without_torchvision(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program: Any = torch.onnx.export(
            _Step(network).eval(),
            (torch.zeros(1, 1, BINS, 2), *state),
            input_names=["frame", *names],
            output_names=["mask", "gates", *(f"new_{name}" for name in names)],
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto
    about = {"dynse": json.dumps(checkpoint.header), "dynse_sha256": checkpoint.sha256}
    onnx.helper.set_model_props(model, about)
    try:
        onnx.save(model, str(path))
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror or error}") from error
