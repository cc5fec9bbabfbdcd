"""Ground truths on the STFT frame grid: what a probe is asked to read from the pruning masks.

Every function gives one value a frame; frame `l` is centred on sample `l * HOP`, as in
`audio.stft`. Where a target is not defined (SI-SDR and PESQ without speech, F0 of unvoiced frames)
it is NaN, and such frames are neither fitted nor scored. The clean reference is always needed.

Source: Miccini et al., "From Diet to Free Lunch", section 2.3 and Table 1. Two differences, both
because an undefined value is not a low one: the paper clamps the SI-SDR of windows without speech
to -50 dB, here they are left out; and PESQ is the ITU-T reference code (package `pesq`) where the
paper takes `torch_pesq`, a differentiable approximation of it; how far the two are apart on such
windows was not measured here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..audio.metrics import MetricError, package, pesq_wb, si_sdr
from ..audio.mixing import active_level
from ..audio.stft import HOP, SAMPLE_RATE, WINDOW

__all__ = [
    "SI_SDR_SECONDS",
    "SNR_RANGE_DB",
    "frame_rms",
    "fundamental",
    "moving_average",
    "of_scenes",
    "pesq_track",
    "si_sdr_track",
    "snr",
    "to_frames",
    "voice_activity",
    "windows",
]

Float32 = NDArray[np.float32]

SNR_RANGE_DB = (-50.0, 30.0)
"""Clamp of SNR and SI-SDR, dB."""
SI_SDR_SECONDS, PESQ_SECONDS, PESQ_PADDING_SECONDS = 1.0, 3.0, 0.5
_OVERLAP = 0.75
_VAD_THRESHOLD_DB = -25.0
# With it two thirds of the frames of our streams are active, as in the paper (68 %). At -30 dB, the
# softest frames of noisy speech are below what any listener hears under the noise.
_F0_PIECE_S, _F0_MARGIN_S = 60.0, 1.0


def _whole(x: ArrayLike) -> NDArray[np.float32]:
    """`x` with zeros up to a multiple of HOP, so that its frames are those of `audio.stft`."""
    samples = np.asarray(x, np.float32)
    return np.pad(samples, (0, -len(samples) % HOP))


def moving_average(x: ArrayLike, frames: int) -> NDArray[np.float64]:
    """Centred (zero-phase) mean over `frames` (odd) along the first axis, shorter at the ends."""
    values = np.asarray(x, np.float64)
    half = frames // 2
    total = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (total[high] - total[low]) / (high - low).reshape(-1, *(1,) * (values.ndim - 1))


def frame_rms(x: ArrayLike) -> Float32:
    """RMS of each frame's 512 samples: (n,) -> (L,), by `librosa.feature.rms`."""
    import librosa

    samples = _whole(x)
    if not len(samples):
        return np.zeros(0, np.float32)
    rms: Float32 = librosa.feature.rms(y=samples, frame_length=WINDOW, hop_length=HOP)[0]
    return rms


def voice_activity(
    clean: ArrayLike,
    level: float | None = None,
    *,
    threshold_db: float = _VAD_THRESHOLD_DB,
    smoothing: int = 5,
    decision: int = 11,
) -> NDArray[np.bool_]:
    """Voice activity from the clean envelope.

    RMS a frame, zero-phase moving average, threshold, and the coarse decision smoothed and
    binarised again, which closes gaps and drops bursts shorter than half of `decision` frames.

    Parameters
    ----------
    clean : (n,) at 16 kHz.
    level : RMS amplitude of active speech that the threshold is relative to; by default that of
        `clean`. Give it where `clean` is a part of a longer signal.
    threshold_db : relative to `level`.
    smoothing, decision : frames (odd) of the two averages: 80 ms and 176 ms.

    Returns
    -------
    (L,) bool.
    """
    samples = np.asarray(clean, np.float32)
    level = active_level(samples) if level is None else level
    envelope = moving_average(frame_rms(samples), smoothing)
    coarse = envelope > max(level * 10 ** (threshold_db / 20), 1e-9)
    return moving_average(coarse, decision) > 0.5


