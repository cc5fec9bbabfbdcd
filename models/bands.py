"""Bands that pool the STFT's bins, shared by the network and the engine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..audio.stft import BINS


def band_weights(bands: int, linear: int, bins: int = BINS) -> NDArray[np.float64]:
    """Triangular interpolation from bands to bins: (bins, bands), rows summing to 1.

    The first `linear` bands are single bins; the centres of the others are spaced evenly on a
    logarithmic scale up to the last bin, at least one bin apart, or a band would hold no bin.
    A band mask in [0, 1] thus gives a bin mask in [0, 1].
    """
    if bands >= bins:
        return np.eye(bins)
    ratio = ((bins - 1) / (linear - 1)) ** (1 / (bands - linear))
    centres = np.arange(bands, dtype=np.float64)
    centres[linear:] = (linear - 1) * ratio ** np.arange(1, bands - linear + 1)
    for i in range(linear, bands):
        centres[i] = max(centres[i], centres[i - 1] + 1)
    for i in range(bands - 1, linear - 1, -1):
        centres[i] = min(centres[i], bins - 1 - (bands - 1 - i))
    position = np.arange(bins, dtype=np.float64)
    right = np.clip(np.searchsorted(centres, position), 1, bands - 1)
    weight = (position - centres[right - 1]) / (centres[right] - centres[right - 1])
    matrix = np.zeros((bins, bands))
    matrix[np.arange(bins), right] = weight
    matrix[np.arange(bins), right - 1] += 1 - weight
    return matrix
