"""`dynse probe --plot`: spectrograms before and after, what the probes say, the gates (Fig. 2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.resampling import StreamResampler
from ..audio.stft import BINS, SAMPLE_RATE, Analysis
from .plot import Decimator, save_picture


class _Spectrogram:
    """Power of the STFT's bins over time of what is pushed, mixed down to 16 kHz mono."""

    def __init__(self, sample_rate: int):
        self._resampler, self._analysis = StreamResampler(sample_rate, SAMPLE_RATE, 1), Analysis()
        self._power = Decimator()

    def push(self, block: NDArray[Any]) -> None:
        self._take(self._resampler.feed(block.mean(axis=1, keepdims=True, dtype=np.float32)))

    def _take(self, samples: NDArray[np.float32]) -> None:
        self._power.push(np.abs(self._analysis.feed(samples[:, 0])) ** 2)

    def end(self) -> Decimator:
        self._take(self._resampler.flush())
        last = np.abs(self._analysis.flush()) ** 2
        # An empty recording has no frames, but a picture all the same.
        self._power.push(last if len(last) else np.zeros((0, BINS)))
        return self._power


class Picture:
    """Collects a picture while a recording passes by.

    Attributes
    ----------
    gates : to be fed with (L, I * C) gates.
    """

    def __init__(self, sample_rate: int):
        self._before, self._after = _Spectrogram(sample_rate), _Spectrogram(sample_rate)
        self.gates = Decimator()

    def push(self, before: NDArray[Any], after: NDArray[Any]) -> None:
        """Take (n, channels) blocks of input and output, not necessarily of one length."""
        self._before.push(before)
        self._after.push(after)

    def draw(self, picture: str, report: dict[str, Any], overwrite: bool = False) -> None:
        """Write the picture; its suffix names the format. `report` must hold frames.

        Raises
        ------
        ExistsError, UnwritableError
            The file cannot be written.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 10), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(6, 1, sharex=True, height_ratios=(3, 3, 1, 1.3, 1.3, 3))
        images = [part.end() for part in (self._before, self._after)]
        levels = [10 * np.log10(image.image() + 1e-12) for image in images]
        top = max(level.max() for level in levels)
        for axis, level, image, title in zip(
            axes, levels, images, ("input", "enhanced"), strict=False
        ):
            length = level.shape[1] * image.seconds_a_column
            axis.imshow(
                level, origin="lower", aspect="auto", cmap="magma", vmin=top - 80, vmax=top,
                extent=(0, length, 0, SAMPLE_RATE / 2000), interpolation="nearest",
            )  # fmt: skip
            axis.set_ylabel("kHz")
            axis.set_title(title, fontsize=9, loc="left")
        tracks = report["frames"]
        time = np.arange(len(tracks["vad"])) * tracks["hop_s"]

        def values(name: str) -> NDArray[np.float64]:
            return np.array([np.nan if x is None else x for x in tracks[name]], np.float64)

        axes[2].plot(time, values("vad_probability"), lw=0.7)
        for segment in report["vad"]["segments"]:
            axes[2].axvspan(
                segment["start_s"], segment["end_s"], color="tab:green", alpha=0.2, lw=0
            )
        axes[2].set_ylim(0, 1)
        axes[2].set_ylabel("speech")
        axes[3].plot(time, values("snr_db"), lw=0.7, label="SNR")
        axes[3].plot(time, values("si_sdr_db"), lw=0.9, label="SI-SDR")
        axes[3].set_ylabel("dB")
        axes[3].legend(fontsize=7, loc="upper right")
        axes[4].plot(time, values("f0_hz"), ".", ms=2)
        axes[4].set_ylabel("F0, Hz")
        opened = self.gates.image()
        axes[5].imshow(
            opened, aspect="auto", cmap="Greys", vmin=0, vmax=1, interpolation="nearest",
            extent=(0, opened.shape[1] * self.gates.seconds_a_column, len(opened), 0),
        )  # fmt: skip
        axes[5].set_ylabel("gate")
        axes[5].set_xlabel("s")
        axes[5].set_title(f"open gates (black), mean {opened.mean():.2f}", fontsize=9, loc="left")
        save_picture(figure, picture, overwrite)