def snr(clean: ArrayLike, noise: ArrayLike) -> Float32:
    """SNR of each frame in dB: 20 log10(RMS of clean / RMS of noise), within -50..30 dB.

    Parameters
    ----------
    clean, noise : (n,). Of an enhanced signal the noise is enhanced minus clean.

    Returns
    -------
    (L,) float32; -50 where `clean` is silent, 30 where only `noise` is.
    """
    s, v = frame_rms(clean), frame_rms(noise)
    ratio = 20 * np.log10(np.maximum(s, 1e-10)) - 20 * np.log10(np.maximum(v, 1e-10))
    ratio = np.where(s <= 1e-10, SNR_RANGE_DB[0], ratio)
    return np.clip(ratio, *SNR_RANGE_DB).astype(np.float32)


def windows(seconds: float, samples: int) -> tuple[NDArray[np.int64], int]:
    """Starts (may be negative) and length of the windows centred on every quarter of `seconds`."""
    length = round(seconds * SAMPLE_RATE)
    hop = round(length * (1 - _OVERLAP))
    return np.arange(0, samples + hop, hop, dtype=np.int64) - length // 2, length


def to_frames(values: ArrayLike, seconds: float, frames: int) -> Float32:
    """Window values -> frame values, interpolated with a squared Hann window.

    Parameters
    ----------
    values : one a window of `windows(seconds, ...)`; NaN counts for nothing.
    seconds : length of a window.
    frames : how many to give.

    Returns
    -------
    (L,) float32: sum_k h((t - c_k) / T)^2 v_k / sum_k h((t - c_k) / T)^2 with the Hann window
    h(u) = cos(pi u)^2, |u| < 1/2; NaN where no window with a value reaches.
    """
    v = np.asarray(values, np.float64)
    length = seconds * SAMPLE_RATE
    hop = round(length * (1 - _OVERLAP))
    time = np.arange(frames) * HOP
    nearest = np.round(time / hop).astype(np.int64)
    total, weight = np.zeros(frames), np.zeros(frames)
    for k in range(-2, 3):
        window = nearest + k
        inside = (window >= 0) & (window < len(v))
        u = (time - window * hop) / length
        w = np.where(np.abs(u) < 0.5, np.cos(np.pi * u) ** 4, 0.0)
        value = v[np.clip(window, 0, max(len(v) - 1, 0))] if len(v) else np.full(frames, np.nan)
        good = inside & np.isfinite(value) & (w > 1e-6)
        total[good] += w[good] * value[good]
        weight[good] += w[good]
    out = np.full(frames, np.nan, np.float32)
    out[weight > 0] = total[weight > 0] / weight[weight > 0]
    return out


def _cut(x: Float32, start: int, length: int) -> Float32:
    """Samples [start, start + length), zeros outside of the signal."""
    part = x[max(start, 0) : max(start + length, 0)]
    before = max(-start, 0)
    return np.pad(part, (before, length - before - len(part)))


