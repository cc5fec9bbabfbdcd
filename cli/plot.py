"""`--plot`: spectrograms before and after, and the channels that were active, as one picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.errors import UnwritableError
from ..audio.io import open_reader
from ..audio.parts import PartFile
from ..audio.resampling import StreamResampler
from ..audio.stft import HOP, SAMPLE_RATE, Analysis
from .choices import picture_format

_COLUMNS = 1000


class Decimator:
    """Mean over time of any number of rows, in at most 2 * `columns` columns.

    Rows are averaged in groups that double whenever there are too many, so that an hour takes the
    memory of a minute.
    """

    def __init__(self, columns: int = _COLUMNS):
        self._columns, self._group = columns, 1
        self._sums: list[NDArray[np.float64]] = []
        self._rest: list[NDArray[Any]] = []

    def push(self, rows: NDArray[Any]) -> None:
        """Append (n, features) rows."""
        waiting = np.concatenate([*self._rest, rows])
        whole = len(waiting) // self._group
        groups = waiting[: whole * self._group].reshape(whole, self._group, rows.shape[1])
        self._sums += list(groups.sum(axis=1, dtype=np.float64))
        self._rest = [waiting[whole * self._group :]]
        while len(self._sums) >= 2 * self._columns:
            pairs = self._sums[: len(self._sums) // 2 * 2]
            if len(self._sums) % 2:
                # The odd group goes back to wait for the other half of its new group.
                last = np.tile(self._sums[-1] / self._group, (self._group, 1))
                self._rest.insert(0, last)
            self._sums = [a + b for a, b in zip(pairs[::2], pairs[1::2], strict=True)]
            self._group *= 2

    @property
    def seconds_a_column(self) -> float:
        """Seconds that one column stands for, where rows are STFT frames."""
        return self._group * HOP / SAMPLE_RATE

    def image(self) -> NDArray[np.float64]:
        """(features, columns) means."""
        if not self._sums:
            rest = np.concatenate(self._rest) if self._rest else np.zeros((0, 1))
            return rest.mean(axis=0, keepdims=True).T if len(rest) else np.zeros((1, 1))
        return np.stack(self._sums, axis=1) / self._group


def spectrogram(path: str) -> Decimator:
    """Mean power of the STFT's bins over time, of a recording mixed down to 16 kHz mono."""
    decimator = Decimator()
    with open_reader(path) as reader:
        resampler = StreamResampler(reader.sample_rate, SAMPLE_RATE, 1)
        analysis = Analysis()

        def push(samples: NDArray[np.float32]) -> None:
            frames = analysis.feed(samples[:, 0])
            decimator.push(np.abs(frames) ** 2)

        for block in reader.blocks(reader.sample_rate * 4):
            push(resampler.feed(block.mean(axis=1, keepdims=True, dtype=np.float32)))
        push(resampler.flush())
        decimator.push(np.abs(analysis.flush()) ** 2)
    return decimator


def plot_enhancement(
    picture: str, before: str, after: str, gates: Decimator, overwrite: bool = False
) -> None:
    """Draw `before` and `after`, two recordings, over the share of time each gate was open.

    Parameters
    ----------
    picture : file to write, in the format of `picture_format`.
    before, after : recordings.
    gates : fed with (L, I * C) gates.
    overwrite : whether the picture may exist.

    Raises
    ------
    ExistsError, UnwritableError
        The picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    images = [spectrogram(path) for path in (before, after)]
    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2))
    levels = [10 * np.log10(image.image() + 1e-12) for image in images]
    top = max(level.max() for level in levels)
    for axis, level, image, path in zip(axes, levels, images, (before, after), strict=False):
        length = level.shape[1] * image.seconds_a_column
        drawn = axis.imshow(
            level, origin="lower", aspect="auto", cmap="magma", vmin=top - 80, vmax=top,
            extent=(0, length, 0, SAMPLE_RATE / 2000), interpolation="nearest",
        )  # fmt: skip
        axis.set_ylabel("kHz")
        axis.set_title(Path(path).name, fontsize=10)
    figure.colorbar(drawn, ax=list(axes[:2]), label="dB")
    opened = gates.image()
    axes[2].imshow(
        opened, aspect="auto", cmap="Greys", vmin=0, vmax=1, interpolation="nearest",
        extent=(0, opened.shape[1] * gates.seconds_a_column, len(opened), 0),
    )  # fmt: skip
    axes[2].set_ylabel("gate")
    axes[2].set_xlabel("s")
    axes[2].set_title(f"open gates (black), mean utilisation {opened.mean():.2f}", fontsize=10)
    save_picture(figure, picture, overwrite)


def save_picture(figure: Any, path: str, overwrite: bool) -> None:
    """Write a figure, whole or not at all.

    Raises
    ------
    ExistsError, UnwritableError
        The file cannot be written.
    """
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        part = PartFile(path, overwrite)
        try:
            with open(part.handle, "wb", closefd=False) as file:
                figure.savefig(file, dpi=110, format=picture_format(path))
            part.rename()
        finally:
            part.discard()
    except OSError as error:
        raise UnwritableError(f"it cannot be written: {error.strerror}", path) from error
