"""The STFT of `audio.stft` on batches of whole signals, in torch, and bands."""

from __future__ import annotations

import torch
from torch import Tensor

from ..audio.stft import BINS, HOP, SAMPLE_RATE, WINDOW


def spectrum(x: Tensor) -> Tensor:
    """(B, n) samples -> (B, ceil(n / 256) + 1, 257) complex."""
    frames = -(-x.shape[1] // HOP) + 1
    padded = torch.nn.functional.pad(x, (HOP, frames * HOP - x.shape[1]))
    window = torch.hann_window(WINDOW, device=x.device).sqrt()
    return torch.fft.rfft(padded.unfold(1, WINDOW, HOP) * window)


def inverse(frames: Tensor, samples: int) -> Tensor:
    """Overlap-add of `spectrum`: (B, L, 257) complex -> (B, samples)."""
    window = torch.hann_window(WINDOW, device=frames.device).sqrt()
    parts = torch.fft.irfft(frames, WINDOW) * window
    halves = parts.unflatten(-1, (2, HOP))
    hops = halves[:, 1:, 0] + halves[:, :-1, 1]
    return hops.flatten(1)[:, :samples]


def band_gain(low_hz: Tensor, high_hz: Tensor) -> Tensor:
    """Gains of a band, Butterworth magnitudes of order 6: (B,) and (B,) -> (B, 1, F)."""
    frequency = torch.arange(BINS, device=low_hz.device) * (SAMPLE_RATE / WINDOW) + 1e-3
    low, high = low_hz[:, None] / frequency, frequency / high_hz[:, None]
    return torch.rsqrt((1 + low**12) * (1 + high**12))[:, None]
