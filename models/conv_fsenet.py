"""Conv-FSENet with dynamic channel pruning (DynCP): the default model.

    noisy STFT -> bands -> [level-free spectrum, noise floor] -> 1x1 conv -> 9 blocks -> 1x1 conv
               -> sigmoid -> suppression mask M in [0, 1]^(L x F);   enhanced = M * noisy

    block:  x -+-> 1x1 conv -> BN -> PReLU -> * -> depthwise conv -> BN -> PReLU -> * -+
               |                              |                                    |  |
               +-> gating subnet -> gates ----+------------------------------------+  |
               +------------------------------> + <- 1x1 conv <-----------------------+

Causal, zero look-ahead, 16 kHz, 512/256 STFT: 32 ms of algorithmic latency, the window's.
Nine blocks, kernel 3, dilations 1, 2, 4, 8, 16, 32, 1, 2, 4: a receptive field of 140 past frames
(2.2 s), and a memory without limit through the level and the noise floor of the input features.

Sources: the block, the dilations and the gating subnet are those of Conv-FSENet (Miccini et al.,
"Scalable Speech Enhancement with Dynamic Channel Pruning", ICASSP 2025; "From Diet to Free
Lunch", section 2.2). Ours, each with its reason:

* A channel is gated behind the first 1x1 conv *and* before the second. Both products are skipped
  for a closed gate, where the original saves one of them. A skipped activation counts as zero in
  the depthwise history, in training and at inference alike.
* The spectrum is divided by a running level, so that the output does not depend on the recording
  level, and stands beside a running noise floor (minimum-following, seconds long), so that the
  net need not infer stationary noise from 0.7 s of context.
* Dilations up to 32 instead of three times 1, 2, 4 (42 past frames; the first shipped weights have
  them): after 2000 steps on the same mixtures WB-PESQ 2.042 instead of 2.030, SI-SDR 11.26 dB
  instead of 11.17 on 192 validation mixtures, for nothing: dilation costs no MACs.
* Bins above 2 kHz are pooled into bands, which hearing does not resolve either: fewer weights to
  learn from few hours of speech. ``bands=257`` is the paper's front and back end.

Tried in single runs, whose code is not kept, and left out: the phase that bins below 2 kHz turn by
from frame to frame as 128 more input features (1000 steps, 64 wide, ungated: WB-PESQ 1.987 instead
of 2.001, SI-SDR 10.88 instead of 10.82 dB on 192 validation mixtures), and with it a complex
correction of those bins from this frame and the last (500 steps: 1.881 and 9.81 instead of 1.919
and 10.14); gates that open gradually (`benchmarks.frontier`).

MACs a frame, with b bands, R residual channels, C gated channels a block, H hidden gating units:
3 b R + 9 (R H + H C) + utilisation * 9 (2 R C + 3 C); see `compute.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..audio.stft import BINS, HOP, SAMPLE_RATE, WINDOW
from .bands import band_weights
from .gating import Estimator, GatingSubnet, binarise


@dataclass(frozen=True)
class ConvFSENetConfig:
    """Dimensions of a Conv-FSENet. They travel inside its checkpoint."""

    bands: int = 112
    linear_bands: int = 64
    residual_channels: int = 128
    hidden_channels: int = 128
    stacks: int = 1
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 1, 2, 4)
    kernel: int = 3
    gated: bool = True
    gate_hidden: int = 16
    gate_fast: int = 8
    estimator: Estimator = "fast_sigmoid"
    compression: float = 0.3
    level_seconds: float = 2.0
    floor_rise_seconds: float = 3.0
    floor_fall_seconds: float = 0.08

    @property
    def blocks(self) -> int:
        """Number of blocks I."""
        return self.stacks * len(self.dilations)

    @property
    def reach(self) -> tuple[int, ...]:
        """Past frames that each block's depthwise convolution, and its pooling, look back."""
        return tuple((self.kernel - 1) * d for _ in range(self.stacks) for d in self.dilations)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint's header."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ConvFSENetConfig:
        """Read back what `to_dict` wrote; unknown names raise TypeError."""
        earlier = {"gate_fast": 0}  # what checkpoints from before a name was there have
        return cls(**{**earlier, **values, "dilations": tuple(values["dilations"])})


class State(NamedTuple):
    """All that the network remembers between two calls, for a batch of B streams."""

    frames: Tensor  # (B,) frames heard that were not digital silence
    level: Tensor  # (B,) running mean of the compressed spectrum
    floor: Tensor  # (B, bands) running noise floor of the compressed spectrum
    pooling: tuple[Tensor, ...]  # a block: (B, window - 1, gate_hidden)
    history: tuple[Tensor, ...]  # a block: (B, 2 * dilation, C) gated activations


