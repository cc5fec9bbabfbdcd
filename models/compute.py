"""Multiply-accumulate counts of Conv-FSENet, dense and pruned.

Counted: every product of the convolutions and of the gating subnets. Not counted, as is usual:
biases, activations, pooling and the STFT (about 20 k operations a frame each way).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..audio.stft import BINS, HOP, SAMPLE_RATE

FRAMES_PER_SECOND = SAMPLE_RATE / HOP


@dataclass(frozen=True)
class MacCount:
    """MACs of one frame.

    Attributes
    ----------
    fixed : front end, back end and gating subnets, computed whatever the gates say.
    per_gate : what one open gate costs: a row, three taps and a column.
    gates : number of gates I * C; of a static net, its hidden channels, all open.
    """

    fixed: int
    per_gate: int
    gates: int

    def per_frame(self, utilisation: float = 1.0) -> float:
        """MACs of a frame with this share of the gates open."""
        return self.fixed + self.per_gate * self.gates * utilisation

    def mmac_per_s(self, utilisation: float = 1.0) -> float:
        """Millions of MACs a second of sound with this share of the gates open."""
        return self.per_frame(utilisation) * FRAMES_PER_SECOND / 1e6


def count_macs(dims: Mapping[str, Any]) -> MacCount:
    """MACs of a network from the dims of its checkpoint (`ConvFSENetConfig.to_dict`)."""
    bands = min(int(dims["bands"]), BINS)
    residual, hidden = int(dims["residual_channels"]), int(dims["hidden_channels"])
    blocks = int(dims["stacks"]) * len(dims["dilations"])
    units = int(dims["gate_hidden"])
    gating = blocks * (residual * units + units * hidden) if dims["gated"] else 0
    return MacCount(
        fixed=3 * bands * residual + gating,
        per_gate=2 * residual + int(dims["kernel"]),
        gates=blocks * hidden,
    )
