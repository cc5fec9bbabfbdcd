"""Inference without torch: reads a checkpoint, folds it, and computes only the open channels.

Two kernels do the same step on the same weights:

* ``native/``, built with the package and chosen for the machine's instruction set when loaded: in
  files a frame of 16 ms takes one core some 5 microseconds with AVX-512, 9 with AVX2, 17 with SSE2.
  Chosen over numba by its start: numba took 0.27 s to import here, warm, and compiles on its first
  run.
* NumPy, where there was no compiler at installation: a hundred times slower (0.5 ms a frame), still
  well under real time.

How the frames of a call share work was tried with dynse-25 at utilisation 0.28 (AVX-512; medians of
interleaved runs in microseconds of processor time a frame; all gates open in brackets):

    frames a call                                 1            8           64         1024
    each by its own open channels       12.4 (26.8)   6.3 (14.3)   5.6 (13.5)   5.9 (13.7)
    two by the union of theirs, 0.31              -   6.1 (12.1)   5.4 (10.7)   5.7 (10.9)
    four, 0.36; taken                             -   5.6  (9.2)   5.1  (8.1)   5.4  (8.4)

Sharing the reading of weights wins however many gates are open, and more the more there are: a full
network is cheap then. So files gain less from pruning (1.6 times) than frames by themselves (2.2 to
2.4, what the products promise), and are still faster than those. Runs of equal masks do not pay:
only 9 % of a block's frames have the mask of the frame before, 7 of 128 gates changing from one to
the next. Nor does one product over a longer union: 16 frames open 0.52 of the channels between
them, 64 frames 0.70. With all gates closed a frame takes 2.8 (7.1 alone): front and back end,
features, gating subnets, depthwise convolutions.

Each output is summed in one order whatever a call brings, so any way of cutting a recording gives
the same bits.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

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

_LAYOUT = 4  # of the buffers that native/ reads
if _engine is not None and getattr(_engine, "LAYOUT", 1) != _LAYOUT:  # a checkout after a pull
    warnings.warn("the compiled kernel is outdated: pip install -e . again", stacklevel=2)
    _engine = None  # type: ignore[assignment]

_PANEL = 32  # columns of a dense layer's weights that lie together in its buffer
_BN_EPSILON = 1e-5
_BIAS_LIMIT = 2.0  # gating.BIAS_LIMIT, which cannot be had without torch


@dataclass
class State:
    """What a stream remembers; `Engine.step` renews it in place.

    Attributes
    ----------
    memory : flat float32: frames heard and level (in LANES), noise floor, and a block's rings: the
        last units of its gating subnet, the last activations before its depthwise convolution.
    sums : (I, H) float64, running sums of the units, exact for all that sound can bring.
    clock : frames so far.
    scratch : room for the C kernel, so that a step allocates none; holds nothing between steps.
    """

    memory: Array
    sums: NDArray[np.float64]
    clock: NDArray[np.int64]
    scratch: Array = field(repr=False)

    def copy(self) -> State:
        """State to come back to."""
        memory = _aligned(self.memory.size)
        memory[:] = self.memory
        return State(memory, self.sums.copy(), self.clock.copy(), _aligned(self.scratch.size))


@dataclass(frozen=True)
class _Block:
    """Folded weights of one block, in the order in which the C kernel reads them."""

    squeeze: Array  # (H, R)
    hidden_bias: Array  # (H,)
    expand: Array  # (H, C)
    score_bias: Array  # (C,)
    inward: Array  # (C, R)
    inward_bias: Array  # (C,)
    inward_slope: Array  # (C,)
    depthwise: Array  # (K, C)
    depthwise_bias: Array  # (C,)
    depthwise_slope: Array  # (C,)
    outward: Array  # (C, R)
    outward_bias: Array  # (R,)


@dataclass(frozen=True)
class _Network:
    pool: Array  # (F, b) power of bins -> of bands
    used: Array  # (b,) weight of a band in the level
    constants: Array  # (LANES,) exponent in two parts, slow, rise, fall
    front: Array  # (2b, R)
    front_bias: Array  # (R,)
    front_slope: Array  # (R,)
    blocks: tuple[_Block, ...]
    back_bias: Array  # (b,)
    back: Array  # (R, b)
    spread: Array  # (b, F) mask of bands -> of bins
    dilations: tuple[int, ...]
    windows: tuple[int, ...]
    pooled: int

    def packed(self) -> Array:
        """All weights in the order in which the C kernel reads them."""
        parts = [_banded(self.pool)[1], self.used, self.constants]
        parts += [_panels(self.front), self.front_bias, self.front_slope]
        for block in self.blocks:
            for name in block.__dataclass_fields__:
                weights = getattr(block, name)
                parts.append(_panels(weights) if name == "expand" else weights)
        parts += [self.back_bias, _panels(self.back), _banded(self.spread)[1]]
        flat = [np.ascontiguousarray(part).ravel() for part in parts]
        return np.concatenate(flat, out=_aligned(sum(part.size for part in flat)))


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
        self._gate_hidden = network.blocks[0].squeeze.shape[0]
        self._taps = network.blocks[0].depthwise.shape[0]
        shape = [*network.pool.shape, len(network.front_bias)]
        shape += [self._hidden, self._gate_hidden, self._taps]
        shape += [len(network.blocks), bool(self._channels), network.pooled]
        shape += [*network.dilations, *network.windows]
        shape += [*_banded(network.pool)[0], *_banded(network.spread)[0]]
        self._shape = np.array(shape, np.int32)
        self._weights = network.packed()

    def initial_state(self) -> State:
        """State before the first frame of a recording."""
        network, reach = self._network, self._taps - 1
        size = LANES + len(network.used) + sum(network.windows) * self._gate_hidden
        size += sum(reach * d for d in network.dilations) * self._hidden
        memory = _aligned(size)
        memory[:] = 0
        return State(
            memory=memory,
            sums=np.zeros((len(network.blocks), self._gate_hidden)),
            clock=np.zeros(1, np.int64),
            scratch=_aligned(_engine.scratch_size(self._shape) if self._compiled else 0),
        )

    def enhance(self, samples: ArrayLike, sample_rate: int = SAMPLE_RATE) -> NDArray[Any]:
        """Enhance a whole recording; `stream.enhance` has more settings.

        Parameters
        ----------
        samples : (n,) or (n, channels) float, nominally within [-1, 1].
        sample_rate : 4000 to 384000 Hz.

        Returns
        -------
        Shape of `samples`, sample-aligned with them.

        Examples
        --------
        >>> import numpy as np, dynse
        >>> model = dynse.load("dynse-25")
        >>> model.enhance(np.zeros((48000, 2), np.float32), 48000).shape
        (48000, 2)
        """
        from .stream import enhance

        return enhance(self, samples, sample_rate)

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
                self._shape, self._weights, state.memory, state.sums, state.clock, state.scratch,
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
        """`run_frames` of native/kernel.h in NumPy: one frame, outputs written in place."""
        net, memory, clock = self._network, state.memory, int(state.clock[0])
        bands = len(net.used)
        slow, rise, fall = net.constants[2:5]
        exponent = net.constants[0] + net.constants[1]
        power = spectrum.real**2 + spectrum.imag**2
        c = (power @ net.pool) ** exponent
        mean = np.float32(c @ net.used)
        floor = memory[LANES : LANES + bands]
        if mean > 0:
            memory[0] += 1
            memory[1] += max(1 / memory[0], slow) * (mean - memory[1])
            rate = np.where(c < floor, fall, rise) if memory[0] > 1 else np.float32(1)
            floor += rate * (c - floor)
        level = memory[1] if memory[1] > 0 else np.float32(1)
        x = np.concatenate([c, floor]) / level @ net.front + net.front_bias
        x = np.where(x > 0, x, net.front_slope * x)
        at = LANES + bands
        for i, (w, dilation) in enumerate(zip(net.blocks, net.dilations, strict=True)):
            window, reach = net.windows[i], (self._taps - 1) * dilation
            pooling = memory[at : at + window * self._gate_hidden].reshape(window, -1)
            at += pooling.size
            history = memory[at : at + reach * self._hidden].reshape(reach, -1)
            at += history.size
            if self._channels:
                fresh, oldest = w.squeeze @ x, pooling[clock % window]
                state.sums[i] += fresh.astype(np.float64) - oldest
                oldest[:] = fresh
                mean = (state.sums[i] / window).astype(np.float32)
                mean[net.pooled :] = fresh[net.pooled :]
                units = np.maximum(mean + w.hidden_bias, 0)
                score = units @ w.expand + w.score_bias
                gates[i] = (score > 0) | self._all_open
                if scores is not None:
                    scores[i] = score
                active = np.flatnonzero(gates[i])
            else:
                active = np.arange(self._hidden)
            h = w.inward[active] @ x + w.inward_bias[active]
            new = np.zeros(self._hidden, np.float32)
            new[active] = np.where(h > 0, h, w.inward_slope[active] * h)
            past = history[(clock + dilation * np.arange(self._taps - 1)) % reach]
            h = (past * w.depthwise[:-1]).sum(0) + new * w.depthwise[-1] + w.depthwise_bias
            history[clock % reach] = new
            h = np.where(h > 0, h, w.depthwise_slope * h)
            x = x + (h[active] @ w.outward[active] + w.outward_bias)
        mask[:] = 1 / (1 + np.exp(-(x @ net.back + net.back_bias))) @ net.spread
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
    used = np.zeros(bands, np.float32)
    used[2:] = 1 / (bands - 2)

    front, (scale, shift) = get("front.weight"), norm("front_norm")
    front = (front * scale[:, None]).T.reshape(2, bands, -1)
    gated = bool(dims["gated"])
    dilations = tuple(int(d) for d in dims["dilations"]) * int(dims["stacks"])
    frame_seconds = HOP / SAMPLE_RATE
    seconds = [dims["level_seconds"], dims["floor_rise_seconds"], dims["floor_fall_seconds"]]
    exponent = float(dims["compression"]) / 2
    high = round(exponent * 4096) / 4096  # few digits: see power_of in native/kernel.h
    constants = [high, exponent - high, *(1 - np.exp(-frame_seconds / np.array(seconds)))]

    blocks = []
    for i in range(len(dilations)):
        name = f"blocks.{i}"
        in_scale, in_shift = norm(f"{name}.inward_norm")
        dw_scale, dw_shift = norm(f"{name}.depthwise_norm")
        inward = get(f"{name}.inward.weight") * in_scale[:, None]
        channels, residual = inward.shape
        if gated:
            squeeze = get(f"{name}.gating.squeeze.weight")
            hidden_bias = get(f"{name}.gating.hidden_bias")
            z_scale, z_shift = norm(f"{name}.gating.norm", affine=False)
            expand = (get(f"{name}.gating.expand.weight") * z_scale[:, None]).T
            bias = get(f"{name}.gating.bias")
            score_bias = _BIAS_LIMIT * np.tanh(bias / _BIAS_LIMIT) + z_shift
        else:
            squeeze, hidden_bias = np.zeros((1, residual), np.float32), np.zeros(1, np.float32)
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
        pool=_pad(matrix / matrix.sum(0), axes=(1,)),
        used=_pad(used),
        constants=_pad(np.array(constants)),
        front=_pad(_pad(front, axes=(1, 2)).reshape(2 * wide, -1)),
        front_bias=_pad(shift),
        front_slope=_pad(get("front_slope")),
        blocks=tuple(blocks),
        back_bias=_pad(get("back.bias")),
        back=_pad(get("back.weight").T),
        spread=_pad(matrix.T, axes=(0,)),
        dilations=dilations,
        windows=tuple((int(dims["kernel"]) - 1) * d + 1 for d in dilations),
        pooled=int(dims["gate_hidden"]) - int(dims.get("gate_fast", 0)),
    )
    if unused:
        raise ValueError(f"unknown tensors {', '.join(sorted(unused))}")
    return network


def _aligned(size: int) -> Array:
    """(size,) float32, uninitialised, at an address that no vector straddles a cache line from."""
    room = np.empty(size + LANES, np.float32)
    start = -room.ctypes.data // 4 % LANES
    return room[start : start + size]


def _panels(x: Array) -> Array:
    """Columns in panels of _PANEL, one after the other, as the C kernel reads a dense layer."""
    cuts = range(_PANEL, x.shape[1], _PANEL)
    return np.concatenate([panel.ravel() for panel in np.split(x, cuts, axis=1)])


def _banded(x: Array) -> tuple[list[int], Array]:
    """Of each LANES columns, the run of rows that are not all zero, as the C kernel reads them.

    Returns
    -------
    First rows and numbers of rows, all of the first before all of the second; their weights.
    """
    x = _pad(x, axes=(1,))
    first, count, pieces = [], [], [np.zeros(0, np.float32)]
    for at in range(0, x.shape[1], LANES):
        columns = x[:, at : at + LANES]
        rows = np.flatnonzero(columns.any(axis=1))
        first.append(int(rows[0]) if len(rows) else 0)
        count.append(int(rows[-1]) + 1 - first[-1] if len(rows) else 0)
        pieces.append(columns[first[-1] : first[-1] + count[-1]].ravel())
    return [*first, *count], np.concatenate(pieces)


def _pad(x: NDArray[Any], value: float = 0.0, axes: tuple[int, ...] | None = None) -> Array:
    axes = tuple(range(x.ndim)) if axes is None else axes
    width = [(0, -n % LANES if axis in axes else 0) for axis, n in enumerate(x.shape)]
    return np.pad(x.astype(np.float32), width, constant_values=value)