class Output(NamedTuple):
    """What the network says of L frames."""

    mask: Tensor  # (B, L, F) suppression mask in [0, 1]
    gates: Tensor  # (B, L, I, C) in {0, 1}; (B, L, I, 0) of a static net
    scores: Tensor  # (B, L, I, C) gate scores before the threshold
    state: State


class Block(nn.Module):
    """One processing block B_i: 1x1 conv, depthwise dilated conv, 1x1 conv, residual, gated."""

    def __init__(self, config: ConvFSENetConfig, dilation: int):
        super().__init__()
        residual, hidden = config.residual_channels, config.hidden_channels
        self.dilation, self.kernel, self.estimator = dilation, config.kernel, config.estimator
        window = (config.kernel - 1) * dilation + 1
        self.gating = (
            GatingSubnet(residual, hidden, config.gate_hidden, window, config.gate_fast)
            if config.gated
            else None
        )
        self.inward = nn.Linear(residual, hidden, bias=False)
        self.inward_norm = nn.BatchNorm1d(hidden)
        self.inward_slope = nn.Parameter(torch.full((hidden,), 0.1))
        self.depthwise = nn.Parameter(torch.randn(config.kernel, hidden) / config.kernel**0.5)
        self.depthwise_norm = nn.BatchNorm1d(hidden)
        self.depthwise_slope = nn.Parameter(torch.full((hidden,), 0.1))
        self.outward = nn.Linear(hidden, residual)
        nn.init.normal_(self.outward.weight, std=0.3 / hidden**0.5)  # start as a shallow net

    def forward(
        self, x: Tensor, pooling: Tensor, history: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(B, L, R) -> (B, L, R), gates and scores (B, L, C), and the two states."""
        frames = x.shape[1]
        h = self.inward(x)  # (B, L, C)
        h = _norm(self.inward_norm, h)
        h = _prelu(h, self.inward_slope)
        if self.gating is None:
            gates = scores = h[..., :0]
        else:
            scores, pooling = self.gating(x, pooling)
            gates = binarise(scores, self.estimator, self.training)
            h = h * gates
        padded = torch.cat([history, h], dim=1)  # (B, 2 * dilation + L, C)
        h = self.depthwise[0] * padded[:, :frames]
        for tap in range(1, self.kernel):
            start = tap * self.dilation
            h = h + self.depthwise[tap] * padded[:, start : start + frames]
        h = _norm(self.depthwise_norm, h)
        h = _prelu(h, self.depthwise_slope)
        if self.gating is not None:
            h = h * gates
        return x + self.outward(h), gates, scores, pooling, padded[:, frames:]


class ConvFSENet(nn.Module):
    """The network; see the module's docstring.

    Attributes
    ----------
    sample_rate, hop : what it is made for, in Hz and samples.
    latency : samples of algorithmic latency.
    gate_shape : (I, C).
    """

    sample_rate, hop, latency = SAMPLE_RATE, HOP, WINDOW
    expand: Tensor  # (F, bands)
    pool: Tensor  # (F, bands)

    def __init__(self, config: ConvFSENetConfig | None = None):
        super().__init__()
        self.config = config = config or ConvFSENetConfig()
        residual = config.residual_channels
        bands = min(config.bands, BINS)
        self.gate_shape = (config.blocks, config.hidden_channels if config.gated else 0)
        expand = torch.from_numpy(band_weights(config.bands, config.linear_bands)).float()
        self.register_buffer("expand", expand, persistent=False)
        self.register_buffer("pool", expand / expand.sum(0), persistent=False)
        self.front = nn.Linear(2 * bands, residual, bias=False)
        self.front_norm = nn.BatchNorm1d(residual)
        self.front_slope = nn.Parameter(torch.full((residual,), 0.1))
        self.blocks = nn.ModuleList(
            Block(config, dilation) for _ in range(config.stacks) for dilation in config.dilations
        )
        self.back = nn.Linear(residual, bands)
        nn.init.constant_(self.back.bias, 1.0)  # start by letting sound through

    def initial_state(self, batch: int = 1) -> State:
        """State before the first frame."""
        config, weight = self.config, self.front.weight
        hidden = config.gate_hidden if config.gated else 0

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, device=weight.device, dtype=weight.dtype)

        return State(
            frames=zeros(batch),
            level=zeros(batch),
            floor=zeros(batch, min(config.bands, BINS)),
            pooling=tuple(zeros(batch, r, hidden) for r in config.reach),
            history=tuple(zeros(batch, r, config.hidden_channels) for r in config.reach),
        )

    @torch.no_grad()
    def features(self, spectrum: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Level-free input features, which need no gradient.

        Parameters
        ----------
        spectrum : (B, L, F) complex noisy STFT.
        state : level and noise floor are read and renewed; None is the start of a recording.

        Returns
        -------
        (B, L, 2 * bands) float32: the compressed band spectrum and its floor, both over the level.
        Multiplying the input by a constant changes neither. Frames of digital silence leave the
        state alone, so that a dropout does not pull the level and the floor down.
        """
        state = state or self.initial_state(len(spectrum))
        return self.features_of_power(spectrum.real**2 + spectrum.imag**2, state)

    @torch.no_grad()
    def features_of_power(self, power: Tensor, state: State) -> tuple[Tensor, State]:
        """`features` from the power spectrum, (B, L, F) real."""
        config = self.config
        compressed = (power @ self.pool) ** (config.compression / 2)  # (B, L, bands)
        # Bins below 50 Hz carry DC offset and rumble, not level.
        mean = compressed[..., 2:].mean(-1)  # (B, L)
        audible = (mean > 0).to(mean.dtype)
        frame_seconds = HOP / SAMPLE_RATE
        slow = 1 - float(torch.exp(torch.tensor(-frame_seconds / config.level_seconds)))
        rise = 1 - float(torch.exp(torch.tensor(-frame_seconds / config.floor_rise_seconds)))
        fall = 1 - float(torch.exp(torch.tensor(-frame_seconds / config.floor_fall_seconds)))
        if compressed.is_cuda:
            from .scan import follow

            before, rates = (state.frames, state.level, state.floor), (slow, rise, fall)
            level_track, floor_track, after = follow(compressed, mean, before, rates)
            state = state._replace(frames=after[0], level=after[1], floor=after[2])
            return _over_level(compressed, floor_track, level_track), state
        frames, level, floor = state.frames, state.level, state.floor
        levels, floors = [], []
        for c, m, a in zip(compressed.unbind(1), mean.unbind(1), audible.unbind(1), strict=True):
            frames = frames + a
            first = (frames <= 1).to(mean.dtype)
            # Mean over the first seconds, exponential afterwards: settled from the first frame on.
            level = level + a * (1 / frames.clamp(min=1)).clamp(min=slow) * (m - level)
            rate = torch.where(c < floor, fall, rise)
            rate = torch.maximum(rate, first[:, None]) * a[:, None]
            floor = floor + rate * (c - floor)
            levels.append(level)
            floors.append(floor)
        if not levels:
            return compressed.new_zeros(*compressed.shape[:2], 2 * compressed.shape[2]), state
        state = state._replace(frames=frames, level=level, floor=floor)
        return _over_level(compressed, torch.stack(floors, 1), torch.stack(levels, 1)), state

    def trunk(self, features: Tensor, state: State) -> Output:
        """Features -> mask: the part with weights. Shapes as in `features` and `Output`."""
        x = self.front(features)  # (B, L, R)
        # The residual stream stays float32 where products are bfloat16.
        x = _prelu(_norm(self.front_norm, x), self.front_slope).to(features.dtype)
        gates, scores, poolings, histories = [], [], [], []
        for block, pooling, history in zip(self.blocks, state.pooling, state.history, strict=True):
            x, g, z, pooling, history = block(x, pooling, history)
            gates.append(g)
            scores.append(z)
            poolings.append(pooling)
            histories.append(history)
        mask = torch.sigmoid(self.back(x)).to(self.expand.dtype) @ self.expand.T  # (B, L, F)
        state = state._replace(pooling=tuple(poolings), history=tuple(histories))
        return Output(mask, torch.stack(gates, 2), torch.stack(scores, 2), state)

    def forward(self, spectrum: Tensor, state: State | None = None) -> Output:
        """Any number of frames from a state; offline is one call from the initial state.

        Parameters
        ----------
        spectrum : (B, L, F) complex noisy STFT.
        state : what an earlier call returned; None is the start of a recording.
        """
        state = state or self.initial_state(len(spectrum))
        features, state = self.features(spectrum, state)
        return self.trunk(features, state)


def _over_level(compressed: Tensor, floor: Tensor, level: Tensor) -> Tensor:
    both, level = torch.cat([compressed, floor], dim=-1), level[..., None]
    return both / torch.where(level > 0, level, 1.0)


def _norm(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    return norm(x.flatten(0, 1)).view_as(x)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.relu(x) - slope * torch.relu(-x)


__all__ = ["Block", "ConvFSENet", "ConvFSENetConfig", "Output", "State"]
