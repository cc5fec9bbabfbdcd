"""Training losses: speech enhancement, and how many gates a frame deserves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .gating import smooth_over_time


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses."""

    compression: float = 0.3
    alpha: float = 0.3
    spectral_weight: float = 50.0
    si_sdr_weight: float = 3.0
    utilisation_weight: float = 40.0
    pesq_weight: float = 2.0


def compressed_spectral_loss(
    estimate: Tensor, clean: Tensor, compression: float = 0.3, alpha: float = 0.3
) -> Tensor:
    """Mean over bins of alpha |S^c - S'^c|^2 + (1 - alpha) (|S|^c - |S'|^c)^2, phase kept in S^c.

    Parameters
    ----------
    estimate, clean : (B, L, F, 2) real and imaginary parts of the STFT, normalised to the active
        level of the clean speech.

    Notes
    -----
    Braun and Tashev, "A consolidated view of loss functions for supervised deep learning-based
    speech enhancement", 2021. |S^c - S'^c|^2 is expanded by the law of cosines, which needs no
    complex power: a^2 + b^2 - 2 a b cos(angle between them).
    """
    p, q = estimate.square().sum(-1) + 1e-8, clean.square().sum(-1) + 1e-8
    a, b = p ** (compression / 2), q ** (compression / 2)
    cosine = (estimate * clean).sum(-1) * torch.rsqrt(p * q)
    magnitude = (a - b) ** 2
    return (magnitude + alpha * 2 * a * b * (1 - cosine)).mean()


def si_sdr_loss(estimate: Tensor, clean: Tensor, ceiling_db: float = 30.0) -> Tensor:
    """Negative log10 of the scale-invariant signal-to-distortion ratio, mean over the batch.

    Parameters
    ----------
    estimate, clean : (B, L, F, 2) real and imaginary parts of the STFT. The sqrt-Hann frames at
        half overlap are a tight frame, so inner products of spectra equal those of waveforms up
        to the inconsistent part.
    ceiling_db : soft bound: what is already that good pulls no more.

    Notes
    -----
    Le Roux et al., "SDR - half-baked or well done?", 2019. Items without speech count as 0.
    """
    e, s = estimate.flatten(1), clean.flatten(1)
    energy, cross = (s * s).sum(1), (e * s).sum(1)
    target = cross**2 / energy.clamp(min=1e-8)
    error = ((e * e).sum(1) - target).clamp(min=0)
    ratio = target / (error + target * 10 ** (-ceiling_db / 10) + 1e-8)
    return -torch.where(energy > 1e-4, torch.log10(ratio + 1e-4), 0.0).mean()


def difficulty(noisy: Tensor, clean: Tensor) -> Tensor:
    """How much of the network each frame deserves, as a shape of mean about 1 in noisy speech.

    0.02 in frames without speech; 0.15 + 0.4 sigmoid((6 - SNR) / 4) in frames with speech at the
    frame's SNR in dB; smoothed over 5 frames; and all of it up to half more where the SNR of the
    whole mixture is below 0 dB, for there the net misses speech frames and would rest. The idea of
    metric-guided training (Zhao et al., "Dynamically Slimmable Speech Enhancement Network with
    Metric-Guided Training", 2025), with the SNR in place of DNSMOS: it is exact, free, and known
    for every frame.

    Parameters
    ----------
    noisy, clean : (B, L, F, 2) real and imaginary parts of the STFT.

    Returns
    -------
    Tensor
        (B, L) in [0, 1].
    """
    speech = clean.square().sum((-2, -1))  # (B, L)
    noise = (noisy - clean).square().sum((-2, -1))
    present = speech > speech.amax(1, keepdim=True) * 1e-4 + 1e-8
    snr_db = 10 * torch.log10((speech + 1e-10) / (noise + 1e-10))
    hard = 0.15 + 0.4 * torch.sigmoid((6 - snr_db) / 4)
    shape = smooth_over_time(torch.where(present, hard, 0.02), 5)
    totals = ((part * present).sum(1, keepdim=True) + 1e-10 for part in (speech, noise))
    overall_db = 10 * (torch.log10(next(totals)) - torch.log10(next(totals)))
    return shape * (1 + 0.5 * torch.sigmoid((-1 - overall_db) / 2))


def utilisation_loss(gates: Tensor, target: Tensor) -> Tensor:
    """Mean squared distance of each frame's share of open gates from its target.

    Parameters
    ----------
    gates : (B, L, I, C) in {0, 1}.
    target : (B, L) in [0, 1].
    """
    return ((gates.mean((2, 3)) - target) ** 2).mean()
