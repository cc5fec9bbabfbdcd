"""Rates other than 16 kHz: a streaming resampler, and the bands that the model does not see.

Guarantees: sample-aligned with the input, exact lengths, bounded memory, and bit-identical
output however the input is cut (soxr keeps that by itself; tests/audio/test_resampling.py
asserts it).
"""

from __future__ import annotations

from collections import deque
from typing import Any, Literal

import numpy as np
import soxr
from numpy.typing import NDArray

from .stft import HOP, SAMPLE_RATE

__all__ = ["MAX_RATE", "MIN_RATE", "BandMode", "Bands", "StreamResampler", "resampled_length"]

MIN_RATE = 4000
MAX_RATE = 384000

BandMode = Literal["model", "keep", "drop"]
Float32 = NDArray[np.float32]


def resampled_length(n: int, rate_in: int, rate_out: int) -> int:
    """Return the length of `n` samples at `rate_in` once at `rate_out`: rounded, halves up."""
    return (2 * n * rate_out + rate_in) // (2 * rate_in)


class StreamResampler:
    """Resample blocks of any length; what was at time t stays at time t.

    Parameters
    ----------
    rate_in, rate_out : int
        Hz, `MIN_RATE` to `MAX_RATE`. Equal rates pass the samples through untouched.
    channels : int

    Raises
    ------
    ValueError
        If a rate is out of range.
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int) -> None:
        for rate in (rate_in, rate_out):
            if not MIN_RATE <= rate <= MAX_RATE:
                raise ValueError(f"rate {rate} Hz, allowed are {MIN_RATE}..{MAX_RATE} Hz")
        self._ratio = rate_in, rate_out
        self._channels = channels
        # HQ (20 bit) over VHQ: half the delay; where it matters, `Bands` is exact by other means.
        self._stream = (
            None
            if rate_in == rate_out
            else soxr.ResampleStream(rate_in, rate_out, channels, dtype="float32", quality="HQ")
        )
        self._taken = self._given = 0

    def feed(self, x: NDArray[Any]) -> Float32:
        """Take `(n, channels)` float32 samples, give the `(m, channels)` that are ready."""
        x = np.ascontiguousarray(x, np.float32)
        if x.ndim != 2 or x.shape[1] != self._channels:
            raise ValueError(f"samples: got shape {x.shape}, want (n, {self._channels})")
        self._taken += len(x)
        y = x if self._stream is None or not len(x) else self._stream.resample_chunk(x)
        self._given += len(y)
        return y

    def flush(self) -> Float32:
        """Give the samples left, `resampled_length(fed, ...)` in all; feed nothing after it."""
        missing = resampled_length(self._taken, *self._ratio) - self._given
        nothing = np.zeros((0, self._channels), np.float32)
        if self._stream is None or not self._taken:
            return nothing
        y = self._stream.resample_chunk(nothing, last=True)[:missing]
        self._given += missing
        return np.pad(y, ((0, missing - len(y)), (0, 0)))


class _Queue:
    """First in, first out, over rows of arrays."""

    def __init__(self, empty: NDArray[Any]) -> None:
        self._empty = empty
        self._parts: deque[NDArray[Any]] = deque()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, rows: NDArray[Any]) -> None:
        if len(rows):
            self._parts.append(rows)
            self._length += len(rows)

    def pop(self, n: int) -> NDArray[Any]:
        taken, missing = [], n
        while missing:
            part = self._parts.popleft()
            if len(part) > missing:
                self._parts.appendleft(part[missing:])
                part = part[:missing]
            taken.append(part)
            missing -= len(part)
        self._length -= n
        if len(taken) == 1:
            return taken[0]
        return np.concatenate(taken) if taken else self._empty


class Bands:
    """Split a recording at any rate into a 16 kHz signal and the rest, and put them together.

    The model sees `low = down(x)`. With `e` the enhanced low band, `up` the resampler back and
    `g` the gain for what `low` does not hold (the band above 8 kHz),

        y = up(e) + g (x - up(low))  =  g x + up(e - g low)

    the second form since `up` is linear and `g`, known once a hop, slow against its kernel: one
    resampler instead of two, and with `e == low` and `g == 1` the output *is* the input.
    Below 16 kHz "the rest" is only the edge that the resampler takes off under Nyquist; at
    16 kHz there is none and the output is `e`.

    Blocks wait inside until their counterpart is there, so callers need not know any delay::

        for block in blocks:
            low = bands.split(block)
            enhanced, gains = ...          # any lengths, later is fine
            write(bands.merge(enhanced, gains))
        low = bands.end_split()
        ...
        write(bands.merge(enhanced, gains))
        write(bands.end_merge())

    Parameters
    ----------
    rate : int
        Hz, of the recording.
    channels : int
    mode : {"model", "keep", "drop"}
        `g` is the gain given to `merge`, 1, or 0.

    Raises
    ------
    ValueError
        If the rate is out of range or the mode unknown.
    """

    def __init__(self, rate: int, channels: int, mode: BandMode = "model") -> None:
        if mode not in ("model", "keep", "drop"):
            raise ValueError(f"mode {mode!r}, known are 'model', 'keep', 'drop'")
        self._rate = rate
        self._channels = channels
        self._mode = mode
        self._down = StreamResampler(rate, SAMPLE_RATE, channels)
        self._up = StreamResampler(SAMPLE_RATE, rate, channels)
        empty = np.zeros((0, channels), np.float32)
        self._original, self._low = _Queue(empty), _Queue(empty)
        self._enhanced, self._change = _Queue(empty), _Queue(empty)
        self._gains = np.zeros((0, 1), np.float32)
        self._first_gain = 0  # hop of self._gains[0]
        self._merged = self._given = 0  # samples at 16 kHz, at the rate

    def split(self, block: NDArray[Any]) -> Float32:
        """Take `(n, channels)` samples at the rate, give the `(m, channels)` at 16 kHz ready."""
        low = self._down.feed(block)
        self._original.push(block)
        self._low.push(low)
        return low

    def end_split(self) -> Float32:
        """Give what is left at 16 kHz; `resampled_length(n, rate, 16000)` samples in all."""
        low = self._down.flush()
        self._low.push(low)
        return low

    def merge(self, enhanced: NDArray[Any], gains: NDArray[Any] | None = None) -> NDArray[Any]:
        """Take enhanced samples and gains, give what is ready at the recording's rate.

        Parameters
        ----------
        enhanced : float32 `(m, channels)`
            The next samples at 16 kHz, aligned with what `split` gave.
        gains : float32 `(l,)` or `(l, channels)`, optional
            The next gains, one a STFT frame: gain `l` holds at 16 kHz sample `l*HOP`, between
            them it runs straight. Only mode "model" reads them.

        Returns
        -------
        `(n, channels)` of the dtype given to `split`, aligned with it

        Raises
        ------
        ValueError
            If `enhanced` runs ahead of what `split` gave, or a shape is wrong.
        """
        enhanced = np.asarray(enhanced, np.float32)
        if enhanced.ndim != 2 or enhanced.shape[1] != self._channels:
            raise ValueError(f"enhanced: got shape {enhanced.shape}, want (m, {self._channels})")
        self._enhanced.push(enhanced)
        if len(self._enhanced) > len(self._low):
            raise ValueError("enhanced: more samples than split gave")
        if gains is not None and self._mode == "model":
            gains = np.asarray(gains, np.float32)
            new = gains[:, None] if gains.ndim == 1 else gains
            self._gains = np.concatenate((self._gains, new)) if len(self._gains) else new.copy()
        return self._advance(end=False)

    def end_merge(self) -> NDArray[Any]:
        """Give the samples left, as many in all as `split` took.

        Raises
        ------
        ValueError
            If enhanced samples or, in mode "model", gains are missing.
        """
        if len(self._enhanced) != len(self._low):
            raise ValueError(f"enhanced: {len(self._low) - len(self._enhanced)} samples missing")
        return self._advance(end=True)

    def _advance(self, end: bool) -> NDArray[Any]:
        if self._rate == SAMPLE_RATE:
            return self._advance_same()
        n = len(self._enhanced)
        if self._mode == "model" and not end:
            known = (self._first_gain + len(self._gains) - 1) * HOP - self._merged
            n = max(min(n, known), 0)
        low, enhanced = self._low.pop(n), self._enhanced.pop(n)
        self._change.push(self._up.feed(enhanced - self._gain(self._merged, n, SAMPLE_RATE) * low))
        self._merged += n
        if end and len(self._original):
            # The 16 kHz signal may end a fraction of a sample early: silence lets up() ring out.
            self._change.push(self._up.feed(np.zeros((2, self._channels), np.float32)))
            self._change.push(self._up.flush())
        m = min(len(self._change), len(self._original))
        gain = self._gain(self._given, m, self._rate)
        self._given += m
        hops_done = min(self._given * SAMPLE_RATE // (self._rate * HOP), self._merged // HOP)
        drop = min(hops_done - self._first_gain, len(self._gains) - 1)
        if drop > 0:
            self._gains = self._gains[drop:]
            self._first_gain += drop
        y: NDArray[Any] = gain * self._original.pop(m) + self._change.pop(m)
        return y

    def _advance_same(self) -> NDArray[Any]:
        n = len(self._enhanced)
        x, low, enhanced = self._original.pop(n), self._low.pop(n), self._enhanced.pop(n)
        # Double precision input that the model leaves alone must come out as it was.
        return enhanced if x.dtype == np.float32 else x + (enhanced - low)

    def _gain(self, start: int, n: int, rate: int) -> Float32 | np.float32:
        """Gain at samples `start..start+n-1` of a signal at `rate`, `(n, 1 or channels)`."""
        if self._mode != "model":
            return np.float32(self._mode == "keep")
        if not n:
            return np.zeros((0, 1), np.float32)
        if not len(self._gains) and rate != SAMPLE_RATE and not self._merged:
            return np.float32(1)  # too short for one sample at 16 kHz: the model has seen nothing
        if not len(self._gains):
            raise ValueError("gains: none came; mode 'model' wants one a STFT frame")
        # Whole numbers, so that a sample's gain does not depend on where its block began.
        hop, part = np.divmod(np.arange(start, start + n) * SAMPLE_RATE, rate * HOP)
        part = (part / (rate * HOP)).astype(np.float32)[:, None]
        at = np.minimum(hop - self._first_gain, len(self._gains) - 1)
        after = np.minimum(at + 1, len(self._gains) - 1)
        gain: Float32 = self._gains[at] * (1 - part) + self._gains[after] * part
        return gain
