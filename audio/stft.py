"""The one analysis/synthesis pair: a square-root Hann STFT, streaming by nature, sample-aligned.

Frame `l` covers the samples `[(l-1)*HOP, (l+1)*HOP)` of the signal, its centre is sample `l*HOP`;
`HOP` zeros are thought before the first sample and as many as needed after the last. A signal of
`n > 0` samples has `ceil(n/HOP) + 1` frames, an empty one has none.

Guarantees: `Synthesis(Analysis(x))` is `x` to float32 rounding, with exactly as many samples; the
output is bit-identical however the input is cut. The latter rests on numpy's FFT treating each
row by itself (scipy's packs rows into SIMD lanes); tests/audio/test_stft.py asserts it.
Whole arrays take the same path (`analyse`, `synthesise`): there is no second implementation.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BINS",
    "HOP",
    "SAMPLE_RATE",
    "WINDOW",
    "Analysis",
    "Synthesis",
    "analyse",
    "frame_count",
    "synthesise",
    "window",
]

SAMPLE_RATE = 16000
WINDOW = 512
HOP = 256
BINS = WINDOW // 2 + 1

Float32 = NDArray[np.float32]
Complex64 = NDArray[np.complex64]


@lru_cache(maxsize=1)
def window() -> Float32:
    """Return the square root of the periodic Hann window, read-only float32 `(WINDOW,)`.

    Its squares, `HOP` apart, add up to one.
    """
    # sqrt(0.5 - 0.5 cos(2 pi i / N)) = sin(pi i / N)
    w = np.sin(np.pi * np.arange(WINDOW) / WINDOW).astype(np.float32)
    w.setflags(write=False)
    return w


def frame_count(samples: int) -> int:
    """Return the number of frames of a signal of `samples` samples."""
    return -(-samples // HOP) + 1 if samples else 0


def _shape(channels: int | None) -> tuple[int, ...]:
    return () if channels is None else (channels,)


def _check(x: NDArray[Any], tail: tuple[int, ...], what: str) -> None:
    if x.shape[1:] != tail or x.ndim != 1 + len(tail):
        raise ValueError(f"{what}: got shape {x.shape}, want (n, {', '.join(map(str, tail))})")


class Analysis:
    """Samples in, frames out, as soon as their last sample is there.

    Parameters
    ----------
    channels : int, optional
        None takes `(n,)` and gives `(l, BINS)`; a number takes `(n, channels)` and gives
        `(l, channels, BINS)`.

    Attributes
    ----------
    samples : int
        Samples fed so far; `Synthesis.flush` wants it at the end.
    """

    def __init__(self, channels: int | None = None) -> None:
        self._tail = _shape(channels)
        self._rest: Float32 = np.zeros((HOP, *self._tail), np.float32)
        self.samples = 0

    def feed(self, x: NDArray[Any]) -> Complex64:
        """Take the next samples, give the frames that they complete.

        Parameters
        ----------
        x : float32 `(n,)` or `(n, channels)`
            16 kHz samples, any `n`, finite.

        Returns
        -------
        complex64 `(l, BINS)` or `(l, channels, BINS)`, `l >= 0`

        Raises
        ------
        ValueError
            If the shape is not the one agreed on.
        """
        x = np.asarray(x, np.float32)
        _check(x, self._tail, "samples")
        self.samples += len(x)
        return self._frames(x)

    def flush(self) -> Complex64:
        """Give the frames left (none, one or two), zeros behind the last sample; nothing after."""
        # Frames given so far: samples // HOP; each one more takes HOP more samples.
        missing = max(frame_count(self.samples) * HOP - self.samples, 0)
        frames = self._frames(np.zeros((missing, *self._tail), np.float32))
        self._rest = self._rest[:0]
        return frames

    def _frames(self, x: Float32) -> Complex64:
        buffer = np.concatenate((self._rest, x))
        count = max(len(buffer) // HOP - 1, 0)
        self._rest = buffer[count * HOP :].copy()
        if not count:
            return np.zeros((0, *self._tail, BINS), np.complex64)
        hops = buffer[: (count + 1) * HOP].reshape(count + 1, HOP, *self._tail)
        pieces = np.concatenate((hops[:-1], hops[1:]), axis=1)  # (l, WINDOW, ...)
        if self._tail:
            pieces = np.moveaxis(pieces, 1, -1)
        # numpy < 2 computes in double precision whatever comes in.
        return np.fft.rfft(pieces * window()).astype(np.complex64, copy=False)


class Synthesis:
    """Frames in, samples out, by windowed overlap-add.

    Frame `l` completes the samples `[(l-1)*HOP, l*HOP)`; the first frame completes only the
    zeros thought before the signal, which are not given out.

    Parameters
    ----------
    channels : int, optional
        As in `Analysis`.
    """

    def __init__(self, channels: int | None = None) -> None:
        self._tail = _shape(channels)
        self._overlap: Float32 | None = None
        self._given = 0

    def feed(self, frames: NDArray[Any]) -> Float32:
        """Take the next frames, give the samples that they complete.

        Parameters
        ----------
        frames : complex64 `(l, BINS)` or `(l, channels, BINS)`

        Returns
        -------
        float32 `(n,)` or `(n, channels)`, `n` a multiple of `HOP`

        Raises
        ------
        ValueError
            If the shape is not the one agreed on.
        """
        frames = np.asarray(frames, np.complex64)
        _check(frames, (*self._tail, BINS), "frames")
        if not len(frames):
            return np.zeros((0, *self._tail), np.float32)
        pieces = np.fft.irfft(frames, WINDOW).astype(np.float32, copy=False) * window()
        hops = pieces[..., :HOP]
        hops[1:] += pieces[:-1, ..., HOP:]
        if self._overlap is None:
            hops = hops[1:]
        else:
            hops[0] += self._overlap
        self._overlap = pieces[-1, ..., HOP:].copy()
        # In time order: (l, HOP, ...).
        ordered = np.moveaxis(hops, -1, 1) if self._tail else hops
        samples = ordered.reshape(-1, *self._tail)
        self._given += len(samples)
        return samples

    def flush(self, frames: NDArray[Any], samples: int) -> Float32:
        """Take the last frames, give the last samples, `samples` in all since the beginning.

        Parameters
        ----------
        frames : complex64 `(l, BINS)` or `(l, channels, BINS)`
            What `Analysis.flush` gave, after processing.
        samples : int
            Length of the whole signal, `Analysis.samples`.
        """
        left = samples - self._given
        return self.feed(frames)[: max(left, 0)]


def analyse(x: NDArray[Any]) -> Complex64:
    """Return all frames of a whole signal, `(n,)` or `(n, channels)`; see `Analysis`."""
    analysis = Analysis(None if x.ndim == 1 else x.shape[1])
    return np.concatenate((analysis.feed(x), analysis.flush()))


def synthesise(frames: NDArray[Any], samples: int) -> Float32:
    """Return the `samples` samples that belong to all frames of a signal; see `Synthesis`."""
    return Synthesis(None if frames.ndim == 2 else frames.shape[1]).flush(frames, samples)
