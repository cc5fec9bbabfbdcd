"""Several channels as the one spectrum that a model hears."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..audio.stft import BINS, HOP, SAMPLE_RATE

__all__ = ["Link"]

_MEMORY_S = 0.06
"""Time constant of what counts as shared: a compromise (trials). On 80 validation mixtures in
stereo, the noise of one channel being none of the other's, version 10 of dynse-25 reads the noise
category rightly in 0.35, with 0.2 s in 0.36, from the mean power in 0.31 (in 0.44 from one channel
alone); voice activity in 0.934, 0.932 and 0.930. Where talkers take turns, each with delays of
their own to two microphones (up to 1.5 ms), and the noise is the same in both, WB-PESQ is 2.18,
with 0.2 s 2.16, by the mean power 2.21: for a moment the turn is the last talker's."""

_NEW = np.float32(1 - np.exp(-HOP / SAMPLE_RATE / _MEMORY_S))


class Link:
    """(L, c, F) spectra of c channels -> (L, F), the spectrum that they have in common.

    Each further channel is turned to a quarter ahead of those before it, as it has been to them
    lately, and added. What channels share adds up in power so, whatever its phase there: a downmix
    would lose opposite phases. What they do not share, as the noise of two microphones, adds up as
    noise does. The mean of their powers would do the former as well, but of two noises it
    fluctuates less than a noise, which a network that knows single channels takes for a machine.

    The last frames are remembered, so that a signal may come in blocks.

    Parameters
    ----------
    channels : c.
    """

    def __init__(self, channels: int) -> None:
        # Of each further channel: real and imaginary part of its mean product with those before.
        self._shared = np.zeros((channels - 1, 2, BINS), np.float32)
        self._scale = np.float32(channels**-0.5)

    def __call__(self, frames: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """Take the next frames of all channels."""
        # In real numbers: numpy's product of complex ones depends, in the last bit, on the length
        # of the array, and gates may then depend on how a signal is cut.
        real, imag = frames[:, 0].real, frames[:, 0].imag
        for c, shared in enumerate(self._shared, 1):
            x, y = frames[:, c].real, frames[:, c].imag
            both = np.stack([real * x + imag * y, imag * x - real * y], axis=1)
            for product in both:
                shared += _NEW * (product - shared)
                product[:] = shared
            cos, sin = both[:, 0], both[:, 1]
            size = np.hypot(cos, sin)
            known = size > 0
            cos = np.divide(cos, size, out=np.ones_like(size), where=known)
            sin = np.divide(sin, size, out=np.zeros_like(size), where=known)
            real, imag = real - (sin * x + cos * y), imag + (cos * x - sin * y)
        heard = np.empty(real.shape, np.complex64)
        heard.real, heard.imag = real * self._scale, imag * self._scale
        return heard