def si_sdr_track(clean: ArrayLike, estimate: ArrayLike) -> Float32:
    """SI-SDR on windows of 1 s with 75 % overlap, up-sampled to frames: (L,) dB, -50..30, or NaN.

    As `auraloss.time.SISDRLoss`: means removed, 1e-8 added to the reference's energy.
    """
    s, e = _whole(clean), _whole(estimate)
    starts, length = windows(SI_SDR_SECONDS, len(s))
    values = np.full(len(starts), np.nan)
    for k, start in enumerate(starts):
        a = _cut(s, int(start), length).astype(np.float64)
        b = _cut(e, int(start), length).astype(np.float64)
        a, b = a - a.mean(), b - b.mean()
        energy = float(a @ a)
        if energy <= 1e-7:  # -110 dBFS over a second: no speech, no ratio
            continue
        target = (float(b @ a) / (energy + 1e-8)) * a
        error = b - target
        ratio = 10 * np.log10((float(target @ target) + 1e-12) / (float(error @ error) + 1e-12))
        values[k] = np.clip(ratio, *SNR_RANGE_DB)
    return to_frames(values, SI_SDR_SECONDS, len(s) // HOP + 1 if len(s) else 0)


def of_scenes(
    clean: ArrayLike, estimate: ArrayLike, scene: NDArray[np.int32]
) -> tuple[Float32, Float32]:
    """SNR and SI-SDR of each scene as a whole, given to all of its frames.

    The SNR is that of the active speech level (`audio.mixing.active_level`) over the error's RMS.

    Parameters
    ----------
    clean, estimate : (n,) samples, float or int16.
    scene : (L,) running number of the scene, -1 outside of any.

    Returns
    -------
    (L,) and (L,) dB, NaN without speech.
    """
    s, e = np.asarray(clean), np.asarray(estimate)
    snr_db, si_sdr_db = (np.full(len(scene), np.nan, np.float32) for _ in range(2))
    edges = np.flatnonzero(np.diff(scene, prepend=-1, append=-1))
    for first, last in pairwise(edges.tolist()):
        part = slice(first * HOP, last * HOP)
        a, b = s[part].astype(np.float64), e[part].astype(np.float64)
        if scene[first] >= 0 and a.any():
            error = np.sqrt(np.mean(np.square(b - a)))
            level = active_level(a.astype(np.float32))
            snr_db[first:last] = 20 * np.log10((level + 1e-20) / (error + 1e-20))
            si_sdr_db[first:last] = si_sdr(a, b)
    return snr_db, si_sdr_db


def _pesq_pair(pair: tuple[Float32, Float32]) -> float:
    silence = np.zeros(round(PESQ_PADDING_SECONDS * SAMPLE_RATE), np.float32)
    s, e = (np.concatenate([silence, x, silence]) for x in pair)
    try:
        return pesq_wb(s, e)
    except MetricError:
        return float("nan")


def pesq_track(
    clean: ArrayLike, estimate: ArrayLike, speech: NDArray[np.bool_] | None = None, jobs: int = 1
) -> Float32:
    """Wideband PESQ on windows of 3 s with 75 % overlap, up-sampled to frames: (L,), 1.04..4.64.

    Parameters
    ----------
    clean, estimate : (n,) at 16 kHz; each window gets 0.5 s of silence on both ends.
    speech : (L,) voice activity; windows without any are not scored (NaN).
    jobs : worker processes.
    """
    s, e = _whole(clean), _whole(estimate)
    frames = len(s) // HOP + 1 if len(s) else 0
    starts, length = windows(PESQ_SECONDS, len(s))
    active = np.ones(frames, np.bool_) if speech is None else speech
    wanted = [
        k
        for k, start in enumerate(starts)
        if active[max(int(start) // HOP, 0) : max(int(start) + length, 0) // HOP + 1].any()
    ]

    def pairs() -> Iterator[tuple[Float32, Float32]]:
        for k in wanted:
            start = int(starts[k])
            yield _cut(s, start, length), _cut(e, start, length)

    values = np.full(len(starts), np.nan)
    values[wanted] = list(_map(pairs(), jobs))
    return to_frames(values, PESQ_SECONDS, frames)


def _map(pairs: Iterable[tuple[Float32, Float32]], jobs: int) -> Iterator[float]:
    if jobs <= 1:
        yield from map(_pesq_pair, pairs)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_pesq_pair, pairs, chunksize=32)


def fundamental(clean: ArrayLike) -> Float32:
    """Fundamental frequency of the clean speech in Hz, 0 where unvoiced: (L,) float32.

    WORLD's DIO (71..800 Hz) refined by StoneMask, a frame period of 16 ms. Long signals go in
    pieces of a minute with a second of margin, so that memory does not grow with them.
    """
    pyworld = package("pyworld")
    x = _whole(clean)
    frames = len(x) // HOP + 1 if len(x) else 0
    out = np.zeros(frames, np.float32)
    piece, margin = (round(s * SAMPLE_RATE / HOP) for s in (_F0_PIECE_S, _F0_MARGIN_S))
    for first in range(0, frames, piece):
        low, high = max(first - margin, 0), min(first + piece + margin, frames)
        part = x[low * HOP : high * HOP].astype(np.float64)
        if not part.any():
            continue
        f0, time = pyworld.dio(part, SAMPLE_RATE, frame_period=1000 * HOP / SAMPLE_RATE)
        f0 = pyworld.stonemask(part, f0, time, SAMPLE_RATE)
        mine = f0[first - low : first - low + piece]
        mine = mine[: frames - first]
        out[first : first + len(mine)] = mine
    return out
