"""What a telephone line does to sound."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy import signal

from .stft import SAMPLE_RATE

__all__ = ["TELEPHONE_BAND_HZ", "TELEPHONE_RATE", "telephone_line"]

TELEPHONE_RATE = 8000
TELEPHONE_BAND_HZ = (300, 3400)


def telephone_line(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a telephone makes of (n,) at 16 kHz: (n / 2,) at 8 kHz, in 8 bits of mu-law."""
    sos = signal.butter(8, TELEPHONE_BAND_HZ, "bandpass", fs=SAMPLE_RATE, output="sos")
    y = soxr.resample(signal.sosfiltfilt(sos, x), SAMPLE_RATE, TELEPHONE_RATE).clip(-1, 1)
    # G.711 in its continuous form: 127 steps a side of ln(1 + 255 |y|) / ln 256.
    code = np.round(127 * np.log1p(255 * np.abs(y)) / np.log(256)) / 127
    return np.asarray(np.sign(y) * (256**code - 1) / 255, np.float32)
