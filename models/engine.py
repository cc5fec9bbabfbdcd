"""Inference without torch: reads a checkpoint, folds it, and computes only the open channels.

Two kernels do the same step on the same packed weights:

* ``_engine.c``, built with the package: 20 to 30 microseconds a frame of 16 ms on one core. Chosen
  over numba by its start: numba took 0.27 s to import here, warm, and compiles on its first run.
* NumPy, where there was no compiler at installation: some 25 times slower (0.5 ms a frame), still
  well under real time.

Each output is summed in one order whatever a call brings, so any way of cutting a recording gives
the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.stft import HOP, SAMPLE_RATE, WINDOW
from .bands import band_weights
from .checkpoint import DEFAULT, Checkpoint, CheckpointError, read

try:
    from . import _engine
except ImportError:  # no compiler at installation
    _engine = None  # type: ignore[assignment]

Array = NDArray[np.float32]

LANES = 16
"""Widths are padded to multiples of this with zero weights, which the kernels do not see."""

_TILE = 4  # frames that _engine.c runs at once, and rings hold beside the past
_BN_EPSILON = 1e-5
_BIAS_LIMIT = 2.0  # gating.BIAS_LIMIT, which cannot be had without torch


@dataclass
class State:
    """What a stream remembers; `Engine.step` renews it in place.

    Attributes
    ----------
    memory : flat float32: frames heard, level, noise floor, a block's gate pooling and history.
    clock : frames so far.
    """

    memory: Array
    clock: NDArray[np.int64]

    def copy(self) -> State:
        """State to come back to."""
        return State(self.memory.copy(), self.clock.copy())


@dataclass(frozen=True)
class _Block:
    """Folded weights of one block, in the order in which the C kernel reads them."""

    squeeze: Array  # (R, H)
    hidden_bias: Array  # (H,)
    expand: Array  # (H, C)
    score_bias: Array  # (C,)
    inward: Array  # (C, R)
    inward_bias: Array  # (C,)
    inward_slope: Array  # (C,)
    depthwise: Array  # (3, C)
    depthwise_bias: Array  # (C,)
    depthwise_slope: Array  # (C,)
    outward: Array  # (C, R)
    outward_bias: Array  # (R,)


@dataclass(frozen=True)
class _Network:
    share: Array  # (F,) of a bin that goes to the band on its right
    inverse_sum: Array  # (b,)
    used: Array  # (b,) weight of a band in the level
    constants: Array  # (LANES,) exponent, slow, rise, fall
    front: Array  # (2b, R)
    front_bias: Array  # (R,)
    front_slope: Array  # (R,)
    blocks: tuple[_Block, ...]
    back_bias: Array  # (b,)
    back: Array  # (R, b)
    left: NDArray[np.int32] = field(repr=False)  # (F,) band on the left of each bin
    dilations: tuple[int, ...] = ()

    def packed(self) -> Array:
        parts = [self.share, self.inverse_sum, self.used, self.constants]
        parts += [self.front, self.front_bias, self.front_slope]
        for block in self.blocks:
            parts += [getattr(block, name) for name in block.__dataclass_fields__]
        parts += [self.back_bias, self.back]
        return np.concatenate([np.ascontiguousarray(part).ravel() for part in parts])


class Engine:
    """A shipped or trained model, ready to run.

    Parameters
    ----------
    checkpoint : as read by `checkpoint.read`.
    compiled : use the C kernel; None: where there is one.
    all_open : ignore the gates and compute every channel, for measurements.

    Attributes
    ----------
    sample_rate, hop, latency : in Hz and samples.
    gate_shape : (I, C); (I, 0) of a static network.
    name, sha256 : of the checkpoint.
    """

    sample_rate, hop, latency = SAMPLE_RATE, HOP, WINDOW

    def __init__(
        self, checkpoint: Checkpoint, *, compiled: bool | None = None, all_open: bool = False
    ):
        if checkpoint.header.get("architecture") != "conv_fsenet":
            raise CheckpointError(
                f"{checkpoint.path}: unknown architecture {checkpoint.header.get('architecture')!r}"
            )
        self.header: dict[str, Any] = checkpoint.header
        self.name, self.sha256 = str(self.header["name"]), checkpoint.sha256
        dims = self.header["dims"]
        try:
            self._network = _fold(dims, checkpoint.tensors)
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{checkpoint.path}: weights do not fit: {error}") from error
        self._channels = int(dims["hidden_channels"]) if dims["gated"] else 0
        self.gate_shape = (len(self._network.dilations), self._channels)
        self._all_open = all_open
        self._compiled = _engine is not None if compiled is None else compiled
        if self._compiled and _engine is None:
            raise CheckpointError("the compiled kernel is missing: reinstall with a C compiler")
        network = self._network
        self._hidden = network.blocks[0].inward.shape[0]
        self._gate_hidden = network.blocks[0].squeeze.shape[1]
        shape = [len(network.left), len(network.inverse_sum), len(network.front_bias)]
        shape += [self._hidden, self._gate_hidden, len(network.blocks), bool(self._channels)]
        self._shape = np.array([*shape, *network.dilations, *network.left], np.int32)
        self._weights = network.packed()

    def initial_state(self) -> State:
        """State before the first frame of a recording."""
        slots = sum(2 * d + _TILE for d in self._network.dilations)
        size = 2 + len(self._network.inverse_sum) + slots * (self._hidden + self._gate_hidden)
        return State(np.zeros(size, np.float32), np.zeros(1, np.int64))

    def step(
        self, frames: NDArray[np.complex64], state: State, scores: Array | None = None
    ) -> tuple[Array, NDArray[np.uint8], State]:
        """Any number of frames, from a state that is renewed in place.

        Parameters
        ----------
        frames : (L, 257) complex64 noisy STFT of `audio.stft`.
        state : from `initial_state` or the last call.
        scores : (L, I, C) float32 to be filled with the gates' scores, if given.

        Returns
        -------
        (L, 257) float32 suppression mask in [0, 1], (L, I, C) uint8 gates, and the state.
        """
        frames = np.ascontiguousarray(frames, np.complex64)
        mask = np.empty(frames.shape, np.float32)
        padded = self._hidden if self._channels else 0
        gates = np.empty((len(frames), self.gate_shape[0], padded), np.uint8)
        raw = None if scores is None else np.empty(gates.shape, np.float32)
        if self._compiled:
            _engine.step(
                self._shape, self._weights, state.memory, state.clock,
                frames, mask, gates, raw, self._all_open,
            )  # fmt: skip
        else:
            for i, frame in enumerate(frames):
                self._numpy_frame(frame, state, mask[i], gates[i], None if raw is None else raw[i])
        if scores is not None and raw is not None:
            scores[...] = raw[..., : self._channels]
        return mask, gates[..., : self._channels], state

    def _numpy_frame(
        self,
        spectrum: NDArray[np.complex64],
        state: State,
        mask: Array,
        gates: NDArray[np.uint8],
        scores: Array | None,
    ) -> None:
        """`run_frame` of _engine.c in NumPy: one frame, outputs written in place."""
        net, memory, clock = self._network, state.memory, int(state.clock[0])
        bands = len(net.inverse_sum)
        exponent, slow, rise, fall = net.constants[:4]
        power = spectrum.real**2 + spectrum.imag**2
        pooled = np.zeros(bands + 1, np.float32)
        np.add.at(pooled, net.left, (1 - net.share) * power)
        np.add.at(pooled, net.left + 1, net.share * power)
        c = (pooled[:bands] * net.inverse_sum) ** exponent
        mean = np.float32(c @ net.used)
        floor = memory[2 : 2 + bands]
        if mean > 0:
            memory[0] += 1
            memory[1] += max(1 / memory[0], slow) * (mean - memory[1])
            rate = np.where(c < floor, fall, rise) if memory[0] > 1 else np.float32(1)
            floor += rate * (c - floor)
        level = memory[1] if memory[1] > 0 else np.float32(1)
        x = np.concatenate([c, floor]) / level @ net.front + net.front_bias
        x = np.where(x > 0, x, net.front_slope * x)
        at = 2 + bands
        for i, (w, dilation) in enumerate(zip(net.blocks, net.dilations, strict=True)):
            slots, window = 2 * dilation + _TILE, 2 * dilation + 1
            now = clock % slots
            pooling = memory[at : at + slots * self._gate_hidden].reshape(slots, -1)
            at += pooling.size
            history = memory[at : at + slots * self._hidden].reshape(slots, -1)
            at += history.size
            if self._channels:
                pooling[now] = x @ w.squeeze
                recent = pooling[(now - np.arange(window)) % slots]
                units = np.maximum(recent.mean(0) + w.hidden_bias, 0)
                score = units @ w.expand + w.score_bias
                gates[i] = (score > 0) | self._all_open
                if scores is not None:
                    scores[i] = score
                active = np.flatnonzero(gates[i])
            else:
                active = np.arange(self._hidden)
            h = w.inward[active] @ x + w.inward_bias[active]
            history[now] = 0
            history[now, active] = np.where(h > 0, h, w.inward_slope[active] * h)
            taps = history[[(now - 2 * dilation) % slots, (now - dilation) % slots, now]]
            h = (taps * w.depthwise).sum(0) + w.depthwise_bias
            h = np.where(h > 0, h, w.depthwise_slope * h)
            x = x + (h[active] @ w.outward[active] + w.outward_bias)
        band_mask = np.zeros(bands + 1, np.float32)
        band_mask[:bands] = 1 / (1 + np.exp(-(x @ net.back + net.back_bias)))
        mask[:] = (1 - net.share) * band_mask[net.left] + net.share * band_mask[net.left + 1]
        state.clock[0] += 1


def load(name: str | Path = DEFAULT) -> Engine:
    """Load a shipped model by name, or a checkpoint file.

    Raises
    ------
    CheckpointError
        Unknown name, or a file that is damaged, altered or no dynse model.
    """
    return Engine(read(name))


def _fold(dims: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> _Network:
    """Fold batch normalisation into the weights beside it, and pad widths to LANES."""
    unused = set(tensors)

    def get(name: str) -> Array:
        unused.discard(name)
        return tensors[name].astype(np.float32)

    def norm(name: str, affine: bool = True) -> tuple[Array, Array]:
        """(scale, shift) with norm(x) = scale * x + shift."""
        unused.discard(f"{name}.num_batches_tracked")
        scale = 1 / np.sqrt(get(f"{name}.running_var") + np.float32(_BN_EPSILON))
        if affine:
            scale = scale * get(f"{name}.weight")
        shift = -get(f"{name}.running_mean") * scale
        return scale, shift + get(f"{name}.bias") if affine else shift

    matrix = band_weights(int(dims["bands"]), int(dims["linear_bands"]))
    bands = matrix.shape[1]
    wide = -(-bands // LANES) * LANES
    left = np.argmax(matrix > 0, axis=1).astype(np.int32)
    share = (1 - matrix[np.arange(len(left)), left]).astype(np.float32)
    used = np.zeros(bands, np.float32)
    used[2:] = 1 / (bands - 2)

    front, (scale, shift) = get("front.weight"), norm("front_norm")
    front = (front * scale[:, None]).T.reshape(2, bands, -1)
    gated = bool(dims["gated"])
    dilations = tuple(int(d) for d in dims["dilations"]) * int(dims["stacks"])
    frame_seconds = HOP / SAMPLE_RATE
    seconds = [dims["level_seconds"], dims["floor_rise_seconds"], dims["floor_fall_seconds"]]
    constants = [dims["compression"] / 2, *(1 - np.exp(-frame_seconds / np.array(seconds)))]

    blocks = []
    for i in range(len(dilations)):
        name = f"blocks.{i}"
        in_scale, in_shift = norm(f"{name}.inward_norm")
        dw_scale, dw_shift = norm(f"{name}.depthwise_norm")
        inward = get(f"{name}.inward.weight") * in_scale[:, None]
        channels, residual = inward.shape
        if gated:
            squeeze = get(f"{name}.gating.squeeze.weight").T
            hidden_bias = get(f"{name}.gating.hidden_bias")
            z_scale, z_shift = norm(f"{name}.gating.norm", affine=False)
            expand = (get(f"{name}.gating.expand.weight") * z_scale[:, None]).T
            bias = get(f"{name}.gating.bias")
            score_bias = _BIAS_LIMIT * np.tanh(bias / _BIAS_LIMIT) + z_shift
        else:
            squeeze, hidden_bias = np.zeros((residual, 1), np.float32), np.zeros(1, np.float32)
            expand = np.zeros((1, channels), np.float32)
            score_bias = np.zeros(channels, np.float32)
        blocks.append(
            _Block(
                squeeze=_pad(squeeze),
                hidden_bias=_pad(hidden_bias),
                expand=_pad(expand),
                # A padding channel never opens.
                score_bias=_pad(score_bias, value=-1.0),
                inward=_pad(inward),
                inward_bias=_pad(in_shift),
                inward_slope=_pad(get(f"{name}.inward_slope")),
                depthwise=_pad(get(f"{name}.depthwise") * dw_scale, axes=(1,)),
                depthwise_bias=_pad(dw_shift),
                depthwise_slope=_pad(get(f"{name}.depthwise_slope")),
                outward=_pad(get(f"{name}.outward.weight").T),
                outward_bias=_pad(get(f"{name}.outward.bias")),
            )
        )
    network = _Network(
        share=share,
        inverse_sum=_pad(1 / matrix.sum(0)),
        used=_pad(used),
        constants=_pad(np.array(constants)),
        front=_pad(_pad(front, axes=(1, 2)).reshape(2 * wide, -1)),
        front_bias=_pad(shift),
        front_slope=_pad(get("front_slope")),
        blocks=tuple(blocks),
        back_bias=_pad(get("back.bias")),
        back=_pad(get("back.weight").T),
        left=left,
        dilations=dilations,
    )
    if unused:
        raise ValueError(f"unknown tensors {', '.join(sorted(unused))}")
    return network


def _pad(x: NDArray[Any], value: float = 0.0, axes: tuple[int, ...] | None = None) -> Array:
    axes = tuple(range(x.ndim)) if axes is None else axes
    width = [(0, -n % LANES if axis in axes else 0) for axis, n in enumerate(x.shape)]
    return np.pad(x.astype(np.float32), width, constant_values=value)
