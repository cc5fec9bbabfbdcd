"""The recursions of the input features on a GPU: one kernel instead of a call a frame.

`ConvFSENet.features` follows level and noise floor from frame to frame. On a CPU a loop of small
tensor operations is cheap beside the rest; on a GPU its two thousand launches would cost several
times the network. Needs Triton, which comes with torch where there is CUDA.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]
    compressed, mean, frames_, level_, floor_, levels, floors, length, bands, slow, rise, fall,
    WIDTH: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(0)
    band = tl.arange(0, WIDTH)
    there = band < bands
    frames = tl.load(frames_ + item)
    level = tl.load(level_ + item)
    floor = tl.load(floor_ + item * bands + band, mask=there, other=0.0)
    for t in range(length):
        at = item * length + t
        m = tl.load(mean + at)
        c = tl.load(compressed + at * bands + band, mask=there, other=0.0)
        audible = (m > 0).to(tl.float32)
        frames += audible
        level += audible * tl.maximum(1 / tl.maximum(frames, 1.0), slow) * (m - level)
        rate = tl.where(c < floor, fall, rise)
        rate = tl.where(frames <= 1, 1.0, rate) * audible
        floor += rate * (c - floor)
        tl.store(levels + at, level)
        tl.store(floors + at * bands + band, floor, mask=there)
    tl.store(frames_ + item, frames)
    tl.store(level_ + item, level)
    tl.store(floor_ + item * bands + band, floor, mask=there)


def follow(
    compressed: Tensor,
    mean: Tensor,
    state: tuple[Tensor, Tensor, Tensor],
    rates: tuple[float, float, float],
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Level and floor of each frame.

    Parameters
    ----------
    compressed : (B, L, bands) float32 on a GPU.
    mean : (B, L) their level, 0 in digital silence.
    state : frames heard (B,), level (B,) and floor (B, bands); not changed.
    rates : of the level, and of the floor up and down, a frame.

    Returns
    -------
    Levels (B, L), floors (B, L, bands) and the state behind the last frame.
    """
    batch, length, bands = compressed.shape
    frames, level, floor = (x.clone() for x in state)
    levels, floors = torch.empty_like(mean), torch.empty_like(compressed)
    _kernel[(batch,)](
        compressed.contiguous(), mean.contiguous(), frames, level, floor, levels, floors,
        length, bands, *rates, WIDTH=triton.next_power_of_2(bands), num_warps=1,
    )  # fmt: skip
    return levels, floors, (frames, level, floor)
